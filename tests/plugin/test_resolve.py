"""Who wins where several levels speak, and what is refused before the first test."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_sandbox import SpecError, capabilities
from pytest_sandbox.model.spec import Keep, Limits, Network, Spec
from pytest_sandbox.plugin.planning import options
from pytest_sandbox.plugin.planning.resolve import Plan, Scope, Settings, enabled, plan, plans, settings

MIB = 1 << 20


class Resolving:
    """A plugin that resolves what it collects and runs the tests unsandboxed; keeps the plans by the test's name."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.plans: dict[str, Plan] = {}

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        """Add the options."""
        options.add_options(parser)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Make the marker known, and read what holds for the run."""
        config.addinivalue_line("markers", options.MARKER_HELP)
        if enabled(config):
            self.settings = settings(config)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Read the markers."""
        if self.settings is not None:
            found = plans(session.items, self.settings)
            self.plans = {item.name: plan for item, plan in zip(session.items, found, strict=True)}


def resolved(pytester: pytest.Pytester, *args: str, source: str | None = None) -> Resolving:
    """What a run with these arguments makes of a file of tests."""
    pytester.makepyfile(source or "def test(): pass")
    plugin = Resolving()
    result = pytester.runpytest_inprocess("-p", "no:sandbox", "--sandbox", *args, plugins=[plugin])
    assert result.ret == pytest.ExitCode.OK, result.stderr.str()
    return plugin


def refusal(pytester: pytest.Pytester, *args: str, source: str | None = None) -> str:
    """The error text of a run that must end as a usage error before the first test."""
    pytester.makepyfile(source or "def test(): open('ran', 'w')")
    result = pytester.runpytest_inprocess("-p", "no:sandbox", *args, plugins=[Resolving()])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert not (pytester.path / "ran").exists()
    return result.stderr.str()


def spec(pytester: pytest.Pytester, *args: str, marker: str = "") -> Spec:
    """What one test with this marker has asked for."""
    mark = f"@pytest.mark.sandbox({marker})\n" if marker else ""
    return resolved(pytester, *args, source=f"import pytest\n{mark}def test(): pass").plans["test"].spec


def marked(pytester: pytest.Pytester, arguments: str, *args: str) -> str:
    """The refusal of one test with this marker."""
    return refusal(
        pytester, "--sandbox", *args, source=f"import pytest\n@pytest.mark.sandbox({arguments})\ndef test(): open('ran', 'w')"
    )


def test_a_plain_run_has_the_defaults(pytester: pytest.Pytester) -> None:
    """Nobody asked for any limit, so none of them may stop a machine that cannot enforce it."""
    plugin = resolved(pytester)
    assert plugin.settings == Settings(
        enabled=True,
        degrade=False,
        require=frozenset(),
        jobs=1,
        usage=False,
        base=Plan(enabled=True, scope=Scope.TEST, group=None, spec=Spec()),
    )
    assert plugin.plans["test"] is plugin.settings.base
    assert hash(plugin.settings.base)


def test_without_sandbox_nothing_is_on(pytester: pytest.Pytester) -> None:
    """Neither by default nor where the command line says no to the ini file."""
    pytester.plugins += [Resolving(), "no:sandbox"]
    assert not enabled(pytester.parseconfig())
    pytester.makeini("[pytest]\nsandbox = true\nsandbox_memory = 64M")
    assert enabled(pytester.parseconfig())
    config = pytester.parseconfig("--no-sandbox", "--sandbox-timeout=2s")
    assert not enabled(config)
    assert not settings(config).base.enabled


def test_a_limit_without_a_sandbox_is_refused(pytester: pytest.Pytester) -> None:
    """It would have no effect, and nothing that is asked for is ignored."""
    text = refusal(pytester, "--sandbox-memory=64M", "--sandbox-usage")
    assert "--sandbox-memory, --sandbox-usage without a sandbox would have no effect: add --sandbox" in text


