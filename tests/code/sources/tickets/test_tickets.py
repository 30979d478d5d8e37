"""Tickets: what their fields mean, which of them are one incident, and what it is then."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from crashcast import tables
from crashcast.errors import UserError
from crashcast.params.tickets import Tickets, TicketSource
from crashcast.sources.tickets import saved
from crashcast.sources.tickets.collect import KEY, Collected, cover, imported, update
from crashcast.sources.tickets.fields import values_at
from crashcast.sources.tickets.outages import merge
from crashcast.sources.tickets.systems import SYSTEMS
from crashcast.sources.tickets.tickets import TICKETS, kind_of, newest, parse, servers_of
from crashcast.sources.tickets.times import moment

RECORDED = Path(__file__).parents[3] / "data/incident_apis"
LATEST = datetime(2026, 6, 1, tzinfo=UTC)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RULES = Tickets(since=date(2026, 1, 1), same_outage="30m", longest_outage="1d", max_bad_share=0, sources={})


def source(type_: str = "table", **settings: Any) -> TicketSource:
    """Return what params.yaml might say about a source."""
    needed = {"files": ["tickets.csv"]} if type_ in ("table", "servicenow", "notes") else {}
    return TicketSource.model_validate({"type": type_, **needed, **settings})


def at(minutes: float | None) -> datetime | None:
    """Return a moment, in minutes from noon."""
    return None if minutes is None else NOON + minutes * MINUTE


def ticket(
    name: str,
    start: float,
    end: float | None = None,
    reported: float | None = None,
    server: str = "a",
    kind: str = "crash",
    updated: float | None = None,
    severity: str | None = None,
) -> dict[str, Any]:
    """Return a ticket `source-id`, its times in minutes from noon."""
    system, _, ticket_id = name.partition("-")
    times = {"started_at": at(start), "resolved_at": at(end), "reported_at": at(reported), "updated_at": at(updated)}
    said = {"severity": severity, "summary": f"{name} says so"}
    return {"source": system, "ticket_id": ticket_id, "server_id": server, "kind": kind, **times, **said}


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    """Return tickets as a table."""
    return pl.DataFrame(list(rows), schema=TICKETS)


def merged(*rows: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the incidents that tickets make: server, start, end, report in minutes from noon, sources."""
    incidents, _ = merge(frame(*rows), RULES)
    minutes = ((pl.col(name) - NOON).dt.total_minutes() for name in ("started_at", "resolved_at", "reported_at"))
    return incidents.select("server_id", *minutes, "source").rows()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-31T13:45:00Z", datetime(2026, 1, 31, 13, 45)),
        ("2026-01-31 13:45:00 UTC", datetime(2026, 1, 31, 13, 45)),
        ("2026-01-31T14:45:00.123+0100", datetime(2026, 1, 31, 13, 45, 0, 123000)),
        ("2026-01-31 14:45 +01:00", datetime(2026, 1, 31, 13, 45)),
        ("2026-01-31 14:45:00", datetime(2026, 1, 31, 13, 45)),  # Berlin, in winter
        ("2026-07-31 15:45:00", datetime(2026, 7, 31, 13, 45)),  # and in summer
        ("2026-10-25 02:30:00", datetime(2026, 10, 25, 0, 30)),  # which came twice: the first
        ("2026-10-25 12:00:00", datetime(2026, 10, 25, 11, 0)),  # winter again
        ("31/Jan/26 2:45 PM", datetime(2026, 1, 31, 13, 45)),  # Jira's CSV
        (1769867100, datetime(2026, 1, 31, 13, 45)),
        ("1769867100123", datetime(2026, 1, 31, 13, 45, 0, 123000)),
        (datetime(2026, 1, 31, 14, 45), datetime(2026, 1, 31, 13, 45)),  # a Parquet file's
    ],
)
def test_a_time_in_every_spelling(value: Any, expected: datetime) -> None:
    jira = source("jira", files=["a.csv"], server={"field": "Labels"}, time_zone="Europe/Berlin")
    assert moment(value, "jira", jira) == expected.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "zone", "message"),
    [
        ("2026-01-31 13:45:00", None, r"has no time zone: state tickets.sources.ours.time_zone"),
        ("2026-03-29 02:30:00", "Europe/Berlin", "does not exist in Europe/Berlin: clocks were put forward"),
        ("2026-01-31", "UTC", "'2026-01-31' has no time of day"),
        (date(2026, 1, 31), "UTC", "'2026-01-31' has no time of day"),
        ("yesterday", "UTC", "'yesterday' is not a time"),
        ("31/Jan/26 2:45 PM", "UTC", "is not a time: state time_format"),
    ],
)
def test_a_time_that_says_too_little_is_no_time(value: Any, zone: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moment(value, "ours", source(time_zone=zone))


def test_a_form_and_a_zone_can_be_stated() -> None:
    ours = source(time_zone="America/New_York", time_format="%m/%d/%Y %H:%M")
    assert moment("01/31/2026 08:45", "ours", ours) == datetime(2026, 1, 31, 13, 45, tzinfo=UTC)
    with pytest.raises(UserError, match="'Berlin' is no time zone"):
        moment("2026-01-31 13:45:00", "ours", source(time_zone="Berlin"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("service.summary", ["mail"]),
        ("labels", ["x", "y"]),
        ("hosts.name", ["a", "b"]),
        ("cmdb_ci.name", ["db-1"]),  # a name with a dot
        ("service.owner.name", []),
        ("nothing", []),
    ],
)
def test_a_path_leads_through_objects_and_lists(path: str, expected: list[str]) -> None:
    record = {"service": {"summary": "mail"}, "labels": ["x", "y"], "hosts": [{"name": "a"}, {"name": "b"}]}
    assert list(values_at({**record, "cmdb_ci.name": "db-1"}, path)) == expected


@pytest.mark.parametrize(
    ("rule", "record", "expected"),
    [
        ({"field": "host"}, {"host": " db-1 "}, ["db-1"]),
        ({"field": "host", "lowercase": True}, {"host": "DB-1"}, ["db-1"]),
        ({"field": "host", "pattern": "^[^.]+"}, {"host": "db-1.example.com"}, ["db-1"]),
        ({"field": "title", "pattern": r"host=(?P<server>\S+)"}, {"title": "host=db-1 host=db-2"}, ["db-1", "db-2"]),
        ({"field": "service", "names": {"Mail": "mx-1"}}, {"service": {"name": "Mail", "value": "f81d"}}, ["mx-1"]),
        ({"field": ["host", "ci"]}, {"host": "n/a", "ci": {"display_value": "db-2", "value": "3a2f"}}, ["db-2"]),
        ({"field": "hosts"}, {"hosts": ["b", "a", "b"]}, ["a", "b"]),
    ],
)
def test_servers_are_found_where_params_say(rule: dict[str, Any], record: dict[str, Any], expected: list[str]) -> None:
    assert servers_of(record, source(server=rule)) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"priority": "P1", "type": "Incident"}, "crash"),
        ({"priority": {"name": "p2"}, "type": "Incident"}, "crash"),
        ({"priority": "P3", "type": "Incident"}, None),
        ({"priority": "P10", "type": "Incident"}, None),  # a pattern matches the whole
        ({"priority": "P1", "type": "Task"}, None),
        ({"priority": "P1", "type": "Planned change"}, "maintenance"),
        ({"priority": "P5", "type": "Task", "kind": "reboot"}, "maintenance"),  # where it says so itself
    ],
)
def test_which_tickets_are_crashes_and_which_maintenance(record: dict[str, Any], expected: str | None) -> None:
    rule = source(crash={"priority": ["P1", "P2"], "type": "incident"}, maintenance={"type": ["planned.*", "change"]})
    assert kind_of(record, rule) == expected


