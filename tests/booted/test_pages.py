"""The pages for what people have are followed, command by command, on a Debian 12 with systemd.

Each page begins with a host as its readers have it, and ends with a postfix-sync that systemd (or
cron) looks after, `doctor` without a failure, and a message in Mailman for a list that was created
last.  Postfix, systemd, Docker, cron and Mailman are Debian's own; of the containers only the
images are imitated (tests/parts/mailman_container.py), with the same user, paths, formats and
addresses.
"""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted.conftest import need_booted_hosts
from tests.parts import mailman_container
from tests.parts.booted import Booted
from tests.parts.common import PATIENCE, public_directory, wait_for
from tests.parts.debian_root import BOOKWORM
from tests.parts.load import send
from tests.parts.mailman_container import DOCKER_MAILMAN, SAMPLE, Image
from tests.parts.namespaces import Host, Network
from tests.parts.page import Step, steps

pytestmark = [pytest.mark.booted, pytest.mark.slow]

ANTS, BEES, CATS = (f"{name}@lists.example.net" for name in ("ants", "bees", "cats"))
UNIT = "postfix-sync.service"

A_SHELL_OF_ROOT = """\
exec 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /root
"""

KEPT = ("/etc/postfix/main.cf", "/etc/hosts")
"""What each page finds as the one before has found it."""

MINUTE = 60 + PATIENCE


