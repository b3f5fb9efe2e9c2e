"""Read and render the block of postfix-sync in a hosts file. Pure; works on bytes.

A hosts file may hold anything. Every byte outside the two marker lines is kept, including a last
line without a newline: the block is inserted before that line. A name that another line already
has is not repeated in the block, because the resolver decides which of the two lines counts.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from postfix_sync.errors import ApplyError

BEGIN = b"# BEGIN postfix-sync"
END = b"# END postfix-sync"


@dataclass(frozen=True)
class Hosts:
    """A hosts file in three parts; `block` maps the names in our block to their addresses."""

    before: bytes
    block: Mapping[str, str]
    after: bytes

    def foreign(self) -> dict[str, str]:
        """Return the names outside the block with their addresses; the first line of a name counts.

        Names are in lower case.
        """
        return _first_of_each(_names(self.before + self.after))

    def lookup(self) -> dict[str, str]:
        """Return all names with their addresses; a line outside the block takes precedence."""
        return {**self.block, **self.foreign()}

    def with_block(self, names: Mapping[str, str]) -> bytes:
        """Return the file's text with `names` (host name -> IP address) as our block.

        Without `names`, there is no block.
        """
        lines = [f"{address}\t{name}\n".encode() for name, address in sorted(names.items())]
        block = [BEGIN, b"\n", *lines, END, b"\n"] if names else []
        return b"".join([self.before, *block, self.after])


def parse(content: bytes, place: str) -> Hosts:
    """Split a hosts file around our block; `place` is its name in messages.

    Raises ApplyError if the markers are not one BEGIN line followed by one END line, because the
    lines of the block are then unknown.
    """
    lines = [line + b"\n" for line in content.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    begins = [i for i, line in enumerate(lines) if line.strip() == BEGIN]
    ends = [i for i, line in enumerate(lines) if line.strip() == END]
    if not begins and not ends:
        cut = content.rfind(b"\n") + 1
        return Hosts(content[:cut], {}, content[cut:])
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        raise ApplyError(
            f'{place}: the lines "{BEGIN.decode()}" and "{END.decode()}" do not enclose one block;'
            " the file is unchanged",
            "remove those lines and what postfix-sync wrote between them; the next sync writes"
            " the block again",
        )
    begin, end = begins[0], ends[0]
    return Hosts(
        before=b"".join(lines[:begin]),
        block=_first_of_each(_names(b"".join(lines[begin + 1 : end]))),
        after=b"".join(lines[end + 1 :]),
    )


def _first_of_each(names: Iterator[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, address in names:
        found.setdefault(name, address)
    return found


def _names(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield every name of hosts(5) lines, in lower case, with its address."""
    for line in content.split(b"\n"):
        address, *names = line.partition(b"#")[0].decode("utf-8", "replace").split() or [""]
        try:
            ipaddress.ip_address(address)
        except ValueError:
            continue
        for name in names:
            yield name.lower(), address
