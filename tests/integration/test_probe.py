"""The probe against real sockets: a correct LMTP server, and every kind of faulty one.

Whatever a server sends, or does not send, the probe returns a result: within its timeout, in
bounded memory, and with an error message that helps.
"""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from postfix_sync.model.aliases import Aliases
from postfix_sync.model.destination import Destination
from postfix_sync.model.probe_result import PHASES, ProbeResult
from postfix_sync.model.table import Table
from postfix_sync.postfix.lmtp_client import LmtpClient
from postfix_sync.postfix.lmtp_resolver import Resolver
from postfix_sync.postfix.map_text import render
from postfix_sync.probe.lmtp import probe, probe_all
from postfix_sync.probe.notice import describe
from postfix_sync.probe.targets import Target
from tests.conftest import need
from tests.parts.common import PATIENCE, TRIES, free_port, run
from tests.parts.lmtp_rogues import ROGUES, Behaviour, answers, rogue
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.mailman_files import nine
from tests.parts.site import Site

ANTS = "ants@lists.example.net"
TIMEOUT = 0.3
"""Seconds for a server that does not answer. One that answers has PATIENCE, as machines pause."""

MEMORY = 4 * 2**20
"""The most bytes that a probe may use; the import of the library takes most of them."""

MakeSite = Callable[..., Site]


def run_probe(
    behaviour: Behaviour,
    level: str = "rcpt",
    *,
    recipient: str | None = ANTS,
    hosts: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    timeout: float = PATIENCE,
) -> ProbeResult:
    """Probe a server with this behaviour, and return the result."""

    async def session() -> ProbeResult:
        async with rogue(behaviour, host) as (_, port):
            name = next(iter(hosts or {}), host)
            target = Target(Destination(name, port), recipient)
            return await probe(target, level, timeout, LmtpClient(known=hosts or {}))

    return asyncio.run(session())


