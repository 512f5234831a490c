"""Machines on which no sandbox can be made, or no limit held: it is said why, and what would change it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_sandbox import Capability, capabilities
from pytest_sandbox._linux import syscalls
from pytest_sandbox._linux.flags import Clone, Prctl
from pytest_sandbox.model.capability import Cause
from pytest_sandbox.plugin.reporting.header import not_enforced
from pytest_sandbox.primitives import cgroup_files
from pytest_sandbox.primitives.cgroup_layout import V1, find_hierarchies
from pytest_sandbox.sandbox import doctor, fixes, hostkind

_MOUNT_SETATTR = 442
_UNSHARE = {"x86_64": 272, "aarch64": 97}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_UNAME26 = 0x0020000
"""personality(2): uname(2) says 2.6 and something."""
ROOT = os.geteuid() == 0


def forbid(call: int, number: int) -> None:
    """From now on this process gets this errno of that call, by a seccomp filter (struct sock_filter[])."""
    program = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x0005_0000 | number), (0x06, 0, 0, 0x7FFF_0000)]
    syscalls.prctl(Prctl.SET_NO_NEW_PRIVS, 1)
    syscalls.set_filter(b"".join(struct.pack("=HBBI", *line) for line in program))


def before_5_12() -> None:
    """From now on this process is on a kernel without mount_setattr(2), and of a name so old."""
    ctypes.CDLL(None).personality(_UNAME26)
    forbid(_MOUNT_SETATTR, errno.ENOSYS)


def run(arguments: Sequence[str], kernel: Callable[[], None] | None = None) -> tuple[int, str]:
    """The exit status of a pytest of its own, and all that it says."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, preexec_fn=kernel)
    return done.returncode, done.stdout


def diagnose(script: str, *, apart: Sequence[str] = ("-Urm",), user: int | None = None) -> str:
    """What the doctor says in namespaces in which a shell script has run; skips where the script cannot."""
    command = ["unshare", *apart, "sh", "-ec", f'{script}\nexec "$@"', "sh", sys.executable, "-m", "pytest_sandbox"]
    who = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **who)  # type: ignore[call-overload]
    if not done.stdout.startswith("host: "):
        pytest.skip(f"the script cannot run here: {done.stderr}")
    assert "Traceback" not in done.stderr
    return str(done.stdout)


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


def limits_refused(said: str, reason: str) -> list[str]:
    """The capabilities that are not there for that reason."""
    lines = [line for line in said.splitlines() if line.startswith("NO ") and reason in line]
    return [name for line in lines for name in line[4 : line.index(reason)].strip().split(", ")]


def memory_hierarchy() -> tuple[str, str]:
    """The name and the directory of this process's cgroup where memory is limited; skips where there is none."""
    texts = [Path(f"/proc/self/{name}").read_text(encoding="utf-8") for name in ("cgroup", "mountinfo")]
    found = [one for one in find_hierarchies(*texts) if not one.problem]
    found.sort(key=lambda one: "memory" not in one.controllers)
    if not found or (found[0].version == V1 and "memory" not in found[0].controllers):
        pytest.skip("no cgroup hierarchy is mounted here")
    return found[0].name, found[0].directory


def test_a_cgroup_file_system_that_is_read_only() -> None:
    """As in most containers: limits are refused for that, not for a want of delegation; what it says to type is enough."""
    memory_hierarchy()
    script = """
    for point in $(sed -n 's/^[^-]* \\(\\/[^ ]*\\) [^-]* - cgroup2\\{0,1\\} .*/\\1/p' /proc/self/mountinfo); do
        mount -o remount,bind,ro "$point"
    done
    """
    apart = ("-m",) if ROOT else ("-Urm",)
    said = diagnose(script, apart=apart)
    problem = "the cgroup file system is mounted read-only (mkdir: EROFS in the v"
    assert "memory" in limits_refused(said, problem)
    if hostkind.here().engine:
        assert f"\n    fix: {fixes.fix(Cause.READ_ONLY, hostkind.here())}" in said
        return
    commands = re.findall(r"^    fix: as root: (mount -o remount,bind,rw /sys/fs/cgroup\S*);", said, re.MULTILINE)
    assert len(commands) == said.count(problem)
    assert problem not in diagnose("\n".join([script, *commands]), apart=apart)


