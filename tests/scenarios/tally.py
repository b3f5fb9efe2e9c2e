"""What a scenario came to, in numbers."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Tally:
    """Numbers by name; a scenario has a class of its own, with a field for each."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """A line of words."""
        return ", ".join(f"{name} {value}" for name, value in self.as_dict().items())
