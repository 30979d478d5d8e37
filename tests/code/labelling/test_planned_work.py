"""Which interruptions recorded maintenance and its usual period explain, by hand."""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import accumulate

import polars as pl
from evidence import DAY, HOUR, WEEK, actions_of, frame_of, interruptions_of, samples_of, weekly

from crashcast.labelling import planned_work
from crashcast.tables import TIMESTAMP

INTERRUPTION = {"server_id": pl.String, "began_after": TIMESTAMP, "began_by": TIMESTAMP, "over": TIMESTAMP}
SECOND = 1 / 3600


def work_of(*rows):
    schema = {"server_id": pl.String, "started_at": TIMESTAMP, "resolved_at": TIMESTAMP}
    return frame_of(schema, rows)


def test_recorded_work_explains_its_restart_and_its_silence():
    found = interruptions_of(samples_of(down=[(10.2, 12.5), (20.2, 21.5)], lost=[35, 36, 37]))
    work = work_of(("a", 10.25, 12.5), ("a", 34.5, 36), ("b", 20, 22))
    assert planned_work.is_recorded(found, work, HOUR).to_list() == [True, False, True]
    assert planned_work.is_recorded(found, work_of(), HOUR).to_list() == [False] * 3


def test_a_restart_when_work_was_due_and_none_is_on_record_is_due():
    work = work_of(*weekly("a", 8, without=[3]), *weekly("b", 8))
    period, spread = planned_work.usual_period(work)
    assert (period, spread) == (7 * DAY, timedelta(0))
    down = [(3 * WEEK + 2.2, 3 * WEEK + 3.5), (3 * WEEK + 60.2, 3 * WEEK + 61.5), (5 * WEEK + 4.2, 5 * WEEK + 5.5)]
    found = interruptions_of(samples_of(last=7 * WEEK, down=down), samples_of("b", last=7 * WEEK, down=down[:1]))
    # due and not on record; not due; soon after work that is on record. On server b nothing was missing
    assert planned_work.is_due(found, work, HOUR).to_list() == [True, False, False, False]


def test_without_a_usual_period_nothing_is_due():
    draw = random.Random(1)
    irregular = work_of(*(("a", hour, hour + 1) for hour in sorted(draw.sample(range(9999), 30))))
    assert planned_work.usual_period(irregular) is None
    assert planned_work.usual_period(work_of(*weekly("a", 5))) is None  # too few to tell
    found = interruptions_of(samples_of(down=[(10.2, 12.5)]))
    assert planned_work.is_due(found, irregular, HOUR).to_list() == [False]


def interruptions(*rows):
    """Lay (server, began after, over, restarted) out as interruptions; they began within the hour."""
    found = frame_of(INTERRUPTION, [(server, after, after + 1, over) for server, after, over, _ in rows])
    return found.with_columns(restarted=pl.Series([restarted for *_, restarted in rows], dtype=pl.Boolean))


def test_work_explains_what_ends_from_an_interval_before_it_to_an_interval_after():
    work = work_of(("a", 10, 12))
    restarts = {9 - SECOND: False, 9: True, 13: True, 13 + SECOND: False}
    found = interruptions(*(("a", 8, over, True) for over in restarts))
    assert planned_work.is_recorded(found, work, HOUR).to_list() == list(restarts.values())
    # a gap may outlast the work in which it began
    gaps = {8: True, 13: True, 13 + SECOND: False}
    found = interruptions(*(("a", after, 20, False) for after in gaps))
    assert planned_work.is_recorded(found, work, HOUR).to_list() == list(gaps.values())
    assert planned_work.is_recorded(interruptions(("a", 8, 9 - SECOND, False)), work, HOUR).to_list() == [False]


def test_the_last_work_before_the_end_of_an_interruption_explains_it():
    work = work_of(("a", 30, 32), ("a", 10, 12), ("b", 20, 24))
    found = interruptions(("a", 19, 23, True), ("b", 19, 23, True), ("a", 30, 31, True))
    assert planned_work.is_recorded(found, work, HOUR).to_list() == [False, True, True]
    assert planned_work.is_recorded(found.reverse(), work.reverse(), HOUR).to_list() == [True, True, False]


