"""A sandbox's network: what a process does to the network namespace that it is in. Imports nothing of the package."""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41


def raise_loopback() -> None:
    """Set `lo` up, with 127.0.0.1 and ::1 (netdevice(7)); needs CAP_NET_ADMIN over the caller's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", _IFF_UP_RUNNING, b""))
