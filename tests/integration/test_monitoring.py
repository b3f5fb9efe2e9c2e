"""The metrics file, the pages over HTTP, and the counts of deferred mail.

The daemon, `--once`, Postfix's queue and, if it is installed, Prometheus' promtool are real. The
daemon polls its source several times a second, so that three intervals are soon over.
"""

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from postfix_sync import __version__
from postfix_sync.monitoring import http_server
from postfix_sync.text import seconds_of
from tests.parts.common import PATIENCE, free_port, wait_for
from tests.parts.daemon import RunningDaemon, install, obey_modes
from tests.parts.disk import fill, remount, small_disk, tree
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.load import send
from tests.parts.monitor import Monitor, promtool, samples, value
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

pytestmark = pytest.mark.slow

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"

SOON = "300ms"
NEVER = "1h"

MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that keeps maps that were built once."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def monitor() -> Monitor:
    """A client, and the port that it connects to."""
    return Monitor(free_port())


@pytest.fixture
def site(make_site: MakeSite, idle_postfix: PostfixInstance, template: Path) -> Site:
    """One list, installed; main.cf names the maps, so a good sync prints nothing; polled often."""
    made = make_site("lmdb", source={"interval": SOON})
    idle_postfix.postconf(**mailman_parameters(made.maps, "lmdb"))
    return install(made, ANTS, template=template)


def textfile_of(site: Site) -> Path:
    """Return the path of the metrics file in `with_textfile`."""
    return site.directory / "metrics/postfix-sync.prom"


@pytest.fixture
def with_textfile(site: Site) -> Site:
    """The same site, with a metrics file in its own directory."""
    textfile_of(site).parent.mkdir()
    site.configure(metrics={"textfile": str(textfile_of(site))})
    return site


def metrics_of(site: Site) -> str:
    """Return the content of the metrics file."""
    return textfile_of(site).read_text()


# ---- the file -----------------------------------------------------------------------------------


def test_once_writes_the_same_values_to_metrics_and_status(with_textfile: Site) -> None:
    site, port = with_textfile, free_port()
    site.configure(
        metrics={"textfile": str(textfile_of(site))}, probe={"level": "rcpt", "timeout": "20s"}
    )
    site.files.write(ANTS, BEES, hop=f"lmtp:[127.0.0.1]:{port}")
    with LmtpSink([ANTS, BEES], port=port):
        site.once()
    text, status = metrics_of(site), site.status()
    here = {"destination": f"127.0.0.1:{port}"}
    passes, source = status["passes"], status["sources"]["lists"]
    for name, expected in {
        "pass_last_attempt_timestamp_seconds": seconds_of(passes["last_attempt"]),
        "pass_last_success_timestamp_seconds": seconds_of(passes["last_success"]),
        "pass_duration_seconds": passes["seconds"],
        "apply_failed": 0,
        "reloads_total": 0,
    }.items():
        assert value(text, name) == expected, name
    assert passes["seconds"] > 0
    assert value(text, "passes_total", result="success") == 1
    assert value(text, "passes_total", result="failure") == 0
    # Nine routes, recipients each for BEES; all of ANTS' nine routes lead elsewhere now.
    assert value(text, "changed_entries_total", change="added") == 18
    assert value(text, "changed_entries_total", change="changed") == 9
    assert value(text, "changed_entries_total", change="removed") == 0
    assert value(text, "source_up", source="lists") == 1
    assert value(text, "source_lists", source="lists") == 2
    assert value(text, "source_entries", source="lists") == 18
    for kind in ("success", "change"):
        at = value(text, f"source_last_{kind}_timestamp_seconds", source="lists")
        assert at == seconds_of(source[f"last_{kind}"])
    assert value(text, "map_entries", map="postfix_lmtp") == 18
    assert value(text, "map_updated_timestamp_seconds", map="postfix_vmap") == seconds_of(
        status["maps"]["postfix_vmap"]["updated"]
    )
    assert value(text, "probe_up", **here) == 1
    assert value(text, "probe_phase", **here, phase="rcpt") == 1
    assert value(text, "probe_phase", **here, phase="connect") == 0
    assert (
        value(text, "probe_duration_seconds", **here)
        == status["destinations"][here["destination"]]["seconds"]
    )
    assert value(text, "deferred_messages", **here) == 0
    assert value(text, "deferred_oldest_timestamp_seconds", **here) is None
    [build] = samples(text)["postfix_sync_build_info"]
    assert dict(build) == {
        "version": __version__,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "map_type": "lmdb",
    }
    promtool("check", "metrics", stdin=text)

    site.once("--dry-run")
    assert metrics_of(site) == text, "a dry run writes nothing"
    site.once(expect=69)
    assert value(metrics_of(site), "probe_up", **here) == 0
    assert value(metrics_of(site), "probe_phase", **here, phase="connect") == 1
    assert value(metrics_of(site), "passes_total", result="success") == 2