def test_every_record_is_a_ticket_or_said_to_be_none() -> None:
    records = [
        {"incident_id": "1", "server_id": "a", "started_at": "2026-03-01T10:00:00Z"},
        {"incident_id": "1", "server_id": "a", "started_at": "2026-03-01T10:00:00Z"},  # again: nothing to say
        {"incident_id": "1", "server_id": "a", "started_at": "2026-03-01T09:00:00Z"},
        {"incident_id": "2", "server_id": "a", "started_at": "2026-03-01T10:00:00Z", "kind": "party"},
        {"incident_id": "3", "server_id": "", "started_at": "2026-03-01T10:00:00Z"},
        {"incident_id": "4", "server_id": "a"},
        {"incident_id": "5", "server_id": "a", "started_at": "2027-03-01T10:00:00Z"},
        {"incident_id": "6", "server_id": "a", "started_at": "2027-03-01T10:00:00Z", "kind": "planned"},
        {
            "incident_id": "7",
            "server_id": "a",
            "started_at": "2026-03-01T10:00:00Z",
            "resolved_at": "2026-03-01T09:00:00Z",
        },
        {"incident_id": "8", "server_id": "a", "started_at": "1970-01-01T00:00:00Z"},
        {"server_id": "a", "started_at": "2026-03-01T10:00:00Z"},
    ]
    found = parse("ours", source(), records, LATEST)
    assert found.tickets.select("ticket_id", "kind").rows() == [("1", "crash"), ("6", "maintenance")]
    assert found.tickets["started_at"][0] == datetime(
        2026, 3, 1, 10, tzinfo=UTC
    )  # the later of two: as rows come in any order
    assert (found.read, found.ignored) == (11, 0)
    reasons = {left_out.ticket_id: left_out.reason for left_out in found.bad}
    assert reasons == {
        "1": "another ticket has this id and holds",
        "2": "kind 'party' is neither a crash nor maintenance (crash, outage, incident, failure, down, unplanned, "
        "maintenance, planned, reboot, scheduled, upgrade)",
        "3": "no server at server_id",
        "4": "no start at started_at",
        "5": "started_at: 2027-03-01 10:00:00 UTC is in the future",
        "7": "resolved at 2026-03-01 09:00:00 UTC, but started at 2026-03-01 10:00:00 UTC",
        "8": "started_at: 1970-01-01 00:00:00 UTC is before 1990: a wrong unit, or a clock not set",
        "record 11": "no id at incident_id",
    }


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.datetimes()
    | st.dates()
    | st.sampled_from(
        ["a", "2026-03-01T10:00:00Z", "9999-12-31 00:00:00", "0001-01-01T00:00:00+05:00", 10**18, "crash"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "value"]), inner),
    max_leaves=4,
)
names = st.sampled_from(["incident_id", "server_id", "kind", "started_at", "resolved_at", "reported_at", "summary"])


