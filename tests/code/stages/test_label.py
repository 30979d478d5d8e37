"""Labels by hand: hours of one server around incidents, and for all data against the definition itself."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import yaml
from evidence import actions_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from crashcast import tables
from crashcast.errors import UserError
from crashcast.incidents import read_incidents
from crashcast.labelling.candidate_events import ANNOTATIONS
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH, INCIDENTS, MAINTENANCE, TIMESTAMP, Partition
from stages import label
from stages.label import Reason

DEFAULTS = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())
START = datetime(2025, 3, 3)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DAY = tables.partition_at(START, "day")
SECOND = 1 / 3600
ALWAYS = (-999, 999)  # hours of coverage far beyond what a label can see
TELEMETRY = Telemetry.model_validate(
    {"interval": "1h", "partition": "day", "metrics": {"cpu_pct": {"min": 0, "max": 1}}}
)
RULES = Label(lead="1h", horizon="3h", recovery="2h")
SPANS = {"server_id": pl.String, "covered_from": TIMESTAMP, "covered_to": TIMESTAMP}


def at(hour):
    return START + hour * HOUR


def frame_of(schema, rows):
    """Lay rows out as a frame; numbers in columns of times are hours from START."""
    naive = {name: pl.Datetime("us") if dtype == TIMESTAMP else dtype for name, dtype in schema.items()}
    moments = [
        [
            at(value) if dtype == TIMESTAMP and value is not None else value
            for value, dtype in zip(row, schema.values(), strict=True)
        ]
        for row in rows
    ]
    return pl.DataFrame(moments, schema=naive, orient="row").cast(schema)


def incidents_of(*incidents):
    """Lay (server, kind, started, resolved) out as a frame."""
    schema = {"server_id": pl.String, "kind": pl.String, "started_at": TIMESTAMP, "resolved_at": TIMESTAMP}
    return frame_of(schema, incidents)


def labelled(hours, incidents, coverage=(("a", *ALWAYS),), rules=RULES, delay=0, partition=DAY, **operated):
    """Label the rows of server a at `hours`, with what the stage would hand it; return {hour: label or reason}."""
    rows = frame_of(tables.KEYS, [(hour, "a") for hour in hours])
    frame, counts = label_rows(rows, incidents, frame_of(SPANS, coverage), rules, delay, partition, **operated)
    assert frame["timestamp"].equals(rows["timestamp"])
    assert (frame["label"].is_null() == frame["reason"].is_not_null()).all()
    assert counts["rows"] == frame.height == counts["crash"] + counts["no_crash"] + frame["label"].null_count()
    return {
        hour: reason if found is None else found
        for hour, found, reason in zip(hours, frame["label"], frame["reason"], strict=True)
    }


def label_rows(rows, incidents, coverage, rules=RULES, delay=0, partition=DAY, alarms=(), actions=()):
    blind = rules.lead + rules.horizon + delay * HOUR
    touching = label.incidents_that_reach(partition, incidents, rules)
    seen = label.coverage_that_reaches(partition, coverage, blind)
    periods = label.mitigated_periods(alarms_of(*alarms), actions_of(*actions), rules)
    mitigated = label.clipped(periods, "begun", "ended", partition.start, partition.end)
    return label.label_partition(partition, rows, touching, seen, mitigated, blind, TELEMETRY, rules)


def alarms_of(*alarms, model="v1", delivered=True):
    """Lay (server, opened, end, ...) out as an alarm's opening and, for each further end, its renewal."""
    rows = []
    for server, opened, *ends in alarms:
        for end in ends:
            rows.append((server, max(opened, end - 4), opened, end, 0.9, 0.5, model, delivered))
    return frame_of(tables.ALARMS, rows)


def test_hours_around_a_crash():
    crash = incidents_of(("a", CRASH, 10, 11))
    assert labelled(range(4, 16), crash) == {
        4: 0,
        5: 0,
        6: 1,  # 6 + 1 + 3: the last moment of (7, 10]
        7: 1,
        8: 1,  # 10 lies in (9, 12]
        9: "lead",  # 10 lies in (9, 10]: too late to act on
        10: "outage",
        11: "outage",  # recovering until 13
        12: "outage",
        13: 0,
        14: 0,
        15: 0,
    }


