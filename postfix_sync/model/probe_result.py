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
    barred: bool = False
    """Whether all its addresses have an IP version that Postfix must not use, so that Postfix
    returns its mail."""