@given(st.lists(st.dictionaries(names, anything), max_size=4))
def test_no_record_is_lost_or_stops_the_others(records: list[dict[str, Any]]) -> None:
    good = {"incident_id": "good", "server_id": "ok", "started_at": "2026-03-01T10:00:00Z"}
    found = parse("ours", source(time_zone="Europe/Berlin"), [*records, good], LATEST)
    assert found.read == len(records) + 1
    told = {*found.tickets["ticket_id"], *(left_out.ticket_id for left_out in found.bad)}
    assert told >= {"good"}
    assert len(told) <= found.read
    for position, record in enumerate(records, start=1):
        alone = parse("ours", source(time_zone="Europe/Berlin"), [record], LATEST)
        assert {
            *alone.tickets["ticket_id"],
            *(bad.ticket_id.replace("record 1", f"record {position}") for bad in alone.bad),
        } <= told


def tickets_of(type_: str, name: str, **settings: Any) -> pl.DataFrame:
    """Return the tickets of a recorded file."""
    rule = source(type_, files=[str(RECORDED / name)], time_zone="Europe/Berlin", **settings)
    return parse(type_, rule, saved.records(type_, rule), LATEST).tickets


def test_jiras_export_says_what_its_api_says() -> None:
    kinds = {"maintenance": "Change", "crash": "Incident"}
    csv = {kind: {"Issue Type": word} for kind, word in kinds.items()}
    api = {kind: {"fields.issuetype": word} for kind, word in kinds.items()}
    pattern = r"(web|db)-\d+"
    exported = tickets_of("jira", "jira_export.csv", **csv, server={"field": "Labels", "pattern": pattern})
    asked = tickets_of("jira", "jira_search.json", **api, server={"field": "fields.labels", "pattern": pattern})
    assert exported.select("ticket_id", "server_id", "kind").rows() == [
        ("OPS-31", "db-2", "crash"),
        ("OPS-32", "web-2", "maintenance"),
    ]
    assert_frame_equal(exported.drop("summary"), asked.drop("summary"))
    assert exported["summary"][1] == "Kernel upgrade, second try"