def test_the_edges_of_the_horizon_to_the_second():
    # a row at 5 is 1 for a crash in (6, 9], unknown for one in (5, 6]
    edges = {5: "outage", 5 + SECOND: "lead", 6: "lead", 6 + SECOND: 1, 9: 1, 9 + SECOND: 0}
    for started, expected in edges.items():
        assert labelled([5], incidents_of(("a", CRASH, started, started + 1))) == {5: expected}, started


def test_without_lead_the_horizon_begins_at_the_row():
    rules = Label(lead="0h", horizon="3h", recovery="0h")
    edges = {5 - SECOND: "outage", 5: "outage", 5 + SECOND: 1, 8: 1, 8 + SECOND: 0}
    for started, expected in edges.items():
        assert labelled([5], incidents_of(("a", CRASH, started, started + 1)), rules=rules) == {5: expected}, started


def test_the_edges_of_outage_and_recovery():
    crash = incidents_of(("a", CRASH, 2 + SECOND, 3))
    assert labelled([2, 3, 4, 5], crash) == {2: "lead", 3: "outage", 4: "outage", 5: 0}
    rules = Label(lead="1h", horizon="3h", recovery="0h")
    assert labelled([2, 3, 4, 5], crash, rules=rules) == {2: "lead", 3: 0, 4: 0, 5: 0}


def test_outage_and_recovery_win_over_the_next_crash():
    twice = incidents_of(("a", CRASH, 3, 4), ("a", CRASH, 8, 9))
    assert labelled(range(10), twice) == {
        0: 1,
        1: 1,
        2: "lead",
        3: "outage",
        4: "outage",  # in reach of the crash at 8, and recovering
        5: "outage",
        6: 1,
        7: "lead",
        8: "outage",
        9: "outage",
    }


def test_too_late_for_one_crash_is_unknown_though_the_next_is_in_time():
    twice = incidents_of(("a", CRASH, 5, 5.5), ("a", CRASH, 7, 8))
    assert labelled([4], twice) == {4: "lead"}


def test_crashes_that_overlap_are_one_outage():
    overlapping = incidents_of(("a", CRASH, 5, 9), ("a", CRASH, 6, 7))
    assert labelled(range(4, 12), overlapping) == {4: "lead", **dict.fromkeys(range(5, 11), "outage"), 11: 0}


def test_a_planned_reboot_hides_the_truth_ahead_of_it():
    reboot = incidents_of(("a", MAINTENANCE, 10, 10.5))
    ahead = dict.fromkeys(range(6, 10), "maintenance_ahead")
    assert labelled(range(5, 14), reboot) == {5: 0, **ahead, 10: "outage", 11: "outage", 12: "outage", 13: 0}


def test_a_crash_in_the_horizon_is_known_whatever_is_planned():
    both = incidents_of(("a", MAINTENANCE, 7, 7.1), ("a", CRASH, 8, 9))
    # 3 sees only the reboot ahead
    assert labelled([3, 4, 5, 6, 7], both) == {3: "maintenance_ahead", 4: 1, 5: 1, 6: 1, 7: "outage"}


def test_another_kind_of_incident_is_an_outage_and_no_crash():
    assert labelled([4, 5, 6, 8], incidents_of(("a", "network", 5, 6))) == {4: 0, 5: "outage", 6: "outage", 8: 0}


def test_the_records_end():
    # 4 hours of lead and horizon: what happens by 12 is on record, what happens later is not
    covered = [("a", -999, 12)]
    assert labelled([6, 7, 8, 11, 12], incidents_of(), covered) == {
        6: 0,
        7: 0,
        8: "records_end",
        11: "records_end",
        12: "uncovered",
    }
    # a crash at 7 that is reported within 2 hours is on record by 9
    assert labelled([5, 6], incidents_of(), covered, delay=2) == {5: 0, 6: "records_end"}


