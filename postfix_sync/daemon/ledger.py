"""What the daemon keeps: its status, on the disk, and what it has told, so as not to repeat it.

It lasts as long as the daemon, through changes of the configuration.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from postfix_sync.errors import SyncError
from postfix_sync.log import LOG, tell
from postfix_sync.model import Notice
from postfix_sync.monitoring.textfile import write_textfile
from postfix_sync.status.file import StatusFile
from postfix_sync.status.schema import Status

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


class Ledger:
    """The status, and what was told."""

    def __init__(self, config: "Config") -> None:
        self.config = config
        """Where it is kept; replaced when the configuration is read again."""
        self.status = StatusFile.of(config).read_or_new()
        self._told: set[str] = set()
        self._told_errors: dict[str, str] = {}

    async def update(self, change: Callable[[Status], Status]) -> bool:
        """Changes the status; whether it could be written. If not, it is kept in mind at least."""
        try:
            self.status = await StatusFile.of(self.config).update(change)
        except SyncError as error:
            self.status = change(self.status)
            self.tell_once(Notice(error.message, error.hint))
            return False
        errors = []
        try:
            await write_textfile(self.config)
        except SyncError as error:
            errors.append(error)
        self.tell_errors("metrics.textfile", "metrics.textfile", errors)
        return True

    def tell_errors(self, key: str, subject: str, errors: Iterable[SyncError]) -> None:
        """Logs errors, of one kind by `key`, that are not the same as last time; or their end."""
        said = "\n".join(error.message for error in errors)
        if said != self._told_errors.get(key, ""):
            for error in errors:
                tell(error)
            if not said:
                LOG.info("%s: in step again", subject)
            self._told_errors[key] = said

    def forget_errors(self, key: str) -> None:
        """They are over, and that needs no word."""
        self._told_errors.pop(key, None)

    def tell_once(self, notice: Notice, key: str = "") -> None:
        """Logs what was not told yet; `key` is the part of it that stays the same."""
        if (key or notice.message) not in self._told:
            self._told.add(key or notice.message)
            tell(notice, logging.WARNING)
