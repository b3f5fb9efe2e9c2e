"""The services of master.cf(5), as postconf(1) prints them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Service:
    """A line of master.cf(5)."""

    name: str
    kind: str
    """inet, unix, unix-dgram, fifo or pass."""
    unprivileged: bool
    chrooted: bool
    command: str
    """The program, without its arguments."""
    overrides: Mapping[str, str]
    """The parameters of main.cf that it has other values of, by -o, $names expanded."""


def service(line: str, overrides: Mapping[str, str], compatibility_level: str) -> Service:
    """A service as `postconf -M` prints it, with what `postconf -P` prints of all."""
    name, kind, _private, unprivileged, chroot, _wakeup, _limit, command, *_ = line.split()
    own = f"{name}/{kind}/"
    return Service(
        name=name,
        kind=kind,
        unprivileged=unprivileged != "n",
        chrooted=chroot in _chrooted(compatibility_level),
        command=command,
        overrides={
            key.removeprefix(own): value for key, value in overrides.items() if key.startswith(own)
        },
    )


LMTP = ("lmtp", "unix")
"""Name and type of the service in master.cf that routes name."""


def lmtp_is_chrooted(services: str, compatibility_level: str) -> bool:
    """Whether the lmtp service is chrooted; master(5): name type private unprivileged chroot."""
    chrooted = _chrooted(compatibility_level)
    fields = (line.split() for line in services.splitlines())
    return any(field[:2] == ["lmtp", "unix"] and field[4] in chrooted for field in fields)


def _chrooted(compatibility_level: str) -> set[str]:
    """What stands in master(5)'s chroot field of a service that is chrooted.

    "-" stands for "n", below compatibility_level 1 for "y" (COMPATIBILITY_README).
    """
    return {"y", "-"} if compatibility_level in {"", "0"} else {"y"}
