"""Mailman's files with many lists: rewritten whole at each change, as Mailman does."""

import time
from bisect import insort
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.parts.mailman_files import HEADER, MailmanFiles, domains_text, lmtp_text

HOP = "lmtp:[127.0.0.1]:8024"

DOMAINS = 10
"""The number of mail domains, if there are enough lists."""

_WRITTEN = "2026-11-22 10:00:00"
"""The time in HEADER."""

_BEGIN = datetime(2026, 12, 1, tzinfo=UTC)


def list_name(number: int, count: int, suffix: str = "") -> str:
    """Return the name of one of `count` lists."""
    return f"list{number:06}{suffix}@lists{number % domains_of(count)}.example.net"


def domains_of(count: int) -> int:
    """Return the number of mail domains of so many lists."""
    return DOMAINS if count >= 10 * DOMAINS else 1


class ListFiles:
    """A Mailman's lists, and the files that it writes for Postfix."""

    def __init__(self, directory: Path, count: int, *, hop: str = HOP, regex: bool = False) -> None:
        """Write the files of `count` lists; with `regex`, as docker-mailman has them."""
        self.files = MailmanFiles(directory)
        self.count = count
        self._hop = hop
        self._regex = regex
        self._times = 0
        self._names: list[str] = []
        self._entries: dict[str, str] = {}
        directory.mkdir(parents=True)
        self.add(*(list_name(number, count) for number in range(count)))
        self.write()

    @property
    def names(self) -> list[str]:
        """The names of the lists, sorted."""
        return list(self._names)

    def add(self, *names: str) -> None:
        """Create lists."""
        for name in names:
            self._entries[name] = self._entry(name, self._hop)
        if len(names) > 100:
            self._names = sorted([*self._names, *names])
        else:
            for name in names:
                insort(self._names, name)

    def remove(self, *names: str) -> None:
        """Remove lists."""
        gone = set(names)
        self._names = [name for name in self._names if name not in gone]
        for name in gone:
            del self._entries[name]

    def move(self, name: str, hop: str) -> None:
        """Give a list another next hop."""
        self._entries[name] = self._entry(name, hop)

    def hop_of(self, name: str) -> str:
        """Return the next hop of a list."""
        return self._entries[name].split()[1]

    def _entry(self, name: str, hop: str) -> str:
        return lmtp_text([name], hop, regex=self._regex).removeprefix(HEADER)

    def routes(self) -> str:
        """Return the text of postfix_lmtp."""
        return self._header() + "".join(map(self._entries.__getitem__, self._names))

    def write(self) -> float:
        """Write all files; return the time of the first rename (time.monotonic()).

        The time in the header is another one in each call.
        """
        self._times += 1
        new = self.files.directory / "postfix_lmtp.new"
        new.write_text(self.routes())
        renamed = time.monotonic()
        new.rename(self.files.directory / "postfix_lmtp")
        self.files.put("postfix_domains", self._domains_text(self._names))
        return renamed

    def _domains_text(self, names: Iterable[str]) -> str:
        domains = {name.rpartition("@")[2] for name in names}
        text = domains_text({domain: domain for domain in domains}, regex=self._regex)
        return self._header() + text.removeprefix(HEADER)

    def _header(self) -> str:
        written = _BEGIN + timedelta(seconds=self._times)
        return HEADER.replace(_WRITTEN, f"{written:%Y-%m-%d %H:%M:%S}")