def test_a_crash_on_record_close_to_the_end_is_not_taken_either():
    # else only crashes would be known there: a base rate of 1
    assert labelled([8], incidents_of(("a", CRASH, 10, 11)), [("a", -999, 12)]) == {8: "records_end"}


def test_the_edges_of_coverage_to_the_second():
    assert labelled([5], incidents_of(), [("a", 5, 99)]) == {5: 0}
    assert labelled([5], incidents_of(), [("a", 5 + SECOND, 99)]) == {5: "uncovered"}
    assert labelled([5], incidents_of(), [("a", 0, 9 + SECOND)]) == {5: 0}
    assert labelled([5], incidents_of(), [("a", 0, 9)]) == {5: "records_end"}
    assert labelled([5], incidents_of(), [("a", 0, 5 + SECOND)]) == {5: "records_end"}
    assert labelled([5], incidents_of(), [("a", 0, 5)]) == {5: "uncovered"}


def test_a_hole_in_coverage():
    covered = [("a", 14, 99), ("a", -9, 6)]
    found = labelled([1, 2, 5, 6, 13, 14], incidents_of(("a", CRASH, 9, 15)), covered)
    assert found == {1: 0, 2: "records_end", 5: "records_end", 6: "uncovered", 13: "uncovered", 14: "outage"}


def test_overlapping_coverage_counts_once():
    assert labelled([1, 5, 9], incidents_of(), [("a", -9, 8), ("a", 4, 99)]) == {1: 0, 5: 0, 9: 0}


def test_coverage_shorter_than_its_blind_end_settles_nothing():
    assert labelled([4, 5, 6, 7], incidents_of(), [("a", 5, 7)]) == {
        4: "uncovered",
        5: "records_end",
        6: "records_end",
        7: "uncovered",
    }


def test_of_several_reasons_the_last_is_given():
    assert list(Reason) == ["maintenance_ahead", "mitigated", "records_end", "lead", "outage", "uncovered"]
    reboot = ("a", MAINTENANCE, 8, 9)
    crash = ("a", CRASH, 6, 7)
    begun = ("a", MAINTENANCE, 4, 5.5)
    ends = [("a", -9, 8)]
    assert labelled([5], incidents_of(reboot)) == {5: "maintenance_ahead"}
    assert labelled([5], incidents_of(reboot), actions=[("a", 8)]) == {5: "mitigated"}
    assert labelled([5], incidents_of(reboot), ends, actions=[("a", 8)]) == {5: "records_end"}
    assert labelled([5], incidents_of(reboot, crash), ends) == {5: "lead"}
    assert labelled([5], incidents_of(reboot, crash, begun), ends) == {5: "outage"}
    assert labelled([5], incidents_of(reboot, crash, begun), [("a", -9, 5)]) == {5: "uncovered"}


# somebody acted


@pytest.mark.parametrize(
    ("alarms", "actions", "crashes", "mitigated", "positive"),
    [
        # an alarm that opens at 6 stands until 10
        pytest.param([("a", 6, 10)], [("a", 8)], [], [4, 5, 6, 7, 8, 9], [], id="alarm, action, no crash"),
        pytest.param([("a", 6, 10)], [("a", 8)], [(10, 11)], [4, 5], [6, 7, 8], id="a crash seen after the action"),
        pytest.param([("a", 6, 10)], [("a", 10.5)], [(10, 11)], [], [6, 7, 8], id="an action after the crash"),
        pytest.param([], [("a", 8)], [], [4, 5, 6, 7], [], id="an action without an alarm"),
        pytest.param([("a", 6, 10)], [], [], [], [], id="a mute, which is no action"),
        pytest.param([("a", 6, 10)], [("a", 8), ("a", 15)], [], [*range(4, 10), *range(11, 15)], [], id="two actions"),
        pytest.param([("a", 6, 10)], [("a", 8), ("a", 7)], [], list(range(3, 10)), [], id="two actions in one alarm"),
        pytest.param([("a", 6, 10, 13)], [("a", 8)], [], list(range(4, 13)), [], id="the alarm was renewed"),
        pytest.param([("a", 6, 10)], [("a", 5)], [], [1, 2, 3, 4], [], id="an action before the alarm"),
        pytest.param([("a", 6, 10)], [("a", 10)], [], [6, 7, 8, 9], [], id="an action when the alarm had ended"),
        pytest.param([("a", 6, 10)], [("a", 6)], [], list(range(2, 10)), [], id="an action at the opening"),
        pytest.param([("b", 6, 10)], [("b", 8)], [], [], [], id="another server"),
        pytest.param([("b", 6, 10)], [("a", 8)], [], [4, 5, 6, 7], [], id="the alarm is another server's"),
        pytest.param([("was-a", 6, 10)], [("was-a", 8)], [], [], [], id="the server has another name by now"),
    ],
)
def test_rows_of_which_an_action_may_have_prevented_the_crash_are_unknown(
    alarms, actions, crashes, mitigated, positive
):
    found = labelled(
        range(24), incidents_of(*(("a", CRASH, *span) for span in crashes)), alarms=alarms, actions=actions
    )
    assert [hour for hour, label in found.items() if label == "mitigated"] == mitigated
    assert [hour for hour, label in found.items() if label == 1] == positive


