"""A real Postfix that takes on one configuration of the corpus after another.

Beside it run Mailman's LMTP server and the SMTP server of somebody else, smtp-sink(1).
"""

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.corpus.mail import CLIENTS, Fate, Message, fates
from tests.corpus.shape import Shape
from tests.parts.common import PATIENCE, free_port, public_directory, wait_for
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance
from tests.parts.site import Site

INDEXED = ("hash", "btree", "lmdb", "cdb")

OF_A_SHAPE = (
    "mydestination",
    "local_recipient_maps",
    "alias_maps",
    "mynetworks",
    "smtpd_relay_restrictions",
    "recipient_delimiter",
    "unknown_local_recipient_reject_code",
    "virtual_mailbox_domains",
    "virtual_mailbox_maps",
    "virtual_transport",
)
"""Parameters of PostfixInstance that a shape has, or leaves to Postfix's own default."""

BASE = {
    "mynetworks": "127.0.0.1/32",
    "alias_maps": "inline:{{bob=/dev/null}, {postmaster=/dev/null}}",
    "recipient_delimiter": "+",
    "mail_spool_directory": "{data}/spool",
    "virtual_mailbox_base": "{data}/spool",
    "virtual_uid_maps": "static:65534",
    "virtual_gid_maps": "static:65534",
}
"""What a shape has unless it says otherwise."""

READING = ("smtpd", "postscreen", "cleanup", "trivial-rewrite", "qmgr", "proxymap", "verify")
"""The programs that read main.cf when they start: after a reload, each is another process."""

DELIVERING = ("lmtp", "smtp", "local", "virtual", "error", "discard")


