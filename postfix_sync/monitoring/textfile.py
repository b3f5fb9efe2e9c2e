"""Write the metrics as a file for node_exporter's textfile collector."""

import contextlib
from typing import TYPE_CHECKING

from postfix_sync.errors import ApplyError, Busy, NotPermitted, SyncError, why
from postfix_sync.status.file import StatusFile
from postfix_sync.store.state_directory import LOCK_NAME
from postfix_sync.system.files import denied_hint, put_file, space_hint
from postfix_sync.system.lock import lock

if TYPE_CHECKING:
    from pathlib import Path

    from postfix_sync.config.schema import Config


async def write_textfile(config: "Config") -> None:
    """Replace the metrics file, if one is configured, with the metrics of the current status.

    Raises ApplyError or NotPermitted if it can't be written.
    """
    path = config.metrics.textfile
    if not path:
        return
    from postfix_sync.monitoring import metrics  # noqa: PLC0415 - importing it takes longer than a sync

    # Under the lock, so that neither a daemon nor a --once replaces a newer status with an older
    # one. A process that holds the lock for long runs a sync, and writes the file after it.
    with contextlib.suppress(Busy):
        async with lock(config.state_directory / LOCK_NAME):
            text, _ = metrics.render(StatusFile.of(config).read_or_new())
            try:
                put_file(path, text.encode())
            except OSError as error:
                raise _unwritable(path, error) from None


def _unwritable(path: "Path", error: OSError) -> SyncError:
    message = f"metrics.textfile {path}: {why(error)}; the maps are not affected"
    if isinstance(error, PermissionError):
        hint = f"{denied_hint(path, error)}; or choose another path for the file"
        return NotPermitted(message, hint)
    if isinstance(error, FileNotFoundError):
        return ApplyError(message, f"mkdir -p {path.parent}")
    return ApplyError(message, space_hint(path, message))
