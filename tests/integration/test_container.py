"""`address: podman:NAME` with real containers: found, followed, and reported if not found.

docker prints the same JSON for the same commands; the unit tests cover its different wording. Here
docker is a command that runs podman, as on many hosts.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from postfix_sync.containers.engine import PODMAN_SOCKET
from postfix_sync.system.commands import SEARCH_PATH
from tests.conftest import need
from tests.parts import podman as parts
from tests.parts.common import PATIENCE, free_port, public_directory, run, wait_for
from tests.parts.daemon import RunningDaemon, may_not_mount
from tests.parts.doctor import examine_apart
from tests.parts.load import send
from tests.parts.mailman_files import nine
from tests.parts.podman import Podman
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import COMMAND, Site

pytestmark = pytest.mark.slow

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
NAME = "lmtp:[mailman]:8024"


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """One podman for all tests of this file; each test has its own containers."""
    need(parts.available(), "podman, runc and iptables")
    with public_directory() as directory, Podman(directory / "podman") as podman:
        yield podman


@pytest.fixture
def mm(podman: Podman, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a container for one test; the container is removed at the end."""
    name = request.node.name.partition("[")[0].removeprefix("test_")[:40]
    yield name
    podman.command("rm", "--force", "--ignore", "--time", "0", name)


@pytest.fixture
def site(podman: Podman, mm: str, make_site: Callable[..., Site]) -> Iterator[Site]:
    """A site on podman's host; its Mailman runs in the container `mm`."""
    with podman.inside():
        yield make_site(source={"address": f"podman:{mm}"})


def block(site: Site) -> dict[str, str]:
    """Return postfix-sync's entries in the hosts file: addresses by name."""
    text = site.hosts.read_text().partition("# BEGIN postfix-sync\n")[2]
    lines = (line.split() for line in text.partition("# END")[0].splitlines())
    return {name: address for address, name in lines}


def routes(site: Site) -> set[str]:
    """Return the next hops of the accepted lists."""
    installed = site.installed("postfix_lmtp")
    return {installed[key] for key in site.installed("postfix_recipients")}


def test_name_resolves_to_current_address_of_container(podman: Podman, mm: str, site: Site) -> None:
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)
    site.once()
    assert block(site) == {"mailman": podman.address(mm)}
    assert routes(site) == {NAME}
    before = podman.address(mm)
    podman.command("restart", mm)
    assert podman.address(mm) != before
    site.once()
    assert block(site) == {"mailman": podman.address(mm)}


def test_address_of_container_replaces_address_that_mailman_wrote(
    podman: Podman, mm: str, site: Site
) -> None:
    """Mailman has written two addresses in one, or the address before its last start."""
    podman.run(mm)
    for written in ("172.17.0.3 172.18.0.3", "172.19.199.2"):
        site.files.write(ANTS, hop=f"lmtp:[{written}]:8024")
        podman.command("restart", mm)
        site.once()
        assert routes(site) == {f"lmtp:[{podman.address(mm)}]:8024"}
        assert block(site) == {}


def test_stopped_container_is_reported_and_keeps_its_address(
    podman: Podman, mm: str, site: Site
) -> None:
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)
    site.once()
    address = podman.address(mm)
    podman.command("stop", mm)
    site.files.write(ANTS, BEES, hop=NAME)
    output = site.once(expect=75)
    assert (
        f"lists: container {mm} (podman): does not run: it ended with exit status 137; its last"
        f" known address, {address}, stays in use, and mail waits for it" in output
    )
    assert f"podman start {mm}" in output
    assert block(site) == {"mailman": address}
    assert {ANTS, BEES} <= set(site.installed("postfix_lmtp")), "its files could be read"
    assert site.status()["sources"]["lists"]["state"] == "stale"
    podman.command("start", mm)
    site.once()


def test_lists_are_not_accepted_before_their_address_is_known(
    podman: Podman, mm: str, site: Site
) -> None:
    """Mail for a list that is accepted but has no next hop would bounce."""
    site.files.write(ANTS, hop=NAME)
    output = site.once(expect=75)
    assert f"container {mm} (podman): there is no container of this name" in output
    assert "no address of it is known from before, so its lists can't be taken in yet" in output
    assert site.installed("postfix_recipients") == {}
    podman.run(mm)
    site.once()
    assert set(site.installed("postfix_recipients")) == set(nine(ANTS))