def test_servicenows_csv_says_what_its_json_says() -> None:
    exported, asked = (tickets_of("servicenow", f"servicenow_incident.{end}") for end in ("csv", "json"))
    assert_frame_equal(exported.drop("summary"), asked.drop("summary"))
    assert exported["started_at"][0] == datetime(2026, 3, 2, 9, 5, tzinfo=UTC)  # written 10:05, in Berlin
    assert exported["summary"][1] == 'Web shop slow, "one server gone"'


def test_a_table_has_whatever_columns_it_has(tmp_path: Path) -> None:
    path = tmp_path / "outages.parquet"
    pl.DataFrame({"no": [7], "node": ["a"], "down": [datetime(2026, 3, 1, 10)], "up": [None]}).write_parquet(path)
    fields = {"ticket_id": "no", "started_at": "down", "resolved_at": "up", "reported_at": None}
    rule = source(files=[str(path)], server={"field": "node"}, fields=fields, time_zone="UTC")
    found = parse("ours", rule, saved.records("ours", rule), LATEST).tickets.row(0, named=True)
    assert (found["ticket_id"], found["server_id"], found["resolved_at"]) == ("7", "a", None)
    assert found["started_at"] == datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_saved_answers_are_read_as_the_api_gives_them() -> None:
    rule = source("pagerduty", files=[str(RECORDED / "pagerduty_incidents.json")], crash={"priority": "P1"})
    found = parse("pagerduty", rule, saved.records("pagerduty", rule), LATEST)
    assert found.ignored == 3
    assert found.tickets["server_id"].to_list() == ["Host monitoring", "Host monitoring", "Shop checkout"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", "{", "is not valid JSON"),
        (
            "t.json",
            '{"result": "none"}',
            "holds no list of records, by itself or under incidents, data, result, issues, records",
        ),
        ("t.csv", "a,b\n1\n", "row 2: 1 values for 2 columns"),
        ("t.csv", "", "row 1: no header"),
        ("t.csv", b"a,b\n\xff,1\n", "is not UTF-8 text"),
        ("t.xlsx", "x", "unknown kind of file"),
        (None, "", "there is no file .*none.csv; correct tickets.sources.ours.files"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str | None, content: str | bytes, message: str) -> None:
    if name is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        list(saved.records("ours", source(files=[str(tmp_path / (name or "none.csv"))])))


def test_notes_keep_their_zones_and_a_broken_one_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.md").write_text(
        "---\nserver_ids: [b, a]\nstarted_at: 2026-03-01 10:00 -0500\n---\n\n# It fell over\nWhy?\n"
    )
    Path("broken.md").write_text("---\nserver_ids: [b\n---\n")
    Path("plain.md").write_text("Nothing to see\n---\n")
    rule = source("notes", files=["*.md"])
    found = parse("notes", rule, saved.records("notes", rule), LATEST)
    assert found.tickets.select("ticket_id", "server_id", "summary").rows() == [
        ("good.md", "a", "It fell over"),
        ("good.md", "b", "It fell over"),
    ]
    assert found.tickets["started_at"][0] == datetime(2026, 3, 1, 15, tzinfo=UTC)
    assert [(left_out.ticket_id, left_out.reason) for left_out in found.bad] == [
        ("broken.md", "no start at started_at")
    ]
    assert found.read == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "pagerduty", "url": "http://pagerduty.example.com"}, "must begin with https://"),
        ({"type": "pagerduty", "url": "https://me:secret@example.com"}, "hold no password"),
        ({"type": "pagerduty", "token": "secret"}, "Extra inputs are not permitted"),
        ({"type": "pagerduty", "url": "https://example.com", "files": ["a"]}, "files or url, not both"),
        ({"type": "servicenow", "url": "https://example.com"}, "type servicenow reads files"),
        ({"type": "jira", "url": "https://example.com", "server": {"field": "x"}}, "needs files, or url and query"),
        ({"type": "jira", "files": ["a.csv"]}, "needs server.field"),
        ({"type": "table", "files": ["a.csv"], "crash": {"priority": "P[1"}}, "is no regular expression"),
        ({"type": "table", "files": ["a.csv"], "crash": {"priority": []}}, "at least 1 item"),
        ({"type": "notes", "files": ["/srv/notes/*.md"]}, "paths from the project's root"),
        (
            {"type": "jira", "url": "https://a.b", "query": "a = 1 order by x", "server": {"field": "x"}},
            "leave ORDER BY out",
        ),
    ],
)
def test_a_source_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TicketSource.model_validate(settings)


