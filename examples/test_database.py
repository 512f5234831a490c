"""An expensive fixture, set up once, and a throw-away copy of it for every test.

Without a sandbox each of these tests would break the next. The fixture yields the path and no connection, since an open
descriptor is shared by all who inherit it.
"""

import sqlite3

import pytest


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A database of 100,000 rows, written once for the whole run."""
    path = tmp_path_factory.mktemp("database") / "shop.sqlite"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY, price INTEGER)")
        connection.executemany("INSERT INTO orders VALUES (?, ?)", ((number, number % 97) for number in range(100_000)))
    connection.close()
    return path


@pytest.fixture(scope="session")
def prices():
    """Something in memory: every test has its own copy of that, too."""
    return {"tea": 3, "coffee": 4}


@pytest.fixture
def orders(database):
    """A connection of this test's own."""
    connection = sqlite3.connect(database)
    yield connection
    connection.close()


def count(orders):
    """How many orders there are."""
    return orders.execute("SELECT count(*) FROM orders").fetchone()[0]


def test_deletes_every_row(orders):
    """Commits its deletions: they are gone with its sandbox."""
    with orders:
        orders.execute("DELETE FROM orders")
    assert count(orders) == 0


def test_drops_the_table(orders):
    """Finds all rows, and takes the table away."""
    assert count(orders) == 100_000
    with orders:
        orders.execute("DROP TABLE orders")


def test_overwrites_the_file(database):
    """Finds a database, and leaves rubbish."""
    assert database.read_bytes().startswith(b"SQLite format 3")
    database.write_bytes(b"rubbish")


def test_still_finds_it_all(orders):
    """After all of these."""
    assert count(orders) == 100_000


def test_raises_the_price_of_tea(prices):
    """Changes what the session's fixture has in memory."""
    prices["tea"] += 1
    assert prices == {"tea": 4, "coffee": 4}


def test_pays_the_old_price_for_tea(prices):
    """Has a copy from before."""
    assert prices == {"tea": 3, "coffee": 4}
