"""Which interruption a ticket or an annotation matches, by hand."""

from __future__ import annotations

import polars as pl
import pytest
from evidence import HOUR, actions_of, found_in, frame_of, hours, notes_of, samples_of, tickets_of, up_intervals_of

from crashcast.labelling import candidate_events, labelling_functions
from crashcast.tables import CRASH, MAINTENANCE, TIMESTAMP


def test_tickets_are_about_the_interruption_in_which_they_begin_or_that_was_just_over():
    up = up_intervals_of(samples_of(down=[(10.2, 12.5), (40.2, 41.5)], lost=[20, 21, 22]), samples_of("b"))
    tickets = tickets_of(
        ("a", CRASH, 10.3, 12.5, "pager"),
        ("a", CRASH, 14.5, 15, "phone"),  # two hours late
        ("a", CRASH, 30, 31, "pager"),  # nothing happened
        ("a", CRASH, 32.5, 33, "phone"),  # the same nothing
        ("b", CRASH, 40.4, 41.5, "pager"),  # of another host
        ("a", MAINTENANCE, 46, 47, "phone"),
    )
    found, told, _ = found_in(up, tickets)
    assert found["server_id"].to_list() == ["a", "a", "a", "a", "b"]
    assert hours(found["began_after"]) == [10, 19, 30, 40, 40.4]
    assert dict(told.select("incident_id", "event").iter_rows()) == {
        "INC-0": 0, "INC-1": 0, "INC-2": 2, "INC-3": 2, "INC-4": 4
    }  # fmt: skip
    assert found["restarted"].to_list() == [True, False, False, True, False]
    assert found["has_uptime"].all()


def test_a_ticket_prefers_a_restart_to_a_silence_and_both_to_planned_work():
    up = up_intervals_of(samples_of(down=[(10.2, 11.5), (18.2, 19.5)], lost=[14, 15]))
    work = ("a", MAINTENANCE, 18.2, 19.5, "phone")
    _, told, _ = found_in(up, tickets_of(work, ("a", CRASH, 14.3, 16, "pager"), ("a", CRASH, 17.5, 19, "pager")))
    # 14.3 is within three hours of the end of the outage at 11.5, 17.5 is within three of the silence's
    assert told["event"].to_list() == [0, 1]


def test_annotations_are_about_what_was_shown_or_when_the_crash_was_seen():
    up = up_intervals_of(samples_of(down=[(10.2, 12.5), (20.2, 22.5)]), samples_of("b"))
    notes = notes_of(
        ("a", 5, 25, "crash", 10.5, "ann"),  # and so what else was shown is none
        ("a", 15, 30, "no crash", None, "bob"),
        ("a", 0, 48, "unsure", None, "eve"),
        ("b", 0, 48, "crash", 30.0, "bob"),  # nothing else says so
        ("b", 0, 10, "no crash", None, "ann"),
    )
    found, _, verdicts = found_in(up, notes=notes)
    assert hours(found["began_after"]) == [10, 20, 30]
    assert verdicts.select("event", "verdict", "annotator").rows() == [
        (0, "crash", "ann"),
        (1, "no crash", "ann"),
        (1, "no crash", "bob"),
        (2, "crash", "bob"),
    ]
    assert labelling_functions.people(verdicts).rows() == [
        (0, "annotations", 1),
        (1, "annotations", 0),
        (2, "annotations", 1),
    ]


STATEMENT = {"server_id": pl.String, "at": TIMESTAMP}
FOUND = {"server_id": pl.String, "began_after": TIMESTAMP, "over": TIMESTAMP, "restarted": pl.Boolean}
PLANNED, DUE = {"planned": True}, {"due": True}
RESTART, GAP = True, False
SECOND = 1 / 3600


def matched(hour, *interruptions):
    """Return which interruption a statement matches: they are (began after, over, restart or gap, planned or due)."""
    found = frame_of(FOUND, [("a", *row[:3]) for row in interruptions])
    kinds = [{"planned": False, "due": False} | (row[3] if row[3:] else {}) for row in interruptions]
    found = found.hstack(pl.DataFrame(kinds, schema={"planned": pl.Boolean, "due": pl.Boolean}))
    statements = frame_of(STATEMENT, [("b", hour), ("a", hour), ("a", -99)])
    elsewhere, place, before = candidate_events.matching(statements, found, HOUR, 3 * HOUR)
    assert elsewhere is before is None
    return place


