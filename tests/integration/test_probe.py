"""The probe against real sockets: an honest LMTP server, and every way in which one fails.

What a server says, or doesn't, must never do more to a postfix-sync than give a result: in bounded
time, in bounded memory, and in words that help.
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
from pathlib import Path

import pytest

from postfix_sync.model.destination import Destination
from postfix_sync.model.probe_result import PHASES, ProbeResult
from postfix_sync.postfix.map_text import render
from postfix_sync.probe.lmtp import describe, probe, probe_all
from postfix_sync.probe.targets import Target
from tests.conftest import need
from tests.parts.common import PATIENCE, TRIES, free_port, run
from tests.parts.lmtp_rogues import ROGUES, Behaviour, answers, rogue
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.mailman_files import nine
from tests.parts.site import Site

ANTS = "ants@lists.example.net"
TIMEOUT = 0.3
"""Seconds for a server that doesn't answer. One that does has PATIENCE, for machines pause too."""

MEMORY = 4 * 2**20
"""Bytes that a probe may take at most: the library's own import takes most of them."""

MakeSite = Callable[..., Site]


def ask(
    behaviour: Behaviour,
    level: str = "rcpt",
    *,
    recipient: str | None = ANTS,
    hosts: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    timeout: float = PATIENCE,
) -> ProbeResult:
    """The result of a probe of a server that behaves like this."""

    async def session() -> ProbeResult:
        async with rogue(behaviour, host) as (_, port):
            name = next(iter(hosts or {}), host)
            target = Target(Destination(name, port), recipient)
            return await probe(target, level, timeout, hosts or {})

    return asyncio.run(session())


def recorded(behaviour: Behaviour) -> tuple[Behaviour, list[str]]:
    """The same behaviour, and a list of the lines that a client says to it."""
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
def test_an_honest_server_is_up_at_each_level(level: str, phase: str, reply: str) -> None:
    """And it hears what the level needs, an orderly end, and never DATA."""
    behaviour, heard = recorded(answers())
    began = time.monotonic()
    result = ask(behaviour, level)
    assert (result.up, result.phase, result.reply, result.error) == (True, phase, reply, "")
    assert 0 < result.seconds < time.monotonic() - began
    said = [line for line in heard if line]
    assert len(said) == len(HEARD[level])
    assert all(re.fullmatch(*pair) for pair in zip(HEARD[level], said, strict=True)), said


def test_without_a_list_the_probe_stops_before_rcpt() -> None:
    """A destination of which no list's address is known, or none that is plain ASCII."""
    behaviour, heard = recorded(answers())
    result = ask(behaviour, recipient=None)
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
"""Phase, reply where the server gave one in that phase, and what the error must say."""


def test_every_rogue_is_asked_here() -> None:
    assert ROGUES.keys() - ROGUE_RESULTS.keys() == {"honest", "quit-closes"}