def test_each_kind_of_failure_has_its_own_state(with_textfile: Site) -> None:
    """Counters continue from the file, which persists between calls of `--once`."""
    site = with_textfile
    site.once()

    def states() -> dict[str, float | None]:
        text = metrics_of(site)
        return {
            state: value(text, "source_state", source="lists", state=state)
            for state in ("ok", "stale", "refused", "failed")
        }

    assert states() == {"ok": 1, "stale": 0, "refused": 0, "failed": 0}
    before = value(metrics_of(site), "source_last_success_timestamp_seconds", source="lists")
    site.files.put("postfix_lmtp", "nonsense\n")
    site.once(expect=65)
    assert states() == {"ok": 0, "stale": 0, "refused": 1, "failed": 0}
    assert value(metrics_of(site), "source_up", source="lists") == 0
    assert value(metrics_of(site), "apply_failed") == 0, "that is the source's fault"
    assert before == value(
        metrics_of(site), "source_last_success_timestamp_seconds", source="lists"
    )
    (site.files.directory / "postfix_lmtp").unlink()
    site.once(expect=75)
    assert states() == {"ok": 0, "stale": 1, "refused": 0, "failed": 0}
    site.config_directory.rename(site.directory / "elsewhere")
    site.once(expect=78)
    assert states() == {"ok": 0, "stale": 0, "refused": 0, "failed": 1}
    text = metrics_of(site)
    assert value(text, "apply_failed") == 1
    assert value(text, "passes_total", result="success") == 3
    assert value(text, "passes_total", result="failure") == 1
    assert samples(text)["postfix_sync_source_lists"], "what was known is known"
    assert "postfix_sync_deferred_messages" not in samples(text), "nobody can count it"


def test_metrics_file_is_readable_for_node_exporter(with_textfile: Site) -> None:
    """The umask does not matter, and no other file in the directory has a name that it reads."""
    site = with_textfile
    old = os.umask(0o077)
    try:
        site.once()
    finally:
        os.umask(old)
    assert stat.S_IMODE(textfile_of(site).stat().st_mode) == 0o644
    assert [path.name for path in textfile_of(site).parent.iterdir()] == ["postfix-sync.prom"]


def test_links_in_the_metrics_directory_are_not_followed(with_textfile: Site) -> None:
    """node_exporter's user may own the directory, and create any file in it."""
    site, elsewhere = with_textfile, with_textfile.directory / "shadow"
    elsewhere.write_text("secret\n")
    elsewhere.chmod(0o600)
    before = tree(elsewhere)
    staged = textfile_of(site).with_name(".postfix-sync.prom.postfix-sync")
    for planted in (textfile_of(site), staged):
        planted.unlink(missing_ok=True)
        planted.symlink_to(elsewhere)
    assert site.once() == ""
    os.mkfifo(staged)
    assert site.once() == ""
    os.link(elsewhere, staged)
    assert site.once() == ""
    assert tree(elsewhere) == before
    assert not textfile_of(site).is_symlink()
    assert stat.S_IMODE(textfile_of(site).stat().st_mode) == 0o644
    assert value(metrics_of(site), "passes_total", result="success") == 3


