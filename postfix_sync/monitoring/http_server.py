"""A small HTTP server for monitoring: GET and HEAD, one request a connection, no state.

It runs on the daemon's own event loop, so that an answer shows that the loop is not blocked.
Therefore no client may block it: the number of connections, the size of a request and its time are
limited, and a connection that exceeds a limit is closed.
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
"""Connections served at the same time; further ones remain in the kernel's backlog."""

PATIENCE = 5.0
"""Longest time in seconds for a connection, from its first byte to its last."""

HEAD_SIZE = 16 * 1024
"""Largest size in bytes of a request's head."""

METHODS = ("GET", "HEAD")

_BLOCK = 4096
_DRAINED = 16  # blocks of a request's body that are read and dropped

_REQUEST = re.compile(r"([!-~]+) ([!-~]+) HTTP/1\.[0-9]")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*)")


@dataclass(frozen=True)
class Response:
    """A page, or an error, with its status and media type."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[str], Response]]
"""The function that renders the page of each path, called with the request's Accept field."""


def listen(address: str, port: int) -> socket.socket:
    """Open a listening socket at an IP address of this host. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=CONNECTIONS)
    listener.setblocking(False)
    return listener


async def serve(listener: socket.socket, pages: Pages) -> None:
    """Answer requests until the task is cancelled, which closes all connections."""
    loop = asyncio.get_running_loop()
    free = asyncio.Semaphore(CONNECTIONS)
    async with asyncio.TaskGroup() as group:
        while True:
            await free.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # the client has closed already, or no file descriptor is left
                free.release()
                await asyncio.sleep(1)
                continue
            task = group.create_task(_converse(connection, pages))
            task.add_done_callback(lambda _: free.release())


async def _converse(connection: socket.socket, pages: Pages) -> None:
    """Read one request and send its response."""
    loop = asyncio.get_running_loop()
    with connection, suppress(OSError):  # such as TimeoutError, and ConnectionResetError
        async with asyncio.timeout(PATIENCE):
            head = await _read_head(connection)
            if not head:
                return
            await loop.sock_sendall(connection, _reply(head, pages))
            # Closing a connection with unread data resets it, and the response may be lost.
            connection.shutdown(socket.SHUT_WR)
            for _ in range(_DRAINED):
                if not await loop.sock_recv(connection, _BLOCK):
                    return


async def _read_head(connection: socket.socket) -> bytes:
    """Read a request up to its empty line, at most HEAD_SIZE bytes; empty if it is incomplete."""
    loop = asyncio.get_running_loop()
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_SIZE:
        # recv returns received data without yielding to the loop, so the size must be limited, too.
        block = await loop.sock_recv(connection, _BLOCK)
        if not block:
            return b""
        head += block
    return head[:HEAD_SIZE]


def _reply(head: bytes, pages: Pages) -> bytes:
    """Return the response to a request as bytes. Pure, apart from the page itself."""
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
        return _plain(HTTPStatus.NOT_FOUND, f"available pages are {', '.join(pages)}")
    try:
        return page(accept)
    except Exception:  # noqa: BLE001 - a page that fails must not end the daemon
        LOG.exception("%s: internal error while rendering the page; please report this", path)
        return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _plain(status: HTTPStatus, more: str = "") -> Response:
    return Response(f"{status.phrase}{': ' if more else ''}{more}\n", status)