@pytest.mark.attack
@pytest.mark.parametrize("name", ROGUE_RESULTS)
def test_a_rogue_is_down_with_phase_reply_and_reason(name: str) -> None:
    phase, reply, error = ROGUE_RESULTS[name]
    for _ in range(TRIES):
        began = time.monotonic()
        result = ask(ROGUES[name], timeout=TIMEOUT)
        seconds = time.monotonic() - began
        told = (result.up, result.phase) == (False, phase) and re.search(error, result.error)
        if told and seconds < TIMEOUT + 0.7:
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
def test_what_a_rogue_says_is_not_kept(name: str) -> None:
    """Endless replies are cut off: a hostile container can't fill this host's memory."""
    ask(ROGUES["honest"])  # imports the library
    tracemalloc.start()
    try:
        ask(ROGUES[name], timeout=TIMEOUT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize("name", ["closes", "resets"])
def test_a_proxy_with_nothing_behind_it_is_told_in_plain_words(name: str) -> None:
    """The commonest failure of all: Docker's proxy accepts, and closes. `None` helps nobody."""
    assert "None" not in ask(ROGUES[name]).error


def test_a_session_that_ends_without_221_still_had_its_answer() -> None:
    """What counts for mail is the reply to RCPT; that the end was rude is no reason to call it
    unreachable without saying why."""
    result = ask(ROGUES["quit-closes"])
    assert (result.phase, result.reply) == ("rcpt", "250 2.1.5 OK")
    assert result.up or "QUIT" in result.error, result.error


def test_a_reply_belongs_to_the_phase_that_the_result_names() -> None:
    """`lhlo … (220 …)` would name a greeting as the answer to LHLO."""
    result = ask(ROGUES["greets-and-closes"])
    assert (result.phase, result.reply[:3]) != ("lhlo", "220")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_refused_connection(host: str) -> None:
    destination = Destination(host, free_port(host))
    result = asyncio.run(probe(Target(destination, ANTS), "rcpt", PATIENCE, {}))
    assert (result.up, result.phase, result.reply) == (False, "connect", "")
    assert result.error == "Connection refused"


def test_an_unknown_name() -> None:
    destination = Destination("no-such-host.invalid", 8024)
    result = asyncio.run(probe(Target(destination, ANTS), "rcpt", PATIENCE, {}))
    assert (result.up, result.phase, result.reply) == (False, "resolve", "")
    assert "not known" in result.error or "name resolution" in result.error
    assert "getent hosts no-such-host.invalid" in describe(result).hint


def test_a_name_server_that_does_not_answer_holds_up_nothing(tmp_path: Path) -> None:
    """libc asks it for minutes, and can't be stopped: not a pass meanwhile, and not the end."""
    need(os.geteuid() == 0, "root")
    resolv_conf = tmp_path / "resolv.conf"
    address = "127.53.53.53"
    program = f"""if True:
        import asyncio
        from postfix_sync.probe.lmtp import probe_all
        from postfix_sync.probe.targets import Target
        from postfix_sync.model import Destination
        async def main():
            names = [Target(Destination(f"mm{{i}}.example", 24)) for i in range(40)]
            probes = asyncio.create_task(probe_all(names, "rcpt", {TIMEOUT}, {{}}))
            await asyncio.sleep(0)
            await asyncio.to_thread(print, "a pass")
            print({{(one.phase, one.error) for one in await probes}})
        asyncio.run(main())
    """
    resolv_conf.write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
    enter = f'mount --bind {resolv_conf} /etc/resolv.conf && exec "$0" "$@"'
    inside = ("unshare", "--mount", "sh", "-c", enter)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((address, 53))
        said = run(*inside, sys.executable, "-c", program, timeout=PATIENCE)
    assert said == f"a pass\n{{('resolve', 'no answer within {TIMEOUT:g} s')}}\n"


@pytest.mark.attack
def test_all_end_when_time_is_up() -> None:
    async def mute() -> list[ProbeResult]:
        async with rogue(ROGUES["silent"]) as (_, port):
            asked = [Target(Destination("127.0.0.1", port), ANTS)] * 2
            return await probe_all(asked, "rcpt", PATIENCE, {}, within=TIMEOUT)

    assert {(one.up, one.phase, one.error) for one in asyncio.run(mute())} == {
        (False, "greeting", "no time left")
    }


def test_a_name_of_the_hosts_file_is_not_looked_up() -> None:
    result = ask(answers(), hosts={"mailman.invalid": "127.0.0.1"})
    assert (result.up, result.destination.host) == (True, "mailman.invalid")


def test_ipv6() -> None:
    result = ask(answers(), host="::1")
    assert result.up
    assert result.destination.endpoint == f"[::1]:{result.destination.port}"


@asynccontextmanager
async def full_backlog() -> AsyncIterator[int]:
    """The port of a listener that takes no more connections: packets to it are dropped."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for one in waiting:
                one.close()


def test_a_host_that_drops_packets() -> None:
    async def session() -> ProbeResult:
        async with full_backlog() as port:
            target = Target(Destination("127.0.0.1", port), ANTS)
            return await probe(target, "connect", TIMEOUT, {})

    for _ in range(TRIES):
        result = asyncio.run(session())
        assert (result.up, result.phase) == (False, "connect")
        assert re.fullmatch(LATE, result.error)
        if result.seconds < TIMEOUT + 0.3:
            break
    assert result.seconds < TIMEOUT + 0.3


@pytest.mark.attack
def test_many_at_once_take_as_long_as_the_slowest() -> None:
    async def session() -> list[ProbeResult]:
        async with rogue(ROGUES["silent"]) as (host, silent), rogue(answers()) as (_, honest):
            wanted = [Target(Destination(host, port), ANTS) for port in [silent] * 5 + [honest]]
            return await probe_all(wanted, "rcpt", TIMEOUT, {})

    for _ in range(TRIES):
        began = time.monotonic()
        results = asyncio.run(session())
        seconds = time.monotonic() - began
        up = [result.up for result in results]
        if seconds < 2 * TIMEOUT and up[-1]:
            break
    assert seconds < 2 * TIMEOUT
    assert up == [False] * 5 + [True]


def test_one_byte_at_a_time_does_not_stretch_a_phase() -> None:
    """Nor does it when the server is slow in every phase: each has the timeout to itself."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in ("220 slow", "250 slow", "250 slow", "250 slow", "250 slow", "221 slow"):
            await asyncio.sleep(TIMEOUT / 2)
            writer.write(f"{reply}\r\n".encode())
            await reader.readline()

    for _ in range(TRIES):
        result = ask(slow, timeout=TIMEOUT)
        if result.up and result.seconds < 6 * TIMEOUT:
            break
    assert (result.up, result.phase, result.reply) == (True, "rcpt", "250 slow")
    assert 3 * TIMEOUT < result.seconds < 6 * TIMEOUT


# --- the command


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A configuration; nothing is installed."""
    made = make_site(options={"probe": {"level": "rcpt", "timeout": "20s"}})
    made.configure()
    return made


def install_routes(site: Site, *hops: str) -> None:
    """Routes as a pass leaves them, a list a next hop: the probe reads no more than their text."""
    site.maps.mkdir()
    lists = [(f"list{number}@lists.example.net", hop) for number, hop in enumerate(hops)]
    routes = {key: hop for name, hop in lists for key in nine(name)}
    (site.maps / "postfix_lmtp").write_bytes(render(routes))
    (site.maps / "postfix_recipients").write_bytes(render(dict.fromkeys(routes, "OK")))


def test_the_command_says_up_and_ends_with_0(site: Site) -> None:
    with LmtpSink([ANTS]) as sink:
        done = site.call("probe", f"127.0.0.1:{sink.port}", "--rcpt", ANTS)
    assert (done.returncode, done.stderr) == (0, "")
    expected = (
        rf"destination 127\.0\.0\.1:{sink.port}: up \(rcpt: 250 2\.1\.5 OK\), \d+(\.\d+)? s\n"
    )
    assert re.fullmatch(expected, done.stdout)


def test_the_command_says_down_and_ends_with_69(site: Site) -> None:
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


def test_json_has_the_keys_of_the_contract_and_a_warning(site: Site) -> None:
    with LmtpSink([ANTS]) as sink:
        up, down = f"127.0.0.1:{sink.port}", f"[::1]:{free_port('::1')}"
        done = site.call("probe", up, down, "--rcpt", ANTS, "--json")
    assert done.returncode == 69
    found = json.loads(done.stdout)
    assert [one.pop("seconds") >= 0 for one in found] == [True, True]
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


def test_json_of_destinations_that_are_up_is_all_there_is(site: Site) -> None:
    with LmtpSink([ANTS]) as sink:
        done = site.call("probe", f"127.0.0.1:{sink.port}", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    [found] = json.loads(done.stdout)
    assert isinstance(found["seconds"], float)
    assert (found["up"], found["phase"]) == (True, "mail")


@pytest.mark.parametrize(("level", "phase"), [("connect", "greeting"), ("lhlo", "lhlo")])
def test_the_level_is_as_asked(site: Site, level: str, phase: str) -> None:
    with LmtpSink() as sink:
        done = site.call("probe", f"127.0.0.1:{sink.port}", "--level", level, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["phase"] == phase


def test_without_destinations_those_of_the_installed_maps(site: Site) -> None:
    """Each is asked for one of its lists; a configuration without probes doesn't hinder it."""
    site.configure(probe={"level": "off", "timeout": "20s"})
    with LmtpSink(["list0@lists.example.net"]) as sink:
        refused = free_port()
        install_routes(site, f"lmtp:[127.0.0.1]:{sink.port}", f"lmtp:[127.0.0.1]:{refused}")
        done = site.call("probe", "--json")
        named = site.call("probe", f"127.0.0.1:{sink.port}", "--json")
    assert done.returncode == 69
    found = {one["destination"]: (one["up"], one["phase"]) for one in json.loads(done.stdout)}
    assert found == {
        f"127.0.0.1:{sink.port}": (True, "rcpt"),
        f"127.0.0.1:{refused}": (False, "connect"),
    }
    assert [one["phase"] for one in json.loads(named.stdout)] == ["rcpt"]


def test_a_name_that_only_our_hosts_file_has(site: Site) -> None:
    site.hosts.write_text("127.0.0.1 localhost\n127.0.0.1 mailman.invalid\n")
    with LmtpSink([ANTS]) as sink:
        done = site.call("probe", f"mailman.invalid:{sink.port}", "--rcpt", ANTS)
    assert done.returncode == 0, done


# --- what is up, and yet not what it should be


MAILMAN = "220 mm GNU Mailman LMTP runner 2.0"


class TellsListsApart:
    """Mailman's RCPT since 3.3.6: 250 for one list, and 550 for any other address."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = {"LHLO": "250 HELP", "MAIL": "250 OK", "RSET": "250 OK", "QUIT": "221 Bye"}
        writer.write(f"{MAILMAN}\r\n".encode())
        while line := (await reader.readline()).decode():
            verb = line[:4].upper()
            if verb == "RCPT":
                self.asked.append(line.partition("<")[2].partition(">")[0])
                known = self.asked[-1] == ANTS
                writer.write(b"250 Ok\r\n" if known else b"550 mailbox unavailable\r\n")
            else:
                writer.write(f"{said[verb]}\r\n".encode())


def doubt(behaviour: Behaviour, recipient: str | None = ANTS) -> ProbeResult:
    """The result of a probe that also asks for an address that can be no list."""

    async def session() -> ProbeResult:
        async with rogue(behaviour) as (host, port):
            target = Target(Destination(host, port), recipient, doubting=True)
            return await probe(target, "rcpt", PATIENCE, {})

    return asyncio.run(session())


def test_a_mailman_that_tells_lists_apart_is_asked_twice_and_not_warned_of() -> None:
    mailman = TellsListsApart()
    result = doubt(mailman)
    assert (result.up, result.reply, result.warning) == (True, "250 Ok", "")
    assert mailman.asked == [ANTS, "postfix-sync/no-such-list@lists.example.net"]
    once = TellsListsApart()
    assert ask(once).up
    assert once.asked == [ANTS]


def test_a_mailman_that_takes_mail_for_anybody_is_up_and_said_to() -> None:
    """Before 3.3.6: mail for a list that is gone is taken there, and its 250 says nothing."""
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
def test_any_other_answer_for_nobody_will_do(refusal: str) -> None:
    """What counts is that it is not 250: the list itself was answered for."""

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies = [MAILMAN, "250 HELP", "250 OK", "250 Ok", refusal, "250 OK", "221 Bye"]
        for reply in replies:
            writer.write(f"{reply}\r\n".encode())
            await reader.readline()

    result = doubt(refuses)
    assert (result.up, result.warning) == (True, "")


def test_a_greeting_that_is_not_mailmans_is_a_warning() -> None:
    result = ask(answers(), "connect")
    assert result.up
    assert result.warning == "it greets with 220 rogue.example LMTP: this is not Mailman"
    assert ask(answers(greeting=MAILMAN), "connect").warning == ""


@pytest.mark.parametrize("code", [500, 502, 503])
def test_what_refuses_lhlo_is_no_lmtp_server_and_loses_mail(code: int) -> None:
    """An SMTP server, say. Postfix returns mail at once: `refused to talk to me: 500 …`."""
    result = ask(answers(greeting="220 mx ESMTP", LHLO=f"{code} 5.5.1 unrecognized command"))
    assert (result.up, result.phase, result.warning) == (False, "lhlo", "")
    assert result.error == f"LHLO was answered with {code}, not 250: this is not an LMTP server"
    assert describe(result).message.endswith("; Postfix returns mail for it to its sender")


@pytest.mark.parametrize("name", ["greets-554", "mail-451", "rcpt-451", "lhlo-500", "rcpt-550"])
def test_what_becomes_of_mail_meanwhile_is_as_postfix_does_it(name: str) -> None:
    """A 5xx returns it, but for one in the greeting (smtp_skip_5xx_greeting)."""
    returns = "returns mail" in describe(ask(ROGUES[name])).message
    assert returns == (name in {"lhlo-500", "rcpt-550"})


def test_doctor_warns_of_what_the_probe_finds_odd(site: Site) -> None:
    async def examined() -> dict[str, dict[str, str]]:
        async with rogue(answers(greeting=MAILMAN)) as (_, port):
            install_routes(site, f"lmtp:[127.0.0.1]:{port}")
            done = await asyncio.to_thread(site.run, "doctor", "--json")
        return {one["name"]: one for one in json.loads(done.stdout)["checks"]}

    [found] = [one for name, one in asyncio.run(examined()).items() if name.startswith("probe:")]
    assert found["status"] == "warning"
    assert "postfix-sync/no-such-list@lists.example.net" in found["seen"]
    assert "3.3.6" in found["why"]
    assert found["fix"] is None


# --- as a monitoring plugin


def test_nagios_says_ok_warning_and_critical(site: Site) -> None:
    async def three() -> list[tuple[int, str, str]]:
        found = []
        async with (
            rogue(TellsListsApart()) as (_, good),
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
def test_nagios_is_told_in_time_of_a_server_that_says_nothing(site: Site) -> None:
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
def test_nagios_is_unknown_where_nothing_can_be_said(
    site: Site, arguments: list[str], said: str
) -> None:
    """2 would be CRITICAL, 78 nothing at all; and what is on standard error is lost."""
    done = site.run(*arguments)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("LMTP UNKNOWN - ")
    assert said in done.stdout.splitlines()[0]


def test_nagios_is_unknown_for_a_bad_configuration(site: Site) -> None:
    site.configure(probe={"timeout": "soon"})
    done = site.run("probe", "--nagios")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith(f"LMTP UNKNOWN - {site.config}:")


def test_nothing_installed_and_nothing_named(site: Site) -> None:
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
def test_how_a_destination_may_be_written(site: Site, given: str, endpoint: str) -> None:
    """Port 8024 is Mailman's own default."""
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
def test_what_is_no_destination_is_a_usage_error(site: Site, given: str) -> None:
    done = site.call("probe", given)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("postfix-sync probe: error: argument HOST[:PORT]: ")


@pytest.mark.parametrize("address", ["ants@x.example>\r\nDATA", "ants\x01@x.example", "a b"])
def test_what_is_no_address_never_reaches_the_server(site: Site, address: str) -> None:
    """Not as a traceback, and least of all as a second command."""
    with LmtpSink([ANTS]) as sink:
        done = site.call("probe", f"127.0.0.1:{sink.port}", "--rcpt", address)
    assert done.returncode in (2, 69), done
    assert "Traceback" not in done.stderr


def test_phases_are_in_the_order_of_a_session() -> None:
    """What the contract lists, and every phase a test above came to."""
    assert PHASES == ("resolve", "connect", "greeting", "lhlo", "mail", "rcpt")
    assert {phase for phase, *_ in ROGUE_RESULTS.values()} == set(PHASES[2:])
