"""What a sandbox says that it ran is not believed: what coverage would never say, and files that are not measured."""

from __future__ import annotations

import textwrap

import pytest

from tests.plugin.coverage.conftest import Measure

coverage = pytest.importorskip("coverage")
pytest.importorskip("pytest_cov")

LIE = """
    import base64, os
    import pytest
    from measured import code
    from pytest_sandbox.plugin.builtin.settling import INSIDE

    def pack(*numbers):
        return base64.b64encode(b"".join(number.to_bytes(4, "little", signed=True) for number in numbers)).decode()

    def say(request, data, tracers=(), arcs=False):
        channel = request.config.stash[INSIDE].channel
        channel.send({"op": "coverage", "arcs": arcs, "data": data, "tracers": dict(tracers)})

    CODE = os.path.realpath(code.__file__)

    def test_before(): code.in_test(3)
    def test_lies(request):
"""

LIES = {
    "no list": "say(request, 3)",
    "no pairs": "say(request, [1, 2, 3])",
    "no name": "say(request, [['', [[7, pack(1)]]]])",
    "no text": "say(request, [['', [[CODE, 7]]]])",
    "no base64": "say(request, [['', [[CODE, 'é']]]])",
    "no numbers": "say(request, [['', [[CODE, 'AAA=']]]])",
    "negative": "say(request, [['', [[CODE, pack(-1)]]]])",
    "high": "say(request, [['', [[CODE, pack(1 << 30)]]]])",
    "no context": "say(request, [[None, [[CODE, pack(1)]]]])",
    "surrogate": "say(request, [['\\ud800', [[CODE, pack(1)]]]])",
    "nul": "say(request, [['', [['/a\\0b', pack(1)]]]])",
    "long name": "say(request, [['', [['/' + 'a' * 5000, pack(1)]]]])",
    "arcs": "say(request, [['', [[CODE, pack(1, 2)]]]], arcs=True)",
    "no plugin": "say(request, [['', [[CODE, pack(1)]]]], {CODE: 'nobody'})",
    "too much": "[say(request, [['', [[CODE, 'AAAA' * 4000]] * 1000]]) for _ in range(2)]",
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(measure: Measure, lie: str) -> None:
    """A sandbox that says what coverage never would ends, and the run goes on."""
    measure.write(textwrap.dedent(LIE) + f"    {LIES[lie]}\ndef test_after(): code.in_second_test()\n")
    boxed = measure.pytest_cov(sandbox=True)
    boxed.result.assert_outcomes(passed=2, failed=1)
    assert boxed.functions() == {"in_test", "in_second_test"}


def test_files_that_are_not_measured(measure: Measure) -> None:
    """A sandbox has no file in the report that this run would not measure, nor a line that the file has not."""
    secret = measure.pytester.makepyfile(secret="PASSWORD = 1\n")
    measure.write(
        textwrap.dedent(LIE)
        + f"""
    os.symlink({str(secret)!r}, "measured/link.py")
    names = [{str(secret)!r}, "/etc/passwd", "/proc/self/environ", "/dev/zero", os.path.dirname(CODE) + "/../secret.py",
             os.path.dirname(CODE) + "/link.py", "measured/code.py", os.path.dirname(CODE) + "/none.py", os.path.dirname(CODE)]
    say(request, [["", [[name, pack(1, 100_000)] for name in names] + [[CODE, pack(100_000_000)]]]])
"""
    )
    boxed = measure.pytest_cov(sandbox=True)
    boxed.result.assert_outcomes(passed=2)
    assert set(boxed.report["files"]) == {"measured/__init__.py", "measured/code.py", "measured/unexecuted.py"}
    data = coverage.CoverageData(basename=str(measure.pytester.path / ".coverage"))
    data.read()
    lines = [data.lines(name) for name in data.measured_files()]
    assert max(max(found) for found in lines if found) < 1000
