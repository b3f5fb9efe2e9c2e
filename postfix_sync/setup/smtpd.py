"""Does Postfix take mail by SMTP as it did a moment ago?

Each listener is asked for RCPT TO:<postmaster@this host>, in which smtpd(8), its restrictions,
trivial-rewrite(8) and the tables take part; they do not for a bare <postmaster>. No message is
sent. What counts is the difference: a listener that wants a login first says no before a change of
main.cf and after it.
"""

import asyncio
import smtplib
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.master_cf import Service


class Listener(NamedTuple):
    """Where an instance talks SMTP: an IP address or a host name, a TCP port, whom to ask for."""

    host: str
    port: int
    recipient: str


REPLY_TIMEOUT = 10.0
"""Seconds; postscreen(8) lets strangers wait six."""

RECOVERY_TIMEOUT = 20.0
"""Seconds that all listeners get to answer as before; a reload takes two or three."""

POLL = 0.25


EVERYWHERE = {"all": ("127.0.0.1", "::1"), "loopback-only": ("127.0.0.1", "::1")}
"""What of inet_interfaces stands for several addresses, and those of them that are here."""


async def listeners(postfix: Postfix) -> list[Listener]:
    """Where an instance talks SMTP. Raises ConfigError."""
    values = await postfix.values("inet_interfaces", "myhostname")
    return [
        Listener(host, port, f"postmaster@{values['myhostname']}")
        for service in await postfix.services()
        for host, port in _addresses(service, values["inet_interfaces"])
    ]


def _addresses(service: Service, interfaces: str) -> Iterator[tuple[str, int]]:
    """Where a service of master(5) listens: its name is [host:]port."""
    if service.kind != "inet" or service.command not in {"smtpd", "postscreen"}:
        return
    if service.overrides.get("smtpd_tls_wrappermode") == "yes":
        return  # it says nothing before TLS is there
    host, _, name = service.name.rpartition(":")
    try:
        port = int(name) if name.isdigit() else socket.getservbyname(name, "tcp")
    except OSError:
        return  # master(8) does not know it either
    interfaces = service.overrides.get("inet_interfaces", interfaces)
    for interface in [host.strip("[]")] if host else interfaces.replace(",", " ").split():
        for address in EVERYWHERE.get(interface, (interface,)):
            yield address, port


async def replies(listeners: Iterable[Listener]) -> dict[Listener, int]:
    """The code of each listener's decisive reply; those that don't talk SMTP are left out."""
    asked = list(dict.fromkeys(listeners))
    codes = await asyncio.gather(*(asyncio.to_thread(_ask, listener) for listener in asked))
    return {listener: code for listener, code in zip(asked, codes, strict=True) if code}


async def worse_than(before: Mapping[Listener, int]) -> list[str]:
    """What became worse, in words; nothing as soon as all listeners answer as they did before."""
    give_up = time.monotonic() + RECOVERY_TIMEOUT
    while True:
        now = await replies(before)
        worse = [
            f"{listener.host}:{listener.port} says {now.get(listener) or 'nothing'} to"
            f" RCPT TO:<{listener.recipient}>, where it said {code}"
            for listener, code in before.items()
            if now.get(listener, 0) // 100 not in {2, code // 100}
        ]
        if not worse or time.monotonic() > give_up:
            return worse
        await asyncio.sleep(POLL)


def _ask(listener: Listener) -> int:
    """The code of the first reply that is no success, or of that to RCPT; 0: there is none."""
    try:
        with smtplib.SMTP(
            listener.host, listener.port, "localhost", timeout=REPLY_TIMEOUT
        ) as server:
            server.ehlo_or_helo_if_needed()
            code, _ = server.mail("")
            return code if code >= 400 else server.rcpt(listener.recipient)[0]
    except smtplib.SMTPResponseException as error:
        return error.smtp_code
    except (OSError, smtplib.SMTPException):
        return 0
