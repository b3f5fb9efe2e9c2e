"""Read again only those parts of a file of lists that have changed since it was accepted. Pure.

A file is divided into blocks of some hundred lists, each with a digest. Blocks at the beginning and
at the end of a file that have the same digests as before have the same lists. What is between them
is parsed, and so is Mailman's header, which has the time. Any unusual file is read as a whole: it
has blocks only if all of its entries are tiles (tiles.py), so that they are lists, in order.
"""

import io
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple, TypeVar

from postfix_sync.errors import Refused
from postfix_sync.mailman.entries import MAX_DESTINATIONS, MAX_LISTS, MAX_OTHER_LINES
from postfix_sync.mailman.tiles import (
    BEFORE_REGEX,
    FIRST_ENTRY,
    LINE,
    NAME,
    of_aliases,
    of_routes,
    pieces,
    read,
)
from postfix_sync.model.aliases import Aliases
from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST, addresses_of, list_with
from postfix_sync.model.source import Block, Blocks, SourceFile, Stream
from postfix_sync.model.table import Table

MOST_BYTES = 2**22
"""Bytes of a block, and bytes to parse, at most: a reading of the whole file would be as fast."""

MOST_BLOCKS = 1000
"""Blocks of a file at most: each change of a file adds one."""

T = TypeVar("T", bound=Table[str])


class _UnusualError(Exception):
    """A file, or a change of it, that only a reading of the whole file can judge."""


def read_whole(file: SourceFile, parse: Callable[[SourceFile], T]) -> tuple[T, Blocks | None]:
    """Parse a file with `parse`; return its table, and its blocks.

    None for the blocks if the file has other entries than the lists of the table in Mailman's form,
    or no entry.
    """
    parsed, divided = _Summed(file.stream), _Summed(file.stream)
    table = parse(replace(file, stream=parsed))
    try:
        blocks = _divided(replace(file, stream=divided), table, _first_entry(file))
    except _UnusualError:
        return table, None
    same = parsed.sum == divided.sum and divided.sum[0] == file.size
    return table, blocks if same and _lists(blocks.blocks) == len(table.lists) else None


class _Summed:
    """A stream that sums what is read of it in order, so that two readings can be compared.

    A file that is written in place may change between them.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._position = 0
        self.sum = (0, 0)
        """The number of bytes, and their CRC-32."""

    def seek(self, offset: int, /) -> int:
        """Go to a position."""
        self._position = self._stream.seek(offset)
        return self._position

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes."""
        data = self._stream.read(size)
        summed, checksum = self.sum
        if self._position == summed:
            self.sum = (summed + len(data), zlib.crc32(data, checksum))
        self._position += len(data)
        return data


def reread(
    file: SourceFile, known: Blocks, table: T, parse: Callable[[SourceFile], T]
) -> tuple[T, Blocks] | None:
    """Return the table of a file, and its blocks, by what was read of it before.

    `known` are its previous blocks, and `table` has their lists in order. `parse` reads a file as a
    whole. None if only that says what the file has, or what is wrong with it.
    """
    try:
        return _reread(file, known, table, parse)
    except (_UnusualError, Refused):
        return None


def _reread(
    file: SourceFile, known: Blocks, table: T, parse: Callable[[SourceFile], T]
) -> tuple[T, Blocks]:
    begin = _first_entry(file)
    header = read(file, 0, begin)
    changed = _changed(file, begin, known.blocks)
    head, tail = known.blocks[: changed.first], known.blocks[changed.last :]
    if changed.end - changed.start > MOST_BYTES or len(head) + len(tail) >= MOST_BLOCKS:
        raise _UnusualError
    part = _part(file, read(file, changed.start, changed.end - changed.start))
    parse(_part(file, header))  # it may have more than comments
    middle = parse(part)
    between = _divided(part, middle, 0) if middle else Blocks(known.regex, ())
    blocks = (*head, *between.blocks, *tail)
    _check_limits(header.count(b"\n"), blocks)
    if between.regex != known.regex or begin + sum(block.size for block in blocks) != file.size:
        raise _UnusualError  # in size: what has changed is comments
    if not middle and _lists(head) + _lists(tail) == len(table.lists):
        return table, Blocks(known.regex, blocks)
    next_hops = middle.distinct_values() | table.distinct_values()
    if not isinstance(table, Aliases) and len(next_hops) > MAX_DESTINATIONS:
        raise _UnusualError
    new = _replaced(table, _lists(head), len(table.lists) - _lists(tail), middle)
    if len(new.lists) < _lists(blocks):
        raise _UnusualError  # a list is there twice
    return new, Blocks(known.regex, blocks)


