"""A flush(8) that stops answering."""

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def flush_that_hangs(service: Path, after: int) -> Iterator[None]:
    """Forward `after` requests to the flush(8) behind a socket, and answer no later one."""
    hidden = service.rename(service.with_name("hidden"))
    held: list[socket.socket] = []

    def serve() -> None:
        for number in itertools.count():
            with suppress(OSError):
                client, _ = listener.accept()
                if number >= after:
                    held.append(client)
                    continue
                with client, socket.socket(socket.AF_UNIX) as flush:
                    flush.connect(str(hidden))
                    flush.sendall(client.recv(1000))
                    while part := flush.recv(1000):
                        client.sendall(part)
                continue
            return

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(service))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            hidden.rename(service)
    for client in held:
        client.close()
