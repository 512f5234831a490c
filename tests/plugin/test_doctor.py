"""Machines on which no sandbox can be made: it is said why, and what would change it; and how it is said."""

from __future__ import annotations

import ctypes
import errno
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_sandbox import Capability, capabilities
from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import Prctl
from pytest_sandbox.plugin.reporting.header import not_enforced
from pytest_sandbox.sandbox import doctor
from tests.plugin.conftest import ROOT, diagnose, run

_MOUNT_SETATTR = 442
_UNSHARE = {"x86_64": 272, "aarch64": 97}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_UNAME26 = 0x0020000
"""personality(2): uname(2) says 2.6 and something."""


def forbid(call: int, number: int) -> None:
    """From now on this process gets this errno of that call, by a seccomp filter (struct sock_filter[])."""
    program = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x0005_0000 | number), (0x06, 0, 0, 0x7FFF_0000)]
    syscalls.prctl(Prctl.SET_NO_NEW_PRIVS, 1)
    syscalls.set_filter(b"".join(struct.pack("=HBBI", *line) for line in program))


def before_5_12() -> None:
    """From now on this process is on a kernel without mount_setattr(2), and of a name so old."""
    ctypes.CDLL(None).personality(_UNAME26)
    forbid(_MOUNT_SETATTR, errno.ENOSYS)


def test_a_kernel_without_a_needed_call(pytester: pytest.Pytester) -> None:
    """Both refuse before anything runs, and name call, kernel and fix."""
    pytester.makepyfile("def test(): raise SystemError('it ran')")
    status, said = run(["--sandbox-doctor"], before_5_12)
    assert (status, "cannot run here: no platform" in said) == (1, True), said
    assert "NO  platform: Linux 2.6." in said
    assert "has no mount_setattr(2)" in said
    assert "fix: Linux 5.12 or newer" in said
    assert "Traceback" not in said
    status, said = run(["--sandbox"], before_5_12)
    assert status == pytest.ExitCode.USAGE_ERROR, said
    assert "--sandbox: platform is not available here: Linux " in said
    assert "Fix: Linux 5.12 or newer" in said
    assert not any(word in said for word in ("Traceback", "it ran"))


def test_a_newer_kernel_whose_call_is_hidden() -> None:
    """An engine older than the call hides it from the container: it is not the kernel that is to be changed."""
    status, said = run(["--sandbox-doctor"], lambda: forbid(_MOUNT_SETATTR, errno.ENOSYS))
    assert status == 1
    assert "NO  platform: ENOSYS of mount_setattr(2), which Linux " in said
    assert "seccomp" in said
    assert "5.12" not in said


def test_the_doctor_is_right(pytester: pytest.Pytester) -> None:
    """On every machine: where it says that pytest can run, it can, and where not, pytest says why and what to do."""
    pytester.makepyfile("def test(): pass")
    diagnosis, said = run(["--sandbox-doctor"])
    status, text = run(["--sandbox"])
    expected = {0: pytest.ExitCode.OK, 1: pytest.ExitCode.USAGE_ERROR}
    assert status == expected[diagnosis], said + text
    assert said.startswith("host: ")
    assert diagnosis == 0 or "Fix: " in text
    assert "Traceback" not in said + text


