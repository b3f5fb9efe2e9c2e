"""Build and query tables with the postmap(1) of one Postfix instance."""

import io
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from postfix_sync.errors import ApplyError, SyncError
from postfix_sync.model.map_names import INDEX_SUFFIX
from postfix_sync.postfix.index_type import TEXT, IndexType
from postfix_sync.postfix.installed_text import read_lines
from postfix_sync.postfix.postconf import instance_command
from postfix_sync.system.commands import Completed, run
from postfix_sync.system.tasks import concurrently
from postfix_sync.system.threads import run_in_daemon_thread

SLOWEST = 100_000
"""Bytes a second that postmap(1) processes at least, on a slow disk and a busy host: measured, it
takes 5 s for 68 MB on two idle cores."""

SLOWEST_KEY = 0.5
"""Seconds for which postmap(1) may change one key of an lmdb index, on a slow and busy disk."""

CHUNK = 2**20
"""Bytes of a text, about 19,000 lines, that are compared with the answers of one postmap(1)."""

CHUNKS = 2
"""How many of them are compared at the same time."""

_VALUES = re.compile(rb"\t.*")


@dataclass(frozen=True)
class Postmap:
    """postmap(1) of the instance with this configuration and queue directory."""

    config_directory: Path
    queue_directory: Path
    habitual: frozenset[str]
    """The lines that it prints for every query: warnings about main.cf, not about a map."""

    async def build(self, kind: IndexType, text: Path, size: int, lock: int) -> None:
        """Compile a text of `size` bytes into the index beside it.

        postmap(1) inherits the file descriptor `lock`, and holds that lock as long as it runs.

        Raises ApplyError if postmap(1) prints anything about the map, because its exit status is 0
        even if it skips lines.
        """
        table = f"{kind.name}:{text}"
        done = await run(
            instance_command(self.config_directory, "postmap", table),
            keep_open=[lock],
            timeout=_long_enough(size),
        )
        said = self._about(kind, text, done)
        if done.status or said:
            raise _failed(f"postmap {table}", done, said)

    async def change(
        self,
        kind: IndexType,
        text: Path,
        new: Mapping[str, str],
        removed: Iterable[str],
        lock: int,
    ) -> None:
        """Change the index beside `text`: add or replace the entries `new`, then remove some keys.

        postmap(1) inherits the file descriptor `lock`, and holds that lock as long as it runs.

        Raises ApplyError as `build` does, and if none of the keys to remove is there.
        """
        table = f"{kind.name}:{text}"
        entries = "".join(f"{key}\t{value}\n" for key, value in new.items())
        gone = "".join(f"{key}\n" for key in removed)
        # Without -r, -i keeps the value of a key that exists (postmap(1)).
        for arguments, lines in ((["-i", "-r", table], entries), (["-d", "-", table], gone)):
            if not lines:
                continue
            done = await run(
                instance_command(self.config_directory, "postmap", *arguments),
                stdin=lines.encode(),
                keep_open=[lock],
                timeout=_long_enough(len(lines)) + SLOWEST_KEY * lines.count("\n"),
            )
            said = self._about(kind, text, done)
            if done.status or said:
                raise _failed(f"postmap {' '.join(arguments)}", done, said)

    async def query(self, kind: IndexType, text: Path, keys: Sequence[str]) -> dict[str, str]:
        """Query the index beside `text` for `keys`; return the entries that it has.

        Raises ApplyError if postmap(1) fails, or prints anything else about the map.
        """
        return _pairs(await self._query_index(kind, text, _lines(keys)))

    async def differing(self, kind: IndexType, index_text: Path, text: Path | bytes) -> str | None:
        """Return the first key of `text` for which the index beside `index_text` has not its value.

        Return None if there is none. `text` is a text as this program installs it: one comment,
        then lines of KEY, tab, VALUE. postmap(1) prints such lines for the keys that it finds, in
        the order of the query, so its output is compared with the text, CHUNK by CHUNK. A line of
        any other form differs, and a key with capital letters too, since the index has it folded.

        A key that only the index has is not found: of a cdb, postmap(1) can't list the keys.

        Raises ApplyError as `query` does, OSError if the text can't be read.
        """
        with io.BytesIO(text) if isinstance(text, bytes) else text.open("rb") as lines:
            if not lines.readline().startswith(b"#"):
                lines.seek(0)
            while chunks := await run_in_daemon_thread(_chunks, lines):
                found = await concurrently(
                    *(self._wrong(kind, index_text, chunk) for chunk in chunks)
                )
                if wrong := next(filter(None, found), None):
                    return wrong
        return None

    async def _wrong(self, kind: IndexType, index_text: Path, chunk: bytes) -> str | None:
        """Return the first key of `chunk` of which `differing` is true."""
        keys = _VALUES.sub(b"", chunk)
        done = await self._query_index(kind, index_text, keys)
        if done.output == chunk and keys.lower() == keys:
            return None
        return _first_wrong(chunk, done.output)

    async def look_up(self, table: str, keys: Iterable[str], *, timeout: float) -> dict[str, str]:
        """Query any table that main.cf may name for `keys`; return the entries that it has.

        Raises ApplyError if the table cannot be queried, or not within `timeout` seconds.
        """
        done = await self._query(table, _lines(keys), timeout=timeout)
        said = self._complaints(done)
        if any(": fatal: " in line or ": error: " in line for line in said):
            raise _failed(f"postmap -q - {table}", done, said)
        return _pairs(done)

    async def keys(self, table: str, at_most: int) -> list[str]:
        """Return some keys of an indexed table. Raises ApplyError if it can't be read."""
        argv = instance_command(self.config_directory, "postmap", "-s", table)
        done = await run(argv)
        if done.status:
            raise _failed(f"postmap -s {table}", done, self._complaints(done))
        lines = done.stdout.split("\n", at_most)[:at_most]
        return [line.partition("\t")[0] for line in lines if line]

    async def try_out(self, name: str) -> IndexType | None:
        """Build and query a tiny map of a type; None if that is not possible."""
        try:
            with tempfile.TemporaryDirectory(prefix="postfix-sync-") as directory:
                text = Path(directory) / "map"
                text.write_text("key value\n")
                table = f"{name}:{text}"
                built = await run(instance_command(self.config_directory, "postmap", table))
                queried = await run(
                    instance_command(self.config_directory, "postmap", "-q", "key", table)
                )
                opened = [
                    kind
                    for kind in (name, *INDEX_SUFFIX)
                    if IndexType(kind, kind).index(text).exists()
                ]
        except (OSError, SyncError):
            return None
        if built.status or queried.status or not opened:
            return None
        lines = {*self._complaints(built), *self._complaints(queried)}
        standing = frozenset(line.replace(str(text), TEXT) for line in lines)
        return IndexType(name, opened[0], standing)

    async def _query_index(self, kind: IndexType, text: Path, keys: bytes) -> Completed:
        """Query the index beside `text` for lines of keys. Raises ApplyError as `query` does."""
        table = f"{kind.name}:{text}"
        done = await self._query(table, keys, timeout=_long_enough(len(keys)))
        said = self._about(kind, text, done)
        # An index that is older than its text can still be queried.
        older = f"is older than source file {text}"
        if any(not line.endswith(older) for line in said):
            raise _failed(f"postmap -q - {table}", done, said)
        return done

    async def _query(self, table: str, keys: bytes, *, timeout: float) -> Completed:
        # Postfix's daemons run in the queue directory, so the path of a socket may be relative.
        done = await run(
            instance_command(self.config_directory, "postmap", "-q", "-", table),
            stdin=keys,
            timeout=timeout,
            directory=self.queue_directory if self.queue_directory.is_dir() else None,
        )
        # Status 1 without output means that none of the keys was found.
        if done.status not in (0, 1):
            raise _failed(f"postmap -q - {table}", done, self._complaints(done))
        return done

    def _complaints(self, done: Completed) -> list[str]:
        return [line for line in done.stderr.splitlines() if line and line not in self.habitual]

    def _about(self, kind: IndexType, text: Path, done: Completed) -> list[str]:
        """Return postmap(1)'s lines about one map, without those about main.cf and the type."""
        return [line for line in self._complaints(done) if not kind.is_standing(line, text)]


