"""Which interruptions recorded maintenance and its usual period explain, by hand."""

from __future__ import annotations

import random
from datetime import timedelta

import polars as pl
from evidence import DAY, HOUR, WEEK, frame_of, interruptions_of, samples_of, weekly

from crashcast.labelling import planned_work
from crashcast.tables import TIMESTAMP


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
