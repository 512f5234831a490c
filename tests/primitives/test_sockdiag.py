"""Who waits for peers in a network namespace: asked in sandboxes, where nobody else does."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from pytest_sandbox import Sandbox
from pytest_sandbox._linux.proc import unix_listeners
from pytest_sandbox._linux.sockdiag import open_netlink, serves_network


def _tcp() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def _tcp6() -> socket.socket:
    return socket.create_server(("::1", 0), family=socket.AF_INET6)


def _udp() -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    return one


def _abstract() -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.bind("\0name")
    one.listen()
    return one


def _bound_only() -> socket.socket:
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    return one


def _path() -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.bind("/tmp/name")
    one.listen()
    return one


@pytest.mark.parametrize(
    ("make", "serves"), [(_tcp, True), (_tcp6, True), (_udp, True), (_abstract, True), (_bound_only, False), (_path, False)]
)
def test_serves_network(make: Callable[[], socket.socket], *, serves: bool) -> None:
    """A socket that waits in the namespace counts; one that is only bound, or is found by a path, does not; nor one closed."""

    def serves_now() -> bool:
        with open_netlink() as netlink:
            return serves_network(netlink, unix_listeners())

    def look() -> list[bool]:
        before = serves_now()
        with make():
            during = serves_now()
        return [before, during, serves_now()]

    assert Sandbox().call(look) == [False, serves, False]
