"""Read the entries of one of Mailman's files, in both of its formats. Pure.

Keys are plain, or (transport_file_type: regex) one of a few fixed regular expressions, which are
turned back into the plain keys that they stand for.

The source is not trusted: a line in any other form refuses the file, and the message names the
line.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from postfix_sync.errors import Refused, quote
from postfix_sync.model.list_addresses import ADDRESSES_PER_LIST
from postfix_sync.model.list_block import alias_block, list_block
from postfix_sync.model.source import SourceFile
from postfix_sync.model.table import Aliases, Table
from postfix_sync.postfix.folding import Fold

MAILMAN_ALIASES = (
    "as Mailman's own user, mailman aliases"
    " (in its container: docker exec -u mailman CONTAINER mailman aliases)"
)
"""The command that makes Mailman write its files; as root, mailman refuses to run."""

REFUSED = "refused, Postfix keeps the last good maps"
"""The consequence of invalid content, for messages."""

MAX_LINE = 2048
"""Bytes of a line at most: Postfix's line_length_limit. An address has 320 bytes at most."""

T = TypeVar("T", bound=Table[str])

MAX_LISTS = 150_000
"""Lists of one source at most: seven times as many as the largest known site has. It limits the
entries of a file, each of which takes memory and time, to the addresses of so many lists."""

MAX_OTHER_LINES = 1000
"""Comments and blank lines that a file may have in excess of its entries. Mailman writes a header
of eight lines, and one line for each domain and for each list, which has nine entries."""

# If an address has six dots, Mailman's postfix_vmap has no blank between a key and its value.
_REGEX_ENTRY = re.compile(r"(/\^[^/]*\$/)[ \t]*(.*)")
_BLANKS = re.compile(r"[ \t]+")
_LIST = list_block(rb"[ \t]+", rb"[^\s\0]+", rb" *\n")
_ALIAS = alias_block(rb"[ \t]+", rb" *\n")
_REGEX_KEY = re.compile(r"/\^(?P<body>.*)\$/")
_ANY_EXTENSION = r"(\+.*)?@"
_ESCAPED_DOTS_ONLY = re.compile(r"(?:[^.\\]|\\\.)*")


def _plain_key(text: str) -> str:
    """Return the address or domain that one of Mailman's regular expressions matches.

    Raises ValueError if Mailman writes no such expression.
    """
    found = _REGEX_KEY.fullmatch(text)
    body = found["body"] if found else ""
    if _ANY_EXTENSION in body:
        local, _, domain = body.partition(_ANY_EXTENSION)
        if not local.endswith(("-bounces", "-confirm")):
            raise ValueError(f"{quote(text)}: only -bounces and -confirm take any extension")
        body = f"{local}@{domain}"
    if not body or not _ESCAPED_DOTS_ONLY.fullmatch(body):
        raise ValueError(f"{quote(text)} is not a regular expression that Mailman writes")
    return body.replace("\\.", ".")


class UnfitError(ValueError):
    """An entry that follows from Mailman's own settings, so that Mailman would write it again."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


class _Line(NamedTuple):
    """One entry of a file: a key, not yet folded, and the rest of the line."""

    number: int
    key: str
    value: str
    regex: bool
    is_list: bool = False
    """Whether it stands for the nine lines of the list `key`, with the list's value."""


def refuse(file: SourceFile, number: int, problem: ValueError | str) -> Refused:
    return Refused(
        f"{file.place}:{number}: {problem}; {REFUSED}",
        problem.hint
        if isinstance(problem, UnfitError)
        else f"if Mailman wrote this, let it write the file again: {MAILMAN_ALIASES}",
    )


def _entries(
    file: SourceFile, at_most: int, block: re.Pattern[bytes] | None = None
) -> Iterator[_Line]:
    """Yield the entries of a file in order, each checked for text that Mailman never writes.

    If `block` is given, nine lines that match it are one entry: those of a list (list_block.py).
    Its memory does not grow with the file. Raises `Refused`, also if there are more than `at_most`
    entries, or more comments and blank lines than MAX_OTHER_LINES permits.
    """
    content = file.content
    if content and not content.endswith(b"\n"):
        raise refuse(
            file, content.count(b"\n") + 1, "the last line has no newline; the file is truncated"
        )
    number = entries = start = 0
    while start < len(content):
        number += 1
        if block and (found := _list_at(block, content, start)):
            name, value, start = found
            entries += ADDRESSES_PER_LIST
            if entries > at_most:
                raise refuse(file, number, f"the file has more than {at_most} entries")
            yield _Line(number, name, value, regex=False, is_list=True)
            number += ADDRESSES_PER_LIST - 1
            continue
        end = content.index(b"\n", start)
        try:
            line = _decode(content, start, end)
            if not line.strip(" ") or line.startswith("#"):
                if number - entries > MAX_OTHER_LINES + entries:
                    raise ValueError(
                        f"too many comments and blank lines: {number - entries} up to here, at most"
                        f" {entries + MAX_OTHER_LINES} are allowed beside {entries} entries"
                    )
            else:
                entries += 1
                if entries > at_most:
                    raise ValueError(f"the file has more than {at_most} entries")
                yield _Line(number, *_split(line))
        except ValueError as error:
            raise refuse(file, number, str(error)) from None
        start = end + 1