def test_missing_metrics_directory_delays_no_list(with_textfile: Site) -> None:
    site = with_textfile
    textfile_of(site).parent.rmdir()
    site.files.write(ANTS, BEES)
    message, hint = site.once(expect=1).splitlines()
    assert f"metrics.textfile {textfile_of(site)}: No such file or directory" in message
    assert "the maps are not affected" in message
    assert len(site.installed("postfix_recipients")) == 18
    subprocess.run(hint.partition("hint: ")[2], shell=True, check=True)
    assert site.once() == ""
    assert value(metrics_of(site), "source_lists", source="lists") == 2


def test_doctor_reports_wrong_path_of_the_metrics_file(with_textfile: Site) -> None:
    site = with_textfile

    def finding() -> dict[str, Any]:
        checks = json.loads(site.call("doctor", "--json").stdout)["checks"]
        found: dict[str, Any]
        [found] = [check for check in checks if check["name"] == "metrics_textfile"]
        return found

    other = textfile_of(site).with_suffix(".txt")
    site.configure(metrics={"textfile": str(other)})
    found = finding()
    assert (found["status"], found["seen"]) == ("warning", f"{other} does not end in .prom")
    missing = site.directory / "node exporter/postfix-sync.prom"
    site.configure(metrics={"textfile": str(missing)})
    found = finding()
    assert (found["status"], found["seen"]) == ("warning", f"{missing.parent} is not there")
    subprocess.run(found["fix"], shell=True, check=True)
    found = finding()
    assert (found["status"], found["seen"]) == ("ok", str(missing))
    assert site.once() == ""
    assert missing.exists()


def test_unwritable_metrics_directory_is_reported(with_textfile: Site) -> None:
    site = with_textfile
    textfile_of(site).parent.chmod(0o555)
    with site.start("--once", preexec_fn=obey_modes) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 77
    assert f"metrics.textfile {textfile_of(site)}: Permission denied" in said
    assert site.status()["sources"]["lists"]["state"] == "ok"


@pytest.mark.usefixtures("root")
def test_full_or_read_only_disk_leaves_the_old_metrics_file(with_textfile: Site) -> None:
    site = with_textfile
    with small_disk(textfile_of(site).parent, "256k") as disk:
        site.once()
        before = metrics_of(site)
        filler = fill(disk)
        message, hint = site.once(expect=1).splitlines()
        assert "metrics.textfile" in message
        assert "No space left on device" in message
        assert "KiB are free there" in hint
        assert metrics_of(site) == before
        filler.unlink()
        assert sorted(path.name for path in disk.iterdir()) == ["postfix-sync.prom"]
        remount(disk, "ro")
        message, hint = site.once(expect=1).splitlines()
        assert "Read-only file system" in message
        assert f"findmnt -T {disk}" in hint
        remount(disk, "rw")
        assert site.once() == ""
        assert metrics_of(site) != before


def test_daemon_reports_missing_metrics_directory_once_and_its_recovery(
    with_textfile: Site,
) -> None:
    site = with_textfile
    directory = textfile_of(site).parent
    directory.rmdir()
    with RunningDaemon(site) as daemon:
        daemon.wait_for("metrics.textfile")
        for name in (BEES, ANTS):
            site.files.write(name)
            daemon.wait_for("lists: -1 list: " + (ANTS if name == BEES else BEES))
        directory.mkdir()
        wait_for(textfile_of(site).exists, 90, "the file")
        daemon.wait_for("metrics.textfile: recovered")
        assert daemon.count(": No such file or directory; the maps are not affected") == 1
        assert daemon.stop() == 0
    assert value(metrics_of(site), "source_up", source="lists") == 1


def test_metrics_file_is_written_after_each_round_of_probes(with_textfile: Site) -> None:
    site, port = with_textfile, free_port()
    site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{port}")
    site.configure(
        metrics={"textfile": str(textfile_of(site))},
        probe={"level": "rcpt", "interval": "200ms", "timeout": "20s"},
    )

    def up() -> float | None:
        text = metrics_of(site) if textfile_of(site).exists() else ""
        return value(text, "probe_up", destination=f"127.0.0.1:{port}")

    with RunningDaemon(site) as daemon:
        wait_for(lambda: up() == 0, PATIENCE, "a destination that is down")
        with LmtpSink([ANTS], port=port):
            wait_for(lambda: up() == 1, PATIENCE, "a destination that is up")
        assert daemon.stop() == 0