def test_a_server_is_mitigated_under_the_name_that_it_had():
    rows = frame_of(tables.KEYS, [(5, "was-a"), (6, "a")])  # the action at 8 was reported with the old name
    covered = frame_of(SPANS, [("a", *ALWAYS), ("was-a", *ALWAYS)])
    frame, _ = label_rows(rows, incidents_of(), covered, actions=[("was-a", 8)])
    assert frame["reason"].to_list() == ["mitigated", None]


def test_neither_the_model_nor_the_delivery_of_an_alarm_matters():
    """Of a model that was withdrawn since, or held back: who acted may have prevented a crash."""
    expected = label.mitigated_periods(alarms_of(("a", 6, 10)), actions_of(("a", 8)), RULES)
    for more in ({"model": "v0"}, {"delivered": False}):
        found = label.mitigated_periods(alarms_of(("a", 6, 10), **more), actions_of(("a", 8)), RULES)
        assert found.sort("begun").equals(expected.sort("begun"))


def test_an_alarm_without_an_action_reaches_no_partition():
    assert label.mitigated_periods(alarms_of(("a", 6, 10)), actions_of(), RULES).is_empty()


def test_an_action_reaches_only_the_partitions_that_its_period_touches():
    periods = label.mitigated_periods(alarms_of(("a", 22, 26)), actions_of(("a", 23), ("a", 60)), RULES)
    days = [tables.partition_at(START + day * 24 * HOUR, "day") for day in range(-1, 4)]
    pieces = [label.clipped(periods, "begun", "ended", day.start, day.end) for day in days]
    assert [piece.height for piece in pieces] == [0, 2, 1, 1, 0]
    renewed = label.mitigated_periods(alarms_of(("a", 22, 26, 29)), actions_of(("a", 23), ("a", 60)), RULES)
    assert label.clipped(renewed, "begun", "ended", days[1].start, days[1].end).equals(pieces[1])


def test_other_servers_incidents_and_coverage_do_not_count():
    assert labelled([5], incidents_of(("b", CRASH, 7, 8), ("not in the telemetry", CRASH, 5, 6))) == {5: 0}
    assert labelled([5], incidents_of(), [("b", *ALWAYS)]) == {5: "uncovered"}


def test_without_coverage_nothing_is_known():
    assert labelled([5], incidents_of(("a", CRASH, 7, 8)), []) == {5: "uncovered"}