class Mx:
    """The host that has Postfix."""

    def __init__(self, booted: Booted, host: Host) -> None:
        """Run."""
        self.booted = booted
        self.host = host

    def shell(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Paste commands into a shell of root's; its output is on stdout."""
        return self.booted.ask("sh", "-ec", A_SHELL_OF_ROOT + commands)

    def do(self, commands: str) -> str:
        """The same for commands that must succeed; what they printed."""
        done = self.shell(commands)
        assert done.returncode == 0, f"{commands}\nended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def follow(self, page: str) -> None:
        """Make each step of a page."""
        for step in steps(page):
            self.make(step)

    def make(self, step: Step) -> None:
        """Make a step, which must succeed and print what the page says."""
        done = self.shell(step.commands)
        said = f"{step.place}: status {done.returncode}\n{step.commands}\n{done.stdout}"
        assert done.returncode == 0, said
        assert not step.missing(done.stdout), f"{step.missing(done.stdout)!r} is missing\n{said}"

    def run_container(self, image: Image, name: str, *options: str) -> None:
        """Start a container with Mailman, and wait until it takes mail on the published port."""
        made_of = self.booted.path("/root/image.tar")
        made_of.write_bytes(mailman_container.tar(image))
        self.do(
            f"docker import -c 'ENTRYPOINT [\"/entry\"]' image.tar {image.name}\n"
            f"docker run --detach --name {name} --hostname {name} --volume /usr:/usr:ro"
            f" {' '.join(options)} {image.name}\n"
        )
        wait_for(self.greets, MINUTE, f"220 of Mailman in {name}")

    def greets(self) -> bool:
        """An LMTP server answers at the published port."""
        with self.host.inside(), socket.socket() as client:
            client.settimeout(5)
            try:
                client.connect(("127.0.0.1", 8024))
                return client.recv(100).startswith(b"220")
            except OSError:
                return False

    def deliver(self, recipient: str, var: str) -> None:
        """Send a message, as somebody does to whom a list was just named; Mailman has it."""
        with self.host.inside():
            [sent] = wait_for(
                lambda: [one for one in [send(25, recipient)] if one.accepted],
                MINUTE,
                f"mail for {recipient} taken",
            )
        queue = f"grep -rlF {sent.load_id}@load.example {var}"
        try:
            wait_for(lambda: self.shell(queue).returncode == 0, PATIENCE, "the message in Mailman")
        except TimeoutError as error:
            log = "\n".join(self.booted.journal("postfix*")[-30:])
            raise AssertionError(f"{error}\n{log}") from None

    def is_healthy(self) -> None:
        """Doctor finds no failure."""
        done = self.shell("postfix-sync doctor --json")
        found = json.loads(done.stdout)
        wrong = [one for one in found["checks"] if one["status"] == "failure"]
        assert not wrong
        assert found["ok"]


@pytest.fixture(scope="module")
def booted() -> Iterator[Mx]:
    """The host, with postfix-sync installed; booted once for all pages."""
    need_booted_hosts()
    with (
        public_directory() as directory,
        Network("mx") as hosts,
        Booted(
            BOOKWORM,
            directory,
            host=hosts["mx"],
            packages=mailman_container.PACKAGES,
            options=mailman_container.OPTIONS,
        ) as booted,
    ):
        project = booted.copy_checkout()
        booted.chroot("make", "-C", project, "install")
        booted.chroot("systemctl", "disable", "mailman3")
        for path in KEPT:
            kept(booted, path).write_bytes(booted.path(path).read_bytes())
        # Docker would do so itself, but finds /proc/sys read-only.
        with hosts["mx"].inside():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        booted.boot()
        booted.wait_for_unit("docker")
        yield Mx(booted, hosts["mx"])


@pytest.fixture
def mx(booted: Mx) -> Iterator[Mx]:
    """The host, with a Postfix as Debian configures it, and nothing of another page."""
    yield booted
    booted.shell(
        f"systemctl disable --now {UNIT} postfix-sync-once.timer\n"
        "docker ps --all --quiet | xargs --no-run-if-empty docker rm --force\n"
        "rm -rf /etc/postfix-sync /etc/postfix/mailman /var/lib/postfix-sync\n"
        "rm -rf /etc/cron.d/*postfix-sync /srv/mailman_var /opt/mailman\n"
    )
    for path in KEPT:
        booted.booted.path(path).write_bytes(kept(booted.booted, path).read_bytes())
    booted.do("systemctl restart postfix")


def kept(booted: Booted, path: str) -> Path:
    """Where a file was kept."""
    return booted.path(f"/root/{Path(path).name}.kept")


def test_from_the_sample_container(mx: Mx) -> None:
    """The image of alexbarcelo/mailman3: a published port, a name that nobody knows."""
    mx.run_container(
        SAMPLE,
        "mailman-test",
        "--publish 8024:8024 --volume /srv/mailman_var:/opt/mailman/var",
    )
    mx.do(f"docker exec -u mailman mailman-test mailman create {ANTS}")

    mx.follow("from-sample-container.md")

    mx.deliver(BEES, "/srv/mailman_var/queue")
    mx.is_healthy()


def test_from_docker_mailman(mx: Mx) -> None:
    """Its compose file's container, and the main.cf of its README."""
    mx.do("docker network create --subnet 172.19.199.0/24 mailman")
    mx.run_container(
        DOCKER_MAILMAN,
        "mailman-core",
        "--network mailman --publish 127.0.0.1:8024:8024 --volume /opt/mailman/core:/opt/mailman",
    )
    mx.do(f"docker exec -u mailman mailman-core mailman create {ANTS}")
    mx.do(
        "cat >>/etc/postfix/main.cf <<END\n"
        "unknown_local_recipient_reject_code = 550\n"
        "owner_request_special = no\n"
        "transport_maps =\n    regexp:/opt/mailman/core/var/data/postfix_lmtp\n"
        "local_recipient_maps =\n    regexp:/opt/mailman/core/var/data/postfix_lmtp\n"
        "relay_domains =\n    regexp:/opt/mailman/core/var/data/postfix_domains\n"
        "END\n"
        "postfix reload\n"
    )

    mx.follow("from-docker-mailman.md")

    mx.deliver(BEES, "/opt/mailman/core/var/queue")
    mx.is_healthy()


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


def test_from_cron(mx: Mx) -> None:
    """A script of cron's gives way to --once; cron then has new lists known, and mails errors."""
    mx.run_container(
        SAMPLE,
        "mailman-test",
        "--publish 8024:8024 --volume /srv/mailman_var:/opt/mailman/var",
    )
    mx.do(f"docker exec -u mailman mailman-test mailman create {ANTS}")
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

    mx.follow("from-cron.md")
    # A second source that is not there: one and the same pass has a list to add, and an error.
    mx.do(
        "echo '  - path: /srv/elsewhere/data' >>/etc/postfix-sync/config.yaml\n"
        f"docker exec -u mailman mailman-test mailman create {BEES}"
    )

    mx.deliver(BEES, "/srv/mailman_var/queue")
    mails = "/var/mail/root"
    complaint = "grep -F '/srv/elsewhere/data' /var/mail/root"
    wait_for(lambda: mx.shell(complaint).returncode == 0, MINUTE, f"a mail of cron in {mails}")
