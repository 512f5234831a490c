"""Hidden paths: what there is not to hide, or nobody may enter, is no obstacle; and no test sees what is hidden."""

from __future__ import annotations

import os

import pytest

from tests.plugin.conftest import OPTIONS, Compare


def test_a_path_to_hide_that_nobody_may_enter(pytester: pytest.Pytester, compare: Compare) -> None:
    """What is closed to whoever runs the tests needs no cover: root finds it empty, a user not at all."""
    closed = pytester.mkdir(".closed")
    (closed / "inner").mkdir()
    (closed / "inner" / "file").touch()
    pytester.makeini("[pytest]\nsandbox_hide = .closed/inner\n")
    pytester.makepyfile("""
        import os, pytest
        def test_it():
            try:
                assert os.listdir(".closed/inner") == []
            except PermissionError:
                assert os.getuid() != 0
    """)
    closed.chmod(0)
    try:
        compare.one().result.assert_outcomes(passed=1)
    finally:
        closed.chmod(0o700)


def test_what_there_is_not_to_hide_is_told(pytester: pytest.Pytester, compare: Compare) -> None:
    """A path in the ini file or a marker may be one that other machines have: the run goes on, and says so."""
    pytester.makeini("[pytest]\nsandbox_hide = ini-path\n")
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.mark.sandbox(hide=["marker-path", "there"])
        def test_1(): assert not os.listdir("there")
        @pytest.mark.sandbox(enabled=False)
        def test_2(): assert os.listdir("there")
        """
    )
    (pytester.mkdir("there") / "file").touch()
    run = compare.one()
    run.result.assert_outcomes(passed=2)
    assert "".join(line for line in run.text.splitlines(keepends=True) if "nothing to hide" in line) == (
        f"sandbox: nothing to hide: {pytester.path}/ini-path does not exist here\n"
        f"sandbox: nothing to hide: {pytester.path}/marker-path does not exist here\n"
    )


@pytest.mark.parametrize("fixture", ["scope", "sandbox_factory"])
def test_who_makes_sandboxes_sees_no_layers(pytester: pytest.Pytester, fixture: str) -> None:
    """Not those that its own and others' sandboxes stand on, nor hence what is hidden; and its init's view is closed to it."""
    secret = pytester.mkdir("secret")
    (secret / "file").write_text("secret", encoding="utf-8")
    pytester.makepyfile(f"""
        import os
        import pytest

        def look():
            assert os.getpid() > 1
            assert os.listdir("/dev/.sandbox/store") == []
            assert os.listdir({str(secret)!r}) == []
            for name in ("root", "cwd", "ns/mnt", "mem", "environ"):
                with pytest.raises(PermissionError):
                    os.stat(f"/proc/1/{{name}}").st_ino and open(f"/proc/1/{{name}}")
            with open("/proc/self/mountinfo") as mounts:
                assert not [line for line in mounts if "/store/" in line.split()[4] or "hidden" in line.split()[4]]

        @pytest.fixture(scope="module")
        def scope():
            look()

        def test_it({fixture}):
            look()
            if {fixture == "sandbox_factory"}:
                assert sandbox_factory.run(["true"]).ok
    """)
    pytester.runpytest_subprocess(*OPTIONS, f"--sandbox-hide={secret}").assert_outcomes(passed=1)


@pytest.mark.skipif(os.getuid() != 0, reason="the link lies in root's home")
def test_a_listener_whose_path_is_a_link(pytester: pytest.Pytester) -> None:
    """A scope's socket is shown below by its path, and no file that a link there leads to, where init could see it."""
    secret = pytester.mkdir("secret")
    (secret / "file").write_text("secret", encoding="utf-8")
    pytester.makepyfile(f"""
        import os
        import socket
        import pytest

        @pytest.fixture(scope="module", params=range(4))
        def bad(request):
            n = request.param
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"/tmp/evil{{n}}")
            listener.listen()
            os.unlink(f"/tmp/evil{{n}}")
            os.makedirs("/root/tmp", exist_ok=True)
            # To init one and the same link leads to /root/tmp from its own root, and to /tmp below the root that it makes.
            os.symlink(f"../../root/tmp/y{{n}}", f"/tmp/evil{{n}}")
            os.symlink(f"/dev/.sandbox/store/base/{{n}}{secret}/file", f"/root/tmp/y{{n}}")
            open(f"/tmp/y{{n}}", "w").close()
            yield n
            listener.close()

        def test_it(bad):
            assert open(f"/tmp/y{{bad}}").read() == ""
            assert os.readlink(f"/tmp/evil{{bad}}")
    """)
    pytester.runpytest_subprocess(*OPTIONS, f"--sandbox-hide={secret}").assert_outcomes(passed=4)


@pytest.mark.parametrize("text", ["x\0/dev/null", "relative", "/a/../b", "/" + "x" * 5000])
def test_hide_of_what_is_no_path(pytester: pytest.Pytester, text: str) -> None:
    """Asked for past the fixture: refused, so that init is told nothing that it could take for an order of the controller's."""
    pytester.makepyfile(f"""
        def test_it(sandbox_factory):
            channel = sandbox_factory._inside.channel
            channel.send({{"op": "make", "number": 1, "limits": {{}}, "hide": [{text!r}]}})
            assert channel.receive()[0]["op"] == "unmade"
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)
