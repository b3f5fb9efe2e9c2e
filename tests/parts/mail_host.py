"""A running Postfix with a Mailman's LMTP server, and a site that is not set up yet."""

import shutil
import smtplib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from subprocess import CompletedProcess

from .common import PATIENCE, public_directory, wait_for
from .lmtp_sink import LmtpSink
from .load import send
from .mailman_files import nine
from .postfix_instance import SENDER, PostfixInstance
from .site import Site


class Host:
    """A running Postfix without lists, with a site and a Mailman's LMTP server."""

    def __init__(self, site: Site, postfix: PostfixInstance, sink: LmtpSink) -> None:
        self.site = site
        self.postfix = postfix
        self.sink = sink
        self.hop = f"lmtp:[127.0.0.1]:{sink.port}"
        self.files = {
            path: path.read_text()
            for path in (postfix.config_directory / name for name in ("main.cf", "master.cf"))
        }

    def begin(self, *lists: str, **parameters: str) -> None:
        """Reset main.cf, then set these parameters; Mailman has these lists."""
        for path, text in self.files.items():
            path.write_text(text)
        shutil.rmtree(self.site.state, ignore_errors=True)
        shutil.rmtree(self.site.maps, ignore_errors=True)
        self.site.files.write(*lists, hop=self.hop)
        self.sink.accept(address for name in lists for address in nine(name))
        if parameters:
            self.postfix.postconf(**parameters)
        self.postfix.age()
        self.postfix.reload()

    def value(self, parameter: str) -> str:
        """Return the current value in main.cf."""
        return self.postfix.command("postconf", "-h", parameter).strip()

    @property
    def main_cf(self) -> str:
        """Return the text of main.cf."""
        return (self.postfix.config_directory / "main.cf").read_text()

    def replies(self, *recipients: str) -> dict[str, int]:
        """Return the code of smtpd(8)'s reply to RCPT for each recipient."""
        codes = {}
        for recipient in recipients:
            with smtplib.SMTP("127.0.0.1", self.postfix.port, timeout=60) as smtp:
                smtp.ehlo("client.example")
                smtp.mail(SENDER)
                codes[recipient], _ = smtp.rcpt(recipient)
        return codes

    def expect(self, expected: Mapping[str, int]) -> None:
        """Wait until smtpd(8) replies so, as each of its processes has to read main.cf again."""
        wait_for(
            lambda: self.replies(*expected) == expected,
            PATIENCE,
            f"{expected}, not {self.replies(*expected)}",
        )

    def relays(self, recipient: str) -> str:
        """Send a message, which must be accepted; return the program that delivered it, and how."""
        before = len(self.postfix.outcomes())
        assert send(self.postfix.port, recipient).accepted
        wait_for(lambda: self.postfix.outcomes()[before:], PATIENCE, f"an outcome of {recipient}")
        outcome = self.postfix.outcomes()[before]
        return f"{outcome.daemon.rpartition('/')[2]} {outcome.status}"

    def setup(self, *arguments: str, expect: int = 0) -> CompletedProcess[str]:
        """Run setup."""
        done = self.site.call("setup", *arguments)
        assert done.returncode == expect, done
        self.postfix.age()
        return done


@contextmanager
def started_host() -> Iterator[Host]:
    """Start Postfix and an LMTP server; each test calls `begin` first."""
    with public_directory() as directory, LmtpSink() as sink:
        site = Site(directory, directory / "postfix/etc")
        site.hosts.write_bytes(b"127.0.0.1 localhost\n")
        with PostfixInstance(directory / "postfix") as postfix:
            yield Host(site, postfix, sink)
