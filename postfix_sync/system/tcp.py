"""Connect over TCP to a host that may have several addresses, some of which do not answer."""

import asyncio
import socket
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

Address: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""An address as getaddrinfo(3) returns it."""


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Resolve a host to its addresses, the preferred ones first. Raises socket.gaierror.

    If no name server answers, getaddrinfo(3) continues long after its caller has timed out, and
    can't be stopped. So each lookup has a daemon thread of its own: a few names would fill
    asyncio's thread pool and block the syncs, and the process would wait for its threads when it
    ends.
    """
    found: Future[Sequence[Address]] = Future()
    found.set_running_or_notify_cancel()

    def look_up() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            found.set_exception(error)

    threading.Thread(target=look_up, name=f"lookup of {host}", daemon=True).start()
    return await asyncio.wrap_future(found)


def place(address: str, port: int) -> Address:
    """Return where to connect to for an IP address in text form."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=flags)[0]


async def dial(addresses: Iterable[Address], timeout: float) -> socket.socket:
    """Connect to the first address that accepts a connection.

    `timeout` is in seconds, for each address. Raises the OSError of the last address.
    """
    refused: OSError = OSError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(timeout):
                return await _connected(address)
        except OSError as error:
            refused = error
    raise refused


async def _connected(address: Address) -> socket.socket:
    family, kind, protocol, _, where = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, where)
    except BaseException:
        connection.close()
        raise
    return connection