def test_status_of_an_earlier_version_is_used(with_textfile: Site) -> None:
    """Its values are kept; those that it lacks begin at zero."""
    site = with_textfile
    site.once()
    path, old = site.state / "status.json", site.status()
    del old["passes"], old["queue"]
    for source in old["sources"].values():
        del source["failing_since"]
    old["sources"]["lists"]["last_change"] = "2026-01-02T03:04:05Z"
    path.write_text(json.dumps(old))
    site.once()
    text = metrics_of(site)
    changed = value(text, "source_last_change_timestamp_seconds", source="lists")
    assert changed == seconds_of("2026-01-02T03:04:05Z")
    assert value(text, "passes_total", result="success") == 1


@pytest.mark.parametrize("configured", [False, True])
def test_prometheus_client_is_imported_only_if_metrics_are_configured(
    with_textfile: Site, configured: bool
) -> None:
    site = with_textfile
    if not configured:
        site.configure(metrics={})
    with RunningDaemon(site, environment={"PYTHONPROFILEIMPORTTIME": "1"}) as daemon:
        daemon.wait_for_passes(2)
        if configured:
            wait_for(lambda: site.status().get("queue"), PATIENCE, "a count of the queue")
        loaded = daemon.count("prometheus_client")
        assert daemon.stop() == 0
    assert bool(loaded) == configured
    assert (site.status().get("queue") is not None) == configured


# ---- over HTTP ----------------------------------------------------------------------------------


def serve(site: Site, monitor: Monitor, **sections: object) -> None:
    """Configure the address on which the daemon listens."""
    site.configure(metrics={"listen": monitor.listen}, **sections)


@pytest.fixture
def served(site: Site, monitor: Monitor) -> Iterator[RunningDaemon]:
    """A daemon that is healthy and listens."""
    serve(site, monitor)
    with RunningDaemon(site) as daemon:
        wait_for(lambda: monitor.health()[0] == 200, PATIENCE, "health")
        yield daemon


def test_http_server_serves_metrics_health_and_status(
    site: Site, served: RunningDaemon, monitor: Monitor
) -> None:
    found = monitor.get("/metrics")
    assert found.status == 200
    assert found.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert value(found.body, "source_up", source="lists") == 1
    promtool("check", "metrics", stdin=found.body)

    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5"
    found = monitor.get("/metrics?name=anything", Accept=accept)
    assert found.headers["Content-Type"].startswith("application/openmetrics-text")
    assert 'postfix_sync_source_up{source="lists"} 1.0\n' in found.body
    assert found.body.endswith("\n# EOF\n")
    assert monitor.get("/metrics", Accept="application/openmetrics-text;version=x").status == 200

    assert monitor.get("/healthz").body == "ok\n"
    found = monitor.get("/status")
    assert found.headers["Content-Type"] == "application/json"
    assert json.loads(found.body).keys() == site.status().keys()
    assert json.loads(found.body)["sources"]["lists"]["state"] == "ok"
    assert served.count(f"metrics.listen: http://{monitor} serves /metrics") == 1
    assert served.stop() == 0
    with socket.create_server(("127.0.0.1", monitor.port)):
        pass  # the port is free again


