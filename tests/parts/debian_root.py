"""Root file systems of Debian releases: made once by debootstrap, and cached for later runs.

    root = debian_root("trixie")
    root = debian_root("trixie", "debhelper", "lintian")

Each is a complete Debian with systemd, a configured Postfix, and the dependencies of postfix-sync.
Its name has a hash of what it was made of. It is never written to: a booted host (booted.py) writes
to a layer above it.

Debian forky, the next release, changes every day.  Its root is named after the day on which it was
made, and kept for a month.  If no current root of forky can be made, an older one is used; if there
is none, debian_root raises Unavailable, and the tests are skipped, in CI as well.

Packages come from the mirror that this machine's own apt uses, with its settings.
"""

import datetime
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from .common import run
from .mailman import CACHE

BOOKWORM, TRIXIE, FORKY = "bookworm", "trixie", "forky"
RELEASES = (BOOKWORM, TRIXIE)
"""Debian 12 and 13."""
ALL = (*RELEASES, FORKY)
"""The releases and the future Debian 14, for tests that depend on Postfix's version."""
KEPT = datetime.timedelta(days=30)
"""How long a root of forky is used."""

# debootstrap installs only what is needed to boot, and apt the rest, so that apt's cache has the
# packages of Postfix for tests that reinstall it.
_BOOTABLE = ("ca-certificates", "dbus", "debconf", "iproute2", "procps", "systemd", "systemd-sysv")
_PACKAGES = {
    # What `make install` requires.
    BOOKWORM: ("make", "postfix", "postfix-lmdb", "python3-venv"),
    # The dependencies of the Debian package, which is installed without a network.
    TRIXIE: (
        *("postfix", "postfix-lmdb", "python3-aiosmtplib", "python3-asyncssh"),
        *("python3-prometheus-client", "python3-watchfiles", "python3-yaml"),
    ),
}
_PACKAGES[FORKY] = (*_PACKAGES[TRIXIE], "postfix-cdb")
_SCRIPT = Path("/usr/share/debootstrap/scripts/sid")
"""debootstrap's script for a release that it does not know yet."""
NAME = "mx.example.net"
"""The host name of every root and of its Postfix."""

_HOSTS = f"127.0.0.1 localhost\n127.0.1.1 {NAME} mx\n::1 localhost ip6-localhost ip6-loopback\n"
_ANSWERS = f"""\
postfix postfix/main_mailer_type select Internet Site
postfix postfix/mailname string {NAME}
"""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""root's PATH after a login."""
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

MAKING = 1200.0
"""Seconds that a command may take that downloads a Debian."""


class Unavailable(RuntimeError):
    """No root of a release in development can be made now."""


def available() -> bool:
    """Whether the programs that make a root are installed."""
    return all(shutil.which(name, path=PATH) for name in ("debootstrap", "unshare", "chroot"))


def debian_root(release: str, *packages: str) -> Path:
    """Return the directory of a root with additional packages; it must not be written to.

    Raises Unavailable.
    """
    name = f"debian-{release}"
    made_of = f"{_BOOTABLE} {_PACKAGES[release]} {_ANSWERS} {_HOSTS}"
    if release == FORKY:
        return recent(name, made_of)
    if not packages:
        return _kept(name, made_of, lambda root: _bootstrap(release, root))
    below = debian_root(release)
    return _kept(name, f"{made_of} {packages}", lambda root: _extend(below, root, packages))