def test_the_documented_sources_are_what_params_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[4] / "docs/incidents.md").read_text()
    documented = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["tickets"]
    rules = Tickets.model_validate(documented)
    assert {rule.type for rule in rules.sources.values()} == set(SYSTEMS)
    note = page.split("```\n---\n")[1].split("```")[0]
    Path("note.md").write_text(f"---\n{note}")
    found = parse("notes", source("notes"), saved.records("notes", source("notes", files=["note.md"])), LATEST)
    assert found.tickets["server_id"].to_list() == ["web-4", "web-5"]
    assert found.bad == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # overlapping outages; the widest bounds, the first report
        ([ticket("x-1", 0, 60, 5), ticket("y-2", 50, 90, 52)], [("a", 0, 90, 5, "x, y")]),
        # apart, but starting within the tolerance of 30 minutes
        ([ticket("x-1", 0, 5, 0), ticket("y-2", 30, 40, 30)], [("a", 0, 40, 0, "x, y")]),
        ([ticket("x-1", 0, 5, 0), ticket("y-2", 31, 40, 31)], [("a", 0, 5, 0, "x"), ("a", 31, 40, 31, "y")]),
        # a third ticket ties two
        ([ticket("x-1", 0, 5), ticket("x-3", 40, 45), ticket("x-2", 20, 22)], [("a", 0, 45, None, "x")]),
        # another server, another kind
        ([ticket("x-1", 0, 60), ticket("x-1", 0, 60, server="b")], [("a", 0, 60, None, "x"), ("b", 0, 60, None, "x")]),
        (
            [ticket("x-1", 0, 60), ticket("y-2", 0, 50, kind="maintenance")],
            [("a", 0, 60, None, "x"), ("a", 0, 50, None, "y")],
        ),
        # never closed: no end, and no outage that swallows what comes after
        ([ticket("x-1", 0), ticket("x-2", 600, 610)], [("a", 0, None, None, "x"), ("a", 600, 610, None, "x")]),
        # closed two days later: as if never closed
        ([ticket("x-1", 0, 2880), ticket("y-2", 600, 610)], [("a", 0, None, None, "x"), ("a", 600, 610, None, "y")]),
        # a crash does not start after its own report; maintenance is reported ahead, and counts from its start
        ([ticket("x-1", 90, 95, 10)], [("a", 10, 95, 10, "x")]),
        ([ticket("x-1", 90, 95, 10, kind="maintenance")], [("a", 90, 95, 90, "x")]),
        # a report that came before another ticket's start counts from the incident's start at the earliest
        ([ticket("x-1", 20, 25, 40), ticket("y-2", 15, 25, 60)], [("a", 15, 25, 40, "x, y")]),
    ],
)
def test_which_tickets_are_one_incident(rows: list[dict[str, Any]], expected: list[tuple[Any, ...]]) -> None:
    assert merged(*rows) == expected


