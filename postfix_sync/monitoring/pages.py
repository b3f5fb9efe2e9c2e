"""The pages that the daemon serves over HTTP: /metrics, /healthz and /status."""

import errno
import json
import os
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from postfix_sync.errors import OutOfReach, SyncError, why
from postfix_sync.status.file import StatusFile

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config
    from postfix_sync.config.values import Listen
    from postfix_sync.monitoring.http_server import Pages


def pages(config: "Config", quiet: float, began: float) -> "Pages":
    """Return the pages by path.

    `quiet` is the longest time between two syncs, in seconds. `began` is the daemon's start by
    time.monotonic(), because the system's clock may be set later.
    """
    from postfix_sync.monitoring import health, metrics  # noqa: PLC0415 - slow to import
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
    """Describe why the daemon can't listen at `at`, with a hint to fix it."""
    hints = {
        errno.EADDRINUSE: f"see which process uses the port: ss -ltnp 'sport = :{at.port}'",
        errno.EADDRNOTAVAIL: "see which addresses this host has: ip -brief address",
        errno.EACCES: "use a port above 1023"
        + (", or run postfix-sync as root" if os.geteuid() != 0 else ""),
    }
    return OutOfReach(
        f"metrics.listen {at}: {why(error)}; monitoring is not served there; retried with back-off",
        hints.get(error.errno or 0, ""),
    )
