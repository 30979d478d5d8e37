"""The start of an event, by hand."""

from __future__ import annotations

from evidence import found_in, hours, notes_of, samples_of, tickets_of, up_intervals_of

from crashcast.labelling import confirmed_incidents
from crashcast.tables import CRASH


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
