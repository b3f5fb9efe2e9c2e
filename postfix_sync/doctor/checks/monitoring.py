"""Check whether monitoring can read the metrics of postfix-sync."""

import shlex
from collections.abc import AsyncIterator

from postfix_sync.doctor.findings import ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding


async def textfile(host: Host) -> AsyncIterator[Finding]:
    """Check the metrics file, if configured: its directory must exist, its name end in .prom."""
    name, path = "metrics_textfile", host.config.metrics.textfile
    if not path:
        return
    if not path.parent.is_dir():
        yield warning(
            name,
            f"{path.parent} is not there",
            "no metrics are written; node_exporter may not be installed, or read elsewhere",
            f"mkdir -p {shlex.quote(str(path.parent))}",
        )
    elif path.suffix != ".prom":
        yield warning(
            name,
            f"{path} does not end in .prom",
            "node_exporter passes over files with another ending: change metrics.textfile",
        )
    else:
        yield ok(name, str(path))