def test_previous_address_is_kept_until_the_container_is_found(
    podman: Podman, mm: str, site: Site
) -> None:
    """The address was configured; now it comes from a container, which does not exist."""
    site.configure(
        sources=[{"name": "lists", "path": str(site.files.directory), "address": "192.0.2.7"}]
    )
    site.files.write(ANTS, hop=NAME)
    site.once()
    site.configure()
    site.once(expect=75)
    assert block(site) == {"mailman": "192.0.2.7"}
    assert routes(site) == {NAME}


def test_similar_container_name_is_suggested(podman: Podman, mm: str, site: Site) -> None:
    podman.run(mm)
    site.configure(
        sources=[
            {"name": "lists", "path": str(site.files.directory), "address": f"podman:{mm[:-2]}"}
        ]
    )
    site.files.write(ANTS, hop=NAME)
    assert f"did you mean podman:{mm}?" in site.once(expect=75)


def test_of_several_networks_the_one_that_mailman_listens_on_is_used(
    podman: Podman, mm: str, site: Site
) -> None:
    for network in ("test-b", "test-a"):
        podman.command("network", "create", network)
    podman.run(mm, "--network=test-b", "--network=test-a")
    first, second = (podman.address(mm, network) for network in ("test-a", "test-b"))
    site.files.write(ANTS, hop=NAME)
    site.once()
    assert block(site) == {"mailman": first}
    # docker-mailman writes the only address that Mailman listens on.
    site.files.write(ANTS, hop=f"lmtp:[{second}]:8024")
    site.once()
    assert routes(site) == {f"lmtp:[{second}]:8024"}
    podman.command("network", "disconnect", "test-a", mm)
    site.files.write(ANTS, hop=NAME)
    site.once()
    assert block(site) == {"mailman": second}


def test_container_with_ipv6_network_is_found(podman: Podman, mm: str, site: Site) -> None:
    podman.command("network", "create", "--ipv6", "--subnet", "fd00:77:66::/64", "test-v6")
    podman.run(mm, "--network=test-v6")
    networks = podman.inspect(mm)["NetworkSettings"]["Networks"]["test-v6"]
    site.files.write(ANTS, hop=NAME)
    site.once()
    expected = networks["IPAddress"] or networks["GlobalIPv6Address"]
    assert block(site) == {"mailman": expected}


def test_container_in_host_network_is_reached_at_localhost(
    podman: Podman, mm: str, site: Site
) -> None:
    podman.run(mm, "--network=host")
    site.files.write(ANTS, hop=NAME)
    site.once()
    assert block(site) == {"mailman": "127.0.0.1"}
    # In the host's network, Mailman wrote an address of this host, the only one it listens on.
    site.files.write(ANTS, hop="lmtp:[192.0.2.2]:8024")
    site.once()
    assert routes(site) == {"lmtp:[192.0.2.2]:8024"}


def test_container_without_network_is_reported(podman: Podman, mm: str, site: Site) -> None:
    podman.run(mm, "--network=none")
    site.files.write(ANTS, hop=NAME)
    output = site.once(expect=75)
    assert f"container {mm} (podman): has no network (--network none)" in output


def cut_off(podman: Podman, network: str) -> None:
    """Remove this host's address in a network, so its containers cannot be reached directly.

    A user's podman and an engine in a virtual machine are like this: this host has no route to the
    addresses of the containers, and can reach only published ports.
    """
    [found] = json.loads(podman.command("network", "inspect", network))
    with podman.inside():
        run("ip", "address", "flush", "dev", found["network_interface"])
        # As on most hosts, there is a default route, but it does not lead there.
        run("ip", "route", "replace", "default", "dev", "lo")


def test_container_in_network_of_another_container_is_found(
    podman: Podman, mm: str, site: Site
) -> None:
    """In a pod, the addresses and ports belong to a container that does nothing else."""
    podman.command("network", "create", "test-lent")
    podman.run(f"{mm}-other", "--network=test-lent", "--publish=18100:8024")
    podman.run(mm, f"--network=container:{mm}-other")
    site.files.write(ANTS, hop=NAME)
    site.once()
    assert block(site) == {"mailman": podman.address(f"{mm}-other", "test-lent")}
    cut_off(podman, "test-lent")
    site.once()
    assert block(site) == {"mailman": "127.0.0.1"}
    assert routes(site) == {"lmtp:[mailman]:18100"}
    podman.command("rm", "--force", "--depend", "--time", "0", f"{mm}-other")


