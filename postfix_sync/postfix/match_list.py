"""Postfix's match lists: does mydestination, or relay_domains, name a domain? Pure.

A list holds names, `/file/names`, `type:table`, and `!` before any of them; the first pattern that
matches decides (postconf(5) on relay_domains; match_list(3) and match_ops(3) in Postfix's source).
What the files and the tables hold is handed in. At a file or table that can't be read, Postfix has
no answer for what nothing before it has decided ("451 4.3.0 … Temporary lookup failure").
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

PATTERN_TYPES = frozenset({"regexp", "pcre", "cidr"})
"""Types whose entries are patterns: they are asked for the whole name only."""


class Style(Enum):
    """What a list's patterns stand for besides the very domain that they name."""

    EXACT = "exact"
    """Nothing: mydestination and the virtual ones."""
    PARENTS = "parents"
    """`example.net` for all below it, too: parent_domain_matches_subdomains has the parameter."""
    DOTTED = "dotted"
    """`.example.net` for all below it: that parameter hasn't."""


def below(parameter: str, matching: str) -> Style:
    """How a parameter names what is below a domain, if parent_domain_matches_subdomains is that."""
    return Style.PARENTS if parameter in items(matching) else Style.DOTTED


@dataclass(frozen=True)
class Pattern:
    """One pattern of a list."""

    text: str
    negated: bool = False

    @property
    def is_table(self) -> bool:
        """A lookup table, and not an address in brackets."""
        return ":" in self.text and not self.text.startswith("[")

    @property
    def is_unread_file(self) -> bool:
        """A file that could not be read; what is in others stands in its place."""
        return self.text.startswith("/")


def items(value: str) -> list[str]:
    """What white space and commas separate in a parameter, outside of braces."""
    found, item, depth = [], "", 0
    for character in value:
        if not depth and (character.isspace() or character == ","):
            found.append(item)
            item = ""
            continue
        depth += (character == "{") - (character == "}")
        item += character
    return [text for text in (*found, item) if text]


def patterns(
    value: str, read: Callable[[str], str | None], within: tuple[str, ...] = ()
) -> Iterator[Pattern]:
    """The patterns of a list in their order, with those in files that it names.

    `read` gives the content of a file, None where it can't be read. A file that names itself, by
    way of those that it is `within`, adds nothing; Postfix does not come to an end with it.
    """
    for item in items(value):
        text = item.lstrip("!")
        negated = (len(item) - len(text)) % 2 == 1
        if not text.startswith("/"):
            yield Pattern(text, negated)
            continue
        content = "" if text in within else read(text)
        if content is None:
            yield Pattern(text, negated)
            continue
        lines = (line for line in content.splitlines() if not line.lstrip().startswith("#"))
        for inner in patterns(" ".join(lines), read, (*within, text)):
            yield Pattern(inner.text, inner.negated != negated)


def unproxied(table: str) -> str:
    """A table as any process opens it, without proxymap(8), which runs only while Postfix does."""
    return table.removeprefix("proxy:")


def keys(table: str, domain: str, style: Style) -> list[str]:
    """What a table is asked for a domain."""
    if style is Style.EXACT or unproxied(table).partition(":")[0] in PATTERN_TYPES:
        return [domain]
    labels = domain.split(".")
    dot = "." if style is Style.DOTTED else ""
    return [domain, *(dot + ".".join(labels[start:]) for start in range(1, len(labels)))]


def decision(
    domain: str, listed: list[Pattern], style: Style, holds: Callable[[str, str], bool]
) -> bool | None:
    """Whether a list names `domain`: False where a `!` keeps it out, None where nothing matches.

    `holds` says whether a table, or an unread file, has a key. Raises what it raises.
    """
    for pattern in listed:
        if _matches(domain, pattern, style, holds):
            return not pattern.negated
    return None


def _matches(
    domain: str, pattern: Pattern, style: Style, holds: Callable[[str, str], bool]
) -> bool:
    if pattern.is_table or pattern.is_unread_file:
        return any(holds(pattern.text, key) for key in keys(pattern.text, domain, style))
    name = pattern.text.lower()
    if name == domain:
        return True
    if style is Style.PARENTS:
        return domain.endswith(f".{name}")
    return style is Style.DOTTED and name.startswith(".") and domain.endswith(name)
