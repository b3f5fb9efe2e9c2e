"""Compute the address at which this host reaches a container, from the engine's JSON. Pure.

docker and podman print the same JSON. The first of these counts: the network of this host, if the
container uses it; an address in a network in which this host has an address, too; a port that is
published on this host. This host's kernel does not know the other networks of an engine: those in
a virtual machine, in a user's namespace or on another host of a swarm.
"""

import ipaddress
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from postfix_sync.errors import NotPlaced, quote
from postfix_sync.model.destination import Destination, Peer

TYPED_WRONG = 2
"""Adjacent letters by which a name may differ from a name that is suggested for it."""

LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True)
class Interface:
    """One address of a container, with its network."""

    network: str
    address: str
    subnet: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: str

    def rank(self, ours: str) -> int | None:
        """Return 0 for an address on a bridge of this host, 1 in another network of this host.

        `ours` is the address from which this host would connect to the container, or empty. Return
        None if this host has no address in the network.
        """
        if not ours:
            return None
        if ours == self.gateway:
            return 0
        return 1 if ipaddress.ip_address(ours) in self.subnet else None


@dataclass(frozen=True)
class Container:
    """One container, with what the engine reports about its state and networks."""

    engine: str
    name: str
    status: str = ""
    is_running: bool = False
    exit_status: int = 0
    mode: str = ""
    """The value of HostConfig.NetworkMode: bridge, host, none, container:ID, a network's name, …"""
    interfaces: tuple[Interface, ...] = ()
    published: Mapping[int, Destination] = field(default_factory=dict)
    lent_by: str = ""
    """The container whose network this one uses, if that container does not run; or empty."""

    def __str__(self) -> str:
        """Return the container's name and engine, for messages."""
        return f"container {self.name} ({self.engine})"

    @property
    def shares(self) -> str | None:
        """Return the ID of the container whose network this one uses, as in a pod; or None."""
        kind, colon, other = self.mode.partition(":")
        return other if colon and kind == "container" else None

    def with_network_of(self, other: "Container") -> "Container":
        """Return the container with the mode, addresses and ports of another one."""
        return replace(
            self,
            mode=other.mode,
            interfaces=other.interfaces,
            published=other.published,
            lent_by="" if other.is_running else self.shares or "",
        )


def read(engine: str, name: str, found: Any) -> Container:
    """Read one document of `docker container inspect` or `podman container inspect`.

    A value of another type than the engines print counts as missing.
    """
    state, network = _in(found, "State"), _in(found, "NetworkSettings")
    status, exited = _in(state, "Status"), _in(state, "ExitCode")
    return Container(
        engine=engine,
        name=name,
        status=status if isinstance(status, str) else "",
        is_running=_in(state, "Running") is True and status != "restarting",
        exit_status=exited if isinstance(exited, int) else 0,
        mode=str(_in(_in(found, "HostConfig"), "NetworkMode") or ""),
        interfaces=tuple(_interfaces(network)),
        published=dict(_published(_in(network, "Ports"))),
    )


def _in(found: Any, key: str) -> Any:
    return found.get(key) if isinstance(found, dict) else None


def _interfaces(settings: Any) -> Iterator[Interface]:
    networks = _in(settings, "Networks")
    if not isinstance(networks, dict) or not networks:
        networks = {"default": settings}  # an engine that lists no networks
    for name, network in sorted(networks.items()):
        for address, length, gateway in (
            ("IPAddress", "IPPrefixLen", "Gateway"),
            ("GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPv6Gateway"),
        ):
            try:
                found = ipaddress.ip_interface(f"{_in(network, address)}/{_in(network, length)}")
            except ValueError:
                continue
            yield Interface(name, str(found.ip), found.network, str(_in(network, gateway)))


def _published(ports: Any) -> Iterator[tuple[int, Destination]]:
    """Yield the published TCP ports of a container, each with its destination on this host."""
    for key, bindings in ports.items() if isinstance(ports, dict) else ():
        number = re.fullmatch(r"(\d{1,5})/tcp", key)
        for binding in bindings if number and isinstance(bindings, list) else ():
            try:
                host_ip = _in(binding, "HostIp") or "0.0.0.0"  # noqa: S104 - compared only
                listening = ipaddress.ip_address(host_ip)
                port = int(_in(binding, "HostPort"))
            except (TypeError, ValueError):
                continue
            host = LOOPBACK[listening.version] if listening.is_unspecified else str(listening)
            if number and 1 <= port <= 65535:
                yield int(number[1]), Destination(host, port)
                break


