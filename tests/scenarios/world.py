"""A mail host with Mailman on it: real Mailman, real Postfix, and the postfix-sync daemon between.

Mailman's LMTP server has a host name that only postfix-sync makes known to Postfix, through a hosts
file of the world's own and its copy in Postfix's chroot. All files are under one directory.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.parts.common import wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.load import Sent, send
from tests.parts.mailman import Accepted, Mailman
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

HOSTS = "127.0.0.1 localhost\n"
PATIENCE = 60.0


class World:
    """All of it; start() and stop() it, or use it in a with statement."""

    def __init__(
        self,
        directory: Path,
        *,
        map_type: str,
        table: str = "hash",
        main_cf: Mapping[str, str] | None = None,
        probe_interval: str = "1s",
        flush: bool = True,
    ) -> None:
        """Write every configuration. `table` is Mailman's format, `main_cf` Postfix's own."""
        self.mailman = Mailman(directory / "mailman", table=table)
        self.site = Site(
            directory,
            directory / "postfix/etc",
            map_type,
            source={"name": "lists", "address": self.mailman.lmtp_address},
            options={"probe": {"level": "rcpt", "interval": probe_interval, "flush": flush}},
            data=self.mailman.data,
        )
        self.site.hosts.write_text(HOSTS)
        self.postfix = PostfixInstance(
            directory / "postfix",
            hosts=self.site.hosts,
            main_cf={**mailman_parameters(self.site.maps, map_type), **(main_cf or {})},
        )
        self._daemon: RunningDaemon | None = None

    def __enter__(self) -> Self:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start all three; Postfix last, as it needs the maps that the daemon's first pass makes.

        Who calls this and not `with` calls stop() also when it fails.
        """
        self.mailman.start()
        self.start_daemon()
        self.postfix.start()

    def start_daemon(self) -> None:
        """Start postfix-sync, and wait for its first pass."""
        self.site.configure()
        self._daemon = RunningDaemon(self.site)
        self._daemon.wait_for_passes(1, PATIENCE)

    def stop(self) -> None:
        """Stop what runs."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.mailman.stop)
            stack.callback(self.postfix.stop)
            if self._daemon is not None:
                stack.push(self._daemon)
                if self._daemon.process.poll() is None:
                    self._daemon.stop(timeout=PATIENCE)

    @property
    def has_daemon(self) -> bool:
        """The daemon was started."""
        return self._daemon is not None

    @property
    def daemon(self) -> RunningDaemon:
        """The daemon, which runs from start() on."""
        assert self._daemon is not None
        return self._daemon

    def send(self, recipient: str) -> Sent:
        """Send one message by SMTP."""
        return send(self.postfix.port, recipient)

    def received(self, sent: Sent) -> Accepted | None:
        """The message as Mailman has it, if it does."""
        message_id = f"{sent.load_id}@load.example"
        return next((one for one in self.mailman.accepted() if one.message_id == message_id), None)

    def wait_until_received(self, sent: Sent) -> Accepted:
        """Wait until Mailman has the message."""
        found = wait_for(lambda: self.received(sent), PATIENCE, f"{sent.recipient} in Mailman")
        assert found is not None
        return found

    def wait_until_accepted(self, recipient: str) -> Sent:
        """Send messages until one is accepted, as a sender who tries again at once."""

        def accepted() -> Sent | None:
            sent = self.send(recipient)
            return sent if sent.accepted else None

        found = wait_for(accepted, PATIENCE, f"a message to {recipient} accepted")
        assert found is not None
        return found

    def is_live(self, recipient: str) -> bool:
        """The map that decides whom Postfix takes mail for has this address."""
        return bool(self.site.lookup("postfix_recipients", [recipient]))

    def destination(self) -> dict[str, Any]:
        """What status.json says of Mailman's LMTP server; empty while it says nothing."""
        endpoint = f"{self.mailman.lmtp_host}:{self.mailman.lmtp_port}"
        found: dict[str, Any] = self.site.status()["destinations"].get(endpoint, {})
        return found

    def wait_until_destination(self, *, up: bool) -> dict[str, Any]:
        """Wait until status.json says that Mailman's LMTP server is up, or down."""
        return wait_for(
            lambda: found if (found := self.destination()).get("up") is up else {},
            PATIENCE,
            f"destination {'up' if up else 'down'} in status.json",
        )
