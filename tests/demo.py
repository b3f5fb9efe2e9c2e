"""The whole chain on one screen: Mailman, Postfix, and postfix-sync between them, told with times.

Everything runs in one directory under /dev/shm or /var/tmp, and on loopback addresses. Nothing in
/etc is written: it is listed before and after, to say so truthfully. The exit status is 0 only if
every step held.

    python -m tests.demo          as root, in the checkout; `make demo` installs what is missing
"""

# ruff: noqa: T201 - a demo prints

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from textwrap import fill

from tests.parts.common import public_directory, wait_for
from tests.parts.load import Reply
from tests.parts.mailman import VERSION, installed
from tests.scenarios.world import World

ETC = Path("/etc")
WIDTH = 79
LOG_LINES = 15
PATIENCE = 30.0

# What main.cf names of the maps, once `setup` has been there.
MAPS = ("transport_maps", "relay_domains", "relay_recipient_maps", "virtual_alias_maps")

ANTS, BEES, NOBODY = (f"{name}@lists.example.net" for name in ("ants", "bees", "nobody"))

_BEGIN = time.monotonic()

Listing = dict[Path, tuple[int, int]]


class StepFailed(Exception):
    """A step did not hold: what was expected, and what happened instead."""

    def __init__(self, expected: str, happened: object) -> None:
        super().__init__(expected)
        self.expected = expected
        self.happened = str(happened)


def say(text: str) -> None:
    """A line of the story, with the time since the beginning."""
    clock = f"{time.monotonic() - _BEGIN:6.1f} s  "
    tell(text, clock, " " * len(clock))


def add(text: str) -> None:
    """More about the line before."""
    tell(text, " " * 10, " " * 10)


def tell(text: str, first: str = "", others: str = "") -> None:
    """Print, broken at 80 columns."""
    print(
        fill(
            text,
            WIDTH,
            initial_indent=first,
            subsequent_indent=others,
            break_long_words=False,
            break_on_hyphens=False,
        ),
        flush=True,
    )


def until(condition: Callable[[], object], expected: str, happened: Callable[[], object]) -> None:
    """Wait for a step's outcome."""
    try:
        wait_for(condition, PATIENCE, expected)
    except TimeoutError:
        raise StepFailed(f"{expected}, within {PATIENCE:.0f} s", happened()) from None


def said(reply: Reply) -> str:
    """A reply as it is seen in a log."""
    return f"{reply.code} {reply.text}"


