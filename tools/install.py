"""`make install` and `make uninstall`: install postfix-sync in its own virtual environment.

    PREFIX/VERSION.XXXXXXXX/   the virtual environment; each installation builds a new one
    PREFIX/bin/postfix-sync    a link to the command in it; an upgrade changes this link
    PREFIX/installed           the paths outside PREFIX, one per line; directories end with /
    /usr/local/sbin, /usr/local/lib, /usr/local/share
                               a link to that command; units; manual pages, completions, an example

An environment is never changed once it is in use.  If an installation is killed, the previous one
continues to work, and the next installation, or `make uninstall`, removes the incomplete one.
Paths outside PREFIX are recorded before they are written; if a path exists and is not recorded, the
installation is refused before it changes anything.  Configuration and state are not changed.

This program runs before anything is installed, so it uses only the standard library.
"""

import argparse
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
CONFIGURATION = "/etc/postfix-sync/config.yaml"
COMMAND = "/usr/local/sbin/postfix-sync"
# Not /etc/systemd/system, which is the administrator's: `systemctl edit --full` makes a copy there,
# which then has precedence, and `systemctl mask` makes a link there.
UNITS = "/usr/local/lib/systemd/system"
NOTIFY_RELOAD = 253
"""The first version of systemd with Type=notify-reload."""
_ENVIRONMENT = re.compile(r"[0-9].*\.[a-z0-9_]{8}")
_STANDARD = {
    *("/etc/", "/opt/", "/usr/", "/usr/local/", "/usr/local/lib/", "/usr/local/sbin/"),
    *("/usr/local/share/", "/usr/local/share/man/"),
}
SERVICE, TIMER = "postfix-sync.service", "postfix-sync-once.timer"


class Refused(Exception):
    """The action can't be executed; the message has the reason."""


@dataclass(frozen=True)
class Target:
    """Where it is installed: `prefix` is the final path, which is below `staging` until then."""

    prefix: str
    staging: str
    """DESTDIR: another host's root, or a package's; empty for this host."""

    def at(self, path: str) -> Path:
        """Return the current place of a path of the target."""
        return Path(self.staging + path)

    @property
    def home(self) -> Path:
        """The current place of PREFIX."""
        return self.at(self.prefix)

    @property
    def link(self) -> Path:
        """The command that units and COMMAND name."""
        return self.home / "bin/postfix-sync"

    @property
    def runs_systemd(self) -> bool:
        """Whether the target is this host, and systemd is running."""
        return not self.staging and Path("/run/systemd/system").is_dir()


@dataclass(frozen=True)
class Record:
    """PREFIX/installed."""

    path: Path

    def read(self) -> list[str]:
        """Return the recorded paths, in the order of their installation."""
        return self.path.read_text().splitlines() if self.path.exists() else []

    def write(self, paths: list[str]) -> None:
        """Replace the recorded paths atomically."""
        _put(self.path, "".join(f"{path}\n" for path in paths))