def test_the_doctor_needs_no_sandbox(pytester: pytest.Pytester) -> None:
    """`pytest --sandbox-doctor` is a command of its own."""
    pytester.plugins += [Resolving(), "no:sandbox"]
    config = pytester.parseconfig("--sandbox-doctor")
    assert not enabled(config)
    assert config.getoption("sandbox_doctor")


def test_marker_over_command_line_over_ini_over_default(pytester: pytest.Pytester) -> None:
    """Each level speaks for the names that it mentions, and only for those."""
    pytester.makeini("[pytest]\nsandbox_memory = 100M\nsandbox_pids = 10\nsandbox_cpus = 1\nsandbox_keep = always")
    found = spec(pytester, "--sandbox-pids=20", "--sandbox-cpus=2", marker="cpus=0.5, network='none'")
    assert found.limits == Limits(memory=100 * MIB, pids=20, cpus=0.5)
    assert (found.network, found.keep) == (Network.NONE, Keep.ALWAYS)
    assert found.asked == {"memory", "pids", "cpus"}


def test_the_closest_marker_wins_argument_by_argument(pytester: pytest.Pytester) -> None:
    """Parameter, function, class, base class, module: what is closer speaks first."""
    found = resolved(
        pytester,
        source="""
            import pytest
            pytestmark = pytest.mark.sandbox(memory="1M", swap="1M", disk="1M", pids=11, files=31)

            @pytest.mark.sandbox(swap="2M", disk="2M", pids=12, files=32)
            class Base:
                pass

            @pytest.mark.sandbox(disk="3M", pids=13, files=33)
            class TestIt(Base):
                @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.sandbox(files=36))])
                @pytest.mark.sandbox(pids=14, files=35)
                @pytest.mark.sandbox(files=35)
                def test(self, x):
                    pass
            """,
    ).plans["test[1]"]
    assert found.spec.limits == Limits(memory=MIB, swap=2 * MIB, disk=3 * MIB, pids=14, files=36)


def test_a_lifted_limit_is_not_asked_for(pytester: pytest.Pytester) -> None:
    """No machine is too weak for no limit."""
    found = spec(pytester, "--sandbox-memory=64M", "--sandbox-disk=none", marker="memory=None")
    assert (found.limits.memory, found.limits.disk) == (None, None)
    assert found.asked == frozenset()


def test_flags_come_from_the_command_line_or_the_ini_file(pytester: pytest.Pytester) -> None:
    """What concerns the whole run is in the settings; names to require add up."""
    pytester.makeini("[pytest]\nsandbox_degrade = yes\nsandbox_require = memory, pids")
    found = resolved(pytester, "--sandbox-usage", "--sandbox-require=net").settings
    assert found is not None
    assert (found.degrade, found.usage, found.require) == (True, True, frozenset({"memory", "pids", "net"}))


def test_scope_and_group(pytester: pytest.Pytester) -> None:
    """The closer of the two decides."""
    found = resolved(
        pytester,
        "--sandbox-scope=module",
        source="""
            import pytest

            def test_run(): pass

            @pytest.mark.sandbox(group="db")
            class TestGroup:
                def test_group(self): pass

                @pytest.mark.sandbox(scope="test")
                def test_alone(self): pass
            """,
    ).plans
    assert (found["test_run"].scope, found["test_run"].group) == (Scope.MODULE, None)
    assert (found["test_group"].scope, found["test_group"].group) == (Scope.TEST, "db")
    assert (found["test_alone"].scope, found["test_alone"].group) == (Scope.TEST, None)


def test_enabled_false_exempts_a_test(pytester: pytest.Pytester) -> None:
    """And a closer True takes that back, but never turns on what the run has off."""
    source = """
        import pytest
        pytestmark = pytest.mark.sandbox(enabled=False)
        def test_out(): pass
        @pytest.mark.sandbox(enabled=True)
        def test_in(): pass
        """
    found = resolved(pytester, source=source).plans
    assert [found["test_out"].enabled, found["test_in"].enabled] == [False, True]


