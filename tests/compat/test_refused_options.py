"""Each option by which something would be lost is one that its plugin has, and is refused; without it tests run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from pytest_sandbox.plugin.others.refused import KEEPS, WRITES, Asked

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

NOTHING = "def test_1(): pass\n"
MARKED = "import pytest\n@pytest.mark.{}\ndef test_1(): pass\n"


@dataclasses.dataclass(frozen=True)
class Use:
    """How an option is used: the plugins to load, the arguments, a suite that it concerns, what is needed to do without it."""

    plugins: str
    args: str
    suite: str = NOTHING
    without: str = ""


USES = {
    ("pytest-regressions", "--force-regen"): Use(
        "pytest_regressions.plugin pytest_datadir.plugin", "--force-regen", "def test_1(data_regression): pass\n"
    ),
    ("pytest-regressions", "--regen-all"): Use(
        "pytest_regressions.plugin pytest_datadir.plugin", "--regen-all", "def test_1(file_regression): pass\n"
    ),
    ("pytest-recording", "--record-mode"): Use("pytest_recording.plugin", "--record-mode=once", MARKED.format("vcr")),
    ("pytest-vcr", "--vcr-record"): Use("pytest_vcr", "--vcr-record=all", MARKED.format("vcr")),
    ("pytest-vcr", "--vcr-record-mode"): Use("pytest_vcr", "--vcr-record-mode=all -Wignore", "def test_1(vcr_cassette): pass\n"),
    ("pytest-mpl", "--mpl-generate-path"): Use(
        "pytest_mpl.plugin", "--mpl-generate-path=made", MARKED.format("mpl_image_compare")
    ),
    ("pytest-arraydiff", "--arraydiff-generate-path"): Use(
        "pytest_arraydiff.plugin", "--arraydiff-generate-path=made", MARKED.format("array_compare")
    ),
    ("pytest-snapshot", "--snapshot-update"): Use("pytest_snapshot.plugin", "--snapshot-update", "def test_1(snapshot): pass\n"),
    ("pytest-regtest", "--regtest-reset"): Use("pytest_regtest", "--regtest-reset", "def test_1(regtest): pass\n"),
    ("pytest-golden", "--update-goldens"): Use(
        "pytest_golden.plugin", "--update-goldens -Wignore", MARKED.format("golden_test('*.yml')").replace("()", "(golden)")
    ),
    ("pytest-insta", "--insta"): Use(
        "pytest_insta.plugin", "-p cacheprovider --insta=update", "def test_1(snapshot): pass\n", "-p cacheprovider"
    ),
    ("pytest-codspeed", "--codspeed"): Use("pytest_codspeed.plugin", "--codspeed"),
    ("pytest-bdd", "--cucumberjson"): Use("pytest_bdd.plugin", "--cucumberjson=report.json"),
    ("pytest-bdd", "--gherkin-terminal-reporter"): Use("pytest_bdd.plugin", "--gherkin-terminal-reporter"),
    ("pytest-find-dependencies", "--find-dependencies"): Use(
        "find_dependencies.plugin", "--find-dependencies", without="-p no:find_dependencies.plugin"
    ),
    ("pytest-profiling", "--profile"): Use("pytest_profiling", "--profile"),
    ("pytest-profiling", "--profile-svg"): Use("pytest_profiling", "--profile-svg"),
    ("pytest-memray", "--memray"): Use("pytest_memray.plugin", "--memray"),
    ("pytest-line-profiler", "--line-profile"): Use("pytest_line_profiler", "--line-profile=os.path.join"),
    ("pytest-testmon", "--testmon"): Use("testmon.pytest_testmon", "-p cacheprovider --testmon"),
    ("pytest-testmon", "--testmon-noselect"): Use("testmon.pytest_testmon", "-p cacheprovider --testmon-noselect"),
    ("pytest-testmon", "--testmon-forceselect"): Use("testmon.pytest_testmon", "-p cacheprovider --testmon-forceselect"),
    ("pytest-examples", "--update-examples"): Use("pytest_examples", "--update-examples"),
    ("pytest-mpl", "--mpl-generate-hash-library"): Use("pytest_mpl.plugin", "--mpl-generate-hash-library=made/it.json"),
    ("pytest-mpl", "--mpl-generate-summary"): Use("pytest_mpl.plugin", "--mpl --mpl-generate-summary=json"),
    ("snapshottest", "--snapshot-update"): Use("snapshottest.pytest", "--snapshot-update -Wignore", without="-Wignore"),
    ("pytest-durations", "--pytest-durations"): Use("pytest_durations", "", without="--pytest-durations=0"),
    ("pytest-durations", "--pytest-durations-json"): Use(
        "pytest_durations", "--pytest-durations=0 --pytest-durations-json=made/it.json", without="--pytest-durations=0"
    ),
    ("pytest-monitor", "without --no-monitor"): Use("pytest_monitor.pytest_monitor", "", without="--no-monitor"),
}


#: What is not in the group `compat`, since it is large, or none of it works with all versions of pytest: for who has it.
NOT_IN_THE_GROUP = frozenset(
    [
        "pytest-examples",
        "pytest-golden",
        "pytest-insta",
        "pytest-line-profiler",
        "pytest-memray",
        "pytest-mpl",
        "pytest-regtest",
        "snapshottest",
    ]
)


@pytest.fixture(params=[*WRITES, *KEEPS], ids=lambda option: f"{option.distribution} {option.flag}")
def option(request: pytest.FixtureRequest) -> Asked:
    """Each of them."""
    found: Asked = request.param
    return found


@pytest.fixture
def in_the_group(option: Asked) -> bool:
    """Whether its plugin must be there."""
    return option.distribution not in NOT_IN_THE_GROUP


@pytest.fixture
def use(option: Asked) -> Use:
    """How it is used."""
    return USES[option.distribution, option.flag]


@pytest.fixture
def plugins(use: Use) -> list[str]:
    """What is loaded for it."""
    return use.plugins.split()


@pytest.fixture
def needed(plugins: list[str]) -> list[str]:
    """What must be installed: packages."""
    return [name.partition(".")[0] for name in plugins]


def test_refused(compat: Compat, option: Asked, use: Use) -> None:
    """Refused before the first test and with no file touched, also where something else is let through; else tests run."""
    for name in ("made", "elsewhere"):
        compat.pytester.mkdir(name).joinpath("it.json").write_text("{}")
    compat.pytester.makepyfile(test_it=use.suite)
    before = compat.files()
    below = compat.pytester.mkdir("below").joinpath("test_it.py")
    (compat.pytester.path / "test_it.py").rename(below)
    run = compat.one(*use.args.split(), "--sandbox-writable=elsewhere")
    assert run.status == pytest.ExitCode.USAGE_ERROR, run.text
    assert not run.outcomes()
    assert option.flag in run.line("--sandbox: ")
    assert option.distribution in run.line("--sandbox: ")
    assert {name: run.files[name] for name in before.keys() & run.files.keys()} == {
        name: content for name, content in before.items() if name != "test_it.py"
    }
    allowed = f"{use.args} --sandbox-writable=." if option in WRITES else use.without
    run = compat.one(*allowed.split())
    assert run.outcomes(), run.text
    assert run.status != pytest.ExitCode.USAGE_ERROR


def test_each_has_a_use() -> None:
    """None of them is left out here."""
    assert sorted(USES) == sorted((option.distribution, option.flag) for option in [*WRITES, *KEEPS])
