"""doctor, as an operator uses it: asked with --json, and its commands pasted into a shell.

The commands are run by a shell, as they are pasted.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.site import Site

ROOT = Path(__file__).parents[2]
"""Where this package lies: what is run is what is tested, whatever else is installed."""


@dataclass(frozen=True)
class Report:
    """What doctor said, by the names of its findings."""

    site: Site
    checks: dict[str, dict[str, Any]]

    def __getitem__(self, name: str) -> dict[str, Any]:
        """A finding."""
        return self.checks[name]

    def status(self, name: str) -> str:
        """ok, warning, failure; nothing where there is no such finding."""
        found: str = self.checks.get(name, {}).get("status", "")
        return found

    @property
    def troubles(self) -> dict[str, str]:
        """What is not ok, with its status, but for mail that waits because of it."""
        found = {name: one["status"] for name, one in self.checks.items()}
        return {
            name: status
            for name, status in found.items()
            if status != "ok" and not name.startswith("deferred:")
        }

    def mend(self, name: str) -> "Report":
        """Runs a finding's command, which must succeed, and asks again."""
        self.run_fix(name)
        return examine(self.site)

    def run_fix(self, name: str) -> None:
        """Runs a finding's command, which must succeed."""
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
    """Asks doctor, which answers in any case, and exits with 78 only where something failed."""
    done = site.call("doctor", "--json")
    return _report(site, done.returncode, done.stdout, done.stderr)


def examine_apart(site: Site) -> Report:
    """The same in a process of its own: a thread of doctor's may outlive the question.

    Whoever is in another mount namespace can't leave it while a thread shares its root.
    """
    done = site.run("doctor", "--json")
    return _report(site, done.returncode, done.stdout, done.stderr)


def _report(site: Site, status: int, printed: str, told: str) -> Report:
    assert not told
    document = json.loads(printed)
    names = [one["name"] for one in document["checks"]]
    assert len(names) == len(set(names)), names
    assert document["ok"] == all(one["status"] != "failure" for one in document["checks"])
    assert status == (0 if document["ok"] else 78)
    return Report(site, {one["name"]: one for one in document["checks"]})
