"""Collections are merged into earlier ones; their periods are joined."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.params.tickets import Tickets, TicketSource
from crashcast.sources.tickets.collect import Collected, cover, imported, update
from crashcast.sources.tickets.outages import merge
from crashcast.sources.tickets.tickets import TICKETS, newest, parse

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
