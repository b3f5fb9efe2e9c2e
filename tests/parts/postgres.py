"""A PostgreSQL server of a test's own, with Mailman's tables; it listens on a socket only."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tests.parts.common import PATIENCE, run, wait_for
from tests.parts.mailman import installed

USER = "postgres"
"""The unprivileged user that Debian's package makes."""

ROLE = "mailman"
"""The name of the role and of the database."""

_AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
_ENVIRONMENT = {**os.environ, "HOME": "/", "LC_ALL": "C.UTF-8"}

_SCHEMA = """
from importlib import import_module
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from mailman.database.model import Model
for name in ("domain", "mailinglist"):
    import_module(f"mailman.model.{name}")
for name in ("domain", "mailinglist"):
    table = Model.metadata.tables[name]
    for made in (CreateTable(table), *map(CreateIndex, table.indexes)):
        print(made.compile(dialect=postgresql.dialect()), ";")
"""
"""A program that prints the statements with which Mailman makes the two tables."""


def programs() -> Path | None:
    """Return the directory with the newest PostgreSQL's programs, if one is installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def has_pgsql() -> bool:
    """Whether Postfix has tables of type pgsql."""
    return Path("/usr/lib/postfix/postfix-pgsql.so").exists()


class Postgres:
    """The server runs during the `with`; user postgres must be able to reach the directory."""

    def __init__(self, directory: Path) -> None:
        """Make an empty cluster."""
        found = programs()
        assert found is not None, "PostgreSQL is not installed"
        self._programs = found
        directory.mkdir(mode=0o755)
        self.socket = directory / "socket"
        self._data = directory / "data"
        self._log = directory / "log"
        for made in (self.socket, self._data):
            made.mkdir(mode=0o755)
            shutil.chown(made, USER)
        self._run("initdb", "-D", str(self._data), "-U", ROLE, "-A", "trust", "-E", "UTF8")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the server, and make the database."""
        options = ("-D", str(self._data), "-k", str(self.socket), "-c", "listen_addresses=")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_AS_USER, str(self._programs / "postgres"), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._data,
                env=_ENVIRONMENT,
            )
        wait_for(self._answers, PATIENCE, "an answer of PostgreSQL")
        self._run("createdb", "-h", str(self.socket), "-U", ROLE, ROLE)
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop the server."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)  # "fast shutdown"
        self._process.wait(PATIENCE)

    def query(self, statements: str) -> str:
        """Have SQL carried out; return psql's output."""
        options = ("-q", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket), "-U", ROLE)
        return self._run("psql", *options, ROLE, stdin=statements)

    def fill(self, lists: Iterable[str]) -> None:
        """Make Mailman's tables, with these lists and their domains."""
        names = [name.rpartition("@") for name in lists]
        domains = sorted({domain for _, _, domain in names})
        rows = "".join(f"{name}\t{host}\t{name}.{host}\n" for name, _, host in names)
        self.query(
            run(f"{installed()}/bin/python", "-c", _SCHEMA)
            + "COPY domain (mail_host) FROM stdin;\n"
            + "".join(f"{domain}\n" for domain in domains)
            + "\\.\nCOPY mailinglist (list_name, mail_host, list_id) FROM stdin;\n"
            + f"{rows}\\.\nANALYZE;\n"
        )

    def _answers(self) -> bool:
        ready = str(self._programs / "pg_isready")
        done = subprocess.run([ready, "-q", "-h", str(self.socket)], check=False)
        return done.returncode == 0

    def _run(self, program: str, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [*_AS_USER, str(self._programs / program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._data,
            env=_ENVIRONMENT,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: status {done.returncode}\n{done.stderr}")
        return done.stdout