def test_an_incident_is_named_and_described_by_its_first_ticket() -> None:
    rows = [ticket("x-1", 5, severity="P1"), ticket("z-9", 0), ticket("y-2", 7, severity="high")]
    incidents, tickets = merge(frame(*rows), RULES)
    found = incidents.row(0, named=True)
    assert (found["incident_id"], found["severity"], found["summary"]) == ("z:9:a", "P1", "z-9 says so")
    assert dict(tickets.select("source", "incident_id").rows()) == dict.fromkeys("xyz", "z:9:a")
    assert incidents.columns == list(tables.INCIDENTS)
    assert dict(incidents.schema) == tables.INCIDENTS


few = st.integers(0, 12)
any_ticket = st.builds(
    lambda system, number, start, lasts, late, server, kind, updated: ticket(
        f"{system}-{number}",
        10 * start,
        None if lasts is None else 10 * start + 10 * lasts,
        None if late is None else 10 * start + 10 * late,
        server,
        kind,
        updated,
    ),
    st.sampled_from("xyz"),
    few,
    st.integers(0, 60),
    st.none() | few | st.just(200),  # which is longer than a day
    st.none() | st.integers(-3, 6),
    st.sampled_from("ab"),
    st.sampled_from(["crash", "maintenance"]),
    st.none() | st.integers(0, 2),
)
some_tickets = st.lists(any_ticket, max_size=25)


def parts(tickets: pl.DataFrame) -> set[frozenset[tuple[str, ...]]]:
    """Return which tickets each incident is made of."""
    keys = pl.struct("source", "ticket_id", "server_id")
    grouped = tickets.group_by("incident_id").agg(keys.alias("keys"))["keys"].to_list()
    return {frozenset(tuple(key.values()) for key in keys) for keys in grouped}


