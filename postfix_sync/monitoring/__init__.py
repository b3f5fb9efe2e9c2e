"""What monitoring gets: the metrics in a file, pages over HTTP, and the deferred mail in numbers.

All of it is made from status.json; only the queue is asked for anew. Where no metrics are
configured, nothing here is called, and nothing that it needs is imported.
"""

import asyncio
import contextlib
import errno
import json
import os
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from postfix_sync import postfix
from postfix_sync.errors import ApplyError, Busy, NotPermitted, OutOfReach, SyncError, why
from postfix_sync.maps import installed_routes
from postfix_sync.model import Destination
from postfix_sync.queue import Waiting, waiting
from postfix_sync.state import StatusFile
from postfix_sync.sync import LOCK_NAME
from postfix_sync.system import denied_hint, lock, put_file, space_hint
from postfix_sync.tables import next_hops_of

if TYPE_CHECKING:
    from pathlib import Path

    from postfix_sync.config import Config, Listen
    from postfix_sync.monitoring.http_server import Pages

COUNTING = 30.0
"""Seconds that counting the queue may take. Postfix opens each file of it for that."""


async def write_textfile(config: "Config") -> None:
    """Replaces the metrics file, where one is configured, by what the status says now.

    Raises ApplyError or NotPermitted where it can't be written.
    """
    path = config.metrics.textfile
    if not path:
        return
    from postfix_sync.monitoring import metrics  # noqa: PLC0415 - it costs more than the rest of a pass

    # Under the lock, so that of a daemon and a --once nobody puts an older status over a newer one.
    # Whoever holds it for long makes a pass, and writes the file after it.
    with contextlib.suppress(Busy):
        async with lock(config.state_directory / LOCK_NAME):
            text, _ = metrics.render(StatusFile.of(config).read_or_new())
            try:
                put_file(path, text.encode())
            except OSError as error:
                raise _unwritable(path, error) from None


def _unwritable(path: "Path", error: OSError) -> SyncError:
    message = f"metrics.textfile {path}: {why(error)}; the maps are not concerned"
    if isinstance(error, PermissionError):
        hint = f"{denied_hint(path, error)}; or choose another place for the file"
        return NotPermitted(message, hint)
    if isinstance(error, FileNotFoundError):
        return ApplyError(message, f"mkdir -p {path.parent}")
    return ApplyError(message, space_hint(path, message))


async def count_deferred(config: "Config") -> dict[Destination, Waiting]:
    """What is deferred for each destination that a route leads to.

    Raises ConfigError where there is no Postfix, ApplyError where its queue can't be read in time.
    """
    instance = await postfix.inspect(config.postfix.config_directory)
    delimiters = instance.parameters["recipient_delimiter"]
    try:
        async with asyncio.timeout(COUNTING):
            messages = await instance.queue()
    except TimeoutError:
        raise ApplyError(
            f"postqueue -j: not done after {COUNTING:g} s; deferred mail is not counted",
            "see how large the queue is: qshape deferred",
        ) from None

    def count() -> dict[Destination, Waiting]:
        routes = installed_routes(config.postfix.map_directory)
        none = {hop: Waiting() for hop in next_hops_of(routes)}
        return {**none, **waiting(messages, routes, instance.fold, delimiters)}

    return await asyncio.to_thread(count)


def pages(config: "Config", quiet: float, began: float) -> "Pages":
    """What is served over HTTP, path by path; `quiet` is that of health.py.

    `began` is when the daemon did, by time.monotonic(): the clock may be set back after that.
    """
    from postfix_sync.monitoring import health, metrics  # noqa: PLC0415 - see above
    from postfix_sync.monitoring.http_server import Response  # noqa: PLC0415

    file = StatusFile.of(config)
    intervals = {source.name: source.interval for source in config.sources}

    def metrics_page(accept: str) -> Response:
        text, media_type = metrics.render(file.read_or_new(), accept)
        return Response(text, content_type=media_type)

    def health_page(_accept: str) -> Response:
        now = time.time()
        started = now - (time.monotonic() - began)
        found = health.ailments(file.read_or_new(), intervals, quiet, started, now)
        if not found:
            return Response("ok\n")
        return Response("".join(f"{line}\n" for line in found), HTTPStatus.SERVICE_UNAVAILABLE)

    def status_page(_accept: str) -> Response:
        try:
            text = json.dumps(file.read(), indent=2)
            return Response(f"{text}\n", content_type="application/json")
        except SyncError as error:
            return Response(f"{error.message}\n", HTTPStatus.SERVICE_UNAVAILABLE)

    return {"/metrics": metrics_page, "/healthz": health_page, "/status": status_page}


def cannot_listen(at: "Listen", error: OSError) -> SyncError:
    """Why nothing is served at `at`, and what would help."""
    hints = {
        errno.EADDRINUSE: f"see what has the port: ss -ltnp 'sport = :{at.port}'",
        errno.EADDRNOTAVAIL: "see which addresses this host has: ip -brief address",
        errno.EACCES: "take a port above 1023"
        + (", or run postfix-sync as root" if os.geteuid() != 0 else ""),
    }
    return OutOfReach(
        f"metrics.listen {at}: {why(error)}; tried again, and everything else goes on",
        hints.get(error.errno or 0, ""),
    )
