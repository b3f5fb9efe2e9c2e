"""A very small HTTP server, for monitoring: GET and HEAD, one request a connection, no state.

It runs on the daemon's own event loop, and that is its point: an answer shows that the loop goes
round. So nothing a client does may hold it up. Connections, the size of a request and the time for
it are bounded; whatever exceeds them loses its connection, and nothing else.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import urlsplit

from postfix_sync.log import LOG

CONNECTIONS = 64
"""Clients served at the same time; more wait in the kernel's backlog."""

PATIENCE = 5.0
"""Seconds that a connection gets, from its first byte to its last."""

HEAD_SIZE = 16 * 1024
"""Bytes of a request's head at most."""

METHODS = ("GET", "HEAD")

_BLOCK = 4096
_DRAINED = 16  # blocks of a body that nobody asked for

_REQUEST = re.compile(r"([!-~]+) ([!-~]+) HTTP/1\.[0-9]")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*)")


@dataclass(frozen=True)
class Response:
    """What a client gets."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[str], Response]]
"""What answers for each path, called with the request's Accept field."""


def listen(address: str, port: int) -> socket.socket:
    """A socket at an IP address of this host. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=CONNECTIONS)
    listener.setblocking(False)
    return listener


async def serve(listener: socket.socket, pages: Pages) -> None:
    """Answers whoever connects, until it is cancelled; all connections are closed then."""
    loop = asyncio.get_running_loop()
    free = asyncio.Semaphore(CONNECTIONS)
    async with asyncio.TaskGroup() as group:
        while True:
            await free.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # the client is gone already, or there are no descriptors left
                free.release()
                await asyncio.sleep(1)
                continue
            task = group.create_task(_converse(connection, pages))
            task.add_done_callback(lambda _: free.release())


async def _converse(connection: socket.socket, pages: Pages) -> None:
    """One request and its answer."""
    loop = asyncio.get_running_loop()
    with connection, suppress(OSError):  # TimeoutError is one, and so is a client that went away
        async with asyncio.timeout(PATIENCE):
            head = await _read_head(connection)
            if not head:
                return
            await loop.sock_sendall(connection, _reply(head, pages))
            # Closed with something unread, a connection is reset, and the answer may be lost.
            connection.shutdown(socket.SHUT_WR)
            for _ in range(_DRAINED):
                if not await loop.sock_recv(connection, _BLOCK):
                    return


async def _read_head(connection: socket.socket) -> bytes:
    """A request up to its empty line; cut off at HEAD_SIZE, empty where there is none."""
    loop = asyncio.get_running_loop()
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_SIZE:
        # What has arrived is taken without a turn of the loop: the size must have an end, too.
        block = await loop.sock_recv(connection, _BLOCK)
        if not block:
            return b""
        head += block
    return head[:HEAD_SIZE]


def _reply(head: bytes, pages: Pages) -> bytes:
    """The answer to a request, as it goes over the wire. Pure, apart from the page itself."""
    text, complete, _ = head.decode("latin-1").partition("\r\n\r\n")
    request, *fields = text.split("\r\n")
    found = _REQUEST.fullmatch(request)
    parsed = [_FIELD.fullmatch(field) for field in fields]
    allow = ""
    if not complete:
        response = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    elif not found or not all(parsed):
        response = _plain(HTTPStatus.BAD_REQUEST)
    elif found[1] not in METHODS:
        response = _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        allow = f"Allow: {', '.join(METHODS)}\r\n"
    else:
        accept = ",".join(field[2] for field in parsed if field and field[1].lower() == "accept")
        response = _page(found[2], accept, pages)
    body = response.body.encode()
    reply = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{allow}"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    ).encode("latin-1")
    return reply if found and found[1] == "HEAD" else reply + body


def _page(target: str, accept: str, pages: Pages) -> Response:
    try:
        path = urlsplit(target).path
    except ValueError:
        return _plain(HTTPStatus.BAD_REQUEST)
    page = pages.get(path)
    if not page:
        return _plain(HTTPStatus.NOT_FOUND, f"here are {', '.join(pages)}")
    try:
        return page(accept)
    except Exception:  # noqa: BLE001 - one page that fails must not end the daemon
        LOG.exception("%s: an error that should have been foreseen; please report it", path)
        return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _plain(status: HTTPStatus, more: str = "") -> Response:
    return Response(f"{status.phrase}{': ' if more else ''}{more}\n", status)
