"""What can be wrong between this host and Mailman's files over SSH, in an operator's words.

Each function makes one error: who (the host, or the bastion before it), what is wrong, that the
last good maps stay, and the command that mends it. What a server said is quoted and cut.
"""

import math
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from postfix_sync.errors import Missing, NotPermitted, OutOfReach, quote
from postfix_sync.sources.mailman_files import NOT_WRITTEN_YET

STAY = "the last good maps stay"


@dataclass(frozen=True)
class Server:
    """One SSH server: Mailman's host, or the bastion on the way to it."""

    host: str
    port: int
    user: str
    role: str = ""
    """`bastion`, or nothing."""
    behind: str = ""
    """The name of the bastion through which it is reached, or nothing."""
    by_hand: str = ""
    """The command that logs in there as postfix-sync does, and says what happens."""

    def __str__(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return " ".join(part for part in (self.role, f"{name}:{self.port}", self._way()) if part)

    def _way(self) -> str:
        return f"(through {self.behind})" if self.behind else ""

    @property
    def known_as(self) -> str:
        """Its name in a known_hosts file."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


# --- the host's key


def host_key_unknown(
    server: Server, offered: str, other: tuple[str, ...], file: Path
) -> NotPermitted:
    """The host key, `TYPE FINGERPRINT`, is none of those in `file` (`other`: its CAs there)."""
    expected = f", which wants a certificate of {' or '.join(other)}" if other else ""
    return NotPermitted(
        f"{server}: its host key {offered} is not in {file}{expected}; {STAY}",
        f"{_compare(server, offered)}; if it is the same: {_scan(server, file)}",
    )


def host_key_changed(
    server: Server, offered: str, known: tuple[str, ...], file: Path
) -> NotPermitted:
    """The host has another key than those that `file` knows it by."""
    return NotPermitted(
        f"{server}: its host key has changed, or another host answers: it offers {offered},"
        f" {file} has {', '.join(known)}; {STAY}",
        f"find out why first. {_compare(server, offered)}; if it is the same:"
        f" ssh-keygen -R {shlex.quote(server.known_as)} -f {shlex.quote(str(file))},"
        f" then {_scan(server, file)}",
    )


def host_key_revoked(server: Server, offered: str, file: Path) -> NotPermitted:
    """A line of `file` marks the key, or the CA that signed it, as @revoked."""
    return NotPermitted(
        f"{server}: its host key {offered} is marked @revoked in {file}; {STAY}",
        f"whoever has that key can pass for {server.host}: give the host a new one (there:"
        " rm the old /etc/ssh/ssh_host_*_key, ssh-keygen -A, systemctl restart ssh), then"
        f" {_scan(server, file)}",
    )


def host_certificate(server: Server, offered: str, reason: str, file: Path) -> NotPermitted:
    """The host's certificate is not good, or not by a CA that `file` names for this host."""
    return NotPermitted(
        f"{server}: its host certificate by {offered} is not accepted: {quote(reason)}; {STAY}",
        f"compare with the @cert-authority lines of {file}; what the certificate says, on"
        f" {server.host}: ssh-keygen -Lf /etc/ssh/ssh_host_ed25519_key-cert.pub",
    )


def _compare(server: Server, offered: str) -> str:
    kind = offered.partition(" ")[0]
    name = "rsa" if "rsa" in kind else "ecdsa" if "ecdsa" in kind else "ed25519"
    return f"on {server.host}, compare it with: ssh-keygen -lf /etc/ssh/ssh_host_{name}_key.pub"


def _scan(server: Server, file: Path) -> str:
    port = f"-p {server.port} " if server.port != 22 else ""
    command = f"ssh-keyscan {port}{shlex.quote(server.host)}"
    if server.behind:
        return f"append what {command} prints on the {server.behind} to {file}"
    return f"{command} >> {shlex.quote(str(file))}"


# --- files on this host


def no_known_hosts(file: Path, reason: str, server: Server) -> NotPermitted:
    """There is nothing to know hosts by."""
    return NotPermitted(
        f"{file}: {reason}: no host key can be checked without it; {STAY}",
        f"{_scan(server, file)}; then compare ssh-keygen -lf {shlex.quote(str(file))} with what"
        f" ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub prints on {server.host}",
    )


def bad_known_hosts(file: Path, line: int, text: str) -> NotPermitted:
    """A line that can't be read could have been a @revoked one."""
    return NotPermitted(
        f"{file}:{line}: no line of a known_hosts file: {quote(text)}; {STAY}",
        "NAME TYPE KEY, as ssh-keyscan prints it; see sshd(8), SSH_KNOWN_HOSTS FILE FORMAT",
    )


def no_identity(file: Path, reason: str) -> NotPermitted:
    """The private key is not there, or can't be read."""
    return NotPermitted(
        f"{file}: {reason}: there is no key to log in with; {STAY}",
        f"ssh-keygen -t ed25519 -N '' -f {shlex.quote(str(file))}, then let it in:"
        f" {_authorized_keys(file)}",
    )


def open_identity(file: Path, mode: int) -> NotPermitted:
    """Others than its owner can read the private key."""
    return NotPermitted(
        f"{file}: mode {stat.S_IMODE(mode):04o}: others than its owner have access to this private"
        f" key; {STAY}",
        f"chmod 600 {shlex.quote(str(file))}; if somebody may have read it, make a new one",
        fix=f"chmod 600 {shlex.quote(str(file))}",
    )


def encrypted_identity(file: Path) -> NotPermitted:
    """The private key needs a passphrase."""
    path = shlex.quote(str(file))
    return NotPermitted(
        f"{file}: this private key needs a passphrase, and a daemon has nobody to ask for it;"
        f" {STAY}",
        f"make one for postfix-sync alone: ssh-keygen -t ed25519 -N '' -f {path}.new; or take the"
        f" passphrase off: ssh-keygen -p -N '' -f {path}",
    )


def bad_identity(file: Path) -> NotPermitted:
    """Something else than a private key."""
    return NotPermitted(
        f"{file}: this is no private key; {STAY}",
        f"ssh-keygen -y -f {shlex.quote(str(file))} says what is wrong; its public half, in"
        " FILE.pub, is for the other host",
    )


def _authorized_keys(identity: Path) -> str:
    return f'echo "restrict $(ssh-keygen -y -f {shlex.quote(str(identity))})"'


# --- connecting


def login_refused(server: Server, identity: Path, key: str) -> NotPermitted:
    """The server doesn't let this user in with this key, `TYPE FINGERPRINT`."""
    return NotPermitted(
        f"{server}: refuses user {quote(server.user)} with the key {key} of {identity}; {STAY}",
        f"{_authorized_keys(identity)} prints the line for that user's authorized_keys on"
        f" {server.host}"
        + (" (with restrict,port-forwarding there)" if server.role else "")
        + "; sshd's log there says more: journalctl -u ssh",
    )


def no_sftp(server: Server) -> NotPermitted:
    """Logged in, but no SFTP session comes about."""
    return NotPermitted(
        f"{server}: user {quote(server.user)} may log in, but there is no SFTP; {STAY}",
        f"in /etc/ssh/sshd_config on {server.host}: Subsystem sftp internal-sftp, and for that user"
        " ForceCommand internal-sftp -R; then: systemctl reload ssh",
    )


def no_forwarding(server: Server, bastion: Server, reason: str) -> NotPermitted:
    """The bastion does not connect anybody to the host."""
    return NotPermitted(
        f"{bastion}: does not forward to {server.host}:{server.port}: {quote(reason)}; {STAY}",
        f"on {bastion.host}, for user {bastion.user}: AllowTcpForwarding local in sshd_config, and"
        " restrict,port-forwarding (not restrict alone) in authorized_keys",
    )


def unreachable(server: Server, reason: str, hint: str = "") -> OutOfReach:
    """The server is not there, is not one, or has gone; trying again may help."""
    return OutOfReach(f"{server}: {reason}; {STAY}", hint or _try_it(server))


def thrown_out(server: Server) -> str:
    """The hint where a server ends the connection as soon as it has let the user in."""
    return (
        f"journalctl -u ssh on {server.host} says why; often ChrootDirectory or a directory above"
        " it does not belong to root, or others may write to it"
    )


def _try_it(server: Server) -> str:
    return f"see where it fails, as root: {server.by_hand}"


def by_hand(
    server: Server, identity: Path, known_hosts: Path, timeout: float, bastion: Server | None
) -> str:
    """The command that logs in as postfix-sync does, with the same files and no others, verbosely.

    It starts SFTP, asks for nothing, and ends. `timeout` is in seconds, for each connection. A
    `-J` would not do: the options for the host do not hold for the bastion then (ssh(1)).
    """
    same = ["-v", "-F", "none", "-i", str(identity)]
    for option in (
        "IdentitiesOnly=yes",
        f"UserKnownHostsFile={known_hosts}",
        "GlobalKnownHostsFile=/dev/null",
        f"ConnectTimeout={math.ceil(timeout)}",
    ):
        same += ["-o", option]
    way = []
    if bastion:
        port = ["-p", str(bastion.port)]
        batch = ["-o", "BatchMode=yes"]
        to = f"{bastion.user}@{bastion.host}"
        proxy = shlex.join(["ssh", *same, *batch, *port, "-W", "%h:%p", to])
        way = ["-o", f"ProxyCommand={proxy}"]
    host = f"[{server.host}]" if ":" in server.host else server.host
    to = f"{server.user}@{host}"
    return shlex.join(["sftp", *same, *way, "-b", "/dev/null", "-P", str(server.port), to])


# --- files on the other host


def missing(place: str, server: Server, directory: PurePosixPath, *, there: bool) -> Missing:
    """A file that must be there is not; `there`: its directory is."""
    return Missing(
        f"{place}: No such file or directory; {STAY}",
        NOT_WRITTEN_YET
        if there
        else f"is {directory} Mailman's var/data, as user {server.user} sees it on {server.host}?"
        " With ChrootDirectory, paths begin below that directory",
    )


def denied(
    place: str, server: Server, path: PurePosixPath, owner: str, group: int | None
) -> NotPermitted:
    """The user may not read a file, or not enter a directory.

    `owner` says of `path` whose it is; `group` is the GID that may read it, if one may.
    """
    # By its number: in a container's files it mostly has no name on the host.
    join = (
        f"usermod -aG {group} {shlex.quote(server.user)} (if that group has no name there, first:"
        f" groupadd -g {group} mailman-maps)"
    )
    return NotPermitted(
        f"{place}: user {quote(server.user)} may not read it ({owner}); {STAY}",
        f"on {server.host}, as root: "
        + (f"chmod o+rX {shlex.quote(str(path))}" if group is None else join),
    )
