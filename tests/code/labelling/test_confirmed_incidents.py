"""The start and the fields of confirmed incidents, by hand."""

from __future__ import annotations

import polars as pl
import pytest
from evidence import found_in, frame_of, hours, notes_of, samples_of, tickets_of, up_intervals_of

from crashcast.labelling import confirmed_incidents
from crashcast.labelling.labelling_functions import VOTES
from crashcast.tables import CRASH, MAINTENANCE, TIMESTAMP

EVENT, TICKET = {"event": pl.Int64}, {"event": pl.Int64, "started_at": TIMESTAMP}
WENT_DOWN = {"began_after": TIMESTAMP, "began_by": TIMESTAMP, "restarted": pl.Boolean}
VERDICT = {"event": pl.Int64, "verdict": pl.String, "crash_at": TIMESTAMP}
SECOND = 1 / 3600


def test_a_late_start_is_corrected_and_the_correction_recorded():
    up = up_intervals_of(samples_of(down=[(10.2, 12.5), (20.2, 22.5), (30.2, 32.5), (40.2, 42.5)]))
    tickets = tickets_of(
        ("a", CRASH, 10.25, 12.5, "pager"), ("a", CRASH, 21.75, 23, "pager"), ("a", CRASH, 31.5, 32.5, "pager")
    )
    notes = notes_of(("a", 30, 33, "crash", 30.75, "ann"))
    found, told, verdicts = found_in(up, tickets, notes)
    rows = confirmed_incidents.with_start(found, told, verdicts)
    assert hours(rows["started_at"]) == [10.25, 20.5, 30.75, 40.5]
    assert hours(rows["recorded_start"]) == [None, 21.75, 31.5, None]
    assert rows["corrected_by"].to_list() == [None, "restarts", "annotations", None]


@pytest.mark.parametrize(
    ("went_down", "tickets", "crash_at", "started", "recorded", "corrected_by"),
    [
        pytest.param((10, 11, True), [9.5, 10.75, 10.25], [], 10.25, None, None, id="the first that fits telemetry"),
        pytest.param((10, 11, True), [9.75, 9.5], [], 9.5, None, None, id="the first, if none fits"),
        pytest.param((10, 11, True), [9.5, 12], [], 9.5, None, None, id="the first, if none fits and one is late"),
        pytest.param((10, 11, True), [11], [], 11, None, None, id="at the last moment at which it was up"),
        pytest.param((10, 11, True), [11 + SECOND], [], 10.5, 11 + SECOND, "restarts", id="late by a second"),
        pytest.param((10, 11, False), [13, 12], [], 10.5, 12, "gaps", id="late, after a gap"),
        pytest.param((10, 10 + 3 * SECOND, True), [], [], 10 + SECOND, None, None, id="whole seconds"),
        pytest.param((10, 11, True), [], [10.75, 10.25, 10.3], 10.3, None, None, id="the annotators' median"),
        pytest.param((10, 11, True), [10.25], [10.75], 10.75, 10.25, "annotations", id="an annotator before a ticket"),
        pytest.param((10, 11, True), [10.25], [10.25], 10.25, None, None, id="both agree"),
    ],
)
def test_the_start_of_an_event(went_down, tickets, crash_at, started, recorded, corrected_by):
    verdicts = [(7, "crash", None), (7, "no crash", 10.01), *((7, "crash", hour) for hour in crash_at)]
    rows = confirmed_incidents.with_start(
        frame_of(EVENT | WENT_DOWN, [(7, *went_down)]),
        frame_of(TICKET, [*((7, hour) for hour in tickets), (8, 10.02)]),
        frame_of(VERDICT, verdicts),
    )
    assert hours(rows["started_at"]) == pytest.approx([started])
    assert hours(rows["recorded_start"]) == [recorded if recorded is None else pytest.approx(recorded)]
    assert rows["corrected_by"].to_list() == [corrected_by]


def confirmed(*events, tickets=(), told=(), votes=()):
    """Return what becomes of events of server a: (event, started, over, confidence); `told`: ticket's event."""
    schema = {"event": pl.Int64, "started_at": TIMESTAMP, "over": TIMESTAMP, "confidence": pl.Float64}
    found = frame_of(schema, events).with_columns(
        server_id=pl.lit("a"), recorded_start=pl.lit(None, TIMESTAMP), corrected_by=pl.lit(None, pl.String)
    )
    records = tickets_of(*tickets)
    mentioned = pl.DataFrame(
        {"event": list(told), "incident_id": [f"INC-{number}" for number in range(len(told))]},
        schema=EVENT | {"incident_id": pl.String},
    )
    return confirmed_incidents.incidents(records, found, mentioned, frame_of(VOTES, votes))


def test_events_of_at_least_half_a_chance_are_crashes_and_other_incidents_stay():
    work = ("b", MAINTENANCE, 2, 3, "phone")
    false = ("a", CRASH, 20, 21, "pager")
    found = confirmed((0, 10, 11, 0.5), (1, 20, 21, 0.499999), (2, 5, 6, 1.0), tickets=[false, work], told=[1])
    assert hours(found["started_at"]) == [2, 5, 10]
    assert found["kind"].to_list() == [MAINTENANCE, CRASH, CRASH]
    assert found["confidence"].to_list() == [None, 1.0, 0.5]
    assert found["incident_id"].to_list() == ["INC-1", "a-20250303T050000", "a-20250303T100000"]


@pytest.mark.parametrize(
    ("resolved", "over", "expected"),
    [
        pytest.param(12.5, 11.5, 12.5, id="by its ticket"),
        pytest.param(None, 11.5, 11.5, id="by telemetry if the ticket is open"),
        pytest.param(9.5, 11.5, 10, id="never before the start"),
        pytest.param(None, None, None, id="unknown: the rule for tickets that were never closed applies"),
    ],
)
def test_the_end_of_a_crash(resolved, over, expected):
    found = confirmed((0, 10, over, 0.9), tickets=[("a", CRASH, 10, resolved, "pager")], told=[0])
    assert hours(found["resolved_at"]) == [expected]
    if resolved is None:
        assert hours(confirmed((0, 10, over, 0.9))["resolved_at"]) == [expected]


def test_a_crash_has_the_fields_of_its_first_ticket_and_else_the_names_of_those_who_vote_for_it():
    tickets = [("a", CRASH, 10.5, 13, "pager"), ("a", CRASH, 10.25, 12, "phone"), ("a", CRASH, 10.25, 11, "fax")]
    events = (0, 10, 11, 0.9), (1, 20, 21, 0.9), (2, 30, 31, 0.9)
    votes = [(1, "gaps", 1), (1, "storms", 0), (1, "restarts", 1), (1, "annotations", 1), (0, "gaps", 1)]
    found = confirmed(*events, tickets=tickets, told=[0, 0, 0], votes=votes)
    assert found["incident_id"][0] == "INC-1"
    assert hours(found["resolved_at"])[0] == 12
    assert hours(found["reported_at"]) == [10.75, None, None]
    assert found["source"].to_list() == ["phone", "annotations, gaps, restarts", None]