def test_published_port_is_used_if_network_is_unreachable(
    podman: Podman, mm: str, site: Site
) -> None:
    """Problem 30: a user's podman, whose networks this host is not connected to."""
    podman.command("network", "create", "test-far")
    podman.run(mm, "--network=test-far", "--publish=127.0.0.1:18024:8024")
    cut_off(podman, "test-far")
    site.files.write(ANTS, hop=NAME)
    site.once()
    assert routes(site) == {"lmtp:[mailman]:18024"}
    assert block(site) == {"mailman": "127.0.0.1"}
    site.files.write(ANTS, hop="lmtp:[10.0.0.1]:8024")
    site.once()
    assert routes(site) == {"lmtp:[127.0.0.1]:18024"}
    # The container starts again with another port. The routes change although Mailman's files
    # do not.
    podman.command("rm", "--force", "--time", "0", mm)
    podman.run(mm, "--network=test-far", "--publish=18025:8024")
    cut_off(podman, "test-far")
    site.once()
    assert routes(site) == {"lmtp:[127.0.0.1]:18025"}
    # The LMTP port is not published any more: the last known route stays in use.
    podman.command("rm", "--force", "--time", "0", mm)
    podman.run(mm, "--network=test-far", "--publish=18025:8001")
    cut_off(podman, "test-far")
    site.files.write(ANTS, BEES, hop="lmtp:[10.0.0.1]:8024")
    output = site.once(expect=65)
    assert "leads to port 8024 of its container, which is not published on this host" in output
    hidden = finding(site, f"container:{mm}")
    assert (hidden["status"], hidden["fix"]) == ("failure", None)
    assert "Mailman listens on port 8024, which is not published on this host" in hidden["why"]
    assert routes(site) == {"lmtp:[127.0.0.1]:18025"}
    assert set(site.installed("postfix_recipients")) == set(nine(ANTS))
    # Nothing is published.
    podman.command("rm", "--force", "--time", "0", mm)
    podman.run(mm, "--network=test-far")
    cut_off(podman, "test-far")
    output = site.once(expect=75)
    assert "but this host has no address in that network, and no port of the container" in output
    assert routes(site) == {"lmtp:[127.0.0.1]:18025"}
    apart = finding(site, f"container:{mm}")
    assert (apart["status"], apart["fix"]) == ("failure", None)
    assert "publish its LMTP port on this host: -p 127.0.0.1:8024:8024" in apart["why"]


def test_configured_destination_gives_container_another_name(
    podman: Podman, mm: str, site: Site
) -> None:
    """The name distinguishes two Mailmans with the same host name."""
    podman.run(mm)
    site.configure(
        sources=[
            {
                "name": "lists",
                "path": str(site.files.directory),
                "address": f"podman:{mm}",
                "destination": "lmtp:[first-mailman]:8024",
            }
        ]
    )
    site.files.write(ANTS, hop="lmtp:[0.0.0.0]:9")
    site.once()
    assert routes(site) == {"lmtp:[first-mailman]:8024"}
    assert block(site) == {"first-mailman": podman.address(mm)}


OWN_NAME = ("--hostname=mailman", "--publish=18224:8024")
KEPT_OUT = "the name is kept out of the file"
AT_ITS_NAME = (sys.executable, "-m", "http.server", "--bind", "mailman", "8024")
"""Listens at the container's own host name, as Mailman does."""


def own_hosts(podman: Podman, mm: str) -> set[str]:
    """Return the addresses of the name mailman in the container's own hosts file."""
    lines = podman.command("exec", mm, "cat", "/etc/hosts").splitlines()
    fields = (line.split() for line in lines)
    return {address for address, *names in filter(None, fields) if "mailman" in names}


