"""What a sandbox sees of the machine and may do to it: files, hidden and writable paths, scratch, network."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_sandbox import Change, ChangeKind, Limits, Network, Sandbox, SetupError, Spec, UnavailableError
from tests.sandbox.conftest import root_only, shell

PYTHON = sys.executable
NO_SIZE = Limits(disk=None, inodes=None)


# -- copy on write ----------------------------------------------------------------------------------------------------


def test_the_runs_own_output_is_no_change(pytester: pytest.Pytester) -> None:
    """A log that pytest's output goes to, of which its capture has a duplicate that is open for writing."""
    pytester.makepyfile(
        """
        from pytest_sandbox import Sandbox
        def test_is_unchanged(tmp_path):
            found = Sandbox().run(["touch", tmp_path / "new"]).changes
            assert [change.path for change in found] == [f"{tmp_path}/new"]
        """
    )
    # `runpytest_subprocess` has its output in a file, to which -v has written by then.
    result = pytester.runpytest_subprocess("-v")
    result.assert_outcomes(passed=1)


@pytest.mark.needs("xattr")
def test_changes_are_told_and_the_machine_is_untouched(place: Path) -> None:
    """Added, modified, deleted, replaced: each as what it is, and nothing else."""
    (place / "gone").mkdir()
    (place / "gone" / "a").write_text("")
    (place / "gone" / "b").write_text("")
    (place / "turned").write_text("")
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in place.rglob("*"))
    script = """cd "$PLACE"; echo more >> file; rm link; mkdir new; echo x > new/x; chmod 700 directory
    rm -r gone; mkdir gone; echo b > gone/b; rm turned; mkdir turned; cat directory/inner > /dev/null"""
    result = Sandbox().run(["sh", "-c", script], env={**os.environ, "PLACE": str(place)})
    assert result.ok, result.stderr
    changes = {os.path.relpath(change.path, place): change.kind for change in result.changes}
    assert changes == {
        "file": ChangeKind.MODIFIED,
        "link": ChangeKind.DELETED,
        "new": ChangeKind.ADDED,
        "new/x": ChangeKind.ADDED,
        "directory": ChangeKind.MODIFIED,
        "gone/a": ChangeKind.DELETED,
        "gone/b": ChangeKind.MODIFIED,
        "turned": ChangeKind.MODIFIED,
    }
    assert Change(f"{place}/new/x", ChangeKind.ADDED, 2) in result.changes
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in place.rglob("*")) == before


def test_many_changes_are_cut(place: Path) -> None:
    """A thousand paths, and the word that there are more."""
    result = Sandbox().run(["sh", "-c", f"cd {place}; seq 3000 | xargs touch"])
    assert (len(result.changes), result.changes_cut) == (1000, True)


def test_each_use_is_fresh(place: Path) -> None:
    """One Sandbox object makes a new sandbox each time."""
    sandbox = Sandbox()
    assert sandbox.run(["rm", f"{place}/file"]).ok
    assert sandbox.run(["cat", f"{place}/file"]).stdout == b"content"


def test_owners_and_modes_are_those_of_the_machine(place: Path) -> None:
    """As ls shows them outside."""
    paths = f"{place}/* {place}" + (" /etc/passwd / /root /tmp" if os.geteuid() == 0 else "")  # only root's map has more ids
    command = f"stat -c '%u %g %a %n' {paths}"
    assert shell(command) == subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


def test_who_a_process_is() -> None:
    """The same user, with the same groups if there is root to keep them."""
    ids = Sandbox().call(lambda: (os.getuid(), os.getgid(), os.geteuid()))
    assert ids == (os.getuid(), os.getgid(), os.geteuid())


# -- hide -------------------------------------------------------------------------------------------------------------


