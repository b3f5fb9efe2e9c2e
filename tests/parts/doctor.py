"""doctor, as an operator uses it: run with --json, and its printed commands run in a shell."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.site import Site

ROOT = Path(__file__).parents[2]
"""The checkout: the commands run its package, not one that is installed elsewhere."""


@dataclass(frozen=True)
class Report:
    """Doctor's findings, by their names."""

    site: Site
    checks: dict[str, dict[str, Any]]

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Return the finding with this name."""
        return self.checks[name]

    def status(self, name: str) -> str:
        """Return ok, warning or failure, or an empty text if there is no such finding."""
        found: str = self.checks.get(name, {}).get("status", "")
        return found

    @property
    def troubles(self) -> dict[str, str]:
        """The status of each finding that is not ok, except consequences of the others.

        Deferred mail, and where mail of a list ends, are consequences; test_explain.py and the
        corpus have their tests.
        """
        found = {name: check["status"] for name, check in self.checks.items()}
        return {
            name: status
            for name, status in found.items()
            if status != "ok" and not name.startswith(("deferred:", "delivery:"))
        }

    def fix(self, name: str) -> "Report":
        """Run a finding's command, which must succeed; return doctor's next report."""
        self.run_fix(name)
        return examine(self.site)

    def run_fix(self, name: str) -> None:
        """Run a finding's command, which must succeed."""
        fix = self.checks[name]["fix"]
        assert fix, self.checks[name]
        path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            fix,
            shell=True,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (fix, done.stdout)


def examine(site: Site) -> Report:
    """Run doctor in this process; it must exit with 78 if a check failed, and else with 0."""
    done = site.call("doctor", "--json")
    return _report(site, done.returncode, done.stdout, done.stderr)


def examine_apart(site: Site) -> Report:
    """Run doctor in a process of its own, because a thread of doctor may outlive the call.

    A thread in another mount namespace can't leave it while another thread shares its root.
    """
    done = site.run("doctor", "--json")
    return _report(site, done.returncode, done.stdout, done.stderr)


def _report(site: Site, status: int, printed: str, errors: str) -> Report:
    assert not errors
    document = json.loads(printed)
    names = [check["name"] for check in document["checks"]]
    assert len(names) == len(set(names)), names
    assert document["ok"] == all(check["status"] != "failure" for check in document["checks"])
    assert status == (0 if document["ok"] else 78)
    return Report(site, {check["name"]: check for check in document["checks"]})
