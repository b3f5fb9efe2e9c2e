"""A server at a UNIX socket."""

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(path: Path, answer: Callable[[int, socket.socket], None]) -> Iterator[None]:
    """Call `answer` with the number of each connection, from 0, and the connection."""

    def serve() -> None:
        for number in itertools.count():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            answer(number, client)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
