"""Show Mailman, Postfix, and postfix-sync between them at work, with the time of each step.

Everything runs in one directory under /dev/shm or /var/tmp, and on loopback addresses. The demo
does not write to /etc, which it verifies by listing it before and after. The exit status is 0 only
if every step succeeded.

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

# The parameters of main.cf in which `setup` names the maps.
MAPS = ("transport_maps", "relay_domains", "relay_recipient_maps", "virtual_alias_maps")

ANTS, BEES, NOBODY = (f"{name}@lists.example.net" for name in ("ants", "bees", "nobody"))

_BEGIN = time.monotonic()

Listing = dict[Path, tuple[int, int]]


class StepFailed(Exception):
    """A step failed: what was expected, and what happened instead."""

    def __init__(self, expected: str, happened: object) -> None:
        super().__init__(expected)
        self.expected = expected
        self.happened = str(happened)


def say(text: str) -> None:
    """Print a line with the time since the start."""
    clock = f"{time.monotonic() - _BEGIN:6.1f} s  "
    print_wrapped(text, clock, " " * len(clock))


def add(text: str) -> None:
    """Print a continuation of the previous line."""
    print_wrapped(text, " " * 10, " " * 10)


def print_wrapped(text: str, first: str = "", others: str = "") -> None:
    """Print a text, wrapped to 80 columns."""
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
    """Wait for a step's result; raise StepFailed if it does not come."""
    try:
        wait_for(condition, PATIENCE, expected)
    except TimeoutError:
        raise StepFailed(f"{expected}, within {PATIENCE:.0f} s", happened()) from None


def as_logged(reply: Reply) -> str:
    """Return a reply as it is in a log."""
    return f"{reply.code} {reply.text}"


def main() -> int:
    """Run the demo; return its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    if os.geteuid() != 0:
        print_wrapped("the demo starts a Postfix and a Mailman, and so must run as root")
        return 1
    print_wrapped("postfix-sync, between a real Mailman and a real Postfix")
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
    say("Everything is stopped, and the directory is removed.")
    if changed := differences(etc, listing(ETC)):
        say(f"FAILED: meanwhile something changed in /etc: {', '.join(changed)}")
        return 1
    say("Nothing in /etc was touched.")
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run() -> Path:
    """Start all parts, run the steps, and clean up in any case; return the directory used."""
    say(f"Mailman {VERSION} from PyPI (downloaded the first time) ...")
    installed()
    with public_directory() as directory:
        map_type = "lmdb" if "lmdb" in map_types(directory / "probe") else "hash"
        world = World(directory, map_type=map_type, main_cf=dict.fromkeys(MAPS, ""))
        try:
            start(world)
            steps(world)
        except (StepFailed, RuntimeError, OSError, AssertionError) as error:
            explain(world, error)
            raise StepFailed("the demo", error) from None
        finally:
            # A second Ctrl-C must not interrupt the cleanup.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            world.stop()
    return directory


def map_types(directory: Path) -> list[str]:
    """Return the map types that the installed Postfix supports."""
    directory.mkdir()
    (directory / "main.cf").touch()
    command = ["/usr/sbin/postconf", "-c", str(directory), "-m"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def start(world: World) -> None:
    """Start Mailman, postfix-sync and Postfix, in this order."""
    mailman, postfix = world.mailman, world.postfix
    say(f"The demo's directory: {world.site.directory}")
    mailman.start()
    say(f"Mailman runs. It takes mail by LMTP at {mailman.lmtp_host}:{mailman.lmtp_port},")
    add("under a host name that does not resolve on this machine.")
    world.start_daemon()
    say(f"postfix-sync runs as a daemon; it made four empty {world.site.map_type} maps.")
    postfix.start()
    say(f"Postfix runs, with SMTP on port {postfix.port} and lmtp(8) in a chroot.")
    print()


def steps(world: World) -> None:
    """Run the steps, as a postmaster would."""
    created_list(world, ANTS)
    print()
    set_up_postfix(world)
    print()
    mailed(world, ANTS)
    hosts = world.site.hosts.read_text()
    entry = f"{world.mailman.lmtp_address}\t{world.mailman.lmtp_host}"
    if entry not in hosts:
        raise StepFailed(f"{entry!r} in {world.site.hosts}", repr(hosts))
    add(f"Its host name was resolved by postfix-sync's entry: {entry.expandtabs(1)}")
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
    say("Every step succeeded.")


def set_up_postfix(world: World) -> None:
    """Show that doctor reports a main.cf without the maps, and that setup fixes it."""
    say(f"$ postfix-sync doctor: {summary(world, expect=78)}")
    add("Postfix does not use the maps yet.")
    done = world.site.run("setup", "--yes", "-v")
    if done.returncode:
        raise StepFailed("postfix-sync setup --yes succeeds", done.stdout + done.stderr)
    say("$ postfix-sync setup --yes: main.cf names them now:")
    for parameter in MAPS:
        add(world.postfix.command("postconf", parameter).strip())
    say(f"$ postfix-sync doctor: {summary(world, expect=0)}")


def summary(world: World, *, expect: int) -> str:
    """Run doctor; return the last line of its output."""
    done = world.site.run("doctor")
    if done.returncode != expect:
        raise StepFailed(f"doctor ends with {expect}", f"{done.returncode}\n{done.stdout}")
    return done.stdout.strip().splitlines()[-1]


def created_list(world: World, name: str) -> None:
    """Create a list in Mailman, and wait until it is in the maps."""
    say(f"$ mailman create {name}")
    world.mailman.command("create", name)
    news = f"+1 list: {name}"
    until(lambda: logged(world, news), f"{news!r} in the log", lambda: end_of_log(world))
    until(lambda: world.is_live(name), f"{name} in postfix_recipients", lambda: "it is not there")
    say(f"The maps are live; that took {seconds_to_live(world):.1f} s. The log says:")
    add(logged(world, news))


def mailed(world: World, name: str) -> None:
    """Send a message to a list, and wait until Mailman has it."""
    sent = world.send(name)
    if not sent.accepted:
        raise StepFailed(f"a message to {name} accepted", as_logged(sent.last))
    say(f"A message is sent to {name}: {as_logged(sent.last)}")
    until(
        lambda: world.received(sent),
        f"the message to {name} in Mailman",
        lambda: f"Mailman has {[message.message_id for message in world.mailman.accepted()]}",
    )
    say(f"Mailman has it, {time.time() - sent.started:.1f} s later.")


def seconds_to_live(world: World) -> float:
    """Return the seconds from Mailman's last write to the map that accepts the mail."""
    written = (world.mailman.data / "postfix_domains").stat().st_mtime
    return max((world.site.maps / "postfix_recipients").stat().st_mtime - written, 0)


