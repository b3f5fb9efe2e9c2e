"""The address of a container, from the output of docker or podman, or from malformed output."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfix_sync.containers.container import Container, place, read, unknown
from postfix_sync.errors import NotPlaced
from postfix_sync.model.destination import Destination, Peer


def docker(
    networks: dict[str, Any] | None = None,
    ports: dict[str, Any] | None = None,
    *,
    mode: str = "bridge",
    **state: Any,
) -> Container:
    """Return a container from docker's output, with the keys that are read."""
    found = {
        "Name": "/mm",
        "State": {"Status": "running", "Running": True, "ExitCode": 0, **state},
        "HostConfig": {"NetworkMode": mode},
        "NetworkSettings": {"Ports": ports or {}, "Networks": networks or {}},
    }
    return read("docker", "mm", json.loads(json.dumps(found)))


def network(number: int, v6: bool = False) -> dict[str, Any]:
    """Return an endpoint with the addresses 172.NUMBER.0.2 and fd00:NUMBER::2."""
    return {
        "IPAddress": f"172.{number}.0.2",
        "IPPrefixLen": 16,
        "Gateway": f"172.{number}.0.1",
        "GlobalIPv6Address": f"fd00:{number}::2" if v6 else "",
        "GlobalIPv6PrefixLen": 64 if v6 else 0,
        "IPv6Gateway": f"fd00:{number}::1" if v6 else "",
    }


def near(*numbers: int) -> dict[str, str]:
    """Return the local addresses: the gateway for these networks, and a default route."""
    everywhere = {f"172.{number}.0.2": "192.0.2.1" for number in range(16, 32)}
    v4 = {f"172.{number}.0.2": f"172.{number}.0.1" for number in numbers}
    return {**everywhere, **v4, **{f"fd00:{number}::2": f"fd00:{number}::1" for number in numbers}}


PUBLISHED = {
    "8001/tcp": None,
    "8024/tcp": [{"HostIp": "0.0.0.0", "HostPort": "18024"}, {"HostIp": "::", "HostPort": "18024"}],
    "8025/udp": [{"HostIp": "", "HostPort": "8025"}],
    "9000/tcp": [{"HostIp": "192.0.2.1", "HostPort": "9000"}],
}
LOCAL = {8024: Destination("127.0.0.1", 18024), 9000: Destination("192.0.2.1", 9000)}


def test_container_is_at_its_address_in_a_network_of_this_host() -> None:
    found = place(docker({"bridge": network(17)}, PUBLISHED), near(17))
    assert found == Peer(("172.17.0.2",), LOCAL)


def test_address_of_a_disabled_ip_version_is_not_chosen() -> None:
    """Another address or a published port is chosen instead; without either, it is kept."""
    only_v6 = {"own": {**network(18, v6=True), "IPAddress": "", "IPPrefixLen": 0}}
    both = place(docker({"own": network(18, v6=True)}), near(18))
    assert both.usable(frozenset({6})) == Peer(("fd00:18::2",))
    assert both.usable(frozenset({4})) == Peer(("172.18.0.2",))
    assert both.usable(frozenset({4, 6})) is both
    published = place(docker(only_v6, PUBLISHED), near(18)).usable(frozenset({4}))
    assert published == Peer(published=LOCAL)
    assert published.reach("fd00:18::2", 8024) == LOCAL[8024]
    assert published.how == (
        "published ports: 8024 is 127.0.0.1:18024, 9000 is 192.0.2.1:9000; not at fd00:18::2, which"
        " inet_protocols keeps Postfix from using"
    )
    nothing = place(docker(only_v6), near(18))
    assert nothing.usable(frozenset({4})) is nothing


def test_first_network_by_name_that_this_host_is_in_is_chosen() -> None:
    several = docker({"zoo": network(17), "ant": network(18), "bee": network(19)})
    found = place(several, near(17, 19))
    assert found == Peer(("172.19.0.2", "172.17.0.2"))
    assert found.how == "network bee; it is in zoo, too"


def test_bridge_of_this_host_is_preferred_to_a_macvlan() -> None:
    """A macvlan's addresses are in the host's own subnet, but the kernel drops packets to them."""
    several = docker({"lan": network(17), "own": network(18)})
    assert place(several, {**near(18), "172.17.0.2": "172.17.0.9"}).addresses[0] == "172.18.0.2"
    assert place(docker({"lan": network(17)}), {"172.17.0.2": "172.17.0.9"}).addresses


def test_ipv4_and_ipv6_addresses_are_used() -> None:
    both = docker({"own": network(18, v6=True)})
    assert place(both, near(18)) == Peer(("172.18.0.2", "fd00:18::2"))
    only = docker({"own": {**network(18, v6=True), "IPAddress": "", "IPPrefixLen": 0}})
    assert place(only, near(18)) == Peer(("fd00:18::2",))


