"""Parse the services of master(5), as postconf(1) prints them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Service:
    """A service: one line of master.cf, see master(5)."""

    name: str
    kind: str
    """inet, unix, unix-dgram, fifo or pass."""
    unprivileged: bool
    chrooted: bool
    command: str
    """The program, without its arguments."""
    overrides: Mapping[str, str]
    """The parameters of main.cf that the line overrides with -o, $names expanded."""


def service(line: str, overrides: Mapping[str, str], compatibility_level: str) -> Service:
    """Parse a line of `postconf -M`; `overrides` is what `postconf -P` prints of all services."""
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
"""Name and type of the service in master.cf that all routes name."""


def lmtp_service(services: Iterable[Service]) -> Service | None:
    """Return the service that all routes name; None if master.cf has none."""
    return next((one for one in services if (one.name, one.kind) == LMTP), None)


def _chrooted(compatibility_level: str) -> set[str]:
    """Return the values of master(5)'s chroot field that mean "chrooted".

    "-" means "n", or "y" below compatibility_level 1 (COMPATIBILITY_README).
    """
    return {"y", "-"} if compatibility_level in {"", "0"} else {"y"}
