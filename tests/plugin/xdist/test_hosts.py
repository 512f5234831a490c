"""Workers on other machines, as far as the network goes: their sandboxes are there."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import HELPERS
from tests.plugin.conftest import INSIDE

execnet = pytest.importorskip("execnet")
pytest.importorskip("xdist")

#: Runs the command of its arguments in a network namespace of its own, beside another one, HERE/THERE, in which a server listens.
NETWORKS = """
set -e
ip link set lo up
unshare --net sh -c 'echo ready > ready; read line < go; ip link set lo up
  ip addr add 10.9.0.2/24 dev there; ip link set there up
  mkdir -p remote; cd remote; export REMOTE=1; exec "$PYTHON" "$SERVER" 10.9.0.2:8888' > server.log 2>&1 &
export server=$!
trap 'kill $server' EXIT
while ! [ -s ready ]; do sleep 0.05; done
ip link add here type veth peer name there
ip link set there netns $server
ip addr add 10.9.0.1/24 dev here
ip link set here up
echo > go
for _ in $(seq 100); do
  "$PYTHON" -c 'import socket; socket.create_connection(("10.9.0.2", 8888), 1)' 2>/dev/null && break
  sleep 0.1
done
"$@"
"""
needs_networks = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))), reason="makes network namespaces"
)


@dataclasses.dataclass
class Network:
    """Two hosts, as far as the network goes."""

    pytester: pytest.Pytester

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on one; on the other is a server of execnet's, in a directory of its own."""
        (self.pytester.path / "ready").unlink(missing_ok=True)
        (self.pytester.path / "go").unlink(missing_ok=True)
        os.mkfifo(self.pytester.path / "go")
        server = Path(execnet.__file__).parent / "script" / "socketserver.py"
        environment = os.environ | {"PYTHON": sys.executable, "SERVER": str(server)}
        environment["PYTHONPATH"] = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            ["unshare", "--net", "sh", "-c", NETWORKS, "sh", *command],
            cwd=self.pytester.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@needs_networks
def test_over_a_socket(pytester: pytest.Pytester) -> None:
    """A worker on another host, with the project copied to it, has its sandboxes there."""
    project = pytester.mkdir("project")
    (project / "test_there.py").write_text(
        textwrap.dedent(
            f"""
            import os, pytest, socket
            @pytest.fixture(scope="session")
            def port():
                server = socket.create_server(("127.0.0.1", 0))
                yield server.getsockname()[1]
            @pytest.mark.parametrize("n", range(4))
            def test_there(n, port):
                assert os.environ["REMOTE"] and {INSIDE}
                socket.create_connection(("127.0.0.1", port))
                with pytest.raises(OSError): socket.create_connection(("10.9.0.1", 1), 1)
            def test_exit(): os._exit(0)
            """
        )
    )
    command = [sys.executable, "-m", "pytest", "-p", "process_recorder", "--sandbox", "--dist=load"]
    found = Network(pytester).run(*command, f"--rsyncdir={project}", "--tx=socket=10.9.0.2:8888", "-rA", str(project))
    assert "4 passed" in found.stdout, found.stdout + found.stderr + (pytester.path / "server.log").read_text()
    assert "1 failed" in found.stdout
    assert "without a report" in found.stdout
    assert "sandbox: on the workers' machines" in found.stdout
    assert (pytester.path / "remote" / "pyexecnetcache" / "project" / "test_there.py").exists()


@needs_networks
def test_python_of_another_namespace(pytester: pytest.Pytester) -> None:
    """A worker that is started by a command which brings it elsewhere."""
    pytester.makepyfile(
        f"""
        import os
        def test_1(): assert "there" in os.environ["LINKS"] and {INSIDE}
        """
    )
    other = pytester.path / "other"
    other.write_text(f'#!/bin/sh\nexport LINKS="$(ip -o link)"\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    command = f"{sys.executable} -m pytest -p process_recorder --sandbox --dist=load --tx"
    found = Network(pytester).run("sh", "-c", f'{command} "popen//python=nsenter --net=/proc/$server/ns/net ./other"')
    assert "1 passed" in found.stdout, found.stdout + found.stderr
