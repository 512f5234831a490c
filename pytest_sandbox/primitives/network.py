"""A sandbox's network: what a process does to the network namespace that it is in. Imports `_linux`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

from pytest_sandbox._linux.sockets import Socket

_SIOCSIFFLAGS, _SIOCSIFADDR = 0x8914, 0x8916
_IFF_UP_RUNNING = 0x41
_NEW_QDISC, _FLAGS = 36, 0x405  # RTM_NEWQDISC; NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
_NLMSG_ERROR = 2
_ROOT = 0xFFFFFFFF  # TC_H_ROOT
_LOOPBACK = 1  # its index, in every network namespace
_KIND, _OPTIONS, _PARAMETERS, _RATE, _BURST = 1, 2, 1, 4, 6  # TCA_KIND, TCA_OPTIONS, TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST
_HEADER = struct.Struct("=IHHII")
_TCMSG = struct.Struct("=BxxxiIII")
_RATESPEC = struct.Struct("=BBHhHI")
_LARGEST_RATE = 0xFFFFFFFF
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: no table of rates is needed
#: Bytes that pass at once: one packet of the loopback's MTU, 64 KiB, must, or it is dropped for ever.
_LEAST_BURST = 1 << 17
#: Bytes that may wait, and for how many seconds of the rate: what comes on top is dropped, which slows TCP down.
_LEAST_QUEUE = 1 << 19


def raise_loopback() -> None:
    """Set `lo` up, with 127.0.0.1 and ::1 (netdevice(7)); needs CAP_NET_ADMIN over the caller's network namespace.

    And with 127.0.0.2 and fe80::1: for getaddrinfo(3) with AI_ADDRCONFIG, by which many look up "localhost", a machine that has
    the first two alone has no address at all. Where there is no IPv6 there is none to be had.
    """
    with Socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", _IFF_UP_RUNNING, b""))
        second = struct.pack("16sHH4s8s", b"lo:2", socket.AF_INET, 0, socket.inet_pton(socket.AF_INET, "127.0.0.2"), b"")
        fcntl.ioctl(control, _SIOCSIFADDR, second)
    with contextlib.suppress(OSError), Socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFADDR, socket.inet_pton(socket.AF_INET6, "fe80::1") + struct.pack("=Ii", 64, _LOOPBACK))


def bandwidth(rate: int) -> bytes:
    """The message that makes the loopback device carry at most `rate` bytes a second, both ways together: rtnetlink(7).

    By the token bucket filter, tc-tbf(8): what is too much waits, half a second of it at least, and what is more is dropped.
    """
    specification = _RATESPEC.pack(0, _ETHERNET, 0, 0, 0, min(rate, _LARGEST_RATE))
    queue, burst = max(_LEAST_QUEUE, min(rate // 2, 1 << 30)), max(_LEAST_BURST, min(rate // 100, 1 << 30))
    parameters = specification + bytes(_RATESPEC.size) + struct.pack("=III", queue, 0, 0)
    options = _attribute(_PARAMETERS, parameters) + _attribute(_RATE, struct.pack("=Q", rate))
    options += _attribute(_BURST, struct.pack("=I", burst))
    body = _TCMSG.pack(0, _LOOPBACK, 1 << 16, _ROOT, 0) + _attribute(_KIND, b"tbf\0") + _attribute(_OPTIONS, options)
    return _HEADER.pack(_HEADER.size + len(body), _NEW_QDISC, _FLAGS, 1, 0) + body


def _attribute(kind: int, data: bytes) -> bytes:
    """As rtnetlink(7) has them: length, kind, data, and zeros up to four bytes."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def route(message: bytes) -> None:
    """Send a message of `bandwidth`; OSError with what the kernel says to it. Needs CAP_NET_ADMIN as `raise_loopback` does."""
    with Socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.send(message)
        _, kind, _, _, _, error = struct.unpack_from("=IHHIIi", netlink.recv(1 << 12))
    if kind != _NLMSG_ERROR or error:
        raise OSError(-error, os.strerror(-error), "limit the bandwidth of the loopback device (tbf)")
