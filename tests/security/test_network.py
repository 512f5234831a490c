"""The network: a private loopback, and nothing else."""

from __future__ import annotations

import socket
from typing import Any

import pytest


def test_nothing_outside_can_be_reached(attack: Any) -> None:
    """Connecting and sending to any address outside fails at once: ENETUNREACH; names are not resolved by the machine."""
    attack.write("""
ADDRESSES = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "169.254.169.254"), (socket.AF_INET, "10.0.0.1"),
             (socket.AF_INET6, "2001:db8::1"), (socket.AF_INET, "224.0.0.1"), (socket.AF_INET6, "ff02::1")]
@pytest.mark.parametrize("family, address", ADDRESSES)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_outside(family, address, kind):
    inner.assert_inside()
    with socket.socket(family, kind) as client:
        client.setblocking(False)  # what is not refused at once is under way: EINPROGRESS
        if kind == socket.SOCK_STREAM:
            got = inner.code(lambda: client.connect((address, 9)))
        else:
            got = inner.code(lambda: client.sendto(b"x", (address, 9)))
    assert got in (errno.ENETUNREACH, errno.EADDRNOTAVAIL), errno.errorcode.get(got, got)
def test_only_loopback():
    names = [name for _, name in socket.if_nameindex()]
    # Kernels with tunnels built in give each network namespace one of a kind, which is down: sit0, tunl0.
    up = [name for name in names if int(open(f"/sys/class/net/{name}/flags").read(), 16) & 1]
    assert up == ["lo"] and all(name == "lo" or name.endswith("0") for name in names), names
    inner.assert_inside()
    def make():
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW): pass
    assert os.getuid() == 0 or inner.code(make) == errno.EPERM
    if os.path.exists("/sbin/ip"):
        made = subprocess.run(["/sbin/ip", "link", "add", "x", "type", "dummy"], capture_output=True, check=False)
        assert made.returncode != 0
""")
    result = attack.run()
    result.passed(*result.cases)
    assert len(result.cases) == 14


def test_services_of_the_machine_are_not_reached(attack: Any) -> None:
    """A server on the machine's loopback, IPv4 and IPv6, and on a name in the abstract name space, gets no connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        attack.facts |= {"port": server.getsockname()[1], "udp": datagrams.getsockname()[1]}
        attack.write("""
def test_connect():
    inner.assert_inside()
    for address in ("127.0.0.1", "localhost", "0.0.0.0"):
        assert inner.code(lambda: socket.create_connection((address, FACTS["port"]), 5).close()) == errno.ECONNREFUSED
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", FACTS["udp"]))
""")
        attack.run().passed("test_connect", "test_next")
        for each, attempt in ((server, server.accept), (datagrams, lambda: datagrams.recv(10))):
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                attempt()


def test_two_tests_bind_one_port(attack: Any) -> None:
    """The same port is free for each test, even while the machine itself uses it, and none of them reaches the machine's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        attack.facts["port"] = server.getsockname()[1]
        attack.write("""
@pytest.mark.parametrize("n", [1, 2, 3])
def test_bind(n):
    inner.assert_inside()
    with socket.create_server(("127.0.0.1", FACTS["port"])) as server:
        client = socket.create_connection(("127.0.0.1", FACTS["port"]), 5)
        other, _ = server.accept()
        client.sendall(b"mine")
        assert other.recv(10) == b"mine"
        client.close()
        other.close()
        inner.daemon(inner.sleeper("x"))
""")
        attack.run().passed("test_bind[1]", "test_bind[2]", "test_bind[3]", "test_next")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
