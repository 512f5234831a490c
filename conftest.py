"""The suite's own plugins, and how tests say what they need. `pytester` can only be asked for here, in the root conftest."""

import importlib.util
import os
import pathlib
import signal

import pytest

from pytest_sandbox import capabilities

pytest_plugins = ["pytester"]

# In a checkout that is used as it is, the compiled parts are as old as their last build.
_parts = pathlib.Path(__file__).parent / "pytest_sandbox" / "_linux" / "native"
for _source, _built in ((_parts / "enter.c", _parts / "enter.so"), (_parts / "init.c", _parts / "init")):
    if _source.exists() and _built.exists() and _source.stat().st_mtime > _built.stat().st_mtime:
        raise pytest.UsageError(f"{_built.name} is older than {_source.name}: run python hatch_build.py")

# Who sets this has installed what the tests need, as tests/run.py does: none is to be skipped for want of it.
if os.environ.get("SANDBOX_TESTS_LACK_NOTHING"):
    for _name in ("coverage", "execnet", "jeepney", "pexpect", "pytest_cov", "xdist"):
        if importlib.util.find_spec(_name) is None:
            raise pytest.UsageError(f"{_name} is not installed: it belongs into the group test of pyproject.toml")

# Where one of these is set, pytest writes its summary in full; tests are to see the same lines everywhere.
for _name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(_name, None)

# A shell that starts the suite in the background has it ignore SIGINT, and so whatever the tests start, and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long to abuse sandboxes: a suite that is run often does so briefly."""
    parser.addoption("--abuse", type=int, default=1, metavar="N", help="how often tests/security/test_abuse.py has each ending")
    seed = int.from_bytes(os.urandom(4), "big")
    parser.addoption("--abuse-seed", type=int, default=seed, metavar="SEED", help="what that draws lots by")
    told = "capabilities that this machine is known to have; repeatable"
    parser.addoption("--expect", action="append", default=[], metavar="NAME,...", help=told)


def pytest_configure(config: pytest.Config) -> None:
    """Begin only with what is expected: a probe that wrongly says no would skip the tests of what it probes."""
    names = [name for text in config.getoption("--expect") for name in text.split(",") if name]
    lacking = [f"{name}: {capabilities()[name].reason}" for name in names if not capabilities()[name].available]
    if lacking:
        raise pytest.UsageError(f"this machine was expected to have what it lacks: {'; '.join(lacking)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test, with the capability's own reason, where this machine does not have what it needs."""
    names = [name for mark in item.iter_markers("needs") for name in mark.args]
    lacking = [capabilities()[name] for name in names if not capabilities()[name].available]
    if lacking:
        pytest.skip("; ".join(f"{one.name}: {one.reason}. Fix: {one.fix}" for one in lacking))


@pytest.fixture
def true_cpu_clock() -> None:
    """Skip where no figure of CPU time is true: kernels of User-Mode Linux bill ticks, in part to whoever runs at one."""
    if "User Mode Linux" in pathlib.Path("/proc/cpuinfo").read_text():
        pytest.skip("User-Mode Linux does not measure CPU time, but counts ticks")
