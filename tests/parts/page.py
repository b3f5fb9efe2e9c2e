"""A page of docs/ with a procedure, parsed into its steps and their expected output.

    ```sh
    postfix-sync --once --dry-run
    ```

    The dry run prints:

    ```text
    + ants@lists.example.net lmtp:[mailman-test]:8024
    ```

Such pages have fenced blocks.  `sh` is a step for root; `sh HOST` is a step on another host than
that of the page.  A `text` after a step, under the same heading, is part of its output: each line,
in this order, with any spacing and wrapping of the words.  `…` matches any text, and a number
matches any number.  A `text` before the first step under a heading shows the reader's setup.
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
    """Commands that are run in one shell."""

    place: str
    """The page and the line."""
    commands: str
    host: str = ""
    """The host to run it on; if empty, the page's own."""
    printed: tuple[str, ...] = ()

    def missing(self, output: str) -> str:
        """Return the first expected line that the output lacks, or an empty text."""
        seen = " ".join(output.split())
        for line in self.printed:
            found = re.search(_pattern(line), seen)
            if not found:
                return line
            seen = seen[found.end() :]
        return ""


def steps(page: str) -> list[Step]:
    """Return the steps of docs/PAGE, in order."""
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