def listens(address: str, port: int) -> bool:
    """Return whether a server answers there: podman's proxy accepts every connection."""
    try:
        with socket.create_connection((address, port), 1) as connection:
            connection.settimeout(1)
            connection.sendall(b"GET /nowhere HTTP/1.0\r\n\r\n")
            return connection.recv(4) == b"HTTP"
    except OSError:
        return False


def test_name_is_removed_from_hosts_file_that_podman_copies(
    podman: Podman, mm: str, site: Site
) -> None:
    podman.run(mm, *OWN_NAME, command=AT_ITS_NAME)
    site.files.write(ANTS, hop=NAME)
    # podman copies another file, so the name is added; earlier versions always added it.
    site.once()
    first = podman.address(mm)
    assert block(site) == {"mailman": first}
    with podman.copying(site.hosts):
        podman.command("restart", mm)
        assert first != podman.address(mm)
        wait_for(lambda: not podman.inspect(mm)["State"]["Running"], PATIENCE, "the fault")
        found = examine_apart(site)
        assert found["in_step"]["fix"].endswith("--once")
        output = site.once(expect=75)
        assert (
            f"{site.hosts}: podman copies this file into its containers, and a Mailman that finds"
            " its own name mailman there listens on a wrong address; the name is kept out of the"
            f" file, and its lists are routed to {first}" in output
        )
        assert f"podman restart {mm}" in output
        site.retire(expect=75)
        assert block(site) == {}
        assert routes(site) == {f"lmtp:[{first}]:8024"}

        podman.command("restart", mm)
        now = podman.address(mm)
        assert own_hosts(podman, mm) == {now}
        wait_for(lambda: listens(now, 8024), PATIENCE, "Mailman at its new address")
        assert KEPT_OUT not in site.once(), "it is reported once"
        assert routes(site) == {f"lmtp:[{now}]:8024"}
        assert block(site) == {}
        found = examine_apart(site)
        assert found.status("hosts") == found.status("lmtp_host_lookup") == "ok"
        assert found.status(f"container:{mm}") == "ok"
        assert found.status("in_step") == "ok"


def test_name_is_not_added_to_hosts_file_that_podman_copies(
    podman: Podman, mm: str, site: Site
) -> None:
    """With `address: 127.0.0.1`, it is unknown whether podman or docker publishes the port."""
    podman.run(mm, *OWN_NAME, command=AT_ITS_NAME)
    source = {"name": "lists", "path": str(site.files.directory), "address": "127.0.0.1"}
    site.configure(sources=[source])
    run("postconf", "-c", str(site.config_directory), "-e", "lmtp_host_lookup = dns")
    site.files.write(ANTS, hop="lmtp:[mailman]:18224")
    with podman.copying(site.hosts):
        assert KEPT_OUT in site.once("--dry-run")
        output = site.once()
        assert KEPT_OUT in output
        assert "lmtp_host_lookup" not in output
        proposed = site.run("setup", "--dry-run").stdout
        assert "transport_maps" in proposed
        assert "lmtp_host_lookup" not in proposed
        assert examine_apart(site).status("lmtp_host_lookup") == "ok"
        assert block(site) == {}
        assert routes(site) == {"lmtp:[127.0.0.1]:18224"}
        podman.command("restart", mm)
        wait_for(lambda: listens("127.0.0.1", 18224), PATIENCE, "the published port")
        assert KEPT_OUT not in site.once()
    # With `none`, podman does not copy the file, and the name is added.
    with podman.copying("none"):
        assert "lmtp_host_lookup" in site.once()
        assert block(site) == {"mailman": "127.0.0.1"}
        assert routes(site) == {"lmtp:[mailman]:18224"}


def test_name_is_added_to_hosts_file_if_podman_is_not_installed(podman: Podman, site: Site) -> None:
    """podman's configuration may remain after it is removed; docker copies no hosts file."""
    source = {"name": "lists", "path": str(site.files.directory), "address": "127.0.0.1"}
    site.configure(sources=[source])
    site.files.write(ANTS, hop=NAME)
    command = shutil.which("podman", path=SEARCH_PATH)
    assert command
    with podman.copying(site.hosts):
        run("mount", "--bind", "/dev/null", command)
        try:
            assert KEPT_OUT not in site.once()
        finally:
            run("umount", command)
        assert block(site) == {"mailman": "127.0.0.1"}
        assert routes(site) == {NAME}


