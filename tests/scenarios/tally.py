"""The figures of a scenario."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Tally:
    """Figures by name; each scenario has a subclass with a field for each figure."""

    def as_dict(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the figures as one line."""
        return ", ".join(f"{name} {value}" for name, value in self.as_dict().items())
