"""A Postfix of a test's own: real daemons with all their files under one directory.

The instance is configured like Debian's: the same services, the same ones chrooted, and a chroot
whose etc/ is filled when the service starts.  It differs where a test needs it:

- smtpd listens on a free loopback port, and does not trust its client (it relays only to what the
  maps name), so an unknown recipient is refused as in the field.
- Its DNS has no names (dead_end_dns; the machine's own is not queried).  Mail without a route
  bounces at once, as where the DNS works and the list's domain has no other mail server.
- Senders at SENDER_DOMAIN exist: a bounce to one of them is delivered and discarded.  So each line
  with status=bounced is a message that was lost, never the report about one.

User postfix must be able to reach the directory: see common.public_directory.
"""

import json
import os
import re
import shutil
import smtplib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from . import postfix_version
from .common import end_processes, free_port, processes_with, run, wait_for
from .dead_end_dns import DeadEndDns

SENDER_DOMAIN = "sender.example"
SENDER = f"tester@{SENDER_DOMAIN}"

# The start of smtp(8)'s log text if the DNS has no such domain: the mark of a lost message.
NO_ROUTE = "Host or domain name not found"

# Debian's master.cf, without the pipes to other mail systems.
MASTER_CF = """\
127.0.0.1:{port} inet n - y - - smtpd
pickup     unix       n - y 60    1 pickup
cleanup    unix       n - y -     0 cleanup
qmgr       unix       n - n 300   1 qmgr
tlsmgr     unix       - - y 1000? 1 tlsmgr
rewrite    unix       - - y -     - trivial-rewrite
bounce     unix       - - y -     0 bounce
defer      unix       - - y -     0 bounce
trace      unix       - - y -     0 bounce
verify     unix       - - y -     1 verify
flush      unix       n - y 1000? 0 flush
proxymap   unix       - - n -     - proxymap
proxywrite unix       - - n -     1 proxymap
smtp       unix       - - y -     - smtp
relay      unix       - - y -     - smtp
showq      unix       n - y -     - showq
error      unix       - - y -     - error
retry      unix       - - y -     - error
discard    unix       - - y -     - discard
local      unix       - n n -     - local
virtual    unix       - n n -     - virtual
lmtp       unix       - - {chroot} - - lmtp
anvil      unix       - - y -     1 anvil
scache     unix       - - y -     1 scache
postlog    unix-dgram n - n -     1 postlogd
"""

# What configure-instance.sh copies into the chroot; hosts and resolv.conf are the test's own.
CHROOT_FILES = ("localtime", "services", "host.conf")
NSSWITCH_CONF = "hosts: files dns\n"
RESOLV_CONF = "nameserver {address}\noptions timeout:10 attempts:2\n"

