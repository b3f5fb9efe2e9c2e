"""Fixtures of the tests on booted hosts: a host of each release, and its requirements."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has none

from tests.conftest import need
from tests.parts import booted, namespaces
from tests.parts.booted import Booted
from tests.parts.common import public_directory
from tests.parts.debian_root import ALL, RELEASES, Unavailable, debian_root
from tests.parts.installation import install
from tests.parts.mx import Mx

FIRST = "first@lists.example.net"
"""A list that exists from the start."""


class _ByHost(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """Run the tests of one module on one release in one worker, because they share a host.

    (xdist 3.8 ignores its own groups with pytest 9.)
    """

    def _split_scope(self, nodeid: str) -> str:
        module, _, parameters = nodeid.partition("[")
        release = next((name for name in ALL if name in parameters), "")
        return f"{module.partition('::')[0]} {release}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _ByHost | None:
    """Return the scheduler for `--dist loadscope`."""
    return _ByHost(config, log) if config.getvalue("dist") == "loadscope" else None


def need_booted_hosts() -> None:
    """Skip the test, or fail it in CI, if no host can be booted here."""
    need(os.geteuid() == 0, "root")
    need(booted.available(), "debootstrap and systemd-nspawn")
    need(namespaces.available(), "network namespaces")


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """The Debian release: 12, then 13."""
    return str(request.param)


def need_release(release: str) -> None:
    """Skip the test if the release can't be booted; in CI only an unreleased one is skipped."""
    need_booted_hosts()
    try:
        debian_root(release)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], Path]:
    """Return a function that gives a release's layer with postfix-sync, made once per test run."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent

    def layer(release: str) -> Path:
        layer = shared / f"installed-{release}"
        with (shared / f"lock-{release}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not layer.exists():
                with public_directory() as directory, Booted(release, directory) as host:
                    install(host, directory / "package")
                    host.keep(layer)
        return layer

    return layer


@pytest.fixture(scope="module")
def mx(release: str, installed: Callable[[str], Path]) -> Iterator[Mx]:
    """A mail host with postfix-sync installed and set up as documented."""
    need_release(release)
    with public_directory() as directory, Mx(release, directory, layer=installed(release)) as mx:
        mx.configure()
        mx.volume_at_boot(mounted=True)
        mx.create(FIRST)
        mx.host.boot()
        mailman = mx.network["lists"].address
        mx.host.run("postconf", f"mynetworks = 127.0.0.0/8 [::1]/128 {mailman}")
        mx.host.run("postfix-sync", "setup", "--yes")
        yield mx