class CorpusHost:
    """Postfix, a site, Mailman's LMTP server, and another SMTP server."""

    def __init__(
        self, site: Site, postfix: PostfixInstance, mailman: LmtpSink, relay: int, extra: int
    ) -> None:
        """Keep main.cf and master.cf as they are: each shape begins with them."""
        self.site = site
        self.postfix = postfix
        self.mailman = mailman
        self.data = site.directory / "tables"
        self.ports = {
            "port": postfix.port,
            "extra": extra,
            "relay": relay,
            "mailman": mailman.port,
        }
        lines = self.main_cf.splitlines()
        self._main_cf = [line for line in lines if line.split(" =")[0] not in OF_A_SHAPE]
        self._master_cf = self._path("master.cf").read_text().splitlines()

    def _path(self, name: str) -> Path:
        return self.postfix.config_directory / name

    @property
    def main_cf(self) -> str:
        """Return the text of main.cf."""
        return self._path("main.cf").read_text()

    # Taking on a shape

    def begin(self, shape: Shape, list_class: str) -> None:
        """Take on a shape with the list's domain in this class. No map of ours is named."""
        self.empty_queue()
        for directory in (self.site.state, self.site.maps, self.data):
            shutil.rmtree(directory, ignore_errors=True)
        for cache in self.postfix.data_directory.glob("*_cache*"):
            cache.unlink()
        (self.data / "spool").mkdir(parents=True)
        (self.data / "spool").chmod(0o1777)
        fill = partial(self._fill, shape)
        parameters = {**BASE, **shape.parameters(list_class)}
        lines = [line for line in self._main_cf if line.split(" =")[0] not in parameters]
        lines += [f"{name} = {value}" for name, value in parameters.items()]
        self._path("main.cf").write_text("".join(f"{fill(line)}\n" for line in lines))
        services = {_service(line): line for line in self._master_cf}
        services |= {_service(line): line for line in map(fill, shape.services)}
        self._path("master.cf").write_text("".join(f"{line}\n" for line in services.values()))
        for name, text in shape.tables.items():
            self._write_table(name, fill(text))
        for override in shape.overrides:
            self.postfix.command("postconf", "-P", fill(override))
        in_mailman = shape.at_mailman(shape.list_name)
        aliases = {shape.list_name: in_mailman} if shape.alias_domain else {}
        hop = f"lmtp:[127.0.0.1]:{self.mailman.port}"
        self.site.files.write(in_mailman, hop=hop, aliases=aliases)
        self.mailman.accept(nine(in_mailman))
        self.postfix.age()
        self.replacing_processes(self.postfix.reload)

    def _fill(self, shape: Shape, text: str) -> str:
        values = {"data": self.data, "domain": shape.domain, **self.ports}
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def _write_table(self, name: str, text: str) -> None:
        kind, _, file = name.partition(":")
        path = self.data / file
        if kind == "sqlite":
            with sqlite3.connect(path) as database:
                database.executescript(text)
            database.close()
            return
        path.write_text(text)
        if kind == "aliases":
            self.postfix.command("postalias", f"hash:{path}")
        elif kind in INDEXED:
            self.postfix.command("postmap", f"{kind}:{path}")

    def empty_queue(self) -> None:
        """Remove all messages, so that none is delivered later."""
        self.postfix.command("postsuper", "-d", "ALL")

    def replacing_processes(self, reload: Callable[[], object]) -> None:
        """Do something that reloads Postfix, and wait until no process has the old main.cf."""
        before = self._processes()
        reload()
        wait_for(lambda: not before & self._processes(), 2 * PATIENCE, "the end of old processes")

    def _processes(self) -> set[int]:
        """Return the process ids of all that read main.cf."""
        master = (self.postfix.queue_directory / "pid/master.pid").read_text().strip()
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, _, rest = stat.read_text("utf-8", "replace").partition(" (")
            except OSError:
                continue  # it has ended meanwhile
            name, _, fields = rest.rpartition(") ")
            if name in READING + DELIVERING and fields.split()[1] == master:
                found.add(int(pid))
        return found

    # Commands

    def setup(self, *arguments: str) -> int:
        """Run setup; return its exit status."""
        text = self.main_cf
        before = self._processes()
        status = self.site.call("setup", *arguments).returncode
        self.postfix.age()
        if self.main_cf != text:
            wait_for(lambda: not before & self._processes(), 2 * PATIENCE, "the end of processes")
        return status

    # Mail

    def list_mail(self, shape: Shape) -> dict[str, Fate]:
        """Send a message to each address of the list, from inside and outside; return the fates.

        Only what Mailman was given for the very address counts as sent.
        """
        messages = {
            f"{recipient} from {client} to {listener}": Message(
                address, self.ports[listener], recipient
            )
            for listener in shape.listeners
            for client, address in CLIENTS.items()
            for recipient in shape.list_mail
        }
        if shape.large:
            large = Message(CLIENTS["inside"], self.postfix.port, shape.list_name, shape.large)
            messages["a large message"] = large
        found = self._send(messages)
        delivered = {(item.load_id, item.recipient) for item in self.mailman.deliveries()}
        return {
            name: fate
            if fate.kind != "sent"
            or (load_id, shape.at_mailman(messages[name].recipient)) in delivered
            else Fate(fate.code, fate.reply, tuple(f"elsewhere {end}" for end in fate.deliveries))
            for name, (load_id, fate) in found.items()
        }

    def other_mail(self, shape: Shape) -> dict[str, Fate]:
        """Send a message to each other address, from inside and outside; return the fates."""
        return {
            name: fate
            for name, (_, fate) in self._send(
                {
                    f"{recipient} from {client}": Message(address, self.postfix.port, recipient)
                    for client, address in CLIENTS.items()
                    for recipient in shape.watched
                }
            ).items()
        }

    def _send(self, messages: dict[str, Message]) -> dict[str, tuple[str, Fate]]:
        begin = self.postfix.maillog.stat().st_size

        def log() -> str:
            with self.postfix.maillog.open("rb") as file:
                file.seek(begin)
                return file.read().decode(errors="replace")

        places = {port: name for name, port in self.ports.items() if name in {"relay", "mailman"}}
        return dict(zip(messages, fates(messages.values(), log, places), strict=True))


def _service(line: str) -> tuple[str, ...]:
    """Return the name and the type of a service."""
    return tuple(line.split()[:2])


@contextmanager
def smtp_sink(port: int) -> Iterator[None]:
    """Run an SMTP server that accepts everything."""
    command = ["/usr/sbin/smtp-sink", "-u", "postfix", "-h", "relay.example"]
    with subprocess.Popen([*command, f"127.0.0.1:{port}", "100"]) as process:
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def corpus_host() -> Iterator[CorpusHost]:
    """Start all of it."""
    relay = free_port()
    with public_directory() as directory, LmtpSink() as mailman, smtp_sink(relay):
        site = Site(directory, directory / "postfix/etc")
        site.hosts.write_bytes(b"127.0.0.1 localhost\n")
        with PostfixInstance(directory / "postfix") as postfix:
            yield CorpusHost(site, postfix, mailman, relay, free_port())