def test_paths_are_relative_to_where_they_are_written(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line: where pytest was called. Ini: the root directory. Marker: the test's file. Levels add up."""
    root = Path(pytester.path)
    for name in ("ini", "sub/cli", "sub/y", "tests/marker", "home"):
        (root / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(root / "home"))
    pytester.makeini("[pytest]\nsandbox_writable =\n  ini\n  ~")
    (root / "tests/test_it.py").write_text(
        "import pytest\n@pytest.mark.sandbox(writable=['marker', '../ini'], hide='x')\ndef test(): pass\n"
    )
    monkeypatch.chdir(root / "sub")
    plugin = Resolving()
    args = ["-p", "no:sandbox", "--sandbox", "--sandbox-writable=cli", "--sandbox-hide=y", "-c", "../tox.ini", "../tests"]
    assert pytester.runpytest_inprocess(*args, plugins=[plugin]).ret == pytest.ExitCode.OK
    found = plugin.plans["test"].spec
    assert found.writable == tuple(str(root / name) for name in ("ini", "home", "sub/cli", "tests/marker"))
    assert found.hide == (str(root / "sub/y"), str(root / "tests/x"))


def test_one_marker_in_two_directories_means_two_paths(pytester: pytest.Pytester) -> None:
    """A base class lends its marks to test files elsewhere, and each has its own neighbours."""
    pytester.makeconftest("import pytest\nclass Base:\n    pytestmark = pytest.mark.sandbox(hide='x')")
    for name in ("a", "b"):
        (pytester.mkpydir(name) / f"test_{name}.py").write_text(
            f"from conftest import Base\nclass Test(Base):\n    def test_{name}(self): pass\n"
        )
    pytester.syspathinsert()
    found = resolved(pytester).plans
    assert [found[f"test_{name}"].spec.hide for name in ("a", "b")] == [(str(pytester.path / name / "x"),) for name in ("a", "b")]


def test_scratch(pytester: pytest.Pytester) -> None:
    """A directory for one test or for all; "none" is the tmpfs again. A disk limit that nobody asked for is no obstacle."""
    pytester.mkdir("big")
    directory = str(pytester.path / "big")
    assert spec(pytester, "--sandbox-scratch=big").scratch == directory
    assert spec(pytester, marker="scratch='big'").scratch == directory
    assert spec(pytester, "--sandbox-scratch=big", marker="scratch='none', disk='4M'").scratch is None
    assert spec(pytester, "--sandbox-scratch=big", "--sandbox-disk=none").scratch == directory
    assert list((pytester.path / "big").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--sandbox-writable=missing"], ["--sandbox-writable", "'missing' does not exist", "create it"]),
        (["--sandbox-writable=/"], ["the whole machine"]),
        (["--sandbox-hide=d", "--sandbox-hide=missing"], ["--sandbox-hide: /", "missing does not exist", "ini key sandbox_hide"]),
        (["--sandbox-hide=/proc"], ["--sandbox-hide: /proc cannot be hidden", "below it"]),
        (["--sandbox-hide=/proc/self"], ["--sandbox-hide: /proc/", "of one process"]),
        (["--sandbox-writable=/proc"], ["--sandbox-writable: /proc cannot be writable", "processes"]),
        (["--sandbox-writable=/sys/kernel"], ["--sandbox-writable: /sys/kernel cannot be writable"]),
        (["--sandbox-writable=/dev"], ["--sandbox-writable: /dev cannot be writable", "a single device"]),
        (["--sandbox-pids=5000000"], ["the limit pids=5000000 is more than the kernel can hold, 4194304"]),
        (["--sandbox-cpus=100000"], ["cpus", "8192"]),
        (["--sandbox-io-read-ops=4294967295"], ["the limit io_read_ops=4294967295 is more than the kernel can hold, 4294967294"]),
        (["--sandbox-io-write-ops=4294967297"], ["the limit io_write_ops=", "more than the kernel can hold"]),
        (["--sandbox-inodes=100000000000000000"], ["the limit inodes=", "more than the kernel can hold"]),
        (["--sandbox-hide=~nobody-has-this-name/x"], ["--sandbox-hide", "no such home directory"]),
        (["--sandbox-hide=d", "--sandbox-writable=d"], ["both writable and hidden"]),
        (["--sandbox-hide=d/e/f", "--sandbox-writable=d"], ["cannot be hidden below", "rename"]),
        (["--sandbox-scratch=missing"], ["--sandbox-scratch", "not a directory"]),
        (["--sandbox-scratch=/proc"], ["'/proc' cannot be written"]),
        (["--sandbox-scratch=d", "--sandbox-disk=64M"], ["disk and scratch", "exclude each other", "tmpfs", "none"]),
        (["--sandbox-scratch=d", "-o", "sandbox_inodes=100"], ["inodes and scratch"]),
        (["-o", "sandbox_memory=64Q"], ["ini key sandbox_memory", "'64Q'"]),
        (["-o", "sandbox_memory="], ["ini key sandbox_memory", "''"]),
        (["-o", "sandbox_usage=perhaps"], ["ini key sandbox_usage", "perhaps"]),
        (["-o", "sandbox_jobs=some"], ["ini key sandbox_jobs", "'some'"]),
        (["-o", "sandbox_memroy=64M"], ["ini key sandbox_memroy", "did you mean 'sandbox_memory'?"]),
        (["-o", "sandbox-memory=64M"], ["ini key sandbox-memory is not known: did you mean 'sandbox_memory'?"]),
        (["-o", "sandbox_group=db"], ["sandbox_group is not known: group is for the marker only", "sandbox(group=...)"]),
        (
            ["-o", "sandbox_doctor=true"],
            ["sandbox_doctor is not known: doctor is for the command line only: use --sandbox-doctor"],
        ),
        (["-o", "sandbox=perhaps"], ["ini key sandbox:", "perhaps"]),
    ],
)
def test_nonsense_for_the_run_is_refused(pytester: pytest.Pytester, args: list[str], words: list[str]) -> None:
    """The error says where it was asked for, what is wrong and what to write."""
    pytester.mkdir("d")
    (pytester.path / "d" / "e" / "f").mkdir(parents=True)
    on = [] if args == ["-o", "sandbox=perhaps"] else ["--sandbox"]
    text = refusal(pytester, *on, *args)
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("memroy='64M'", ["no argument 'memroy'", "did you mean 'memory'?", "cpu_time"]),
        ("memory='64Q'", ["sandbox(memory='64Q')", "not a size", "1.5G"]),
        ("timeout=0", ["sandbox(timeout=0)", "would leave nothing"]),
        ("pids=True", ["sandbox(pids=True)", "not a count"]),
        ("'64M'", ["sandbox('64M')", "must have names"]),
        ("degrade=True", ["whole run only", "--sandbox-degrade", "sandbox_degrade"]),
        ("doctor=True", ["whole run only", "--sandbox-doctor"]),
        ("scope='modul'", ["did you mean 'module'?"]),
        ("scope='test', group='x'", ["either with a scope or with a group"]),
        ("group=''", ["not the name of a group"]),
        ("enabled='no'", ["neither True nor False"]),
        ("writable='missing'", ["writable='missing'", "does not exist"]),
        ("enabled=False, memory='64M', pids=5", ["enabled=False): memory, pids would have no effect", "leave out one"]),
        ("hide=3", ["sandbox(hide=3)", "not a path"]),
        ("scratch='missing'", ["not a directory"]),
        ("network='host'", ["for a whole run only", "--sandbox-network=host", "enabled=False"]),
        ("disk='4M', scratch='.'", ["exclude each other"]),
    ],
)
def test_nonsense_in_a_marker_is_refused(pytester: pytest.Pytester, arguments: str, words: list[str]) -> None:
    """The error names the test, the argument, and the closest name or the forms that are taken."""
    text = marked(pytester, arguments)
    assert "test_nonsense_in_a_marker_is_refused.py::test: @pytest.mark.sandbox" in text or "::test: disk and scratch" in text
    for word in words:
        assert word in text


