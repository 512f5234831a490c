"""A real browser, without a screen, in the sandboxes of tests: by pytest-playwright, and as a program that a test starts."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

LOADED = ["pytest_playwright.pytest_playwright"]
NEEDED = ["playwright", "pytest_playwright"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")

CONFTEST = f"""
import re, subprocess, sys
import pytest

PAGE = "<html><p id='p'>before</p><script>document.getElementById('p').textContent = 'by script'</script></html>"

@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    options = ["--no-sandbox", "--disable-dev-shm-usage"]
    return {{**browser_type_launch_args, "executable_path": {CHROMIUM!r}, "args": options, "timeout": 120_000}}

@pytest.fixture
def context(context):  # with room for a busy machine
    from playwright.sync_api import expect
    context.set_default_timeout(120_000)
    expect.set_options(timeout=60_000)
    return context

@pytest.fixture(scope="session")
def site(tmp_path_factory):
    top = tmp_path_factory.mktemp("site")
    (top / "index.html").write_text(PAGE)
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", top]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    port = re.search(r" port (\\d+) ", server.stdout.readline())[1]  # that nobody else of this machine has
    yield f"http://127.0.0.1:{{port}}/"
    server.terminate()
    server.wait()
"""


def test_playwright(compat: Any) -> None:
    """Pages of a server that a session fixture has started, cookies of one test alone, screenshots, a failing expectation."""
    compat.pytester.makeconftest(CONFTEST)
    compat.pytester.makepyfile(
        """
        import pytest
        from playwright.sync_api import expect
        def test_script(page, site):
            page.goto(site)
            expect(page.locator("#p")).to_have_text("by script")
        @pytest.mark.parametrize("n", range(2))
        def test_storage(page, site, n):
            page.goto(site)
            assert page.evaluate("localStorage.getItem('mine')") is None
            page.evaluate("localStorage.setItem('mine', 'x')")
            assert len(page.screenshot()) > 1000
        def test_failing(page, site):
            page.goto(site)
            assert page.locator("#p").text_content() == "other"
        def test_elsewhere(page):
            with pytest.raises(Exception, match="ERR_"):
                page.goto("http://192.0.2.1/", timeout=60_000)
        """
    )
    plain, boxed = compat.both("-k", "not elsewhere")
    assert boxed.outcomes() == plain.outcomes()
    assert boxed.result.parseoutcomes()["passed"] == 3
    run = compat.one("-k", "elsewhere")  # in a sandbox alone: there is no way out
    run.result.assert_outcomes(passed=1, deselected=4)


def test_program(compat: Any) -> None:
    """Chromium itself, with all its processes, within the limits; none is left."""
    compat.pytester.makeconftest(CONFTEST)
    compat.pytester.makepyfile(
        f"""
        import subprocess
        OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
        def test_dump(site, tmp_path):
            done = subprocess.run(
                [{CHROMIUM!r}, *OPTIONS, f"--user-data-dir={{tmp_path}}", site], capture_output=True, text=True, timeout=200
            )
            assert "by script" in done.stdout, done.stderr
        """
    )
    plain, boxed = compat.both()
    assert boxed.outcomes() == plain.outcomes()
    boxed.result.assert_outcomes(passed=1)
