"""The benchmarks, with tiny sizes: they run, and give figures. No figure is compared."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.bench import document
from tests.bench.__main__ import ONLY_FULL, SUBJECTS
from tests.conftest import need
from tests.parts.postgres import has_pgsql, programs

pytestmark = [pytest.mark.slow]

NEEDS_HOURS = "recovery"
"""It waits for Postfix's retries; tests/e2e/test_recovery.py has its scenario."""

PARTS: Mapping[str, Mapping[str, Callable[[], object]]] = {
    "losses": {"inotify-tools": lambda: shutil.which("inotifywait")},
    "throughput": {"PostgreSQL": programs, "postfix-pgsql": has_pgsql},
}
"""What a subject needs that `make test` does not install."""


@pytest.mark.parametrize("subject", sorted({*SUBJECTS, *ONLY_FULL} - {NEEDS_HOURS}))
def test_subject_gives_figures_tables_and_plots(root: None, subject: str, tmp_path: Path) -> None:
    need(shutil.which("postconf", path="/usr/sbin:/usr/bin"), "Postfix")
    for part, is_there in PARTS.get(subject, {}).items():
        if not is_there():
            pytest.skip(f"needs {part}, which only make bench-full installs")
    options = ["--quick", "--only", subject, "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done
    result = json.loads((tmp_path / "quick.json").read_text())
    assert result["subjects"][subject]["rows"]
    assert document.TITLES[subject] in document.section(result)
    assert all(text.endswith("</svg>\n") for text in document.plots(result).values())
