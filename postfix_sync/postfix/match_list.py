"""Match domains against Postfix's match lists, such as mydestination and relay_domains. Pure.

A list holds names, `/file/names`, `type:table`, and `!` before any of them; the first pattern that
matches decides (postconf(5) on relay_domains; match_list(3) and match_ops(3) in Postfix's source).
Callers pass in what the files and the tables hold. If Postfix gets to a file or table that it
cannot read, it defers the mail ("451 4.3.0 … Temporary lookup failure").
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

PATTERN_TYPES = frozenset({"regexp", "pcre", "cidr"})
"""Table types whose entries are patterns: Postfix queries them for the whole name only."""


class Style(Enum):
    """What a list's patterns match besides the very domain that they name."""

    EXACT = "exact"
    """Nothing else: mydestination, virtual_alias_domains and virtual_mailbox_domains."""
    PARENTS = "parents"
    """`example.net` matches its subdomains: parent_domain_matches_subdomains has the parameter."""
    DOTTED = "dotted"
    """`.example.net` matches the subdomains: parent_domain_matches_subdomains does not have it."""


def below(parameter: str, matching: str) -> Style:
    """Return how a parameter matches subdomains; `matching`: parent_domain_matches_subdomains."""
    return Style.PARENTS if parameter in items(matching) else Style.DOTTED


@dataclass(frozen=True)
class Pattern:
    """One pattern of a list."""

    text: str
    negated: bool = False

    @property
    def is_table(self) -> bool:
        """Whether the pattern is a lookup table, and not an address in brackets."""
        return ":" in self.text and not self.text.startswith("[")

    @property
    def is_unread_file(self) -> bool:
        """Whether it is a file that cannot be read; others are replaced by their content."""
        return self.text.startswith("/")


def items(value: str) -> list[str]:
    """Split a parameter's value at white space and commas outside of braces."""
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
    """Yield the patterns of a list in their order, with those in files that it names.

    `read` returns the content of a file, None if it cannot be read. `within` are the files that
    are being read: a file that names itself through them adds nothing, where Postfix would loop.
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
    """Return a table without `proxy:`, because proxymap(8) runs only while Postfix does."""
    return table.removeprefix("proxy:")


def keys(table: str, domain: str, style: Style) -> list[str]:
    """Return the keys for which Postfix queries a table for a domain."""
    if style is Style.EXACT or unproxied(table).partition(":")[0] in PATTERN_TYPES:
        return [domain]
    labels = domain.split(".")
    dot = "." if style is Style.DOTTED else ""
    return [domain, *(dot + ".".join(labels[start:]) for start in range(1, len(labels)))]


def decision(
    domain: str, listed: list[Pattern], style: Style, holds: Callable[[str, str], bool]
) -> bool | None:
    """Return whether a list names `domain`: False if a `!` excludes it, None if nothing matches.

    `holds` returns whether a table, or an unread file, has a key; what it raises is passed on.
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
