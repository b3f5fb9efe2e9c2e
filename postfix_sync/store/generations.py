"""Keep the last states of the four maps as generations, one file each.

A generation is a state that a sync installed. The sync writes it after it has changed the maps, so
that no list is delayed; if the sync is killed before that, the next sync writes the generation. The
same state has the same generation, so a change that is undone and made again takes no space on the
disk. No number is used twice. The generations are ordered by the time when they were last
installed; the oldest in excess of the limit are removed.

A note names the installed generation; it is written again if it does not match the maps. The order
to keep one of them installed is in hold.py.

A generation has no routes of removed lists, which the maps keep while mail for them is queued; and
its recipients are those of the routes. So 100,000 lists are 3.4 MB, and half a second of a sync.
"""

import asyncio
import gzip
import hashlib
import ipaddress
import json
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias, TypedDict

from postfix_sync.errors import ApplyError, Exit, NotPermitted, SyncError, why
from postfix_sync.model.map_names import MAP_NAMES
from postfix_sync.model.maps import Diff, Maps
from postfix_sync.model.notice import Notice
from postfix_sync.model.source import MailmanTables
from postfix_sync.postfix.next_hop import parse_next_hops
from postfix_sync.store.generation_number import LAST_NUMBER, Number
from postfix_sync.store.hold import Hold, HoldFile
from postfix_sync.store.json_reader import Damaged, Pair, loads, parse
from postfix_sync.store.tables_json import as_json, from_json
from postfix_sync.system.files import (
    denied_hint,
    discard,
    open_file,
    read_file,
    replace_file,
    space_hint,
)
from postfix_sync.system.threads import run_in_daemon_thread

SUFFIX = ".json.gz"

UNPACKING = (OSError, EOFError, zlib.error)
"""The exceptions that gzip raises if a file is damaged."""

Texts: TypeAlias = Mapping[str, tuple[int, int]]
"""By map, the time of change (ns) and size of the installed text, which differ between versions."""


class NoSuchGeneration(SyncError):
    """The error for the number of a generation that is not kept."""

    status = Exit.USAGE


@dataclass(frozen=True)
class Generation:
    """One state of the maps."""

    number: int
    at: float
    """The time when it was last installed, in seconds since the epoch."""
    tables: MailmanTables
    hosts: Mapping[str, str]
    """The host names of its routes that had a known address, each with that address.

    The hosts file had the name; or, if the name must not enter that file, routes had the address
    instead of the name.
    """


