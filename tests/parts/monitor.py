"""A monitoring client of the daemon's HTTP server, and a parser of its metrics."""

import http.client
import shutil
import socket
import subprocess
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import need

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Monitor:
    """A client of the server on this port."""

    port: int
    address: str = "127.0.0.1"

    @property
    def listen(self) -> str:
        """The address in the form of `metrics.listen`."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self}"

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Make one request; raise OSError if there is no answer."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=30)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read().decode()
            return Answer(response.status, dict(response.headers), body)
        finally:
            connection.close()

    def health(self) -> tuple[int, str]:
        """Return status and text of /healthz; the status is 0 if there is no answer."""
        try:
            answer = self.get("/healthz")
        except OSError:
            return 0, ""
        return answer.status, answer.body

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection((self.address, self.port), timeout=30)


def samples(text: str) -> dict[str, dict[Labels, float]]:
    """Parse metrics in the text format; return the values by name and labels."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float | None:
    """Return the value of one sample, or None if it is missing."""
    return samples(text).get(f"postfix_sync_{name}", {}).get(frozenset(labels.items()))


def promtool(*arguments: str, stdin: str = "") -> str:
    """Run promtool, which must succeed; return its output."""
    path = shutil.which("promtool")
    need(path, "promtool")
    assert path
    done = subprocess.run(
        [path, *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{stdin}"
    return done.stdout + done.stderr
