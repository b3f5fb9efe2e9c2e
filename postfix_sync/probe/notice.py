"""Describe the result of a probe, its consequence for mail, and what to do about it. Pure."""

from postfix_sync.model.notice import Notice
from postfix_sync.model.probe_result import ProbeResult

NOBODY = "postfix-sync/no-such-list"
"""A local part that no list has: Mailman permits no slash in a list's name (app/lifecycle.py)."""


_HINTS = {
    "resolve": "doctor says why, and prints the command that helps; or set sources.address to the"
    " IP address of {host}",
    "connect": "check that Mailman runs and listens on this address: ss -ltn; mailman status",
    "greeting": "something other than Mailman may answer there, such as a container's proxy",
    "lhlo": "compare {host} and its port with lmtp_host and lmtp_port in mailman.cfg",
    "mail": "see Mailman's log: var/logs/lmtp.log and var/logs/mailman.log",
    "rcpt": "check that its database is up, and that this Mailman has the list: mailman lists",
}


def describe(result: ProbeResult) -> Notice:
    """Describe a result; the hint helps if the destination is down, or its replies are odd."""
    endpoint = result.destination.endpoint
    about = f"destination {endpoint}"
    if result.up:
        up = f"{about}: up ({result.phase}: {result.reply}), {result.seconds:g} s"
        if not result.warning:
            return Notice(up)
        hint = _UPDATE if NOBODY in result.warning else _HINTS["greeting"]
        return Notice(f"{up}; but {result.warning}", hint)
    said = f" ({result.reply})" if result.reply else ""
    return Notice(
        f"{about}: down: {result.phase}: {result.error}{said}; {consequence(result)}",
        result.hint or _HINTS[result.phase].format(host=result.destination.host),
    )


def consequence(result: ProbeResult) -> str:
    """Describe what Postfix does with mail for a destination that is down for this reason."""
    if result.returned:
        whose = "this list" if result.phase == "rcpt" else "it"
        return f"Postfix returns mail for {whose} to its sender"
    return "mail for it is deferred"


EXCLUDED = (
    "doctor prints the command that permits lmtp(8) to use that family; or set the source's"
    " address: or destination: to one that Postfix may use"
)

NO_TLS = "doctor prints the command that permits lmtp(8) to send this mail without TLS"

_UPDATE = "update Mailman: 3.3.6 and later refuse an address that no list has"