def recorded(behaviour: Behaviour) -> tuple[Behaviour, list[str]]:
    """Return the same behaviour, and the list of lines that it receives."""
    heard: list[str] = []

    async def recording(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        class Recorder(asyncio.StreamReader):
            async def readline(self) -> bytes:
                line = await reader.readline()
                heard.append(line.decode().removesuffix("\r\n"))
                return line

        await behaviour(Recorder(), writer)

    return recording, heard


HEARD = {
    "connect": ["QUIT"],
    "lhlo": ["LHLO .+", "QUIT"],
    "rcpt": ["LHLO .+", "MAIL FROM:<>", f"RCPT TO:<{re.escape(ANTS)}>", "RSET", "QUIT"],
}


@pytest.mark.parametrize(
    ("level", "phase", "reply"),
    [
        ("connect", "greeting", "220 rogue.example LMTP"),
        ("lhlo", "lhlo", "250 rogue.example 8BITMIME ENHANCEDSTATUSCODES"),
        ("rcpt", "rcpt", "250 2.1.5 OK"),
    ],
)
def test_correct_server_is_up_at_each_level(level: str, phase: str, reply: str) -> None:
    """The server receives the commands of the level, an orderly end, and never DATA."""
    behaviour, heard = recorded(answers())
    began = time.monotonic()
    result = run_probe(behaviour, level)
    assert (result.up, result.phase, result.reply, result.error) == (True, phase, reply, "")
    assert 0 < result.seconds < time.monotonic() - began
    said = [line for line in heard if line]
    assert len(said) == len(HEARD[level])
    assert all(re.fullmatch(*pair) for pair in zip(HEARD[level], said, strict=True)), said


def test_probe_without_a_list_stops_before_rcpt() -> None:
    """No list's address is known for the destination, or none in plain ASCII."""
    behaviour, heard = recorded(answers())
    result = run_probe(behaviour, recipient=None)
    assert (result.up, result.phase, result.reply) == (True, "mail", "250 2.1.0 OK")
    assert not any("RCPT" in line for line in heard)
    assert [line for line in heard if line][-2:] == ["RSET", "QUIT"]


LATE = rf"no answer within {TIMEOUT:g} s"
CLOSED = "EOF|closed|lost|reset"
TOO_LONG = f"too long|{LATE}"

ROGUE_RESULTS = {
    "closes": ("greeting", "", CLOSED),
    "resets": ("greeting", "", CLOSED),
    "silent": ("greeting", "", LATE),
    "greets-421": ("greeting", "421 4.3.2 shutting down", "421"),
    "greets-554": ("greeting", "554 5.3.2 no service", "554"),
    "greets-and-closes": ("lhlo", "", CLOSED),
    "endless-line": ("greeting", "", TOO_LONG),
    "endless-greeting": ("greeting", "", TOO_LONG),
    "endless-lhlo": ("lhlo", "", TOO_LONG),
    "http": ("greeting", "", "HTTP/1.1 400 Bad Request"),
    "garbage": ("greeting", "", r"\\x00\\x01\\x02"),
    "long-line": ("greeting", "", TOO_LONG),
    "long-lhlo": ("lhlo", "", TOO_LONG),
    "dribbles": ("greeting", "", LATE),
    "lhlo-500": ("lhlo", "500 5.5.1 unknown command", "LHLO was answered with 500, not 250"),
    "mute-after-lhlo": ("mail", "", LATE),
    "mail-451": ("mail", "451 4.3.0 try later", "MAIL was answered with 451, not 250"),
    "rcpt-451": ("rcpt", "451 4.3.0 try later", "RCPT was answered with 451, not 250"),
    "rcpt-550": ("rcpt", "550 5.1.1 no such list", "RCPT was answered with 550, not 250"),
    "rset-500": ("rcpt", "500 5.5.1 unknown command", "RSET was answered with 500, not 250"),
}
"""The phase, the server's reply in that phase, and a pattern for the error."""


def test_every_rogue_is_probed() -> None:
    assert ROGUES.keys() - ROGUE_RESULTS.keys() == {"honest", "quit-closes"}


@pytest.mark.attack
@pytest.mark.parametrize("name", ROGUE_RESULTS)
def test_rogue_is_down_with_phase_reply_and_reason(name: str) -> None:
    phase, reply, error = ROGUE_RESULTS[name]
    for _ in range(TRIES):
        began = time.monotonic()
        result = run_probe(ROGUES[name], timeout=TIMEOUT)
        seconds = time.monotonic() - began
        expected = (result.up, result.phase) == (False, phase) and re.search(error, result.error)
        if expected and seconds < TIMEOUT + 0.7:
            break
    assert seconds < TIMEOUT + 0.7, "one phase only may take its timeout"
    assert (result.up, result.phase) == (False, phase)
    assert not reply or result.reply == reply
    assert re.search(error, result.error)
    assert "Traceback" not in result.error
    notice = describe(result)
    endpoint = result.destination.endpoint
    assert notice.message.startswith(f"destination {endpoint}: down: {phase}: {result.error}")
    assert notice.message.isprintable()
    assert len(notice.message) < 300
    assert notice.hint


@pytest.mark.parametrize("name", sorted(ROGUE_RESULTS))
def test_endless_replies_are_not_kept_in_memory(name: str) -> None:
    """Endless replies are cut off, so a hostile container cannot fill this host's memory."""
    run_probe(ROGUES["honest"])  # import the library before memory is measured
    tracemalloc.start()
    try:
        run_probe(ROGUES[name], timeout=TIMEOUT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize("name", ["closes", "resets"])
def test_proxy_without_a_server_is_reported_without_none(name: str) -> None:
    """In the most common failure, Docker's proxy accepts and closes. `None` explains nothing."""
    assert "None" not in run_probe(ROGUES[name]).error


def test_session_without_221_is_up_or_its_error_names_quit() -> None:
    """Only the reply to RCPT matters for mail; if the server is reported down nevertheless, the
    error must give the reason."""
    result = run_probe(ROGUES["quit-closes"])
    assert (result.phase, result.reply) == ("rcpt", "250 2.1.5 OK")
    assert result.up or "QUIT" in result.error, result.error


def test_result_has_no_reply_of_an_earlier_phase() -> None:
    """`lhlo … (220 …)` would present the greeting as the reply to LHLO."""
    result = run_probe(ROGUES["greets-and-closes"])
    assert (result.phase, result.reply[:3]) != ("lhlo", "220")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_refused_connection_is_down_in_connect(host: str) -> None:
    destination = Destination(host, free_port(host))
    result = asyncio.run(probe(Target(destination, ANTS), "rcpt", PATIENCE, LmtpClient()))
    assert (result.up, result.phase, result.reply) == (False, "connect", "")
    assert result.error == "Connection refused"


def test_unknown_name_is_down_in_resolve() -> None:
    destination = Destination("no-such-host.invalid", 8024)
    result = asyncio.run(probe(Target(destination, ANTS), "rcpt", PATIENCE, LmtpClient()))
    assert (result.up, result.phase, result.reply) == (False, "resolve", "")
    assert "not known" in result.error or "name resolution" in result.error
    assert "as lmtp(8) looks names up (native)" in result.error
    assert describe(result).hint == (
        "doctor says why, and prints the command that helps; or set sources.address to the IP"
        " address of no-such-host.invalid"
    )


def test_name_server_that_does_not_answer_delays_nothing(tmp_path: Path) -> None:
    """libc queries it for minutes and cannot be interrupted; a sync and the exit must not wait."""
    need(os.geteuid() == 0, "root")
    resolv_conf = tmp_path / "resolv.conf"
    address = "127.53.53.53"
    program = f"""if True:
        import asyncio
        from postfix_sync.postfix.lmtp_client import LmtpClient
        from postfix_sync.probe.lmtp import probe_all
        from postfix_sync.probe.targets import Target
        from postfix_sync.model.destination import Destination
        async def main():
            names = [Target(Destination(f"mm{{i}}.example", 24)) for i in range(40)]
            probes = asyncio.create_task(probe_all(names, "rcpt", {TIMEOUT}, LmtpClient()))
            await asyncio.sleep(0)
            await asyncio.to_thread(print, "a sync")
            print({{(result.phase, result.error) for result in await probes}})
        asyncio.run(main())
    """
    resolv_conf.write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
    enter = f'mount --bind {resolv_conf} /etc/resolv.conf && exec "$0" "$@"'
    inside = ("unshare", "--mount", "sh", "-c", enter)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((address, 53))
        said = run(*inside, sys.executable, "-c", program, timeout=PATIENCE)
    assert said == f"a sync\n{{('resolve', 'no answer within {TIMEOUT:g} s')}}\n"


@pytest.mark.attack
def test_all_probes_end_within_the_time_limit() -> None:
    async def mute() -> list[ProbeResult]:
        async with rogue(ROGUES["silent"]) as (_, port):
            targets = [Target(Destination("127.0.0.1", port), ANTS)] * 2
            return await probe_all(targets, "rcpt", PATIENCE, LmtpClient(), within=TIMEOUT)

    assert {(result.up, result.phase, result.error) for result in asyncio.run(mute())} == {
        (False, "greeting", "no time left")
    }


def test_name_of_the_hosts_file_is_not_resolved() -> None:
    result = run_probe(answers(), hosts={"mailman.invalid": "127.0.0.1"})
    assert (result.up, result.destination.host) == (True, "mailman.invalid")


def test_ipv6_server_is_up() -> None:
    result = run_probe(answers(), host="::1")
    assert result.up
    assert result.destination.endpoint == f"[::1]:{result.destination.port}"


@asynccontextmanager
async def full_backlog() -> AsyncIterator[int]:
    """Yield the port of a listener whose backlog is full: packets to it are dropped."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for client in clients:
                client.close()


def test_host_that_drops_packets_is_down_after_the_timeout() -> None:
    async def session() -> ProbeResult:
        async with full_backlog() as port:
            target = Target(Destination("127.0.0.1", port), ANTS)
            return await probe(target, "connect", TIMEOUT, LmtpClient())

    for _ in range(TRIES):
        result = asyncio.run(session())
        assert (result.up, result.phase) == (False, "connect")
        assert re.fullmatch(LATE, result.error)
        if result.seconds < TIMEOUT + 0.3:
            break
    assert result.seconds < TIMEOUT + 0.3


@pytest.mark.attack
def test_many_probes_take_as_long_as_the_slowest() -> None:
    async def session() -> list[ProbeResult]:
        async with rogue(ROGUES["silent"]) as (host, silent), rogue(answers()) as (_, honest):
            targets = [Target(Destination(host, port), ANTS) for port in [silent] * 5 + [honest]]
            return await probe_all(targets, "rcpt", TIMEOUT, LmtpClient())

    for _ in range(TRIES):
        began = time.monotonic()
        results = asyncio.run(session())
        seconds = time.monotonic() - began
        up = [result.up for result in results]
        if seconds < 2 * TIMEOUT and up[-1]:
            break
    assert seconds < 2 * TIMEOUT
    assert up == [False] * 5 + [True]


def test_server_that_is_slow_in_every_phase_is_up() -> None:
    """Each phase has the whole timeout."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in ("220 slow", "250 slow", "250 slow", "250 slow", "250 slow", "221 slow"):
            await asyncio.sleep(TIMEOUT / 2)
            writer.write(f"{reply}\r\n".encode())
            await reader.readline()

    for _ in range(TRIES):
        result = run_probe(slow, timeout=TIMEOUT)
        if result.up and result.seconds < 6 * TIMEOUT:
            break
    assert (result.up, result.phase, result.reply) == (True, "rcpt", "250 slow")
    assert 3 * TIMEOUT < result.seconds < 6 * TIMEOUT


# --- the command


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A configuration, without installed maps."""
    made = make_site(options={"probe": {"level": "rcpt", "timeout": "20s"}})
    made.configure()
    return made


def install_routes(site: Site, *hops: str) -> None:
    """Write routes as a sync does, one list per next hop: the probe reads only their text."""
    site.maps.mkdir()
    lists = [(f"list{number}@lists.example.net", hop) for number, hop in enumerate(hops)]
    routes = {key: hop for name, hop in lists for key in nine(name)}
    (site.maps / "postfix_lmtp").write_bytes(b"".join(render(Table.of(routes))))
    (site.maps / "postfix_recipients").write_bytes(
        b"".join(render(Aliases.of({key: key for key in routes})))
    )


def test_probe_command_reports_up_and_exits_with_0(site: Site) -> None:
    with LmtpSink([ANTS]) as sink:
        done = site.call("probe", f"127.0.0.1:{sink.port}", "--rcpt", ANTS)
    assert (done.returncode, done.stderr) == (0, "")
    expected = (
        rf"destination 127\.0\.0\.1:{sink.port}: up \(rcpt: 250 2\.1\.5 OK\), \d+(\.\d+)? s\n"
    )
    assert re.fullmatch(expected, done.stdout)


def test_probe_command_reports_down_and_exits_with_69(site: Site) -> None:
    with LmtpSink([ANTS]) as sink:
        done = site.call("probe", f"127.0.0.1:{sink.port}", "--rcpt", "bees@lists.example.net")
    assert (done.returncode, done.stdout) == (69, "")
    problem, hint = done.stderr.splitlines()
    assert problem == (
        f"postfix-sync: error: destination 127.0.0.1:{sink.port}: down: rcpt: RCPT was answered"
        " with 550, not 250 (550 5.1.1 <bees@lists.example.net>: no such list here); Postfix"
        " returns mail for this list to its sender"
    )
    assert hint.startswith("postfix-sync: hint: check that its database is up")


def test_json_has_the_documented_keys(site: Site) -> None:
    with LmtpSink([ANTS]) as sink:
        up, down = f"127.0.0.1:{sink.port}", f"[::1]:{free_port('::1')}"
        done = site.call("probe", up, down, "--rcpt", ANTS, "--json")
    assert done.returncode == 69
    found = json.loads(done.stdout)
    assert [result.pop("seconds") >= 0 for result in found] == [True, True]
    assert found == [
        {
            "destination": up,
            "up": True,
            "phase": "rcpt",
            "reply": "250 2.1.5 OK",
            "error": "",
            "warning": "",
        },
        {
            "destination": down,
            "up": False,
            "phase": "connect",
            "reply": "",
            "error": "Connection refused",
            "warning": "",
        },
    ]


def test_json_of_destinations_that_are_up_is_the_only_output(site: Site) -> None:
    with LmtpSink([ANTS]) as sink:
        done = site.call("probe", f"127.0.0.1:{sink.port}", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    [found] = json.loads(done.stdout)
    assert isinstance(found["seconds"], float)
    assert (found["up"], found["phase"]) == (True, "mail")


@pytest.mark.parametrize(("level", "phase"), [("connect", "greeting"), ("lhlo", "lhlo")])
def test_level_option_sets_the_last_phase(site: Site, level: str, phase: str) -> None:
    with LmtpSink() as sink:
        done = site.call("probe", f"127.0.0.1:{sink.port}", "--level", level, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["phase"] == phase


def test_probe_without_arguments_uses_destinations_of_the_installed_maps(site: Site) -> None:
    """RCPT has one of each destination's lists; `probe.level: off` does not affect the command."""
    site.configure(probe={"level": "off", "timeout": "20s"})
    with LmtpSink(["list0@lists.example.net"]) as sink:
        refused = free_port()
        install_routes(site, f"lmtp:[127.0.0.1]:{sink.port}", f"lmtp:[127.0.0.1]:{refused}")
        done = site.call("probe", "--json")
        named = site.call("probe", f"127.0.0.1:{sink.port}", "--json")
    assert done.returncode == 69
    found = {
        result["destination"]: (result["up"], result["phase"]) for result in json.loads(done.stdout)
    }
    assert found == {
        f"127.0.0.1:{sink.port}": (True, "rcpt"),
        f"127.0.0.1:{refused}": (False, "connect"),
    }
    assert [result["phase"] for result in json.loads(named.stdout)] == ["rcpt"]


def test_name_in_the_configured_hosts_file_is_used(site: Site) -> None:
    site.hosts.write_text("127.0.0.1 localhost\n127.0.0.1 mailman.invalid\n")
    with LmtpSink([ANTS]) as sink:
        done = site.call("probe", f"mailman.invalid:{sink.port}", "--rcpt", ANTS)
    assert done.returncode == 0, done


def test_name_is_looked_up_as_lmtp_does(site: Site) -> None:
    """lmtp(8) queries only the DNS by default, so that it does not find a name of /etc/hosts."""
    need(os.geteuid() == 0, "root")
    main_cf = site.config_directory / "main.cf"
    site.hosts.write_text("")  # what is there is not looked up
    no_dns = ("unshare", "--net")
    within = replace(site, command=(*no_dns, *site.command))
    written = main_cf.read_text()
    (site.config_directory / "master.cf").write_text("lmtp unix - - n - - lmtp\n")
    phases = {}
    for mechanism in ("native", "dns"):
        main_cf.write_text(f"{written}\nlmtp_host_lookup = {mechanism}\n")
        [found] = json.loads(within.run("probe", "localhost:9", "--json").stdout)
        phases[mechanism] = (found["phase"], f"({mechanism})" in found["error"])
    assert phases == {"native": ("connect", False), "dns": ("resolve", True)}


@pytest.mark.parametrize(("level", "up"), [("encrypt", False), ("may", True)])
def test_server_without_tls_is_down_if_lmtp_requires_tls(level: str, up: bool) -> None:
    async def session() -> ProbeResult:
        async with rogue(answers()) as (host, port):
            target = Target(Destination(host, port), ANTS)
            lmtp = LmtpClient(tls_level=level, tls_setting=f"lmtp_tls_security_level = {level}")
            return await probe(target, "rcpt", PATIENCE, lmtp)

    result = asyncio.run(session())
    assert result.up is up
    if not up:
        assert (result.phase, result.error) == (
            "lhlo",
            "it does not offer STARTTLS, and lmtp_tls_security_level = encrypt",
        )
        assert "mail for it is deferred" in describe(result).message


def test_name_that_lmtp_may_find_is_not_called_unknown() -> None:
    """Not everybody may become lmtp(8)'s user: the consequence for mail is then not certain."""
    lmtp = LmtpClient(resolver=Resolver(user="no-such-user"))
    target = Target(Destination("no-such-host.invalid", 24))
    result = asyncio.run(probe(target, "rcpt", PATIENCE, lmtp))
    assert (result.phase, result.returned) == ("resolve", False)
    assert "lmtp(8) may find it" in result.error
    certain = asyncio.run(probe(target, "rcpt", PATIENCE, LmtpClient()))
    assert "lmtp(8) may find it" not in certain.error


# --- servers that are up with a warning


MAILMAN = "220 mm GNU Mailman LMTP runner 2.0"


class RejectsUnknownLists:
    """Mailman's RCPT since 3.3.6: 250 for a list, and 550 for any other address."""

    def __init__(self) -> None:
        self.recipients: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = {"LHLO": "250 HELP", "MAIL": "250 OK", "RSET": "250 OK", "QUIT": "221 Bye"}
        writer.write(f"{MAILMAN}\r\n".encode())
        while line := (await reader.readline()).decode():
            verb = line[:4].upper()
            if verb == "RCPT":
                self.recipients.append(line.partition("<")[2].partition(">")[0])
                known = self.recipients[-1] == ANTS
                writer.write(b"250 Ok\r\n" if known else b"550 mailbox unavailable\r\n")
            else:
                writer.write(f"{said[verb]}\r\n".encode())


def doubt(behaviour: Behaviour, recipient: str | None = ANTS) -> ProbeResult:
    """Probe the server, with an RCPT for an address that cannot be a list as well."""

    async def session() -> ProbeResult:
        async with rogue(behaviour) as (host, port):
            target = Target(Destination(host, port), recipient, doubting=True)
            return await probe(target, "rcpt", PATIENCE, LmtpClient())

    return asyncio.run(session())


def test_mailman_that_rejects_unknown_lists_has_no_warning() -> None:
    mailman = RejectsUnknownLists()
    result = doubt(mailman)
    assert (result.up, result.reply, result.warning) == (True, "250 Ok", "")
    assert mailman.recipients == [ANTS, "postfix-sync/no-such-list@lists.example.net"]
    once = RejectsUnknownLists()
    assert run_probe(once).up
    assert once.recipients == [ANTS]


def test_mailman_that_accepts_any_recipient_is_up_with_a_warning() -> None:
    """Before 3.3.6, Mailman accepts mail for removed lists, so its 250 shows nothing."""
    result = doubt(answers(greeting=MAILMAN))
    assert (result.up, result.phase, result.reply) == (True, "rcpt", "250 2.1.5 OK")
    assert result.warning == (
        "it also says 250 2.1.5 OK to postfix-sync/no-such-list@lists.example.net, which cannot be"
        " a list: its replies do not show which lists exist"
    )
    notice = describe(result)
    assert notice.message.endswith(f" s; but {result.warning}")
    assert "3.3.6" in notice.hint


@pytest.mark.parametrize("refusal", ["550 5.1.1 no", "451 4.3.0 later", "501 syntax"])
def test_any_reply_but_250_for_an_unknown_list_has_no_warning(refusal: str) -> None:
    """Only 250 for an unknown list is wrong; the list itself was accepted."""

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies = [MAILMAN, "250 HELP", "250 OK", "250 Ok", refusal, "250 OK", "221 Bye"]
        for reply in replies:
            writer.write(f"{reply}\r\n".encode())
            await reader.readline()

    result = doubt(refuses)
    assert (result.up, result.warning) == (True, "")


def test_greeting_of_another_server_is_a_warning() -> None:
    result = run_probe(answers(), "connect")
    assert result.up
    assert result.warning == "it greets with 220 rogue.example LMTP: this is not Mailman"
    assert run_probe(answers(greeting=MAILMAN), "connect").warning == ""


@pytest.mark.parametrize("code", [500, 502, 503])
def test_server_that_refuses_lhlo_is_not_an_lmtp_server(code: int) -> None:
    """It may be an SMTP server. Postfix returns mail at once: `refused to talk to me: 500 …`."""
    result = run_probe(answers(greeting="220 mx ESMTP", LHLO=f"{code} 5.5.1 unrecognized command"))
    assert (result.up, result.phase, result.warning) == (False, "lhlo", "")
    assert result.error == f"LHLO was answered with {code}, not 250: this is not an LMTP server"
    assert describe(result).message.endswith("; Postfix returns mail for it to its sender")


@pytest.mark.parametrize("name", ["greets-554", "mail-451", "rcpt-451", "lhlo-500", "rcpt-550"])
def test_message_says_that_mail_is_returned_only_if_postfix_returns_it(name: str) -> None:
    """Postfix returns mail after a 5xx reply, except in the greeting (smtp_skip_5xx_greeting)."""
    returns = "returns mail" in describe(run_probe(ROGUES[name])).message
    assert returns == (name in {"lhlo-500", "rcpt-550"})


def test_doctor_shows_the_warning_of_a_probe(site: Site) -> None:
    async def examined() -> dict[str, dict[str, str]]:
        async with rogue(answers(greeting=MAILMAN)) as (_, port):
            install_routes(site, f"lmtp:[127.0.0.1]:{port}")
            done = await asyncio.to_thread(site.run, "doctor", "--json")
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    [found] = [
        check for name, check in asyncio.run(examined()).items() if name.startswith("probe:")
    ]
    assert found["status"] == "warning"
    assert "postfix-sync/no-such-list@lists.example.net" in found["seen"]
    assert "3.3.6" in found["why"]
    assert found["fix"] is None


# --- as a monitoring plugin


def test_nagios_output_for_ok_warning_and_critical(site: Site) -> None:
    async def three() -> list[tuple[int, str, str]]:
        found = []
        async with (
            rogue(RejectsUnknownLists()) as (_, good),
            rogue(answers(greeting=MAILMAN)) as (_, odd),
        ):
            for ports in ([good], [good, odd], [good, odd, free_port()]):
                named = [f"127.0.0.1:{port}" for port in ports]
                arguments = ("probe", *named, "--rcpt", ANTS, "--nagios")
                done = await asyncio.to_thread(site.run, *arguments)
                found.append((done.returncode, done.stdout, done.stderr))
        return found

    ok, warning, critical = asyncio.run(three())
    assert re.fullmatch(
        r"LMTP OK - 127\.0\.0\.1:\d+ up: rcpt: 250 Ok, 0\.\d+ s"
        r"\|'127\.0\.0\.1:\d+'=0\.\d{4}s;;;0 down=0;;0;0;1\n",
        ok[1],
    )
    assert warning[1].startswith("LMTP WARNING - 2 destinations up, with warnings: 127.0.0.1:")
    assert critical[1].startswith("LMTP CRITICAL - 1 of 3 destinations down: 127.0.0.1:")
    assert [len(text.splitlines()) for _, text, _ in (ok, warning, critical)] == [1, 3, 4]
    assert [(status, err) for status, _, err in (ok, warning, critical)] == [
        (0, ""),
        (1, ""),
        (2, ""),
    ]


@pytest.mark.slow
def test_nagios_gets_critical_in_time_for_a_silent_server(site: Site) -> None:
    site.configure(probe={"timeout": "10m"})

    async def mute() -> subprocess.CompletedProcess[str]:
        async with rogue(ROGUES["silent"]) as (_, port):
            return await asyncio.to_thread(site.run, "probe", f"127.0.0.1:{port}", "--nagios")

    done = asyncio.run(mute())
    assert done.returncode == 2
    assert "down: greeting: no time left; mail for it is deferred" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["probe", "--nagios"], "no destination is installed there"),
        (["probe", "--nagios", "--no-such-option"], "--no-such-option"),
        (["probe", "--nagios", "0.0.0.0"], "0.0.0.0"),
        (["probe", "--nagios", "--json"], "not allowed with"),
        (["-c", "/nowhere/config.yaml", "probe", "--nagios"], "/nowhere/config.yaml"),
        (["--nagios"], "unrecognized arguments"),
    ],
)
def test_nagios_gets_unknown_if_nothing_can_be_probed(
    site: Site, arguments: list[str], said: str
) -> None:
    """Exit status 2 means CRITICAL, 78 is undefined; plugins' standard error is discarded."""
    done = site.run(*arguments)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("LMTP UNKNOWN - ")
    assert said in done.stdout.splitlines()[0]


