"""Render and parse the text of an installed map. Pure."""

from collections.abc import Mapping

HEADER = "# Written by postfix-sync, which keeps it in step with Mailman. Edits will be lost.\n"


def render(table: Mapping[str, str]) -> bytes:
    """Return a table as the text that is installed beside its index: sorted, one entry a line."""
    return (HEADER + "".join(f"{key}\t{value}\n" for key, value in sorted(table.items()))).encode()


def parse_installed(text: bytes) -> dict[str, str] | None:
    """Return the table that `render` made a text of; None if `render` could not have made it."""
    try:
        lines = text.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return None
    entries = [line.split("\t") for line in lines[:-1] if not line.startswith("#")]
    if (
        not text.startswith(b"#")
        or lines[-1]
        or not all(len(entry) == 2 and all(entry) for entry in entries)
    ):
        return None
    return dict(entries)