def main() -> int:
    """Run the demo; its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    if os.geteuid() != 0:
        tell("the demo starts a Postfix and a Mailman, and so has to run as root")
        return 1
    tell("postfix-sync, between a real Mailman and a real Postfix")
    print()
    etc = listing(ETC)
    try:
        directory = run()
    except StepFailed:
        return 1
    except KeyboardInterrupt:
        say("Interrupted; everything was stopped and removed.")
        return 130
    if directory.exists():
        say(f"FAILED: {directory} is still there.")
        return 1
    say("All of it is stopped, and its directory is removed.")
    if changed := differences(etc, listing(ETC)):
        say(f"FAILED: meanwhile something changed in /etc: {', '.join(changed)}")
        return 1
    say("Nothing in /etc was touched.")
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run() -> Path:
    """Start all, tell the story, and clean up, whatever happens; the directory that it was in."""
    say(f"Mailman {VERSION} from PyPI (downloaded the first time) ...")
    installed()
    with public_directory() as directory:
        map_type = "lmdb" if "lmdb" in map_types(directory / "probe") else "hash"
        world = World(directory, map_type=map_type, main_cf=dict.fromkeys(MAPS, ""))
        try:
            start(world)
            story(world)
        except (StepFailed, RuntimeError, OSError, AssertionError) as error:
            explain(world, error)
            raise StepFailed("the demo", error) from None
        finally:
            # Once only: a second Ctrl-C must not leave half of it running.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            world.stop()
    return directory


def map_types(directory: Path) -> list[str]:
    """The map types that the installed Postfix has."""
    directory.mkdir()
    (directory / "main.cf").touch()
    command = ["/usr/sbin/postconf", "-c", str(directory), "-m"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def start(world: World) -> None:
    """The three parts, one after the other."""
    mailman, postfix = world.mailman, world.postfix
    say(f"Its own directory: {world.site.directory}")
    mailman.start()
    say(f"Mailman runs. It takes mail by LMTP at {mailman.lmtp_host}:{mailman.lmtp_port},")
    add("under a host name that nobody else on this machine knows.")
    world.start_daemon()
    say(f"postfix-sync runs as a daemon; it made four empty {world.site.map_type} maps.")
    postfix.start()
    say(f"Postfix runs, with SMTP on port {postfix.port} and lmtp(8) in a chroot.")
    print()


def story(world: World) -> None:
    """What a postmaster would do and see."""
    created_list(world, ANTS)
    print()
    told_postfix(world)
    print()
    mailed(world, ANTS)
    hosts = world.site.hosts.read_text()
    entry = f"{world.mailman.lmtp_address}\t{world.mailman.lmtp_host}"
    if entry not in hosts:
        raise StepFailed(f"{entry!r} in {world.site.hosts}", repr(hosts))
    add(f"Its host was found by postfix-sync's entry: {entry.expandtabs(1)}")
    print()
    created_list(world, BEES)
    mailed(world, BEES)
    print()
    refused(world, NOBODY, "There is no such list:")
    print()
    removed_list(world)
    print()
    stopped_and_started(world)
    print()
    say("Every step held.")


def told_postfix(world: World) -> None:
    """main.cf does not name the maps yet: doctor finds that, and setup mends it."""
    say(f"$ postfix-sync doctor: {summary(world, expect=78)}")
    add("Postfix does not know of the maps yet.")
    done = world.site.run("setup", "--yes", "-v")
    if done.returncode:
        raise StepFailed("postfix-sync setup --yes comes through", done.stdout + done.stderr)
    say("$ postfix-sync setup --yes: main.cf names them now:")
    for parameter in MAPS:
        add(world.postfix.command("postconf", parameter).strip())
    say(f"$ postfix-sync doctor: {summary(world, expect=0)}")


def summary(world: World, *, expect: int) -> str:
    """The last line of what doctor says."""
    done = world.site.run("doctor")
    if done.returncode != expect:
        raise StepFailed(f"doctor ends with {expect}", f"{done.returncode}\n{done.stdout}")
    return done.stdout.strip().splitlines()[-1]


def created_list(world: World, name: str) -> None:
    """Created in Mailman, and nothing else done: it is in the maps."""
    say(f"$ mailman create {name}")
    world.mailman.command("create", name)
    news = f"+1 list: {name}"
    until(lambda: told(world, news), f"{news!r} in the log", lambda: end_of_log(world))
    until(lambda: world.is_live(name), f"{name} in postfix_recipients", lambda: "it is not there")
    say(f"The maps are live; that took {seconds_to_live(world):.1f} s. The log says:")
    add(told(world, news))


def mailed(world: World, name: str) -> None:
    """A message to a list reaches Mailman."""
    sent = world.send(name)
    if not sent.accepted:
        raise StepFailed(f"a message to {name} accepted", said(sent.last))
    say(f"A message is sent to {name}: {said(sent.last)}")
    until(
        lambda: world.received(sent),
        f"the message to {name} in Mailman",
        lambda: f"Mailman has {[one.message_id for one in world.mailman.accepted()]}",
    )
    say(f"Mailman has it, {time.time() - sent.started:.1f} s later.")


def seconds_to_live(world: World) -> float:
    """From Mailman's last word to the map that accepts the mail."""
    written = (world.mailman.data / "postfix_domains").stat().st_mtime
    return max((world.site.maps / "postfix_recipients").stat().st_mtime - written, 0)