@pytest.mark.skipif(not ROOT, reason="only root mounts a cgroup file system of the machine's")
def test_a_container_whose_shell_starts_pytest(tmp_path: Path) -> None:
    """It is in the root of the cgroups that the container sees, as pytest is: refused, until docs/host-setup.md is followed."""
    name, directory = memory_hierarchy()
    cgroup = Path(directory, f"doctor-{os.getpid()}")
    cgroup.mkdir()
    try:
        if name != "v2" or "memory" not in (cgroup / "cgroup.controllers").read_text():
            pytest.skip("no cgroup of version 2 with memory can be made here")
        text = (Path(__file__).parents[2] / "docs" / "host-setup.md").read_text(encoding="utf-8")
        recipe = text.partition("### Limits in a container\n")[2].partition("```sh\n")[2].partition("```")[0]
        (tmp_path / "shell").write_text(f"cat /proc/self/cgroup\npytest --sandbox 2>&1 || echo status $?\n{recipe}")
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\nsandbox_memory = 64M\nsandbox_pids = 50\n")
        (tmp_path / "test_it.py").write_text("def test_it(): bytearray(200 << 20)\n")
        container = "umount -l /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; . ./shell"
        done = subprocess.run(
            ["sh", "-ec", f"echo $$ > {cgroup}/cgroup.procs; exec unshare --cgroup --mount sh -ec '{container}'"],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        cgroup_files.remove([str(cgroup)])
    path, _, said = done.stdout.partition("\n")
    before, _, after = said.partition("status 4\n")
    assert path == "0::/", done.stderr
    assert "other processes are in the cgroup of pytest, and controllers cannot be enabled below it (cgroup.subtree_" in before
    assert "out of memory: the kernel killed" in after, said + done.stderr


class Shell:
    """One that somebody starts pytest from, in cgroups that are new, in a directory with a test that takes too much memory."""

    def __init__(self, cgroups: Sequence[Path], directory: Path, user: int) -> None:
        (directory / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\nsandbox_memory = 64M\n")
        (directory / "test_it.py").write_text("def test_it(): bytearray(200 << 20)\n")
        os.chown(directory, user, user)
        enter = "".join(f"echo $$ > '{cgroup}/cgroup.procs'; " for cgroup in cgroups)
        who = f"setpriv --reuid={user} --regid={user} --clear-groups"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["sh", "-ec", f"{enter}exec {who} sh 2>&1"],
            cwd=directory,
            env=os.environ | {"PATH": path, "HOME": str(directory), "TMPDIR": str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self.do("python -c 'import pytest_sandbox'")
        if said:
            self.close()
            pytest.skip(f"user {user} cannot run this Python: {said}")

    def do(self, command: str) -> str:
        """What a command prints."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\necho; echo ENDED\n")
        self._process.stdin.flush()
        return "".join(iter(self._process.stdout.readline, "ENDED\n")).strip()

    def diagnose(self) -> str:
        """What the doctor says."""
        said = self.do("pytest --sandbox-doctor")
        assert said.startswith("host: "), said
        return said

    def have_root_do(self, command: str) -> None:
        """In a shell that is somewhere else."""
        command = command.replace("SHELL_PID", str(self._process.pid))
        subprocess.run(["sh", "-c", command], check=True, cwd="/")

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)


@pytest.fixture
def fresh() -> Iterator[list[Path]]:
    """New cgroups below this process's own, in each hierarchy, as root makes them; skips where memory is not limited there."""
    memory_hierarchy()
    texts = [Path(f"/proc/self/{name}").read_text(encoding="utf-8") for name in ("cgroup", "mountinfo")]
    made: list[Path] = []
    try:
        for hierarchy in find_hierarchies(*texts):
            if ROOT and not hierarchy.problem:
                made.append(Path(hierarchy.directory, f"doctor-{os.getpid()}"))
                made[-1].mkdir()
                if "cpuset" in hierarchy.controllers:
                    cgroup_files.inherit(str(made[-1]), ("cpuset.mems", "cpuset.cpus"))
        if not any("memory.max" in os.listdir(cgroup) or "memory.limit_in_bytes" in os.listdir(cgroup) for cgroup in made):
            pytest.skip("no cgroup with memory can be made here")
        yield made
    finally:
        cgroup_files.remove(list(map(str, made)))


@pytest.fixture
def shell() -> Iterator[Callable[[int, Sequence[Path]], Shell]]:
    """Starts a `Shell` of a user's, in cgroups."""
    with contextlib.ExitStack() as stack:

        def start(user: int, cgroups: Sequence[Path]) -> Shell:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            directory.chmod(0o755)
            started = Shell(cgroups, directory, user)
            stack.callback(started.close)
            return started

        yield start


OUT_OF_MEMORY = "out of memory: the kernel killed"
SOMEBODY_ELSE = pytest.mark.skipif(
    hostkind.here().systemd or hostkind.here().engine is not None, reason="systemd or an engine is asked for cgroups"
)


def handed_over(said: str) -> list[tuple[str, str]]:
    """What root is to type, and then the user in the shell of theirs, of every fix that hands a cgroup over."""
    by_version_2 = re.findall(r"^    fix: as root: (\(cd .*\)); then, from that shell, (.*)$", said, re.MULTILINE)
    return by_version_2 + re.findall(r"^    fix: as root: (\(cd .*\)); then (.*) from that shell$", said, re.MULTILINE)


@SOMEBODY_ELSE
def test_what_a_user_is_told_is_enough(fresh: list[Path], shell: Callable[[int, Sequence[Path]], Shell]) -> None:
    """Word for word: what root is to do, and what is to be done in the user's own shell then. Once, and again from there."""
    own = shell(65534, fresh)
    said = own.diagnose()
    assert "memory" in limits_refused(said, "this cgroup is not delegated to user 65534"), said
    told = handed_over(said)
    assert len(told) == said.count("\n    fix: as root: (cd ") > 0, said
    for by_root, _ in told * 2:  # as it is done where it was done before
        own.have_root_do(by_root)
    assert OUT_OF_MEMORY in own.do(told[0][1])
    assert "is not delegated" not in own.diagnose()
    if (fresh[-1] / "memory.max").exists():
        said = own.diagnose()
        assert "memory" in limits_refused(said, "other processes are in the cgroup of pytest"), said
        (line,) = re.findall(r"^    fix: (\(cd .*)$", said, re.MULTILINE)
        assert OUT_OF_MEMORY in own.do(line)


@SOMEBODY_ELSE
def test_a_cgroup_below_one_with_processes(fresh: list[Path], shell: Callable[[int, Sequence[Path]], Shell]) -> None:
    """It has no controllers, and cannot be given any: those around it are moved out of the way first, as the doctor says."""
    cgroup = next((each for each in fresh if (each / "memory.max").exists()), None)
    if cgroup is None:
        pytest.skip("version 1 has no such rule")
    shell(0, [cgroup])
    (cgroup / "tests").mkdir()
    inner = shell(0, [cgroup / "tests"])
    said = inner.diagnose()
    reason = f"a cgroup above does not pass on the controller memory (cgroup.subtree_control in {cgroup})"
    assert "memory" in limits_refused(said, reason), said
    (command,) = set(re.findall(r"^    fix: as root: (\(cd .*\))$", said, re.MULTILINE))
    inner.have_root_do(command)
    (line,) = re.findall(r"^    fix: (\(cd .*)$", inner.diagnose(), re.MULTILINE)
    assert OUT_OF_MEMORY in inner.do(line)


def commands_of_the_page(start: str) -> tuple[str, str]:
    """What root and the user are to type, of the lines that follow these words; in the first, the user is "me"."""
    page = (Path(__file__).parents[2] / "docs" / "host-setup.md").read_text(encoding="utf-8")
    lines = page.partition(start)[2].partition("```console\n")[2].partition("```")[0].splitlines()
    by_root, by_user = ("\n".join(line[2:] for line in lines if line[0] in prompts) for prompts in ("#>", "$"))
    return by_root.replace("me:", "65534").replace("$SHELL_PID", "SHELL_PID"), by_user


@SOMEBODY_ELSE
def test_lines_of_the_page_for_version_1(fresh: list[Path], shell: Callable[[int, Sequence[Path]], Shell]) -> None:
    """Each hierarchy is handed over, where the shell is in it."""
    if not any((one / "memory.limit_in_bytes").exists() for one in fresh):
        pytest.skip("version 1 has no memory here")
    own = shell(65534, fresh)
    by_root, _ = commands_of_the_page("With cgroup version 1, or both versions, ")
    own.have_root_do(by_root)
    assert OUT_OF_MEMORY in own.do("pytest --sandbox")
    assert not limits_refused(own.diagnose(), "this cgroup is not delegated")


@pytest.fixture
def real_root() -> Iterator[Path]:
    """The root of all cgroups, of version 2, if nothing of it is changed but that it has a cgroup `tests` for the time being."""
    root = Path("/sys/fs/cgroup")
    if not ROOT or not (root / "cgroup.subtree_control").exists() or (root / "cgroup.events").exists():
        pytest.skip("it is not to be seen, or not root's to change")
    if (root / "tests").exists() or (root / "cgroup.controllers").read_text() != (root / "cgroup.subtree_control").read_text():
        pytest.skip("there are tests in it, or it would pass on more than it did")
    yield root
    if (root / "tests").exists():
        cgroup_files.remove([str(root / "tests")])


@SOMEBODY_ELSE
@pytest.mark.parametrize("source", ["doctor", "page"])
def test_a_user_in_the_root_of_all_cgroups(real_root: Path, shell: Callable[[int, Sequence[Path]], Shell], source: str) -> None:
    """It passes controllers on as it is; as on a machine that has version 2 and no systemd."""
    own = shell(65534, [real_root])
    said = own.diagnose()
    assert "memory" in limits_refused(said, "this cgroup is not delegated to user 65534"), said
    ((by_root, by_user),) = handed_over(said)
    if source == "page":
        by_root, by_user = commands_of_the_page("Without systemd an administrator makes one by hand")
    own.have_root_do(by_root)
    assert OUT_OF_MEMORY in own.do(by_user)


@pytest.mark.skipif(not ROOT or hostkind.here().engine is not None, reason="only the machine's root mounts what is the machine's")
def test_cgroup_file_systems_that_are_not_mounted() -> None:
    """Each is named, of version 1 by its controllers, and what it says to mount is enough."""
    memory_hierarchy()
    script = "umount -l /sys/fs/cgroup; if grep -q ' - cgroup' /proc/self/mountinfo; then exit 1; fi"
    said = diagnose(script, apart=("-m",))
    assert "memory" in limits_refused(said, "cgroup hierarchy is not mounted"), said
    commands = re.findall(r"^    fix: as root: (mount.*); in a container", said, re.MULTILINE)
    assert len(commands) == said.count("cgroup hierarchy is not mounted")
    said = diagnose("\n".join([script, "set +e", *commands]), apart=("-m",))
    assert "\nyes memory, swap" in said or "other processes are in the cgroup" in said, said
    assert "not mounted" not in said


@pytest.fixture
def astray() -> Iterator[Callable[[], None]]:
    """What takes a process out of the cgroup that its cgroup namespace begins at."""
    _, directory = memory_hierarchy()
    inner = f"{directory}/doctor-{os.getpid()}"
    try:
        os.mkdir(inner)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")

    def enter(cgroup: str) -> None:
        with open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))

    def leave() -> None:
        enter(inner)
        uid, gid = os.geteuid(), os.getegid()
        syscalls.unshare(Clone.NEWCGROUP if ROOT else Clone.NEWUSER | Clone.NEWCGROUP)
        for name, line in {} if ROOT else {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}.items():
            Path(f"/proc/self/{name}").write_text(line, encoding="ascii")
        enter(directory)

    yield leave
    os.rmdir(inner)


def test_a_cgroup_outside_of_its_namespace(astray: Callable[[], None]) -> None:
    """Its path begins with /..: whoever was moved there has no cgroup that they could divide."""
    name, _ = memory_hierarchy()
    try:
        _, said = run(["--sandbox-doctor"], astray)
    except subprocess.SubprocessError as error:
        pytest.skip(f"no process can be led astray here: {error}")
    assert "memory" in limits_refused(said, f"this process's {name} cgroup /.. lies outside of its cgroup namespace"), said


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
