"""Who votes what on an event, by hand."""

from __future__ import annotations

import polars as pl
from evidence import (
    ALWAYS,
    RULES,
    WEEK,
    found_in,
    frame_of,
    samples_of,
    sources_of,
    tickets_of,
    up_intervals_of,
    weekly,
)

from crashcast.labelling import labelling_functions
from crashcast.tables import CRASH, MAINTENANCE, TIMESTAMP


def votes_of(up, tickets, coverage=ALWAYS, evidence=RULES.evidence, sources=()):
    found, told, verdicts = found_in(up, tickets)
    covered = frame_of({"server_id": pl.String, "covered_from": TIMESTAMP, "covered_to": TIMESTAMP}, coverage)
    votes = labelling_functions.votes_of_all(evidence, found, told, verdicts, covered, sources_of(*sources))
    assert not votes.select("event", "source").is_duplicated().any()
    return {
        event: {source: vote for number, source, vote in votes.iter_rows() if number == event}
        for event in range(found.height)
    }


def test_every_source_votes_on_every_event_that_it_watched():
    crash, reboot, silence = (10.2, 13.5), (20.2, 21.5), [30, 31, 32]
    up = up_intervals_of(samples_of(down=[crash, reboot], lost=silence, errors=[10]), samples_of("b"))
    tickets = tickets_of(
        ("a", CRASH, 10.3, 13, "pager, phone"), ("a", MAINTENANCE, 20.2, 21.5, "phone"), ("b", CRASH, 10.3, 13, "pager")
    )
    telemetry = dict.fromkeys(("restarts", "gaps", "storms"), 0)
    assert votes_of(up, tickets) == {
        0: {"pager": 1, "phone": 1, "restarts": 1, "gaps": 1, "storms": 1},
        1: {"pager": 1, "phone": 0, **telemetry},
        2: {"pager": 0, "phone": 0, **telemetry},
        3: {"pager": 0, "phone": 0, **telemetry, "gaps": 1},
    }
    assert votes_of(up, tickets, evidence=["gaps"])[3] == {"gaps": 1}
    # where no tickets were recorded silence says nothing, a ticket all the same does
    uncovered = votes_of(up, tickets, coverage=[("a", 15, 99)])
    assert uncovered[0] == {"pager": 1, "phone": 1, "restarts": 1, "gaps": 1, "storms": 1}
    assert uncovered[1] == {"pager": 1, **telemetry}
    assert uncovered[2] == {"pager": 0, "phone": 0, **telemetry}


def test_a_system_adopted_midway_says_nothing_of_the_time_before():
    down = [(10.2, 12.5), (20.2, 22.5), (30.2, 32.5), (40.2, 42.5)]
    tickets = tickets_of(("a", CRASH, 10.3, 12.5, "pager"), ("a", CRASH, 30.3, 32.5, "pager, phone"))

    def said(*periods, coverage=ALWAYS):
        found = votes_of(
            up_intervals_of(samples_of(down=down)), tickets, coverage, evidence=["tickets"], sources=periods
        )
        return [found[event] for event in sorted(found)]

    both = [{"pager": 1, "phone": 0}, {"pager": 0, "phone": 0}, {"pager": 1, "phone": 1}, {"pager": 0, "phone": 0}]
    assert said() == said(("phone", -99, 99)) == said(("phone", -99, 20), ("phone", 15, 99), ("fax", 0, 9)) == both
    # the phone's tickets are kept from the 25th hour to the 40th; one that it has all the same counts
    later = [{"pager": 1}, {"pager": 0}, {"pager": 1, "phone": 1}, {"pager": 0}]
    assert said(("phone", 25, 40)) == later
    assert said(("phone", -99, 15), ("phone", 35, 99)) == [both[0], later[1], both[2], both[3]]
    assert said(("phone", 25, 99), coverage=[("a", -99, 35)])[3] == {}


def test_telemetry_abstains_on_a_restart_that_was_due_and_tickets_decide():
    down = [(3 * WEEK + 2.2, 3 * WEEK + 3.5)]
    work = [("a", MAINTENANCE, begun, ended, "phone") for _, begun, ended in weekly("a", 8, without=[3])]
    work += [("b", MAINTENANCE, begun, ended, "phone") for _, begun, ended in weekly("b", 8)]
    up = up_intervals_of(samples_of(last=7 * WEEK, down=down), samples_of("b", last=7 * WEEK))
    elsewhere = ("b", CRASH, 900, 901, "pager")
    votes = votes_of(up, tickets_of(*work, elsewhere))
    assert votes[0] == {"pager": 0}
    votes = votes_of(up, tickets_of(*work, elsewhere, ("a", CRASH, 3 * WEEK + 2.2, 3 * WEEK + 3.5, "pager")))
    assert votes[0] == {"pager": 1}


def test_telemetry_abstains_on_a_server_without_samples():
    up = up_intervals_of(samples_of(last=20), samples_of("b"))
    tickets = tickets_of(("a", CRASH, 30, 31, None), ("c", CRASH, 30, 31, None))
    assert votes_of(up, tickets, coverage=[]) == {0: {"records": 1}, 1: {"records": 1}}


def test_divided_annotators_abstain_and_the_last_verdict_of_each_counts():
    schema = {"event": pl.Int64, "verdict": pl.String, "annotator": pl.String, "annotated_at": TIMESTAMP}
    verdicts = frame_of(
        schema,
        [
            (2, "crash", "ann", 3),
            (1, "no crash", "ann", 2),
            (2, "unsure", "bob", 1),
            (0, "crash", "ann", 1),
            (0, "no crash", "bob", 1),
            (1, "crash", "ann", 1),
            (2, "no crash", "ann", 1),
        ],
    )
    for rows in (verdicts, verdicts.reverse()):
        assert labelling_functions.people(rows).rows() == [(1, "annotations", 0), (2, "annotations", 1)]
