"""The last states of the four maps, one file a generation, to go back to; and whether one is held.

A generation is what a pass left installed. It is kept after the maps were changed, so no list waits
for it; a state that was not kept, because the pass was killed there, is kept by the next one. The
same state again is the same generation, so a change that comes and goes fills no disk. A number is
never used again. What was in place last comes first, and what is too many goes from the end.

A hold is an order: written before the maps are changed, and obeyed by every pass until it is
taken away. Which generation is installed is only a note, made anew where it does not fit the maps.

Routes of removed lists that merely stay while mail waits for them are no part of a generation, and
the recipients are those of the routes: so 100,000 lists are 3.4 MB, and half a second of a pass.
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
from postfix_sync.mailman.names import check_entries
from postfix_sync.model import MAP_NAMES, Diff, MailmanTables, Maps, Notice
from postfix_sync.postfix.next_hop import parse_next_hops
from postfix_sync.store.json_reader import Damaged, parse
from postfix_sync.system.files import (
    denied_hint,
    discard,
    open_file,
    read_file,
    remove_file,
    replace_file,
    space_hint,
    unwritable,
)
from postfix_sync.text import iso

SUFFIX = ".json.gz"

LAST_NUMBER = 999_999_999
"""No generation has a larger one: a change a second takes 30 years to get there."""

UNPACKING = (OSError, EOFError, zlib.error)
"""What gzip raises where a file is damaged."""

Texts: TypeAlias = Mapping[str, tuple[int, int]]
"""What tells one version of the installed texts from another: by map, time of change (ns), size."""


class NoSuchGeneration(SyncError):
    """One was asked for that is not kept."""

    status = Exit.USAGE


@dataclass(frozen=True)
class Generation:
    """One state of the maps."""

    number: int
    at: float
    """When it was put in place the last time, in seconds since the epoch."""
    tables: MailmanTables
    hosts: Mapping[str, str]
    """The host names of its routes that had a known address, with that address.

    The hosts file gave it to them; or, if they must not enter that, routes had it instead of them.
    """


@dataclass(frozen=True)
class Hold:
    """The order to leave the maps as one generation has them."""

    generation: int | None
    """None: there is an order, but it can't be read."""
    since: float
    """Seconds since the epoch."""
    before: int | None = None
    """What was installed before the order, as far as that is known."""

    def __str__(self) -> str:
        number = "?" if self.generation is None else self.generation
        return f"held at generation {number} since {iso(self.since)}"


