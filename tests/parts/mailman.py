"""A Mailman core of a test's own, from PyPI, with SQLite, its Postfix files and its LMTP server.

It runs as on a host of its own or in a container: as user `list`, with a postmap that does nothing,
and in a mount namespace with a private /etc/hosts.  So the host name that it listens on, and that
it writes into its files, does not resolve elsewhere on this machine until postfix-sync enters it.

Only two runners are started: lmtp, which accepts the mail, and rest, by which lists are created
fast.  Accepted mail stays in Mailman's queue directories, where it can be counted.
"""

import base64
import fcntl
import json
import os
import pickle
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, Self

from .common import end_processes, free_port, processes_with, run, wait_for

VERSION = "3.3.10"
USER = "list"

# Outside the checkout and /root, because user list must be able to read it.
CACHE = Path("/var/cache/postfix-sync-tests")
PYTHON = "/usr/bin/python3"

_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"

_CONFIGURATION = """\
[mailman]
site_owner: owner@lists.example.net
layout: test

[paths.test]
var_dir: {var}
bin_dir: {venv}/bin

[database]
url: {database}

[mta]
incoming: mailman.mta.postfix.LMTP
lmtp_host: {lmtp_host}
lmtp_port: {lmtp_port}
configuration: {etc}/postfix.cfg

[webservice]
hostname: 127.0.0.1
port: {rest_port}
admin_user: test
admin_pass: test
workers: 1

"""
_POSTFIX_CONFIGURATION = """\
[postfix]
postmap_command: /bin/true
transport_file_type: {table}
"""
_CREATE_LISTS = """\
import sys
from contextlib import suppress
from mailman.app.lifecycle import create_list
from mailman.config import config
from mailman.core.initialize import initialize
from mailman.database.transaction import transaction
from mailman.interfaces.address import InvalidEmailAddressError
from mailman.interfaces.domain import BadDomainSpecificationError, IDomainManager
from mailman.interfaces.listmanager import ListAlreadyExistsError
from mailman.interfaces.mailinglist import InvalidListNameError
from mailman.mta.postfix import LMTP
from zope.component import getUtility

REFUSED = BadDomainSpecificationError, InvalidEmailAddressError, InvalidListNameError
WIDEST = "[mailman]\\nlistname_chars: [-_.+=!$*{}~0-9a-z]"
cfg, domain, alias_domain = sys.argv[1:]
initialize(cfg)
config.push("widest", WIDEST + "\\n[mta]\\nincoming: mailman.mta.null.NullMTA\\n")
with transaction():
    getUtility(IDomainManager).add(domain, alias_domain=alias_domain)
    for line in sys.stdin:
        with suppress(*REFUSED, ListAlreadyExistsError):  # lists are created in lower case
            print(create_list(line.rstrip("\\n")).fqdn_listname)
config.pop("widest")
LMTP().regenerate()
"""
# All of Mailman's runners except lmtp and rest.
_IDLE = (
    *("archive", "bounces", "command", "digest", "in", "nntp", "out", "pipeline", "retry"),
    *("task", "virgin"),
)

# The queues in which the lmtp runner puts accepted mail.
_QUEUES = ("in", "command", "bounces")


@dataclass(frozen=True)
class Accepted:
    """One message that Mailman accepted."""

    list_id: str
    subaddress: str
    message: Message
    time: float = 0.0
    """The time in seconds since the epoch."""

    @property
    def message_id(self) -> str:
        """The Message-ID, without its brackets."""
        return str(self.message["Message-ID"]).strip("<>")


def installed(version: str = VERSION) -> Path:
    """Return the directory of a venv with this Mailman, made once and cached."""
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    venv = CACHE / f"mailman-{version}"
    complete = venv / ".complete"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(venv, ignore_errors=True)
            run(PYTHON, "-m", "venv", str(venv), umask=0o022)
            install = [f"{venv}/bin/pip", "install", "--quiet"]
            run(*install, "--no-deps", f"mailman=={version}", umask=0o022, timeout=600)
            run(*install, *_requirements(venv), umask=0o022, timeout=600)
            run(PYTHON, "-m", "compileall", "-q", str(venv), umask=0o022, timeout=600)
            complete.touch()
    return venv


def _requirements(venv: Path) -> list[str]:
    """Return Mailman's requirements; standard-nntplib replaces the nntplib that 3.13 removed."""
    ask = "from importlib.metadata import requires; print(*requires('mailman'), sep='\\n')"
    lines = run(f"{venv}/bin/python", "-c", ask).splitlines()
    needed = [line for line in lines if "extra ==" not in line]
    return [f"standard-{name}" if name.startswith("nntplib") else name for name in needed]


