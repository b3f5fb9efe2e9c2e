"""LMTP servers with faults, each of a kind that a probe meets in the field or has to survive.

    async with rogue(ROGUES["silent"]) as (host, port):
        ...

Each is a few lines on asyncio.start_server, based on a correct dialogue with one fault.  A server
ends when the client disconnects, or with the `async with`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_HONEST = {
    "greeting": "220 rogue.example LMTP",
    "LHLO": "250-rogue.example\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES",
    "MAIL": "250 2.1.0 OK",
    "RCPT": "250 2.1.5 OK",
    "RSET": "250 2.0.0 OK",
    "NOOP": "250 2.0.0 OK",
    "QUIT": "221 2.0.0 Bye",
}
_CHUNK = 16 * 1024
_PAUSE = 0.2


@asynccontextmanager
async def rogue(behaviour: Behaviour, host: str = "127.0.0.1") -> AsyncIterator[tuple[str, int]]:
    """Run a server with this behaviour on a free port; yield host and port."""
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                await behaviour(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(talk(reader, writer))
        talks.add(task)
        task.add_done_callback(talks.discard)

    server = await asyncio.start_server(accept, host, 0)
    try:
        yield host, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await server.wait_closed()


def answers(**wrong: str | None) -> Behaviour:
    """Return a correct server, except for these replies; None closes the connection instead."""
    said = _HONEST | wrong

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        verb = "greeting"
        while (answer := said.get(verb, "502 5.5.2 unknown command")) is not None:
            writer.write(answer.encode() + b"\r\n")
            await writer.drain()
            line = await reader.readline()
            if not line or verb == "QUIT":
                return
            verb = line[:4].decode("ascii", "replace").upper()

    return behaviour


def mute_after(verb: str) -> Behaviour:
    """Return a correct server up to this verb, to which it never replies."""

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers(**{verb: None})(reader, writer)
        await reader.read()

    return behaviour


def says(text: bytes) -> Behaviour:
    """Return a server that greets with these bytes and then only reads."""

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()
        while await reader.read(_CHUNK):
            pass

    return behaviour


def endless(text: bytes, after: str = "") -> Behaviour:
    """Return a server that repeats a text without end: at once, or in reply to a verb."""

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if after:
            await answers(**{after: None})(reader, writer)
        many = text * (_CHUNK // len(text))
        while not writer.is_closing():
            writer.write(many)
            await writer.drain()

    return behaviour


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept the connection and close it, like Docker's proxy without a server behind it."""


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept the connection and reset it."""
    writer.transport.abort()


async def dribbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greet byte by byte: each byte arrives before a timeout, but the line is never complete."""
    for number in range(1000):
        writer.write(_HONEST["greeting"].encode().ljust(1000, b".")[number : number + 1])
        await writer.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PAUSE):
                if not await reader.read(_CHUNK):
                    return


ROGUES: dict[str, Behaviour] = {
    "honest": answers(),
    "closes": closes,
    "resets": resets,
    "silent": says(b""),
    "greets-421": answers(greeting="421 4.3.2 shutting down"),
    "greets-554": answers(greeting="554 5.3.2 no service"),
    "greets-and-closes": answers(LHLO=None),
    "endless-line": endless(b"220 and "),
    "endless-greeting": endless(b"220-still here\r\n"),
    "endless-lhlo": endless(b"250-still here\r\n", after="LHLO"),
    "http": says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "garbage": says(bytes(range(256)) * 4 + b"\r\n"),
    "long-line": says(b"220 " + b"x" * (1 << 20) + b"\r\n"),
    "long-lhlo": answers(LHLO="250 " + "x" * (1 << 20)),
    "dribbles": dribbles,
    "lhlo-500": answers(LHLO="500 5.5.1 unknown command"),
    "mute-after-lhlo": mute_after("MAIL"),
    "mail-451": answers(MAIL="451 4.3.0 try later"),
    "rcpt-451": answers(RCPT="451 4.3.0 try later"),
    "rcpt-550": answers(RCPT="550 5.1.1 no such list"),
    "rset-500": answers(RSET="500 5.5.1 unknown command"),
    "quit-closes": answers(QUIT=None),
}
