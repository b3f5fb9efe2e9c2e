"""A name server that knows no name at all: every question is answered NXDOMAIN.

With it, mail that Postfix has no route for bounces as it does in the field, by the real smtp(8),
at once and on any machine, whether or not that machine has a DNS.  (An `error:` transport would not
do: smtpd refuses such a recipient before anything can be lost.)
"""

import itertools
import os
import socket
import threading

_NUMBERS = itertools.count()

NXDOMAIN = 0x8183  # a response, recursion available, name error


class DeadEndDns:
    """The server, on port 53 of a loopback address of its own; start() and stop() it."""

    def __init__(self) -> None:
        """Choose the address: by process, and by how many it has had, so that no two meet."""
        pid = os.getpid()
        self.address = f"127.{pid % 251 + 2}.{pid // 251 % 251}.{next(_NUMBERS) % 250 + 2}"
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Answer from now on."""
        if self._socket is not None:
            return
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            server.bind((self.address, 53))
        except OSError:
            server.close()
            raise
        self._socket = server
        self._thread = threading.Thread(target=_answer, args=(server,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        if self._socket is None or self._thread is None:
            return
        # Nobody asks nothing: the sign to end. Its own socket sends it, for that one is on the host
        # where this was started, whatever host of a test's own the caller is on.
        self._socket.sendto(b"", (self.address, 53))
        self._thread.join()
        self._socket.close()
        self._socket = self._thread = None


def _answer(server: socket.socket) -> None:
    while True:
        query, client = server.recvfrom(4096)
        if not query:
            return
        if len(query) < 12:
            continue
        # The question is repeated up to its end: labels to the zero byte, then type and class.
        end = query.find(b"\0", 12) + 5
        counts = (1).to_bytes(2, "big") + bytes(6)
        server.sendto(query[:2] + NXDOMAIN.to_bytes(2, "big") + counts + query[12:end], client)