class Mailman:
    """A Mailman of the test; start() and stop() it, or use it in a with statement."""

    def __init__(
        self,
        directory: Path,
        *,
        lmtp_host: str = "mailman-demo",
        lmtp_address: str = "127.0.0.5",
        lmtp_port: int | None = None,
        table: str = "hash",
        database: str = "",
    ) -> None:
        """Write the configuration: LMTP on lmtp_address, which only Mailman's hosts file resolves.

        table is Mailman's transport_file_type: hash, or regex as in docker-mailman.  database is a
        URL; two Mailmans with the same one have the same lists.
        """
        self.directory = directory
        self.lmtp_host = lmtp_host
        self.lmtp_address = lmtp_address
        self.lmtp_port = lmtp_port or free_port(lmtp_address)
        self.var = directory / "var"
        self._venv = installed()
        self._rest = f"127.0.0.1:{free_port()}"
        self._hosts = directory / "hosts"
        self._configuration = directory / "etc/mailman.cfg"
        self._master: subprocess.Popen[bytes] | None = None

        self._configuration.parent.mkdir(parents=True)
        self.data.mkdir(parents=True)
        self._configuration.write_text(
            _CONFIGURATION.format(
                var=self.var,
                database=database or f"sqlite:///{self.var}/mailman.db",
                venv=self._venv,
                etc=self._configuration.parent,
                lmtp_host=lmtp_host,
                lmtp_port=self.lmtp_port,
                rest_port=self._rest.rpartition(":")[2],
            )
            + "".join(f"[runner.{name}]\nstart: no\n" for name in _IDLE)
        )
        (self._configuration.parent / "postfix.cfg").write_text(
            _POSTFIX_CONFIGURATION.format(table=table)
        )
        own_name = f"{lmtp_address} {lmtp_host}\n" if lmtp_host != lmtp_address else ""
        self._hosts.write_text(f"{_HOSTS}127.0.0.1 {socket.gethostname()}\n{own_name}")
        self._hosts.chmod(0o644)
        for path in (self.var, self.data):
            shutil.chown(path, USER, USER)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    @property
    def data(self) -> Path:
        """The directory in which Mailman writes its files for Postfix."""
        return self.var / "data"

    @property
    def destination(self) -> str:
        """The next hop that Mailman writes into postfix_lmtp."""
        return f"lmtp:[{self.lmtp_host}]:{self.lmtp_port}"

    def start(self) -> None:
        """Start Mailman, and wait until LMTP and REST answer."""
        with (self.directory / "output").open("ab") as output:
            self._master = subprocess.Popen(
                self._command("master", "--force"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd="/",
                umask=0o007,
                start_new_session=True,
            )
        try:
            wait_for(self._answers, 60, "answers of Mailman's LMTP and REST servers")
        except (RuntimeError, TimeoutError) as error:
            self.stop()
            raise RuntimeError(f"Mailman did not start: {error}\n{self.log}") from error

    def stop(self) -> None:
        """Stop Mailman, and wait until all its processes have ended; may be called again."""
        if self._master is None:
            return
        self._master.terminate()
        try:
            self._master.wait(20)
        except subprocess.TimeoutExpired:
            self._master.kill()
            self._master.wait()
        self._master = None
        end_processes("MAILMAN_VAR_DIR", str(self.var), 5)

    @property
    def running(self) -> bool:
        """Whether a process of this Mailman exists."""
        return bool(processes_with("MAILMAN_VAR_DIR", str(self.var)))

    @property
    def log(self) -> str:
        """Everything that Mailman has printed and logged."""
        logs = [self.directory / "output", *sorted((self.var / "logs").glob("*.log"))]
        return "".join(
            f"== {path.name}\n{path.read_text(errors='replace')}" for path in logs if path.exists()
        )

    def command(self, *arguments: str) -> str:
        """Run the `mailman` command, as its administrator would: `command("create", LIST)`."""
        done = subprocess.run(
            self._command("mailman", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment(),
            cwd="/",
            umask=0o007,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"mailman {' '.join(arguments)}: {done.returncode}\n{done.stdout}")
        return done.stdout

    def create_lists(self, domain: str, alias_domain: str, names: Iterable[str]) -> list[str]:
        """Create lists in a new domain by Mailman's own code, of those names that it accepts.

        It accepts as many names as possible: listname_chars is at its widest. The files are
        written once, at the end. Return the lists' posting addresses.
        """
        command = [f"{self._venv}/bin/python", "-c", _CREATE_LISTS, str(self._configuration)]
        stdin = "".join(f"{name}@{domain}\n" for name in names)
        printed = run(*command, domain, alias_domain, stdin=stdin, env=self._environment())
        return printed.split()

    def _command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line of a Mailman program as user list in Mailman's namespace."""
        # In a plain chroot, whose root is not a mount point, there is no propagation to disable.
        private = "mount --make-rprivate / 2>/dev/null"
        enter = f'{private}; mount --bind "$0" /etc/hosts && exec setpriv "$@"'
        return [
            *("unshare", "--mount", "--propagation", "unchanged", "sh", "-c", enter),
            str(self._hosts),
            *(f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
            *(f"{self._venv}/bin/python", f"{self._venv}/bin/{program}"),
            *("-C", str(self._configuration), *arguments),
        ]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "MAILMAN_VAR_DIR": str(self.var),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _answers(self) -> bool:
        assert self._master is not None
        if self._master.poll() is not None:
            raise RuntimeError(f"it ended with status {self._master.returncode}")
        try:
            self._call("GET", "system/versions")
        except OSError:
            return False
        return self.greets()

    def greets(self) -> bool:
        """Whether the LMTP server greets with 220."""
        try:
            with socket.create_connection((self.lmtp_address, self.lmtp_port), 5) as connection:
                return connection.recv(100).startswith(b"220")
        except OSError:
            return False

    # Lists and domains by REST, which takes milliseconds (`mailman create` takes seconds).

    def add_domain(self, domain: str, alias_domain: str = "") -> None:
        """Add a mail domain, whose lists Postfix knows by the alias_domain if there is one."""
        alias = {"alias_domain": alias_domain} if alias_domain else {}
        self._call("POST", "domains", mail_host=domain, **alias)

    def set_alias_domain(self, domain: str, alias_domain: str) -> None:
        """Set a domain's alias_domain; Mailman does not rewrite its files."""
        self._call("PATCH", f"domains/{domain}", alias_domain=alias_domain)

    def remove_domain(self, domain: str) -> None:
        """Remove a mail domain and its lists; Mailman's files become stale."""
        self._call("DELETE", f"domains/{domain}")

    def create_list(self, address: str) -> None:
        """Create a list, and its domain if it is missing; the files are written on return."""
        domain = address.partition("@")[2]
        if domain not in self._domains():
            self.add_domain(domain)
        self._call("POST", "lists", fqdn_listname=address)

    def remove_list(self, address: str) -> None:
        """Remove a list; the files are written on return."""
        self._call("DELETE", f"lists/{urllib.parse.quote(address)}")

    def regenerate_aliases(self) -> None:
        """Rewrite all files by `mailman aliases`, as the entry points of containers do."""
        self.command("aliases")

    def _domains(self) -> set[str]:
        return {entry["mail_host"] for entry in self._call("GET", "domains").get("entries", [])}

    def _call(self, method: str, path: str, **fields: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://{self._rest}/3.1/{path}",
            method=method,
            data=urllib.parse.urlencode(fields).encode() or None,
            headers={"Authorization": "Basic " + base64.b64encode(b"test:test").decode()},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as response:
                body = response.read()
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read().decode(errors="replace")
            raise RuntimeError(f"Mailman: {method} {path} {fields}: {error}: {reason}") from None
        return dict(json.loads(body)) if body else {}

    # Mail.

    def accepted(self, address: str | None = None) -> list[Accepted]:
        """Return the messages that Mailman accepted (for this list), oldest first."""
        wanted = None if address is None else address.lower().replace("@", ".")
        return [found for found in self._queued() if wanted in (None, found.list_id)]

    def _queued(self) -> Iterator[Accepted]:
        files = [path for name in _QUEUES for path in (self.var / "queue" / name).glob("*.pck")]
        for path in sorted(files, key=lambda path: path.name):
            with path.open("rb") as queued:
                message = _Unpickler(queued).load()
                about = _Unpickler(queued).load()
                taken = os.fstat(queued.fileno()).st_mtime
            yield Accepted(about["listid"], about.get("subaddress", ""), message, taken)


class _Unpickler(pickle.Unpickler):
    """Reads queue files without Mailman: the library's Message replaces Mailman's."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("mailman.email.message", "Message"):
            return Message
        return super().find_class(module, name)
