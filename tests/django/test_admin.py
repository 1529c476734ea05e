"""What the admin shows of elections, and that it only shows."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from celery_leader.django.admin import _age, split_identity
from celery_leader.django.models import Election, PeriodicRun
from celery_leader.election import ElectionState
from tests.databases import emptied, variant
from tests.django.test_damage import NO_DATES, write

ELECTIONS = "admin:celery_leader_election"
RUNS = "admin:celery_leader_periodicrun"


@pytest.fixture(scope="module", autouse=True)
def _migrated(django_db_blocker: Any) -> None:
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)


@pytest.fixture(autouse=True)
def _empty() -> None:
    for model in (Election, PeriodicRun, User):
        model.objects.all().delete()


@pytest.fixture
def client() -> Client:
    """The browser of somebody who may look."""
    return client_of("celery_leader.view_election", "celery_leader.view_periodicrun")


def client_of(*permissions: str) -> Client:
    user = User.objects.create_user("ana", password="ana", is_staff=True)
    for permission in permissions:
        label, _, codename = permission.partition(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=label, codename=codename))
    client = Client()
    client.force_login(user)
    return client


def add_election(
    name: str = "default", holder: str = "celery@web-1/4121/9f3c2a10", age: float = 0, **values: Any
) -> None:
    renewed_at = datetime.now(timezone.utc) - timedelta(seconds=age)
    defaults = {"lease_duration": 60.0, "version": name, "renewed_at": renewed_at, "fencing_token": 1_795_400_000_123}
    Election.objects.create(name=name, holder_identity=holder, **{**defaults, **values})


def add_run(entry: str = "tick", **values: Any) -> PeriodicRun:
    now = datetime.now(timezone.utc)
    defaults = {"due_at": now, "claimed_at": now, "token": 1, "task_id": "id", "run_count": 1}
    return PeriodicRun.objects.create(election="default", entry=entry, **{**defaults, **values})


def page(client: Client, name: str, *arguments: Any) -> str:
    response = client.get(reverse(name, args=arguments))
    assert response.status_code == 200
    return response.content.decode()


def columns(html: str) -> dict[str, str]:
    """The text of each field of a row in a list, or of a page."""
    of_row = re.findall(r'<t[dh] class="field-(\w+)[^"]*">(.*?)</t[dh]>', html)
    of_page = re.findall(r'class="form-row field-(\w+)">.*?<div class="readonly">(.*?)</div>', html, flags=re.DOTALL)
    alternatives = re.compile(r'<img [^>]*alt="(\w+)"[^>]*>')
    return {name: re.sub("<[^>]*>", "", alternatives.sub(r"\1", text)).strip() for name, text in of_row or of_page}


class TestLook:
    """The list of elections."""

    @pytest.mark.parametrize(
        ("age", "holder", "state", "word"),
        [
            (5, "a@b/1/c", "leading", "● Leading"),
            (50, "a@b/1/c", "late", "◐ Late"),
            (70, "a@b/1/c", "expired", "✕ Expired"),
            (5, "", "vacant", "○ Vacant"),
            (9999, "", "vacant", "○ Vacant"),
        ],
    )
    def test_state_has_a_sign_a_word_and_a_class(
        self, client: Client, age: float, holder: str, state: str, word: str
    ) -> None:
        """Never colour alone; late after two thirds of the lease."""
        add_election(age=age, holder=holder)
        html = page(client, f"{ELECTIONS}_changelist")
        assert f'class="celery-leader-state celery-leader-{state}"' in html
        assert word in re.sub(r"<[^>]*>", "", html)

    def test_shows_holder_token_age_and_transitions(self, client: Client) -> None:
        """The host in bold, the age in words, the exact time in UTC for who asks."""
        renewed_at = datetime.now(timezone.utc) - timedelta(seconds=30)
        add_election(renewed_at=renewed_at, leader_transitions=77)
        html = page(client, f"{ELECTIONS}_changelist")
        assert 'title="celery@web-1/4121/9f3c2a10">celery@<strong>web-1</strong> <small>4121</small>' in html
        assert re.search(rf'title="{renewed_at:%Y-%m-%d %H:%M:%S.%f} UTC">3\d s ago</time>', html)
        assert "1795400000123" in html
        assert ">77<" in html

    @pytest.mark.parametrize("name", [f"{ELECTIONS}_changelist", f"{RUNS}_changelist"])
    def test_costs_the_same_for_any_number(self, client: Client, name: str) -> None:
        """No query a row."""
        counts = []
        for rows in (2, 30):
            for number in range(rows):
                add_election(f"election-{rows}-{number}")
                add_run(f"entry-{rows}-{number}")
            with CaptureQueriesContext(connection) as queries:
                page(client, name)
            counts.append(len(queries))
        assert counts[0] == counts[1]

    def test_an_election_has_a_page(self, client: Client) -> None:
        """Names with characters that URLs dislike included."""
        acquired = datetime.now(timezone.utc) - timedelta(days=3, seconds=9)
        add_election("proj:a/b c", acquire_time=acquired, leader_transitions=77)
        values = columns(page(client, f"{ELECTIONS}_change", "proj:a/b c"))
        assert re.fullmatch(r"\d s ago", values.pop("renewed"))
        assert values == {
            "name": "proj:a/b c", "state": "● Leading", "holder": "celery@web-1 4121", "lease": "60 s",
            "acquired": "3 d ago", "fencing_token": "1795400000123", "leader_transitions": "77",
        }  # fmt: skip

    def test_a_value_that_is_not_there_is_a_dash(self, client: Client) -> None:
        """An election may have no holder, and a damaged one no times."""
        add_election(holder="", renewed_at=None)
        row = columns(page(client, f"{ELECTIONS}_changelist"))
        assert (row["holder"], row["renewed"]) == ("–", "–")
        assert columns(page(client, f"{ELECTIONS}_change", "default"))["acquired"] == "–"

    def test_a_run_has_a_row_and_a_page(self, client: Client) -> None:
        """The page has also the claim, its term and the schedule."""
        now = datetime.now(timezone.utc)
        times = {"due_at": now - timedelta(minutes=5, seconds=9), "claimed_at": now - timedelta(minutes=4)}
        run = add_run("close", schedule="every 10 s", token=4711, task_id="an-id", run_count=77, sent=True, **times)
        row = columns(page(client, f"{RUNS}_changelist"))
        assert row == {
            "name": "close", "election": "default", "due": "5 min ago", "sent": "True", "run_count": "77",
            "id_of_task": "an-id",
        }  # fmt: skip
        values = columns(page(client, f"{RUNS}_change", run.pk))
        assert values == {**row, "claimed": "4 min ago", "token": "4711", "fingerprint": "every 10 s"}

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.5, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7190, "119 min ago"), (7201, "2 h ago"),
            (172_790, "47 h ago"), (172_801, "2 d ago"), (-0.5, "0 s ago"), (-1, "in 1 s"), (-86_399, "in 23 h"),
        ],
    )  # fmt: skip
    def test_ages_have_the_largest_unit_of_which_they_have_two(self, seconds: float, text: str) -> None:
        """A clock that is behind sees times to come."""
        assert _age(timedelta(seconds=seconds)) == text

    @pytest.mark.postgres
    def test_shows_the_database_that_keeps_the_elections(
        self, client: Client, postgres_alias: str, settings: Any
    ) -> None:
        """Not the default one, when CELERY_LEADER_BACKEND names another."""
        settings.CELERY_LEADER_BACKEND = f"django-db://{postgres_alias}"
        Election.objects.using(postgres_alias).all().delete()
        Election.objects.using(postgres_alias).create(name="over there", version="1")
        add_election("here")
        html = page(client, f"{ELECTIONS}_changelist")
        assert "over there" in html
        assert ">here<" not in html


class TestSafety:
    """What the admin does not do."""

    def test_values_are_escaped(self, client: Client) -> None:
        """Whoever can write to the store can't write script."""
        evil = "<script>alert(1)</script>'\"&"
        add_election(evil, holder=evil)
        add_election("other", holder=f"{evil}@{evil}/1/{evil}")
        run = add_run(evil, task_id=evil, schedule=evil)
        pages = [(f"{ELECTIONS}_changelist",), (f"{ELECTIONS}_change", evil), (f"{ELECTIONS}_change", "other")]
        for arguments in [*pages, (f"{RUNS}_changelist",), (f"{RUNS}_change", run.pk)]:
            html = page(client, *arguments)
            assert "<script>alert" not in html
            assert "&lt;script&gt;alert" in html

    def test_no_style_or_script_is_inline(self, client: Client) -> None:
        """A strict content security policy breaks nothing."""
        add_election()
        run = add_run()
        pages = [(f"{ELECTIONS}_changelist",), (f"{ELECTIONS}_change", "default"), (f"{RUNS}_change", run.pk)]
        for arguments in pages:
            html = page(client, *arguments)
            assert InlineFinder.found_in(html) == []
            assert "celery_leader/admin.css" in html

    @pytest.mark.parametrize("model", ["election", "periodicrun"])
    def test_nothing_can_be_changed(self, model: str) -> None:
        """Not even by a superuser."""
        add_election()
        run = add_run()
        user = User.objects.create_superuser("root")
        client = Client()
        client.force_login(user)
        key = "default" if model == "election" else run.pk
        changelist = reverse(f"admin:celery_leader_{model}_changelist")
        assert client.get(reverse(f"admin:celery_leader_{model}_add")).status_code == 403
        assert client.post(reverse(f"admin:celery_leader_{model}_change", args=[key]), {}).status_code == 403
        assert client.post(reverse(f"admin:celery_leader_{model}_delete", args=[key])).status_code == 403
        client.post(changelist, {"action": "delete_selected", "_selected_action": [key], "post": "yes"})
        assert Election.objects.count() == PeriodicRun.objects.count() == 1

    def test_looking_needs_the_permission(self) -> None:
        """Staff without it see nothing; it is the only one that these models have."""
        assert client_of().get(reverse(f"{ELECTIONS}_changelist")).status_code == 403
        codenames = Permission.objects.filter(content_type__app_label="celery_leader").values_list(
            "codename", flat=True
        )
        assert set(codenames) == {"view_election", "view_periodicrun"}

    def test_code_may_still_change(self) -> None:
        """Read-only is the admin; a data migration or a shell is not hindered."""
        add_election()
        election = Election.objects.get()
        election.leader_transitions = 3
        election.save()
        assert str(election) == "default"
        election.delete()
        assert not Election.objects.exists()


