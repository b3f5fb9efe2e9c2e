"""A TCP connection to a host that may have several addresses, some of which nobody answers at."""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

Address: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""As getaddrinfo(3) has it."""


async def resolve(host: str, port: int) -> Sequence[Address]:
    """A host's addresses, the preferred ones first. Raises socket.gaierror."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


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
