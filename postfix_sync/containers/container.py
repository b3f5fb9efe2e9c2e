"""From what docker or podman says of a container to where this host reaches it. Pure.

Both print the same JSON. What counts, in this order: the network of this host, if the container
has no other; an address of its own in a network that this host has an address in, too; a port that
is published on this host. An address elsewhere, in a virtual machine, in a user's namespace or on
another host of a swarm, is one that the engine knows and this host's kernel does not.
"""

import ipaddress
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from postfix_sync.errors import NotPlaced, quote
from postfix_sync.model import Destination, Peer

TYPED_WRONG = 2
"""Letters, next to each other, by which a name may differ from the one that was meant."""

LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True)
class Interface:
    """One address that a container has in one network."""

    network: str
    address: str
    subnet: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: str

    def rank(self, ours: str) -> int | None:
        """How near it is; `ours` is the address from which this host would talk to it, or nothing.

        None: it is in no network of this host. A bridge of this host has its gateway here.
        """
        if not ours:
            return None
        if ours == self.gateway:
            return 0
        return 1 if ipaddress.ip_address(ours) in self.subnet else None


@dataclass(frozen=True)
class Container:
    """What an engine says of one container, as far as it matters here."""

    engine: str
    name: str
    status: str = ""
    is_running: bool = False
    exit_status: int = 0
    mode: str = ""
    """HostConfig.NetworkMode: bridge, host, none, container:ID, the name of a network, …"""
    interfaces: tuple[Interface, ...] = ()
    published: Mapping[int, Destination] = field(default_factory=dict)
    lent_by: str = ""
    """The container whose network this one uses, where that does not run."""

    def __str__(self) -> str:
        """As it is called in messages."""
        return f"container {self.name} ({self.engine})"

    @property
    def shares(self) -> str | None:
        """The container whose network it uses, as in a pod, if it has none of its own."""
        kind, colon, other = self.mode.partition(":")
        return other if colon and kind == "container" else None

    def with_network_of(self, other: "Container") -> "Container":
        """The same, where it was found out what network that is."""
        return replace(
            self,
            mode=other.mode,
            interfaces=other.interfaces,
            published=other.published,
            lent_by="" if other.is_running else self.shares or "",
        )