def test_http_server_answers_invalid_requests_as_http_requires(
    served: RunningDaemon, monitor: Monitor
) -> None:
    found = monitor.get("/")
    assert (found.status, "/metrics, /healthz, /status" in found.body) == (404, True)
    found = monitor.get("/metrics", method="HEAD")
    assert (found.status, found.body) == (200, "")
    assert int(found.headers["Content-Length"]) > 1000
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "get"):
        found = monitor.get("/metrics", method=method)
        assert (found.status, found.headers["Allow"]) == (405, "GET, HEAD")
    assert monitor.get(f"http://{monitor}/healthz").status == 200

    for request, status in {
        b"nonsense\r\n\r\n": b"400",
        b"GET http://[/healthz HTTP/1.1\r\n\r\n": b"400",
        b"\x16\x03\x01\x02\r\n\r\n": b"400",
        b"GET /metrics HTTP/1.1\r\nno field\r\n\r\n": b"400",
        b"GET /metrics HTTP/1.1\r\nAccept: a\nb\r\n\r\n": b"400",
        b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000: b"431",
        b"GET /metrics HTTP/1.0\r\n\r\n": b"200",
        b"HEAD /metrics HTTP/1.1\r\n\r\n": b"200",
        b"HEAD /nothing HTTP/1.1\r\n\r\n": b"404",
        b"POST /status HTTP/1.1\r\nContent-Length: 8000\r\n\r\n" + b"x" * 8000: b"405",
    }.items():
        with monitor.connect() as connection:
            connection.sendall(request)
            answer = b""
            while block := connection.recv(65536):
                answer += block
        assert answer.startswith(b"HTTP/1.1 " + status), request[:80]
        assert answer.endswith(b"\r\n\r\n") == request.startswith(b"HEAD")
    assert served.stop() == 0


def test_slow_clients_do_not_delay_others(
    site: Site, served: RunningDaemon, monitor: Monitor
) -> None:
    """Many slow clients, a client that never reads its answer, and one that disconnects."""
    with ExitStack() as stack:
        slow = [stack.enter_context(monitor.connect()) for _ in range(http_server.CONNECTIONS - 1)]
        for connection in slow:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        for _ in range(5):
            with monitor.connect() as gone:
                gone.sendall(b"GET /met")
            with monitor.connect() as unread:
                unread.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert monitor.health()[0] == 200
        for connection in slow:  # sending a byte does not extend the timeout
            connection.sendall(b"x")
        more = [stack.enter_context(monitor.connect()) for _ in range(20)]
        assert monitor.health()[0] == 200, "it waited until the first were put out"
        assert [connection.recv(1) for connection in slow] == [b""] * len(slow)
        site.files.write(ANTS, BEES)
        served.wait_for(BEES)
        assert len(more) == 20
    assert served.stop() == 0


def test_daemon_ends_with_connected_clients(served: RunningDaemon, monitor: Monitor) -> None:
    with monitor.connect() as slow:
        slow.sendall(b"GET /")
        assert monitor.health()[0] == 200
        assert served.stop() == 0
        assert slow.recv(1) == b""


def test_daemon_that_hangs_does_not_answer(served: RunningDaemon, monitor: Monitor) -> None:
    """No separate thread reports that the daemon is healthy."""
    served.send(signal.SIGSTOP)
    with monitor.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        served.send(signal.SIGCONT)
        connection.settimeout(PATIENCE)
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert served.stop() == 0


def test_http_server_listens_on_ipv6(site: Site, root: None) -> None:
    monitor = Monitor(free_port("::1"), "::1")
    serve(site, monitor)
    with RunningDaemon(site) as daemon:
        wait_for(lambda: monitor.health()[0] == 200, PATIENCE, "health")
        assert daemon.count(f"http://[::1]:{monitor.port} serves") == 1
        assert daemon.stop() == 0


def test_port_in_use_is_reported_once_and_used_when_it_is_free(
    site: Site, monitor: Monitor
) -> None:
    serve(site, monitor)
    with RunningDaemon(site) as daemon:
        with socket.create_server(("127.0.0.1", monitor.port)):
            site.files.write(ANTS, BEES)
            daemon.wait_for("Address already in use")
            daemon.wait_for(BEES)
            time.sleep(2)  # long enough for a retry
        wait_for(lambda: monitor.health()[0] == 200, 90, "health")
        assert (
            daemon.count(
                "Address already in use; monitoring is not served there; retried with back-off"
            )
            == 1
        )
        assert (
            f"hint: see which process uses the port: ss -ltnp 'sport = :{monitor.port}'"
            in daemon.messages
        )
        assert daemon.stop() == 0


