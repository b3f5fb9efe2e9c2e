"""A mail host in front of Mailman, with real systemd and Postfix, and Mailman on another host.

    with Mx("bookworm", directory) as mx:
        mx.create("ants@lists.example.net")
        mx.deliver("ants@lists.example.net")

Mailman runs on another host in the same private network.  Its volume is mounted where postfix-sync
reads it: at boot, or later.  Only Mailman resolves the host name in its files, until postfix-sync
enters it into the hosts file.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.model.maps import kind_of
from postfix_sync.postfix.installed_text import pieces
from postfix_sync.postfix.map_text import parse_installed

from .booted import SHARED, Booted
from .common import PATIENCE, wait_for
from .load import Sent, send
from .mailman import Mailman
from .namespaces import Network

SERVICE = "postfix-sync.service"
TIMER = "postfix-sync-once.timer"
ONCE = "postfix-sync-once.service"

CONFIG = "/etc/postfix-sync/config.yaml"
VOLUME = "/srv/mailman"
MAPS = "/etc/postfix/mailman"

_FSTAB = f"{SHARED}/mailman/var {VOLUME} none bind 0 0\n"


class Mx:
    """The mail host, which is off at first, and a running Mailman."""

    def __init__(self, release: str, directory: Path, *, layer: Path | None = None) -> None:
        """Prepare, in a directory that other users can reach; `layer` is as in Booted."""
        self.network = Network("mx", "lists")
        self.host = Booted(release, directory, host=self.network["mx"], layer=layer)
        self.mailman: Mailman
        self._made = ExitStack()

    def __enter__(self) -> Self:
        """Start Mailman, and mount the host's disk."""
        with ExitStack() as made:
            made.enter_context(self.network)
            made.enter_context(self.host)
            self.mailman = Mailman(
                self.host.shared / "mailman",
                lmtp_address=self.network["lists"].address,
                lmtp_port=8024,
            )
            with self.network["lists"].inside():
                made.enter_context(self.mailman)
            self._made = made.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop both."""
        self._made.close()

    # The host.

    def configure(self, **sections: Any) -> None:
        """Write the configuration, with these sections replaced."""
        document = {
            "sources": [
                {"path": f"{VOLUME}/data", "address": self.network["lists"].address},
            ],
            "probe": {"interval": "5s"},
            **sections,
        }
        self.write_config(yaml.safe_dump(document))

    def write_config(self, text: str) -> None:
        """Write this text as the configuration."""
        path = self.host.path(CONFIG)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def volume_at_boot(self, *, mounted: bool) -> None:
        """Set whether Mailman's volume is mounted at the next boot."""
        self.host.path("/etc/fstab").write_text(_FSTAB if mounted else "")
        self.host.path(VOLUME).mkdir(exist_ok=True)

    def mount_volume(self) -> None:
        """Mount Mailman's volume, as an operator does."""
        self.host.bind("mailman/var", VOLUME)

    def edit(self, unit: str, *lines: str) -> None:
        """Write a drop-in for a unit, as `systemctl edit` does; without lines, remove it."""
        path = self.host.path(f"/etc/systemd/system/{unit}.d/test.conf")
        text = "".join(f"{line}\n" for line in lines)
        if text != (path.read_text() if path.exists() else ""):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            self.host.systemctl("daemon-reload")

    # Lists and mail.

    def create(self, *lists: str) -> None:
        """Create lists in Mailman."""
        with self.network["lists"].inside():
            for name in lists:
                self.mailman.create_list(name)

    def remove(self, name: str) -> None:
        """Remove a list from Mailman."""
        with self.network["lists"].inside():
            self.mailman.remove_list(name)

    def send(self, address: str) -> Sent:
        """Send a message to the host's SMTP port, as its own programs do."""
        with self.network["mx"].inside():
            return send(25, address)

    def deliver(self, name: str, timeout: float = 3 * PATIENCE) -> None:
        """Send messages to a list until one is accepted; wait until Mailman has it."""
        refusals = []

        def accepted() -> str:
            sent = self.send(name)
            if not sent.accepted:
                refusals.append(sent.last)
            return sent.load_id if sent.accepted else ""

        try:
            load_id = wait_for(accepted, timeout, f"mail to {name} accepted")
            wait_for(lambda: load_id in self._delivered(name), timeout, f"mail to {name} delivered")
        except TimeoutError as error:
            raise AssertionError(f"{error}; {refusals[-1:]}\n{self.about()}") from None

    def _delivered(self, name: str) -> set[str]:
        ids = (message.message_id for message in self.mailman.accepted(name))
        return {message_id.partition("@")[0] for message_id in ids}

    def about(self) -> str:
        """Return the ends of all logs, for the message of a failure."""
        units = (SERVICE, ONCE, "postfix*")
        said = (line for unit in units for line in [f"== {unit}", *self.host.journal(unit)[-20:]])
        return "\n".join(said) + self.host.ask("postqueue", "-p").stdout

    # The maps.

    def dumped(self, name: str) -> dict[str, str]:
        """Return all entries of a map's index, which must be intact."""
        lines = self.host.run("postmap", "-s", f"lmdb:{MAPS}/{name}").splitlines()
        return dict(line.split("\t", 1) for line in lines)

    def knows(self, name: str) -> bool:
        """Whether the maps have a list."""
        return all(
            self.host.ask("postmap", "-q", name, f"lmdb:{MAPS}/{map_name}").returncode == 0
            for map_name in (ROUTES, RECIPIENTS)
        )

    def at_rest(self) -> bool:
        """Whether no sync is running or was interrupted.

        Then each map's text has the entries of its index, and there are no other files.
        """
        directory = self.host.path(MAPS)
        known = {file for name in MAP_NAMES for file in (name, f"{name}.lmdb")}
        return {path.name for path in directory.iterdir()} == known and all(
            parse_installed(pieces(directory / name), kind_of(name)) == self.dumped(name)
            for name in MAP_NAMES
        )
