"""Limits by options and markers of `pytest --sandbox`: raised, lifted, refused, and what else a run may ask for."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

from pytest_sandbox import capabilities
from tests.sandbox.conftest import case

pytestmark = pytest.mark.usefixtures("plain_environment")


def test_a_marker_raises_and_lifts_what_is_a_limit_of_each_process(pytester: pytest.Pytester) -> None:
    """Descriptors, and for a user without cgroups processes: of a test only, whatever the run has, which forks it."""
    is_counted = "RLIMIT" in capabilities()["pids"].reason

    def pids(value: object) -> str:
        return f", pids={value}" if is_counted else ""

    pytester.makepyfile(
        f"""
        import pytest, resource
        def limits(): return [resource.getrlimit(one) for one in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
        def test_usual(): print("usual", limits())
        @pytest.mark.sandbox(files=200{pids(100)})
        def test_more(): print("more", limits())
        @pytest.mark.sandbox(files=None{pids(None)})
        def test_none(): print("none", limits())
        @pytest.mark.sandbox(files=40{pids(30)})
        def test_less(): print("less", limits())
        def test_usual_again(): print("again", limits())
        """
    )
    options = ("--sandbox-files=100", *(["--sandbox-pids=50"] if is_counted else []))
    result = pytester.runpytest_subprocess("--sandbox", *options, "-rP")
    result.assert_outcomes(passed=5)
    found = dict(re.findall(r"^(usual|more|none|less|again) (.*)$", result.stdout.str(), re.MULTILINE))
    files, processes = (resource.getrlimit(which) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    expected = {"usual": (100, 51), "more": (200, 101), "less": (40, 31), "again": (100, 51)}  # with init
    told = {name: str([(few, few), (many, many) if is_counted else processes]) for name, (few, many) in expected.items()}
    assert found == told | {"none": str([files, processes])}


@pytest.mark.needs("cpus")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_marker_lifts_the_quota(pytester: pytest.Pytester, jobs: int) -> None:
    """Of the run, which the scope has from which the test is forked."""
    pytester.makepyfile(
        """
        import pytest, time
        @pytest.mark.parametrize("number", [1, 2])
        @pytest.mark.sandbox(cpus=None)
        def test_it(sandbox, number):
            while time.process_time() < 0.5: pass
            assert sandbox.usage().throttled == 0
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-cpus=0.2", f"--sandbox-jobs={jobs}")
    result.assert_outcomes(passed=2)


@pytest.mark.needs("cpuset")
def test_a_marker_lifts_the_choice_of_cpus(pytester: pytest.Pytester) -> None:
    """The same."""
    cpus = os.sched_getaffinity(0)
    pytester.makepyfile(
        f"""
        import os, pytest
        def test_one(): assert os.sched_getaffinity(0) == {{{min(cpus)}}}
        @pytest.mark.sandbox(cpuset=None)
        def test_all(): assert os.sched_getaffinity(0) == {cpus}
        """
    )
    pytester.runpytest_subprocess("--sandbox", f"--sandbox-cpuset={min(cpus)}").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("cpu_time", "while time.process_time() < 0.5: pass\n    assert 0"),
        ("pids", "raise BlockingIOError(errno.EAGAIN, 'of a socket')"),
    ],
)
def test_a_limit_that_does_not_hold_is_not_met(pytester: pytest.Pytester, name: str, body: str) -> None:
    """What the header says is not enforced is blamed for nothing that a test fails of."""
    capability = capabilities()[name]
    if capability.available:
        pytest.skip(f"{name} is enforced here: {capability.reason}")
    pytester.makepyfile(f"import errno, time\ndef test_it():\n    {body}")
    options = ("--sandbox-cpu-time=200ms", "--sandbox-pids=500", "--sandbox-degrade")
    result = pytester.runpytest_subprocess("--sandbox", *options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"sandbox: NOT ENFORCED: *{name}*"])
    result.stdout.no_fnmatch_line("*limit *")


@pytest.mark.needs("cpus")
def test_throttling_is_told(pytester: pytest.Pytester) -> None:
    """How long the test waited for its share of CPU: less than it gets of a machine under load, or it need not wait."""
    source = "@pytest.mark.sandbox(cpus=0.1)\ndef test_it():\n    while time.process_time() < 0.1: pass\n    assert 0\n"
    assert "throttled" in case(pytester, source)