def test_listen_address_of_another_host_is_reported(site: Site) -> None:
    site.configure(metrics={"listen": "192.0.2.1:9825"})
    with RunningDaemon(site) as daemon:
        daemon.wait_for("metrics.listen 192.0.2.1:9825: Cannot assign requested address")
        daemon.wait_for_passes(1)
        assert daemon.stop() == 0


def test_sighup_changes_the_listen_address(
    site: Site, served: RunningDaemon, monitor: Monitor
) -> None:
    other = Monitor(free_port())
    textfile_of(site).parent.mkdir()
    site.configure(metrics={"listen": other.listen, "textfile": str(textfile_of(site))})
    served.send(signal.SIGHUP)
    wait_for(lambda: other.health()[0] == 200, PATIENCE, "health elsewhere")
    assert monitor.health()[0] == 0
    wait_for(textfile_of(site).exists, PATIENCE, "a file as well")
    served.send(signal.SIGHUP)  # the configuration is unchanged
    served.wait_for(f"http://{other} serves", times=2)
    assert other.health()[0] == 200
    site.configure()
    served.send(signal.SIGHUP)
    served.wait_for("was read again", times=3)
    wait_for(lambda: other.health()[0] == 0, PATIENCE, "an end")
    assert served.stop() == 0


# ---- health -------------------------------------------------------------------------------------


def illness(monitor: Monitor) -> str:
    """Return the problems that /healthz reports."""
    status, said = monitor.health()
    return said if status == 503 else ""


