"""epoll instances across a fork: who has renewed them changes nothing of the parent's, and has what was registered."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable

import pytest

from pytest_sandbox._linux import syscalls
from pytest_sandbox.primitives import polls


def in_fork(call: Callable[[], object]) -> str:
    """What a call in a fork of this process returned, or raised, as text."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            text = repr(call())
        except BaseException as error:  # the parent is to see it
            text = repr(error)
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def test_a_fork_has_its_own() -> None:
    """What it removes, and adds, the parent does not miss or see; without being renewed it does."""
    here, there = socket.socketpair()
    with here, there, select.epoll() as epoll:
        epoll.register(here, select.EPOLLIN)
        there.send(b"x")

        def change() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
            polls.renew(polls.find())
            before = epoll.poll(10)
            epoll.register(there, select.EPOLLOUT)
            epoll.unregister(here)
            return before, epoll.poll(10)

        assert in_fork(change) == repr(([(here.fileno(), select.EPOLLIN)], [(there.fileno(), select.EPOLLOUT)]))
        assert epoll.poll(0) == [(here.fileno(), select.EPOLLIN)]
        assert in_fork(lambda: epoll.unregister(here)) == "None"
        assert epoll.poll(0) == []


def test_all_that_is_registered() -> None:
    """Flags and 64 bits of data, which libraries in C fill as they like, in an instance that is found among other files."""
    here, there = socket.socketpair()
    with here, there, select.epoll() as epoll, select.epoll() as empty, open(os.devnull, "rb"):
        data = 0x1234_5678_9ABC_DEF0
        events = select.EPOLLIN | select.EPOLLET | select.EPOLLONESHOT
        syscalls.epoll_add(epoll.fileno(), here.fileno(), events, data)

        def registered() -> str:
            with open(f"/proc/self/fdinfo/{epoll.fileno()}", encoding="ascii") as file:
                return " ".join(line for line in file if line.startswith("tfd"))

        before = registered()
        assert f"{data:x}" in before
        assert {epoll.fileno(), empty.fileno()} <= set(polls.find())

        def renew() -> tuple[str, bool]:
            polls.renew(polls.find())
            return registered(), os.get_inheritable(epoll.fileno())

        assert in_fork(renew) == repr((before, False))


def test_an_eventfd_wakes_one_process_alone() -> None:
    """One that is registered keeps its count, and who reads it takes nothing from the parent; any other is shared."""
    waking, other = os.eventfd(3, os.EFD_NONBLOCK), os.eventfd(5)
    with select.epoll() as epoll:
        epoll.register(waking, select.EPOLLIN)

        def take() -> tuple[int, bool, int]:
            polls.renew(polls.find())
            return os.eventfd_read(waking), os.get_blocking(waking), os.eventfd_read(other)

        assert in_fork(take) == repr((3, False, 5))
        os.eventfd_write(other, 7)
        assert (os.eventfd_read(waking), os.eventfd_read(other)) == (3, 7)
    os.close(waking)
    os.close(other)


def test_an_eventfd_of_two_epolls() -> None:
    """It is one still, by which both are woken; a semaphore still counts down by one, where the kernel tells which is one."""
    waking = os.eventfd(0, os.EFD_SEMAPHORE)
    with open(f"/proc/self/fdinfo/{waking}", encoding="ascii") as file:
        taken = 1 if "semaphore" in file.read() else 2
    with select.epoll() as one, select.epoll() as two:
        for epoll in (one, two):
            epoll.register(waking, select.EPOLLIN)

        def wake() -> tuple[list[tuple[int, int]], list[tuple[int, int]], int]:
            polls.renew(polls.find())
            os.eventfd_write(waking, 2)
            return one.poll(1), two.poll(1), os.eventfd_read(waking)

        assert in_fork(wake) == repr(([(waking, select.EPOLLIN)], [(waking, select.EPOLLIN)], taken))
        assert one.poll(0) == []
    os.close(waking)


def test_an_epoll_in_another() -> None:
    """Whichever has the lower number: what is registered is the fork's own, by which it is woken."""
    here, there = socket.socketpair()
    with here, there, select.epoll() as low, select.epoll() as high:
        for outer, inner in ((low, high), (high, low)):
            outer.register(inner, select.EPOLLIN)

            def wake(outer: select.epoll = outer, inner: select.epoll = inner) -> list[tuple[int, int]]:
                polls.renew(sorted(polls.find()))
                inner.register(here, select.EPOLLOUT)
                return outer.poll(1)

            assert in_fork(wake) == repr([(inner.fileno(), select.EPOLLIN)])
            outer.unregister(inner)


def test_what_cannot_be_registered_any_more() -> None:
    """A number that now leads to a file, or nowhere, is left out; a number that is no epoll's stays as it is."""
    reading, writing = os.pipe()
    here, there = socket.socketpair()
    with here, there, select.epoll() as epoll, open(os.devnull, "rb") as null:
        epoll.register(reading, select.EPOLLIN)
        epoll.register(there, select.EPOLLOUT)
        os.dup2(null.fileno(), reading)
        polls.renew([epoll.fileno(), null.fileno(), 10**6])
        assert epoll.poll(10) == [(there.fileno(), select.EPOLLOUT)]
        assert null.read() == b""
    os.close(reading)
    os.close(writing)


def test_epoll_add_says_what_is_wrong() -> None:
    """By an OSError with the call and its object."""
    with select.epoll() as epoll, pytest.raises(OSError, match="epoll_ctl EPOLL_CTL_ADD 1000000"):
        syscalls.epoll_add(epoll.fileno(), 10**6, select.EPOLLIN, 0)
