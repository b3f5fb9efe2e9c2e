"""The daemon's memory: the status, also on disk, and the messages that it has already logged.

It lasts as long as the daemon, through changes of the configuration.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from postfix_sync.errors import SyncError
from postfix_sync.log import LOG, log_problem
from postfix_sync.model.notice import Notice
from postfix_sync.monitoring.textfile import write_textfile
from postfix_sync.status.file import StatusFile
from postfix_sync.status.schema import Status

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


class Ledger:
    """The status, and the messages that were logged and must not be repeated."""

    def __init__(self, config: "Config") -> None:
        self.config = config
        """It names the files of status and metrics; replaced when it is read again."""
        self.status = StatusFile.of(config).read_or_new()
        self._logged: set[str] = set()
        self._logged_errors: dict[str, str] = {}

    async def update(self, change: Callable[[Status], Status]) -> bool:
        """Change the status, in memory and on disk, and write the metrics file.

        Return whether status.json could be written. If not, the change is kept in memory only.
        """
        try:
            self.status = await StatusFile.of(self.config).update(change)
        except SyncError as error:
            self.status = change(self.status)
            self.log_once(Notice(error.message, error.hint))
            return False
        errors = []
        try:
            await write_textfile(self.config)
        except SyncError as error:
            errors.append(error)
        self.log_errors("metrics.textfile", "metrics.textfile", errors)
        return True

    def log_errors(self, key: str, subject: str, errors: Iterable[SyncError]) -> None:
        """Log the errors of one kind, `key`, if they differ from those of the last call.

        If there are none, but the last call had some, log that `subject` works again.
        """
        said = "\n".join(error.message for error in errors)
        if said != self._logged_errors.get(key, ""):
            for error in errors:
                log_problem(error)
            if not said:
                LOG.info("%s: recovered", subject)
            self._logged_errors[key] = said

    def forget_errors(self, key: str) -> None:
        """Forget the errors of one kind without logging that they have ended."""
        self._logged_errors.pop(key, None)

    def log_once(self, notice: Notice, key: str = "") -> None:
        """Log a notice that was not logged before; `key` identifies it (default: its message)."""
        if (key or notice.message) not in self._logged:
            self._logged.add(key or notice.message)
            log_problem(notice, logging.WARNING)
