"""Which interruption a ticket or an annotation matches, by hand."""

from __future__ import annotations

from evidence import found_in, hours, notes_of, samples_of, tickets_of, up_intervals_of

from crashcast.labelling import labelling_functions
from crashcast.tables import CRASH, MAINTENANCE


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
