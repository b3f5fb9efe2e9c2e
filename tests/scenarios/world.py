"""A mail host with a real Mailman, a real Postfix, and the postfix-sync daemon between them.

Mailman's LMTP server has a host name that Postfix resolves only by postfix-sync's entries, in a
hosts file of the world's own and its copy in Postfix's chroot. All files are in one directory.
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
    """The three parts; start() and stop() them, or use it in a with statement."""

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
        """Write all configurations. `table` is Mailman's format, `main_cf` has more parameters."""
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
        """Start all three; Postfix is last, because it needs the maps of the daemon's first sync.

        A caller without `with` must call stop() also if this fails.
        """
        self.mailman.start()
        self.start_daemon()
        self.postfix.start()

    def start_daemon(self) -> None:
        """Start the daemon, and wait for its first sync."""
        self.site.configure()
        self._daemon = RunningDaemon(self.site)
        self._daemon.wait_for_passes(1, PATIENCE)

    def stop(self) -> None:
        """Stop the running parts."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.mailman.stop)
            stack.callback(self.postfix.stop)
            if self._daemon is not None:
                stack.push(self._daemon)
                if self._daemon.process.poll() is None:
                    self._daemon.stop(timeout=PATIENCE)

    @property
    def has_daemon(self) -> bool:
        """Whether the daemon was started."""
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
        """Return the message in Mailman, or None if Mailman does not have it."""
        message_id = f"{sent.load_id}@load.example"
        return next(
            (message for message in self.mailman.accepted() if message.message_id == message_id),
            None,
        )

    def wait_until_received(self, sent: Sent) -> Accepted:
        """Wait until Mailman has the message."""
        found = wait_for(lambda: self.received(sent), PATIENCE, f"{sent.recipient} in Mailman")
        assert found is not None
        return found

    def wait_until_accepted(self, recipient: str) -> Sent:
        """Send messages until one is accepted, without a delay; return that one."""

        def accepted() -> Sent | None:
            sent = self.send(recipient)
            return sent if sent.accepted else None

        found = wait_for(accepted, PATIENCE, f"a message to {recipient} accepted")
        assert found is not None
        return found

    def is_live(self, recipient: str) -> bool:
        """Whether the map of recipients has this address."""
        return bool(self.site.lookup("postfix_recipients", [recipient]))

    def destination(self) -> dict[str, Any]:
        """Return the state of Mailman's LMTP server in status.json; empty if it has none."""
        endpoint = f"{self.mailman.lmtp_host}:{self.mailman.lmtp_port}"
        found: dict[str, Any] = self.site.status()["destinations"].get(endpoint, {})
        return found

    def wait_until_destination(self, *, up: bool) -> dict[str, Any]:
        """Wait until Mailman's LMTP server is up (or down) in status.json; return its state."""
        return wait_for(
            lambda: found if (found := self.destination()).get("up") is up else {},
            PATIENCE,
            f"destination {'up' if up else 'down'} in status.json",
        )
