"""Edit main.cf by postconf(1) in a copy, replace main.cf atomically, and keep a record of that.

postconf(1) makes main.cf a new file, owned by root, mode 0644; it replaces a link by a file, cannot
change a file that is a mount, and appends a new parameter to a last line without a newline. So it
edits a copy, and setup checks that copy before it replaces main.cf.
"""

import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from postfix_sync.errors import ApplyError, Busy, NotPermitted, why
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.postconf import edit, set_in
from postfix_sync.setup.steps import Change, Step, from_json, to_json
from postfix_sync.store.json_reader import Damaged
from postfix_sync.system.files import (
    denied_hint,
    discard,
    read_file,
    replace_file,
    staged_beside,
    unwritable,
    write_file,
)
from postfix_sync.system.lock import lock
from postfix_sync.system.mounts import without_links

RECORD = "record.json"
STAGED = "staged"


class Outdated(Busy):
    """main.cf was changed meanwhile, but not by this setup."""


@dataclass(frozen=True)
class MainCf:
    """The main.cf of one Postfix, and the record of what setup has changed in it."""

    postfix: Postfix
    directory: Path
    """The directory of the record and of the copies, which only root can read."""
    doctor: str
    """The command that reports what main.cf lacks, as an operator types it."""

    @property
    def path(self) -> Path:
        """The path of main.cf."""
        return self.postfix.config_directory / "main.cf"

    def read(self) -> str:
        """Read its text, decoded as Latin-1. Raises NotPermitted or ApplyError."""
        try:
            return read_file(self.path).decode("latin-1")
        except OSError as error:
            raise _unreadable(self.path, error) from None

    async def values(self) -> dict[str, str]:
        """Read the parameters that it sets, as they are written. Raises ConfigError."""
        return await set_in(self.postfix.config_directory)

    def steps(self) -> tuple[Step, ...]:
        """Read the steps that setup has made and not undone.

        Raises NotPermitted, or ApplyError if the record is damaged.
        """
        path = self.directory / RECORD
        try:
            return from_json(read_file(path))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _unreadable(path, error) from None
        except Damaged as error:
            raise ApplyError(
                f"{path}: is no record of what setup has changed: {error}; nothing was done",
                f"mv {path} {path}.damaged, and undo by hand what postconf -n shows of the maps",
            ) from None

    def remember(self, steps: Sequence[Step]) -> None:
        """Write the record, and wait until it is on the disk. Raises ApplyError, NotPermitted."""
        path = self.directory / RECORD
        try:
            if steps:
                self._make_directory()
                replace_file(path, to_json(steps))
            elif self.directory.exists():
                shutil.rmtree(self.directory)
        except OSError as error:
            raise unwritable(path, error) from None

    def _make_directory(self) -> None:
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.directory.chmod(0o700)  # it may have been there, copied with another mode

    async def edited(self, text: str, changes: Sequence[Change]) -> str:
        """Return the text that postconf(1) makes of `text` with these changes.

        Raises ApplyError if postconf(1) makes other changes, or if `postfix check` rejects the
        result but not `text`.
        """
        async with self._copy(text) as copy:
            before = await set_in(copy.config_directory)
            if text and not text.endswith("\n"):
                _write(copy, f"{text}\n")
            wanted = {change.parameter: change.after for change in changes}
            await edit(copy.config_directory, wanted)
            made = (copy.config_directory / "main.cf").read_bytes().decode("latin-1")
            _age(copy)
            self._compare({**before, **wanted}, await set_in(copy.config_directory))
            await _check(copy, text)
        return made

    def _compare(self, wanted: Mapping[str, str | None], found: Mapping[str, str]) -> None:
        """Raise ApplyError if a value differs from the desired one."""
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise ApplyError(
                    f"postconf: {name} would be {found.get(name)!r} instead of"
                    f" {wanted.get(name)!r}; main.cf is left as it was",
                    f"make the changes by hand; {self.doctor} has the commands",
                )

    @asynccontextmanager
    async def _copy(self, text: str) -> AsyncIterator[Postfix]:
        """Provide a Postfix instance with this main.cf, which no process uses."""
        directory = self.directory / STAGED
        master_cf = self.postfix.config_directory / "master.cf"
        try:
            self._make_directory()
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
            copy = replace(self.postfix, config_directory=directory)
            if master_cf.exists():
                write_file(directory / "master.cf", read_file(master_cf), 0o644)
            _write(copy, text)
            yield copy
        except OSError as error:
            raise unwritable(directory, error) from None
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            if not (self.directory / RECORD).exists():
                shutil.rmtree(self.directory, ignore_errors=True)

    async def replace(self, expected: str, text: str) -> None:
        """Replace main.cf's text, `expected`, atomically.

        postconf(1) holds a lock on main.cf.tmp while it edits; that lock is held here as well, so
        that no concurrent change is lost.

        Raises Outdated if main.cf does not have the expected text, or ApplyError or NotPermitted;
        main.cf is then unchanged.
        """
        lock_file = self.path.with_name("main.cf.tmp")
        async with lock(lock_file):
            if self.read() != expected:
                raise Outdated(
                    f"{self.path}: was changed by another program meanwhile; it is left as it is"
                )
            try:
                discard(staged_beside(without_links(self.path)))
                replace_file(self.path, text.encode("latin-1"))
            except OSError as error:
                raise unwritable(self.path, error) from None
            finally:
                discard(lock_file)


def _write(copy: Postfix, text: str) -> None:
    write_file(copy.config_directory / "main.cf", text.encode("latin-1"), 0o644)
    _age(copy)


def _age(copy: Postfix) -> None:
    """Set the copy's time back: Postfix's programs pause if main.cf was changed a moment ago."""
    path = copy.config_directory / "main.cf"
    long_ago = path.stat().st_mtime - 60
    os.utime(path, (long_ago, long_ago))


async def _check(copy: Postfix, before: str) -> None:
    """Raise ApplyError if Postfix could not start with the copy, but could with text `before`."""
    if not (complaint := await copy.check()):
        return
    _write(copy, before)
    if not await copy.check():
        raise ApplyError(
            f"postfix check: {complaint} with these changes, nothing without them; main.cf is left"
            " as it was",
            "Postfix's log has what it said",
        )


def _unreadable(path: Path, error: OSError) -> NotPermitted | ApplyError:
    if isinstance(error, PermissionError):
        return NotPermitted(f"{path}: {why(error)}", denied_hint(path, error))
    return ApplyError(f"{path}: {why(error)}")