@dataclass(frozen=True)
class Generations:
    """What is kept in a state directory: `limit` generations at most."""

    state_directory: Path
    limit: int
    listing: str
    """The command that lists them, as an operator types it."""

    @property
    def directory(self) -> Path:
        """Where the generations are."""
        return self.state_directory / "generations"

    @property
    def _hold(self) -> Path:
        return self.state_directory / "held.json"

    @property
    def _note(self) -> Path:
        return self.state_directory / "installed.json"

    def path(self, number: int) -> Path:
        """The file of a generation."""
        return self.directory / f"{number}{SUFFIX}"

    def numbers(self) -> list[int]:
        """All that are kept, what was in place last first."""
        return [number for _, number in self._dated()]

    def _dated(self) -> list[tuple[int, int]]:
        """The same, each after the time (in ns) when it was put in place."""
        found = []
        for path in self.directory.glob(f"[1-9]*{SUFFIX}"):
            number = path.name.removesuffix(SUFFIX)
            if number.isascii() and number.isdecimal() and int(number) <= LAST_NUMBER:
                with suppress(FileNotFoundError):  # it goes as another comes
                    found.append((path.stat().st_mtime_ns, int(number)))
        return sorted(found, reverse=True)

    async def load(self, number: int) -> Generation:
        """A generation. Raises NoSuchGeneration, NotPermitted, or ApplyError if it is damaged."""
        return await asyncio.to_thread(self._load, number)

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
                f"there are {kept}: see {self.listing}" if kept else "none is kept yet",
            ) from None
        except PermissionError as error:
            raise NotPermitted(f"{path}: {why(error)}", denied_hint(path, error)) from None
        except (*UNPACKING, ValueError) as error:
            raise ApplyError(
                f"{path}: is damaged, so generation {number} can't be put back: {why(error)}",
                f"others can: see {self.listing}; this one is of no use: rm {path}",
            ) from None

    async def load_held(self, order: Hold) -> Generation:
        """The generation that is held. Raises as `load` does, and where the order says none."""
        if order.generation is None:
            raise ApplyError(f"{self._hold}: can't be read, so what is to be held is not known")
        return await self.load(order.generation)

    def installed(self, texts: Texts) -> int | None:
        """Which generation these texts of the maps are, None where that is not noted."""
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
        """What is wrong with the note of what is installed; the next one replaces it."""
        try:
            parse(read_file(self._note), _Note)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return Notice(
                f"{self._note}: is damaged: {why(error)}; it is written anew, and which generation"
                " is installed is not known until then"
            )
        return None

    async def keep(
        self,
        tables: MailmanTables,
        hosts: Mapping[str, str],
        texts: Texts,
        *,
        spare: int | None = None,
    ) -> int:
        """Keeps what is installed, and notes that it is; its number. For who holds the lock.

        `spare` is a generation that does not go for it, though it be one too many.

        Raises ApplyError or NotPermitted where it can't be written.
        """
        return await asyncio.to_thread(self._keep, tables, hosts, texts, spare)

    def _keep(
        self, tables: MailmanTables, hosts: Mapping[str, str], texts: Texts, spare: int | None
    ) -> int:
        content = _content(tables)
        digest = hashlib.sha256(content).hexdigest()
        header = json.dumps({"sha256": digest, "hosts": hosts}, sort_keys=True).encode()
        known = self.numbers()
        number = next((one for one in known if self._digest(one) == digest), None)
        number = number or self._next(known)
        path = self.path(number)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Also what is known already: this dates it, and mends it if it was damaged.
            replace_file(path, gzip.compress(header + b"\n" + content, 1, mtime=0))
        except OSError as error:
            raise _not_kept(path, error) from None
        self.note(number, texts)
        for old in self.numbers()[self.limit :]:
            if old not in (number, spare):
                discard(self.path(old))
        return number

    def _digest(self, number: int) -> str | None:
        """What a generation says of its content."""
        unreadable = suppress(*UNPACKING, ValueError)
        with unreadable, open_file(self.path(number)) as packed, gzip.open(packed) as file:
            return parse(file.readline(), _Header)["sha256"]
        return None

    def _next(self, known: list[int]) -> int:
        """A number that no generation ever had, though somebody may have removed some."""
        noted = self._read_note()
        hold = self.held()
        named = (noted and noted[0], hold and hold.generation, hold and hold.before)
        return 1 + max([*known, *(one or 0 for one in named)])

    def note(self, number: int, texts: Texts) -> None:
        """Notes that this generation is installed, as these texts. Raises as `keep` does."""
        noted = {"generation": number, "texts": {name: list(one) for name, one in texts.items()}}
        try:
            others = [at for at, one in self._dated() if one != number]
            # It comes first also where the clock was set back: the next one would else go for it.
            now = max([time.time_ns(), *(at + 1 for at in others)])
            os.utime(self.path(number), ns=(now, now))
            replace_file(self._note, json.dumps(noted).encode() + b"\n")
        except OSError as error:
            raise _not_kept(self._note, error) from None

    def discard_staged(self) -> None:
        """Removes what a pass left that was killed while it wrote; for who holds the lock."""
        for path in (
            *self.directory.glob(f".*{SUFFIX}.*"),
            *self.state_directory.glob(".*.json.*"),
        ):
            discard(path)

    def held(self) -> Hold | None:
        """The order that there is, if any; one that can't be read is an order as well."""
        try:
            found = parse(read_file(self._hold), _Hold)
            return Hold(found["generation"], float(found["since"]), found["before"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            since = 0.0
            with suppress(OSError):
                since = self._hold.lstat().st_mtime
            return Hold(None, since)

    def hold(self, order: Hold) -> None:
        """Gives the order. Raises ApplyError or NotPermitted; what was ordered before stays."""
        ordered = {
            "generation": order.generation,
            "since": order.since,
            "before": order.before,
        }
        try:
            replace_file(self._hold, json.dumps(ordered).encode() + b"\n")
        except OSError as error:
            raise unwritable(self._hold, error) from None

    async def put_back(self, order: Hold) -> Maps | None:
        """The entries that are installed for nothing but this order, as far as that is known."""
        if order.generation is None or order.before is None:
            return None
        try:
            held, before = await self.load(order.generation), await self.load(order.before)
        except SyncError:
            return None
        old, new = Maps.of(before.tables), Maps.of(held.tables)
        return Maps({name: Diff.between(old[name], new[name]).added for name in MAP_NAMES})

    def release(self) -> None:
        """Takes the order away. Raises ApplyError or NotPermitted; then it stays."""
        try:
            remove_file(self._hold)
        except OSError as error:
            raise unwritable(self._hold, error) from None


def _not_kept(path: Path, error: OSError) -> ApplyError:
    message = f"{path}: {why(error)}; what is installed now can't be gone back to later"
    return ApplyError(message, space_hint(path, message))


def _content(tables: MailmanTables) -> bytes:
    """Tables as bytes, the same for the same entries: the addresses by their next hop."""
    routes: dict[str, list[str]] = {}
    for address in sorted(tables.routes):
        routes.setdefault(tables.routes[address], []).append(address)
    content = {"routes": routes, "domains": tables.domains, "aliases": tables.aliases}
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode()


def _tables(content: bytes) -> MailmanTables:
    """Raises ValueError where it is nothing that `_content` has made."""
    found = parse(content, _Content)
    routes = {
        address: next_hop
        for next_hop, addresses in found["routes"].items()
        for address in addresses
    }
    if not all(map(parse_next_hops, found["routes"])):
        raise Damaged("it has a route that is no next hop")
    aliases = check_entries(found["aliases"])
    if not routes.keys() >= set(aliases.values()):
        raise Damaged("it has an alias that leads nowhere")
    return MailmanTables(check_entries(routes), check_entries(found["domains"]), aliases)


def _is_number(number: int) -> bool:
    return 0 < number <= LAST_NUMBER


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_pair(numbers: list[int]) -> bool:
    return len(numbers) == 2


_Number: TypeAlias = Annotated[int, _is_number]


class _Header(TypedDict):
    """The first line of a generation's file; the rest is its `_Content`."""

    sha256: str
    hosts: dict[str, Annotated[str, _is_address]]


class _Content(TypedDict):
    routes: dict[str, list[str]]
    """By next hop, the addresses."""
    domains: dict[str, str]
    aliases: dict[str, str]


class _Note(TypedDict):
    """installed.json."""

    generation: _Number
    texts: dict[str, Annotated[list[int], _is_pair]]


class _Hold(TypedDict):
    """held.json."""

    generation: _Number
    since: float
    before: _Number | None
