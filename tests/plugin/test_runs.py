"""Options of a run and what its tests lie in: selection, display, cache, JUnit's file, packages, each as in plain pytest."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Compare

MIXED = """
import pytest
@pytest.fixture(scope="module")
def value():
    yield 1
    print("module is over")
def test_1(value): pass
def test_2(value): assert 0, "two"
def test_3(): pass
@pytest.mark.skip
def test_4(): pass
class TestIt:
    def test_5(self, value): assert 0, "five"
    def test_6(self): pass
@pytest.fixture
def bad(): raise ValueError("bad")
def test_7(bad): pass
"""


@pytest.mark.parametrize(
    "options",
    [
        ("-x",), ("--maxfail=2",), ("--maxfail=3", "-v"), ("-k", "test_1 or TestIt"), ("-k", "nothing"), ("-v",), ("-vv",),
        ("-q",), ("-qq",), ("-rA",), ("-rN",), ("--tb=no",), ("--tb=line",), ("--tb=short",), ("-l",),
        ("--deselect", "test_a.py::test_2"), ("test_b.py::TestIt::test_5", "test_a.py::test_1"), ("-p", "no:cacheprovider"),
        ("-p", "no:logging"), ("-p", "no:warnings"), ("-p", "no:faulthandler"), ("-p", "no:tmpdir"), ("-p", "no:junitxml"),
        ("-p", "no:stepwise"), ("-p", "no:doctest"), ("-p", "no:unraisableexception"), ("--capture=sys",), ("--capture=tee-sys",),
        ("--no-header",), ("--no-summary",), ("-o", "console_output_style=count"), ("-o", "console_output_style=times"),
        ("--strict-markers",), ("--import-mode=importlib",), ("--color=yes",), ("-W", "error"), ("--show-capture=no",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_option(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """Passing, failing, erring and skipped tests in two modules, under one option."""
    pytester.makepyfile(test_a=MIXED, test_b=MIXED)
    compare.same(*options)


@pytest.mark.parametrize("options", [("-p", "no:terminal"), ("-p", "no:capture"), ("-s",), ("--capture=no", "-v")], ids=" ".join)
def test_uncaptured(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """Without capture or terminal reporter: the same reports; what tests print is seen."""
    pytester.makepyfile(test_a=MIXED + "\ndef test_print(): print('printed here')\n")
    pair = compare(*options).assert_same(screen=False)
    for run in (pair.plain, pair.boxed):
        assert "printed here" in run.text or options[-1] == "no:terminal"


def test_print_of_passing_tests(pytester: pytest.Pytester, compare: Compare) -> None:
    """With -s all that tests, fixtures and their processes print goes to the terminal, in order."""
    pytester.makepyfile(
        """
        import pytest, subprocess, sys
        @pytest.fixture(scope="module")
        def value():
            print("fixture up"); yield; print("fixture down")
        def test_1(value): print("one"); subprocess.run(["echo", "echoed"]); sys.stderr.write("three\\n")
        def test_2(value): print("four")
        """
    )
    pair = compare("-s")
    words = ["fixture up", "one", "echoed", "four", "fixture down"]
    for run in (pair.plain, pair.boxed):
        found = re.findall("|".join(words), run.result.stdout.str())
        assert sorted(found) == sorted(words)
        assert "three" in run.text
    assert re.findall("one|four|fixture \\w+", pair.boxed.result.stdout.str()) == ["fixture up", "one", "four", "fixture down"]


def test_last_failed(pytester: pytest.Pytester, compare: Compare) -> None:
    """--lf, --ff and --nf know what failed in the last run."""
    pytester.makepyfile(test_a=MIXED, test_b=MIXED)
    for pair in compare.sequence([], ["--lf"], ["--ff"], ["--nf"], ["--lf", "--co"], ["--cache-show"]):
        pair.assert_same()


def test_stepwise(pytester: pytest.Pytester, compare: Compare) -> None:
    """--sw stops at the first failure and goes on from there."""
    pytester.makepyfile(test_a=MIXED, test_b=MIXED)
    for pair in compare.sequence(["--sw"], ["--sw"], ["--sw-skip"], ["--sw", "--sw-reset"]):
        pair.assert_same()


def test_stepwise_after_a_repair(pytester: pytest.Pytester, compare: Compare) -> None:
    """--sw goes past the test that has been repaired."""
    pytester.makepyfile("import os\ndef test_1(): pass\ndef test_2(): assert os.path.exists('fixed')\ndef test_3(): assert 0\n")
    first = compare.one("--sw")
    (pytester.path / "fixed").touch()
    second = compare.one("--sw")
    assert [report[0][-6:] for report in first.outcomes() if report[1] == "call"] == ["test_1", "test_2"]
    assert [report[0][-6:] for report in second.outcomes() if report[1] == "call"] == ["test_2", "test_3"]


def test_cache_by_the_config(pytester: pytest.Pytester, compare: Compare) -> None:
    """The same without the fixture `cache`, in the first run of all, and from a session fixture."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="session")
        def noted(request): request.config.cache.set("my/fixture", "noted")
        def test_1(request, noted): request.config.cache.set("my/test", request.config.cache.get("my/test", 0) + 1)
        """
    )
    for pair in compare.sequence([], [], ["--cache-show"]):
        pair.assert_same()
        assert set(pair.boxed.files) == set(pair.plain.files)


def test_cache_of_tests(pytester: pytest.Pytester, compare: Compare) -> None:
    """What tests and fixtures put into pytest's cache is there in the next run."""
    pytester.makepyfile(
        """
        def test_1(cache):
            number = cache.get("my/number", 0)
            cache.set("my/number", number + 1)
            (cache.mkdir("mine") / f"file{number}").touch()
            assert number < 2
        def test_2(pytestconfig): pytestconfig.cache.set("my/other", [1])
        """
    )
    for pair in compare.sequence([], [], ["--lf"], ["--cache-show"]):
        pair.assert_same()
        assert set(pair.boxed.files) == set(pair.plain.files)


