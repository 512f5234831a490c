"""Every test has a network of its own, with nothing in it but a loopback."""

import errno
import os
import socket

import pytest

# Ports below 1024 are root's, inside as outside.
PORT = 80 if os.geteuid() == 0 else 8080


def serve_and_fetch(text):
    """Listen on the port, connect to it, and give back what comes through."""
    with socket.create_server(("127.0.0.1", PORT)) as server, socket.create_connection(("127.0.0.1", PORT)) as client:
        connection, _ = server.accept()
        with connection:
            connection.sendall(text)
        return client.recv(100)


def test_binds_a_port():
    """It is free, whatever the machine serves there."""
    assert serve_and_fetch(b"first") == b"first"


def test_binds_the_same_port():
    """Even if both ran at once."""
    assert serve_and_fetch(b"second") == b"second"


def test_reaches_nobody():
    """There is no way out, for Python or for anything that it starts: a refusal at once, not a time-out."""
    with pytest.raises(OSError, match="unreachable") as caught:
        socket.create_connection(("192.0.2.1", 80), timeout=10)
    assert caught.value.errno == errno.ENETUNREACH
