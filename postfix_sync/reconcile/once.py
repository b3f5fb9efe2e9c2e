"""`--once`: fetch all sources, and sync until nothing waits for a reload."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from postfix_sync.errors import Busy, SyncError
from postfix_sync.postfix.inspection import Inspector
from postfix_sync.reconcile.clusters import Ranking
from postfix_sync.reconcile.fetch import fetch_all, open_sources
from postfix_sync.reconcile.reload_spacing import no_turn
from postfix_sync.reconcile.report import PLAIN, Report, Request, combined
from postfix_sync.reconcile.sync import sync
from postfix_sync.store.state_directory import ONCE_LOCK_NAME
from postfix_sync.system.lock import lock
from postfix_sync.system.tasks import concurrently, interrupted

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

TRIES = 3
"""How often `--once` polls again if another sync recorded a newer answer meanwhile."""


async def once(
    config: "Config",
    rankings: Mapping[str, Ranking],
    request: Request = PLAIN,
) -> Report:
    """Poll every source, all at the same time, and make one sync; see `sync`.

    It first waits for any other `--once`, so that slow runs from cron do not pile up. A dry run
    does not wait: it changes nothing, and can show why another one hangs. If Postfix was reloaded a
    moment ago, the sync is made in two, with a wait between them.
    """
    file = config.state_directory / ONCE_LOCK_NAME
    turn = contextlib.nullcontext() if request.dry_run else lock(file)
    inspector = Inspector(config.postfix.config_directory)
    try:
        async with turn, open_sources(config) as sources:

            async def fetch_and_sync() -> Report:
                for source in sources.values():
                    source.forget()
                fold = await inspector.fold()
                fetching = asyncio.ensure_future(fetch_all(config, sources, fold))
                await concurrently(fetching, inspector.inspect())
                return await sync(config, fetching.result(), rankings, request, inspector)

            for _ in range(TRIES):
                report = await completed(fetch_and_sync)
                outdated = [name for name, one in report.sources.items() if one.outdated]
                if not outdated:
                    return report
    except SyncError as error:
        return Report(failed=(error,))
    late = Busy(
        f"{', '.join(outdated)}: other syncs were faster each time; their answers count",
        "see which other processes sync: pgrep -af postfix-sync",
    )
    return replace(report, failed=(*report.failed, late))


async def completed(make: Callable[[], Awaitable[Report]]) -> Report:
    """Make a sync, and continue it until nothing of it waits for another reload of Postfix.

    The report is the last one's, with what all of them did.
    """
    report = await make()
    for _ in range(TRIES):
        if not report.waits or interrupted():
            return report
        await asyncio.sleep(report.waits)
        report = combined(report, await make())
    if not report.waits:
        return report
    return replace(report, failed=(*report.failed, no_turn()))
