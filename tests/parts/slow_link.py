"""A link with delay and limited rate, or that drops everything: a relay on a port of its own.

It runs in a process of its own, so that it and the test do not slow each other. The kernel's netem
would do the same, but is missing in most virtual machines.
"""

import asyncio
import multiprocessing
from multiprocessing.connection import Connection
from typing import Self

from .common import free_port

_CHUNK = 64 * 1024
_TICK = 0.02


class Link:
    """The relay to a port of 127.0.0.1; use it in a with statement."""

    def __init__(self, to_port: int, *, delay: float, rate: float) -> None:
        """`delay` is in seconds, each way; `rate` in bytes a second, each way."""
        self.port = free_port()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_main, args=(theirs, self.port, to_port, delay, rate), daemon=True
        )
        self._drop = False

    def __enter__(self) -> Self:
        """Start the relay."""
        self._process.start()
        assert self._pipe.poll(20), "the relay does not start"
        self._pipe.recv()
        return self

    def __exit__(self, *exc: object) -> None:
        """End the relay; its connections are reset."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    @property
    def drop(self) -> bool:
        """Whether all data are dropped silently."""
        return self._drop

    @drop.setter
    def drop(self, drop: bool) -> None:
        self._drop = drop
        self._pipe.send(drop)
        self._pipe.recv()


def _main(pipe: Connection, port: int, to_port: int, delay: float, rate: float) -> None:
    asyncio.run(_relay(pipe, port, to_port, delay, rate))


async def _relay(pipe: Connection, port: int, to_port: int, delay: float, rate: float) -> None:
    loop = asyncio.get_running_loop()
    drop = False

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write the data after the delay; the queue holds the data on the link."""
        link: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(round(rate * delay / _CHUNK) + 8)

        async def arrive() -> None:
            while True:
                when, data = await link.get()
                await asyncio.sleep(when - loop.time())
                if not drop:
                    writer.write(data)
                    await writer.drain()
                if not data:
                    writer.close()
                    return

        arriving = asyncio.create_task(arrive())
        free = loop.time()
        data = b"-"
        while data:
            data = await reader.read(_CHUNK)
            free = max(free, loop.time()) + len(data) / rate
            if free - loop.time() > _TICK:
                await asyncio.sleep(free - loop.time())
            await link.put((loop.time() + delay, data))
        await arriving

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if drop:
            await asyncio.Event().wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to_port)
        await asyncio.gather(
            carry(reader, far_writer), carry(far_reader, writer), return_exceptions=True
        )

    def obey() -> None:
        nonlocal drop
        drop = pipe.recv()
        pipe.send("ok")

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    loop.add_reader(pipe.fileno(), obey)
    pipe.send("listening")
    await server.serve_forever()
