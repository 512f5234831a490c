"""What a test may do to its worker: it costs no worker, and the run's controller hears none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugin.xdist.conftest import run, workers

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

pytest.importorskip("execnet")
pytest.importorskip("xdist")


def test_no_way_to_the_controller(pytester: pytest.Pytester, compare: Compare) -> None:
    """Nothing that a worker talks to the controller by is open in a sandbox, and who tries to speak there is not heard."""
    pytester.makeconftest(
        """
        import os, stat
        def ways():
            found = {}
            for name in os.listdir("/proc/self/fd"):
                try: found[int(name)] = (os.fstat(int(name)).st_dev, os.fstat(int(name)).st_ino, os.fstat(int(name)).st_mode)
                except OSError: pass
            return {fd: key for fd, key in found.items() if stat.S_ISFIFO(key[2]) or stat.S_ISSOCK(key[2])}
        WORKERS = set(ways().values())
        """
    )
    pytester.makepyfile(
        """
        import contextlib, os, conftest, pytest
        @pytest.fixture(scope="session")
        def world():
            assert conftest.WORKERS and not conftest.WORKERS & set(conftest.ways().values())
        @pytest.mark.parametrize("n", range(4))
        def test_forge(world, n, request):
            assert not conftest.WORKERS & set(conftest.ways().values())
            for plugin in request.config.pluginmanager.get_plugins():
                if hasattr(plugin, "sendevent"):
                    plugin.sendevent("logstart", nodeid="forged", location=("forged", 1, "forged"))
                    plugin.sendevent("workerfinished", workeroutput={"exitstatus": 0})
                    with contextlib.suppress(OSError): plugin.channel.close()
            own = [fd for fd in conftest.ways()]
            for fd in set(range(3, 100)) - set(own):
                try: os.write(fd, b"\\0" * 100)
                except OSError: pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(passed=4)
    assert "forged" not in found.text
    assert workers(found.text) <= {"gw0", "gw1"}


def test_reports_that_cannot_be_sent(pytester: pytest.Pytester, compare: Compare) -> None:
    """What execnet has no form for, or the controller no module, costs no worker."""
    pytester.makepyfile(
        """
        import pytest, warnings
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        class OwnWarning(UserWarning): pass
        def test_numbers(record_property):
            record_property("large", -(10 ** 12)); record_property("larger", 10 ** 100); record_property("half", "\\ud800")
        def test_text(): print("\\ud800"); assert "\\ud800" == ""
        def test_warning(): warnings.warn(OwnWarning("of my own \\ud800"))
        def test_forged(request):
            base = {"op": "warning", "text": "forged", "filename": "x", "lineno": 1, "line": "", "when": "runtest", "nodeid": "x"}
            send = request.config.stash[INSIDE].channel.send
            send(base | {"category": ["no.such.module", "Evil"], "location": None})
            send(base | {"category": ["builtins", "UserWarning"], "location": ["\\ud800", 1, "f"]})
        def test_last(): pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(passed=4, failed=1, warnings=3)
    assert workers(found.text) <= {"gw0", "gw1"}
    assert "OwnWarning: of my own" in found.text


def test_lies_cost_no_worker(pytester: pytest.Pytester, compare: Compare) -> None:
    """A test that breaks the rules of its socket fails."""
    pytester.makepyfile(
        """
        import pytest
        from pytest_sandbox.plugin.builtin.settling import INSIDE
        BAD = {"op": "warning", "text": "x", "filename": "x", "line": "", "category": ["builtins", "UserWarning"], "lineno": 1}
        @pytest.mark.parametrize("frame", [
            {"op": "nonsense"}, {"op": "finish", "item": 0}, {"op": "report", "data": {}}, BAD | {"lineno": -1},
            BAD | {"location": [1]}, BAD | {"location": [1, 2, 3, 4]}, BAD | {"lineno": 10 ** 30},
        ])
        def test_lies(frame, request): request.config.stash[INSIDE].channel.send(frame)
        def test_last(): pass
        """
    )
    found = run(compare, "-n2")
    found.result.assert_outcomes(failed=7, passed=1)
    assert workers(found.text) <= {"gw0", "gw1"}
