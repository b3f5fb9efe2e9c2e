"""A mail host in front of Mailman, all of it real: systemd, Postfix, and Mailman on another host.

    with Mx("bookworm", directory) as mx:
        mx.create("ants@lists.example.net")
        mx.deliver("ants@lists.example.net")

Mailman runs beside the mail host in a network of theirs.  Its volume is mounted where postfix-sync
reads it: at boot, or later.  What the maps name is known to nobody but Mailman, until postfix-sync
makes it known.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS, ROUTES
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
    """The mail host, switched off, and Mailman, which runs."""

    def __init__(self, release: str, directory: Path, *, layer: Path | None = None) -> None:
        """Prepare, in a directory that others can reach; `layer` as for a Booted."""
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
        """End all of it."""
        self._made.close()

    # The host.

    def configure(self, **sections: Any) -> None:
        """Write the configuration, with these sections instead of what it has of them."""
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
        """Whether Mailman's volume is there when the host has booted the next time."""
        self.host.path("/etc/fstab").write_text(_FSTAB if mounted else "")
        self.host.path(VOLUME).mkdir(exist_ok=True)

    def mount_volume(self) -> None:
        """Mount Mailman's volume, as an operator who sees that it isn't."""
        self.host.bind("mailman/var", VOLUME)

    def edit(self, unit: str, *lines: str) -> None:
        """Set something of a unit, as `systemctl edit` does; nothing, and it is as it was."""
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
        """Wait until mail to a list is accepted, and the message that was is in Mailman."""
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
        return {one.partition("@")[0] for one in ids}

    def about(self) -> str:
        """What a failure is explained with: what all of them said last."""
        units = (SERVICE, ONCE, "postfix*")
        said = (line for unit in units for line in [f"== {unit}", *self.host.journal(unit)[-20:]])
        return "\n".join(said) + self.host.ask("postqueue", "-p").stdout

    # The maps.

    def dumped(self, name: str) -> dict[str, str]:
        """What Postfix finds in a map, whose index has to be whole."""
        lines = self.host.run("postmap", "-s", f"lmdb:{MAPS}/{name}").splitlines()
        return dict(line.split("\t", 1) for line in lines)

    def knows(self, name: str) -> bool:
        """Postfix finds a list in the maps."""
        return all(
            self.host.ask("postmap", "-q", name, f"lmdb:{MAPS}/{one}").returncode == 0
            for one in (ROUTES, RECIPIENTS)
        )

    def at_rest(self) -> bool:
        """No pass is in the middle of its work, nor was one that will not be completed.

        Each map's text has what its index has, and nothing else is beside them.
        """
        directory = self.host.path(MAPS)
        known = {one for name in MAP_NAMES for one in (name, f"{name}.lmdb")}
        return {one.name for one in directory.iterdir()} == known and all(
            parse_installed((directory / name).read_bytes()) == self.dumped(name)
            for name in MAP_NAMES
        )
