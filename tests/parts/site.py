"""A postfix-sync with its own source, maps, hosts file, state and configuration.

The command is run as a process, as an operator runs it, if the test is about the process: its
signals, streams, environment, or concurrent processes. Otherwise the same command line runs in the
process of the test, because the start of a process takes ten times as long as a sync.
"""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from postfix_sync.cli import command_line
from postfix_sync.log import LOG
from postfix_sync.model.map_names import MAP_NAMES
from postfix_sync.model.maps import kind_of
from postfix_sync.postfix.installed_text import pieces
from postfix_sync.postfix.map_text import parse_installed
from postfix_sync.system.commands import find_command
from tests.parts.mailman_files import MailmanFiles

COMMAND = (sys.executable, "-m", "postfix_sync")

STATE = [
    "generations",
    "installed.json",
    "lock",
    "once.lock",
    "sources",
    "status.json",
    "texts.json",
]
"""The files in the state directory after a sync, if no generation is held."""


@dataclass(frozen=True)
class Site:
    """A directory with all its files; `config_directory` is Postfix's."""

    directory: Path
    config_directory: Path
    map_type: str = "lmdb"
    source: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Sections of the configuration, merged into the defaults."""
    data: Path | None = None
    command: Sequence[str] = COMMAND

    @property
    def files(self) -> MailmanFiles:
        """The source's files."""
        return MailmanFiles(self.data or self.directory / "data")

    @property
    def maps(self) -> Path:
        """The map directory."""
        return self.directory / "maps"

    @property
    def hosts(self) -> Path:
        """The hosts file."""
        return self.directory / "hosts"

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.directory / "state"

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / "config.yaml"

    def configure(self, **sections: Any) -> None:
        """Write the configuration; `sections` are merged into the defaults."""
        document: dict[str, Any] = {
            "sources": [{"name": "lists", "path": str(self.files.directory), **self.source}],
            "postfix": {
                "config_directory": str(self.config_directory),
                "map_directory": str(self.maps),
                "map_type": self.map_type,
            },
            "hosts": {"file": str(self.hosts)},
            "probe": {"level": "off"},
            "state_directory": str(self.state),
        }
        for name, section in {**self.options, **sections}.items():
            document[name] = (
                {**document.get(name, {}), **section} if isinstance(section, dict) else section
            )
        self.config.write_text(yaml.safe_dump(document))

    @property
    def state_files(self) -> list[str]:
        """Return the files in the state directory, except those that are kept for a while."""
        return sorted(path.name for path in self.state.iterdir() if path.name != "retiring.json")

    def retire(self, *, expect: int = 0) -> str:
        """Sync three times, each after the retention of unused routes; return the last output.

        Three are needed, because a host name is unused only after its routes are removed.
        """
        record = self.state / "retiring.json"
        said = ""
        for _ in range(3):
            if record.exists():
                noted = json.loads(record.read_text())
                old = {part: dict.fromkeys(noted[part], 0) for part in noted}
                record.write_text(json.dumps(old))
            said = self.once(expect=expect)
        return said

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None, **popen: Any
    ) -> subprocess.Popen[str]:
        """Start the command; without arguments, the daemon."""
        if not self.config.exists():
            self.configure()
        return subprocess.Popen(
            [*self.command, "-c", str(self.config), *arguments],
            text=True,
            env={**os.environ, **(environment or {})},
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **popen,
            },
        )

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, in a process of its own."""
        with self.start(*arguments, environment=environment) as process:
            stdout, stderr = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, in the main thread of the test's process."""
        if self.command != COMMAND:
            return self.run(*arguments)
        if not self.config.exists():
            self.configure()
        command = ["-c", str(self.config), *arguments]
        find_command.cache_clear()  # the previous call may have been on another host
        printed, errors = io.StringIO(), io.StringIO()
        umask = os.umask(0o022)
        root = logging.getLogger()
        handlers = LOG.handlers, root.handlers
        level, propagate = LOG.level, LOG.propagate
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
                status = command_line.main(command)
        except SystemExit as end:  # argparse exits on an invalid command line
            status = end.code if isinstance(end.code, int) else 1
        finally:
            os.umask(umask)
            LOG.handlers, root.handlers = handlers
            LOG.propagate = propagate
            LOG.setLevel(level)
        return subprocess.CompletedProcess(command, status, printed.getvalue(), errors.getvalue())

    def once(self, *arguments: str, expect: int = 0) -> str:
        """Make one sync, which must exit with `expect`; return its standard error."""
        done = self.call("--once", *arguments)
        assert done.returncode == expect, done
        return done.stderr

    def status(self) -> dict[str, Any]:
        """Return the content of status.json."""
        found: dict[str, Any] = json.loads((self.state / "status.json").read_text())
        return found

    def postmap(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the real postmap with this site's Postfix configuration."""
        return subprocess.run(
            ["postmap", "-c", str(self.config_directory), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def lookup(self, name: str, keys: Sequence[str]) -> dict[str, str]:
        """Query `keys` in the real index of a map; fail if postmap prints an error."""
        reference = f"{self.map_type}:{self.maps / name}"
        done = self.postmap("-q", "-", reference, stdin="".join(f"{key}\n" for key in keys))
        assert not done.stderr, done
        pairs = (line.partition("\t") for line in done.stdout.splitlines())
        return {key: value for key, _, value in pairs}

    def installed(self, name: str) -> dict[str, str]:
        """Return a map's entries, which must be the same in text and index."""
        table = parse_installed(pieces(self.maps / name), kind_of(name))
        assert table is not None
        assert self.lookup(name, list(table)) == table
        return dict(table)

    def stray(self) -> set[str]:
        """Return the files in the map directory that do not belong to a map."""
        suffix = {"lmdb": ".lmdb", "hash": ".db", "btree": ".db", "cdb": ".cdb"}[self.map_type]
        expected = {file for name in MAP_NAMES for file in (name, name + suffix)}
        return {path.name for path in self.maps.iterdir()} - expected