@pytest.mark.parametrize(
    "options", [("--collect-only",), ("--co", "-q"), ("--fixtures",), ("--fixtures-per-test",), ("--markers",), ("--setup-plan",),
                ("--help",), ("--version",), ("--trace-config",)], ids=" ".join,
)  # fmt: skip
def test_options_that_run_nothing(pytester: pytest.Pytester, compare: Compare, options: str) -> None:
    """Options that list things list them."""
    pytester.makepyfile(test_a=MIXED)
    pair = compare(*options)
    assert pair.boxed.status == pair.plain.status
    if options[0] not in ("--setup-plan", "--trace-config"):
        pair.assert_same()


@pytest.mark.parametrize("option", ["--setup-show", "--setup-only", "--setup-plan"])
def test_setup_show(pytester: pytest.Pytester, compare: Compare, option: str) -> None:
    """Each set-up and teardown is shown once."""
    pytester.makepyfile(test_a=MIXED)
    pair = compare(option).assert_same(screen=False)
    plain, boxed = (
        sorted(re.findall(r"(?:SETUP|TEARDOWN) .*?(?:\)|bad|value)", run.result.stdout.str())) for run in (pair.plain, pair.boxed)
    )
    assert plain == boxed


@pytest.mark.parametrize(
    "options",
    [
        ("--setup-show",),
        ("--setup-show", "-v"),
        ("-o", "log_cli=true"),
        ("-o", "log_cli=true", "-v", "--setup-show"),
        ("-s", "-v"),
    ],
    ids=" ".join,
)
def test_what_is_shown_live(pytester: pytest.Pytester, compare: Compare, options: tuple[str, ...]) -> None:
    """Stands where it stands in plain pytest: above and below the test's outcome."""
    pytester.makepyfile(
        """
        import logging, pytest
        @pytest.fixture
        def own(): logging.warning("up"); yield; logging.warning("down")
        @pytest.fixture
        def broken(): logging.warning("breaks"); raise ValueError
        def test_1(own): logging.warning("in it")
        def test_2(own): assert 0
        def test_3(own, broken): pass
        @pytest.mark.skip
        def test_4(own): pass
        @pytest.mark.parametrize("number", [1, 2])
        def test_5(own, number): logging.warning("number %s", number)
        """
    )
    compare.same(*options)


