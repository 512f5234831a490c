"""pytest-postgresql with a real server: started once by the session's sandbox, a database for each test, and none left."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

LOADED = ["pytest_postgresql.plugin"]
NEEDED = ["pytest_postgresql", "psycopg"]
PG_CTL = max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), default=None)
HAS_NAME = any(user.pw_uid == os.geteuid() for user in pwd.getpwall())
pytestmark = [
    pytest.mark.skipif(PG_CTL is None, reason="there is no PostgreSQL here: apt-get install postgresql"),
    pytest.mark.skipif(os.geteuid() == 0 or not HAS_NAME, reason="PostgreSQL runs neither as root nor as a user without a name"),
]

CONFTEST = f"""
import pytest
from pytest_postgresql import factories
def load(**connection):
    import psycopg
    with psycopg.connect(**connection) as db: db.execute("create table things (name text)")
server = factories.postgresql_proc(executable={str(PG_CTL)!r}, load=[load])
database = factories.postgresql("server")
@pytest.fixture
def query(database):
    def query(text):
        with database.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []
    with open("log.txt", "a") as log: log.write(f"{{query('select pg_postmaster_start_time()')}}\\n")
    return query
"""
SUITE = """
import pytest
@pytest.mark.parametrize("n", range(3))
def test_own_rows(query, n):
    assert query("select * from things") == []
    query(f"insert into things values ('{n}')")
    assert query("select * from things") == [(str(n),)]
def test_commits(query, database):
    query("insert into things values ('kept')")
    database.commit()
def test_after(query): assert query("select * from things") == []
def test_fails(query): assert query("select 1") == [(2,)]
"""


def test_one_server(compat: Any) -> None:
    """The same outcomes; one server for all tests, though each asks for it at run time; its processes end with the session."""
    compat.pytester.makeconftest(CONFTEST)
    compat.pytester.makepyfile(SUITE)
    compat.pytester.makeini("[pytest]\nsandbox_writable = log.txt\n")
    (compat.pytester.path / "log.txt").touch()
    plain, boxed = compat.both()
    for run in (plain, boxed):
        run.result.assert_outcomes(passed=5, failed=1)
        lines = run.read("log.txt").splitlines()
        assert len(lines) == 6
        assert len(set(lines)) == 1
    assert "LeakWarning" not in boxed.text