def test_published_ports_are_used_if_no_network_is_reachable() -> None:
    """A container of a rootless podman has an address in another namespace, or none."""
    for networks in ({"podman": network(17)}, {}):
        found = place(docker(networks, PUBLISHED), near())
        assert found == Peer(published=LOCAL)
        assert found.how == "published ports: 8024 is 127.0.0.1:18024, 9000 is 192.0.2.1:9000"
    v6 = docker({}, {"24/tcp": [{"HostIp": "::", "HostPort": "25"}]}, mode="pasta")
    assert place(v6, {}) == Peer(published={24: Destination("::1", 25)})


def test_container_in_the_hosts_network_is_at_localhost() -> None:
    assert place(docker({"host": {"IPAddress": ""}}, mode="host"), {}) == Peer(
        ("127.0.0.1",), is_here=True
    )


def test_container_in_the_network_of_another_is_at_its_address() -> None:
    mine = docker(mode="container:abc")
    assert mine.shares == "abc"
    assert docker().shares is None
    other = docker({"bridge": network(17)})
    assert place(mine.with_network_of(other), near(17)) == Peer(("172.17.0.2",))
    stopped = docker(Running=False, Status="exited")
    with pytest.raises(
        NotPlaced, match="uses the network of another container, abc, which does not run"
    ):
        place(mine.with_network_of(stopped), near(17))


@pytest.mark.parametrize(
    ("container", "message", "fix"),
    [
        (
            docker(Status="exited", Running=False, ExitCode=137),
            "does not run: it ended with exit status 137",
            "docker start mm",
        ),
        (docker(Status="created", Running=False), "was never started", "docker start mm"),
        (
            docker(Status="restarting", Running=True, ExitCode=1),
            "is being restarted again and again, exit status 1",
            None,
        ),
        (docker(Status="odd\n", Running=False), r'its state is "odd\n"', "docker start mm"),
        (
            docker({"none": {"IPAddress": ""}}, mode="none"),
            "has no network (--network none)",
            None,
        ),
        (docker(), "has no address, and no port of it is published on this host", None),
        (
            docker({"far": network(20)}),
            "172.20.0.2 (network far), but this host has no address in that network",
            None,
        ),
    ],
)
def test_unreachable_container_is_reported_with_its_reason(
    container: Container, message: str, fix: str | None
) -> None:
    with pytest.raises(NotPlaced) as found:
        place(container, near(17))
    assert found.value.message.startswith("container mm (docker): ")
    assert message in found.value.message
    assert found.value.fix == fix
    assert found.value.hint
    if fix:
        assert found.value.hint.startswith(f"{fix}; if it ends again")
        assert found.value.hint.endswith("docker logs --tail 20 mm")


def test_paused_container_keeps_its_address() -> None:
    paused = docker({"bridge": network(17)}, Status="paused", Paused=True)
    assert place(paused, near(17)).addresses == ("172.17.0.2",)


def test_unknown_container_name_gets_a_hint() -> None:
    names = ["web", "mailman-mailman-core-1", "mailmen"]
    assert unknown("docker", "mailman-core", names).hint == (
        "did you mean docker:mailman-mailman-core-1?"
    )
    assert "docker:mailmen" in unknown("docker", "mailmann", names).hint
    assert (
        unknown("docker", "xyz", names).hint == "see docker ps --all, and set address: docker:NAME"
    )
    assert "another user started" in unknown("podman", "xyz", names).hint


@pytest.mark.parametrize(
    ("name", "others"),
    [
        # While a container is being recreated, there are only others, or itself with an ID prefix.
        ("mailman-lists.example.net", ["postgres-lists.example.net"]),
        ("mailman-core", ["mailman-web", "mailman-postgres", "0123456789ab_mailman-core"]),
        ("mailman", ["mailman-web", "mailman-database-1"]),
        ("mm", ["db", "m2"]),
    ],
)
def test_another_container_is_not_suggested(name: str, others: list[str]) -> None:
    assert "did you mean" not in unknown("docker", name, others).hint


@pytest.mark.parametrize(
    "other", ["list_mailman-core_1", "mailman-core-2", "mailman-cor", "mialman-core"]
)
def test_name_with_a_typing_error_or_from_compose_is_suggested(other: str) -> None:
    hint = unknown("docker", "mailman-core", ["mailman-web", other]).hint
    assert hint == f"did you mean docker:{other}?"


nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


# Close enough to an engine's output that some of these ports are read as published.
bindings = st.fixed_dictionaries(
    {
        "HostIp": st.sampled_from(["", "0.0.0.0", "::", "192.0.2.1", "x"]),
        "HostPort": st.from_regex(r"[0-9]{0,6}", fullmatch=True) | nonsense,
    }
)
almost_ports = st.dictionaries(
    st.from_regex(r"[0-9]{1,6}/(tcp|udp)", fullmatch=True), nonsense | st.lists(bindings)
)


@given(nonsense, nonsense, nonsense, nonsense | almost_ports)
def test_malformed_output_is_read_without_an_error(
    output: Any, state: Any, networks: Any, ports: Any
) -> None:
    assert isinstance(read("docker", "mm", output), Container)
    settings = {"Networks": networks, "Ports": ports}
    found = read("docker", "mm", {"State": state, "NetworkSettings": settings})
    for port, to in found.published.items():
        assert 0 <= port <= 99999
        assert to.host