def test_a_statement_matches_from_an_interval_before_an_interruption_to_some_time_after():
    for hour, place in {9 - SECOND: None, 9: 0, 11: 0, 15: 0, 15 + SECOND: None}.items():
        assert matched(hour, (10, 12, RESTART)) == place, hour


@pytest.mark.parametrize(
    ("interruptions", "place"),
    [
        pytest.param([(10, 12, RESTART), (13, 13.5, RESTART)], 1, id="the later of two"),
        pytest.param([(13, 13.5, RESTART), (10, 12, RESTART)], 0, id="in any order"),
        pytest.param([(10, 12, RESTART), (13, 13.5, GAP)], 0, id="a restart before a gap"),
        pytest.param([(10, 12, GAP), (13, 13.5, RESTART, PLANNED)], 0, id="a gap before recorded work"),
        pytest.param([(10, 12, GAP), (13, 13.5, RESTART, DUE)], 0, id="a gap before work that was due"),
        pytest.param([(10, 12, GAP, DUE), (8, 11, RESTART)], 1, id="a restart before a gap that was due"),
        pytest.param([(10, 12, GAP, PLANNED), (13, 13.5, RESTART, DUE)], 1, id="the later of two planned ones"),
        pytest.param(
            [(10, 12, RESTART), (10.5, 10.75, RESTART)], None, id="the later one is over, and hides the other"
        ),
        pytest.param([(10, 10.75, RESTART), (10.5, 12, GAP)], 1, id="a gap if the restart is over"),
        pytest.param([(10, 12, GAP), (10.5, 10.75, RESTART)], 0, id="a gap if a later restart is over"),
    ],
)
def test_a_statement_prefers_restarts_to_gaps_and_both_to_planned_work(interruptions, place):
    assert matched(14, *interruptions) == place


def test_statements_that_match_no_interruption_are_one_event_if_each_comes_soon_after_the_one_before():
    up = up_intervals_of(samples_of(), samples_of("b"))
    starts = [("a", 10), ("a", 13), ("a", 16), ("a", 19 + SECOND), ("b", 12), ("b", 16)]
    found, told, _ = found_in(up, tickets_of(*((name, CRASH, hour, hour, "pager") for name, hour in starts)))
    assert hours(found["began_by"]) == pytest.approx(
        [
            10,
            12,
            16,
            19,
        ],
        abs=0.001,
    )
    assert told.sort("incident_id")["event"].to_list() == [0, 0, 0, 3, 1, 2]


def test_an_event_without_interruption_has_telemetry_between_a_servers_first_and_last_sample():
    up = up_intervals_of(samples_of(first=10, last=21))  # the last is at 20
    found, _, _ = found_in(up, tickets_of(*(("a", CRASH, hour, hour, "pager") for hour in (5, 10, 20, 25))))
    for column in ("has_telemetry", "has_uptime", "has_errors"):
        assert found[column].to_list() == [False, True, True, False]
    assert not any(found[column].any() for column in ("restarted", "silent", "planned", "due"))


def test_an_event_without_interruption_has_the_metrics_that_its_server_reports():
    silent = [(hour, "a", None, None) for hour in range(48)]
    up = up_intervals_of(silent, samples_of("b"))
    found, _, _ = found_in(up, tickets_of(*((name, CRASH, 10, 11, "pager") for name in "abc")))
    assert found["has_telemetry"].to_list() == [True, True, False]
    assert found["has_uptime"].to_list() == found["has_errors"].to_list() == [False, True, False]


def test_an_annotation_is_about_events_that_began_in_its_window():
    up = up_intervals_of(samples_of(down=[(10.2, 12.5), (20.2, 22.5)]))  # they began by 11 and 21
    for window, expected in (((11, 21), [0, 1]), ((11 + SECOND, 21), [1]), ((11, 21 - SECOND), [0])):
        _, _, verdicts = found_in(up, notes=notes_of(("a", *window, "no crash", None, "ann")))
        assert verdicts["event"].to_list() == expected


def test_an_interruption_after_an_action_may_be_its_work():
    found, _, _ = found_in(
        up_intervals_of(samples_of(down=[(10.2, 12.5), (30.2, 31.5)])), actions=actions_of(("a", 10))
    )
    assert found.select("planned", "due").rows() == [(False, True), (False, False)]