def test_several_servers_at_once():
    rows = frame_of(tables.KEYS, [(5, "a"), (5, "b"), (6, "b"), (6, "c")])
    coverage = frame_of(SPANS, [("a", *ALWAYS), ("b", *ALWAYS)])
    frame, counts = label_rows(rows, incidents_of(("b", CRASH, 7.5, 8), ("a", CRASH, 99, 100)), coverage)
    assert frame.rows() == [
        (*rows.row(0), 0, None),
        (*rows.row(1), 1, None),
        (*rows.row(2), 1, None),
        (*rows.row(3), None, "uncovered"),
    ]
    assert frame.schema == {**tables.KEYS, "label": pl.Int8, "reason": pl.String}
    assert counts == {
        "rows": 4,
        "crash": 2,
        "no_crash": 1,
        "unknown_maintenance_ahead": 0,
        "unknown_mitigated": 0,
        "unknown_records_end": 0,
        "unknown_lead": 0,
        "unknown_outage": 0,
        "unknown_uncovered": 1,
    }


def test_no_rows():
    rows = frame_of(tables.KEYS, [])
    frame, counts = label_rows(rows, incidents_of(("a", CRASH, 7, 8)), frame_of(SPANS, [("a", *ALWAYS)]))
    assert frame.schema == {**tables.KEYS, "label": pl.Int8, "reason": pl.String}
    assert set(counts.values()) == {0}


def test_the_base_rate_is_of_the_known():
    counts = {"rows": 10, "crash": 2, "no_crash": 6}
    assert label.summarise(counts) == {**counts, "known": 8, "base_rate": 0.25}
    assert label.summarise({"rows": 3, "crash": 0, "no_crash": 0})["base_rate"] == 0


# for all data


def by_definition(minute, server, incidents, coverage, rules, blind_minutes, alarms, actions):
    """Say what DESIGN says of one row; all in minutes."""
    lead, reach, recovery = (duration / MINUTE for duration in (rules.lead, rules.lead + rules.horizon, rules.recovery))
    own = [(kind, started, resolved) for name, kind, started, resolved in incidents if name == server]
    crashes = [started for kind, started, _ in own if kind == CRASH]
    spans = [(begin, end) for name, begin, end in coverage if name == server and begin <= minute < end]
    if not spans:
        return "uncovered"
    if any(started <= minute < resolved + recovery for _, started, resolved in own):
        return "outage"
    if any(minute < started <= minute + lead for started in crashes):
        return "lead"
    if not any(minute + blind_minutes < end for _, end in spans):
        return "records_end"
    if any(minute + lead < started <= minute + reach for started in crashes):
        return 1
    acted = [moment for name, moment in actions if name == server]
    if any(minute < moment <= minute + reach for moment in acted):
        return "mitigated"
    for name, opened, *ends in alarms:
        if name == server and any(opened <= moment <= minute < max(ends) for moment in acted):
            return "mitigated"
    if any(minute < started <= minute + reach for kind, started, _ in own if kind == MAINTENANCE):
        return "maintenance_ahead"
    return 0


minutes = st.integers(-40, 40).map(lambda half_hours: 30 * half_hours)
servers = st.sampled_from("ab")
outages = st.lists(
    st.tuples(
        servers, st.sampled_from([CRASH, CRASH, MAINTENANCE, "other"]), minutes, st.sampled_from([0, 1, 60, 300])
    ).map(lambda row: (row[0], row[1], row[2], row[2] + row[3])),
    max_size=6,
)
spans = st.lists(st.tuples(servers, minutes, minutes).filter(lambda row: row[1] < row[2]), max_size=3).map(
    lambda rows: [*rows, ("a", -5000, 700)]
)
acts = st.lists(st.tuples(servers, minutes), max_size=3, unique=True)
# of an alarm the opening, its end, and those of its renewals
warnings = st.lists(
    st.tuples(servers, minutes, st.lists(st.sampled_from([30, 60, 300, 600]), min_size=1, max_size=3)).map(
        lambda row: (row[0], row[1], *(row[1] + length for length in row[2]))
    ),
    max_size=3,
    unique_by=lambda row: row[:2],
)
durations = st.sampled_from(["0h", "30m", "1h", "2h", "5h"])
rules_of = st.builds(Label, lead=durations, horizon=durations.filter(lambda d: d != "0h"), recovery=durations)


def in_hours(rows):
    return [tuple(value / 60 if isinstance(value, int) else value for value in row) for row in rows]


