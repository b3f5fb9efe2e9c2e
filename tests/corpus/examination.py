"""Take a host through one shape: before setup, after it, and after its undo; judge all three."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tests.corpus.host import CorpusHost
from tests.corpus.mail import Fate
from tests.corpus.shape import Shape
from tests.parts.doctor import examine


@dataclass(frozen=True)
class State:
    """What doctor says of a host, and what mail really does there."""

    failures: tuple[str, ...]
    """The checks of doctor that failed."""
    lists: Mapping[str, Fate]
    others: Mapping[str, Fate]

    @property
    def flows(self) -> bool:
        """Whether Mailman got every message to the list."""
        return {fate.kind for fate in self.lists.values()} == {"sent"}

    @property
    def mail(self) -> str:
        """Say what became of list mail in a few words."""
        kinds = Counter(fate.kind for fate in self.lists.values())
        if len(kinds) == 1:
            return "flows" if self.flows else next(iter(kinds))
        return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))

    @property
    def disagreement(self) -> str:
        """Say how doctor's verdict differs from what mail does; empty if it does not."""
        if self.flows == (not self.failures):
            return ""
        stuck = {name: str(fate) for name, fate in self.lists.items() if fate.kind != "sent"}
        return f"doctor's failures: {self.failures}; list mail: {self.mail}; not sent: {stuck}"

    def __str__(self) -> str:
        """Return a cell of the table."""
        verdict = "failure" if self.failures else "ok"
        return f"{verdict}/{self.mail}{'  !' if self.disagreement else ''}"


PHASES = ("before", "after", "undone", "others", "undo")
"""What can be wrong: doctor's verdict before setup and after it; the state after the undo (it must
be the one before setup); the mail of others after setup; main.cf after the undo."""


@dataclass(frozen=True)
class Result:
    """All that was seen of one shape."""

    domain: str
    """The list's."""
    before: State
    after: State
    undone: State
    setup: int
    """Exit status of setup."""
    once: int
    """Exit status of the sync after it."""
    undo_is_exact: bool

    @property
    def changed(self) -> dict[str, str]:
        """Find the other mail that setup has changed: message to what became of it.

        If this host was not responsible for the list's domain, unknown addresses are rejected.
        """
        return {
            name: text
            for name, text in _changed(self.before, self.after).items()
            if not _is_fresh(name, self.before, self.after, self.domain)
        }

    @property
    def wrong(self) -> dict[str, str]:
        """Find the phases that are wrong, and how."""
        changed = _changed(self.before, self.undone)
        if (self.undone.mail, not self.undone.failures) != (
            self.before.mail,
            not self.before.failures,
        ):
            changed["list mail"] = f"{self.before} -> {self.undone}"
        found = {
            "before": self.before.disagreement,
            "after": self.after.disagreement,
            "undone": str(changed or ""),
            "others": str(self.changed or ""),
            "undo": "" if self.undo_is_exact else "main.cf is not as before setup",
        }
        return {phase: text for phase, text in found.items() if text}

    @property
    def row(self) -> str:
        """Return the cells of the table."""
        done = "" if (self.setup, self.once) == (0, 0) else f" ({self.setup}, {self.once})"
        cells = (
            f"{self.before!s:<34}",
            f"{f'{self.after}{done}':<44}",
            f"{self.undone!s:<34}",
            f"{'changed  !' if self.changed else 'same':<10}",
            "exact" if self.undo_is_exact else "not exact  !",
        )
        return " | ".join(cells)


HEAD = " | ".join(
    (
        f"{'shape, class':<46}",
        f"{'before: doctor/mail':<34}",
        f"{'after setup (exit status, of --once)':<44}",
        f"{'after undo':<34}",
        f"{'others':<10}",
        "undo",
    )
)
"""The head of the table."""


def _changed(before: State, after: State) -> dict[str, str]:
    return {
        name: f"{fate} -> {after.others[name]}"
        for name, fate in before.others.items()
        if not fate.same_for_sender(after.others[name])
    }


def _is_fresh(name: str, before: State, after: State, domain: str) -> bool:
    """Whether this host was not responsible for the list's domain, and now rejects an address."""
    recipient = name.partition(" ")[0]
    return (
        recipient.endswith(f"@{domain}")
        and before.others[f"{recipient} from outside"].denied
        and after.others[name].kind == "refused"
    )


def take_through(host: CorpusHost, shape: Shape, list_class: str) -> Result:
    """Do it, and see."""
    host.begin(shape, list_class)
    host.site.call("--once")
    before, text = _state(host, shape), host.main_cf
    setup = host.setup("--yes")
    once = host.site.call("--once").returncode
    after = _state(host, shape)
    if host.main_cf == text:
        return Result(shape.domain, before, after, before, setup, once, undo_is_exact=True)
    host.setup("--undo", "--yes")
    undone = _state(host, shape)
    return Result(shape.domain, before, after, undone, setup, once, host.main_cf == text)


def _state(host: CorpusHost, shape: Shape) -> State:
    host.empty_queue()
    checks = examine(host.site).checks
    failures = tuple(name for name, check in checks.items() if check["status"] == "failure")
    return State(failures, host.list_mail(shape), host.other_mail(shape))