@pytest.mark.parametrize("at", ["ini", "option"])
def test_what_is_asked_for_is_judged(pytester: pytest.Pytester, at: str) -> None:
    """Limits and what the run requires, by ini file or command line: the doctor fails where the run would be refused."""
    pytester.makepyfile("def test(): pass")
    values = ["hugetlb=1M", "memory_high=1G", "require=all", "cpuset=8000", "cpuset=8000 degrade=yes"]
    found = {}
    for value in values if at == "option" else [*values, "pids=many"]:
        words = value.split()
        pytester.makeini("\n".join(["[pytest]", *(f"sandbox_{word}" for word in words if at == "ini")]))
        given = [f"--sandbox-{word.removesuffix('=yes').replace('_', '-')}" for word in words if at == "option"]
        status, text = run(["--sandbox", *given])
        diagnosis, said = run(["--sandbox-doctor", *given])
        assert status in (pytest.ExitCode.OK, pytest.ExitCode.USAGE_ERROR), text
        why = text.partition("ERROR: ")[2].strip().removeprefix("--sandbox: ")
        verdict = f"cannot run here: {why}" if status else "can run here"
        assert said.endswith(f"\n\npytest --sandbox {verdict}\n"), said
        assert diagnosis == bool(status)
        found[value] = bool(status)
    assert (found["cpuset=8000"], found["cpuset=8000 degrade=yes"], found.get("pids=many", True)) == (True, False, True)


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else, and is never short of processes")
@pytest.mark.parametrize("most", [1, 2, 3], ids=["to try anything", "to try proc", "for a sandbox"])
def test_too_few_processes(most: int) -> None:
    """The reason is no fix, and the fix is one."""
    command = ["setpriv", "--reuid=62712", "--regid=62712", "--clear-groups", "prlimit", f"--nproc={most}:{most}"]
    command += [sys.executable, "-m", "pytest_sandbox"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if not done.stdout.startswith("host: "):
        pytest.skip(f"another user cannot run this Python: {done.stderr}")
    ((reason, fix),) = re.findall(r"^NO  (?:platform|sandbox): (.*)\n    fix: (.*)$", done.stdout, re.MULTILINE)
    assert "too_revealing" not in done.stdout
    assert reason.endswith(": no further process may be made")
    assert fix == "raise ulimit -u of this user, or pids.max of the cgroups around pytest"


def test_the_docs_explain_every_capability() -> None:
    """The table's first column has each name once, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")
    table = page.partition("## Capabilities\n")[2].partition("\n## ")[0]
    names = [name for line in table.splitlines() if line.startswith("| `") for name in line.split("|")[1].split()]
    assert sorted(names) == sorted(f"`{name}`" for name in capabilities())


def test_a_masked_proc() -> None:
    """As container engines mask it: a new one is refused by the kernel, and the fix is to unmask; whatever else is mounted."""
    odd = """odd=$(printf '/mnt/a\\r\\013\\342\\200\\250b'); mkdir "$odd"; mount -t tmpfs odd "$odd" """
    said = diagnose(f"mount -t tmpfs odd /mnt; {odd}; mount -t tmpfs mask /proc/fs")
    assert "NO  proc: EPERM of mount(2): the kernel mounts a new proc only where another is seen whole" in said
    assert "(mount_too_revealing), and /proc/fs is covered\n    fix: " in said
    assert "cannot run here: no proc" in said


def test_no_network_namespaces() -> None:
    """All that one sysctl forbids stands in one line, with its name."""
    said = diagnose("echo 0 > /proc/sys/user/max_net_namespaces")
    assert "\nNO  net, proc, sysfs, bandwidth: ENOSPC of unshare(2): user.max_net_namespaces is 0\n    fix: " in said
    assert "sysctl -w user.max_net_namespaces=10000\n" in said


def test_no_program_in_memory() -> None:
    """As on a hardened machine, which then has no pid 1 for a sandbox."""
    said = diagnose("echo 2 > /proc/sys/vm/memfd_noexec", apart=("-Urmpf", "--mount-proc"))
    assert "\nNO  native: EACCES of memfd_create(2): vm.memfd_noexec is 2: no program may lie in memory" in said
    assert "sysctl vm.memfd_noexec=1 (" in said


@pytest.mark.skipif(not ROOT, reason="only root can leave a root directory")
def test_a_chroot() -> None:
    """No rule of the machine's, and no mask: user namespaces are not made there."""
    script = """
    mount -t tmpfs root /mnt
    mkdir /mnt/root
    for each in /*; do
        [ -d "$each" ] && [ ! -L "$each" ] && [ "$each" != /mnt ] || continue
        mkdir "/mnt/root$each"; mount --rbind "$each" "/mnt/root$each"
    done
    for each in /*; do [ ! -L "$each" ] || cp -P "$each" /mnt/root; done
    set -- chroot /mnt/root "$@"
    """
    said = diagnose(script, apart=("-m",))
    names = "user, pid, net, ipc, uts, cgroup, proc, sysfs, bandwidth"
    assert f"\nNO  {names}: EPERM of unshare(2): no user namespace is made in a chroot" in said


def test_root_of_a_user_namespace() -> None:
    """Each part can be had, but not the whole: the mounts are somebody else's."""
    said = diagnose("true")
    assert "\nNO  sandbox: EINVAL of open_tree(2): root of a user namespace, among mounts" in said
    assert "fix: start pytest outside of this user namespace" in said


@pytest.mark.skipif(platform.machine() not in _UNSHARE, reason="the number of the call is of two machines")
def test_a_seccomp_filter() -> None:
    """As container engines have one; what it forbids stands in one line, and no namespace is named as the culprit."""
    status, said = run(["--sandbox-doctor"], lambda: forbid(_UNSHARE[platform.machine()], errno.EPERM))
    assert status == 1
    assert (
        "\nNO  user, mount, pid, net, ipc, uts, cgroup, proc, sysfs, bandwidth: EPERM of unshare(2): forbidden by a seccomp"
        in said
    )
    assert "Traceback" not in said


@pytest.mark.skipif(platform.machine() not in _PIVOT_ROOT, reason="the number of the call is of two machines")
def test_a_seccomp_filter_of_one_call() -> None:
    """As Docker's, which lets root with CAP_SYS_ADMIN mount, but not change the root."""
    status, said = run(["--sandbox-doctor"], lambda: forbid(_PIVOT_ROOT[platform.machine()], errno.EPERM))
    assert status == 1
    assert "\nNO  sandbox: EPERM of pivot_root(2): forbidden by a seccomp filter, as container engines have one" in said
    assert "\n    fix: start pytest without its seccomp filter" in said or "seccomp=unconfined" in said
    assert "Traceback" not in said


STACK = """
mount -t tmpfs stack /mnt
mkdir -p /mnt/below/tmp /mnt/one /mnt/two; for each in 1 2; do mkdir /mnt/upper$each /mnt/work$each; done
mount -t overlay one -o userxattr,lowerdir=/mnt/below,upperdir=/mnt/upper1,workdir=/mnt/work1 /mnt/one
mount -t overlay two -o userxattr,lowerdir=/mnt/one,upperdir=/mnt/upper2,workdir=/mnt/work2 /mnt/two
export TMPDIR=/mnt/two/tmp
"""


def test_a_third_overlay_on_two() -> None:
    """As for an engine in a container: the kernel stacks two, and says EINVAL, as of so much else."""
    # As an ordinary user: the root of the namespace that mounts would have mounts that it may clone.
    said = diagnose(f'{STACK}\nset -- unshare -U --map-user=1 --map-group=1 "$@"', user=65534 if ROOT else None)
    assert "\nNO  sandbox: EINVAL of mount(2): a third overlay on two (/mnt/two lies on an overlay on an overlay" in said
    assert "FILESYSTEM_MAX_STACK_DEPTH" in said
    assert "\n    fix: put /mnt/two on a volume or a tmpfs; for temporary files, TMPDIR=" in said


SHUT = """
mount -t tmpfs shut /mnt
mkdir -p /mnt/shut/inner; ln -s inner /mnt/shut/link; mount -t tmpfs inner /mnt/shut/inner; chmod 444 /mnt/shut
set -- unshare -U --map-user=1 --map-group=1 "$@"
"""
DEAD = """
mount -t tmpfs dead /mnt; mkdir /mnt/dead
mount -i -t fuse dead /mnt/dead -o fd=3,rootmode=40000,user_id=0,group_id=0 3<>/dev/fuse
set -- setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
"""


def test_mounts_that_the_user_may_not_look_at() -> None:
    """In a directory without the right to search it: not seen inside, and no reason to refuse a run."""
    assert "\npytest --sandbox can run here" in diagnose(SHUT, user=65534 if ROOT else None)


@pytest.mark.skipif(not ROOT, reason="only root has somebody else's mounts")
def test_a_file_system_whose_server_has_died() -> None:
    """FUSE, as of sshfs, of another user: as above."""
    assert "\npytest --sandbox can run here" in diagnose(DEAD, apart=("-m",))


def test_a_machine_that_cannot_be_looked_at() -> None:
    """No descriptor is left to read its mounts by: that is said, and not raised."""
    code = """
import resource
from pytest_sandbox.sandbox import doctor
doctor.try_sandbox()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
found = doctor.try_sandbox()
print(found.available, found.reason)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"False [Errno {errno.EMFILE}] "), done.stdout + done.stderr


ONE = """
mount -t tmpfs stack /mnt
mkdir -p /mnt/below/tmp /mnt/upper /mnt/work /mnt/one; echo below > /mnt/below/file
mount -t overlay one -o userxattr,lowerdir=/mnt/below,upperdir=/mnt/upper,workdir=/mnt/work /mnt/one
"""


@pytest.mark.skipif(not ROOT, reason="only root has mounts id-mapped")
@pytest.mark.parametrize("needed", [False, True], ids=["somewhere", "where tests write"])
def test_an_overlay_among_what_can_be_mapped(pytester: pytest.Pytester, *, needed: bool) -> None:
    """As on a machine with containers: it can only be read, unless tests are to write there: then no ids are mapped."""
    pytester.makepyfile("""
        import pathlib
        def test():
            assert pathlib.Path("/mnt/one/file").read_text() == "below\\n"
            try: pathlib.Path("/mnt/one/file").write_text("new")
            except OSError as error: print("errno", error.errno)
            else: print("written")
    """)
    script = ONE + ("export TMPDIR=/mnt/one/tmp\n" if needed else "")
    if "yes identity: id-mapped" not in diagnose(ONE, apart=("-m",)):
        pytest.skip("the root file system cannot be id-mapped")
    said = diagnose(script, apart=("-m",))
    assert ("yes identity: id-mapped" in said) is not needed
    assert "can run here" in said
    command = [
        "unshare",
        "-m",
        "sh",
        "-ec",
        f'{script}\nexec "$@"',
        "sh",
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*command, "--sandbox", "-rP"], capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert ("written" if needed else f"errno {errno.EROFS}") in done.stdout


def test_what_is_alike_is_told_once() -> None:
    """One line for one reason and one fix, in the order of the first; another fix is another line."""
    found = [
        Capability("a", available=True, reason="v2"),
        Capability("b", available=False, reason="why", fix="do"),
        Capability("c", available=True, reason="v2"),
        Capability("d", available=False, reason="why", fix="do"),
        Capability("e", available=False, reason="why", fix="other"),
    ]
    assert list(doctor.lines(found)) == [
        "yes a, c: v2",
        "NO  b, d: why",
        "    fix: do",
        "NO  e: why",
        "    fix: other",
    ]


def test_the_header_tells_each_reason_once() -> None:
    """With the limits that it is for; the doctor says what differs, in parentheses."""
    missing = [Capability(name, available=False, reason=f"not delegated ({name}: EACCES)") for name in ("memory", "swap")]
    other = Capability("disk", available=False, reason="scratch")
    assert list(not_enforced([*missing, other], {"swap"})) == [
        "sandbox: NOT ENFORCED: memory, swap (asked for, but --sandbox-degrade): not delegated",
        "sandbox: NOT ENFORCED: disk: scratch",
    ]


def test_elsewhere(pytester: pytest.Pytester) -> None:
    """On a platform that has nothing of what the package uses: what is missing and the way around, and tests are skipped."""
    pytester.makepyfile("def test_it(sandbox): pass\ndef test_other(sandbox_factory): pass\ndef test_plain(): pass")
    start = "import signal, sys; import pytest, pytest_sandbox; sys.platform = 'darwin'; del signal.SIGRTMAX; "

    def run(code: str) -> pytest.RunResult:
        return pytester.run(sys.executable, "-c", f"{start}{code}", timeout=300)

    result = run("sys.exit(pytest.main(['-rs']))")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*this test runs in no sandbox: darwin has no namespaces"])
    for asked in ("pytest.main(['--sandbox-doctor'])", "__import__('runpy').run_module('pytest_sandbox', run_name='__main__')"):
        result = run(f"sys.exit({asked})")
        assert result.ret == 1
        result.stdout.fnmatch_lines(["NO *darwin has no namespaces", "*fix: run the tests on Linux*", "*cannot run here*"])
    result = run("sys.exit(pytest.main(['--sandbox']))")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result = run("pytest_sandbox.Spec(); pytest_sandbox.Sandbox")
    result.stderr.fnmatch_lines(["*UnavailableError: platform is not available here: darwin has no namespaces*"])


@pytest.mark.parametrize(
    ("unshare", "reason"),
    [
        ("--mount sh -c 'mount -t tmpfs none /proc && exec \"$@\"' --", "there is no /proc/self: No such file or directory"),
        ("--pid --fork sh -c 'exec \"$@\"' --", "/proc is of another pid namespace, where this process is "),
    ],
)
def test_without_its_own_proc(pytester: pytest.Pytester, unshare: str, reason: str) -> None:
    """No /proc at all, or one that does not know this process: refused, with the fix, and the doctor says the same."""
    pytester.makepyfile("def test_it(): pass")
    start = f"unshare --map-root-user {unshare} {sys.executable} -m pytest -p no:cacheprovider"
    for options, status in (("--sandbox", 4), ("--sandbox-doctor", 1)):
        result = pytester.run("sh", "-c", f"{start} {options}", timeout=300)
        assert result.ret == status
        assert reason in result.stdout.str() + result.stderr.str()
        assert "mount -t proc proc /proc" in result.stdout.str() + result.stderr.str()


def test_a_conftest_that_cannot_be_imported(pytester: pytest.Pytester) -> None:
    """The doctor says how it is asked all the same."""
    pytester.makeconftest("import what_is_not_there")
    result = pytester.runpytest_subprocess("--sandbox-doctor")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["a conftest.py keeps the doctor from its work; without it: *--noconftest"])
    pytester.runpytest_subprocess("--sandbox-doctor", "--noconftest").stdout.fnmatch_lines(["host: *"])