class InlineFinder(HTMLParser):
    """Collects what a strict content security policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        is_inline = tag == "style" or (
            tag == "script" and "src" not in names and "json" not in (names.get("type") or "")
        )
        if is_inline or "style" in names or any(name.startswith("on") for name in names):
            self.found.append(f"<{tag} {attrs}>")

    @classmethod
    def found_in(cls, html: str) -> list[str]:
        finder = cls()
        finder.feed(html)
        return finder.found


@pytest.mark.parametrize("list_name", [ELECTIONS, RUNS])
def test_rows_of_an_earlier_store_are_told_to_be_old(client: Client, settings: Any, list_name: str) -> None:
    """Elections kept in Redis leave the database's rows as they were."""
    add_election()
    add_run()
    assert "rows here are old" not in page(client, f"{list_name}_changelist")
    settings.CELERY_LEADER_BACKEND = "redis://localhost"
    assert "rows here are old" in page(client, f"{list_name}_changelist")


def test_state_of_a_damaged_lease_is_not_leading() -> None:
    """A lease that is not a number vouches for nobody."""
    now = datetime.now(timezone.utc)
    election = Election(holder_identity="a", lease_duration=float("nan"), renewed_at=now)
    assert election.state_at(now) is ElectionState.EXPIRED
    assert Election(holder_identity="a").state_at(now) is ElectionState.EXPIRED


