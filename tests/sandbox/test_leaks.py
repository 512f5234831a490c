"""What a sandbox's main process leaves behind, and what only takes a moment to end."""

from __future__ import annotations

import os
import sys

import pytest

from tests.sandbox.conftest import python, run


def test_leaks_are_named() -> None:
    """What main left behind: by command line, also where it hid from its parent."""
    begun = "until [ $(cat /proc/$!/comm) = sleep ]; do :; done"
    result = run("sh", "-c", f"setsid sleep 4711 >/dev/null 2>&1 & {begun}")
    assert [leak.command for leak in result.leaks] == ["sleep 4711"]
    assert result.ok


def test_a_zombie_among_leaks() -> None:
    """Has no command line any more, and so its name, as ps(1) writes it."""
    parent = "zombie = os.fork() or os._exit(0)\n    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)\n    os.close(there)"
    source = f"import os, time\nhere, there = os.pipe()\nif not os.fork():\n    {parent}\n    time.sleep(99)\n"
    source += "os.close(there)\nos.read(here, 1)\nos._exit(0)"
    assert [leak.command[:20] for leak in python(source).leaks][1:] == [f"[{os.path.basename(sys.executable)[:15]}]"]


@pytest.mark.parametrize("count", [1, 4])
def test_what_is_just_ending_is_no_leak(count: int) -> None:
    """Processes have a moment to go: these go because main has gone, the last one for the last but one, and so on."""
    wait = "os.close(there)\n        os.read(here, 1)\n        os._exit(0)"
    source = f"import os\nfor _ in range({count}):\n    here, there = os.pipe()\n    if not os.fork():\n        {wait}"
    assert python(source).leaks == ()


@pytest.mark.needs("cpus")
def test_what_wants_a_processor_to_end_has_some_more_time() -> None:
    """As on a machine under load, here under a quota: it has to wait for one. Who has it and does not end is a leak."""
    spin = "until = time.process_time() + {}\n    while time.process_time() < until: pass\n    os._exit(0)"
    source = f"import os, time\nif not os.fork():\n    {spin}"
    assert python(source.format(0.008), cpus=0.02).leaks == ()
    assert len(python(source.format(600)).leaks) == 1


def test_to_end_is_no_part_of_the_time(pytester: pytest.Pytester) -> None:
    """A test that has said all in time has passed, however long its process takes to end."""
    pytester.makeconftest("""
        import pytest_sandbox.plugin.inside.world as world, time
        own = world.World.end
        def end(inside):
            class Late(type(inside.channel)):
                def wait_for(self, op):
                    found = super().wait_for(op)
                    time.sleep(2)
                    return found
            inside.channel.__class__ = Late
            return own(inside)
        world.World.end = staticmethod(end)
    """)
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox(timeout=1.5)\ndef test_it(): pass")
    result = pytester.runpytest_subprocess("--sandbox")
    result.assert_outcomes(passed=1)
