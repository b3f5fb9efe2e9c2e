"""Whether an address is behind a bridge of this host, as in a container's network, or on a LAN."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.usefixtures("root")]

PROGRAM = """
from ipaddress import ip_address
from postfix_sync.system.interfaces import is_behind_bridge
print(*(is_behind_bridge(ip_address(text)) for text in %r))
"""


def test_address_behind_a_bridge_differs_from_one_on_a_lan() -> None:
    addresses = ["172.30.0.7", "fd00:7::7", "192.168.77.7", "203.0.113.7"]
    script = f"""
        ip link set lo up
        ip link add br0 type bridge; ip link set br0 up
        ip link add lan0 type veth peer name lan1
        ip link set lan0 up; ip link set lan1 up
        ip link add c0 type veth peer name c1
        ip link set c0 master br0; ip link set c0 up; ip link set c1 up
        ip addr add 172.30.0.1/24 dev br0 && ip addr add fd00:7::1/64 dev br0 nodad
        ip addr add 192.168.77.1/24 dev lan0
        exec {sys.executable} -c "$PROGRAM"
    """
    done = subprocess.run(
        ["unshare", "-n", "sh", "-ec", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PROGRAM": PROGRAM % addresses},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["True", "True", "False", "False"], done
