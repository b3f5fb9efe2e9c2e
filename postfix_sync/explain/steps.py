"""What happens to mail for an address, step by step, and the verdict. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from postfix_sync.text import iso

ASKED, COMPUTED = "asked", "computed"

STEPS = (
    "smtpd",
    "filter",
    "canonical",
    "masquerade",
    "virtual_alias",
    "class",
    "recipient",
    "transport",
    "resolve",
    "lmtp",
)
"""The steps in Postfix's order."""


REWRITING = ("canonical", "masquerade", "virtual_alias")
"""The steps that make another address of the recipient."""


class Verdict(Enum):
    """What happens to mail for an address."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """It is refused by SMTP, or accepted and returned to its sender."""
    DEFERRED = "deferred"
    DIVERTED = "diverted"
    """It is for a list, and is delivered elsewhere than to the list's Mailman."""
    UNKNOWN = "unknown"
    """Something that decides could not be asked."""


@dataclass(frozen=True)
class Step:
    """One step: what was asked, and what was found."""

    step: str
    asked: str
    found: str
    by: str = ""
    """The parameter, file, table or entry that is responsible."""
    how: str = ASKED
    ok: bool | None = True
    """Whether mail goes on to the list's Mailman after it; None if that is unknown."""
    outcome: Verdict | None = None
    """What becomes of the mail if this step ends its way; UNKNOWN if that can't be determined."""
    service: str = ""
    """Where in master.cf the mail arrives; empty for the public listener, or all services."""


@dataclass(frozen=True)
class Explanation:
    """What happens to mail for one address."""

    address: str
    steps: tuple[Step, ...]
    reply: str = ""
    """The public listener's reply to RCPT; empty if it gave none."""
    source: str | None = None
    """The source that has the list; None if the address is not a list's."""
    destination: str = ""
    """The transport and next hop that Postfix uses."""
    queued: int = 0
    """How many messages are queued for the address."""
    since: float | None = None
    """Since when the list is installed at the latest, in seconds since the epoch."""
    held: int | None = None
    """The held generation."""

    @property
    def verdict(self) -> Verdict:
        """Return what happens to the mail: the first step that ends its way decides."""
        decisive = self.decisive
        return decisive.outcome if decisive and decisive.outcome else Verdict.DELIVERED

    @property
    def decisive(self) -> Step | None:
        """Return the first step that ends the way of the mail, if any does."""
        return next(iter(self._ends), None)

    @property
    def obstacle(self) -> Step | None:
        """Return the first step that is known to keep the mail from where it should go."""
        return next((step for step in self._ends if step.outcome is not Verdict.UNKNOWN), None)

    @property
    def rewritten_by(self) -> Step | None:
        """Return the last step that made another address of the public listener's recipient."""
        made = (step for step in self.steps if step.step in REWRITING and not step.service)
        return next(reversed([*made]), None)

    @property
    def _ends(self) -> list[Step]:
        """Return the steps that end the way of the mail, those of the public listener first."""
        found = (step for step in self.steps if step.outcome)
        return sorted(found, key=lambda step: bool(step.service))


def ordered(steps: Iterable[Step]) -> Sequence[Step]:
    """Return steps in Postfix's order."""
    return sorted(steps, key=lambda step: STEPS.index(step.step))


def as_json(found: Explanation) -> dict[str, object]:
    """Return an explanation as a JSON object."""
    return {
        "address": found.address,
        "verdict": found.verdict.value,
        "reply": found.reply,
        "source": found.source,
        "destination": found.destination,
        "steps": [
            {
                "step": step.step,
                "asked": step.asked,
                "found": step.found,
                "by": step.by,
                "how": step.how,
                "ok": step.ok,
            }
            for step in found.steps
        ],
        "queued": found.queued,
        "since": None if found.since is None else iso(found.since),
        "held": found.held,
    }
