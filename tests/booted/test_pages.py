"""The pages for existing setups: each command is run, in order, on a Debian 12 with systemd.

Each page begins with a host as its readers have it. At the end, systemd or cron runs postfix-sync,
`doctor` has no failure, and Mailman has a message for the list that was created last.  Postfix,
systemd, Docker, sshd, cron and Mailman are Debian's own; only the images of the containers are
imitations (tests/parts/mailman_container.py), with the same users, paths, formats and addresses.
The tests do themselves what a page leaves to its reader, such as comparing two fingerprints.
"""

import json
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.booted.conftest import need_booted_hosts
from tests.parts import mailman_container
from tests.parts.booted import Booted
from tests.parts.common import PATIENCE, public_directory, wait_for
from tests.parts.debian_root import BOOKWORM
from tests.parts.load import send
from tests.parts.mailman_container import DOCKER_MAILMAN, ONLY_LMTP, SAMPLE, Image
from tests.parts.namespaces import Host, Network
from tests.parts.page import Step, steps

pytestmark = [pytest.mark.booted, pytest.mark.slow]

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
MM = "mm.example.net"
EXAMPLE_ADDRESS = "192.0.2.24"
"""MM's address in the pages."""

PACKAGES = (*mailman_container.PACKAGES, "openssh-client", "openssh-server")

A_SHELL_OF_ROOT = """\
exec 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /root
"""

KEPT = ("/etc/postfix/main.cf", "/etc/hosts")
"""Files that are restored after each page."""

MINUTE = 60 + PATIENCE
"""Seconds: cron's interval, and what takes long on a loaded machine."""