def spaced(*gaps_h, server="a"):
    """Return work of a server, so many hours apart."""
    starts = list(accumulate(gaps_h, initial=2))
    return work_of(*((server, start, start + 1) for start in starts))


def test_the_period_is_the_most_common_spacing_in_whole_days():
    assert planned_work.usual_period(spaced(*[WEEK] * 10)) == (7 * DAY, timedelta(0))
    assert planned_work.usual_period(spaced(*[WEEK] * 9)) is None  # too few to tell
    assert planned_work.usual_period(spaced(*[WEEK] * 6, *[30 * 24] * 5)) == (7 * DAY, timedelta(0))
    assert planned_work.usual_period(spaced(*[WEEK] * 6, *[30 * 24] * 6)) is None  # half of them are no majority
    assert planned_work.usual_period(spaced(*[24] * 10)) == (DAY, timedelta(0))
    assert planned_work.usual_period(spaced(*[11] * 10)) is None  # less than half a day apart: again and again
    # spacings are those of one server, whatever its neighbour in the list did
    two = pl.concat([spaced(*[WEEK] * 5), spaced(*[WEEK] * 5, server="b")])
    assert planned_work.usual_period(two.reverse()) == (7 * DAY, timedelta(0))
    once = work_of(*((f"s{week:02}", week * WEEK, week * WEEK + 1) for week in range(20)))
    assert planned_work.usual_period(once) is None


def test_one_spacing_in_twenty_may_be_further_off():
    gaps = [WEEK] * 19 + [WEEK - 1, WEEK + 5]  # of 21, one more is further off than an hour
    assert planned_work.usual_period(spaced(*gaps)) == (7 * DAY, HOUR)
    assert planned_work.usual_period(spaced(*gaps[1:])) == (7 * DAY, 5 * HOUR)  # of 20, the 19th is no longer enough


def test_a_restart_is_due_a_whole_number_of_periods_from_the_nearest_recorded_work():
    work = pl.concat([work_of(*weekly("a", 8, without=[3])), work_of(*weekly("b", 12))])
    due = {
        3 * WEEK + 2: True,
        3 * WEEK + 3: True,  # an interval off
        3 * WEEK + 3.1: False,
        3 * WEEK + 0.9: False,
        2 * WEEK + 2: False,  # it is on record
        2 * WEEK + 2.6: False,
        9 * WEEK + 2: True,  # after the last
        -2 * WEEK + 2: True,  # before the first
        7 * WEEK + 5 * 24: False,
    }
    found = interruptions(*(("a", hour - 0.5, hour + 1, True) for hour in due), ("a", 3 * WEEK + 1.5, 600, False))
    assert planned_work.is_due(found, work, HOUR).to_list() == [*due.values(), False]  # a gap is never due
    assert planned_work.is_due(found.reverse(), work.reverse(), HOUR).to_list() == [False, *reversed(due.values())]
    assert planned_work.is_due(found.with_columns(server_id=pl.lit("c")), work, HOUR).any() is False


def test_a_server_that_goes_down_after_an_action_may_do_so_because_of_it():
    # it went down within (10, 11]; an action takes three hours at most, and may be dated an interval too late
    edges = {7 - SECOND: False, 7: True, 10: True, 12: True, 12 + SECOND: False}
    for acted, expected in edges.items():
        for restarted in (True, False):
            found = planned_work.follows_action(
                interruptions(("a", 10, 14, restarted)), actions_of(("a", acted), ("b", 10), ("a", 99)), HOUR, 3 * HOUR
            )
            assert found.to_list() == [expected], acted


def test_the_last_action_before_an_interruption_counts():
    found = interruptions(("a", 30, 31, True), ("b", 20, 21, True), ("a", 10, 11, True))
    acted = actions_of(("a", 29), ("a", 2), ("b", 2))
    assert planned_work.follows_action(found, acted, HOUR, 3 * HOUR).to_list() == [True, False, False]
    assert planned_work.follows_action(found.reverse(), acted.reverse(), HOUR, 3 * HOUR).to_list() == [
        False,
        False,
        True,
    ]
    assert planned_work.follows_action(found, actions_of(), HOUR, 3 * HOUR).to_list() == [False] * 3