def test_foreign_hosts_line_is_left_and_used(podman: Podman, mm: str, site: Site) -> None:
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)
    with podman.copying(site.hosts):
        site.hosts.write_text(f"{podman.address(mm)} mailman\n")
        assert KEPT_OUT not in site.once()
        assert routes(site) == {NAME}
        assert examine_apart(site).status("hosts") == "ok"


def test_name_is_kept_until_no_route_needs_it(podman: Podman, mm: str, site: Site) -> None:
    """A name is removed from the hosts file only after the routes without it are published."""
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)
    site.once()
    with podman.copying(site.hosts):
        run("mount", "--bind", "-o", "ro", str(site.maps), str(site.maps))
        try:
            assert "Read-only file system" in site.once(expect=1)
            assert block(site) == {"mailman": podman.address(mm)}
            assert routes(site) == {NAME}
        finally:
            run("umount", str(site.maps))
        site.retire()
        assert block(site) == {}
        assert routes(site) == {f"lmtp:[{podman.address(mm)}]:8024"}


def test_name_is_kept_for_deferred_mail_of_a_removed_list(
    podman: Podman, site: Site, idle_postfix: PostfixInstance
) -> None:
    source = {"name": "lists", "path": str(site.files.directory), "address": "127.0.0.1"}
    site.configure(sources=[source])
    hop = f"lmtp:[mailman]:{free_port()}"
    site.files.write(ANTS, BEES, hop=hop)
    idle_postfix.postconf(**mailman_parameters(site.maps, "lmdb"))
    site.once()
    with idle_postfix, podman.copying(site.hosts):
        assert send(idle_postfix.port, ANTS).accepted
        wait_for(idle_postfix.outcomes, PATIENCE, "the first try")
        site.files.write(BEES, hop=hop)
        assert KEPT_OUT in site.once()
        installed = site.installed("postfix_lmtp")
        assert installed[ANTS] == hop
        assert installed[BEES] == hop.replace("mailman", "127.0.0.1")
        assert block(site) == {"mailman": "127.0.0.1"}
        assert site.retire() == "", "it is reported once"
        assert ANTS in site.installed("postfix_lmtp")
        idle_postfix.command("postsuper", "-d", "ALL")
        assert site.retire() == ""
        assert ANTS not in site.installed("postfix_lmtp")
        assert block(site) == {}


def test_generation_is_routed_to_the_current_address_of_the_container(
    podman: Podman, mm: str, site: Site
) -> None:
    """An earlier version may have kept the generation; a new address adds no generation."""
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)
    site.once()
    with podman.copying(site.hosts):
        site.once()
        site.files.write(ANTS, BEES, hop=NAME)
        site.once()
        podman.command("restart", mm)
        site.once()
        hop = f"lmtp:[{podman.address(mm)}]:8024"
        assert routes(site) == {hop}
        listed = site.call("rollback").stdout.splitlines()
        assert [line.split()[0] for line in listed if line[:1].isdigit()] == ["2", "1"]
        assert listed[1].endswith("installed")
        assert "  -1 list: bees@lists.example.net" in listed
        assert not [line for line in listed if "->" in line], listed
        assert site.call("rollback", "1").returncode == 0
        assert set(site.installed("postfix_recipients")) == set(nine(ANTS))
        assert routes(site) == {hop}
        podman.command("restart", mm)
        site.retire()
        assert routes(site) == {f"lmtp:[{podman.address(mm)}]:8024"}
        assert block(site) == {}
        assert site.call("resume").returncode == 0
        assert BEES in site.installed("postfix_recipients")


def test_daemon_follows_address_of_container(podman: Podman, mm: str, site: Site) -> None:
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)
    with RunningDaemon(site) as daemon:
        daemon.wait_for(f"lists: Mailman is reached at {podman.address(mm)} (network podman)")
        daemon.wait_for_passes(2)
        for _ in range(2):
            podman.command("restart", mm)
            now = podman.address(mm)
            wait_for(lambda now=now: block(site) == {"mailman": now}, PATIENCE, "its new address")  # type: ignore[misc]
        podman.command("stop", mm)
        daemon.wait_for("does not run: it ended with exit status 137")
        podman.command("start", mm)
        daemon.wait_for("lists: recovered")
        now = podman.address(mm)
        assert block(site) == {"mailman": now}
        podman.command("network", "create", "test-0")
        podman.command("network", "connect", "test-0", mm)
        podman.command("network", "disconnect", "podman", mm)
        now = podman.address(mm, "test-0")
        wait_for(lambda: block(site) == {"mailman": now}, PATIENCE, "the other network's address")
        assert daemon.stop() == 0


