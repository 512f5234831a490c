"""pytest-django with a real database: made once, left as it was by each test, whether by rollback or by its sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compat.conftest import Compat

LOADED = ["pytest_django.plugin"]
NEEDED = ["pytest_django", "django"]

SETTINGS = """
    SECRET_KEY = "s"
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db", "TEST": {"NAME": %s}}}
    INSTALLED_APPS = ["shop"]
    ROOT_URLCONF = "shop.urls"
    ALLOWED_HOSTS = ["*"]
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    USE_TZ = True
"""
CONFTEST = """
    import pytest
    @pytest.fixture(scope="session")
    def django_db_setup(django_db_setup, log): log("made")
    @pytest.fixture(scope="session")
    def log():
        def write(text):
            with open("log.txt", "a") as file: file.write(text + "\\n")
        return write
"""
SUITE = """
    import pytest
    from django.test import TestCase, TransactionTestCase, SimpleTestCase
    from shop.models import Thing
    @pytest.mark.django_db
    def test_by_mark(): Thing.objects.create(name="a"); assert Thing.objects.count() == 1
    @pytest.mark.django_db
    def test_by_mark_again(): Thing.objects.create(name="b"); assert Thing.objects.count() == 1
    def test_by_fixture(db): assert Thing.objects.count() == 0
    def test_without(): Thing.objects.count()
    @pytest.mark.django_db(transaction=True)
    def test_transactional(): Thing.objects.create(name="c"); assert Thing.objects.count() == 1
    def test_client(client, db):
        Thing.objects.create(name="seen")
        assert client.get("/things").content == b"seen"
    def test_live_server(live_server):
        import urllib.request
        Thing.objects.create(name="live")
        assert urllib.request.urlopen(live_server.url + "/things").read() == b"live"
    def test_queries(django_assert_num_queries, db):
        with django_assert_num_queries(1): list(Thing.objects.all())
    def test_settings(settings): settings.USE_TZ = False
    def test_settings_again(settings): assert settings.USE_TZ
    def test_mail(mailoutbox):
        from django.core.mail import send_mail
        send_mail("subject", "text", "a@example.org", ["b@example.org"])
        assert len(mailoutbox) == 1
    class Cases(TestCase):
        @classmethod
        def setUpTestData(cls): Thing.objects.create(name="of the class")
        def test_1(self): Thing.objects.create(name="more"); self.assertEqual(Thing.objects.count(), 2)
        def test_2(self): self.assertEqual(Thing.objects.count(), 1)
        def test_fails(self): self.assertEqual(Thing.objects.count(), 7)
    class Transactions(TransactionTestCase):
        def test_1(self): Thing.objects.create(name="x"); self.assertEqual(Thing.objects.count(), 1)
        def test_2(self): self.assertEqual(Thing.objects.count(), 0)
    class Simple(SimpleTestCase):
        def test_no_database(self): Thing.objects.count()
"""


def make_shop(pytester: pytest.Pytester, database: str, suite: str) -> None:
    """A project with one table, and these tests."""
    pytester.makeini("[pytest]\nDJANGO_SETTINGS_MODULE = site_settings\npythonpath = .\npython_files = test_*.py\n")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(site_settings=SETTINGS % database, test_shop=suite)
    shop = pytester.mkpydir("shop")
    (shop / "models.py").write_text(
        "from django.db import models\nclass Thing(models.Model):\n    name = models.CharField(max_length=20)\n"
    )
    (shop / "urls.py").write_text(
        "from django.http import HttpResponse\nfrom django.urls import path\nfrom shop.models import Thing\n"
        "def things(request): return HttpResponse(','.join(thing.name for thing in Thing.objects.all()))\n"
        "urlpatterns = [path('things', things)]\n"
    )


@pytest.mark.parametrize("database", ["None", '"test.db"'], ids=["memory", "file"])
def test_a_database(pytester: pytest.Pytester, compat: Compat, database: str) -> None:
    """The same outcomes; the database is made once, also for tests that only have the mark."""
    make_shop(pytester, database, SUITE)
    log = pytester.path / "log.txt"
    log.touch()
    plain = compat.one(sandbox=False)
    log.write_text("")
    assert plain.read("log.txt").split() == ["made"]
    boxed = compat.one("--sandbox-writable=log.txt")
    assert boxed.outcomes() == plain.outcomes()
    assert boxed.status == plain.status
    # The fixture `live_server` has a thread, and so is set up, with the database that it needs, by the one test that has it.
    assert len(boxed.read("log.txt").split()) <= 3
    assert "Destroying" not in boxed.text


COMMITS = """
    import os, pytest, time
    from shop.models import Thing
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("number", range(4))
    def test_commits(number):
        Thing.objects.create(name=str(number))
        time.sleep(0.3)
        assert Thing.objects.count() == 1
    @pytest.mark.django_db(transaction=True)
    def test_dies():
        Thing.objects.create(name="left")
        os._exit(1)
    @pytest.mark.django_db(transaction=True)
    def test_after(): assert Thing.objects.count() == 0
"""


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("database", ["None", '"test.db"'], ids=["memory", "file"])
def test_what_is_committed(pytester: pytest.Pytester, compat: Compat, database: str, jobs: int) -> None:
    """Is gone with its sandbox, also where the test was killed, and is seen by no other at the same time."""
    make_shop(pytester, database, COMMITS)
    run = compat.one(f"--sandbox-jobs={jobs}")
    assert run.result.parseoutcomes() == {"passed": 5, "failed": 1}, run.text
    assert "one test at a time" not in run.text
