"""Whoever monitors: a client of the daemon's HTTP server, and what it understands of metrics."""

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
    """What came back."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Monitor:
    """A client of what listens on this port."""

    port: int
    address: str = "127.0.0.1"

    @property
    def listen(self) -> str:
        """As `metrics.listen` has it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self}"

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request; raises OSError where nobody answers."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=30)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read().decode()
            return Answer(response.status, dict(response.headers), body)
        finally:
            connection.close()

    def health(self) -> tuple[int, str]:
        """What /healthz says; status 0 where nobody answers."""
        try:
            answer = self.get("/healthz")
        except OSError:
            return 0, ""
        return answer.status, answer.body

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection((self.address, self.port), timeout=30)


def samples(text: str) -> dict[str, dict[Labels, float]]:
    """Metrics in the text format: by name and labels."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, {})[frozenset(one.labels.items())] = one.value
    return found


def value(text: str, name: str, **labels: str) -> float | None:
    """One sample, None where there is none."""
    return samples(text).get(f"postfix_sync_{name}", {}).get(frozenset(labels.items()))


def promtool(*arguments: str, stdin: str = "") -> str:
    """Prometheus' own judgement, which must be good; what it said."""
    path = shutil.which("promtool")
    need(path, "promtool")
    assert path
    done = subprocess.run(
        [path, *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{stdin}"
    return done.stdout + done.stderr