@pytest.mark.parametrize("family", ["xunit1", "xunit2", "legacy"])
def test_junit(pytester: pytest.Pytester, compare: Compare, family: str) -> None:
    """--junitxml: the same elements, properties, attributes and captured output."""
    pytester.makepyfile(
        test_a=MIXED,
        test_b="""
        import pytest, sys
        @pytest.fixture(scope="session", autouse=True)
        def of_the_run(record_testsuite_property):
            record_testsuite_property("by_fixture", "session")
        def test_1(record_property, record_testsuite_property):
            print("out"); print("err", file=sys.stderr)
            record_property("one", 1)
            record_property("two", "zwei")
            record_testsuite_property("by_test", "test")
        @pytest.mark.filterwarnings("ignore")
        def test_2(record_xml_attribute):
            record_xml_attribute("assertions", "5")
            record_xml_attribute("classname", "other.name")
        @pytest.mark.filterwarnings("ignore")
        def test_3(record_xml_attribute):
            record_xml_attribute("status", "bad")
            assert 0
        def test_4(subtests):
            with subtests.test("passes"): pass
            with subtests.test("fails"): assert 1 == 2
        """,
    )
    pair = compare("--junitxml=junit.xml", "-o", f"junit_family={family}", "-o", "junit_logging=all")
    pair.assert_same(screen=False)
    plain, boxed = (_elements(run.read("junit.xml")) for run in (pair.plain, pair.boxed))
    assert boxed == plain
    assert ('name="sandbox_ending"' in pair.boxed.read("junit.xml")) is (family != "xunit2")


@pytest.mark.parametrize("end", ["pytest.exit('enough')", "raise KeyboardInterrupt"])
def test_junit_of_a_test_that_ends_the_run(pytester: pytest.Pytester, compare: Compare, end: str) -> None:
    """What it has recorded before is there."""
    pytester.makepyfile(
        f"""
        import pytest
        def test_1(record_testsuite_property, record_xml_attribute):
            record_testsuite_property("version", "1.2.3")
            record_xml_attribute("requirement", "R7")
            {end}
        """
    )
    pair = compare("--junitxml=junit.xml", "-o", "junit_family=xunit1", "-Wignore")
    plain, boxed = (_elements(run.read("junit.xml")) for run in (pair.plain, pair.boxed))
    assert boxed == plain
    assert "R7" in pair.plain.read("junit.xml")


@pytest.mark.parametrize("how", [(), ("-n2",), ("--sandbox-jobs=2",)], ids=["alone", "workers", "jobs"])
def test_junits_suite_has_what_was_used_in_all(pytester: pytest.Pytester, compare: Compare, how: tuple[str, ...]) -> None:
    """By kind, in the family that has no place for a test's own figures."""
    pytester.makepyfile(
        """
        import pytest, time
        @pytest.fixture(scope="session", autouse=True)
        def costly(): time.sleep(0.2)
        @pytest.mark.parametrize("number", range(3))
        def test_sleeps(number): time.sleep(0.1)
        def test_makes(sandbox_factory):
            for _ in range(2): sandbox_factory().run(["sleep", "0.1"])
        """
    )
    run = compare.one(*how, "--junitxml=junit.xml")
    run.result.assert_outcomes(passed=4)
    suite = ET.fromstring(run.read("junit.xml")).find("testsuite/properties")
    assert suite is not None
    found = {one.get("name"): float(one.get("value") or "nan") for one in suite}
    assert found["sandbox_sandboxes"] == 4
    assert found["sandbox_sandboxes_wall"] >= 0.5
    assert found["sandbox_made"] == 2
    assert found["sandbox_made_wall"] >= 0.2
    assert found["sandbox_scopes"] == (2 if how == ("-n2",) else 1)
    assert found["sandbox_scopes_wall"] >= 0.2
    assert ("sandbox_sandboxes_memory_peak" in found) is ("sandbox_made_memory_peak" in found)


