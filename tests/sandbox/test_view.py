"""What a sandbox sees of the machine and may do to it: files, hidden and writable paths, scratch, network, descriptors."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandbox import (
    CallError,
    Change,
    ChangeKind,
    Limits,
    Network,
    Sandbox,
    SetupError,
    Spec,
    TeardownWarning,
    UnavailableError,
)

PYTHON = sys.executable
NO_SIZE = Limits(disk=None, inodes=None)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root outside: owners are given away")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a file, a directory with a file, and a link to each."""
    (tmp_path / "file").write_text("content")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "inner").write_text("inner")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dirlink").symlink_to(tmp_path / "directory")
    return tmp_path


def shell(script: str, spec: Spec | None = None, **environ: str) -> str:
    """The output of a shell script in a sandbox."""
    result = Sandbox(spec).run(["sh", "-c", script], env={**os.environ, **environ})
    assert result.ok, (result.sentence, result.stderr)
    return result.stdout.decode()


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


# -- common -----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("xattr")
def test_common(place: Path) -> None:
    """Regular files, directories and deletions come home; what a machine's directory must not be given does not."""
    common = place / "directory"
    for name in ("gone/file", "anew/file", "turned/file"):
        (common / name).parent.mkdir()
        (common / name).write_text("before")
    (common / "own-link").symlink_to(place / "file")
    script = """cd "$COMMON"; cat inner own-link; echo new > new; echo more >> inner; chmod 4777 new; mkfifo fifo
    ln -s "$PLACE/file" link; rm -r gone anew turned; mkdir anew; echo x > anew/other; echo x > turned
    mkdir -p a/b/c; echo deep > a/b/c/d; rm own-link; echo mine > own-link"""
    spec = Spec(common=(str(common),))
    with pytest.warns(TeardownWarning, match="2 of what tests wrote is lost, .*/fifo: it is neither a file nor a directory"):
        result = Sandbox(spec).run(["sh", "-c", script], env={**os.environ, "COMMON": str(common), "PLACE": str(place)})
    assert (result.ok, result.stdout, result.changes) == (True, b"innercontent", ()), result.stderr
    left = {str(path.relative_to(common)): path.lstat() for path in common.rglob("*")}
    files = {name for name, status in left.items() if stat.S_ISREG(status.st_mode)}
    assert files == {"new", "inner", "anew/other", "turned", "a/b/c/d", "own-link"}
    assert set(left) - files == {"anew", "a", "a/b", "a/b/c"}
    assert stat.S_IMODE(left["new"].st_mode) == 0o755
    assert {status.st_uid for status in left.values()} == {os.getuid()}
    assert (common / "inner").read_text() == "innermore\n"
    assert (place / "file").read_text() == "content"


@root_only
@pytest.mark.parametrize("owner", [200_000, 4321])
def test_common_of_others(place: Path, owner: int) -> None:
    """What belongs to somebody who has no id inside is copied; it can be changed, and what was there stays as it was else."""
    common = place / "directory"
    os.chown(common, owner, owner)
    os.chown(common / "inner", owner, owner)
    shell(f"cd {common}; cat inner; echo more >> inner; echo new > new", Spec(common=(str(common),)))
    assert ((common / "inner").read_text(), (common / "new").read_text()) == ("innermore\n", "new\n")
    assert (common.stat().st_uid, (common / "inner").stat().st_gid) == (owner, owner)


@pytest.mark.needs("xattr")
def test_common_keeps_modes_and_depth(place: Path) -> None:
    """Rights of a group stay; what lies deeper than is looked is told."""
    common = place / "directory"
    (common / "inner").chmod(0o664)
    script = f"umask 002; cd {common}; echo more >> inner; mkdir made; echo new > new; {'mkdir d; cd d;' * 70} echo deep > file"
    before = os.umask(0o002)
    try:
        with pytest.warns(TeardownWarning, match="too deep"):
            shell(script, Spec(common=(str(common),)))
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((common / name).stat().st_mode) for name in ("inner", "made", "new")}
    assert modes == {"inner": 0o664, "made": 0o775, "new": 0o664}