def _chunks(lines: BinaryIO) -> list[bytes]:
    return [chunk for _ in range(CHUNKS) if (chunk := read_lines(lines, CHUNK))]


def _failed(command: str, done: Completed, said: Sequence[str]) -> ApplyError:
    """Make the error of a postmap(1) that printed lines (`said`) about its map, or failed."""
    return ApplyError(f"{command}: {'; '.join(said) or done.complaint}")


def _long_enough(size: int) -> float:
    """Return the timeout in seconds of a postmap(1) that processes `size` bytes."""
    return 60 + size / SLOWEST


def _pairs(done: Completed) -> dict[str, str]:
    """Parse what `postmap -q -` prints."""
    pairs = (line.partition("\t") for line in done.stdout.split("\n") if line)
    return {key: value for key, _, value in pairs}


def _lines(keys: Iterable[str]) -> bytes:
    return "".join(f"{key}\n" for key in keys).encode()


def _first_wrong(lines: bytes, answers: bytes) -> str:
    """Return the key of the first line that is not its answer, or that is not folded."""
    key = b""
    for line, answer in zip_longest(io.BytesIO(lines), io.BytesIO(answers)):
        key = _VALUES.sub(b"", line.rstrip(b"\n"))
        if line != answer or key.lower() != key:
            break
    return key.decode("utf-8", "backslashreplace")