@given(some_tickets, st.randoms())
def test_no_order_of_rows_or_sources_changes_anything(rows: list[dict[str, Any]], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    one, other = (merge(newest(frame(*order)), RULES) for order in (rows, shuffled))
    assert_frame_equal(one[0], other[0])
    assert_frame_equal(one[1], other[1])


@given(some_tickets)
def test_merging_twice_changes_nothing(rows: list[dict[str, Any]]) -> None:
    incidents, tickets = merge(newest(frame(*rows)), RULES)
    again = merge(newest(update(tickets.select(*TICKETS), newest(frame(*rows)))[0]), RULES)
    assert_frame_equal(again[0], incidents)
    assert_frame_equal(again[1], tickets)
    assert imported(incidents).is_empty()  # what was made of tickets never becomes one


@given(some_tickets)
def test_every_ticket_is_in_exactly_one_incident(rows: list[dict[str, Any]]) -> None:
    known = newest(frame(*rows))
    incidents, tickets = merge(known, RULES)
    assert_frame_equal(tickets.drop("incident_id"), known)
    assert set(tickets["incident_id"]) == set(incidents["incident_id"])
    assert incidents["incident_id"].is_unique().all()
    assert (incidents["resolved_at"] >= incidents["started_at"]).all()
    assert (incidents["reported_at"] >= incidents["started_at"]).all()


@given(some_tickets)
def test_incidents_are_what_pairs_of_tickets_tie_together(rows: list[dict[str, Any]]) -> None:
    known = newest(frame(*rows))
    spans = []
    for row in known.iter_rows(named=True):
        start, end, reported = row["started_at"], row["resolved_at"], row["reported_at"]
        if row["kind"] == "crash" and reported is not None and reported < start:
            start = reported
        end = end if end is not None and end - start <= timedelta(days=1) else start
        spans.append((start, end, (row["server_id"], row["kind"]), (row["source"], row["ticket_id"], row["server_id"])))
    groups = [{span} for span in spans]
    for one in spans:
        for other in spans:
            overlap = one[0] <= other[1] and other[0] <= one[1]
            if one[2] == other[2] and (overlap or abs(one[0] - other[0]) <= RULES.same_outage):
                tied = [group for group in groups if one in group or other in group]
                groups = [group for group in groups if group not in tied] + [set().union(*tied)]
    assert parts(merge(known, RULES)[1]) == {frozenset(span[3] for span in group) for group in groups}


@given(some_tickets, some_tickets)
def test_late_tickets_only_add(early: list[dict[str, Any]], late: list[dict[str, Any]]) -> None:
    before = newest(frame(*early))
    new = newest(frame(*late)).join(before, on=KEY, how="anti")
    old, kept = merge(before, RULES)
    incidents, tickets = merge(pl.concat([before, new]), RULES)
    after = parts(tickets)
    assert all(any(group <= wider for wider in after) for group in parts(kept))
    whose = kept.select(*KEY, old_id="incident_id").join(tickets, on=KEY).select("old_id", "incident_id").unique()
    pairs = whose.join(old, left_on="old_id", right_on="incident_id").join(incidents, on="incident_id", suffix="_now")
    assert pairs.height == old.height
    assert (pairs["started_at_now"] <= pairs["started_at"]).all()
    assert (pairs["reported_at_now"] <= pairs["reported_at"]).all()
    assert (pairs["resolved_at_now"] >= pairs["resolved_at"]).all()
    assert pairs.filter(pl.col("resolved_at").is_not_null() & pl.col("resolved_at_now").is_null()).is_empty()


def test_the_newest_version_of_a_ticket_holds() -> None:
    old, new = ticket("x-1", 0, updated=5), ticket("x-1", 0, 60, updated=90)
    assert newest(frame(new, old))["resolved_at"].to_list() == [at(60)]
    for first, second in ((old, new), (new, old)):
        assert update(frame(first), frame(second))[0]["resolved_at"].to_list() == [at(60)]
    corrected = ticket("x-1", 10)  # nobody says when: the last collection holds
    assert update(frame(new), frame(corrected))[0]["started_at"].to_list() == [at(10)]


def test_what_was_imported_becomes_tickets_once() -> None:
    row = {"incident_id": "A-1", "server_id": "a", "kind": "crash", "started_at": at(0), "reported_at": at(5)}
    table = pl.DataFrame([row], schema=dict(tables.INCIDENTS))
    tickets = imported(table)
    assert tickets.select("source", "ticket_id", "server_id").rows() == [("import", "A-1", "a")]
    incidents, _ = merge(tickets, RULES)
    assert incidents["incident_id"].to_list() == ["import:A-1:a"]
    assert imported(incidents).is_empty()


def test_periods_of_a_source_join() -> None:
    def period(name: str, first: int, last: int) -> Collected:
        empty = parse(name, source(), [], LATEST)
        return Collected(name, empty, at(first), at(last))

    nothing = pl.DataFrame(schema=tables.TICKET_SOURCES)
    tickets = tickets_at(("x", 0), ("y", -5), ("z", 0))
    first = cover(nothing, [period("x", 0, 60), period("y", 0, 10)], tickets)
    none = Collected("z", period("z", 0, 1).parsed, None, None)
    both = cover(first, [period("x", 60, 90), period("y", 20, 30), none], tickets)
    assert both.rows() == [("x", at(0), at(90)), ("y", at(0), at(10)), ("y", at(20), at(30))]


def test_a_source_was_not_recorded_before_its_first_ticket() -> None:
    def asked(name: str) -> Collected:
        return Collected(name, parse(name, source(), [], LATEST), at(0), at(90))

    nothing = pl.DataFrame(schema=tables.TICKET_SOURCES)
    tickets = tickets_at(("x", 50), ("x", 40), ("z", 99), ("import", 10), ("import", 30))
    periods = cover(nothing, [asked("x"), asked("y"), asked("z")], tickets)
    # no ticket of y is known, and z's lies after what it was asked for
    assert periods.rows() == [("import", at(10), at(30) + timedelta(microseconds=1)), ("x", at(40), at(90))]
    assert cover(periods, [asked("x")], tickets).equals(periods)


def tickets_at(*told: tuple[str, int]) -> pl.DataFrame:
    """Return tickets of sources, each reported at a minute, or, every other one, started at it and not reported."""
    rows = [
        {"source": name, "ticket_id": str(number), ("reported_at", "started_at")[number % 2]: at(minute)}
        for number, (name, minute) in enumerate(told)
    ]
    return pl.DataFrame(rows, schema=TICKETS)