@pytest.mark.parametrize(
    ("identity", "parts"),
    [
        ("celery@web-1/4121/9f3c", ("celery@", "web-1", "4121")),
        ("w1@host.example.org/7/x", ("w1@", "host.example.org", "7")),
        ("plain", ("", "plain", "")),
        ("a@b", ("", "a@b", "")),
        ("a/b/c", ("", "a/b/c", "")),
        ("", ("", "", "")),
    ],
)
def test_identities_of_any_form_have_a_host(identity: str, parts: tuple[str, str, str]) -> None:
    """What is not in our form is shown whole."""
    assert split_identity(identity) == parts


def test_times_are_read_as_utc_by_any_alias(sqlite_alias: str) -> None:
    """An alias with a TIME_ZONE of its own shows the same moment."""
    moment = datetime(2026, 10, 25, 0, 30, 0, 1, tzinfo=timezone.utc)  # 02:30 in Berlin, for the first time
    Election.objects.using(sqlite_alias).all().delete()
    Election.objects.using(sqlite_alias).create(name="x", version="1", renew_time=moment)
    with variant(sqlite_alias, TIME_ZONE="Europe/Berlin") as name:
        assert Election.objects.using(name).get(renew_time=moment).renew_time == moment


class TestDamage:
    """Rows that somebody else wrote: the page shows what it can, and nothing as it is."""

    @pytest.fixture(params=["sqlite_alias", pytest.param("postgres_alias", marks=pytest.mark.postgres),
                            pytest.param("mariadb_alias", marks=pytest.mark.mariadb)])  # fmt: skip
    def elsewhere(self, request: pytest.FixtureRequest, settings: Any) -> str:
        """The alias of each database in turn, in which elections are kept."""
        alias = emptied(request.getfixturevalue(request.param))
        settings.CELERY_LEADER_BACKEND = f"django-db://{alias}"
        return alias

    def test_times_that_no_date_can_hold_are_left_out(self, client: Client, elsewhere: str) -> None:
        """In lists and on the row's own page."""
        now = datetime.now(timezone.utc)
        Election.objects.using(elsewhere).create(name="default", holder_identity="a@b/1/c", renewed_at=now, version="1")
        run = PeriodicRun.objects.using(elsewhere).create(
            election="default", entry="tick", due_at=now, claimed_at=now, token=1, task_id="id", run_count=1
        )
        for value in NO_DATES[connections[elsewhere].vendor]:
            for column in ("acquire_time", "renew_time", "renewed_at"):
                write(elsewhere, "celery_leader_election", column, value)
            for column in ("due_at", "claimed_at"):
                write(elsewhere, "celery_leader_periodicrun", column, value)
            assert "Expired" in page(client, f"{ELECTIONS}_changelist")
            assert "Expired" in page(client, f"{ELECTIONS}_change", "default")
            assert "tick" in page(client, f"{RUNS}_changelist")
            assert "tick" in page(client, f"{RUNS}_change", run.pk)

    def test_nothing_is_shown_as_it_is(self, client: Client) -> None:
        """No signs that turn the direction of writing, no pages of megabytes."""
        hostile = "\x1b[31m\u202e<script>" + "x" * 100_000
        add_election(holder=hostile, lease_duration=float("inf"))
        run = add_run(entry=hostile[:500], task_id=hostile, schedule=hostile)
        for html in (
            page(client, f"{ELECTIONS}_changelist"), page(client, f"{ELECTIONS}_change", "default"),
            page(client, f"{RUNS}_changelist"), page(client, f"{RUNS}_change", run.pk),
        ):  # fmt: skip
            assert "\\x1b[31m\\u202e&lt;script&gt;xxx" in html
            assert not {"\x1b", "\u202e"} & set(html)
            assert "x" * 300 not in html