def test_a_marker_that_contradicts_the_run_is_refused(pytester: pytest.Pytester) -> None:
    """A disk limit for one test, where the run's scratch cannot have one."""
    pytester.mkdir("big")
    assert "::test: disk and scratch" in marked(pytester, "disk='4M'", "--sandbox-scratch=big")


def test_the_hosts_network_for_the_whole_run(pytester: pytest.Pytester) -> None:
    """A marker may then repeat it, or ask for less; and a test that is not sandboxed has it anyway."""
    assert spec(pytester, "--sandbox-network=host", marker="network='host'").network is Network.HOST
    assert spec(pytester, "--sandbox-network=host", marker="network='none'").network is Network.NONE
    assert spec(pytester, marker="network='host', enabled=False").network is Network.HOST


def test_limits_of_others_do_not_disturb_a_test_without_a_sandbox(pytester: pytest.Pytester) -> None:
    """A class's limits are for its other tests; what stands as close as enabled=False, or closer, would have no effect."""
    source = """
        import pytest
        @pytest.mark.sandbox({0})
        class TestIt:
            @pytest.mark.sandbox({1})
            def test(self): pass
        """
    assert not resolved(pytester, source=source.format("memory='64M'", "enabled=False")).plans["test"].enabled
    assert resolved(pytester, source=source.format("enabled=False", "enabled=True, memory='64M'")).plans["test"].enabled
    assert "memory would have no effect" in refusal(pytester, "--sandbox", source=source.format("enabled=False", "memory='64M'"))


