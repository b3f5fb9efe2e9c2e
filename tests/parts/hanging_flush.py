"""A flush(8) that stops answering."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .unix_server import serving


@contextmanager
def flush_that_hangs(service: Path, after: int) -> Iterator[None]:
    """Forward `after` requests to the flush(8) behind a socket, and answer no later one."""
    hidden = service.rename(service.with_name("hidden"))
    held: list[socket.socket] = []

    def forward(number: int, client: socket.socket) -> None:
        if number >= after:
            held.append(client)
            return
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as flush:
            flush.connect(str(hidden))
            flush.sendall(client.recv(1000))
            while part := flush.recv(1000):
                client.sendall(part)

    try:
        with serving(service, forward):
            yield
    finally:
        hidden.rename(service)
        for client in held:
            client.close()