def place(container: Container, ours: Mapping[str, str]) -> Peer:
    """Return the addresses and ports at which this host reaches a container.

    `ours` has, by address of the container, the address from which this host would connect to it.

    Raises NotPlaced if this host does not reach the container.
    """
    if not container.is_running:
        raise _not_running(container)
    if container.lent_by:
        raise _lender_not_running(container)
    if container.mode == "host":
        return Peer((LOOPBACK[4],), is_here=True, how="it uses this host's network")
    near = [
        (rank, interface)
        for interface in container.interfaces
        if (rank := interface.rank(ours.get(interface.address, ""))) is not None
    ]
    near.sort(
        key=lambda found: found[0]
    )  # stable: equal ranks are in the order of the networks' names
    if near:
        networks = list(dict.fromkeys(interface.network for _, interface in near))
        others = f"; it is in {', '.join(networks[1:])}, too" if networks[1:] else ""
        addresses = tuple(interface.address for _, interface in near)
        subnets = tuple(str(interface.subnet) for _, interface in near)
        how = f"network {networks[0]}{others}"
        return Peer(addresses, container.published, how=how, networks=subnets)
    if published := container.published:
        ports = ", ".join(f"{port} is {to.endpoint}" for port, to in sorted(published.items()))
        return Peer(published=published, how=f"published ports: {ports}")
    raise _out_of_reach(container)


def _not_running(container: Container) -> NotPlaced:
    name = shlex.quote(container.name)
    match container.status:
        case "created" | "initialized" | "configured":
            said = "was never started"
        case "restarting":
            return NotPlaced(
                f"{container}: is being restarted again and again, exit status"
                f" {container.exit_status}",
                f"see why it ends: {container.engine} logs --tail 20 {name}",
            )
        case "exited" | "stopped" | "dead":
            said = f"does not run: it ended with exit status {container.exit_status}"
        case status:
            said = f"does not run: its state is {quote(status)}"
    start = f"{container.engine} start {name}"
    again = f"if it ends again, its log says why: {container.engine} logs --tail 20 {name}"
    return NotPlaced(f"{container}: {said}", f"{start}; {again}", start)


def _lender_not_running(container: Container) -> NotPlaced:
    lender, name = shlex.quote(container.lent_by[:12]), shlex.quote(container.name)
    return NotPlaced(
        f"{container}: uses the network of another container, {lender}, which does not run",
        fix=f"{container.engine} start {lender} && {container.engine} restart {name}",
    )


def _out_of_reach(container: Container) -> NotPlaced:
    publish = "publish its LMTP port on this host: -p 127.0.0.1:8024:8024"
    if container.interfaces:
        where = ", ".join(
            f"{found.address} (network {found.network})" for found in container.interfaces
        )
        return NotPlaced(
            f"{container}: has the address {where}, but this host has no address in that network,"
            " and no port of the container is published on this host",
            f"{publish}; or, if this host can reach that address, set it as address: instead of"
            f" {container.engine}:{container.name}",
        )
    if container.mode == "none":
        return NotPlaced(
            f"{container}: has no network (--network none), so it can't be reached",
            "create it again with another --network: a container without a network can't be"
            " connected to one later",
        )
    return NotPlaced(
        f"{container}: has no address, and no port of it is published on this host",
        f"connect it to a network, or {publish}",
    )


def _is_near(name: str, other: str) -> bool:
    """Return whether `name` may stand for `other`: a typing error, or the name of a service.

    Compose calls a service `PROJECT-SERVICE-1`, or `PROJECT_SERVICE_1`. While Compose recreates a
    container, it calls the old or the new container `ID_NAME`, which is never suggested.
    """
    of_compose = re.fullmatch(rf"(?:(.+)[-_])?{re.escape(name)}(?:[-_]\d+)?", other)
    if of_compose:
        return not re.fullmatch(r"[0-9a-f]{12}", of_compose[1] or "")
    begin = _alike(name, other)
    end = _alike(name[begin:][::-1], other[begin:][::-1])
    differing = max(len(name), len(other)) - begin - end
    return differing <= min(TYPED_WRONG, len(name) // 3)


def _alike(text: str, other: str) -> int:
    """Return the number of letters that two texts have in common at their beginning."""
    return next(
        (at for at, (a, b) in enumerate(zip(text, other, strict=False)) if a != b),
        min(len(text), len(other)),
    )


def unknown(engine: str, name: str, names: Iterable[str]) -> NotPlaced:
    """Return the error for a container that does not exist; `names` are the existing containers."""
    close = [existing for existing in sorted(names) if _is_near(name, existing)]
    hint = f"see {engine} ps --all, and set address: {engine}:NAME"
    if close:
        hint = f"did you mean {' or '.join(f'{engine}:{near}' for near in close[:3])}?"
    elif engine == "podman":
        hint += (
            "; a container that another user started is not among root's: publish its port and set"
            " address: 127.0.0.1"
        )
    return NotPlaced(f"container {name} ({engine}): there is no container of this name", hint)