def test_nagios_gets_unknown_for_an_invalid_configuration(site: Site) -> None:
    site.configure(probe={"timeout": "soon"})
    done = site.run("probe", "--nagios")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith(f"LMTP UNKNOWN - {site.config}:")


def test_probe_without_destinations_is_an_error(site: Site) -> None:
    done = site.call("probe")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == (
        f"postfix-sync: error: {site.maps}: no destination is installed there\n"
        f"postfix-sync: hint: name one: postfix-sync -c {site.config} probe HOST:PORT;"
        f" or: postfix-sync -c {site.config} --once\n"
    )


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ("127.0.0.1", "127.0.0.1:8024"),
        ("mailman.invalid", "mailman.invalid:8024"),
        ("MAILMAN.invalid:24", "mailman.invalid:24"),
        ("::1", "[::1]:8024"),
        ("[::1]", "[::1]:8024"),
        ("[::1]:24", "[::1]:24"),
    ],
)
def test_destination_is_accepted_with_and_without_port(
    site: Site, given: str, endpoint: str
) -> None:
    """The default, port 8024, is Mailman's own."""
    site.configure(probe={"timeout": "1s"})
    done = site.call("probe", given, "--level", "connect", "--json")
    assert json.loads(done.stdout)[0]["destination"] == endpoint