def test_every_wrong_test_is_named_up_to_ten(pytester: pytest.Pytester) -> None:
    """All that is wrong in one go, but no thousand lines."""
    text = refusal(
        pytester,
        "--sandbox",
        source="""
            import pytest
            @pytest.mark.parametrize("x", range(25))
            @pytest.mark.sandbox(memroy="64M")
            def test(x): open("ran", "w")
            """,
    )
    assert text.count("did you mean 'memory'?") == 10
    assert "... and 15 more like these" in text


NATIVE = pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest reads native TOML from version 9 on")


@NATIVE
def test_a_toml_number_is_a_number(pytester: pytest.Pytester) -> None:
    """The TOML of pytest has types, and a number needs no quotes."""
    written = "sandbox_pids = 5\nsandbox_cpus = 0.5\nsandbox_timeout = 2\nsandbox_memory = 67108864\nsandbox_hide = ['x']"
    pytester.makepyprojecttoml(f"[tool.pytest]\nsandbox = true\nsandbox_usage = true\nsandbox_disk = '64M'\n{written}")
    assert spec(pytester).limits == Limits(pids=5, cpus=0.5, timeout=2.0, memory=64 * MIB, disk=64 * MIB)


@NATIVE
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sandbox_pids = 1.5", "1.5 is not a count"),
        ("sandbox_pids = true", "ini key sandbox_pids"),
        ("sandbox_pids = [5]", "ini key sandbox_pids"),
        ("sandbox_usage = 1", "ini key sandbox_usage: 1 is neither True nor False"),
        ("sandbox_hide = 3", "ini key sandbox_hide: 3 is not a path"),
        ("sandbox = 1", "ini key sandbox:"),
    ],
)
def test_a_toml_value_that_makes_no_sense(pytester: pytest.Pytester, line: str, words: str) -> None:
    """The error has the key."""
    pytester.makepyprojecttoml(f"[tool.pytest]\n{line}")
    assert words in refusal(pytester, *([] if line == "sandbox = 1" else ["--sandbox"]))


def test_pyproject_lists_and_text(pytester: pytest.Pytester) -> None:
    """Lists of paths are lists in TOML."""
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nsandbox_pids = "5"\nsandbox_hide = ["a b", "c"]')
    found = spec(pytester)
    assert found.limits.pids == 5
    assert found.hide == (str(pytester.path / "a b"), str(pytester.path / "c"))


