"""A page of docs/ that leads from nothing to something, as a list of what to do and what is seen.

    ```sh
    postfix-sync --once --dry-run
    ```

    The dry run prints:

    ```text
    + ants@lists.example.net lmtp:[mailman-test]:8024
    ```

Such pages have their blocks fenced.  `sh` is a step, for root; `sh HOST` is one on another host
than that of the page.  A `text` after a step, and under the same heading, is some of what it
prints: each of its lines, in this order, however the words are spaced or wrapped.  `…` stands for
anything, and so does a number for another one.  A `text` before the first step under a heading is
what people have.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

_BLOCK = re.compile(r"^```(?P<kind>.*)\n(?P<content>(?:.*\n)*?)^```$", re.MULTILINE)
_NUMBER = re.compile(r"\d+")
_HEADING = re.compile(r"^## ", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """Commands that are pasted into a shell as one."""

    place: str
    """Page and line."""
    commands: str
    host: str = ""
    """Where: the page's own host if empty."""
    printed: tuple[str, ...] = ()

    def missing(self, output: str) -> str:
        """The first line that the page promises and that is not printed; empty if all are there."""
        seen = " ".join(output.split())
        for line in self.printed:
            found = re.search(_pattern(line), seen)
            if not found:
                return line
            seen = seen[found.end() :]
        return ""


def steps(page: str) -> list[Step]:
    """The steps of docs/PAGE, in order."""
    text = (DOCS / page).read_text()
    found: list[Step] = []
    section = -1
    for block in _BLOCK.finditer(text):
        kind, _, host = block["kind"].partition(" ")
        here = len(_HEADING.findall(text, 0, block.start()))
        if kind == "sh":
            line = text.count("\n", 0, block.start()) + 1
            found.append(Step(f"docs/{page}:{line}", block["content"], host))
            section = here
        elif kind == "text" and here == section:
            lines = (*found[-1].printed, *block["content"].splitlines())
            found[-1] = replace(found[-1], printed=tuple(line for line in lines if line.strip()))
    return found


def _pattern(line: str) -> str:
    words = (r"\d+" if _NUMBER.fullmatch(word) else re.escape(word) for word in line.split())
    return r"\s".join(words).replace("…", ".*?")
