"""Ask an SMTP listener what it replies to RCPT for some addresses. No message is ever sent.

One session asks for all addresses, so that a listener with few processes is not put under stress.
A refusal of the session itself, such as a demand for a login, says nothing about a recipient.
"""

import asyncio
import contextlib
import re
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from postfix_sync.errors import quote, why
from postfix_sync.postfix.smtp_listeners import Listener

TIMEOUT = 10.0
"""Seconds for one reply; postscreen(8) makes unknown clients wait for six."""

REPLY_LENGTH = 200
"""Characters of a reply that are kept."""

_ABOUT_THE_SESSION = re.compile(
    r"(Client host|Sender address|Helo command|Unverified Client host|EHLO command) rejected"
    r"|issue a STARTTLS|[Aa]uthentication required|Encryption required"
)
"""Replies of smtpd(8) at RCPT that refuse the client, its greeting or its sender, by restrictions
that are evaluated only then (smtpd_delay_reject)."""

STOPPING = 421
"""The code with which a server ends the session."""


@dataclass(frozen=True)
class Reply:
    """A listener's reply to RCPT."""

    code: int
    text: str

    @property
    def accepted(self) -> bool:
        """Whether the recipient is accepted."""
        return 200 <= self.code < 300

    @property
    def is_about_recipient(self) -> bool:
        """Whether another client or sender would get the same reply."""
        return self.code != STOPPING and not _ABOUT_THE_SESSION.search(self.text)

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(frozen=True)
class Session:
    """What a listener replied."""

    replies: Mapping[str, Reply] = field(default_factory=dict)
    """By address; an address is missing if its reply says nothing about it."""
    problem: str = ""
    """Why some addresses have no reply."""


async def ask(listener: Listener, addresses: Sequence[str], source: str | None = None) -> Session:
    """Ask a listener for its replies to RCPT, from the address `source` of this host if given."""
    if listener.other_protocol:
        return Session(problem=f"not asked: {listener.other_protocol}")
    return await asyncio.to_thread(_ask, listener, addresses, source)


def _ask(listener: Listener, addresses: Sequence[str], source: str | None) -> Session:
    for encrypt in (True, False):
        replies: dict[str, Reply] = {}
        try:
            with _connected(listener, source) as server:
                if refused := _begin(
                    server, encrypt=encrypt, unicode=not all(map(str.isascii, addresses))
                ):
                    return Session(problem=f"the session is refused: {refused}")
                problem = _ask_each(server, addresses, replies)
                return Session(replies, problem)
        except ssl.SSLError:
            continue  # a server that offers STARTTLS without a certificate that it can use
        except smtplib.SMTPResponseException as error:
            problem = f"the session is refused: {_reply(error.smtp_code, error.smtp_error)}"
            return Session(replies, problem)
        except smtplib.SMTPServerDisconnected:
            return Session(replies, "the connection was closed")
        except (OSError, smtplib.SMTPException) as error:
            problem = why(error) if isinstance(error, OSError) else quote(str(error))
            return Session(replies, problem or f"no reply within {TIMEOUT:g} s")
    return Session(problem="STARTTLS failed")


def _connected(listener: Listener, source: str | None) -> smtplib.SMTP:
    origin = (source, 0) if source else None
    # An address literal, which no restriction of host names refuses (RFC 5321, 4.1.3).
    literal = source or ("::1" if ":" in listener.host else "127.0.0.1")
    greeting = f"[IPv6:{literal}]" if ":" in literal else f"[{literal}]"
    return smtplib.SMTP(
        listener.host, listener.port, greeting, timeout=TIMEOUT, source_address=origin
    )


def _begin(server: smtplib.SMTP, *, encrypt: bool, unicode: bool) -> Reply | None:
    """Greet, encrypt if that is offered, and name a sender; return the reply that refuses it."""
    server.ehlo_or_helo_if_needed()
    if encrypt and server.has_extn("starttls"):
        server.starttls(context=_unverified())
        server.ehlo()
    options = ["SMTPUTF8"] if unicode and server.has_extn("smtputf8") else []
    reply = Reply(0, "")
    hostname = server.helo_resp or server.ehlo_resp or b"localhost"
    for sender in ("", f"postmaster@{hostname.split()[0].decode('ascii', 'replace')}"):
        reply = _reply(*server.mail(sender, options))
        if reply.accepted:
            return None
    return reply


def _ask_each(server: smtplib.SMTP, addresses: Sequence[str], replies: dict[str, Reply]) -> str:
    """Ask for each address; return why some replies say nothing about their addresses."""
    problem = ""
    for address in addresses:
        if not address.isascii() and not server.has_extn("smtputf8"):
            problem = f"{address}: the listener does not offer SMTPUTF8"
            continue
        reply = _reply(*server.rcpt(address))
        if not reply.is_about_recipient:
            problem = f"the session is refused: {reply}"
            break  # each further reply would be a line in the mail log
        replies[address] = reply
    with contextlib.suppress(OSError, smtplib.SMTPException):
        server.rset()
    return problem


def _unverified() -> ssl.SSLContext:
    """Return a context that accepts any certificate: nothing secret is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _reply(code: int, text: bytes | str) -> Reply:
    said = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return Reply(code, quote(" ".join(said.split()), REPLY_LENGTH)[1:-1])
