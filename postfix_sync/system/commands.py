"""Find and run commands, with a time limit."""

import asyncio
import contextlib
import functools
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postfix_sync.errors import ApplyError, ConfigError, OutOfReach, TimedOut, why

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
"""cron's PATH lacks the sbin directories, where Postfix's commands are."""

ENVIRONMENT = {"PATH": SEARCH_PATH, "LC_ALL": "C"}

COMMAND_TIMEOUT = 120.0
"""Seconds."""

AT_A_TIME = 65536
"""Bytes read from the output of a command at once."""

READ_AT_MOST = 2**30
"""Largest size in bytes of a file to be read: the map of 1.5 million lists fits, and memory too."""


def program() -> list[str]:
    """Return the command that runs this program, with its absolute path, so that PATH is not used.

    It is `/usr/bin/postfix-sync` from the Debian package, `/usr/local/sbin/postfix-sync` from make
    install, and in a directory of the user from pipx; otherwise, this Python and the module.
    """
    path = Path(sys.argv[0]).absolute()
    if path.name == "postfix-sync" and os.access(path, os.X_OK):
        return [str(path)]
    return [sys.executable, "-m", "postfix_sync"]


@dataclass(frozen=True)
class Completed:
    """A command that has ended, with its exit status and output."""

    command: str
    status: int
    output: bytes
    """Its standard output."""
    stderr: str

    @functools.cached_property
    def stdout(self) -> str:
        """Its standard output as text."""
        return _text(self.output)

    @property
    def complaint(self) -> str:
        """Its standard error in one line, or else its exit status."""
        lines = "; ".join(line.strip() for line in self.stderr.splitlines() if line.strip())
        return lines or f"exit status {self.status}"


@functools.cache
def find_command(
    name: str,
    hint: str = "install Postfix on this host: postfix-sync runs beside it, not in the container",
) -> str:
    """Return the absolute path of a command. Raises ConfigError, with `hint`, if there is none."""
    path = shutil.which(name, path=SEARCH_PATH)
    if not path:
        raise ConfigError(f"{name}: no such command in {SEARCH_PATH}", hint)
    return path


async def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float = COMMAND_TIMEOUT,
    keep_open: Sequence[int] = (),
    directory: Path | None = None,
) -> Completed:
    """Run a command until it ends; `keep_open` are file descriptors that it inherits.

    `directory` is its working directory (default: that of this process).

    Raises ApplyError if it can't be started, TimedOut if it takes longer than `timeout` seconds and
    was killed.
    """
    command = _short(argv)
    with _memory_file(stdin) as given, _memory_file() as printed, _memory_file() as complained:
        process = await _start(
            argv,
            stdin=given,
            stdout=printed,
            stderr=complained,
            cwd=directory,
            pass_fds=keep_open,
        )
        try:
            async with asyncio.timeout(timeout):
                status = await process.wait()
        except TimeoutError:
            raise TimedOut(f"{command}: not done after {timeout:g} s; killed") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Completed(command, status, _content(printed), _text(_content(complained)))


async def _start(argv: Sequence[str], **how: Any) -> asyncio.subprocess.Process:
    """Start a command. Raises ApplyError if it can't be started."""
    try:
        return await asyncio.create_subprocess_exec(*argv, env=ENVIRONMENT, **how)
    except OSError as error:
        raise ApplyError(f"{_short(argv)}: can't be started: {why(error)}") from None


def _short(argv: Sequence[str]) -> str:
    """Name a command for messages: program and verb, `postfix reload`.

    Postfix's commands have the instance before the verb, `-c DIRECTORY`.
    """
    program, *rest = argv
    verb = rest[2:3] if rest[:1] == ["-c"] else rest[:1]
    return " ".join([Path(program).name, *(word for word in verb if not word.startswith("-"))])


@dataclass(frozen=True)
class Running:
    """A running command and its output."""

    command: str
    process: asyncio.subprocess.Process
    printed: asyncio.StreamReader
    complained: int

    async def prints(self, timeout: float | None) -> bool:
        """Wait for output, and return whether there was any within `timeout` seconds, if given.

        Raises OutOfReach, with its standard error, if the command has ended.
        """
        try:
            async with asyncio.timeout(timeout):
                if await self.printed.read(AT_A_TIME):
                    return True
                status = await self.process.wait()
        except TimeoutError:
            return False
        raise OutOfReach(f"{self.command}: has ended: {self._ended(status).complaint}")

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the output until the command ends, in blocks of whole lines.

        Raises ApplyError, with its standard error, if its exit status is not 0.
        """
        rest = b""
        while block := await self.printed.read(AT_A_TIME):
            lines, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield lines
        if status := await self.process.wait():
            raise ApplyError(self._ended(status).complaint)
        if rest:
            yield rest

    def _ended(self, status: int) -> Completed:
        return Completed(self.command, status, b"", _text(_content(self.complained)))


@contextlib.asynccontextmanager
async def running(argv: Sequence[str]) -> AsyncIterator[Running]:
    """Run a command until the block ends. Raises ApplyError if it can't be started."""
    # asyncio waits for its own pipes together with the process, and a child that the command leaves
    # behind may keep them open. So this pipe is not asyncio's.
    ours, theirs = os.pipe()
    printed = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(printed), os.fdopen(ours, "rb", 0)
    )
    with contextlib.closing(transport), _memory_file() as complained:
        try:
            process = await _start(
                argv, stdin=asyncio.subprocess.DEVNULL, stdout=theirs, stderr=complained
            )
        finally:
            os.close(theirs)
        try:
            yield Running(_short(argv), process, printed, complained)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@contextlib.contextmanager
def _memory_file(content: bytes = b"") -> Iterator[int]:
    descriptor = os.memfd_create("postfix-sync", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    parts, offset = [], 0
    while offset < size and (part := os.pread(descriptor, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _text(printed: bytes) -> str:
    return printed.decode("utf-8", "backslashreplace")
