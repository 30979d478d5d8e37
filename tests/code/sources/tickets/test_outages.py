"""Which tickets are one incident, and what it is then."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crashcast import tables
from crashcast.params.tickets import Tickets
from crashcast.sources.tickets.collect import KEY, imported, update
from crashcast.sources.tickets.outages import merge
from crashcast.sources.tickets.tickets import TICKETS, newest

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RULES = Tickets(since=date(2026, 1, 1), same_outage="30m", longest_outage="1d", max_bad_share=0, sources={})


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