@dataclass(frozen=True)
class Machine:
    """A host, as the reader of a page uses it."""

    booted: Booted
    host: Host

    def shell(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands in a shell of root's; stdout has the output of both streams."""
        return self.booted.ask("sh", "-ec", A_SHELL_OF_ROOT + commands)

    def do(self, commands: str) -> str:
        """Run commands that must succeed; return their output."""
        done = self.shell(commands)
        assert done.returncode == 0, f"{commands}\nended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def make(self, step: Step) -> str:
        """Run a step, which must succeed and print what the page says; return its output."""
        done = self.shell(step.commands.replace(EXAMPLE_ADDRESS, "10.77.0.2"))
        said = f"{step.place}: status {done.returncode}\n{step.commands}\n{done.stdout}"
        assert done.returncode == 0, said
        assert not step.missing(done.stdout), f"{step.missing(done.stdout)!r} is missing\n{said}"
        return done.stdout

    def has(self, text: str, *places: str) -> bool:
        """Whether a text is in one of these files or directories."""
        return self.shell(f"grep -rqF '{text}' {' '.join(places)}").returncode == 0

    def run_container(self, image: Image, name: str, *options: str) -> None:
        """Start a container with Mailman, and wait until it accepts mail on the published port."""
        tar = self.booted.path("/root/image.tar")
        tar.write_bytes(mailman_container.tar(image))
        self.do(
            f"docker import -c 'ENTRYPOINT [\"/entry\"]' image.tar {image.name}\n"
            f"docker run --detach --name {name} --volume /usr:/usr:ro"
            f" {' '.join(options)} {image.name}\n"
        )
        self.wait_for_mailman()
        self.do(f"docker exec -u mailman {name} mailman create {ANTS}")

    def wait_for_mailman(self) -> None:
        """Wait until an LMTP server answers at port 8024."""
        with self.host.inside():
            wait_for(_greets, MINUTE, "220 of Mailman")


def _greets() -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        try:
            client.connect(("127.0.0.1", 8024))
            return client.recv(100).startswith(b"220")
        except OSError:
            return False


def follow(page: str, mx: Machine, others: Mapping[str, Machine] | None = None) -> list[str]:
    """Run each step of a page on its host; return their outputs."""
    return [{"": mx, **(others or {})}[step.host].make(step) for step in steps(page)]


def deliver(recipient: str, mx: Machine, mailman: Machine, *places: str) -> None:
    """Send messages to a new list until one is accepted; wait until Mailman has it."""
    with mx.host.inside():
        [sent] = wait_for(
            lambda: [sent for sent in [send(25, recipient)] if sent.accepted],
            MINUTE,
            f"a message to {recipient} accepted",
        )
    try:
        wait_for(
            lambda: mailman.has(f"{sent.load_id}@load.example", *places),
            MINUTE,
            "the message in Mailman",
        )
    except TimeoutError as error:
        log = "\n".join(mx.booted.journal("postfix*")[-30:])
        raise AssertionError(f"{error}\n{log}") from None


def assert_healthy(mx: Machine) -> None:
    """Check that doctor has no failure."""
    found = json.loads(mx.shell("postfix-sync doctor --json").stdout)
    assert [check for check in found["checks"] if check["status"] == "failure"] == []
    assert found["ok"]


@contextmanager
def machine(directory: Path, host: Host) -> Iterator[Booted]:
    """A host on which Docker can run; it is switched off."""
    # Docker would do this itself, but /proc/sys is read-only for it.
    with host.inside():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    options = mailman_container.OPTIONS
    with Booted(BOOKWORM, directory, host=host, packages=PACKAGES, options=options) as booted:
        booted.chroot("systemctl", "disable", "mailman3", "ssh")
        yield booted


@pytest.fixture(scope="module")
def hosts() -> Iterator[Network]:
    """The network of the host with Postfix and another host."""
    need_booted_hosts()
    with Network("mx", "mm") as hosts:
        yield hosts


@pytest.fixture(scope="module")
def installed(hosts: Network) -> Iterator[Machine]:
    """The host with Postfix, and with postfix-sync installed; booted once for all pages."""
    with public_directory() as directory, machine(directory, hosts["mx"]) as booted:
        booted.chroot("make", "-C", booted.copy_checkout(), "install")
        for path in KEPT:
            kept(booted, path).write_bytes(booted.path(path).read_bytes())
        booted.boot()
        yield Machine(booted, hosts["mx"])


@pytest.fixture
def mx(installed: Machine) -> Iterator[Machine]:
    """The installed host, with Debian's configuration of Postfix and nothing of another page."""
    yield installed
    installed.shell(
        "systemctl disable --now postfix-sync mailman3\n"
        "docker ps --all --quiet | xargs --no-run-if-empty docker rm --force\n"
        "rm -rf /etc/postfix-sync /etc/postfix/mailman /var/lib/postfix-sync\n"
        "rm -rf /etc/cron.d/*postfix-sync /srv/mailman_var /opt/mailman\n"
    )
    for path in KEPT:
        installed.booted.path(path).write_bytes(kept(installed.booted, path).read_bytes())
    installed.do("systemctl restart postfix")


def kept(booted: Booted, path: str) -> Path:
    """Return the path of a file's backup."""
    return booted.path(f"/root/{Path(path).name}.kept")


VOLUME = "--volume /srv/mailman_var:/opt/mailman/var"


def test_from_the_sample_container(mx: Machine) -> None:
    """The image of alexbarcelo/mailman3: a published port, and a name that does not resolve."""
    mx.run_container(SAMPLE, "mailman-test", "--hostname mailman-test --publish 8024:8024", VOLUME)

    follow("from-sample-container.md", mx)

    deliver(BEES, mx, mx, "/srv/mailman_var/queue")
    assert_healthy(mx)


def test_from_docker_mailman(mx: Machine) -> None:
    """The container of its compose file and the main.cf of its README; then its address changes."""
    mx.do("docker network create --subnet 172.19.199.0/24 mailman")
    mx.run_container(
        DOCKER_MAILMAN,
        "mailman-core",
        "--hostname mailman-core --network mailman --publish 127.0.0.1:8024:8024",
        "--volume /opt/mailman/core:/opt/mailman",
    )
    data = "/opt/mailman/core/var/data"
    mx.do(
        "cat >>/etc/postfix/main.cf <<END\n"
        "unknown_local_recipient_reject_code = 550\n"
        "owner_request_special = no\n"
        f"transport_maps =\n    regexp:{data}/postfix_lmtp\n"
        f"local_recipient_maps =\n    regexp:{data}/postfix_lmtp\n"
        f"relay_domains =\n    regexp:{data}/postfix_domains\n"
        "END\n"
        "postfix reload\n"
    )

    follow("from-docker-mailman.md", mx)

    deliver(BEES, mx, mx, "/opt/mailman/core/var/queue")
    assert_healthy(mx)

    # Another container takes its address while it is stopped, so it restarts with another one.
    address = (
        "docker inspect --format '{{.NetworkSettings.Networks.mailman.IPAddress}}' mailman-core"
    )
    before = mx.do(address)
    mx.do(
        "docker stop mailman-core\n"
        "docker run --detach --network mailman --volume /usr:/usr:ro --entrypoint /bin/sleep"
        f" {DOCKER_MAILMAN.name} 1000\n"
        "docker start mailman-core\n"
    )
    mx.wait_for_mailman()
    assert mx.do(address) != before
    # To another list: qmgr(8) caches the last address that it resolved for 30 s.
    deliver(ANTS, mx, mx, "/opt/mailman/core/var/queue")
    assert_healthy(mx)


def test_from_another_host(mx: Machine, hosts: Network) -> None:
    """Mailman runs on another host with an sshd, on which nothing is installed."""
    with public_directory() as directory, machine(directory, hosts["mm"]) as booted:
        booted.path("/etc/hostname").write_text("mm\n")
        booted.boot()
        mm = Machine(booted, hosts["mm"])
        mm.do("systemctl start ssh")
        options = f"--hostname {MM} --env MM_HOSTNAME={MM} --publish 8024:8024"
        mm.run_container(DOCKER_MAILMAN, "mailman-core", options, VOLUME)
        # In the field, the DNS has this name.
        mx.do(f"echo {hosts['mm'].address} {MM} >>/etc/hosts; systemctl restart postfix")

        fingerprints = set()
        for step in steps("ssh.md"):
            said = (mm if step.host else mx).make(step)
            if said.startswith("restrict "):
                booted.path("/etc/ssh/authorized_keys/postfix-sync").write_text(said)
            if "ssh-keygen -lf" in step.commands:
                fingerprints.add(said.splitlines()[-1].split()[1])
        assert len(fingerprints) == 1
        follow("from-another-host.md", mx, {MM: mm})

        mm.do(f"docker exec -u mailman mailman-core mailman create {BEES}")
        deliver(BEES, mx, mm, "/srv/mailman_var/queue")
        assert_healthy(mx)


def test_from_debians_mailman(mx: Machine) -> None:
    """Debian's package mailman3, and the main.cf of its README.Debian."""
    configuration = mx.booted.path("/etc/mailman3/mailman.cfg")
    configuration.write_text(configuration.read_text() + ONLY_LMTP)
    mx.do("systemctl start mailman3")
    mx.wait_for_mailman()
    data = "/var/lib/mailman3/data"
    mx.do(
        f"mailman-wrapper create {ANTS}\n"
        "cat >>/etc/postfix/main.cf <<'END'\n"
        "owner_request_special = no\n"
        f"transport_maps = hash:{data}/postfix_lmtp\n"
        "local_recipient_maps = proxy:unix:passwd.byname $alias_maps"
        f" hash:{data}/postfix_lmtp\n"
        "relay_domains = ${{$compatibility_level} < {2} ? {$mydestination} : {}}"
        f" hash:{data}/postfix_domains\n"
        "END\n"
        "postfix reload\n"
    )

    follow("from-debian-mailman3.md", mx)

    deliver(BEES, mx, mx, "/var/lib/mailman3/queue")
    assert_healthy(mx)


SCRIPT = """\
#!/bin/sh
cd /srv/mailman_var/data || exit
for map in postfix_lmtp postfix_domains; do
    cmp -s $map /etc/postfix/$map && continue
    cp $map /etc/postfix/$map
    postmap /etc/postfix/$map
done
postfix reload
"""


def test_from_cron(mx: Machine) -> None:
    """--once replaces a script in cron; then cron's runs add new lists and mail errors to root."""
    mx.run_container(SAMPLE, "mailman-test", "--hostname mailman-test --publish 8024:8024", VOLUME)
    mx.booted.path("/usr/local/sbin/mailman-maps").write_text(SCRIPT)
    mx.do(
        "chmod 755 /usr/local/sbin/mailman-maps\n"
        "echo '*/5 * * * * root /usr/local/sbin/mailman-maps' >/etc/cron.d/mailman-maps\n"
        "mailman-maps\n"
        "echo 127.0.0.1 mailman-test >>/etc/hosts\n"
        "postconf -e 'transport_maps = hash:/etc/postfix/postfix_lmtp'"
        " 'relay_domains = hash:/etc/postfix/postfix_domains'"
        " 'local_recipient_maps ="
        " proxy:unix:passwd.byname $alias_maps hash:/etc/postfix/postfix_lmtp'"
        " 'lmtp_host_lookup = native'\n"
        "systemctl restart postfix\n"
    )

    follow("from-cron.md", mx)
    assert_healthy(mx)
    # With an additional source that does not exist, one sync adds a list and has an error.
    mx.do(
        "echo '  - path: /srv/elsewhere/data' >>/etc/postfix-sync/config.yaml\n"
        f"docker exec -u mailman mailman-test mailman create {BEES}"
    )

    deliver(BEES, mx, mx, "/srv/mailman_var/queue")
    wait_for(lambda: mx.has("/srv/elsewhere/data", "/var/mail/root"), MINUTE, "cron's mail")
