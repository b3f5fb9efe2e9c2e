"""A terminal of 80 columns, and a command's output on it."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from tests.parts.site import Site

SGR = re.compile(r"\x1b\[[0-9;]*m")
ERASED = re.compile(r"[^\n]*\r\x1b\[K")


@dataclass(frozen=True)
class Screen:
    """What a command wrote to a terminal, and its exit status."""

    status: int
    written: str

    @property
    def text(self) -> str:
        """The visible text at the end, without colours."""
        return SGR.sub("", ERASED.sub("", self.written))

    @property
    def lines(self) -> list[str]:
        """The lines of the visible text."""
        return self.text.splitlines()


def at_a_terminal(
    site: Site, *arguments: str, columns: int = 80, environment: Mapping[str, str] | None = None
) -> Screen:
    """Run the command with a terminal as standard output and standard error."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    parts: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(ours, 4096):
                parts.append(part)
        except OSError:  # EIO: the other end is closed
            pass

    reader = threading.Thread(target=read)
    variables = {"TERM": "xterm", "NO_COLOR": "", "COLUMNS": "", **(environment or {})}
    with site.start(*arguments, stdout=theirs, stderr=theirs, environment=variables) as process:
        os.close(theirs)
        reader.start()
        status = process.wait(60)
    reader.join()
    os.close(ours)
    return Screen(status, b"".join(parts).decode().replace("\r\n", "\n"))


def width(line: str) -> int:
    """Return the number of columns that a line takes."""
    return sum(
        0
        if unicodedata.combining(letter)
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in line
    )
