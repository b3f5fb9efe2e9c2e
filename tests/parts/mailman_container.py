"""Imitations of well-known Mailman images, with the real Docker in a booted host and real Mailman.

    mx.path("/root/image.tar").write_bytes(tar(SAMPLE))
    mx.run("docker", "import", "/root/image.tar", SAMPLE.name)

An image is nearly empty: the host's /usr, with Debian's Mailman, is mounted into the container.
Its entry point is written here, and agrees with that of the real image in all that is visible
outside: Mailman's user, the place and format of its files, its LMTP address, and its `postmap`.
Otherwise it differs: SQLite replaces PostgreSQL, and of Mailman's runners only the LMTP server is
started, so that accepted mail stays in Mailman's queue.
"""

from dataclasses import dataclass

from .root_image import root_image

PACKAGES = ("docker.io", "iptables", "mailman3")
"""The packages that the host needs."""

OPTIONS = ("--capability=CAP_NET_ADMIN", "--system-call-filter=@keyring bpf")
"""systemd-nspawn's permissions for the host: bridges and NAT; runc's key rings and eBPF."""

_IDLE = (
    *("archive", "bounces", "command", "digest", "in", "nntp", "out", "pipeline", "rest"),
    *("retry", "task", "virgin"),
)
ONLY_LMTP = "".join(f"[runner.{name}]\nstart: no\n" for name in _IDLE)
"""Lines of mailman.cfg that start only the LMTP server of Mailman's thirteen runners."""

_ENTRY = """\
#!/bin/sh
set -e
cat >/etc/postfix-mailman.cfg <<END
[postfix]
postmap_command: {postmap}
transport_file_type: {table}
END
cat >/etc/mailman.cfg <<END
[mailman]
layout: here
[paths.here]
var_dir: /opt/mailman/var
bin_dir: /usr/lib/mailman3/bin
[mta]
incoming: mailman.mta.postfix.LMTP
outgoing: mailman.mta.deliver.deliver
lmtp_host: $({lmtp_host})
lmtp_port: 8024
configuration: /etc/postfix-mailman.cfg
{only_lmtp}END
mkdir -p /opt/mailman/var
chown -R {user} {owned}
as() {{ setpriv --reuid={user} --regid={group} --clear-groups "$@"; }}
{before}exec setpriv --reuid={user} --regid={group} --clear-groups \
    /usr/lib/mailman3/bin/master -C /etc/mailman.cfg --force
"""


@dataclass(frozen=True)
class Image:
    """An imitated image."""

    name: str
    user: int
    group: int
    owned: str
    """The paths whose owner becomes Mailman's user at each start."""
    lmtp_host: str
    """The command that prints it."""
    table: str
    postmap: str
    before: str = ""
    """Commands that are run before Mailman."""

    @property
    def entry(self) -> str:
        """The text of its entry point."""
        return _ENTRY.format(**{**vars(self), "only_lmtp": ONLY_LMTP})


SAMPLE = Image(
    "alexbarcelo/mailman3",
    user=999,
    group=999,
    owned="/opt/mailman",
    lmtp_host="hostname",
    table="hash",
    # In the real image, /usr/sbin/postmap is a copy of true.
    postmap="/bin/true",
)
DOCKER_MAILMAN = Image(
    "maxking/mailman-core:0.4",
    user=100,
    group=65533,
    owned="/opt/mailman/var",
    lmtp_host="echo ${MM_HOSTNAME:-$(hostname -i)}",
    table="regex",
    postmap="true",
    before="as mailman -C /etc/mailman.cfg aliases\n",
)


def tar(image: Image) -> bytes:
    """Return a root file system with the entry point and empty directories for mounts."""
    mailman = f"mailman:x:{image.user}:{image.group}::/:/bin/sh\n"
    files = {
        "entry": (image.entry, 0o755),
        "etc/passwd": (f"root:x:0:0::/root:/bin/sh\n{mailman}", 0o644),
        "etc/group": (f"root:x:0:\nmailman:x:{image.group}:\n", 0o644),
    }
    return root_image("opt", "opt/mailman", files=files)