def test_events_of_other_containers_start_no_sync(podman: Podman, mm: str, site: Site) -> None:
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(2)
        # At most two seconds after it subscribes to the engine's events, the daemon checks again.
        time.sleep(3)
        passes = daemon.rest()
        podman.run(f"{mm}-other")
        podman.command("rm", "--force", "--time", "0", f"{mm}-other")
        time.sleep(2)
        assert daemon.rest() == passes


def test_daemon_subscribes_to_events_again_if_they_end(podman: Podman, mm: str, site: Site) -> None:
    """An engine that restarts loses events, so the daemon inspects the container again."""
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)

    def events(daemon: RunningDaemon) -> int:
        commands = daemon.commands().items()
        return next((pid for pid, argv in commands if argv[1:2] == ["events"]), 0)

    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(2)
        pid = wait_for(lambda: events(daemon), PATIENCE, "podman events")
        os.kill(pid, signal.SIGKILL)
        podman.command("restart", mm)
        now = podman.address(mm)
        wait_for(lambda: block(site) == {"mailman": now}, PATIENCE, "its new address")
        again = wait_for(lambda: events(daemon), PATIENCE, "podman events")
        assert again != pid
        daemon.stop()
        assert not Path(f"/proc/{again}").exists()
    assert "Task was destroyed" not in daemon.log


@pytest.fixture
def service(podman: Podman) -> Iterator[Callable[[], None]]:
    """Start podman's service, as podman.socket does on a connection."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        PODMAN_SOCKET.parent.mkdir(exist_ok=True)
        started.append(
            subprocess.Popen(
                ["podman", "system", "service", "--time=0", f"unix://{PODMAN_SOCKET}"],
                stderr=subprocess.DEVNULL,
            )
        )
        wait_for(PODMAN_SOCKET.is_socket, PATIENCE, "podman's service")

    with podman.inside():
        yield start
        for process in started:
            process.terminate()
            process.wait()
        PODMAN_SOCKET.unlink(missing_ok=True)


def test_daemon_that_must_not_mount_uses_service_of_podman(
    podman: Podman, mm: str, site: Site, service: Callable[[], None]
) -> None:
    """postfix-sync.service logs that the socket is missing, and uses it once it exists."""
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)
    with RunningDaemon(site, preexec_fn=may_not_mount) as daemon:
        daemon.wait_for("hint: systemctl enable --now podman.socket")
        service()
        daemon.wait_for(f"lists: Mailman is reached at {podman.address(mm)} (network podman)")
        daemon.wait_for("lists: recovered")
        podman.command("restart", mm)
        now = podman.address(mm)
        wait_for(lambda: block(site) == {"mailman": now}, PATIENCE, "its new address")
        podman.command("rm", "--force", "--time", "0", mm)
        daemon.wait_for("there is no container of this name")
        assert daemon.stop() == 0


@pytest.fixture
def engine(podman: Podman, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Install a docker command on podman's host only: /usr/local/sbin is searched first."""
    directory = tmp_path / "sbin"
    directory.mkdir()
    with podman.inside():
        hidden = [Path(path, "docker") for path in SEARCH_PATH.split(":")]
        for command in dict.fromkeys(path.resolve() for path in hidden if path.exists()):
            run("mount", "--bind", "/dev/null", str(command))
        run("mount", "--bind", str(directory), "/usr/local/sbin")

        def put(script: str) -> None:
            docker = directory / "docker"
            docker.write_text(f"#!/bin/sh\n{script}\n")
            docker.chmod(0o755)

        yield put
        run("umount", "/usr/local/sbin")


def configure_docker(site: Site, mm: str) -> None:
    site.configure(
        sources=[{"name": "lists", "path": str(site.files.directory), "address": f"docker:{mm}"}]
    )
    site.files.write(ANTS, hop=NAME)