def read(engine: str, name: str, found: Any) -> Container:
    """One document of `docker container inspect` or `podman container inspect`.

    What has another shape than theirs counts as not being there.
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
        networks = {"default": settings}  # an engine that does not tell networks apart
    for name, one in sorted(networks.items()):
        for address, length, gateway in (
            ("IPAddress", "IPPrefixLen", "Gateway"),
            ("GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPv6Gateway"),
        ):
            try:
                found = ipaddress.ip_interface(f"{_in(one, address)}/{_in(one, length)}")
            except ValueError:
                continue
            yield Interface(name, str(found.ip), found.network, str(_in(one, gateway)))


def _published(ports: Any) -> Iterator[tuple[int, Destination]]:
    """The TCP ports of a container, and what each is on this host."""
    for key, bindings in ports.items() if isinstance(ports, dict) else ():
        number = re.fullmatch(r"(\d{1,5})/tcp", key)
        for one in bindings if number and isinstance(bindings, list) else ():
            try:
                listening = ipaddress.ip_address(_in(one, "HostIp") or "0.0.0.0")  # noqa: S104 - read
                port = int(_in(one, "HostPort"))
            except (TypeError, ValueError):
                continue
            host = LOOPBACK[listening.version] if listening.is_unspecified else str(listening)
            if number and 1 <= port <= 65535:
                yield int(number[1]), Destination(host, port)
                break


def place(one: Container, ours: Mapping[str, str]) -> Peer:
    """Where this host reaches a container.

    `ours` are the addresses from which this host would talk to those of the container.

    Raises NotPlaced where it does not reach it.
    """
    if not one.is_running:
        raise _not_running(one)
    if one.lent_by:
        raise _lender_not_running(one)
    if one.mode == "host":
        return Peer((LOOPBACK[4],), is_here=True, how="it uses this host's network")
    near = [
        (rank, interface)
        for interface in one.interfaces
        if (rank := interface.rank(ours.get(interface.address, ""))) is not None
    ]
    near.sort(key=lambda found: found[0])  # stable: by the networks' names otherwise
    if near:
        networks = list(dict.fromkeys(interface.network for _, interface in near))
        others = f"; it is in {', '.join(networks[1:])}, too" if networks[1:] else ""
        addresses = tuple(interface.address for _, interface in near)
        subnets = tuple(str(interface.subnet) for _, interface in near)
        how = f"network {networks[0]}{others}"
        return Peer(addresses, one.published, how=how, networks=subnets)
    if one.published:
        ports = ", ".join(f"{port} is {to.endpoint}" for port, to in sorted(one.published.items()))
        return Peer(published=one.published, how=f"published ports: {ports}")
    raise _out_of_reach(one)


def _not_running(one: Container) -> NotPlaced:
    name = shlex.quote(one.name)
    match one.status:
        case "created" | "initialized" | "configured":
            said = "was never started"
        case "restarting":
            return NotPlaced(
                f"{one}: is being restarted again and again, exit status {one.exit_status}",
                f"see why it ends: {one.engine} logs --tail 20 {name}",
            )
        case "exited" | "stopped" | "dead":
            said = f"does not run: it ended with exit status {one.exit_status}"
        case status:
            said = f"does not run: its state is {quote(status)}"
    start = f"{one.engine} start {name}"
    again = f"if it ends again, its log says why: {one.engine} logs --tail 20 {name}"
    return NotPlaced(f"{one}: {said}", f"{start}; {again}", start)


def _lender_not_running(one: Container) -> NotPlaced:
    lender, name = shlex.quote(one.lent_by[:12]), shlex.quote(one.name)
    return NotPlaced(
        f"{one}: uses the network of another container, {lender}, which does not run",
        fix=f"{one.engine} start {lender} && {one.engine} restart {name}",
    )


def _out_of_reach(one: Container) -> NotPlaced:
    publish = "publish its LMTP port on this host: -p 127.0.0.1:8024:8024"
    if one.interfaces:
        where = ", ".join(f"{found.address} (network {found.network})" for found in one.interfaces)
        return NotPlaced(
            f"{one}: has the address {where}, but this host has none in that network, and no port"
            " of it is published here",
            f"{publish}; or, if that address can be reached, set it as address: in place of"
            f" {one.engine}:{one.name}",
        )
    if one.mode == "none":
        return NotPlaced(
            f"{one}: has no network (--network none), so nobody can reach it",
            "make it anew with another --network: one without any can't be connected later",
        )
    return NotPlaced(
        f"{one}: has no address, and no port of it is published on this host",
        f"connect it to a network, or {publish}",
    )


def _is_near(name: str, other: str) -> bool:
    """Whether one name may be meant by another: a typing error, or what compose makes of it.

    Compose calls a service `PROJECT-SERVICE-1`, or `PROJECT_SERVICE_1`. While it makes a container
    anew, the old one or the new one is called `ID_NAME` for a moment, which nobody means.
    """
    of_compose = re.fullmatch(rf"(?:(.+)[-_])?{re.escape(name)}(?:[-_]\d+)?", other)
    if of_compose:
        return not re.fullmatch(r"[0-9a-f]{12}", of_compose[1] or "")
    begin = _alike(name, other)
    end = _alike(name[begin:][::-1], other[begin:][::-1])
    differing = max(len(name), len(other)) - begin - end
    return differing <= min(TYPED_WRONG, len(name) // 3)


def _alike(one: str, other: str) -> int:
    """How many letters two texts have in common at their beginning."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def unknown(engine: str, name: str, names: Iterable[str]) -> NotPlaced:
    """There is no such container; `names` are those that there are."""
    close = [one for one in sorted(names) if _is_near(name, one)]
    hint = f"see {engine} ps --all, and set address: {engine}:NAME"
    if close:
        hint = f"did you mean {' or '.join(f'{engine}:{one}' for one in close[:3])}?"
    elif engine == "podman":
        hint += (
            "; a container that another user started is not among root's: publish its port and set"
            " address: 127.0.0.1"
        )
    return NotPlaced(f"container {name} ({engine}): there is no container of this name", hint)