@pytest.mark.parametrize(
    "given",
    [
        "0.0.0.0:8024",
        "[::]:8024",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:lmtp",
        "127.0.0.1:-1",
        "[127.0.0.1 127.0.0.2]:8024",
        "[::1]x",
        "under score$.example:8024",
        ":8024",
        "",
        "1.2.3:8024",
        "a..b:8024",
        f"{'a' * 64}.example:8024",
    ],
)
def test_invalid_destination_is_a_usage_error(site: Site, given: str) -> None:
    done = site.call("probe", given)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("postfix-sync probe: error: argument HOST[:PORT]: ")


@pytest.mark.parametrize("address", ["ants@x.example>\r\nDATA", "ants\x01@x.example", "a b"])
def test_invalid_address_is_not_sent_to_the_server(site: Site, address: str) -> None:
    """It causes no traceback, and no second LMTP command."""
    with LmtpSink([ANTS]) as sink:
        done = site.call("probe", f"127.0.0.1:{sink.port}", "--rcpt", address)
    assert done.returncode in (2, 69), done
    assert "Traceback" not in done.stderr


def test_phases_are_in_the_order_of_a_session() -> None:
    """The documented phases, and those of the tests above."""
    assert PHASES == ("resolve", "connect", "greeting", "lhlo", "mail", "rcpt")
    assert {phase for phase, *_ in ROGUE_RESULTS.values()} == set(PHASES[2:])
