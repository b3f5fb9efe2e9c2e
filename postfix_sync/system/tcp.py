"""A TCP connection to a host that may have several addresses, some of which nobody answers at."""

import asyncio
import socket
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

Address: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""As getaddrinfo(3) has it."""


async def resolve(host: str, port: int) -> Sequence[Address]:
    """A host's addresses, the preferred ones first. Raises socket.gaierror.

    Where no name server answers, getaddrinfo(3) goes on long after whoever asked has given up, and
    can't be stopped. So each lookup has a thread of its own: in asyncio's pool of a few, some names
    would hold up the passes; and nobody waits for it at the end.
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


async def dial(addresses: Iterable[Address], timeout: float) -> socket.socket:
    """A connection to the first address that accepts one.

    `timeout` is in seconds, for each address. Raises the OSError of the last one.
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
