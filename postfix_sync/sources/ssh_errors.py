"""The errors between this host and Mailman's files over SSH, with hints. Pure.

Each function returns one error: the server (the host, or the bastion before it), what is wrong,
that the last good lists stay in use, and the command that fixes it. A server's text is quoted and
cut.
"""

import math
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from postfix_sync.errors import Missing, NotPermitted, OutOfReach, quote
from postfix_sync.sources.mailman_files import KEPT, NOT_WRITTEN_YET


@dataclass(frozen=True)
class Server:
    """One SSH server: Mailman's host, or the bastion on the way to it."""

    host: str
    port: int
    user: str
    role: str = ""
    """`bastion`, or empty for Mailman's host."""
    behind: str = ""
    """The name of the bastion through which it is reached, or empty."""
    by_hand: str = ""
    """The command that logs in as postfix-sync does, verbosely."""
    greets: str = ""
    """The command that shows what the login shell prints: it logs in, and runs true(1)."""

    def __str__(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return " ".join(part for part in (self.role, f"{name}:{self.port}", self._way()) if part)

    def _way(self) -> str:
        return f"(through {self.behind})" if self.behind else ""

    @property
    def known_as(self) -> str:
        """Return the server's name in a known_hosts file."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


# --- the host's key


def host_key_unknown(
    server: Server, offered: str, other: tuple[str, ...], file: Path
) -> NotPermitted:
    """Return the error for a host key that `file` does not have.

    `offered` is the key as `TYPE FINGERPRINT`; `other` are the host's CAs in `file`.
    """
    expected = f", which requires a certificate by {' or '.join(other)}" if other else ""
    return NotPermitted(
        f"{server}: its host key {offered} is not in {file}{expected}; {KEPT}",
        f"{_compare(server, offered)}; if it is the same: {_scan(server, file)}",
    )


def host_key_changed(
    server: Server, offered: str, known: tuple[str, ...], file: Path
) -> NotPermitted:
    """Return the error for a host whose key differs from its keys in `file`."""
    return NotPermitted(
        f"{server}: its host key has changed, or another host answers: it offers {offered},"
        f" {file} has {', '.join(known)}; {KEPT}",
        f"find out why first. {_compare(server, offered)}; if it is the same:"
        f" ssh-keygen -R {shlex.quote(server.known_as)} -f {shlex.quote(str(file))},"
        f" then {_scan(server, file)}",
    )


def host_key_revoked(server: Server, offered: str, file: Path) -> NotPermitted:
    """Return the error for a key, or the CA that signed it, that `file` marks as @revoked."""
    return NotPermitted(
        f"{server}: its host key {offered} is marked @revoked in {file}; {KEPT}",
        f"anyone with that key can impersonate {server.host}: give the host a new key (there:"
        " rm the old /etc/ssh/ssh_host_*_key, ssh-keygen -A, systemctl restart ssh), then"
        f" {_scan(server, file)}",
    )


def host_certificate(server: Server, offered: str, reason: str, file: Path) -> NotPermitted:
    """Return the error for a host certificate that is invalid, or whose CA `file` does not name."""
    return NotPermitted(
        f"{server}: its host certificate by {offered} is not accepted: {quote(reason)}; {KEPT}",
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
    """Return the error for a known_hosts file that can't be read."""
    return NotPermitted(
        f"{file}: {reason}: no host key can be checked without it; {KEPT}",
        f"{_scan(server, file)}; then compare ssh-keygen -lf {shlex.quote(str(file))} with what"
        f" ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub prints on {server.host}",
    )


def bad_known_hosts(file: Path, line: int, text: str) -> NotPermitted:
    """Return the error for an invalid line of known_hosts: it could be a damaged @revoked line."""
    return NotPermitted(
        f"{file}:{line}: not a line of a known_hosts file: {quote(text)}; {KEPT}",
        "NAME TYPE KEY, as ssh-keyscan prints it; see sshd(8), SSH_KNOWN_HOSTS FILE FORMAT",
    )


def no_identity(file: Path, reason: str) -> NotPermitted:
    """Return the error for a private key that does not exist or can't be read."""
    return NotPermitted(
        f"{file}: {reason}: there is no key to log in with; {KEPT}",
        f"ssh-keygen -t ed25519 -N '' -f {shlex.quote(str(file))}, then authorize it:"
        f" {_authorized_keys(file)}",
    )


def open_identity(file: Path, mode: int) -> NotPermitted:
    """Return the error for a private key that users other than its owner can access."""
    return NotPermitted(
        f"{file}: mode {stat.S_IMODE(mode):04o}: users other than its owner have access to this"
        f" private key; {KEPT}",
        f"chmod 600 {shlex.quote(str(file))}; if another user may have read it, make a new key",
        fix=f"chmod 600 {shlex.quote(str(file))}",
    )


def encrypted_identity(file: Path) -> NotPermitted:
    """Return the error for a private key that needs a passphrase."""
    path = shlex.quote(str(file))
    return NotPermitted(
        f"{file}: this private key needs a passphrase, and postfix-sync can't enter one; {KEPT}",
        f"make a key for postfix-sync alone: ssh-keygen -t ed25519 -N '' -f {path}.new; or remove"
        f" the passphrase: ssh-keygen -p -N '' -f {path}",
    )


def bad_identity(file: Path) -> NotPermitted:
    """Return the error for a file that is not a private key."""
    return NotPermitted(
        f"{file}: not a private key; {KEPT}",
        f"ssh-keygen -y -f {shlex.quote(str(file))} says what is wrong; its public half, in"
        " FILE.pub, is for the other host",
    )


def _authorized_keys(identity: Path) -> str:
    return f'echo "restrict $(ssh-keygen -y -f {shlex.quote(str(identity))})"'


# --- connecting


def login_refused(server: Server, identity: Path, key: str) -> NotPermitted:
    """Return the error for a user whose key, `TYPE FINGERPRINT`, the server refuses."""
    return NotPermitted(
        f"{server}: refuses user {quote(server.user)} with the key {key} of {identity}; {KEPT}",
        f"{_authorized_keys(identity)} prints the line for that user's authorized_keys on"
        f" {server.host}"
        + (" (with restrict,port-forwarding there)" if server.role else "")
        + "; sshd's log there says more: journalctl -u ssh",
    )


def no_sftp(server: Server) -> NotPermitted:
    """Return the error for a server that accepts the login, but starts no SFTP."""
    return NotPermitted(
        f"{server}: user {quote(server.user)} may log in, but there is no SFTP; {KEPT}",
        f"in /etc/ssh/sshd_config on {server.host}: Subsystem sftp internal-sftp, and for that user"
        " ForceCommand internal-sftp -R; then: systemctl reload ssh",
    )


def not_sftp(server: Server, said: bytes) -> NotPermitted:
    """Return the error for a server that sends a text, whose beginning is `said`, before SFTP."""
    return NotPermitted(
        f"{server}: user {quote(server.user)} may log in, but what comes is not SFTP:"
        f" {quote(said.decode('utf-8', 'replace'))}; {KEPT}",
        f"the login shell prints that; this command must print nothing: {server.greets};"
        f" remove the output from that user's .bashrc on {server.host}, or start no shell: in"
        " /etc/ssh/sshd_config there, Subsystem sftp internal-sftp; then: systemctl reload ssh",
    )


SETTINGS = {
    "key exchange": "KexAlgorithms",
    "host key": "HostKeyAlgorithms",
    "encryption": "Ciphers",
    "MAC": "MACs",
}
"""The setting of sshd_config(5) for each kind of algorithm, by asyncssh's name for the kind."""

USUAL = ("curve25519-sha256", "ssh-ed25519", "aes128-gcm@openssh.com", "hmac-sha2-256")
"""Algorithms that every OpenSSH of the last ten years has, one of each kind."""

OFFER_AT_MOST = 2000
"""Characters of a server's offer in a message; OpenSSH's longest default has about 600."""


def nothing_in_common(
    server: Server, what: str, ours: Sequence[str], theirs: Sequence[str]
) -> NotPermitted:
    """Return the error for a server with which there is no common algorithm of the kind `what`."""
    setting = SETTINGS.get(what, "algorithms")
    more = "; ssh-keygen -A makes missing host keys" if what == "host key" else ""
    return NotPermitted(
        f"{server}: no common {what} algorithm: the server permits"
        f" {quote(', '.join(theirs), OFFER_AT_MOST)}, postfix-sync {', '.join(ours)}; {KEPT}",
        f"on {server.host}, see where it is set: grep -ri {setting} /etc/ssh/sshd_config*; permit"
        f" one: {setting} +{_preferred(ours)}{more}; then: systemctl reload ssh",
    )


def _preferred(ours: Sequence[str]) -> str:
    """Return the first algorithm that is not a certificate's, and that current versions have."""
    known = [name for name in ours if "-cert-" not in name]
    return next((name for name in known if name in USUAL), known[0] if known else "")


def no_forwarding(server: Server, bastion: Server, reason: str) -> NotPermitted:
    """Return the error for a bastion that does not permit connections to the host."""
    return NotPermitted(
        f"{bastion}: does not forward to {server.host}:{server.port}: {quote(reason)}; {KEPT}",
        f"on {bastion.host}, for user {bastion.user}: AllowTcpForwarding local in sshd_config, and"
        " restrict,port-forwarding (not restrict alone) in authorized_keys",
    )


def unreachable(server: Server, reason: str, hint: str = "") -> OutOfReach:
    """Return the error for a server that does not answer as an SSH server; it may be transient."""
    return OutOfReach(f"{server}: {reason}; {KEPT}", hint or _try_it(server))


def thrown_out(server: Server) -> str:
    """Return the hint if a server closes the connection right after the login."""
    return (
        f"journalctl -u ssh on {server.host} says why; often ChrootDirectory or a directory above"
        " it does not belong to root, or others may write to it"
    )


def _try_it(server: Server) -> str:
    return f"see where it fails, as root: {server.by_hand}"


def by_hand(
    server: Server, identity: Path, known_hosts: Path, timeout: float, bastion: Server | None
) -> Server:
    """Add the commands that log in with the same files as postfix-sync, and no others.

    `by_hand` is verbose, starts SFTP and ends; `greets` runs true(1). `timeout` is in seconds, for
    each connection. The commands use ProxyCommand, because with `-J` the options would not apply to
    the bastion (ssh(1)).
    """
    same = ["-F", "none", "-i", str(identity)]
    for option in (
        "IdentitiesOnly=yes",
        f"UserKnownHostsFile={known_hosts}",
        "GlobalKnownHostsFile=/dev/null",
        f"ConnectTimeout={math.ceil(timeout)}",
    ):
        same += ["-o", option]
    host = f"[{server.host}]" if ":" in server.host else server.host
    batch = ["-o", "BatchMode=yes"]

    def way(*verbose: str) -> list[str]:
        if not bastion:
            return [*verbose, *same]
        to = f"{bastion.user}@{bastion.host}"
        port = ["-p", str(bastion.port)]
        proxy = shlex.join(["ssh", *verbose, *same, *batch, *port, "-W", "%h:%p", to])
        return [*verbose, *same, "-o", f"ProxyCommand={proxy}"]

    port = str(server.port)
    sftp = ["sftp", *way("-v"), "-b", "/dev/null", "-P", port, f"{server.user}@{host}"]
    ssh = ["ssh", *way(), *batch, "-p", port, f"{server.user}@{server.host}", "true"]
    return replace(server, by_hand=shlex.join(sftp), greets=shlex.join(ssh))


# --- files on the other host


def missing(place: str, server: Server, directory: PurePosixPath, *, there: bool) -> Missing:
    """Return the error for a file that does not exist; `there`: whether its directory exists."""
    return Missing(
        f"{place}: No such file or directory; {KEPT}",
        NOT_WRITTEN_YET
        if there
        else f"is {directory} Mailman's var/data, as user {server.user} sees it on {server.host}?"
        " With ChrootDirectory, paths begin below that directory",
    )


def denied(
    place: str, server: Server, path: PurePosixPath, owner: str, group: int | None
) -> NotPermitted:
    """Return the error for a file or directory that the user is not permitted to read.

    `owner` is the text about owner and mode of `path`; `group` is the GID that has read permission,
    None if no group has it.
    """
    # By number: a group in a container mostly has no name on its host.
    join = (
        f"usermod -aG {group} {shlex.quote(server.user)} (if that group has no name there, first:"
        f" groupadd -g {group} mailman-maps)"
    )
    return NotPermitted(
        f"{place}: user {quote(server.user)} is not permitted to read it ({owner}); {KEPT}",
        f"on {server.host}, as root: "
        + (f"chmod o+rX {shlex.quote(str(path))}" if group is None else join),
    )