def test_common_and_writable_in_it(place: Path) -> None:
    """What is let through below is the machine's own, at once."""
    (place / "directory" / "own").mkdir()
    spec = Spec(common=(f"{place}/directory",), writable=(f"{place}/directory/own", f"{place}/directory/inner"))
    shell(f"cd {place}/directory; ln -s x own/link; echo more >> inner; echo new > new", spec)
    assert os.readlink(place / "directory" / "own" / "link") == "x"
    assert (place / "directory" / "inner").read_text() == "innermore\n"
    assert (place / "directory" / "new").exists()


def test_common_by_another_way(place: Path) -> None:
    """Who may write what is around it puts a link there: what comes home goes to where the directory was."""
    outside, around = place / "outside", place / "around"
    (outside / "in").mkdir(parents=True)
    (around / "sub" / "in").mkdir(parents=True)
    spec = Spec(common=(f"{around}/sub/in",), writable=(str(around),))
    script = (
        f"echo new > {around}/sub/in/new; cd {place}; mv around/sub around/old 2>&1; ln -s {outside} around/sub; ls -l around"
    )
    shell(script, spec)
    assert os.listdir(outside / "in") == []
    assert os.listdir(around / "old" / "in") == ["new"]


def test_common_is_limited(place: Path) -> None:
    """By what one sandbox may write; its own layer has that besides."""
    spec = Spec(limits=Limits(disk=4 << 20), common=(f"{place}/directory",))
    script = f"head -c 8000000 /dev/zero > {place}/directory/big; head -c 3000000 /dev/zero > {place}/big"
    result = Sandbox(spec).run(["sh", "-c", script])
    assert result.ok
    assert b"No space left" in result.stderr
    assert (place / "directory" / "big").stat().st_size <= 4 << 20
    assert [change.path for change in result.changes] == [f"{place}/big"]


def test_common_that_is_not_there(place: Path) -> None:
    """No sandbox, and the path in the error."""
    with pytest.raises(SetupError, match="missing"):
        Sandbox(Spec(common=(f"{place}/missing",))).run(["true"])


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


# -- where it starts --------------------------------------------------------------------------------------------------


def test_current_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the caller, or as `cwd=` says, or / if it is gone."""
    monkeypatch.chdir(place)
    assert shell("pwd") == f"{place}\n"
    assert Sandbox().run(["pwd"], cwd="/usr").stdout == b"/usr\n"
    gone = place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert shell("cd /; pwd") == "/\n"
    monkeypatch.chdir(place)


def test_a_machine_that_cannot_be_looked_at() -> None:
    """No descriptor is left to read its mounts by: no sandbox can be made, as the docstring of `run` says."""
    code = """
import resource
from pytest_sandbox import Sandbox, SetupError
sandbox = Sandbox()
sandbox.run(["true"])
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    sandbox.run(["true"])
except SetupError as error:
    print(error.errno)