@pytest.mark.parametrize("name", ["memory", "swap", "cpus", "cpu_time"])
def test_what_cannot_be_enforced_is_a_usage_error(pytester: pytest.Pytester, name: str) -> None:
    """Before any test, by option and by marker, with what, why and the fix; where it can be, it holds."""
    value = {"memory": "512M", "swap": "0", "cpus": "0.5", "cpu_time": "60"}[name]
    pytester.makepyfile("import pathlib\ndef test_it(): pathlib.Path('ran').touch()")
    marked = pytester.path / "marked"
    marked.mkdir()
    (marked / "test_marked.py").write_text(f"import pytest\n@pytest.mark.sandbox({name}='{value}')\ndef test_it(): pass\n")
    option = pytester.runpytest_subprocess("--sandbox", f"--sandbox-{name.replace('_', '-')}={value}", ".")
    marker = pytester.runpytest_subprocess("--sandbox", str(marked))
    if capabilities()[name].available:
        assert (option.ret, marker.ret) == (0, 0)
        return
    for result in (option, marker):
        text = result.stdout.str() + result.stderr.str()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert f"the limit {name} is not available here: " in text
        assert "Fix: " in text


@pytest.mark.parametrize(("keep", "kept"), [("never", 0), ("failed", 1), ("always", 2)])
def test_keep(pytester: pytest.Pytester, tmp_path: Path, keep: str, kept: int) -> None:
    """What a test wrote is saved, and the path told."""
    source = "def test_bad():\n    open('/var/tmp/evidence', 'w').write('bad'); assert 0\n"
    pytester.makepyfile(source + "def test_good():\n    open('/var/tmp/evidence', 'w').write('good')\n")
    base = tmp_path / "base"
    result = pytester.runpytest_subprocess("--sandbox", f"--sandbox-keep={keep}", f"--basetemp={base}")
    found = sorted(path.read_text() for path in base.rglob("evidence"))
    assert found == ["bad", "good"][:kept]
    for path in base.rglob("evidence"):
        assert str(path.parents[2]) in result.stdout.str()
    assert not os.path.exists("/var/tmp/evidence")


@pytest.mark.needs("xattr")
def test_scratch_leaves_nothing(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """The run's directory below scratch is gone at the end."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    pytester.makepyfile("def test_it(tmp_path):\n    (tmp_path / 'x').write_text('x' * 100000)\n")
    options = ("--sandbox-scratch", str(scratch), "--sandbox-disk=none", "--sandbox-inodes=none")
    assert pytester.runpytest_subprocess("--sandbox", *options).ret == 0
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("network", ["auto", "loopback", "none", "shared", "host"])
def test_network_of_a_run(pytester: pytest.Pytester, network: str) -> None:
    """Every value works for a whole run."""
    pytester.makepyfile(
        """
        import os
        def test_it(pytestconfig):
            inside = os.listdir("/sys/class/net")
            up = open("/proc/net/dev").read()
            assert "lo" in inside and "lo:" in up
            assert (os.readlink("/proc/self/ns/net") == os.environ["HOST"]) == (os.environ["NETWORK"] == "host")
        """
    )
    os.environ |= {"NETWORK": network, "HOST": os.readlink("/proc/self/ns/net")}
    result = pytester.runpytest_subprocess("--sandbox", f"--sandbox-network={network}")
    result.assert_outcomes(passed=1)


@pytest.mark.needs("bandwidth")
def test_bandwidth_of_a_scope(pytester: pytest.Pytester) -> None:
    """A test that shares its scope's network has the scope's limit; one of its own, which is smaller, cannot be had there."""
    pytester.makepyfile(
        """
        import pytest, socket
        @pytest.fixture(scope="session")
        def server():
            with socket.create_server(("127.0.0.1", 0)) as listening: yield listening
        @pytest.mark.sandbox(bandwidth="64k")
        def test_own(server): pass
        @pytest.mark.sandbox(bandwidth="1M")
        def test_wider(server): pass
        @pytest.mark.sandbox(bandwidth="64k", network="loopback")
        def test_alone(server): pass
        """
    )
    result = pytester.runpytest_subprocess("--sandbox", "--sandbox-bandwidth=256k")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the limit bandwidth is not available here: the test shares the network of the scope*Fix: *"])
