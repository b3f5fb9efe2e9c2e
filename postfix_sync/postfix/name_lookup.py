"""Looks a host name up as lmtp(8) would. A program of its own: lmtp_resolver.py runs it, by its path.

It has to be a process for itself, because it takes on the user and the chroot that lmtp(8) has, and
because libc keeps what it once read of nsswitch.conf and resolv.conf. Like Postfix, it asks for its
user before it enters the chroot. From then on libc (glibc 2.33 and later; measured with 2.36) goes
by the nsswitch.conf outside, whatever the chroot's says, here as in lmtp(8).

The only argument is a JSON object: `name`; `dns`, whether to ask the DNS alone, as Postfix's own
client of it does, or all that getaddrinfo(3) asks; `search`, whether the DNS is asked under the
domains of resolv.conf as well; `family` as in socket(2), or 0 for any; `user` to become and `root`
to enter, each may be null. On standard output: `{"addresses": […], "unanswered": whether another
try may find more, "said": why there is none}`, or `{"denied": why no such lookup can be made}`.

Standard library only, and nothing that looks a host up on the way.
"""

import ctypes
import json
import os
import pwd
import socket
import sys
from typing import Any

_TRANSIENT = {socket.EAI_AGAIN, socket.EAI_MEMORY, socket.EAI_SYSTEM}
"""What Postfix takes as a reason to try again later: RETRY_AI_ERROR in its myaddrinfo.h."""


def become(user: str | None, root: str | None) -> None:
    """Takes on a user and a chroot. Raises OSError, or KeyError where there is no such user."""
    account = pwd.getpwnam(user) if user else None
    if root:
        os.chroot(root)
        os.chdir("/")
    if account:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)


def look_up(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer. Raises AttributeError where libc can't be told to ask the DNS alone."""
    name = asked["name"].encode()  # bytes, because a codec could not be loaded any more
    if asked["dns"]:
        ctypes.CDLL(None).__nss_configure_lookup(b"hosts", b"dns")
        name += b"" if asked["search"] else b"."
    try:
        found = socket.getaddrinfo(name, None, asked["family"], socket.SOCK_STREAM)
    except socket.gaierror as error:
        unanswered = error.errno in _TRANSIENT
        return {"addresses": [], "unanswered": unanswered, "said": error.strerror}
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return {"addresses": addresses, "unanswered": False, "said": ""}


def main() -> None:
    """Reads the argument, prints the answer."""
    asked = json.loads(sys.argv[1])
    try:
        become(asked["user"], asked["root"])
        answer = look_up(asked)
    except (OSError, KeyError, AttributeError) as error:
        answer = {"denied": getattr(error, "strerror", None) or str(error)}
    print(json.dumps(answer))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