def _elements(text: str) -> list[str]:
    """Every element with its attributes and text, but for times and what only a sandboxed run has."""
    found = []
    for element in ET.fromstring(text).iter():
        attributes = {name: value for name, value in element.attrib.items() if name not in ("time", "timestamp", "hostname")}
        if not attributes.get("name", "").startswith("sandbox_"):
            content = re.sub(r"-+ Sandbox.*?(?=-{10}|\Z)", "", (element.text or "").strip(), flags=re.DOTALL)
            found.append(re.sub("0x[0-9a-f]+", "0x...", f"{element.tag} {sorted(attributes.items())} {content}".strip()))
    return [line for line in found if line != "properties []"]


def test_an_item_that_calls_itself_otherwise(pytester: pytest.Pytester, compare: Compare) -> None:
    """An item of a class that overrides `nodeid`, or has an `id` of its own."""
    pytester.makeconftest(
        """
        import pytest
        class Mine(pytest.Item):
            nodeid = "foo"
            def runtest(self): pytest.xfail("as expected")
        class Numbered(pytest.Item):
            def runtest(self): assert self.name != "bad"
        if not hasattr(pytest.Item, "id"):
            Numbered.id = 42
        class File(pytest.File):
            def collect(self):
                yield Numbered.from_parent(self, name="good")
                yield Numbered.from_parent(self, name="bad")
                if hasattr(pytest.Item, "id"):  # before, pytest's own reports had the other name
                    yield Mine.from_parent(self, name="mine")
        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".foo": return File.from_parent(parent, path=file_path)
        """
    )
    (pytester.path / "one.foo").touch()
    compare.same("-rA")


@pytest.mark.parametrize("namespace", [False, True], ids=["package", "namespace"])
@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_packages(pytester: pytest.Pytester, compare: Compare, mode: str, namespace: bool) -> None:
    """Tests in packages, of files and by name (--pyargs), with conftest files and modules of one name in two of them."""
    for part in ("one", "two"):
        directory = pytester.mkdir(f"src-{part}") / "space" / part / "tests"
        directory.mkdir(parents=True)
        (directory / "conftest.py").write_text(
            f"import pytest\n@pytest.fixture(scope='package')\ndef of(): yield {part!r}; print('down', {part!r})\n"
        )
        (directory / "helper.py").write_text(f"NAME = {part!r}\n")
        (directory / "test_it.py").write_text(
            f"from space.{part}.tests import helper\n"
            f"def test_1(of): assert of == helper.NAME == {part!r} and __name__\n"
            "def test_2(of): assert 0, __name__\n"
        )
        if not namespace:
            (directory / "__init__.py").touch()
            (directory.parent / "__init__.py").touch()
    pytester.makeini(
        f"[pytest]\nconsider_namespace_packages = true\npythonpath = src-one src-two\naddopts = --import-mode={mode}\n"
    )
    if not (namespace and mode != "importlib"):  # two modules of one name, which pytest itself refuses
        compare.same("src-one", "src-two", "-rA", f"--import-mode={mode}")
    compare.same("--pyargs", "space.one.tests", "-rA", f"--import-mode={mode}")
    compare.same("--pyargs", "space.two.tests.test_it::test_2", "-rA", f"--import-mode={mode}")
