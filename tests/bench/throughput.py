"""RCPT commands a second that Postfix answers, by the type of its tables and the number of lists.

Two clients ask for addresses of lists at random, each in an open session, and send some commands
before they read the replies (PIPELINING).
"""

import random
import socket
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from tests.bench.cases import LONG_SESSIONS, LONGEST
from tests.bench.lists import ListFiles
from tests.bench.measure import Row, Say
from tests.bench.plan import Plan
from tests.bench.ways import tables
from tests.parts.common import public_directory
from tests.parts.mailman_files import SUBADDRESSES, nine
from tests.parts.postfix_instance import SENDER, PostfixInstance, mailman_parameters
from tests.parts.postgres import ROLE, Postgres
from tests.parts.site import Site

CLIENTS = 2
BATCH = 10
"""RCPT commands that a client sends before it reads the replies."""

TABLES = ("regexp", "pgsql", "hash", "lmdb")

_SUFFIXES = "|".join(SUBADDRESSES)

_LIST = (
    f"mail_host = '%d' AND list_name IN ('%u', regexp_replace('%u', '-({_SUFFIXES})$', '')) LIMIT 1"
)

QUERIES = {
    "transport_maps": f"SELECT 'lmtp:[127.0.0.1]:8024' FROM mailinglist WHERE {_LIST}",
    "relay_recipient_maps": f"SELECT list_name FROM mailinglist WHERE {_LIST}",
    "relay_domains": "SELECT mail_host FROM domain WHERE mail_host = '%s'",
}
"""What Postfix asks Mailman's database, in tables of type pgsql (pgsql_table(5))."""


class Served:
    """A running Postfix, whose tables of one type have so many lists."""

    def __init__(self, directory: Path, table: str, lists: int) -> None:
        directory.mkdir(mode=0o755)
        self.table, self.lists = table, lists
        self._files = ListFiles(directory / "data", lists, regex=table == "regexp")
        (directory / "hosts").write_text("127.0.0.1 localhost\n")
        self._directory = directory
        self._stack = ExitStack()
        self.postfix = PostfixInstance(
            directory / "postfix", main_cf={**LONG_SESSIONS, **self._parameters()}
        )
        self.addresses = [key for name in self._files.names for key in nine(name)]

    def _parameters(self) -> Mapping[str, str]:
        if self.table == "regexp":
            return tables("regexp", "data")(self._directory)
        if self.table == "pgsql":
            return {name: f"proxy:pgsql:{self._directory / name}.cf" for name in QUERIES}
        return mailman_parameters(self._directory / "maps", self.table)

    def __enter__(self) -> "Served":
        """Fill the tables, and start Postfix."""
        if self.table == "pgsql":
            postgres = self._stack.enter_context(Postgres(self._directory / "postgres"))
            postgres.fill(self._files.names)
            for name, query in QUERIES.items():
                (self._directory / f"{name}.cf").write_text(
                    f"hosts = {postgres.socket}\nuser = {ROLE}\ndbname = {ROLE}\nquery = {query}\n"
                )
        elif self.table != "regexp":
            site = Site(self._directory, self.postfix.config_directory, self.table)
            done = site.run("--once", timeout=LONGEST)
            assert done.returncode == 0, done
        self._stack.enter_context(self.postfix)
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop all."""
        self._stack.close()


def measure(plan: Plan, base: Path, say: Say) -> list[Row]:
    """Return a row for each type of table and number of lists."""
    found: defaultdict[Served, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        directory = stack.enter_context(public_directory(base))
        all_served = []
        for table in TABLES:
            for lists in plan.throughput_lists:
                served = Served(directory / f"{table}-{lists}", table, lists)
                all_served.append(stack.enter_context(served))
                say(f"throughput: {lists:,} lists, {table}: Postfix runs")
        for number in range(plan.throughput_rounds):
            for served in all_served:
                say(f"throughput: round {number + 1}: {served.lists:,} lists, {served.table}")
                found[served].append(_rate(served, number, plan.throughput_seconds))
    return [
        {
            "table": served.table,
            "lists": served.lists,
            "rounds": len(rates),
            "rcpts_per_second": median(rates),
            "least": min(rates),
            "most": max(rates),
        }
        for served, rates in found.items()
    ]


def _rate(served: Served, number: int, seconds: float) -> float:
    """Return the RCPT commands a second that all clients together got answered."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [
            pool.submit(
                _client, served.postfix.port, served.addresses, f"{number}.{client}", seconds
            )
            for client in range(CLIENTS)
        ]
        return sum(client.result() for client in clients)


def _client(port: int, addresses: Sequence[str], seed: str, seconds: float) -> float:
    chance = random.Random(seed)
    with socket.create_connection(("127.0.0.1", port), timeout=LONGEST) as connection:
        file = connection.makefile("rwb")
        _expect(file.readline(), b"220")
        file.write(b"EHLO client.example\r\n")
        file.flush()
        while file.readline()[3:4] == b"-":
            pass

        def transaction() -> None:
            """Ask for some addresses; all are those of lists."""
            chosen = chance.choices(addresses, k=BATCH)
            lines = [f"MAIL FROM:<{SENDER}>", *(f"RCPT TO:<{to}>" for to in chosen), "RSET", ""]
            file.write("\r\n".join(lines).encode())
            file.flush()
            for _ in range(BATCH + 2):
                _expect(file.readline(), b"250")

        transaction()  # the processes of Postfix are started, and have opened their tables
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            transaction()
            count += BATCH
        return count / (time.monotonic() - began)


def _expect(line: bytes, code: bytes) -> None:
    if not line.startswith(code):
        raise RuntimeError(f"Postfix replied {line!r}, not {code!r}")