def test_docker_command_that_runs_podman_is_supported(
    podman: Podman, mm: str, site: Site, engine: Callable[[str], None]
) -> None:
    engine("echo 'Emulate Docker CLI using podman.' >&2; exec podman \"$@\"")
    configure_docker(site, mm)
    podman.run(mm)
    site.once()
    assert block(site) == {"mailman": podman.address(mm)}
    # Each engine has a container of this name: doctor names the engine as well.
    both = [
        {"name": kind, "path": str(site.files.directory), "address": f"{kind}:{mm}"}
        for kind in ("docker", "podman")
    ]
    site.configure(sources=both)
    assert {f"container:docker:{mm}", f"container:podman:{mm}"} <= examine_apart(site).checks.keys()


def finding(site: Site, name: str) -> dict[str, Any]:
    """Return doctor's finding of that name."""
    return examine_apart(site)[name]


def test_doctor_fixes_address_of_restarted_container(podman: Podman, mm: str, site: Site) -> None:
    """Problem 21: the map has the previous address; the command that doctor prints fixes it.

    Problem 35: the network that Mailman sends from is still trusted.
    """
    podman.run(mm)
    old = podman.address(mm)
    site.files.write(ANTS, hop=f"lmtp:[{old}]:8024")
    site.once()
    well = finding(site, f"container:{mm}")
    assert (well["status"], well["fix"]) == ("ok", None)
    assert well["seen"] == f"is reached at {old}: network podman"
    kept_out = finding(site, "mynetworks")
    assert kept_out["status"] == "failure"
    assert f"without {old}, the Mailman of lists" in kept_out["seen"]
    shell(kept_out["fix"])
    podman.command("restart", mm)
    now = podman.address(mm)
    moved = finding(site, f"container:{mm}")
    assert moved["status"] == "failure"
    assert now != old
    assert finding(site, "mynetworks")["status"] == "ok"
    assert f"is reached at {now}" in moved["seen"]
    assert f"lists of it are routed to lmtp:[{old}]:8024" in moved["seen"]
    shell(moved["fix"])
    assert finding(site, f"container:{mm}")["status"] == "ok"
    assert routes(site) == {f"lmtp:[{now}]:8024"}
    # The same if Mailman wrote a name, which is in the hosts file.
    site.files.write(ANTS, hop=NAME)
    site.once()
    podman.command("restart", mm)
    hosts = finding(site, "hosts")
    assert hosts["status"] != "ok"
    shell(hosts["fix"])
    assert finding(site, "hosts")["status"] == "ok"
    assert block(site) == {"mailman": podman.address(mm)}


def shell(command: str) -> None:
    """Run a command that doctor printed, as an operator would."""
    run("sh", "-c", command.replace("postfix-sync", " ".join(COMMAND), 1))


def test_doctor_starts_container_that_ended(podman: Podman, mm: str, site: Site) -> None:
    podman.run(mm)
    site.files.write(ANTS, hop=NAME)
    site.once()
    podman.command("stop", mm)
    ended = finding(site, f"container:{mm}")
    assert (ended["status"], ended["fix"]) == ("failure", f"podman start {mm}")
    assert "it ended with exit status 137" in ended["seen"]
    shell(ended["fix"])
    assert finding(site, f"container:{mm}")["status"] == "ok"
    podman.command("rm", "--force", "--time", "0", mm)
    gone = finding(site, f"container:{mm}")
    assert (gone["status"], gone["fix"]) == ("failure", None)
    assert "there is no container of this name" in gone["seen"]


