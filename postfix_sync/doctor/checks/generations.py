"""Check whether a generation is held, and whether each generation could be installed."""

import shlex
from collections.abc import AsyncIterator

from postfix_sync.doctor.findings import ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError
from postfix_sync.model.finding import Finding
from postfix_sync.store.state_directory import generations_of, hold_file_of


async def held(host: Host) -> AsyncIterator[Finding]:
    """Warn if a generation is held, because no sync changes the maps until `resume`."""
    hold = hold_file_of(host.config).read()
    if not hold:
        yield ok("held", "nothing is held")
        return
    waiting = host.upcoming.waiting
    yield warning(
        "held",
        f"{hold}" + (f"; pending: {waiting}" if waiting else ""),
        "as long as it is held, no list that Mailman creates gets mail, and none that it removes is"
        " refused",
        host.command("resume"),
    )


async def whole(host: Host) -> AsyncIterator[Finding]:
    """Check that each generation can be read, so that a rollback does not fail."""
    kept = generations_of(host.config)
    damaged = 0
    for number in kept.numbers():
        try:
            await kept.load(number)
        except SyncError as error:
            damaged += 1
            why = "it can't be put back; others can, and the maps are as they were"
            fix = f"rm {shlex.quote(str(kept.path(number)))}"
            yield warning(f"generation:{number}", error.message, why, fix)
    yield ok("generations", f"{len(kept.numbers()) - damaged} can be put back")