@hypothesis_settings(deadline=None, max_examples=150)
@given(outages, spans, rules_of, st.integers(0, 3), warnings, acts)
def test_labels_follow_the_definition(incidents, coverage, rules, delay, alarms, actions):
    keys = [(hour, server) for hour in range(24) for server in "ab"]
    frame, counts = label_rows(
        frame_of(tables.KEYS, keys),
        incidents_of(*in_hours(incidents)),
        frame_of(SPANS, in_hours(coverage)),
        rules,
        delay,
        alarms=in_hours(alarms),
        actions=in_hours(actions),
    )
    blind_minutes = (rules.lead + rules.horizon) / MINUTE + 60 * delay
    known = incidents, coverage, rules, blind_minutes, alarms, actions
    expected = [by_definition(60 * hour, server, *known) for hour, server in keys]
    found = [reason or known for known, reason in zip(frame["label"], frame["reason"], strict=True)]
    assert found == expected
    tally = Counter(expected)
    assert counts == {
        "rows": 48,
        "crash": tally[1],
        "no_crash": tally[0],
        **{f"unknown_{reason}": tally[reason] for reason in Reason},
    }


@hypothesis_settings(deadline=None, max_examples=50)
@given(outages, spans, rules_of, st.lists(st.integers(1, 23), unique=True, max_size=4), warnings, acts)
def test_any_division_into_partitions_gives_the_same_labels(incidents, coverage, rules, borders, alarms, actions):
    rows = frame_of(tables.KEYS, [(hour, server) for hour in range(24) for server in "ab"])
    records, covered = incidents_of(*in_hours(incidents)), frame_of(SPANS, in_hours(coverage))
    operated = {"alarms": in_hours(alarms), "actions": in_hours(actions)}
    pieces = []
    for first, last in pairwise([0, *sorted(borders), 24]):
        own = rows.filter(pl.col("timestamp").is_between(*tables.utc(at(first), at(last)), closed="left"))
        pieces.append(label_rows(own, records, covered, rules, 1, Partition(at(first), at(last), "day"), **operated))
    whole, counts = label_rows(rows, records, covered, rules, 1, **operated)
    assert pl.concat([frame for frame, _ in pieces]).equals(whole)
    assert {name: sum(part[name] for _, part in pieces) for name in counts} == counts