"""
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{errno.EMFILE}\n", done.stderr


def test_cwd_that_is_not_there() -> None:
    """An error of the program's start, not of the sandbox."""
    result = Sandbox().run(["pwd"], cwd="/no/such/directory")
    assert (result.status, result.stderr) == (127, b"cwd /no/such/directory: No such file or directory\n")


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (TypeError, "is no list of a program", {"argv": "true"}),
        (TypeError, "is no list of a program", {"argv": iter(["true"])}),
        (ValueError, "names no program", {"argv": []}),
        (ValueError, "names no program", {"argv": [""]}),
        (ValueError, "has a NUL", {"argv": ["true", "a\0b"]}),
        (TypeError, "NoneType", {"argv": ["true", None]}),
        (ValueError, "has a NUL", {"argv": ["true"], "cwd": "a\0b"}),
        (TypeError, "int", {"argv": ["true"], "cwd": 3}),
        (TypeError, "no mapping of strings to strings", {"argv": ["true"], "env": {"A": 1}}),
        (TypeError, "no mapping of strings to strings", {"argv": ["true"], "env": ["A=1"]}),
        (ValueError, "can be no name of an environment variable", {"argv": ["true"], "env": {"A=B": "1"}}),
        (ValueError, "has a NUL", {"argv": ["true"], "env": {"A": "\0"}}),
        (TypeError, "not bytes", {"argv": ["cat"], "input": "text"}),
    ],
)
def test_what_no_program_can_be_run_with(error: type[Exception], words: str, arguments: dict[str, Any]) -> None:
    """Is the caller's mistake, and said where it is made."""
    with pytest.raises(error, match=words):
        Sandbox().run(**arguments)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_closed_standard_descriptors(closed: tuple[int, ...], tmp_path: Path) -> None:
    """A caller without stdin, stdout or stderr gets the same results, and keeps the numbers free."""
    script = f"""
import os
for fd in {closed}: os.close(fd)
from pytest_sandbox import Sandbox
result = Sandbox().run(["sh", "-c", "cat; echo out; echo err >&2"])
value = Sandbox().call(lambda: 42)
free = []
for fd in {closed}:
    try: os.fstat(fd)
    except OSError: free.append(fd)
said = repr((result.stdout, result.stderr, value, tuple(free)))
os.write(os.open({str(tmp_path / "out")!r}, os.O_CREAT | os.O_WRONLY), said.encode())
"""
    subprocess.run([PYTHON, "-c", script], check=True, timeout=300)
    assert (tmp_path / "out").read_text() == repr((b"out\n", b"err\n", 42, closed))


def test_no_inherited_descriptor_leads_out(tmp_path: Path) -> None:
    """A file of the caller is opened anew, on the copy; a socket and a device are nothing."""
    (tmp_path / "file").write_text("old")
    here, there = socket.socketpair()
    with (tmp_path / "file").open("r+") as file, here, there:
        directory = os.open("/", os.O_RDONLY)

        def look() -> tuple[str, bool, bool]:
            file.write("new")
            file.flush()
            null = os.stat("/dev/null").st_rdev
            same = os.fstat(directory).st_dev == os.stat("/").st_dev
            return (tmp_path / "file").read_text(), os.fstat(here.fileno()).st_rdev == null, same

        assert Sandbox().call(look) == ("new", True, True)
        os.close(directory)
    assert (tmp_path / "file").read_text() == "old"


def test_programs_have_three_descriptors() -> None:
    """0, 1 and 2; what the caller had open for its children leads nowhere."""
    script = "for fd in /proc/self/fd/*; do readlink $fd || true; done"
    assert set(shell(script).split()) <= {"/dev/null", "/memfd:sandbox-stdout", "/memfd:sandbox-stderr", "(deleted)"}


def test_standard_files_can_be_opened_anew() -> None:
    """/dev/stdout and /dev/stderr work as outside."""
    assert shell("echo x > /dev/stdout; echo y >&2 2> /dev/null") == "x\n"


def test_devices() -> None:
    """The usual harmless ones, and terminals of its own."""
    script = "for d in null zero full random urandom; do test -c /dev/$d || exit 1; done; "
    script += "head -c 5 /dev/urandom | wc -c; ls /dev/pts"
    assert shell(script).split() == ["5", "ptmx"]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_threaded_caller() -> None:
    """Threads of the caller hinder no sandbox, and are not in it."""
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    try:
        assert Sandbox().call(lambda: len(os.listdir("/proc/self/task"))) == 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_error_in_a_function_with_a_bad_value() -> None:
    """A sandboxed function that sends nonsense as its value makes an error of its caller, no crash."""
    with pytest.raises(CallError):
        Sandbox().call(object)


def test_output_into_a_file_is_no_change(tmp_path: Path) -> None:
    """Where the run's own output goes to a file, that file is not opened for writing inside, which would copy it up whole."""
    code = (
        "import os; os.dup(1); from pytest_sandbox import Sandbox; result = Sandbox().run(['true']);"
        "print(result.changes, result.usage.overlay_inodes)"
    )
    log = tmp_path / "log"
    with log.open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, timeout=300)
    assert log.read_text() == "() 0\n"