_OUTCOME = re.compile(
    r" postfix/(?P<daemon>[\w/-]+)\[\d+\]: (?P<queue_id>\w+): to=<(?P<recipient>[^>]*)>,"
    r"(?: orig_to=<[^>]*>,)? relay=(?P<relay>.*?),"
    r"(?: conn_use=\d+,)? delay=(?P<delay>[\d.]+), .*?dsn=(?P<dsn>[\d.]+), "
    r"status=(?P<status>\w+) \((?P<text>.*)\)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Outcome:
    """The result of one try to deliver a message to one recipient, from a line of the log."""

    daemon: str
    queue_id: str
    recipient: str
    relay: str
    delay: str
    dsn: str
    status: str
    text: str

    @property
    def seconds(self) -> float:
        """The seconds since the message arrived."""
        return float(self.delay)

    @property
    def refused_by_server(self) -> bool:
        """Whether the LMTP server refused the message, to which Postfix had a route."""
        return " said: 5" in self.text


def outcomes_in(log: str) -> list[Outcome]:
    """Find every delivery and every failed try in a part of the log, oldest first."""
    return [Outcome(**match.groupdict()) for match in _OUTCOME.finditer(log)]


def mailman_parameters(map_directory: Path, map_type: str) -> dict[str, str]:
    """Return the parameters of main.cf by which Postfix uses the four maps of postfix-sync."""

    def reference(name: str) -> str:
        return f"{map_type}:{map_directory / name}"

    return {
        "transport_maps": reference("postfix_lmtp"),
        "relay_domains": reference("postfix_domains"),
        "relay_recipient_maps": reference("postfix_recipients"),
        "virtual_alias_maps": reference("postfix_vmap"),
    }


class PostfixInstance:
    """A Postfix of the test; start() and stop() it, or use it in a with statement."""

    def __init__(
        self,
        directory: Path,
        *,
        main_cf: Mapping[str, str] | None = None,
        hosts: Path | None = None,
        lmtp_chroot: bool = True,
        dns: bool = True,
        port: int | None = None,
    ) -> None:
        """Write the configuration.

        hosts is the file that replaces /etc/hosts, if any.  Without dns, no name server answers,
        and every lookup is a temporary failure.
        """
        postfix_version.used(postfix_version.machines())
        self.directory = directory
        self.hosts = hosts
        self.port = port or free_port()
        self.config_directory = directory / "etc"
        self.queue_directory = directory / "spool"
        self.data_directory = directory / "data"
        self.maillog = directory / "maillog"
        self.chroot_hosts = self.queue_directory / "etc/hosts"
        self.dns = DeadEndDns()
        self._has_dns = dns

        for made in (self.config_directory, self.queue_directory, self.data_directory):
            made.mkdir(parents=True, mode=0o755)
        shutil.chown(self.data_directory, "postfix")
        # postqueue reads these if Postfix is stopped; Postfix makes the others at its start.
        for name in ("maildrop", "incoming", "active", "deferred", "hold"):
            queue = self.queue_directory / name
            queue.mkdir(mode=0o700)
            shutil.chown(queue, "postfix")
        shutil.chown(self.queue_directory / "maildrop", group="postdrop")
        (self.queue_directory / "maildrop").chmod(0o730)
        (self.config_directory / "master.cf").write_text(
            MASTER_CF.format(port=self.port, chroot="y" if lmtp_chroot else "n")
        )
        (self.config_directory / "main.cf").write_text(
            "".join(f"{name} = {value}\n" for name, value in self._parameters(main_cf or {}))
        )
        self.age()

    def _parameters(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        own = {
            "compatibility_level": "3.6",
            "queue_directory": str(self.queue_directory),
            "data_directory": str(self.data_directory),
            "maillog_file": str(self.maillog),
            "maillog_file_prefixes": str(self.directory),
            "myhostname": "mx.postfix-sync.example",
            "mydestination": "localhost",
            "local_recipient_maps": "inline:{postmaster=ok}",
            "alias_maps": "",
            "alias_database": "",
            "inet_interfaces": "loopback-only",
            "inet_protocols": "all",
            "biff": "no",
            # The client is not trusted: only recipients in the maps are accepted.
            "mynetworks": "",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "recipient_delimiter": "+",
            "unknown_local_recipient_reject_code": "550",
            "smtpd_peername_lookup": "no",
            "lmtp_host_lookup": "native",
            "virtual_mailbox_domains": SENDER_DOMAIN,
            "virtual_mailbox_maps": "static:ok",
            "virtual_transport": "discard:",
            # No limits per client: all load comes from one client.
            "in_flow_delay": "0",
            "smtpd_error_sleep_time": "0",
            "smtpd_client_connection_count_limit": "0",
        }
        yield from {**own, **wanted}.items()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    def command(self, program: str, *arguments: str) -> str:
        """Run one of Postfix's programs (postfix, postqueue, postconf) for this instance."""
        postfix_version.used(postfix_version.machines())
        return run(f"/usr/sbin/{program}", "-c", str(self.config_directory), *arguments)

    def start(self) -> None:
        """Set up the chroot as Debian does, start, and wait until smtpd answers."""
        self._fill_chroot()
        if self._has_dns:
            self.dns.start()
        try:
            self.command("postfix", "start")
            wait_for(self._greets, 60, f"220 from smtpd on port {self.port}")
            # In Debian 13 `postfix start` fills the chroot from the machine's /etc.
            self._fill_chroot()
        except (RuntimeError, TimeoutError) as error:
            self.stop()
            raise RuntimeError(f"Postfix did not start: {error}\n{self.log}") from error

    def stop(self) -> None:
        """Stop, and wait until every process of this instance has ended; may be called again."""
        if self.running:
            with suppress(RuntimeError):  # it may be ending
                self.command("postfix", "abort")
        end_processes("MAIL_CONFIG", str(self.config_directory), 5)
        self.dns.stop()

    def reload(self) -> None:
        """Have the configuration and all maps read again."""
        self.command("postfix", "reload")

    @property
    def running(self) -> bool:
        """Whether a process of this instance exists."""
        return bool(processes_with("MAIL_CONFIG", str(self.config_directory)))

    def _fill_chroot(self) -> None:
        etc = self.chroot_hosts.parent
        etc.mkdir(exist_ok=True)
        for name in CHROOT_FILES:
            if (source := Path("/etc") / name).is_file():
                shutil.copyfile(source, etc / name)
        (etc / "nsswitch.conf").write_text(NSSWITCH_CONF)
        (etc / "resolv.conf").write_text(RESOLV_CONF.format(address=self.dns.address))
        if self.hosts is not None and self.hosts.is_file():
            shutil.copyfile(self.hosts, self.chroot_hosts)
        for path in etc.iterdir():
            path.chmod(0o644)

    def _greets(self) -> bool:
        try:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=5):
                return True
        except (OSError, smtplib.SMTPException):
            return False

    def postconf(self, **parameters: str) -> None:
        """Set parameters in main.cf (as `postconf -e` does; most need a reload to take effect)."""
        self.command("postconf", "-e", *(f"{name}={value}" for name, value in parameters.items()))
        self.age()

    def age(self) -> None:
        """Date main.cf back: Postfix's programs wait if it was changed a moment ago."""
        main_cf = self.config_directory / "main.cf"
        long_ago = main_cf.stat().st_mtime - 60
        os.utime(main_cf, (long_ago, long_ago))

    @property
    def log(self) -> str:
        """Everything that this instance has logged."""
        return self.maillog.read_text(errors="replace") if self.maillog.exists() else ""

    @property
    def reloads(self) -> int:
        """The number of reloads of this instance."""
        return self.log.count(": reload -- version ")

    def outcomes(self) -> list[Outcome]:
        """Return every delivery and every failed try, oldest first."""
        return outcomes_in(self.log)

    def bounces(self) -> list[Outcome]:
        """Return the messages that were bounced: without a route, or refused by the server."""
        return [outcome for outcome in self.outcomes() if outcome.status == "bounced"]

    def queue(self) -> list[dict[str, Any]]:
        """Return the queue, as `postqueue -j` prints it."""
        lines = self.command("postqueue", "-j").split("\n")  # addresses may hold U+2028
        return [json.loads(line) for line in lines if line]

    def wait_for_empty_queue(self, timeout: float = 30) -> None:
        """Wait until every message has been delivered or returned.

        The queue file of a message that was being delivered during a reload is kept for minutes,
        without recipients: qmgr(8) has "skipped" it, and removes it only later.
        """
        wait_for(
            lambda: not any(message["recipients"] for message in self.queue()),
            timeout,
            "an empty queue",
        )
