"""From the rename of Mailman's file to the new list's address being accepted by SMTP.

A client asks RCPT for the address, again and again. With lmdb it does so in one open session, as
all processes of Postfix see such a change at once; with another type in a new session each time.
"""

import random
import smtplib
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from typing import Self

from tests.bench.cases import LONGEST, Case
from tests.bench.lists import list_name
from tests.bench.measure import Row, Say
from tests.bench.plan import Plan
from tests.parts.common import public_directory
from tests.parts.load import rcpt
from tests.parts.postfix_instance import SENDER

INTERVAL = 0.003
"""Seconds between the reply to a RCPT and the next one."""

IDLE = 0.2
"""Seconds without work after which the next addition may come."""

PAUSE = 0.3
"""Seconds at most, drawn by chance, before each addition."""


class Asker:
    """A client that asks Postfix for addresses."""

    def __init__(self, port: int, *, one_session: bool) -> None:
        self._port = port
        self._one_session = one_session
        self._client: smtplib.SMTP | None = None

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close its session."""
        if self._client is not None:
            self._client.close()

    def accepts(self, address: str) -> bool:
        """Return whether Postfix accepts mail to the address now."""
        if not self._one_session:
            return rcpt(self._port, address) == 250
        try:
            return self._ask(address) == 250
        except (smtplib.SMTPException, OSError):  # Postfix was reloaded, or the session is old
            self._client = None
            return False

    def _ask(self, address: str) -> int:
        if self._client is None:
            self._client = smtplib.SMTP("127.0.0.1", self._port, timeout=60)
            self._client.ehlo("client.example")
            self._client.mail(SENDER)
        code = self._client.rcpt(address)[0]
        if code == 250:
            self._client.rset()
            self._client.mail(SENDER)
        elif code == 421:
            self._client = None
        return code

    def wait_until_accepted(self, address: str, timeout: float) -> float:
        """Ask until the address is accepted; return that time (time.monotonic())."""
        deadline = time.monotonic() + timeout
        while not self.accepts(address):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{address} is not accepted after {timeout:g} s")
            time.sleep(INTERVAL)
        return time.monotonic()


def percentiles(values: list[float]) -> Row:
    """Return the median, 95th and 99th percentile, and the largest of some seconds."""
    hundredths = quantiles(values, n=100, method="inclusive")
    return {"p50": hundredths[49], "p95": hundredths[94], "p99": hundredths[98], "max": max(values)}


def measure(plan: Plan, base: Path, say: Say) -> list[Row]:
    """Return a row for each number of lists and map type."""
    rows = []
    for map_type, samples in plan.acceptance_samples.items():
        with ExitStack() as stack:
            directory = stack.enter_context(public_directory(base))
            cases = []
            for lists in plan.acceptance_lists:
                case = Case(directory / str(lists), lists, map_type)
                cases.append(stack.enter_context(case))
                case.start_daemon()
                say(f"acceptance: {case.label}: the daemon runs")
            for case, found in _additions(cases, samples, say).items():
                row = {"lists": case.lists, "type": map_type, "samples": samples}
                rows.append(row | percentiles(found))
    return rows


def _additions(cases: list[Case], samples: int, say: Say) -> dict[Case, list[float]]:
    """Add a list in each case in turn; all daemons are idle before."""
    chance = random.Random(13)  # the same in each run
    found: defaultdict[Case, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        askers = {case: stack.enter_context(_asker_of(case)) for case in cases}
        for number in range(samples):
            if number % 10 == 0:
                say(f"acceptance: {cases[0].map_type}: {number} of {samples} additions")
            for case, asker in askers.items():
                time.sleep(chance.uniform(0, PAUSE))
                found[case].append(_addition(case, asker, number, chance))
    return found


def _asker_of(case: Case) -> Asker:
    return Asker(case.postfix.port, one_session=case.map_type == "lmdb")


def _addition(case: Case, asker: Asker, number: int, chance: random.Random) -> float:
    """Add a list, and wait until the daemon is idle; return the seconds until it was accepted."""
    assert case.daemon is not None
    if case.map_type != "lmdb":
        case.wait_for_turn()
    name = list_name(chance.randrange(case.lists), case.lists, f"new{number}")
    case.files.add(name)
    renamed = case.files.write()
    accepted = asker.wait_until_accepted(name, LONGEST)
    case.daemon.wait_until_idle(LONGEST, IDLE)
    return accepted - renamed
