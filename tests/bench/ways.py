"""The ways in which Mailman's lists get into Postfix, each under the load of losses.py."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.lists import ListFiles
from tests.bench.script import write_script
from tests.parts.common import run
from tests.parts.daemon import RunningDaemon
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

NAMES = ("postfix_lmtp", "postfix_domains")


class Host:
    """A Postfix, Mailman's files, and an LMTP server in place of Mailman."""

    def __init__(self, directory: Path, way: "Way", lists: int) -> None:
        self.directory = directory
        self.sink = LmtpSink()
        hop = f"lmtp:[127.0.0.1]:{self.sink.port}"
        self.files = ListFiles(directory / "data", lists, hop=hop, regex=way.regex)
        self.data = self.files.files.directory
        self.maps = directory / "maps"
        (directory / "hosts").write_text("127.0.0.1 localhost\n")
        self.postfix = PostfixInstance(
            directory / "postfix",
            hosts=directory / "hosts",
            main_cf={"enable_long_queue_ids": "yes", **way.parameters(directory)},
        )

    def postmap(self) -> None:
        """Compile Mailman's files in place, as its `postmap_command` does."""
        for name in NAMES:
            run("/usr/sbin/postmap", "-c", self._etc, f"hash:{self.data / name}")

    def script(self) -> Path:
        """Write the script; return its path."""
        return write_script(self.data, self.maps, "hash", self.postfix.config_directory)

    @property
    def _etc(self) -> str:
        return str(self.postfix.config_directory)


@dataclass(frozen=True)
class Way:
    """One way: its parameters of main.cf, and what runs beside Postfix."""

    name: str
    title: str
    parameters: Callable[[Path], Mapping[str, str]]
    """Given the directory of the host."""
    runs: Callable[[Host], AbstractContextManager[object]]
    after_writing: Callable[[Host], None] = lambda host: None
    """What Mailman does after it has written its files."""
    regex: bool = False


def tables(map_type: str, directory: str) -> Callable[[Path], Mapping[str, str]]:
    """Return parameters for Mailman's own files, or copies of them, as tables of this type."""

    def parameters(host: Path) -> Mapping[str, str]:
        routes, domains = (f"{map_type}:{host / directory / name}" for name in NAMES)
        return {
            "transport_maps": routes,
            "relay_domains": domains,
            "relay_recipient_maps": routes,
        }

    return parameters


def _ours(map_type: str) -> Way:
    @contextmanager
    def daemon(host: Host) -> Iterator[None]:
        etc = host.postfix.config_directory
        site = Site(host.directory, etc, map_type, source={"interval": "1h"})
        with RunningDaemon(site) as running:
            running.wait_until_it_watches()
            yield
            running.stop()

    def parameters(directory: Path) -> Mapping[str, str]:
        return mailman_parameters(directory / "maps", map_type)

    return Way(f"postfix-sync {map_type}", f"postfix-sync, {map_type}", parameters, daemon)


@contextmanager
def _nothing(host: Host) -> Iterator[None]:
    yield


@contextmanager
def _compiled(host: Host) -> Iterator[None]:
    host.postmap()
    yield


def _scripted(loop: str) -> Callable[[Host], AbstractContextManager[object]]:
    @contextmanager
    def runs(host: Host) -> Iterator[None]:
        """Run the loop, in which SCRIPT is the script and DATA is Mailman's directory."""
        host.maps.mkdir(mode=0o755)
        script = host.script()
        # Postfix is not started yet, so the script's reload fails.
        subprocess.run(["/bin/sh", str(script)], check=False, capture_output=True)
        text = loop.replace("SCRIPT", f"/bin/sh {script}").replace("DATA", str(host.data))
        with subprocess.Popen(
            ["/bin/sh", "-c", text],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                yield
            finally:
                os.killpg(process.pid, signal.SIGKILL)

    return runs


def all_ways(cron_seconds: int) -> tuple[Way, ...]:
    """Return all ways; the script for cron runs every `cron_seconds` seconds."""
    cron = f"while sleep {cron_seconds}; do SCRIPT; done"
    inotify = "inotifywait -q -m -e moved_to DATA | while read -r line; do SCRIPT; done"
    return (
        Way(
            "postmap in place",
            "Mailman's own `postmap`, in place, hash",
            tables("hash", "data"),
            _compiled,
            Host.postmap,
        ),
        Way(
            "regexp",
            "docker-mailman's regexp tables, read directly",
            tables("regexp", "data"),
            _nothing,
            regex=True,
        ),
        Way(
            "cron",
            f"a script every {cron_seconds} s (cron: every 60 s), hash",
            tables("hash", "maps"),
            _scripted(cron),
        ),
        Way(
            "inotify",
            "a script at each change (inotifywait), hash",
            tables("hash", "maps"),
            _scripted(inotify),
        ),
        _ours("hash"),
        _ours("lmdb"),
    )