def test_hide(place: Path) -> None:
    """A file is empty, a directory too, also one in /tmp; what is not there stays away; nothing can be written there."""
    spec = Spec(hide=(f"{place}/file", f"{place}/directory", f"{place}/directory/inner", f"{place}/missing"))
    assert shell(f"cat {place}/file; ls -A {place}/directory", spec) == ""
    assert shell(f"ls {place}", spec).split() == ["directory", "dirlink", "file", "link"]
    assert not Sandbox(spec).run(["sh", "-c", f"echo x > {place}/directory/x"]).ok


def test_hide_through_links(place: Path) -> None:
    """A link is followed as inside: what it leads to is hidden, by its own name too."""
    spec = Spec(hide=(f"{place}/link", f"{place}/dirlink"))
    assert shell(f"cat {place}/link {place}/file; ls -A {place}/directory/", spec) == ""


def test_hide_outside_of_tmp() -> None:
    """Where no store was mounted over."""
    assert shell("cat /etc/passwd; ls -A /usr/share", Spec(hide=("/etc/passwd", "/usr/share"))) == ""


def test_hide_the_current_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox starts in an empty one."""
    monkeypatch.chdir(place)
    assert shell("pwd; ls -A", Spec(hide=(str(place),))) == f"{place}\n"


def test_hidden_files_are_not_in_the_base_either(place: Path) -> None:
    """A sandbox that makes none below itself has no way to the trees that it is made of."""
    assert shell("ls -A /dev/.sandbox/*", Spec(hide=(f"{place}/file",))).split() == [
        "/dev/.sandbox/root:",
        "/dev/.sandbox/store:",
    ]


# -- writable ---------------------------------------------------------------------------------------------------------


def test_writable(place: Path) -> None:
    """A directory and a file let changes through; their neighbours do not; owners on disk are the true ones."""
    spec = Spec(writable=(f"{place}/directory", f"{place}/file"))
    shell(f"cd {place}; echo new > directory/new; echo more > file; rm directory/inner; echo x > other", spec)
    assert (place / "file").read_text() == "more\n"
    assert sorted(os.listdir(place / "directory")) == ["new"]
    assert not (place / "other").exists()
    assert (place / "directory" / "new").stat().st_uid == os.getuid()


@root_only
def test_writable_keeps_owners(place: Path) -> None:
    """chown by root inside is chown by root, never to an id of the range behind the sandbox."""
    shell(f"touch {place}/directory/new; chown 1234:4321 {place}/directory/new", Spec(writable=(f"{place}/directory",)))
    status = (place / "directory" / "new").stat()
    assert (status.st_uid, status.st_gid) == (1234, 4321)


def test_writable_is_no_change(place: Path) -> None:
    """What went through is not in the layer, and costs no disk limit."""
    spec = Spec(limits=Limits(disk=1 << 20), writable=(f"{place}/directory",))
    result = Sandbox(spec).run(["sh", "-c", f"head -c 3000000 /dev/zero > {place}/directory/big"])
    assert (result.ok, result.changes) == (True, ())
    assert (place / "directory" / "big").stat().st_size == 3_000_000


def test_writable_in_hidden(place: Path) -> None:
    """What is hidden is hidden, whatever else was said of it."""
    spec = Spec(writable=(f"{place}/directory",), hide=(str(place),))
    assert shell(f"ls -A {place}", spec) == ""


def test_writable_that_is_not_there(place: Path) -> None:
    """No sandbox, and the path in the error."""
    with pytest.raises(SetupError, match="missing"):
        Sandbox(Spec(writable=(f"{place}/missing",))).run(["true"])


# -- scratch ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("xattr")
def test_scratch_is_removed(place: Path) -> None:
    """Layers lie there while the sandbox runs, and go with it, however deep and locked."""
    script = f"""cd {place}; mkdir d; touch d/f; chmod 0 d; mkfifo p; ln -s / l
    python3 -c "import os
