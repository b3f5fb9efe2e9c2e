"""Check whether Postfix still accepts mail by SMTP as it did before a change of main.cf.

Each listener gets RCPT TO:<postmaster@this host>: its reply involves smtpd(8), its restrictions,
trivial-rewrite(8) and the tables, which a bare <postmaster> would not. No message is sent. Only a
difference counts: a listener that requires a login refuses before the change as well as after it.
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
    """Where an instance listens for SMTP, and the recipient to test it with.

    `host` is an IP address or a host name, `port` a TCP port.
    """

    host: str
    port: int
    recipient: str


REPLY_TIMEOUT = 10.0
"""Seconds; postscreen(8) makes unknown clients wait for six."""

RECOVERY_TIMEOUT = 20.0
"""Seconds within which all listeners must reply as before; a reload takes two or three."""

POLL = 0.25


EVERYWHERE = {"all": ("127.0.0.1", "::1"), "loopback-only": ("127.0.0.1", "::1")}
"""The words of inet_interfaces that stand for several addresses, and which of these to test."""


async def listeners(postfix: Postfix) -> list[Listener]:
    """Return the listeners for SMTP of an instance. Raises ConfigError."""
    values = await postfix.values("inet_interfaces", "myhostname")
    return [
        Listener(host, port, f"postmaster@{values['myhostname']}")
        for service in await postfix.services()
        for host, port in _addresses(service, values["inet_interfaces"])
    ]


def _addresses(service: Service, interfaces: str) -> Iterator[tuple[str, int]]:
    """Yield where a service of master(5) listens, as (host, port): its name is [host:]port."""
    if service.kind != "inet" or service.command not in {"smtpd", "postscreen"}:
        return
    if service.overrides.get("smtpd_tls_wrappermode") == "yes":
        return  # it sends no greeting before the TLS handshake
    host, _, name = service.name.rpartition(":")
    try:
        port = int(name) if name.isdigit() else socket.getservbyname(name, "tcp")
    except OSError:
        return  # master(8) does not know that port name either
    interfaces = service.overrides.get("inet_interfaces", interfaces)
    for interface in [host.strip("[]")] if host else interfaces.replace(",", " ").split():
        for address in EVERYWHERE.get(interface, (interface,)):
            yield address, port


async def replies(listeners: Iterable[Listener]) -> dict[Listener, int]:
    """Return the code of each listener's decisive reply, without listeners that reply nothing."""
    tested = list(dict.fromkeys(listeners))
    codes = await asyncio.gather(*(asyncio.to_thread(_reply, listener) for listener in tested))
    return {listener: code for listener, code in zip(tested, codes, strict=True) if code}


async def worse_than(before: Mapping[Listener, int]) -> list[str]:
    """Return what is worse than before, in words; empty once all listeners reply as before.

    Listeners have RECOVERY_TIMEOUT seconds for that.
    """
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


def _reply(listener: Listener) -> int:
    """Return the code of the first reply that is an error, or of the reply to RCPT; 0 if none."""
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