def refused(world: World, recipient: str, why: str) -> None:
    """An address that Postfix must not take mail for."""
    reply = world.send(recipient).last
    if (reply.phase, reply.code) != ("rcpt", 550):
        raise StepFailed(f"RCPT TO:<{recipient}> refused with 550", said(reply))
    say(f"{why} {said(reply)}")


def removed_list(world: World) -> None:
    """Removed in Mailman: refused from then on."""
    say(f"$ mailman remove {BEES}")
    world.mailman.command("remove", BEES)
    until(
        lambda: not world.is_live(BEES),
        f"{BEES} no longer in postfix_recipients",
        lambda: end_of_log(world),
    )
    say(f"The maps accept it no more; that took {seconds_to_live(world):.1f} s.")
    refused(world, BEES, "A message to it:")
    news = f"-1 list: {BEES}"
    until(lambda: told(world, news), f"{news!r} in the log", lambda: end_of_log(world))
    say("Its routes went last, when no mail under way could need them. The log says:")
    add(told(world, news))


def stopped_and_started(world: World) -> None:
    """The probe notices that Mailman is away, and that it is back; mail waits no longer."""
    until(lambda: world.destination().get("up"), "the probe says up", world.destination)
    say("The probe says that Mailman takes mail. Now Mailman is stopped.")
    world.mailman.stop()
    until(
        lambda: (found := world.destination())["phase"] == "connect" and not found["up"],
        "the probe says down, in the phase connect",
        world.destination,
    )
    found = world.destination()
    say(f"The probe says: down. {found['phase']}: {found['error']}")
    sent = world.send(ANTS)
    if not sent.accepted:
        raise StepFailed(f"a message to {ANTS} accepted", said(sent.last))
    until(
        lambda: any(one["queue_name"] == "deferred" for one in world.postfix.queue()),
        "the message in the deferred queue",
        world.postfix.queue,
    )
    say("A message is sent, and waits. Now Mailman is started again.")
    world.mailman.start()
    started = time.monotonic()
    until(lambda: world.destination().get("up"), "the probe says up", world.destination)
    found = world.destination()
    say(f"The probe says: up. {found['phase']}: {found['reply']}")
    until(lambda: world.received(sent), "the message in Mailman", lambda: end_of_log(world))
    say(f"What waited is delivered, {time.monotonic() - started:.1f} s after Mailman came back;")
    add("by itself, Postfix would have tried it again after five minutes.")


def told(world: World, text: str) -> str:
    """The line of the daemon's log that has this text, if it has one."""
    return next((line for line in world.daemon.messages if text in line), "")


def end_of_log(world: World) -> str:
    """The end of the daemon's log."""
    return "the log says:\n" + "\n".join(world.daemon.lines[-LOG_LINES:])


def explain(world: World, error: Exception) -> None:
    """What was expected, what happened, and the ends of the logs."""
    print()
    say("FAILED.")
    if isinstance(error, StepFailed):
        add(f"Expected: {error.expected}")
        print(f"          Happened: {error.happened}")
    else:
        print(f"          {type(error).__name__}: {error}")
    for name, log in (
        ("postfix-sync", world.daemon.log if world.has_daemon else ""),
        ("Postfix", world.postfix.log),
        ("Mailman", world.mailman.log),
    ):
        print(f"\n--- the end of the log of {name}")
        print("\n".join(log.splitlines()[-LOG_LINES:]))
    print()


def listing(top: Path) -> Listing:
    """Every path below a directory, links not followed: when it changed, and its size."""
    found = {}
    for directory, subdirectories, files in os.walk(top):
        for name in (".", *subdirectories, *files):
            path = Path(directory, name)
            with suppress(FileNotFoundError):  # somebody else's, and gone this moment
                status = path.lstat()
                found[path] = (status.st_mtime_ns, status.st_size)
    return found


def differences(before: Listing, after: Listing) -> list[str]:
    """The paths that came, went or changed."""
    return sorted(str(path) for path in before | after if before.get(path) != after.get(path))


if __name__ == "__main__":
    sys.exit(main())