for i in range(2000):
    os.mkdir('x'); os.chdir('x')"
    """
    result = Sandbox(Spec(limits=NO_SIZE, scratch=str(place))).run(["sh", "-c", script])
    assert result.ok, result.stderr
    assert sorted(os.listdir(place)) == ["directory", "dirlink", "file", "link"]
    assert result.changes_cut


@pytest.mark.parametrize("options", ["ro,size=1m", "size=8k"])
@root_only
def test_scratch_that_cannot_be_used(place: Path, options: str) -> None:
    """Read-only or full: refused, with the directory, the reason and a fix, and nothing left in it."""
    script = f"""
import os, sys
from pytest_sandbox import *
try: Sandbox(Spec(limits=Limits(disk=None, inodes=None), scratch={str(place)!r})).run(["true"])
except UnavailableError as error: print(error)
print(os.listdir({str(place)!r}))
"""
    command = f'mount -t tmpfs -o {options} full {place} && exec {PYTHON} -c "$SCRIPT"'
    inner = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], env={**os.environ, "SCRIPT": script}, capture_output=True, text=True, check=False
    )
    reason = "Read-only file system" if "ro" in options else "No space left on device"
    assert inner.stdout.startswith(f"scratch is not available here: {place}: {reason}. Fix: "), inner.stderr
    assert inner.stdout.endswith("[]\n")


@root_only
@pytest.mark.needs("xattr")
def test_a_full_scratch_is_no_limit_of_the_sandboxs(place: Path) -> None:
    """It has none on its disk then: that of the machine is full."""
    (place / "test_it.py").write_text("def test_it(tmp_path): (tmp_path / 'big').write_bytes(bytes(8_000_000))")
    run = f"exec {PYTHON} -m pytest -p no:cacheprovider --sandbox --sandbox-scratch=directory test_it.py"
    command = f"mount -t tmpfs -o size=4m full directory && {run}"
    inner = subprocess.run(["unshare", "-m", "sh", "-c", command], cwd=place, capture_output=True, text=True, check=False)
    assert "\ndisk full: no limit of its own, " in inner.stdout, inner.stdout + inner.stderr
    assert "limit disk" not in inner.stdout


def test_scratch_that_is_not_there(place: Path) -> None:
    """The same."""
    with pytest.raises(UnavailableError, match="No such file"):
        Sandbox(Spec(limits=NO_SIZE, scratch=f"{place}/missing")).run(["true"])


# -- network ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[int]:
    """A port of the machine's loopback where somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _reaches(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("network", [Network.AUTO, Network.LOOPBACK, Network.SHARED])
def test_own_loopback(network: Network, server: int) -> None:
    """A loopback of its own, on which the machine's services are not; the world is unreachable at once."""

    def look() -> tuple[bool, list[str], bool]:
        with socket.create_server(("127.0.0.1", server)):
            own = _reaches(server)
        world = socket.socket().connect_ex(("192.0.2.1", 9))
        # Kernels with tunnels built in give each network namespace one of a kind, which is down: sit0, tunl0.
        up = [name for _, name in socket.if_nameindex() if int(Path(f"/sys/class/net/{name}/flags").read_text(), 16) & 1]
        return own, up, world == errno.ENETUNREACH and not _reaches(server)

    assert Sandbox(Spec(network=network)).call(look) == (True, ["lo"], True)


def test_no_network(server: int) -> None:
    """Not even a loopback."""
    assert not Sandbox(Spec(network=Network.NONE)).call(_reaches, server)


def test_host_network(server: int) -> None:
    """The machine's own, with a read-only /sys and no way to its cgroups."""

    def look() -> tuple[bool, list[str], list[str], bool]:
        return (
            _reaches(server),
            sorted(os.listdir("/sys/class/net")),
            os.listdir("/sys/fs/cgroup"),
            bool(os.statvfs("/sys").f_flag & os.ST_RDONLY),
        )

    assert Sandbox(Spec(network=Network.HOST)).call(look) == (True, sorted(os.listdir("/sys/class/net")), [], True)
