"""What a passing test records for later runs, and is gone with its sandbox, is named once a run, with how to have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

LOADED = ["pytest_vcr"]
RECORDED = """
import http.server, threading, urllib.request
import pytest
@pytest.fixture
def url():
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
        def log_message(self, *args): pass
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown(); server.server_close(); thread.join()
@pytest.mark.vcr
@pytest.mark.parametrize("n", [1, 2])
def test_1(url, n): assert urllib.request.urlopen(url).read() == b"hello"
"""
KEEP = "--sandbox-keep=failed"  # the default
LOST = "is gone with its sandbox. To have such files"
WRITING = """
import os, pathlib, pytest
@pytest.mark.parametrize("n", [1, 2])
def test_1(n):
    path = pathlib.Path(__file__).parent / os.environ["PLACE"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("new")
    if "REMOVE" in os.environ: path.unlink()
    assert "FAIL" not in os.environ
"""


def test_recorded(compat: Compat) -> None:
    """A cassette that pytest-vcr records by itself, since there is none: named once; with what is said, it is there."""
    compat.pytester.mkdir("tests").joinpath("test_it.py").write_text(RECORDED)
    plain, boxed = compat.both(KEEP, same=False)
    assert plain.status == pytest.ExitCode.USAGE_ERROR  # --sandbox-keep
    plain = compat.one(sandbox=False)
    assert boxed.status == plain.status == 0
    assert sorted(set(plain.files) - set(boxed.files)) == ["tests/cassettes/test_1[1].yaml", "tests/cassettes/test_1[2].yaml"]
    assert boxed.text.count(LOST) == 1
    assert f"tests/cassettes/test_1[1].yaml, which tests/test_it.py::test_1[1] has written, {LOST}" in boxed.text
    assert "--sandbox-writable=tests, or @pytest.mark.sandbox(enabled=False)" in boxed.text


def test_with_what_is_said(compat: Compat) -> None:
    """What is let through is not lost, nor is what is compared with; and whoever keeps nothing need not hear of it."""
    compat.pytester.mkdir("tests").joinpath("test_it.py").write_text(RECORDED)
    assert LOST not in compat.one("--sandbox-keep=never").text
    run = compat.one(KEEP, "--sandbox-writable=tests")
    assert run.status == 0
    assert "tests/cassettes/test_1[2].yaml" in run.files
    assert LOST not in run.text
    assert LOST not in compat.one(KEEP).text


PLACES = {
    "data/golden/x": True,
    "__snapshots__/test_it/x": True,
    "data/x": False,
    "snapshot": False,
    ".cache/snapshots/x": False,
}


@pytest.mark.parametrize("place", list(PLACES))
def test_places(compat: Compat, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Named are files in directories whose names say what they are for."""
    compat.pytester.makepyfile(test_it=WRITING)
    monkeypatch.setenv("PLACE", place)
    assert (LOST in compat.one(KEEP).text) is PLACES[place]


def test_changed_or_removed(compat: Compat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also files that are there and were changed; not what is removed again, nor what a failed test has left, which is kept."""
    compat.pytester.makepyfile(test_it=WRITING)
    monkeypatch.setenv("PLACE", "snapshots/x")
    for switch in ("REMOVE", "FAIL"):
        with monkeypatch.context() as patch:
            patch.setenv(switch, "1")
            assert LOST not in compat.one(KEEP).text
    compat.pytester.mkdir("snapshots").joinpath("x").write_text("old")
    run = compat.one(KEEP)
    assert LOST in run.text
    assert run.read("snapshots/x") == "old"


def test_under_xdist(compat: Compat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a run, also where workers run it; whatever the file's name is, on one line."""
    compat.pytester.makepyfile(test_it=WRITING)
    monkeypatch.setenv("PLACE", "snapshots/a\nb")
    run = compat.one(KEEP, "-p", "xdist.plugin", "-Wignore", "-n2")
    assert run.text.count(LOST) == 1
    assert run.line(LOST).startswith("snapshots/a\\nb, which test_it.py::test_1[")