def test_markers_are_not_looked_at_without_a_sandbox(pytester: pytest.Pytester) -> None:
    """On a machine or platform that has no sandboxes, a marker is only a marker."""
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox(memory='64M')\ndef test(): pass")
    assert pytester.runpytest_inprocess("-p", "no:sandbox", plugins=[Resolving()]).ret == pytest.ExitCode.OK


def test_items_that_share_their_marks_share_their_plan(pytester: pytest.Pytester) -> None:
    """Ten thousand parameters of one function are resolved once."""
    found = resolved(
        pytester,
        source="""
            import pytest
            @pytest.mark.parametrize("x", range(3))
            @pytest.mark.sandbox(memory="64M")
            def test(x): pass
            """,
    ).plans
    assert len({id(plan) for plan in found.values()}) == 1


def test_an_unmarked_item_costs_next_to_nothing(pytester: pytest.Pytester) -> None:
    """A guard against a change of order: it is 2 us an item, of CPU time, since others may run meanwhile."""
    plugin = Resolving()
    pytester.plugins += [plugin, "no:sandbox"]
    items = pytester.getitems("class TestIt:\n    def test(self): pass")
    run = settings(pytester.parseconfig("--sandbox"))
    begin = time.process_time()
    for _ in range(10_000):
        plan(items[0], run)
    assert time.process_time() - begin < 10_000 * 50e-6


@pytest.mark.parametrize("quiet", ["", "-q"])
def test_what_markers_ask_for_and_is_not_enforced(pytester: pytest.Pytester, quiet: str) -> None:
    """With --sandbox-degrade it is said, once for each reason; and so is what the header says, where -q leaves that out."""
    name = next((name for name in ("memory_high", "hugetlb", "cpus") if not capabilities()[name].available), None)
    if name is None:
        pytest.skip("this machine holds every limit")
    value = "1" if name == "cpus" else "64M"
    pytester.makepyfile(f"import pytest\n@pytest.mark.sandbox({name}={value!r})\ndef test_it(): pass\ndef test_other(): pass")
    for more in (["--sandbox-degrade"], ["--sandbox-degrade", f"--sandbox-{name.replace('_', '-')}={value}"]):
        result = pytester.runpytest_subprocess("--sandbox", *more, *quiet.split())
        result.assert_outcomes(passed=2)
        told = [line for line in result.outlines if "NOT ENFORCED" in line and name in line]
        assert len(told) == 1, result.outlines
        assert "(asked for, but --sandbox-degrade)" in told[0]


def test_every_limit_that_is_missing_is_named_at_once(pytester: pytest.Pytester) -> None:
    """Those of markers with the first test that asks for it, those of the run with the option or ini key that does."""
    lacking = [name for name, value in (("memory_high", "1G"), ("hugetlb", "1G")) if not capabilities()[name].available]
    if len(lacking) < 2:
        pytest.skip("this machine has all limits")
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.sandbox(memory_high="1G")
        def test_1(): pass
        @pytest.mark.sandbox(memory_high="1G", hugetlb="1G")
        def test_2(): pass
        """
    )
    said = pytester.runpytest_subprocess("--sandbox").stderr.str()
    assert "::test_1: the limit memory_high is not available here" in said
    assert "::test_2: the limit hugetlb is not available here" in said
    assert said.count("memory_high") == 1
    said = pytester.runpytest_subprocess("--sandbox", "--sandbox-memory-high=1G").stderr.str()
    assert said.startswith("ERROR: --sandbox-memory-high: the limit memory_high is not available here: ")
    said = pytester.runpytest_subprocess("--sandbox", "-osandbox_hugetlb=1G").stderr.str()
    assert said.startswith("ERROR: ini key sandbox_hugetlb: the limit hugetlb is not available here: ")


def test_what_pytest_calls_function_is_a_test() -> None:
    """Its word for a scope is not ours."""
    with pytest.raises(SpecError, match=r"'function' is none of test, .*: pytest's function is a test here"):
        options.BY_NAME["scope"].parse("function")
