"""The result of a probe. Pure."""

from dataclasses import dataclass

from postfix_sync.model.destination import Destination

PHASES = ("resolve", "connect", "greeting", "lhlo", "mail", "rcpt")
"""The phases of a probe, in order."""


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe of one destination; `phase` is the last phase that it reached.

    `seconds` is the duration of the probe.
    """

    destination: Destination
    up: bool
    phase: str
    reply: str
    seconds: float
    error: str = ""
    warning: str = ""
    """What should be checked about a destination that is up."""
    offers: tuple[str, ...] = ()
    """The service extensions that the server offers in its reply to LHLO, in upper case, each with
    its parameters."""
    returned: bool = False
    """Whether Postfix returns mail for it to its sender, instead of trying again later."""
    hint: str = ""
    """What to do about it, if the phase does not say that."""