@functools.cache
def recent(name: str, made_of: str) -> Path:
    """Return forky's root, at most KEPT old if one can be made; each process tries once."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    mark = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (CACHE / f"{name}-{mark}.making").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes make only one
        made = sorted(path for path in CACHE.glob(f"{name}-????-??-??-{mark}") if path.is_dir())
        day = str(made[-1]).removesuffix(f"-{mark}")[-10:] if made else ""
        if day and today - datetime.date.fromisoformat(day) < KEPT:
            return made[-1]
        try:
            root = _kept(f"{name}-{today}", made_of, lambda root: _bootstrap(FORKY, root))
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            problem = f"no root of Debian {FORKY} can be made: {str(error)[-500:]}"
            if not made:
                raise Unavailable(problem) from error
            print(f"{problem}; the one of {day} is used", file=sys.stderr)  # noqa: T201
            return made[-1]
        for older in made[:-1]:  # the last one may be in use
            shutil.rmtree(older)
            Path(f"{older}.lock").unlink(missing_ok=True)
    return root


@functools.cache
def postfix_version(root: Path) -> str:
    """Return the version of Postfix in a root."""
    return run(*chroot(root), "postconf", "-dh", "mail_version", env=environment()).strip()


def _kept(name: str, made_of: str, make: Callable[[Path], None]) -> Path:
    """Return what `make` makes; call it once for the same `made_of`, completely or not at all."""
    root = CACHE / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with Path(f"{root}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            with tempfile.TemporaryDirectory(prefix=f"{root.name}.", dir=CACHE) as making:
                made = Path(making) / "root"
                make(made)
                made.rename(root)
    return root


def _bootstrap(release: str, root: Path) -> None:
    include = f"--include={','.join(_BOOTABLE)}"
    debootstrap = ["debootstrap", "--variant=minbase", include, release, str(root), *_mirror()]
    if not _SCRIPT.with_name(release).exists() and _mirror():
        debootstrap.append(str(_SCRIPT))
    run("unshare", "--mount", *debootstrap, umask=0o022, timeout=MAKING)
    (root / "etc/apt/apt.conf.d/90machine").write_text(_apt_of_the_machine())
    machines = Path("/") / _CERTIFICATES
    if machines.exists():
        shutil.copy(machines, root / _CERTIFICATES)
    (root / "etc/hosts").write_text(_HOSTS)
    (root / "etc/hostname").write_text("mx\n")
    _in_chroot(root, "debconf-set-selections", stdin=_ANSWERS)
    _install(root, _PACKAGES[release])
    _in_chroot(root, "postconf", f"myhostname={NAME}")


def _extend(below: Path, root: Path, packages: tuple[str, ...]) -> None:
    run("cp", "--archive", "--reflink=auto", str(below), str(root), timeout=MAKING)
    _install(root, packages)


def _install(root: Path, packages: tuple[str, ...]) -> None:
    _in_chroot(root, "apt-get", "-q", "update")
    _in_chroot(root, "apt-get", "-q", "install", "-y", "--no-install-recommends", *packages)
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        if not archive.name.startswith("postfix"):
            archive.unlink()


def _in_chroot(root: Path, *command: str, stdin: str = "") -> None:
    run(*chroot(root), *command, stdin=stdin, env=environment(), umask=0o022, timeout=MAKING)


def chroot(root: Path) -> tuple[str, ...]:
    """Return the prefix of a command that runs in a root that is not booted."""
    enter = (
        # In a plain chroot, whose root is not a mount point, there is no propagation to disable.
        "mount --make-rprivate / 2>/dev/null;"
        ' mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
    )
    return ("unshare", "--mount", "--propagation", "unchanged", "sh", "-c", enter, str(root))


def environment() -> Mapping[str, str]:
    """Return the environment of a command in a root: this machine's, with the root's PATH."""
    ours = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
    return {**os.environ, **ours, "DEBIAN_FRONTEND": "noninteractive"}


def _mirror() -> tuple[str, ...]:
    """Return the mirror of this machine's apt; if empty, debootstrap uses its default."""
    wanted = "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)"
    lines = run("apt-get", "indextargets", "--format", wanted, "Identifier: Packages").splitlines()
    found = [line.split()[3] for line in lines if line.startswith("Debian Debian main ")]
    return tuple(found[:1])


def _apt_of_the_machine() -> str:
    """Return apt's settings to reach its mirror here, as lines of an apt.conf(5)."""
    names = (*("http", "https"), *("Check-Valid-Until", "Check-Date"))
    wanted = [f"Acquire::{name}" for name in names]
    return run("apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', *wanted)
