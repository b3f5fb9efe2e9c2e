"""Which hosts file podman copies into its containers, from containers.conf(5). Pure.

At each start of a container podman copies that file into it, and adds no line of its own for a name
that stands there already. A Mailman that binds to its own host name then binds to the address that
this host has for the name: to loopback, to its previous address, or to none at all. docker does not
do that.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path

DEFAULT = Path("/etc/hosts")

_NO_FILE_OF_THIS_HOST = ("none", "image")


def base_hosts_file(texts: Iterable[str | None]) -> Path | None:
    """Find the file of this host that podman copies; None if it copies none.

    `texts` are podman's configuration files in the order in which it reads them, a later one
    overriding those before it. None stands for a file that can't be read: after that, and after a
    malformed one, podman's default counts until another file sets it.
    """
    chosen = ""
    for text in texts:
        value = _setting(text)
        chosen = chosen if value is None else value
    if chosen in _NO_FILE_OF_THIS_HOST:
        return None
    return Path(chosen) if chosen else DEFAULT


def _setting(text: str | None) -> str | None:
    """Read base_hosts_file from one file; None if it does not set it, "" if it can't be read."""
    if text is None:
        return ""
    try:
        section = tomllib.loads(text).get("containers")
    except (ValueError, RecursionError):
        return ""
    value = section.get("base_hosts_file") if isinstance(section, dict) else None
    return value if isinstance(value, str) else None