def _list_at(block: re.Pattern[bytes], content: bytes, start: int) -> tuple[str, str, int] | None:
    """Return name and value of the list whose nine lines begin there, and where they end.

    None if other lines begin there, or if they have to be read one by one: because they are not
    ASCII, are long, or begin like a regular expression.
    """
    # The pattern holds the interpreter's lock, so it must not run through a line of any length.
    found = block.match(content, start, start + MAX_LINE)
    if not found or not found[0].isascii() or content.startswith(b"/", start):
        return None
    return found["name"].decode(), found["value"].decode(), found.end()


def _split(line: str) -> tuple[str, str, bool]:
    """Return the key and the value of an entry, and whether the key is a regular expression.

    Raises ValueError with the problem.
    """
    if line[0] in " \t":
        raise ValueError("begins with a blank, so it would continue the line before it")
    if line.startswith("/^") and (found := _REGEX_ENTRY.fullmatch(line.rstrip(" "))):
        key, value = found.groups()
    else:
        found = None
        key, *rest = _BLANKS.split(line.rstrip(" "), maxsplit=1)
        value = rest[0] if rest else ""
    if not value:
        raise ValueError(f"{quote(line)} is not a key, blanks and a value")
    return key, value, found is not None


def _decode(content: bytes, start: int, end: int) -> str:
    """Return one line as text. Raises ValueError for bytes that Mailman never writes."""
    if end - start > MAX_LINE:
        raise ValueError(f"the line has {end - start} bytes, {MAX_LINE} at most are allowed")
    raw = content[start:end]
    if b"\r" in raw:
        raise ValueError("has a carriage return (CRLF line ends?)")
    if b"\0" in raw:
        raise ValueError("has a NUL byte")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ValueError("begins with a byte order mark")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not valid UTF-8") from None


def parse_entries(
    file: SourceFile,
    fold: Fold,
    check_key: Callable[[str], str],
    read_value: Callable[[str, str], str],
    at_most: int = MAX_LISTS * ADDRESSES_PER_LIST,
) -> dict[str, str]:
    """Return a file's table, with keys checked and folded, and values read.

    All keys must have the same format, plain or regular expressions. `read_value` gets the folded
    key and the value, and raises ValueError with the problem. Raises `Refused`.
    """
    return _parsed(file, _entries(file, at_most), fold, check_key, read_value)[1]


def parse_lists(
    kind: type[T],
    file: SourceFile,
    fold: Fold,
    check_key: Callable[[str], str],
    read_value: Callable[[str, str], str],
) -> T:
    """Return a file's table of addresses, read by list where Mailman wrote the nine of a list.

    It is the table of what `parse_entries` returns. Raises `Refused`; of several problems, it may
    name another one than `parse_entries`.
    """
    block = _ALIAS if issubclass(kind, Aliases) else _LIST
    at_most = MAX_LISTS * ADDRESSES_PER_LIST
    parsed = _parsed(file, _entries(file, at_most, block), fold, check_key, read_value)
    table = kind.agreeing(*parsed)
    if table is None:  # an address has two values: the line is found by address
        table = kind.of(parse_entries(file, fold, check_key, read_value, at_most))
    return table


def _parsed(
    file: SourceFile,
    entries: Iterable[_Line],
    fold: Fold,
    check_key: Callable[[str], str],
    read_value: Callable[[str, str], str],
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the values of lists, and those of single keys; see `parse_entries`."""
    lists: dict[str, str] = {}
    others: dict[str, str] = {}
    regex: bool | None = None
    for line in entries:
        if regex is None:
            regex = line.regex
        try:
            if line.regex != regex:
                raise ValueError("plain keys and regular expressions in one file")
            key = fold(check_key(_plain_key(line.key) if line.regex else line.key))
            value = read_value(key, line.value)
            # A key may occur twice: the lists ants and ants-owner share ants-owner@.
            if (lists if line.is_list else others).setdefault(key, value) != value:
                raise ValueError(f"duplicate key {quote(key)}, with another value")
        except ValueError as error:
            raise refuse(file, line.number, error) from None
    return lists, others