def test_doctor_prints_command_that_lets_mailman_write_its_files(
    podman: Podman, mm: str, site: Site
) -> None:
    """Problem 5. The script in place of Mailman's command writes the same files as Mailman, and
    like Mailman, refuses to run as root."""
    site.files.write(ANTS, hop=NAME)
    written = site.directory / "written"
    shutil.copytree(site.files.directory, written)
    for path in site.files.directory.iterdir():
        path.unlink()
    mailman = written / "mailman"
    mailman.write_text(
        '#!/bin/sh\n[ "$(id -u)" != 0 ] && [ "$*" = aliases ] && cp /tmp/postfix_* /var\n'
    )
    mailman.chmod(0o755)
    (written / "passwd").write_text("mailman:x:999:999::/:/bin/sh\n")
    os.chown(site.files.directory, 999, 999)
    volumes = [f"--volume={written}:/tmp", f"--volume={site.files.directory}:/var"]
    volumes.append(f"--volume={written / 'passwd'}:/etc/passwd")
    podman.run(mm, *volumes, "--env=PATH=/tmp:/usr/bin:/bin")
    found = finding(site, "source:lists")
    fix = f"podman exec -u mailman {mm} mailman aliases"
    assert (found["status"], found["fix"]) == ("failure", fix)
    assert " docker exec -u mailman CONTAINER mailman aliases" in found["why"]
    shell(found["fix"])
    assert finding(site, "source:lists")["status"] == "ok"


def test_container_address_of_disabled_protocol_is_not_used(
    podman: Podman, mm: str, site: Site, idle_postfix: PostfixInstance
) -> None:
    """Mailman wrote its IPv6 address, but it has an IPv4 address as well."""
    podman.command("network", "create", "--ipv6", "--subnet", "fd00:77::/64", mm)
    try:
        podman.run(mm, f"--network={mm}")
        found = podman.inspect(mm)["NetworkSettings"]["Networks"][mm]
        v4, v6 = found["IPAddress"], found["GlobalIPv6Address"]
        site.files.write(ANTS, hop=f"lmtp:[{v6}]:8024")
        site.once()
        assert routes(site) == {f"lmtp:[{v6}]:8024"}
        idle_postfix.postconf(inet_protocols="ipv4")
        site.once()
        assert routes(site) == {f"lmtp:[{v4}]:8024"}
        assert f"not at {v6}, which inet_protocols" in finding(site, f"container:{mm}")["seen"]
    finally:
        podman.command("network", "rm", "--force", "--time", "0", mm)


def test_doctor_reports_container_without_network(podman: Podman, mm: str, site: Site) -> None:
    podman.run(mm, "--network=none")
    site.files.write(ANTS, hop=NAME)
    found = finding(site, f"container:{mm}")
    assert found["status"] == "failure"
    assert "has no network (--network none)" in found["seen"]


def test_docker_container_in_network_of_another_container_is_found(
    podman: Podman, mm: str, site: Site, engine: Callable[[str], None]
) -> None:
    """docker only names the container that lends its network; podman repeats its data."""
    podman.run(mm)
    borrowing = {
        "State": {"Status": "running", "Running": True},
        "HostConfig": {"NetworkMode": "container:4f5d0c"},
        "NetworkSettings": {"Networks": {}, "Ports": {}},
    }
    engine(
        f"case $3 in 4f5d0c) exec podman container inspect {mm};;"
        f" *) echo '{json.dumps([borrowing])}';; esac"
    )
    configure_docker(site, mm)
    site.once()
    assert block(site) == {"mailman": podman.address(mm)}


SOCKET = "unix:///var/run/docker.sock"
STOPPED = f"Cannot connect to the Docker daemon at {SOCKET}. Is the docker daemon running?"
DENIED = f"permission denied while trying to connect to the Docker daemon socket at {SOCKET}"


@pytest.mark.parametrize(
    ("script", "status", "error", "hint"),
    [
        (
            f"echo '{STOPPED}' >&2; exit 1",
            75,
            f"docker container: {STOPPED}",
            "systemctl start docker",
        ),
        (
            f"echo '{DENIED}' >&2; exit 1",
            77,
            f"docker container: {DENIED}",
            "root is denied access: see docker info",
        ),
        ("echo 'no JSON'", 75, 'printed "no JSON', "docker container inspect"),
        ("exec sleep 600", 75, "not done after 10 s; killed", "docker info"),
    ],
)
def test_engine_that_fails_or_hangs_is_reported(
    mm: str,
    site: Site,
    engine: Callable[[str], None],
    script: str,
    status: int,
    error: str,
    hint: str,
) -> None:
    engine(script)
    configure_docker(site, mm)
    said = site.once(expect=status)
    assert error in said
    assert hint in said


def test_missing_engine_is_reported(mm: str, site: Site, engine: Callable[[str], None]) -> None:
    configure_docker(site, mm)
    assert "docker: no such command" in site.once(expect=78)
