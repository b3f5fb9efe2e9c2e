"""Check the units of systemd that run syncs, and the socket that podman needs in their sandbox."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.containers.engine import PODMAN_SOCKET
from postfix_sync.doctor.findings import ok, warning
from postfix_sync.doctor.host import SYSTEMD, Host
from postfix_sync.errors import SyncError
from postfix_sync.model.finding import Finding
from postfix_sync.system.commands import find_command, run

SERVICE, TIMER = "postfix-sync.service", "postfix-sync-once.timer"

SANDBOXED = "postfix-sync-once.service"
"""The unit that the timer starts."""

PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "CapabilityBoundingSet")

TIMEOUT = 10.0
"""Seconds in which systemctl(1) must end."""

CRONTABS = ("/etc/crontab", "/etc/cron.d/*", "/etc/cron.*ly/*", "/var/spool/cron/crontabs/*")
"""Files in which cron(8) and anacron(8) of Debian look for commands."""


@dataclass(frozen=True)
class Unit:
    """A unit's state, as systemctl(1) shows it."""

    name: str
    properties: Mapping[str, str]

    @property
    def is_installed(self) -> bool:
        """Whether systemd has the unit, and it is not masked."""
        return self.properties.get("LoadState") == "loaded"

    @property
    def is_active(self) -> bool:
        """Whether it runs, or is being started."""
        return self.properties.get("ActiveState") in {"active", "activating", "reloading"}

    @property
    def is_enabled(self) -> bool:
        """Whether it is started at boot; `enabled-runtime` is lost then."""
        return self.properties.get("UnitFileState") == "enabled"

    @property
    def may_mount(self) -> bool:
        """Whether a process of the unit may mount."""
        return "cap_sys_admin" in self.properties.get("CapabilityBoundingSet", "").split()


async def running(host: Host) -> AsyncIterator[Finding]:
    """Check that the daemon or the timer runs, and is started at boot.

    There is no finding without systemd or our units, nor for a configuration that they do not use.
    """
    found = await _units(host)
    by_systemd = [found[name] for name in (SERVICE, TIMER) if name in found]
    installed = [unit for unit in by_systemd if unit.is_installed]
    if installed:
        yield judged(installed, otherwise_made())


def judged(installed: list[Unit], otherwise: str) -> Finding:
    """Make the finding of the installed units; `otherwise` says what else makes syncs, if known."""
    states = ", ".join(
        f"{unit.name}: {unit.properties['ActiveState']},"
        f" {unit.properties['UnitFileState'] or 'not enabled'}"
        for unit in installed
    )
    active = [unit for unit in installed if unit.is_active]
    enabled = [unit for unit in installed if unit.is_enabled]
    if active and enabled:
        return ok("units", states)
    if active:
        return warning(
            "units",
            states,
            "neither is started at the next boot, and from then on lists that are created or"
            " removed are not noticed",
            f"systemctl enable {active[0].name}",
        )
    if enabled:
        return warning(
            "units",
            states,
            "lists that are created or removed are not noticed until it runs; why it does not:"
            f" journalctl -u {enabled[0].name}",
            f"systemctl start {enabled[0].name}",
        )
    if otherwise:
        return ok("units", f"{states}; {otherwise} makes syncs")
    return warning(
        "units",
        states,
        "neither the daemon nor the timer runs, or is started at boot, and no line for cron names"
        " postfix-sync: lists that are created or removed are not noticed",
        f"systemctl enable --now {installed[0].name}",
    )


def otherwise_made() -> str:
    """Return the crontab that names postfix-sync, or a daemon's process; empty if there is none."""
    for pattern in CRONTABS:
        for path in sorted(Path("/").glob(pattern.removeprefix("/"))):
            if re.search(r"^[^#\n]*postfix-sync", _text(path), re.MULTILINE):
                return str(path)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if _is_daemon(_text(path).rstrip("\0").split("\0")):
            return f"process {path.parent.name}"
    return ""


def _is_daemon(words: list[str]) -> bool:
    """Return whether a command line is that of a daemon: with options and paths only."""
    for at, word in enumerate(words):
        if re.search(r"(^|/)postfix[-_]sync$", word):
            rest = words[at + 1 :]
            return "--once" not in rest and all(re.match(r"-|.*/", word) for word in rest)
    return False


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:  # it has ended, or is a directory
        return ""


async def podman_socket(host: Host) -> AsyncIterator[Finding]:
    """Check that podman's service can be reached where our units must not mount (service.md)."""
    names = [
        source.container.name
        for source in host.config.sources
        if source.container and source.container.engine == "podman"
    ]
    if not names:
        return
    found = await _units(host)
    used = [unit for unit in found.values() if unit.is_installed and unit.name != TIMER]
    runs = [found[name] for name in (SERVICE, TIMER) if name in found]
    if not used or not any(unit.is_active or unit.is_enabled for unit in runs):
        return
    if PODMAN_SOCKET.is_socket():
        yield ok("podman_socket", f"{PODMAN_SOCKET}: is there")
    elif not all(unit.may_mount for unit in used):
        yield warning(
            "podman_socket",
            f"{PODMAN_SOCKET}: is not there",
            f"the sandbox of {used[0].name} forbids podman to look at {', '.join(names)} by itself"
            " (it can't mount there), so syncs of the service do not know the container's address;"
            " podman's own service does it for them",
            "systemctl enable --now podman.socket",
        )


async def _units(host: Host) -> Mapping[str, Unit]:
    """Return our units by name; none without systemd, or if they have another configuration."""
    if not SYSTEMD.is_dir() or host.command() != "postfix-sync":
        return {}
    names = (SERVICE, TIMER, SANDBOXED)
    shown = [f"--property=Id,{','.join(PROPERTIES)}"]
    try:
        command = [find_command("systemctl", "install systemd"), "show", *shown, *names]
        done = await run(command, timeout=TIMEOUT)
    except SyncError:
        return {}
    return units(done.stdout)


def units(printed: str) -> dict[str, Unit]:
    """Read what systemctl(1) shows: blocks of NAME=VALUE, with an empty line between two."""
    found = {}
    for block in printed.split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if name := properties.pop("Id", ""):
            found[name] = Unit(name, {key: properties.get(key, "") for key in PROPERTIES})
    return found