# the stage


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write params.yaml, rows, incidents and coverage; run the stage; return its rows and figures."""
    monkeypatch.chdir(tmp_path)
    params = {
        "telemetry": TELEMETRY.model_dump(mode="json"),
        "label": RULES.model_dump(mode="json"),
        "incidents": {"reporting_delay": "2h", "unresolved_outage": "5h"},
        **{name: DEFAULTS[name] for name in ("split", "acceptance")},
        "execution": {"workers": 1, "memo_gb": 0},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))

    def run(rows, incidents, coverage):
        for day in range(-1, 3):
            partition = tables.partition_at(START + 24 * day * HOUR, "day")
            own = rows.filter(
                pl.col("timestamp").is_between(*tables.utc(partition.start, partition.end), closed="left")
            )
            if own.height:
                tables.write(partition.path(tmp_path / "clean"), own.with_columns(observed=pl.lit(True)))
        tables.write(tmp_path / "incidents.parquet", incidents)
        tables.write(tmp_path / "coverage.parquet", coverage)
        tables.write(tmp_path / "ticket_sources.parquet", pl.DataFrame(schema=tables.TICKET_SOURCES))
        tables.write(tmp_path / "alarms.parquet", pl.DataFrame(schema=tables.ALARMS))
        tables.write(tmp_path / "actions.parquet", actions_of())
        tables.write(tmp_path / "annotations.parquet", pl.DataFrame(schema=ANNOTATIONS))
        records = ("incidents", "coverage", "ticket_sources", "alarms", "actions", "annotations")
        inputs = ("clean", "telemetry", *(f"{name}.parquet" for name in records))
        outputs = ("labels", "believed.parquet", "votes.parquet", "out.json")
        label.main(*(tmp_path / name for name in (*inputs, *outputs)))
        frames = [tables.read(part.path(tmp_path / "labels")) for part in tables.partitions(tmp_path / "labels")]
        return pl.concat(frames), json.loads((tmp_path / "out.json").read_text())

    return run


def tickets(*rows):
    """Lay (server, kind, started, resolved, reported) out as incident records."""
    return frame_of(INCIDENTS, [(str(number), *row, None, None, None) for number, row in enumerate(rows)])


def test_records_are_completed_by_the_rules_of_params(project):
    rows = frame_of(tables.KEYS, [(hour, "a") for hour in range(20, 34)])
    never_closed = tickets(("a", CRASH, 25, None, None))
    found, figures = project(rows, never_closed, frame_of(SPANS, [("a", *ALWAYS)]))
    expected = [0, 1, 1, 1, "lead", *["outage"] * 7, 0, 0]  # 5 hours of outage and 2 of recovery, over midnight
    assert [reason or known for known, reason in zip(found["label"], found["reason"], strict=True)] == expected
    assert figures["unknown_outage"] == 7
    assert figures["known"] == 6
    assert figures["base_rate"] == 0.5


def test_the_blind_end_holds_the_reporting_delay(project):
    rows = frame_of(tables.KEYS, [(hour, "a") for hour in range(6)])
    found, _ = project(rows, tickets(), frame_of(SPANS, [("a", -99, 10)]))
    assert found["reason"].to_list() == [None] * 4 + ["records_end"] * 2  # 10 - 1 - 3 - 2 = 4


def test_when_a_crash_was_reported_changes_no_label(project):
    rows = frame_of(tables.KEYS, [(hour, "a") for hour in range(24)])
    covered = frame_of(SPANS, [("a", *ALWAYS)])
    found = [project(rows, tickets(("a", CRASH, 9, 10, reported)), covered)[0] for reported in (5, 9, 20, None)]
    assert all(frame.equals(found[0]) for frame in found)
    assert found[0]["label"].sum() == 3


def test_a_partition_depends_on_nothing_beyond_its_reach():
    far = ("a", CRASH, 999, 1000), ("a", CRASH, -999, -998)
    near = ("a", CRASH, 9, 10), ("a", CRASH, 27.5, 28), ("a", MAINTENANCE, -2, -1)

    def reach(*rows):
        return label.incidents_that_reach(DAY, incidents_of(*rows), RULES)

    assert reach(*far, *near).equals(reach(*near))
    assert reach(*near).height == 3
    blind = RULES.lead + RULES.horizon
    grown = [label.coverage_that_reaches(DAY, frame_of(SPANS, [("a", -99, end)]), blind) for end in (28, 29, 999)]
    assert grown[0].equals(grown[1])
    assert grown[0].equals(grown[2])


def test_coverage_elsewhere_is_not_handed_to_a_partition():
    spans = [("b", 0, 9), ("a", 5, 9), ("a", 0, 3), ("a", -9, 0), ("a", 28, 30), ("a", -9, -5), ("a", 40, 50)]
    found = label.coverage_that_reaches(DAY, frame_of(SPANS, spans), 4 * HOUR)
    assert found.equals(frame_of(SPANS, [("a", 0, 3), ("a", 5, 9), ("b", 0, 9)]))  # in one order, whatever theirs
    assert label.coverage_that_reaches(DAY, frame_of(SPANS, spans[::-1]), 4 * HOUR).equals(found)


@pytest.fixture
def unlabelled(tmp_path):
    """Write two days of hourly rows of a, from the third hour, without a known label."""
    rows = frame_of(tables.KEYS | {"reason": pl.String}, [(hour, "a", "lead") for hour in range(3, 48)])
    rows = rows.with_columns(
        reason=pl.when(rows["timestamp"].dt.hour().is_in([4, 22])).then(pl.lit("outage")).otherwise("reason")
    )
    for day in (0, 1):
        partition = tables.partition_at(START + 24 * day * HOUR, "day")
        own = rows.filter(pl.col("timestamp").is_between(*tables.utc(partition.start, partition.end), closed="left"))
        tables.write(partition.path(tmp_path / "labels"), own)
    return tmp_path / "labels"


@pytest.mark.parametrize(
    ("crashes", "said"),
    [
        pytest.param([], None, id="no crash"),
        pytest.param([("a", 4)], None, id="a crash with the first row's lead"),
        pytest.param([("b", 20)], None, id="a crash of a server without rows"),
        pytest.param([("a", 4.5)], "1; 1 row before them unknown (lead)", id="one row is in time"),
        pytest.param(
            [("a", 5.5)], "1; 1 row before them unknown (lead): |; 1 row before them unknown (outage): ", id="by name"
        ),
        # in time for a crash at 25.5 are the rows at 22, 23 and 24: in both days
        pytest.param(
            [("a", 25.5), ("a", 4)],
            "1; 2 rows before them unknown (lead): |1 row before them unknown (outage)",
            id="two days",
        ),
        pytest.param([("a", 12), ("a", 4.5)], "2; 4 rows before them unknown (lead)", id="two crashes"),
        pytest.param([("a", 99)], "1; 1 without a row from 4h to 1h before them", id="after the last row"),
        pytest.param([("a", 99), ("a", 12)], "2; 3 rows before them unknown (lead)|; 1 without a row", id="one of two"),
    ],
)
def test_crashes_without_a_row_are_told_by_the_reason_of_the_rows_before(unlabelled, crashes, said):
    found = frame_of({"server_id": pl.String, "started_at": TIMESTAMP}, crashes)
    if said is None:
        label.check_that_crashes_show(unlabelled, found, RULES)
        return
    with pytest.raises(UserError) as error:
        label.check_that_crashes_show(unlabelled, found, RULES)
    assert str(error.value).startswith("no row is labelled 1, but crashes are known: " + said.split("|")[0])
    for part in said.split("|"):
        assert part in str(error.value)


def test_incident_rules_are_read_as_documented(tmp_path):
    tables.write(tmp_path / "i.parquet", tickets(("a", CRASH, 5, None, None), ("a", CRASH, 3, 4, 9)))
    rules = Incidents(reporting_delay="2h", unresolved_outage="5h")
    found = read_incidents(tmp_path / "i.parquet", rules).select("started_at", "resolved_at", "reported_at")
    assert found.equals(frame_of(dict.fromkeys(found.columns, TIMESTAMP), [(3, 4, 9), (5, 10, 7)]))


def test_before_training_it_says_how_many_groups_of_crashes_a_review_would_judge(project, capsys):
    """Of rows from 0 to 71 o'clock, labels are known to 61: the last 9 hours begin at 52."""
    rows, crash = frame_of(tables.KEYS, [(hour, "a") for hour in range(72)]), ("a", CRASH, 55, 56, 56)
    project(rows, tickets(crash, ("a", CRASH, 20, 21, 21)), frame_of(SPANS, [("a", -999, 71)]))
    told = "label: the test part, the last 0 days, holds 1 group of crashes on 1 server, but a verdict needs 40 groups"
    assert told in capsys.readouterr().err


def test_the_groups_are_counted_up_to_the_last_known_label_wherever_it_is(project, capsys):
    """Of the last day no label is known, as with checks once a week: the last 15 % of 24 hours begin at 20.4."""
    rows = frame_of(tables.KEYS, [(hour, "a") for hour in (0, 18, 24, 48)])
    project(rows, tickets(("a", CRASH, 21, 21.25, 21)), frame_of(SPANS, [("a", -999, 50)]))
    assert "label: the test part, the last 0 days, holds 1 group of crashes on 1 server" in capsys.readouterr().err


def test_a_horizon_shorter_than_the_cadence_is_told(capsys):
    label.tell_rare_rows(HOUR, HOUR)
    assert capsys.readouterr().err == ""
    label.tell_rare_rows(6 * HOUR, 168 * HOUR)
    told = (
        "label: label.horizon (6h) is shorter than telemetry.interval (7d): about 96% of crashes are within the horizon"
    )
    assert capsys.readouterr().err.startswith(told)