def refused(world: World, recipient: str, why: str) -> None:
    """Check that Postfix refuses mail for a recipient."""
    reply = world.send(recipient).last
    if (reply.phase, reply.code) != ("rcpt", 550):
        raise StepFailed(f"RCPT TO:<{recipient}> refused with 550", as_logged(reply))
    say(f"{why} {as_logged(reply)}")


def removed_list(world: World) -> None:
    """Remove a list in Mailman, and check that its mail is refused."""
    say(f"$ mailman remove {BEES}")
    world.mailman.command("remove", BEES)
    until(
        lambda: not world.is_live(BEES),
        f"{BEES} no longer in postfix_recipients",
        lambda: end_of_log(world),
    )
    say(f"The maps no longer have it; that took {seconds_to_live(world):.1f} s.")
    refused(world, BEES, "A message to it:")
    news = f"-1 list: {BEES}"
    until(lambda: logged(world, news), f"{news!r} in the log", lambda: end_of_log(world))
    say("Its routes were removed last, when no queued mail could need them. The log says:")
    add(logged(world, news))


def stopped_and_started(world: World) -> None:
    """Show that the probe reports Mailman down and up, and that deferred mail is then delivered."""
    until(lambda: world.destination().get("up"), "the probe says up", world.destination)
    say("The probe says: up. Now Mailman is stopped.")
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
        raise StepFailed(f"a message to {ANTS} accepted", as_logged(sent.last))
    until(
        lambda: any(message["queue_name"] == "deferred" for message in world.postfix.queue()),
        "the message in the deferred queue",
        world.postfix.queue,
    )
    say("A message is sent and deferred. Now Mailman is started again.")
    world.mailman.start()
    started = time.monotonic()
    until(lambda: world.destination().get("up"), "the probe says up", world.destination)
    found = world.destination()
    say(f"The probe says: up. {found['phase']}: {found['reply']}")
    until(lambda: world.received(sent), "the message in Mailman", lambda: end_of_log(world))
    seconds = time.monotonic() - started
    say(f"The deferred message is delivered {seconds:.1f} s after Mailman's start;")
    add("Postfix alone would have retried it after five minutes.")


def logged(world: World, text: str) -> str:
    """Return the first line of the daemon's log with this text, or an empty text."""
    return next((line for line in world.daemon.messages if text in line), "")


def end_of_log(world: World) -> str:
    """Return the end of the daemon's log."""
    return "the log says:\n" + "\n".join(world.daemon.lines[-LOG_LINES:])


def explain(world: World, error: Exception) -> None:
    """Print what was expected, what happened, and the ends of the logs."""
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
    """Return mtime and size of every path below a directory; links are not followed."""
    found = {}
    for directory, subdirectories, files in os.walk(top):
        for name in (".", *subdirectories, *files):
            path = Path(directory, name)
            with suppress(FileNotFoundError):  # another process has removed it meanwhile
                status = path.lstat()
                found[path] = (status.st_mtime_ns, status.st_size)
    return found


def differences(before: Listing, after: Listing) -> list[str]:
    """Return the paths that were added, removed or changed."""
    return sorted(str(path) for path in before | after if before.get(path) != after.get(path))


if __name__ == "__main__":
    sys.exit(main())
