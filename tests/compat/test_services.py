"""pytest-docker's kind of fixture: services that a command starts, and that outlive it, for the whole session.

The engine is a stand-in for `docker compose`, which has the services in the background as that has: what a sandbox must get right
is their life, and that tests reach them. An engine itself is of the machine, and so out of reach: docs/compatibility.md.
"""

from __future__ import annotations

import sys
from typing import Any

LOADED = ["pytest_docker.plugin"]
NEEDED = ["pytest_docker"]

COMPOSE = """
import os, pathlib, signal, subprocess, sys
STATE = pathlib.Path(__file__).with_name("state")
SERVER = '''
import http.server, sys
class Counter(http.server.BaseHTTPRequestHandler):
    count = 0
    def do_GET(self):
        Counter.count += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(Counter.count).encode())
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Counter)
print(server.server_port, flush=True)
server.serve_forever()
'''
def log(text):
    with STATE.with_name("log.txt").open("a") as file: file.write(text + "\\n")
words = sys.argv[1:]
if "up" in words:
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              start_new_session=True)
    STATE.write_text(f"{server.pid} {server.stdout.readline()}")
    log("up")
elif "port" in words:
    print("0.0.0.0:" + STATE.read_text().split()[1])
elif "down" in words:
    os.kill(int(STATE.read_text().split()[0]), signal.SIGTERM)
    STATE.unlink()
    log("down")
"""
CONFTEST = f"""
import sys, urllib.request
import pytest
@pytest.fixture(scope="session")
def docker_compose_command(pytestconfig): return f"{sys.executable} {{pytestconfig.rootpath}}/compose.py"
@pytest.fixture(scope="session")
def docker_compose_file(pytestconfig): return str(pytestconfig.rootpath / "compose.yml")
@pytest.fixture(scope="session")
def ask(docker_ip, docker_services):
    url = f"http://{{docker_ip}}:{{docker_services.port_for('web', 80)}}/"
    def ask(): return int(urllib.request.urlopen(url).read())
    def answers():
        try: return ask() > 0
        except OSError: return False
    docker_services.wait_until_responsive(check=answers, timeout=120, pause=0.1)
    return ask
"""
SUITE = """
def test_first(ask): assert ask() > 1
def test_same_service(ask): assert ask() > 2
def test_fails(ask): assert ask() == 0
class TestOther:
    def test_it(self, ask): assert ask() > 3
"""


def test_service_of_the_session(compat: Any) -> None:
    """Started once, reached by all tests, stopped at the end; nothing of it is left."""
    compat.pytester.makeconftest(CONFTEST)
    compat.pytester.makepyfile(compose=COMPOSE, test_suite=SUITE)
    (compat.pytester.path / "compose.yml").write_text("services: {web: {image: web}}\n")
    compat.pytester.makeini("[pytest]\nsandbox_writable = log.txt\n")
    (compat.pytester.path / "log.txt").touch()
    plain, boxed = compat.both()
    assert plain.read("log.txt") == boxed.read("log.txt") == "up\ndown\n"
    boxed.result.assert_outcomes(passed=3, failed=1)
