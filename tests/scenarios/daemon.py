"""postfix-sync as a daemon, started as systemd starts it: a process of its own that logs."""

import signal
from typing import TYPE_CHECKING, Self

from tests.parts.common import wait_for
from tests.parts.site import Site

if TYPE_CHECKING:
    import subprocess

PATIENCE = 30.0


class DaemonProcess:
    """The daemon of a site; start() and stop() it, or use it in a with statement."""

    def __init__(self, site: Site) -> None:
        """Nothing is started yet; the site is configured if it is not."""
        self.site = site
        self.log_file = site.directory / "postfix-sync.log"
        self.exit_status: int | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start, and wait until the first pass is told of in status.json."""
        status = self.site.state / "status.json"
        status.unlink(missing_ok=True)  # what an earlier daemon left says nothing of this one
        with self.log_file.open("ab") as log:
            self._process = self.site.start(stdout=log, stderr=log)
        wait_for(self._has_passed, PATIENCE, "the daemon's first pass")

    def stop(self) -> None:
        """End it as systemd does, and wait for that; harmless when it does not run."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            self.exit_status = process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def messages(self) -> list[str]:
        """The log's lines without time and program."""
        return [line.partition("postfix-sync: ")[2] or line for line in self.log.splitlines()]

    def wait_for_message(self, *messages: str) -> None:
        """Wait until each of these lines is in the log."""
        for message in messages:
            wait_for(
                lambda wanted=message: wanted in self.messages(),  # type: ignore[misc]
                PATIENCE,
                f"{message!r} in the daemon's log:\n{self.log}",
            )

    def _has_passed(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the daemon ended: {self._process.returncode}\n{self.log}")
        try:
            return bool(self.site.status()["sources"])
        except FileNotFoundError:
            return False
