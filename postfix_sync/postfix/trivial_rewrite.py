"""Ask trivial-rewrite(8) where an address is delivered, as qmgr(8) does.

The protocol is internal to Postfix (global/resolve_clnt.c, util/attr_print0.c): names and values
that end with NUL, a list that ends with an empty name. It has been the same from Postfix 3.5 to
3.11; an answer of another shape is an error. Only root and the mail owner can open the socket.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.errors import OutOfReach, quote, why

TIMEOUT = 5.0
"""Seconds for one answer; trivial-rewrite(8) waits for each table that it queries."""

ANSWER_BYTES = 64 * 2**10
"""Bytes of an answer at most."""

_CLASSES = {
    1 << 8: "local",
    1 << 9: "virtual alias",
    1 << 10: "virtual mailbox",
    1 << 11: "relay",
    1 << 12: "default",
}
"""By flag, the address class (ADDRESS_CLASS_README; global/resolve_clnt.h)."""

_ERROR, _FAIL = 1 << 2, 1 << 3
"""The flags of an address that can't be resolved, and of a table that can't be queried."""


@dataclass(frozen=True)
class Resolved:
    """Where an address is delivered."""

    transport: str
    next_hop: str
    recipient: str
    address_class: str
    """local, virtual alias, virtual mailbox, relay or default; empty if it is none of these."""
    failed: bool
    """Whether a table can't be queried, so that Postfix defers the mail."""

    @property
    def is_aliased(self) -> bool:
        """Whether it is in a virtual alias domain, so that only an alias of it leads anywhere."""
        return self.address_class == "virtual alias"

    @property
    def is_of_others(self) -> bool:
        """Whether it is in no domain of this host, so that only trusted clients may send to it."""
        return self.address_class == "default"

    @property
    def route(self) -> str:
        """Return `transport:nexthop`, as transport(5) writes it."""
        return f"{self.transport}:{self.next_hop}"


async def resolve(socket: Path, addresses: Iterable[str]) -> dict[str, Resolved]:
    """Ask the trivial-rewrite(8) behind a socket for each address; return its answers.

    Raises OutOfReach if it does not answer, or not as expected.
    """
    found = {}
    writer = None
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(socket, limit=ANSWER_BYTES)
            for address in addresses:
                request = ("request", "resolve", "sender", "", "address", address)
                writer.write("".join(f"{text}\0" for text in (*request, "")).encode())
                answer = await _attributes(reader)
                if answer[:1] == ["protocol"]:  # the greeting, before the first answer
                    answer = await _attributes(reader)
                found[address] = _resolved(answer)
    except TimeoutError:
        raise OutOfReach(f"{socket}: trivial-rewrite(8) did not answer in {TIMEOUT:g} s") from None
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        said = why(error) if isinstance(error, OSError) else str(error)
        raise OutOfReach(f"{socket}: trivial-rewrite(8) can't be asked: {said}") from None
    finally:
        if writer:
            writer.close()
    return found


async def _attributes(reader: asyncio.StreamReader) -> list[str]:
    """Read names and values in turn, up to the empty name."""
    found: list[str] = []
    while name := await _text(reader):
        found += [name, await _text(reader)]
        if sum(map(len, found)) > ANSWER_BYTES:
            raise ValueError("the answer is too long")
    return found


async def _text(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\0"))[:-1].decode("utf-8", "replace")


_SHAPE = ["flags", "transport", "nexthop", "recipient", "flags"]


def _resolved(answer: Sequence[str]) -> Resolved:
    """Return an answer's content. Raises ValueError if it is of another shape."""
    names, values = list(answer[::2]), list(answer[1::2])
    if names != _SHAPE or not values[4].isdecimal():
        raise ValueError(f"the answer is not as expected: {quote(' '.join(answer))}")
    transport, next_hop, recipient, flags = *values[1:4], int(values[4])
    return Resolved(
        transport="error" if flags & _ERROR else transport,
        next_hop="the address can't be resolved" if flags & _ERROR else next_hop,
        recipient=recipient,
        address_class=next((name for bit, name in _CLASSES.items() if flags & bit), ""),
        failed=bool(flags & _FAIL),
    )