def main() -> int:
    """Run the action; return the exit status: 0, or 1 with a message."""
    parser = argparse.ArgumentParser(description="Called by make install and make uninstall.")
    parser.add_argument("action", choices=("install", "uninstall"))
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--destdir", default="")
    options = parser.parse_args()
    os.umask(0o022)
    try:
        target = Target(*map(_checked, ("PREFIX", "DESTDIR"), (options.prefix, options.destdir)))
        status = install(target) if options.action == "install" else uninstall(target)
    except (Refused, OSError) as error:
        print(f"make {options.action}: {error}{_hint(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"make {options.action}: interrupted; run it again", file=sys.stderr)
        return 1
    return status


def _hint(error: Exception) -> str:
    """Return what helps if the system denied access; for root, an attribute may be the cause."""
    if not isinstance(error, PermissionError):
        return ""
    if os.geteuid() != 0:
        return "; run it as root"
    path = Path(error.filename or "/")
    place = shlex.quote(str(path if path.is_dir() else path.parent))
    return f"; root is denied access: see lsattr -d {place} (to remove i: chattr -i {place})"


def _checked(name: str, path: str) -> str:
    """Check a path, which is written to scripts, units and one-line records."""
    if path and not re.fullmatch(r"(/[A-Za-z0-9_.,+~@-]+)+/?", path):
        raise Refused(f"{name}={path}: an absolute path of letters, digits and _.,+~@- is expected")
    if name == "PREFIX" and path.count("/") < 2:
        raise Refused(f"{name}={path}: a directory of postfix-sync's own is expected")
    return path.rstrip("/")


# --- install


def install(target: Target) -> int:
    """Install or upgrade."""
    texts = dict(_texts(target))
    ours = [COMMAND, *texts]
    record = Record(target.home / "installed")
    _check_what_is_there(target, record, ours)
    new_directories = _directories_to_make(target, [target.prefix, CONFIGURATION, *ours])
    target.home.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        before = record.read()
        record.write(_union(before, new_directories, ours))
        environment = _build(target)
        for path, text in texts.items():
            _put(target.at(path), text)
        target.at(CONFIGURATION).parent.mkdir(parents=True, exist_ok=True)
        _point(target.link, f"../{environment.name}/bin/postfix-sync")
        _point(target.at(COMMAND), f"{target.prefix}/bin/postfix-sync")
        restarted = _restart(target)
        _sweep(target, record, environment, ours)
    print(_what_next(target, upgrade=bool(before)))
    return 0 if restarted else 1


def _check_what_is_there(target: Target, record: Record, ours: list[str]) -> None:
    """Raise Refused if a file that is not from an installation would be overwritten."""
    noted = record.read()
    for path in ours:
        if path not in noted and os.path.lexists(target.at(path)):
            raise Refused(
                f"{target.at(path)} is there already, and not from here: move it away, or, if it"
                " is from another PREFIX, run `make uninstall` with that one first"
            )
    beginnings = {record.path.name, _beside(record.path.name)}
    if not noted and target.home.is_dir():
        for found in target.home.iterdir():
            if found.name not in beginnings:
                raise Refused(
                    f"{found} is there already, and not from here: move {target.home} away, or"
                    " choose another PREFIX, a directory of postfix-sync's own"
                )


def _texts(target: Target) -> Iterator[tuple[str, str]]:
    """Yield each file below /usr/local with its text."""
    for unit in sorted(SOURCE.glob("systemd/*.*")):
        if unit.suffix == ".conf" and _systemd_version() < NOTIFY_RELOAD:
            continue
        place = f"{SERVICE}.d/{unit.name}" if unit.suffix == ".conf" else unit.name
        text = unit.read_text()
        yield (
            f"{UNITS}/{place}",
            text.replace("/usr/bin/postfix-sync", f"{target.prefix}/bin/postfix-sync"),
        )
    share = "/usr/local/share"
    for page in sorted(SOURCE.glob("docs/man/*.[1-9]")):
        yield f"{share}/man/man{page.suffix[1:]}/{page.name}", page.read_text()
    for source, path in (
        ("completions/postfix-sync.bash", f"{share}/bash-completion/completions/postfix-sync"),
        ("completions/_postfix-sync", f"{share}/zsh/site-functions/_postfix-sync"),
        ("config.example.yaml", f"{share}/doc/postfix-sync/config.example.yaml"),
    ):
        yield path, (SOURCE / source).read_text()


def _systemd_version() -> int:
    """Return this host's version, which a staged tree needs too, like this host's Python."""
    found = re.match(r"systemd (\d+)", _ask("systemctl", "--version"))
    return int(found[1]) if found else 0


def _directories_to_make(target: Target, paths: list[str]) -> list[str]:
    """Return the missing parents of these paths, except those that every host has."""
    parents = {f"{parent}/" for path in paths for parent in Path(path).parents[:-1]} - _STANDARD
    return sorted(parent for parent in parents if not target.at(parent).exists())


def _union(*several: list[str]) -> list[str]:
    return list(dict.fromkeys(path for paths in several for path in paths))


@contextmanager
def _alone(target: Target) -> Iterator[None]:
    """Hold the lock, so that only one installation runs at a time."""
    descriptor = os.open(target.home, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Refused(f"another installation is running in {target.home}") from error
    finally:
        os.close(descriptor)


def _build(target: Target) -> Path:
    """Build a new environment with the package, which is not in use yet."""
    version = _version()
    print(f"postfix-sync {version}: building an environment in {target.home}", flush=True)
    made = Path(tempfile.mkdtemp(prefix=f"{version}.", dir=target.home))
    made.chmod(0o755)
    try:
        _fill(target, made)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return made


def _fill(target: Target, made: Path) -> None:
    python = made / "bin/python3"
    _run(sys.executable, "-I", "-m", "venv", made)
    pip = (python, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(*pip, "install", "--no-compile", SOURCE)
    # pip is not needed: an upgrade builds a new environment.
    tools = [name for name in ("pip", "setuptools") if _has(python, name)]
    _run(*pip, "uninstall", "--yes", *tools)
    _call_by_final_name(target, made)
    _run(python, "-I", "-m", "compileall", "-q", "-s", target.staging, "-p", "/", made / "lib")
    _run(python, "-I", "-m", "postfix_sync", "--version")
    _run("sync", "--file-system", made)  # before use, for the case of a power failure


def _version() -> str:
    text = (SOURCE / "postfix_sync/__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if not found:
        raise Refused(f"{SOURCE}/postfix_sync/__init__.py: no version")
    return found[1]


def _has(python: Path, module: str) -> bool:
    script = f"import importlib.util as u; print(bool(u.find_spec({module!r})))"
    return _run(python, "-I", "-c", script) == "True\n"


def _call_by_final_name(target: Target, environment: Path) -> None:
    """Write the environment's final path, after staging, into its scripts."""
    here = os.fsencode(environment)
    there = here.removeprefix(os.fsencode(target.staging))
    for path in (environment / "pyvenv.cfg", *(environment / "bin").iterdir()):
        if not path.is_symlink() and here in (content := path.read_bytes()):
            path.write_bytes(content.replace(here, there))


def _restart(target: Target) -> bool:
    """Restart a running daemon with the new environment; return False if that failed."""
    if not target.runs_systemd:
        return True
    _run("systemctl", "daemon-reload")
    done = subprocess.run(["systemctl", "try-restart", SERVICE], check=False)
    if done.returncode:
        print(f"the daemon did not restart: journalctl -u {SERVICE}", file=sys.stderr)
    return not done.returncode


def _sweep(target: Target, record: Record, environment: Path, paths: list[str]) -> None:
    """Remove files of earlier versions only, and environments that are not in use."""
    keep = [path for path in record.read() if path in paths or path.endswith("/")]
    for path in record.read():
        if path not in keep:
            _remove(target.at(path))
    record.write(keep)
    for other in _environments(target):
        if other != environment and not _running(other):
            shutil.rmtree(other)


def _environments(target: Target) -> list[Path]:
    return [path for path in target.home.iterdir() if _ENVIRONMENT.fullmatch(path.name)]


def _running(environment: Path) -> list[int]:
    """Return the processes that use an environment: daemons load some modules only when needed."""
    mark = os.fsencode(f"/{environment.name}/bin/")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # the process has ended
            continue
    return found


def _what_next(target: Target, *, upgrade: bool) -> str:
    done = f"{_version()} is in {target.home}"
    if upgrade:
        lines = [f"postfix-sync {done}; a daemon that systemd does not run has to be restarted."]
    else:
        lines = [
            f"postfix-sync {done}. Next:",
            f"  write {CONFIGURATION}; then: postfix-sync --once, and postfix-sync setup",
            f"  systemctl enable --now {SERVICE} (or, to have no daemon, {TIMER})",
        ]
    return "\n".join(lines)


# --- uninstall


def uninstall(target: Target) -> int:
    """Remove only what install() has written."""
    record = Record(target.home / "installed")
    if not record.path.exists():
        raise Refused(f"{target.home}: make install has not installed anything there")
    with _alone(target):
        left = "" if target.staging else _what_is_left(target)
        _end(target)
        paths = record.read()
        files = [target.at(path) for path in paths if not path.endswith("/")]
        for file in (target.link, *files):
            _remove(file)
        for environment in _environments(target):
            shutil.rmtree(environment)
        _remove(record.path)
    for directory in (target.link.parent, target.home, *_deepest_first(target, paths)):
        with suppress(OSError):  # not empty, or a mount point
            directory.rmdir()
    if target.runs_systemd:
        _run("systemctl", "daemon-reload")
    print(f"postfix-sync is no longer in {target.home}.{left}")
    return 0


def _end(target: Target) -> None:
    """Stop and disable the units; raise Refused if another process still runs from here."""
    units = [unit for unit in (SERVICE, TIMER) if target.at(f"{UNITS}/{unit}").exists()]
    if target.runs_systemd and units:
        _run("systemctl", "disable", "--quiet", *units)
        _run("systemctl", "stop", *units, *(unit.replace(".timer", ".service") for unit in units))
    pids = [pid for environment in _environments(target) for pid in _running(environment)]
    if pids:
        running = ", ".join(map(str, pids))
        raise Refused(f"postfix-sync still runs from {target.home}: end process {running} first")


def _what_is_left(target: Target) -> str:
    """Return a text with the directories that are kept and the lines that name the maps."""
    maps, state, postfix = _places(target)
    kept = [path for path in (Path(CONFIGURATION).parent, state, maps) if _has_something(path)]
    text = f" Kept: {', '.join(map(str, kept))}." if kept else ""
    naming = "\n".join(_lines_that_name(maps, postfix))
    if not naming:
        return text
    return (
        f"{text} Postfix continues to use the maps as they are.\nBefore you remove {maps}, remove"
        f" it from these lines; otherwise Postfix answers all mail with 451:\n{naming}"
    )


def _lines_that_name(maps: Path, postfix: Path) -> Iterator[str]:
    """Yield the lines of all instances that name a map, also by a parameter as its parent."""
    name = re.compile(rf"{re.escape(maps.name)}/postfix_(lmtp|recipients|domains|vmap)\b")
    instances = _ask("postconf", "-c", postfix, "-hx", "multi_instance_directories")
    for directory in (postfix, *map(Path, instances.split())):
        for path in (directory / "main.cf", directory / "master.cf"):
            lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
            for number, line in enumerate(lines, 1):
                if name.search(line) and not line.lstrip().startswith("#"):
                    yield f"  {path}:{number}: {line.strip()}"


def _has_something(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())


def _places(target: Target) -> tuple[Path, Path, Path]:
    """Return the directories of maps, state and Postfix according to the configuration."""
    script = (
        "import pathlib; from postfix_sync.config.reading import load;"
        f" c = load(pathlib.Path({CONFIGURATION!r}));"
        " print(c.postfix.map_directory, c.state_directory, c.postfix.config_directory, sep='\\n')"
    )
    python = target.link.resolve().with_name("python3")
    found = _ask(python, "-I", "-c", script).splitlines()
    if len(found) != 3:  # no configuration, or an invalid one
        found = ["/etc/postfix/mailman", "/var/lib/postfix-sync", "/etc/postfix"]
    maps, state, postfix = map(Path, found)
    return maps, state, postfix


def _deepest_first(target: Target, paths: list[str]) -> list[Path]:
    return [target.at(path) for path in sorted(paths, reverse=True) if path.endswith("/")]


def _remove(path: Path) -> None:
    for file in (Path(_beside(path)), path):
        file.unlink(missing_ok=True)


# --- both


def _run(*command: str | Path) -> str:
    """Run a command outside the clone; return its output. Raise Refused if it fails."""
    done = subprocess.run(
        command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        shown = " ".join(map(str, command))
        raise Refused(f"{shown}: status {done.returncode}; see its output above")
    return done.stdout


def _ask(*command: str | Path) -> str:
    """Return the output of a command, or an empty text if it is missing or fails."""
    try:
        done = subprocess.run(
            command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return "" if done.returncode else done.stdout


def _beside(path: str | Path) -> str:
    return f"{path}.new"


def _put(path: Path, text: str) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(_beside(path))
    new.write_text(text)
    new.replace(path)


def _point(path: Path, to: str) -> None:
    """Make or replace a link atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(_beside(path))
    new.unlink(missing_ok=True)
    new.symlink_to(to)
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
