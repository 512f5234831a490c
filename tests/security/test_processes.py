"""Other processes: a test sees and reaches none but its own, and leaves none behind."""

from __future__ import annotations

from typing import Any


def test_host_processes_are_not_there(anywhere: Any) -> None:
    """A process of the machine can be seen, signalled, traced or entered by no call: ESRCH, ENOENT."""
    victim = anywhere.victim()
    anywhere.facts["victim"] = victim.pid
    anywhere.write("""
PID = FACTS["victim"]
def test_all():
    inner.assert_inside()
    lines = [open(f"/proc/{pid}/cmdline").read() for pid in os.listdir("/proc") if pid.isdigit()]
    assert not any(FACTS["token"] in line for line in lines), lines
    assert FACTS["token"] not in subprocess.run(["ps", "axww"], capture_output=True, text=True).stdout
    assert not os.path.exists(f"/proc/{PID}")
    inner.refused(
        errno.ESRCH,
        kill=inner.code(lambda: os.kill(PID, signal.SIGKILL)),
        killpg=inner.code(lambda: os.killpg(PID, signal.SIGKILL)),
        pidfd=inner.code(lambda: os.pidfd_open(PID)),
        ptrace=inner.call("ptrace", 16, PID, 0, 0),
        getpgid=inner.code(lambda: os.getpgid(PID)),
        priority=inner.code(lambda: os.setpriority(os.PRIO_PROCESS, PID, 19)),
        affinity=inner.code(lambda: os.sched_setaffinity(PID, {0})),
    )
    inner.refused(
        errno.ENOENT,
        root=inner.code(lambda: os.listdir(f"/proc/{PID}/root")),
        mem=inner.code(lambda: os.open(f"/proc/{PID}/mem", os.O_RDWR)),
    )
""")
    anywhere.run().passed("test_all", "test_next")
    assert victim.poll() is None


def test_kill_of_everything_kills_the_sandbox_alone(attack: Any) -> None:
    """kill(-1, SIGKILL) ends the test that does it, as killed by SIGKILL, and nobody else."""
    victim = attack.victim()
    attack.write("""
def test_kill_all():
    inner.assert_inside()
    inner.fork(lambda: os.kill(-1, signal.SIGKILL))
    time.sleep(60)
""")
    result = attack.run()
    result.failed("test_kill_all", "signalled", "SIGKILL")
    result.passed("test_next")
    assert victim.poll() is None


def test_init_and_scopes_take_no_signal_from_a_test(anywhere: Any) -> None:
    """pid 1 of a sandbox survives every signal that its test sends, cannot be traced, and still names what leaks."""
    anywhere.write("""
def test_signal_init():
    inner.assert_inside()
    for number in signal.valid_signals():
        os.kill(1, number)
    time.sleep(0.1)
    inner.refused(errno.EPERM, ptrace=inner.call("ptrace", 16, 1, 0, 0))
    inner.refused(errno.EACCES, errno.EPERM,
        fd=inner.code(lambda: os.readlink("/proc/1/fd/0")), root=inner.code(lambda: os.listdir("/proc/1/root/")),
        mem=inner.code(lambda: os.open("/proc/1/mem", os.O_RDWR)), getfd=inner.code(lambda: getfd()))
    inner.daemon(inner.sleeper(FACTS["token"] + "-leak"))
def getfd():
    pidfd = os.pidfd_open(1)
    for number in range(3, 64):
        if inner.LIBC.syscall(438, pidfd, number, 0) >= 0:
            return
    import ctypes
    raise OSError(ctypes.get_errno(), "pidfd_getfd")
""")
    result = anywhere.run()
    result.passed("test_signal_init", "test_next")
    assert anywhere.token in result.cases["test_signal_init"].properties["sandbox_leaks"]


