"""A name server that answers NXDOMAIN for every name, except those that a test adds.

With it, mail that Postfix has no route for bounces as in the field, by the real smtp(8), at once
and on any machine, whether or not that machine has a DNS.  (An `error:` transport would not serve:
smtpd refuses such a recipient before any mail can be lost.)
"""

import socket
import threading
from collections.abc import Mapping

from .common import loopback_address

NXDOMAIN = 0x8183  # a response, recursion available, name error
FOUND = 0x8180  # the same, no error
ADDRESS = b"\0\x01\0\x01"  # type A, class IN


class DeadEndDns:
    """The server, on port 53 of a loopback address of its own; start() and stop() it."""

    def __init__(self) -> None:
        """Choose the address."""
        self.address = loopback_address()
        self.names: dict[str, str] = {}
        """The exceptions: IPv4 addresses by name. They may be changed at any time."""
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
        self._thread = threading.Thread(target=_serve, args=(server, self.names), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        if self._socket is None or self._thread is None:
            return
        # An empty datagram is the sign to end. The server's own socket sends it, because that is on
        # the host on which the server was started; the caller may be on another one.
        self._socket.sendto(b"", (self.address, 53))
        self._thread.join()
        self._socket.close()
        self._socket = self._thread = None


def _serve(server: socket.socket, names: Mapping[str, str]) -> None:
    while True:
        query, client = server.recvfrom(4096)
        if not query:
            return
        if len(query) >= 12:
            server.sendto(_answer(query, names), client)


def _answer(query: bytes, names: Mapping[str, str]) -> bytes:
    # The answer repeats the question: labels up to the zero byte, then type and class.
    end = query.find(b"\0", 12) + 5
    question = query[12:end]
    address = names.get(_name(question[:-4]))
    records = b""
    if address and question.endswith(ADDRESS):
        # The name is at offset 12; the TTL is 0, and the data has four bytes.
        records = b"\xc0\x0c" + ADDRESS + bytes(4) + b"\0\x04" + socket.inet_aton(address)
    flags = (FOUND if address else NXDOMAIN).to_bytes(2, "big")
    counts = b"\0\x01" + bool(records).to_bytes(2, "big") + bytes(4)
    return query[:2] + flags + counts + question + records


def _name(labels: bytes) -> str:
    found = []
    while labels and labels[0]:
        found.append(labels[1 : 1 + labels[0]].decode("ascii", "replace").lower())
        labels = labels[1 + labels[0] :]
    return ".".join(found)
