"""Look up a host name as lmtp(8) does: a program that lmtp_resolver.py runs by its path.

It needs a process of its own, because it takes on the user and the chroot of lmtp(8), and because
libc keeps what it has read of nsswitch.conf and resolv.conf. Like Postfix, it looks up its user
before it enters the chroot. From then on libc (glibc 2.33 and later; measured with 2.36) follows
the nsswitch.conf outside of the chroot and ignores the copy inside, here as in lmtp(8).

The only argument is a JSON object: `name`; `dns`, whether to query only the DNS, as Postfix's own
DNS client does, or all that getaddrinfo(3) uses; `search`, whether the DNS is also queried under
the domains of resolv.conf; `family` as in socket(2), or 0 for any; `user` to become and `root` to
enter, each of which may be null. The program prints `{"addresses": […], "unanswered": whether a
later lookup may find more, "said": why there is no address}`, or `{"denied": why the lookup is
not possible}`.

It uses only the standard library, and no module that looks up a host name itself.
"""

import ctypes
import json
import os
import pwd
import socket
import sys
from typing import Any

_TRANSIENT = {socket.EAI_AGAIN, socket.EAI_MEMORY, socket.EAI_SYSTEM}
"""The errors after which Postfix tries again later: RETRY_AI_ERROR in its myaddrinfo.h."""


def become(user: str | None, root: str | None) -> None:
    """Take on a user and a chroot. Raises OSError, or KeyError if there is no such user."""
    account = pwd.getpwnam(user) if user else None
    if root:
        os.chroot(root)
        os.chdir("/")
    if account:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)


def look_up(request: dict[str, Any]) -> dict[str, Any]:
    """Look up the name of a request; return the answer.

    Raises AttributeError if libc cannot be restricted to the DNS, as with musl.
    """
    name = request["name"].encode()  # as bytes: within the chroot, no codec can be loaded
    if request["dns"]:
        ctypes.CDLL(None).__nss_configure_lookup(b"hosts", b"dns")
        name += b"" if request["search"] else b"."
    try:
        found = socket.getaddrinfo(name, None, request["family"], socket.SOCK_STREAM)
    except socket.gaierror as error:
        unanswered = error.errno in _TRANSIENT
        return {"addresses": [], "unanswered": unanswered, "said": error.strerror}
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return {"addresses": addresses, "unanswered": False, "said": ""}


def main() -> None:
    """Read the argument, look up the name, print the answer."""
    request = json.loads(sys.argv[1])
    try:
        become(request["user"], request["root"])
        answer = look_up(request)
    except (OSError, KeyError, AttributeError) as error:
        answer = {"denied": getattr(error, "strerror", None) or str(error)}
    print(json.dumps(answer))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