def test_daemon_is_unhealthy_before_its_first_successful_sync(site: Site, monitor: Monitor) -> None:
    """This includes a daemon that is started right after a successful sync."""
    serve(site, monitor)
    site.once()
    ended = int(time.time())  # the status has whole seconds; a success in this one would count
    with (site.state / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        wait_for(lambda: int(time.time()) > ended, PATIENCE, "the next second")
        with RunningDaemon(site) as daemon:
            wait_for(lambda: monitor.health()[0], PATIENCE, "an answer")
            assert monitor.health() == (503, "no sync has succeeded since the daemon started\n")
            fcntl.flock(held, fcntl.LOCK_UN)
            wait_for(lambda: monitor.health() == (200, "ok\n"), PATIENCE, "health")
            assert daemon.stop() == 0


def test_source_that_never_answered_is_unhealthy(make_site: MakeSite, monitor: Monitor) -> None:
    site = make_site("lmdb", source={"interval": SOON})
    serve(site, monitor)
    with RunningDaemon(site) as daemon:
        daemon.wait_for_passes(1)
        status, said = monitor.health()
        assert (status, said.startswith("lists: has not answered successfully yet: ")) == (
            503,
            True,
        )
        found = monitor.get("/status")
        assert found.status == 200
        site.files.write(ANTS)
        wait_for(lambda: monitor.health()[0] == 200, PATIENCE, "health")
        assert daemon.stop() == 0


def test_failure_of_three_intervals_is_unhealthy_until_it_ends(
    site: Site, served: RunningDaemon, monitor: Monitor
) -> None:
    """A missing source, a refused source, and a missing Postfix configuration."""
    away = site.directory / "away"
    site.files.directory.rename(away)
    said = wait_for(lambda: illness(monitor), PATIENCE, "illness")
    assert said.startswith("lists: stale since 20")
    assert "No such file or directory" in said
    away.rename(site.files.directory)
    wait_for(lambda: monitor.health() == (200, "ok\n"), PATIENCE, "health")

    site.files.put("postfix_lmtp", "nonsense\n")
    said = wait_for(lambda: illness(monitor), PATIENCE, "illness")
    assert said.startswith("lists: refused since 20")
    site.files.write(ANTS)
    wait_for(lambda: monitor.health() == (200, "ok\n"), PATIENCE, "health")

    site.config_directory.rename(site.directory / "elsewhere")
    said = wait_for(
        lambda: found if "syncs have failed" in (found := illness(monitor)) else "",
        PATIENCE,
        "illness",
    )
    assert f"{site.config_directory}: no Postfix configuration can be read here" in said
    (site.directory / "elsewhere").rename(site.config_directory)
    wait_for(lambda: monitor.health() == (200, "ok\n"), PATIENCE, "health")
    assert served.stop() == 0


def test_failure_of_less_than_three_intervals_is_healthy(
    make_site: MakeSite, template: Path, monitor: Monitor
) -> None:
    site = install(make_site("lmdb", source={"interval": NEVER}), ANTS, template=template)
    serve(site, monitor)
    with RunningDaemon(site) as daemon:
        daemon.wait_until_it_watches()
        site.files.put("postfix_lmtp", "nonsense\n")
        daemon.wait_for("postfix_lmtp")
        daemon.look()
        assert site.status()["sources"]["lists"]["state"] == "refused"
        assert monitor.health()[0] == 200
        found = monitor.get("/metrics").body
        assert value(found, "source_state", source="lists", state="refused") == 1
        assert daemon.stop() == 0


# ---- the queue ----------------------------------------------------------------------------------


def test_deferred_mail_is_counted_by_destination(
    with_textfile: Site, idle_postfix: PostfixInstance, monitor: Monitor
) -> None:
    site, ports = with_textfile, (free_port(), free_port())
    site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{ports[0]}")
    site.once()
    began = time.time()
    with idle_postfix as postfix:
        for address in (ANTS, ANTS.replace("@", "-join@")):
            assert send(postfix.port, address).accepted
        wait_for(lambda: len(postfix.outcomes()) == 2, PATIENCE, "two tries")
        wait_for(
            lambda: [message["queue_name"] for message in postfix.queue()] == ["deferred"] * 2,
            PATIENCE,
            "two messages that wait",
        )
        serve(site, monitor, probe={"level": "off", "interval": "200ms"})
        with RunningDaemon(site) as daemon:
            text = wait_for(lambda: _counted(monitor, ports[0]), PATIENCE, "a count")
            assert value(text, "deferred_messages", destination=f"127.0.0.1:{ports[0]}") == 2
            oldest = value(
                text, "deferred_oldest_timestamp_seconds", destination=f"127.0.0.1:{ports[0]}"
            )
            assert oldest is not None
            assert int(began) <= oldest <= time.time()
            queue = site.status()["queue"][f"127.0.0.1:{ports[0]}"]
            assert queue == {"messages": 2, "oldest": queue["oldest"]}
            assert value(monitor.get("/metrics").body, "reloads_total") == 0
            site.files.write(ANTS, "ants@new.example", hop=f"lmtp:[127.0.0.1]:{ports[0]}")
            wait_for(
                lambda: value(monitor.get("/metrics").body, "reloads_total") == 1,
                PATIENCE,
                "a reload for a new domain",
            )
            assert postfix.reloads == 1
            with LmtpSink([ANTS, ANTS.replace("@", "-join@")], port=ports[0]):
                postfix.command("postqueue", "-f")
                wait_for(lambda: _counted(monitor, ports[0], 0), 60, "none that waits")
            assert daemon.stop() == 0
    site.configure()
    site.once()
    assert site.status()["queue"] is None, "nobody counts any more"


def _counted(monitor: Monitor, port: int, number: int = 2) -> str:
    try:
        text = monitor.get("/metrics").body
    except OSError:
        return ""
    found = value(text, "deferred_messages", destination=f"127.0.0.1:{port}")
    return text if found == number else ""


def test_unreadable_queue_has_no_counts(with_textfile: Site, idle_postfix: PostfixInstance) -> None:
    site = with_textfile
    site.once()
    assert "postfix_sync_deferred_messages" in samples(metrics_of(site))
    (idle_postfix.queue_directory / "deferred").rename(idle_postfix.queue_directory / "gone")
    (idle_postfix.queue_directory / "deferred").touch()
    said = site.once()
    assert "warning: postqueue -j: " in said
    assert site.status()["queue"] is None
    assert "postfix_sync_deferred_messages" not in samples(metrics_of(site))