def test_a_daemon_is_dead_at_the_end_of_the_test_and_named(attack: Any) -> None:
    """setsid, a second fork and closed descriptors save nobody: dead when the test is reported, and named as a leak."""
    attack.write(
        """
def pytest_runtest_logfinish(nodeid):
    # In the controller: by the kernel's word no such process is left on the machine when the test has ended.
    if os.readlink("/proc/self/ns/pid") == FACTS["namespaces"]["pid"]:
        word = f"{FACTS['token']}-{nodeid.rpartition('::')[2]}-leak"
        print(f"after {nodeid}: {inner.processes(word)}", file=sys.__stderr__, flush=True)
""",
        "conftest.py",
    )
    attack.write("""
def leave(name):
    word = f"{FACTS['token']}-{name}-leak"
    inner.daemon(inner.sleeper(word))
    inner.wait_until(lambda: inner.processes(word))
def test_daemon():
    leave("test_daemon")
def test_failing_daemon():
    leave("test_failing_daemon")
    assert False
""")
    result = attack.run("-s")
    result.passed("test_daemon", "test_next")
    for name in ("test_daemon", "test_failing_daemon"):
        assert f"after test_attack.py::{name}: []" in result.output, result.output
        assert f"{name}-leak" in result.cases[name].properties["sandbox_leaks"]
    assert "left 1 process(es) running, killed now" in result.output
    assert "left running, killed now" in result.output


def test_children_that_will_not_die_do_not_hold_the_run(attack: Any) -> None:
    """A child that keeps the output pipe and the report's socket, ignores all signals, or is stopped, is dead with its test."""
    attack.write("""
def spawn(stop):
    child = subprocess.Popen(inner.sleeper(FACTS["token"] + "-child"), close_fds=False, pass_fds=[inner.wire_socket()])
    inner.wait_until(lambda: "-child" in open(f"/proc/{child.pid}/cmdline").read())
    time.sleep(0.1)
    if stop:
        child.send_signal(signal.SIGSTOP)
    child.returncode = 0  # no ResourceWarning: leaving it is the point
def test_ignores():
    inner.assert_inside()
    spawn(stop=False)
def test_stopped():
    inner.assert_inside()
    spawn(stop=True)
def test_traced():
    inner.assert_inside()
    child = os.fork()
    if child == 0:
        inner.call("ptrace", 0, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
    os.waitpid(child, os.WUNTRACED)
""")
    result = attack.run()
    result.passed("test_ignores", "test_stopped", "test_traced", "test_next")
    assert "sandbox_leaks" in result.cases["test_ignores"].properties
    assert "sandbox_leaks" in result.cases["test_stopped"].properties
    assert attack.processes(attack.token) == []


def test_what_is_left_cannot_be_hidden(attack: Any) -> None:
    """Init is of the same user, who may take away its descriptors, with which it looks who is left: that is told then."""
    attack.write("""
import resource
def test_hides():
    subprocess.Popen(["sleep", "98765"], start_new_session=True)
    resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))
""")
    result = attack.run()
    result.passed("test_hides", "test_next")
    assert "left 1 process(es) running, killed now: [who is left cannot be read] (pid 0)" in result.output
    assert attack.processes(attack.token) == []


def test_a_command_line_is_no_way_to_the_terminal(attack: Any) -> None:
    """What controls it is shown as text."""
    attack.write(r"""
def test_leaves(): subprocess.Popen(["sh", "-c", "sleep 98765; : \x1b]0;title\x07\r\n PASSED \u202e"], start_new_session=True)
""")
    result = attack.run()
    result.passed("test_leaves")
    assert r"\x1b]0;title\x07\r\n PASSED \u202e" in result.output
    assert "\x1b]0;title" not in result.output


def test_more_are_left_than_are_told(attack: Any) -> None:
    """How many there were is not known then."""
    attack.write("""
def test_leaves():
    for _ in range(105): subprocess.Popen(["sleep", "98765"])
""")
    result = attack.run()
    result.passed("test_leaves")
    assert "left 100 or more process(es) running" in result.output
