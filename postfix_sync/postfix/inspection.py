"""Inspect a Postfix instance again only if what postconf(1) says of it may have changed."""

import os
from pathlib import Path

from postfix_sync.postfix.folding import Fold
from postfix_sync.postfix.instance import Postfix, fold_of, inspect
from postfix_sync.system.commands import find_command
from postfix_sync.system.files import version_of
from postfix_sync.system.interfaces import has_ipv6

NAMES = ("main.cf", "master.cf", "dynamicmaps.cf", "dynamicmaps.cf.d")
"""The files of a configuration directory that postconf(1) reads (postconf(5), meta_directory)."""

DEFAULT_DIRECTORY = Path("/etc/postfix")
"""The default of meta_directory on Debian, also for other instances."""


class Inspector:
    """The configuration of one Postfix instance, for a process that needs it many times."""

    def __init__(self, config_directory: Path, found: Postfix | None = None) -> None:
        """Make an inspector, which may start with what was `found` a moment ago."""
        self.config_directory = config_directory
        self._found = found
        self._signs: tuple[object, ...] | None = self._current_signs() if found else None

    async def inspect(self) -> Postfix:
        """Return the current configuration. Raises ConfigError as `instance.inspect` does."""
        signs = self._current_signs()  # first: a change that comes later is seen by the next call
        if self._found is None or signs != self._signs:
            self._found = None
            self._found, self._signs = await inspect(self.config_directory), signs
        return self._found

    async def fold(self) -> Fold:
        """Return how the instance folds keys, without a look at anything else of it.

        A source is read although, for instance, postmap(1) hangs. Raises ConfigError if there is no
        Postfix.
        """
        if self._found is not None and self._current_signs() == self._signs:
            return self._found.fold
        return await fold_of(self.config_directory)

    def _current_signs(self) -> tuple[object, ...]:
        """Read everything on which an inspection depends."""
        directories = (self.config_directory, DEFAULT_DIRECTORY)
        files = [directory / name for directory in directories for name in NAMES]
        files += [Path(find_command(name)) for name in ("postconf", "postmap")]
        return (*map(version_of, files), os.uname().nodename, has_ipv6())
