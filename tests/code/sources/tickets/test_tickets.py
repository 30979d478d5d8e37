"""Records as tickets: servers, kinds, and the reason why a record is none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast.params.tickets import TicketSource
from crashcast.sources.tickets.tickets import kind_of, parse, servers_of

LATEST = datetime(2026, 6, 1, tzinfo=UTC)


def source(type_: str = "table", **settings: Any) -> TicketSource:
    """Return what params.yaml might say about a source."""
    needed = {"files": ["tickets.csv"]} if type_ in ("table", "servicenow", "notes") else {}
    return TicketSource.model_validate({"type": type_, **needed, **settings})


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
