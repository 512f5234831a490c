"""Keeps these tests off the machine: they wreck whatever they touch."""

import os

import pytest

# Read in the process that collects, which stays outside of every sandbox.
OUTSIDE = os.readlink("/proc/self/ns/mnt")


@pytest.fixture(autouse=True)
def _inside_only():
    """Refuse to run a test that is not in a mount namespace of its own."""
    if os.readlink("/proc/self/ns/mnt") == OUTSIDE:
        pytest.exit("these tests wreck what they touch: run them by `pytest --sandbox examples`", returncode=4)
