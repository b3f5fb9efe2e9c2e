"""Find the hosts file that podman copies into its containers, from containers.conf(5). Pure.

At each start of a container podman copies that file into it, and adds a line for a name only if the
copy has none. So a Mailman that binds to its own host name binds to the address that this host's
file has for the name: to loopback, to its previous address, or to none at all. docker copies no
file.
"""

from collections.abc import Iterable
from pathlib import Path

DEFAULT = Path("/etc/hosts")

_NO_FILE_OF_THIS_HOST = ("none", "image")


def base_hosts_file(texts: Iterable[str | None]) -> Path | None:
    """Find the file of this host that podman copies; None if it copies none.

    `texts` are podman's configuration files in the order in which it reads them; a later file
    overrides an earlier one. None stands for a file that can't be read: such a file, or a malformed
    one, resets the setting to podman's default until a later file sets it.
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
    import tomllib  # noqa: PLC0415 - most hosts have no such file

    try:
        section = tomllib.loads(text).get("containers")
    except (ValueError, RecursionError):
        return ""
    value = section.get("base_hosts_file") if isinstance(section, dict) else None
    return value if isinstance(value, str) else None