@dataclass(frozen=True)
class Generations:
    """The generations in a state directory, `limit` at most."""

    state_directory: Path
    limit: int
    listing: str
    """The command that lists the generations, as an operator types it."""

    @property
    def directory(self) -> Path:
        """Return the directory of the generations' files."""
        return self.state_directory / "generations"

    @property
    def _hold_file(self) -> HoldFile:
        return HoldFile(self.state_directory)

    @property
    def _note(self) -> Path:
        return self.state_directory / "installed.json"

    def path(self, number: int) -> Path:
        """Return the file of a generation."""
        return self.directory / f"{number}{SUFFIX}"

    def numbers(self) -> list[int]:
        """Return the numbers of all generations, the last installed first."""
        return [number for _, number in self._dated()]

    def _dated(self) -> list[tuple[int, int]]:
        """Return (time when last installed in ns, number) of all generations, the last first."""
        found = []
        for path in self.directory.glob(f"[1-9]*{SUFFIX}"):
            number = path.name.removesuffix(SUFFIX)
            if number.isascii() and number.isdecimal() and int(number) <= LAST_NUMBER:
                with suppress(FileNotFoundError):  # a sync is removing it
                    found.append((path.stat().st_mtime_ns, int(number)))
        return sorted(found, reverse=True)

    async def load(self, number: int) -> Generation:
        """Read a generation. Raises NoSuchGeneration, NotPermitted, or ApplyError if damaged."""
        return await run_in_daemon_thread(self._load, number)

    def _load(self, number: int) -> Generation:
        path = self.path(number)
        try:
            at = path.stat().st_mtime
            header, _, content = gzip.decompress(read_file(path)).partition(b"\n")
            described = parse(header, _Header)
            if hashlib.sha256(content).hexdigest() != described["sha256"]:
                raise Damaged("its content is not what was written")
            return Generation(number, at, _tables(content), described["hosts"])
        except FileNotFoundError:
            kept = ", ".join(map(str, sorted(self.numbers())))
            raise NoSuchGeneration(
                f"{path}: there is no generation {number}",
                f"there are {kept}: see {self.listing}" if kept else "no generation is kept yet",
            ) from None
        except PermissionError as error:
            raise NotPermitted(f"{path}: {why(error)}", denied_hint(path, error)) from None
        except (*UNPACKING, ValueError) as error:
            raise ApplyError(
                f"{path}: is damaged, so generation {number} can't be installed: {why(error)}",
                f"see {self.listing} for other generations; remove the damaged file: rm {path}",
            ) from None

    async def load_held(self, order: Hold) -> Generation:
        """Read the generation that is held.

        Raises the errors of `load`, and ApplyError if the order can't be read.
        """
        if order.generation is None:
            problem = "can't be read, so it is unknown which generation to hold"
            raise ApplyError(f"{self._hold_file.path}: {problem}")
        return await self.load(order.generation)

    def installed(self, texts: Texts) -> int | None:
        """Return the generation that the note names for these texts of the maps; None if none."""
        noted = self._read_note()
        if noted and noted[1] == texts and self.path(noted[0]).exists():
            return noted[0]
        return None

    def _read_note(self) -> tuple[int, Texts] | None:
        with suppress(OSError, ValueError):
            found = parse(read_file(self._note), _Note)
            texts = {name: (mtime, size) for name, (mtime, size) in found["texts"].items()}
            return found["generation"], texts
        return None

    def damage(self) -> Notice | None:
        """Return a notice if the note of the installed generation is damaged."""
        try:
            parse(read_file(self._note), _Note)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return Notice(
                f"{self._note}: is damaged: {why(error)}; the next sync writes it again, and until"
                " then it is unknown which generation is installed"
            )
        return None

    async def keep(
        self,
        tables: "Packed",
        hosts: Mapping[str, str],
        texts: Texts,
        *,
        spare: int | None = None,
    ) -> int:
        """Write the installed state as a generation, note it as installed, and return its number.

        The caller holds the lock. `spare` is a generation that is not removed, even if it exceeds
        the limit.

        Raises ApplyError or NotPermitted if a file can't be written.
        """
        return await asyncio.to_thread(self._keep, tables, hosts, texts, spare)

    def _keep(
        self, tables: "Packed", hosts: Mapping[str, str], texts: Texts, spare: int | None
    ) -> int:
        header = json.dumps({"sha256": tables.sha256, "hosts": hosts}, sort_keys=True).encode()
        known = self.numbers()
        number = next((old for old in known if self._digest(old) == tables.sha256), None)
        number = number or self._next(known)
        path = self.path(number)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # A known generation is written again, too: this dates it, and repairs a damaged file.
            replace_file(path, _compressed(header + b"\n") + tables.content)
        except OSError as error:
            raise _not_kept(path, error) from None
        self.note(number, texts)
        for old in self.numbers()[self.limit :]:
            if old not in (number, spare):
                discard(self.path(old))
        return number

    def _digest(self, number: int) -> str | None:
        """Read the digest in a generation's header; None if it can't be read."""
        unreadable = suppress(*UNPACKING, ValueError)
        with unreadable, open_file(self.path(number)) as packed, gzip.open(packed) as file:
            return parse(file.readline(), _Header)["sha256"]
        return None

    def _next(self, known: list[int]) -> int:
        """Return a number that no generation ever had, even if an operator removed some files."""
        noted = self._read_note()
        hold = self._hold_file.read()
        named = (noted and noted[0], hold and hold.generation, hold and hold.before)
        return 1 + max([*known, *(number or 0 for number in named)])

    def note(self, number: int, texts: Texts) -> None:
        """Note that this generation is installed as these texts. Raises the errors of `keep`."""
        noted = {"generation": number, "texts": {name: list(text) for name, text in texts.items()}}
        try:
            others = [at for at, other in self._dated() if other != number]
            # It comes first even if the clock was set back; else the next `keep` would remove it.
            now = max([time.time_ns(), *(at + 1 for at in others)])
            os.utime(self.path(number), ns=(now, now))
            replace_file(self._note, json.dumps(noted).encode() + b"\n")
        except OSError as error:
            raise _not_kept(self._note, error) from None

    def discard_staged(self) -> None:
        """Remove the staged files of a sync that was killed; the caller holds the lock."""
        for path in (
            *self.directory.glob(f".*{SUFFIX}.*"),
            *self.state_directory.glob(".*.json.*"),
        ):
            discard(path)

    async def restored(self, order: Hold) -> Maps | None:
        """Return the entries that are installed only because of this order; None if unknown."""
        if order.generation is None or order.before is None:
            return None
        try:
            held, before = await self.load(order.generation), await self.load(order.before)
        except SyncError:
            return None
        old, new = Maps.of(before.tables), Maps.of(held.tables)
        return Maps({name: Diff.between(old[name], new[name]).added for name in MAP_NAMES})


@dataclass(frozen=True)
class Packed:
    """The tables of a generation as they are stored."""

    sha256: str
    content: bytes
    """A member of a gzip file (RFC 1952), in which the header is another one."""


def pack(tables: MailmanTables) -> Packed:
    """Return tables as a generation stores them; equal tables give equal bytes."""
    document = as_json(tables)
    for names in (*document["lists"].values(), *document["addresses"].values()):
        names.sort()
    content = json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
    return Packed(hashlib.sha256(content).hexdigest(), _compressed(content))


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def _not_kept(path: Path, error: OSError) -> ApplyError:
    message = f"{path}: {why(error)}; a rollback can't install the present state later"
    return ApplyError(message, space_hint(path, message))


def _tables(content: bytes) -> MailmanTables:
    """Read the JSON of `pack`. Raises ValueError if it is damaged."""
    return from_json(loads(content), _check_route)


def _check_route(value: str) -> None:
    if not parse_next_hops(value):
        raise Damaged("a route is not a next hop")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class _Header(TypedDict):
    """The first line of a generation's file; the rest has the tables (tables_json.py)."""

    sha256: str
    hosts: dict[str, Annotated[str, _is_address]]


class _Note(TypedDict):
    """The content of installed.json."""

    generation: Number
    texts: dict[str, Pair]
