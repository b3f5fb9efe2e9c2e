"""Inspect containers through the command of their engine: docker or podman.

This module opens no socket of an engine and changes nothing. Each command has a timeout, so that a
daemon that hangs is an error like a daemon that is stopped.

podman has no daemon: the command opens the containers' storage itself, for which it needs the
permission to mount. A service without that permission (systemd/postfix-sync.service) uses podman's
own service, if podman.socket is active.
"""

import contextlib
import ipaddress
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from postfix_sync.containers import container
from postfix_sync.containers.base_hosts_file import base_hosts_file
from postfix_sync.containers.container import Container
from postfix_sync.errors import NotPermitted, NotPlaced, OutOfReach, SyncError, TimedOut, quote
from postfix_sync.model.destination import Peer
from postfix_sync.system.commands import SEARCH_PATH, Completed, Running, find_command, run, running
from postfix_sync.system.files import read_file
from postfix_sync.system.interfaces import toward
from postfix_sync.system.mounts import without_links

TIMEOUT = 10.0
"""Seconds in which a command of the engine must end."""

EVENTS = ("start", "restart", "die", "died", "connect", "disconnect", "rename")
"""Events after which a container may have another address. die is docker's name, died podman's."""

PODMAN_SOCKET = Path("/run/podman/podman.sock")
"""The socket on which podman.socket listens for root (podman-system-service(1))."""

CONTAINERS_CONF = (
    Path("/usr/share/containers/containers.conf"),
    Path("/etc/containers/containers.conf"),
)
"""podman's configuration, in the order in which it reads the files (containers.conf(5))."""

CONTAINERS_CONF_DIRECTORY = Path("/etc/containers/containers.conf.d")
"""The directory whose *.conf podman reads after CONTAINERS_CONF, in the order of their names."""

SHARED_AT_MOST = 4
"""Containers in a chain, each of which uses the network of the next; engines permit one."""


@dataclass(frozen=True)
class Engine:
    """A container engine on this host: docker or podman."""

    name: str

    def _argv(self, *arguments: str) -> list[str]:
        hint = (
            f"install {self.name}; or set address: to the IP address at which this host reaches"
            " Mailman"
        )
        served = self.name == "podman" and PODMAN_SOCKET.is_socket()
        where = ("--url", f"unix://{PODMAN_SOCKET}") if served else ()
        return [find_command(self.name, hint), *where, *arguments]

    async def place(self, name: str) -> Peer:
        """Return the addresses and ports at which this host reaches a container.

        Raises:
            NotPlaced: the container does not exist, does not run, or can't be reached.
            OutOfReach: the engine does not answer.
            NotPermitted: this process is not permitted to use the engine.
            ConfigError: the engine is not installed.
        """
        found = await self._inspect(name, name)
        for _ in range(SHARED_AT_MOST):
            if not found.shares or not found.is_running:
                break
            found = found.with_network_of(await self._inspect(name, found.shares))
        ours = {
            interface.address: toward(ipaddress.ip_address(interface.address)) or ""
            for interface in found.interfaces
        }
        return container.place(found, ours)

    async def _inspect(self, name: str, container_id: str) -> Container:
        done = await self._ask("container", "inspect", container_id)
        if done.status:
            if (
                "no such container" in done.stderr.lower()
                or "no such object" in done.stderr.lower()
            ):
                raise container.unknown(self.name, name, await self._names())
            raise self._failed(done)
        try:
            [document] = json.loads(done.stdout)
        except (ValueError, TypeError, RecursionError):
            raise OutOfReach(
                f"{done.command} {name}: printed {quote(done.stdout)}, which is not a description"
                " of a container",
                f"see {self.name} container inspect {name}",
            ) from None
        return container.read(self.name, name, document)

    async def _names(self) -> list[str]:
        done = await self._ask("ps", "--all", "--format", "{{.Names}}")
        return done.stdout.split()

    async def _ask(self, *arguments: str) -> Completed:
        try:
            return await run(self._argv(*arguments), timeout=TIMEOUT)
        except TimedOut as error:
            raise OutOfReach(error.message, f"does the engine hang? see {self.name} info") from None

    def _failed(self, done: Completed) -> SyncError:
        """Return the error for a failed command; its text, not its status, gives the reason."""
        said = done.stderr.lower()
        # Without the permission to mount, podman behaves as if a user without privileges ran it.
        if "cannot re-exec process" in said or "cannot set user namespace" in said:
            return NotPlaced(
                f"{done.command}: {done.complaint}", fix="systemctl enable --now podman.socket"
            )
        if "permission denied" in said:
            hint = (
                f"run postfix-sync as root, or permit its user to use {self.name}"
                if os.geteuid() != 0
                else f"root is denied access: see {self.name} info, and journalctl -k -g denied"
                " (AppArmor, SELinux)"
            )
            return NotPermitted(f"{done.command}: {done.complaint}", hint)
        if "daemon running" in said or "docker api" in said or "cannot connect" in said:
            return NotPlaced(
                f"{done.command}: {done.complaint}", fix=f"systemctl start {self.name}"
            )
        return OutOfReach(f"{done.command}: {done.complaint}", f"see {self.name} info")

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[Running]:
        """Run the command that prints a line when a container may have got another address.

        It reports the events of all containers, because a container may use the network of another.
        """
        filters = (f"--filter=event={event}" for event in EVENTS)
        async with running(self._argv("events", *filters)) as events:
            yield events


def copied_into_containers(path: Path) -> bool:
    """Check whether an engine of this host copies a hosts file into the containers that it starts.

    Return True if podman is installed and `path` is its base_hosts_file, because any container may
    be podman's, even one that is reached at a published port.
    """
    if not shutil.which("podman", path=SEARCH_PATH):
        return False
    copied = base_hosts_file(_containers_conf())
    return copied is not None and without_links(copied) == without_links(path)


def _containers_conf() -> Iterator[str | None]:
    """Read podman's configuration files in order; None for one that can't be read."""
    for path in (*CONTAINERS_CONF, *sorted(CONTAINERS_CONF_DIRECTORY.glob("*.conf"))):
        try:
            yield read_file(path).decode()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError):
            yield None