def _replaced(table: T, first: int, last: int, new: T) -> T:
    """Return a table with the lists of `new` in place of the `first` to before the `last`.

    Both tables have nothing but lists, and the order of all is kept. Raises _UnusualError if a list
    has an address of another one then.
    """
    lists = dict(islice(table.lists.items(), first))
    lists.update(new.lists)
    lists.update(islice(table.lists.items(), last, None))
    addresses = {address for name in new.lists for address in addresses_of(name)}
    shares = addresses & lists.keys() != new.lists.keys()
    if shares or table.shared or any(list_with(name) in lists for name in new.lists):
        raise _UnusualError
    return type(table)(lists, {}, frozenset())


def _first_entry(file: SourceFile) -> int:
    """Return where the first entry begins, if it is in the first piece."""
    found = FIRST_ENTRY.search(read(file, 0, file.piece))
    if not found:
        raise _UnusualError
    return found.start()


def _divided(file: SourceFile, table: Table[str], start: int) -> Blocks:
    """Divide a file into blocks, from `start` on."""
    regex = read(file, _first_entry(file), len(BEFORE_REGEX)) == BEFORE_REGEX
    blocks: list[Block] = []
    for tiles, text in pieces(file, of_aliases() if isinstance(table, Aliases) else of_routes()):
        others = [tile[LINE] for tile in tiles if not tile[NAME]]
        if any(line.strip(b" ") and not line.startswith(b"#") for line in others):
            raise _UnusualError
        skipped = text.count(b"\n", 0, start)
        content = memoryview(text)[start:]
        lists = len(tiles) - len(others)
        blocks.append(Block(len(content), _digest(content), lists, len(others) - skipped))
        start = 0
    return Blocks(regex, tuple(blocks))


def _digest(content: bytes | memoryview) -> str:
    """Return two checksums of a block, with 64 bits together.

    Files are read as a whole each hour, so a list may have to wait for that if both are the same by
    chance, or by design of a source, which could as well not write the list. A cryptographic digest
    takes four times as long, and that is most of what a change of one list takes.
    """
    return f"{zlib.crc32(content):08x}{zlib.adler32(content):08x}"


class _Change(NamedTuple):
    """What of a file has changed."""

    first: int
    """The number of the first block that has changed."""
    last: int
    """The number of the first one after the change."""
    start: int
    end: int
    """Where the changed part begins and ends."""


def _changed(file: SourceFile, start: int, blocks: Sequence[Block]) -> _Change:
    """Find what of a file has changed, from the first entry at `start` on."""
    first, last, end = 0, len(blocks), file.size
    while first < last and _is_at(file, start, end, blocks[first]):
        start += blocks[first].size
        first += 1
    while last > first and _is_at(file, end - blocks[last - 1].size, end, blocks[last - 1], start):
        end -= blocks[last - 1].size
        last -= 1
    if last < len(blocks) and end > start and read(file, end - 1, 1) != b"\n":
        # The block begins with an empty line, and what was inserted after that ends with one.
        end += blocks[last].size
        last += 1
    return _Change(first, last, start, end)


def _is_at(file: SourceFile, start: int, end: int, block: Block, least: int = 0) -> bool:
    """Return whether a block is at `start`, and within `least` and `end`."""
    if start < least or start + block.size > end:
        return False
    return _digest(read(file, start, block.size)) == block.digest


def _part(file: SourceFile, content: bytes) -> SourceFile:
    return SourceFile(file.place, io.BytesIO(content), len(content), file.piece)


def _lists(blocks: Iterable[Block]) -> int:
    return sum(block.lists for block in blocks)


def _check_limits(header: int, blocks: Sequence[Block]) -> None:
    """Check that blocks after `header` lines break no limit, wherever their comments are."""
    excess = header
    for block in blocks:
        if excess + block.others > MAX_OTHER_LINES:
            raise _UnusualError
        excess += block.others - ADDRESSES_PER_LIST * block.lists
    if _lists(blocks) > MAX_LISTS:
        raise _UnusualError
