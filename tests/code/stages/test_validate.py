"""Every expectation fails on a frame made to violate it and no other, and all pass on the good one."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from crashcast import files, tables
from crashcast.errors import UserError
from crashcast.expectations import CRITICAL, WARNING, failures, judge, render
from crashcast.params.telemetry import Metric, Telemetry
from crashcast.params.validate import Validate
from crashcast.tables import ACTIONS, ALARMS, COVERAGE, INCIDENTS, TIMESTAMP
from stages import validate

# Great Expectations' way with pandas
pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning an ndarray")

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MONDAY = tables.partition_at(START, "day")
CADENCE = Telemetry.model_validate(
    {
        "interval": "1h",
        "partition": "day",
        "metrics": {"cpu_pct": {"min": 0, "max": 100}, "latency_ms": {"min": 0, "max": 60_000}},
    }
)
LIMITS = Validate.model_validate(
    {
        "max_duplicate_share": 0.4,
        "max_out_of_range_share": 0.4,
        "max_missing_share": 0.4,
        "max_volume_change": 0.5,
        "max_overlapping_incident_share": 0.4,
        "max_outage": "30d",
    }
)
FLEET = pl.Series(["a", "b"])


def samples(*rows, latency_ms=200.0):
    """Lay (hour, server, cpu_pct) out as telemetry; hours count from Monday's first."""
    return pl.DataFrame(
        {
            "timestamp": [None if hour is None else START + hour * HOUR for hour, _, _ in rows],
            "server_id": [server for _, server, _ in rows],
            "cpu_pct": [cpu for _, _, cpu in rows],
            "latency_ms": [latency_ms] * len(rows),
        },
        schema={"timestamp": TIMESTAMP, "server_id": pl.String, "cpu_pct": pl.Float32, "latency_ms": pl.Float32},
    )


GOOD = [(0, "a", 10), (0, "b", 20), (1, "a", 11), (1, "b", 21), (2, "a", 12), (2, "b", 22)]


def changed(index, row):
    return samples(*GOOD[:index], row, *GOOD[index + 1 :])


def telemetry_outcomes(rows, fleet=FLEET):
    findings = validate.check_partition(MONDAY, rows, CADENCE, LIMITS, judge)
    return findings.outcomes + ([] if fleet is None else judge(validate.fleet_batch([findings], fleet)))


def failed(outcomes):
    return [outcome for outcome in outcomes if not outcome["success"]]


def only_failure(outcomes):
    (outcome,) = failed(outcomes)
    return outcome


def test_good_telemetry_passes_and_says_what_it_holds():
    findings = validate.check_partition(MONDAY, samples(*GOOD), CADENCE, LIMITS, judge)
    assert not failed(findings.outcomes)
    assert findings.rows == 6
    assert findings.servers.rows() == [("a", START, START + 2 * HOUR), ("b", START, START + 2 * HOUR)]
    assert {outcome["partition"] for outcome in findings.outcomes} == {"day=2026-01-05"}


@pytest.mark.parametrize(
    ("rows", "description", "failing", "example"),
    [
        pytest.param(samples(), "there are rows", 1, "found 0", id="empty"),
        pytest.param(changed(5, (None, "b", 22)), "timestamp is there", 1, "missing b", id="no timestamp"),
        pytest.param(
            changed(5, (2, None, 22)), "server_id is there", 1, "2026-01-05T02:00:00Z missing", id="no server"
        ),
        pytest.param(
            changed(5, (24, "b", 22)), "timestamp lies in the partition", 1, "2026-01-06T00:00:00Z b", id="next day"
        ),
        pytest.param(
            samples((-1, "b", 20), *GOOD),
            "timestamp lies in the partition",
            1,
            "2026-01-04T23:00:00Z b",
            id="day before",
        ),
        pytest.param(
            samples(GOOD[1], GOOD[0], *GOOD[2:]),
            "rows are sorted by timestamp, server_id",
            1,
            "2026-01-05T00:00:00Z a",
            id="servers out of order",
        ),
        pytest.param(
            samples(*GOOD[:4], GOOD[0]),
            "rows are sorted by timestamp, server_id",
            1,
            "2026-01-05T00:00:00Z a",
            id="times out of order",
        ),
        pytest.param(
            samples(GOOD[0], GOOD[0], GOOD[1], *GOOD[1:3]),
            "timestamp and server_id are unique in 60% of rows",
            4,
            "2026-01-05T00:00:00Z a",
            id="duplicates",
        ),
        pytest.param(
            samples(*((2 * hour, *row) for hour, *row in GOOD)),
            "most samples of a server are at most 5400 s apart",
            4,
            "2026-01-05T02:00:00Z a spacing_s=7200",
            id="twice the interval apart",
        ),
        pytest.param(
            changed(2, (1, "a", math.inf)),
            "metrics are finite",
            1,
            "2026-01-05T01:00:00Z a infinite_metric=cpu_pct",
            id="infinite",
        ),
        pytest.param(
            changed(3, (1, "c", 21)),
            "server_id is one that coverage knows",
            1,
            "2026-01-05T01:00:00Z c",
            id="unknown server",
        ),
        pytest.param(
            samples(*GOOD[:3], (1, "b", None), (2, "a", math.nan), (2, "b", None)),
            "cpu_pct is there in 60% of rows",
            3,
            "2026-01-05T01:00:00Z b cpu_pct=missing",
            id="missing",
        ),
        pytest.param(
            samples(*GOOD[:3], (1, "b", -1), (2, "a", 101), (2, "b", 400)),
            "cpu_pct is in [0, 100] in 60% of rows",
            3,
            "2026-01-05T01:00:00Z b cpu_pct=-1",
            id="out of range",
        ),
    ],
)
def test_each_violation_of_telemetry_fails_one_expectation(rows, description, failing, example):
    outcome = only_failure(telemetry_outcomes(rows))
    assert outcome["description"] == description
    assert outcome["severity"] == "critical"
    assert (outcome["failing"], outcome["examples"][0]) == (failing, example)


@pytest.mark.parametrize(
    ("rows", "description", "example"),
    [
        pytest.param(
            samples(*GOOD).drop("cpu_pct"), "the columns are the expected ones", "missing: cpu_pct", id="missing"
        ),
        pytest.param(
            samples(*GOOD).with_columns(gpu_pct=1.0),
            "the columns are the expected ones",
            "unexpected: gpu_pct",
            id="unknown",
        ),
        pytest.param(
            samples(*GOOD).cast({"timestamp": pl.Datetime("ms", "UTC")}),
            "timestamp is datetime64[us, UTC]",
            "found datetime64[ms, UTC]",
            id="milliseconds",
        ),
        pytest.param(
            samples(*GOOD).with_columns(pl.col("timestamp").dt.replace_time_zone(None)),
            "timestamp is datetime64[us, UTC]",
            "found datetime64[us]",
            id="no time zone",
        ),
        pytest.param(
            samples(*GOOD).with_columns(server_id=pl.lit(7)), "server_id is str", "found int32", id="numeric server"
        ),
        pytest.param(
            samples(*GOOD).cast({"cpu_pct": pl.String}), "cpu_pct is float32 or float64", "found str", id="text"
        ),
        pytest.param(
            samples(*GOOD).cast({"cpu_pct": pl.Int64}),
            "cpu_pct is float32 or float64",
            "found int64",
            id="whole numbers",
        ),
    ],
)
def test_wrong_columns_fail_alone(rows, description, example):
    """What the rows hold is not asked where the columns are wrong."""
    outcome = only_failure(telemetry_outcomes(rows))
    assert (outcome["description"], outcome["examples"]) == (description, [example])


def test_a_file_that_cannot_be_read_is_an_outcome():
    assert only_failure(telemetry_outcomes(None))["description"] == "the file is readable Parquet"


def test_dirt_within_the_tolerance_is_counted_and_borne():
    rows = samples(GOOD[0], *GOOD[:4], (2, "a", 101), (2, "b", None))
    outcomes = telemetry_outcomes(rows)
    assert not failed(outcomes)
    counted = {outcome["figure"]: outcome for outcome in outcomes if outcome["failing"] and "figure" in outcome}
    assert {figure: outcome["failing"] for figure, outcome in counted.items()} == {
        "duplicate_rows": 2,
        "missing_values": 1,
        "out_of_range_values": 1,
    }
    assert counted["out_of_range_values"]["examples"] == ["2026-01-05T02:00:00Z a cpu_pct=101"]


def test_only_stated_limits_are_expected():
    kinds = {
        limits: [item.description for item in validate.metric_expectations("x", Metric(**dict(limits)), LIMITS)[1:]]
        for limits in ((), (("min", 0),), (("max", 5),))
    }
    assert kinds[()] == []
    assert "x is at least 0 in" in kinds[(("min", 0),)][0]
    assert "x is at most 5 in" in kinds[(("max", 5),)][0]


def test_without_coverage_nobody_is_unknown():
    assert not failed(telemetry_outcomes(changed(3, (1, "c", 21)), fleet=None))


cells = st.tuples(
    st.integers(0, 5),
    st.sampled_from("abc"),
    st.sampled_from([None, math.nan, math.inf, -5.0, 0.0, 50.0, 100.0, 101.0]),
)


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(cells, min_size=1, max_size=12))
def test_counts_are_those_of_plain_python(rows):
    found = {outcome["description"]: outcome["failing"] for outcome in telemetry_outcomes(samples(*rows))}
    keys = [(hour, server) for hour, server, _ in rows]
    values = [value for _, _, value in rows]
    known = [value for value in values if value is not None and not math.isnan(value)]
    assert found["timestamp and server_id are unique in 60% of rows"] == sum(keys.count(key) > 1 for key in keys)
    assert found["server_id is one that coverage knows"] == any(server == "c" for _, server in keys)
    assert found["rows are sorted by timestamp, server_id"] == sum(later < earlier for earlier, later in pairwise(keys))
    assert found["cpu_pct is there in 60% of rows"] == len(values) - len(known)
    assert found["cpu_pct is in [0, 100] in 60% of rows"] == sum(not 0 <= value <= 100 for value in known)
    assert found["metrics are finite"] == known.count(math.inf)


def incidents(*rows):
    """Lay (id, server, kind, hours of start, end and report) out as incidents; hours count from Monday's first."""
    moment = {name: [None if row[i] is None else START + row[i] * HOUR for row in rows] for i, name in MOMENTS}
    named = {name: [row[i] for row in rows] for i, name in enumerate(("incident_id", "server_id", "kind"))}
    return pl.DataFrame(
        named | moment | dict.fromkeys(("severity", "source", "summary"), [None] * len(rows)), schema=INCIDENTS
    )


MOMENTS = list(enumerate(("started_at", "resolved_at", "reported_at"), start=3))
TICKETS = [
    ("I-1", "a", "crash", 1, 3, 2),
    ("I-2", "a", "maintenance", 2, 4, 2),
    ("I-3", "b", "crash", 5, None, None),
    ("I-4", "a", "crash", 6, 6, 6),
]


def incident_outcomes(rows, fleet=FLEET):
    (batch,) = validate.incident_batches(rows, LIMITS, fleet, MONDAY)
    return judge(batch)


def test_good_incidents_pass():
    assert not failed(incident_outcomes(incidents(*TICKETS)))


@pytest.mark.parametrize(
    ("rows", "description", "severity", "failing", "example"),
    [
        pytest.param([], "there are incidents", "critical", 1, "found 0", id="none"),
        pytest.param(
            [*TICKETS, (None, "b", "crash", 8, 9, 9)], "incident_id is there", "critical", 1, "missing b", id="no id"
        ),
        pytest.param(
            [*TICKETS, ("I-1", "b", "crash", 8, 9, 9)], "incident_id is unique", "critical", 2, "I-1 a", id="id twice"
        ),
        pytest.param(
            [*TICKETS, ("I-9", None, "crash", 8, 9, 9)],
            "server_id is there",
            "critical",
            1,
            "I-9 missing",
            id="no server",
        ),
        pytest.param(
            [*TICKETS, ("I-9", "b", None, 8, 9, 9)], "kind is there", "critical", 1, "I-9 b kind=missing", id="no kind"
        ),
        pytest.param(
            [*TICKETS, ("I-9", "b", "drill", 8, 9, 9)],
            "kind is crash or maintenance",
            "critical",
            1,
            "I-9 b kind=drill",
            id="unknown kind",
        ),
        pytest.param(
            [*TICKETS, ("I-9", "b", "crash", None, 9, 9)],
            "started_at is there",
            "critical",
            1,
            "I-9 b started_at=missing",
            id="no start",
        ),
        pytest.param(
            [*TICKETS, ("I-9", "b", "crash", 9, 8, 9)],
            "resolved_at is not before started_at",
            "critical",
            1,
            "I-9 b started_at=2026-01-05T09:00:00Z resolved_at=2026-01-05T08:00:00Z",
            id="negative outage",
        ),
        pytest.param(
            [("I-1", "a", "crash", 1, 9, 1), ("I-2", "a", "crash", 2, 3, 2), ("I-3", "a", "crash", 4, 5, 4)],
            "60% of incidents begin after the server's last of their kind ended",
            "critical",
            2,
            "I-2 a",
            id="overlaps",
        ),
        pytest.param(
            [*TICKETS, ("I-9", "b", "crash", 9, 10, 8)],
            "reported_at is not before started_at",
            "warning",
            1,
            "I-9 b started_at=2026-01-05T09:00:00Z reported_at=2026-01-05T08:00:00Z",
            id="known before",
        ),
        pytest.param(
            [*TICKETS, ("I-9", "b", "crash", 9, 9 + 31 * 24, 9)],
            "outages last at most 30d",
            "warning",
            1,
            "I-9 b outage_h=744",
            id="forgotten ticket",
        ),
        pytest.param(
            [*TICKETS, ("I-9", "b", "crash", 48, 49, 49)],
            "started_at lies before 2026-01-07: a partition after the end of telemetry",
            "warning",
            1,
            "I-9 b started_at=2026-01-07T00:00:00Z",
            id="future",
        ),
        pytest.param(
            [*TICKETS, ("I-9", "z", "crash", 9, 10, 10)],
            "server_id is one that coverage knows",
            "warning",
            1,
            "I-9 z",
            id="wrong host",
        ),
    ],
)
def test_each_violation_of_incidents_fails_one_expectation(rows, description, severity, failing, example):
    outcome = only_failure(incident_outcomes(incidents(*rows)))
    assert (outcome["description"], outcome["severity"]) == (description, severity)
    assert (outcome["failing"], outcome["examples"][0]) == (failing, example)


def test_incidents_that_mostly_name_unknown_servers_are_refused():
    outcomes = incident_outcomes(incidents(*TICKETS), pl.Series(["a.example.com", "b"]))
    assert [outcome["description"] for outcome in failures(outcomes, CRITICAL)] == [
        "most incidents are on servers that coverage knows"
    ]


def test_an_unresolved_incident_overlaps_nothing():
    """How long it lasted is for `incidents.unresolved_outage` to say."""
    rows = incidents(*[(f"I-{hour}", "a", "crash", hour, None, None) for hour in range(5)])
    assert not failed(incident_outcomes(rows))


def coverage(*rows):
    """Lay (server, day from, day to, group) out as coverage; days count from Monday."""
    keyed = [
        (server, START + since * DAY, None if until is None else START + until * DAY, group)
        for server, since, until, group in rows
    ]
    return pl.DataFrame(keyed, schema=COVERAGE, orient="row")


def ticket_sources(*rows):
    """Lay (source, day from, day to) out as the periods of ticket systems."""
    return coverage(*((*row, None) for row in rows)).rename({"server_id": "source"}).drop("group")


@pytest.mark.parametrize(
    ("rows", "description"),
    [
        ([], None),
        ([("a", 0, 2), ("a", 2, 3), ("b", 1, 4)], None),
        ([(None, 0, 2)], "source is there"),
        ([("a", 0, None)], "covered_to is there"),
        ([("a", 2, 1)], "covered_to is after covered_from"),
        ([("a", 0, 2), ("a", 1, 3)], "the periods of a source do not overlap"),
    ],
)
def test_the_periods_of_ticket_systems(rows, description):
    (batch,) = validate.ticket_source_batches(ticket_sources(*rows))
    assert [outcome["description"] for outcome in failed(judge(batch))] == ([description] if description else [])


def laid_out(schema, *rows):
    """Lay rows out as a table; its times are hours from Monday's first."""
    told = [
        [START + value * HOUR if kind == TIMESTAMP and value is not None else value for value, kind in pairs]
        for pairs in (zip(row, schema.values(), strict=True) for row in rows)
    ]
    return pl.DataFrame(told, schema=schema, orient="row")


def alarms(*rows):
    """Lay (server, timestamp, opened at, ends at) out as alarms."""
    return laid_out(ALARMS, *((*row, 0.9, 0.5, "v1", True) for row in rows))


def actions(*rows):
    """Lay (server, what, at, source, reported at) out as actions."""
    return laid_out(ACTIONS, *((server, what, at, None, *rest) for server, what, at, *rest in rows))


@pytest.mark.parametrize(
    ("rows", "description", "severity"),
    [
        ([], None, None),
        ([("a", 1, 1, 8), ("b", 1, 1, 8), ("a", 7, 1, 14)], None, None),
        ([("a", None, 1, 8)], "timestamp is there", CRITICAL),
        ([("a", 1, 1, 8), ("a", 1, 1, 9)], "timestamp and server_id are unique", CRITICAL),
        ([("a", 1, 2, 8)], "timestamp is not before opened_at", CRITICAL),
        ([("a", 1, 1, 1)], "ends_at is after timestamp", CRITICAL),
        ([("z", 1, 1, 8)], "server_id is one that coverage knows", WARNING),
    ],
)
def test_alarms(rows, description, severity):
    (batch,) = validate.alarm_batches(alarms(*rows), FLEET)
    found = [(outcome["description"], outcome["severity"]) for outcome in failed(judge(batch))]
    assert found == ([(description, severity)] if description else [])


@pytest.mark.parametrize(
    ("rows", "description", "severity"),
    [
        ([], None, None),
        ([("a", "restart", 3, "cli", 4), ("a", "drain", 3, "cli", 4), ("a", "restart", 3, "api", 4)], None, None),
        ([("a", "restart", None, "cli", 4)], "at is there", CRITICAL),
        ([("a", None, 3, "cli", 4)], "what is there", CRITICAL),
        ([("a", "restart", 3, "cli", 4), ("a", "restart", 3, "cli", 5)],
         "at, server_id, what and source are unique", CRITICAL),
        ([("a", "restart", 3, "cli", 2)], "reported_at is not before at", WARNING),
        ([("z", "restart", 3, "cli", 4)], "server_id is one that coverage knows", WARNING),
    ],
)  # fmt: skip
def test_actions(rows, description, severity):
    (batch,) = validate.action_batches(actions(*rows), FLEET)
    found = [(outcome["description"], outcome["severity"]) for outcome in failed(judge(batch))]
    assert found == ([(description, severity)] if description else [])


def test_without_coverage_nobody_knows_of_which_servers_actions_are():
    (batch,) = validate.action_batches(actions(("z", "restart", 3, "cli", 4)), None)
    assert not failed(judge(batch))


def coverage_outcomes(rows):
    (batch,) = validate.coverage_batches(rows)
    return judge(batch)


def test_good_coverage_passes():
    assert not failed(coverage_outcomes(coverage(("a", 0, 2, "web"), ("a", 2, 3, "web"), ("b", 0, 1, None))))


@pytest.mark.parametrize(
    ("rows", "description", "example"),
    [
        pytest.param([], "there are covered servers", "found 0", id="none"),
        pytest.param([(None, 0, 1, None)], "server_id is there", "missing 2026-01-05T00:00:00Z", id="no server"),
        pytest.param(
            [("a", 0, None, None)], "covered_to is there", "a 2026-01-05T00:00:00Z covered_to=missing", id="no end"
        ),
        pytest.param(
            [("a", 2, 1, None)],
            "covered_to is after covered_from",
            "a 2026-01-07T00:00:00Z covered_to=2026-01-06T00:00:00Z",
            id="reversed",
        ),
        pytest.param(
            [("a", 0, 2, None), ("a", 1, 3, None)],
            "the periods of a server do not overlap",
            "a 2026-01-06T00:00:00Z",
            id="overlap",
        ),
        pytest.param(
            [("a", 0, 1, "web"), ("a", 1, 2, "db")],
            "a server has one group",
            "a 2026-01-05T00:00:00Z groups=2",
            id="groups",
        ),
    ],
)
def test_each_violation_of_coverage_fails_one_expectation(rows, description, example):
    outcome = only_failure(coverage_outcomes(coverage(*rows)))
    assert (outcome["description"], outcome["severity"]) == (description, "critical")
    assert outcome["examples"][0] == example


def findings_of(days):
    """One finding a day from Monday on, of {server: rows}: None is an unreadable file, {} no file."""
    found = []
    for number, fleet in enumerate(days):
        partition = tables.partition_at(START + number * DAY, "day")
        if fleet is None:
            found.append(validate.Findings(partition, []))
        elif fleet:
            first = START + number * DAY
            seen = [(server, first, first + 23 * HOUR) for server in fleet]
            schema = {"server_id": pl.String, "first": TIMESTAMP, "last": TIMESTAMP}
            frame = pl.DataFrame(seen, schema=schema, orient="row")
            found.append(validate.Findings(partition, [], sum(fleet.values()), frame))
    return found


def volume_outcomes(days, covered=None):
    return [
        outcome
        for batch in validate.volume_batches(findings_of(days), covered, CADENCE.interval, LIMITS)
        for outcome in judge(batch)
    ]


def test_a_day_with_few_rows_is_refused_and_does_not_condemn_its_neighbours():
    outcome = only_failure(volume_outcomes([{"a": 24}, {"a": 24}, {"a": 6}, {"a": 24}, {"a": 24}]))
    assert outcome["severity"] == "critical"
    assert outcome["examples"] == ["day=2026-01-07 6 volume_change=-0.75"]


def test_a_day_without_a_file_has_no_rows():
    outcome = only_failure(volume_outcomes([{"a": 24}, {}, {"a": 24}]))
    assert outcome["examples"] == ["day=2026-01-06 0 volume_change=-1"]


def test_a_day_with_many_rows_is_a_warning():
    outcome = only_failure(volume_outcomes([{"a": 24}, {"a": 48}, {"a": 24}]))
    assert (outcome["severity"], outcome["failing"]) == ("warning", 1)


def test_a_server_that_falls_silent_for_a_day_counts():
    """Of ten servers six send nothing on Tuesday, and all are back on Wednesday."""
    whole, few = {str(server): 24 for server in range(10)}, {str(server): 24 for server in range(4)}
    assert only_failure(volume_outcomes([whole, few, whole]))["examples"] == ["day=2026-01-06 9.6 volume_change=-0.6"]


def test_a_fleet_may_grow_and_shrink():
    small, large = {"a": 24}, {str(server): 24 for server in range(10)} | {"a": 24}
    assert not failed(volume_outcomes([small, small, large, large, small]))


def test_covered_servers_that_are_gone_on_the_last_day_count():
    whole, few = {"a": 24, "b": 24, "c": 24}, {"a": 24}
    assert not failed(volume_outcomes([whole, whole, few]))
    still_there = coverage(*[(server, 0, 3, None) for server in "abc"])
    outcome = only_failure(volume_outcomes([whole, whole, few], still_there))
    assert outcome["examples"] == ["day=2026-01-07 8 volume_change=-0.666667"]


def test_retired_servers_do_not_count_if_coverage_ends_with_the_fleets_last_sample():
    """An import assumes such coverage, for servers that were retired long before too."""
    whole, few = {"a": 24, "b": 24, "c": 24}, {"a": 24}
    days = [whole, whole, few, few]
    last = pl.concat(finding.servers for finding in findings_of(days))["last"].max()
    assumed = coverage(*[(server, 0, 4, None) for server in "abc"]).with_columns(
        covered_to=pl.lit(last, tables.TIMESTAMP)
    )
    assert not failed(volume_outcomes(days, assumed))


def test_an_unreadable_day_is_not_judged_by_volume():
    assert not failed(volume_outcomes([{"a": 24}, None, {"a": 24}]))


def test_a_single_day_has_no_neighbours():
    assert not failed(volume_outcomes([{"a": 1}]))
    assert not volume_outcomes([None])


stays = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(sorted)


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from("abcde"), stays, min_size=1))
def test_however_servers_come_and_go_an_even_cadence_is_an_even_volume(fleet):
    days = [{server: 24 for server, (first, last) in fleet.items() if first <= day <= last} for day in range(6)]
    (batch,) = validate.volume_batches(findings_of(days), None, CADENCE.interval, LIMITS)
    assert batch.rows["volume_change"].to_list() == [0] * sum(map(bool, days))


def test_the_table_names_expectation_partition_count_and_keys(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    drawn = " ".join(render(failed(telemetry_outcomes(changed(3, (1, "c", 21))))).split())
    assert drawn.endswith("telemetry server_id is one that coverage knows 1 of 3 2026-01-05T01:00:00Z c")


def test_the_table_shows_brackets_as_they_are(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    rows = samples(*GOOD).cast({"timestamp": pl.Datetime("ms", "UTC")})
    assert "timestamp is datetime64[us, UTC]" in render(failed(telemetry_outcomes(rows)))


def test_the_table_fits_a_screen_however_much_fails(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    one = only_failure(telemetry_outcomes(changed(3, (1, "c", 21))))
    same = [one | {"partition": f"day=2026-01-{day:02}"} for day in range(5, 31)]
    others = [one | {"description": f"expectation {number}"} for number in range(30)]
    drawn = render(same + others)
    assert "day=2026-01-05" in drawn
    assert "26 of 78" in drawn
    assert drawn.endswith("and 23 more expectations")
    assert len(drawn.splitlines()) <= 40
    assert max(map(len, drawn.splitlines())) <= 80


def test_warnings_and_critical_failures_are_told_apart():
    outcomes = incident_outcomes(incidents(*TICKETS, ("I-9", "z", "drill", 9, 8, 9)))
    assert len(failures(outcomes, CRITICAL)) == 2
    assert len(failures(outcomes, WARNING)) == 1
    assert json.dumps(outcomes)  # plain values only


class Project:
    """A folder with three days of two servers, their files accepted in git."""

    def __init__(self, root):
        self.root = root
        self.parameters = {
            "telemetry": CADENCE.model_dump(mode="json"),
            "validate": LIMITS.model_dump(mode="json"),
            "execution": {"workers": 1, "memo_gb": 1},
        }
        hours = [range(24 * day, 24 * day + 24) for day in range(3)]
        self.days = [samples(*((hour, server, 10) for hour in day for server in "ab")) for day in hours]
        self.tables = {
            "incidents": incidents(*TICKETS),
            "coverage": coverage(("a", 0, 3, "web"), ("b", 0, 3, None)),
            "ticket_sources": ticket_sources(("pager", 0, 2), ("pager", 2, 3), ("phone", 1, 3)),
            "alarms": alarms(("a", 1, 1, 8)),
            "actions": actions(("a", "restart", 2, "cli", 3)),
        }
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
        self.write()

    def write(self):
        """Write everything, and stage what `dvc add` would."""
        (self.root / "params.yaml").write_text(yaml.safe_dump(self.parameters))
        for number, rows in enumerate(self.days):
            partition = tables.partition_at(START + number * DAY, "day")
            tables.write(partition.path(TELEMETRY), rows)
        for name, rows in self.tables.items():
            tables.write(RAW / f"{name}.parquet", rows)
        self.accept()

    def accept(self):
        for path in (TELEMETRY, *FILES):
            pointer = {"outs": [{"md5": files.md5(path), "hash": "md5", "path": path.name}]}
            Path(f"{path}.dvc").write_text(yaml.safe_dump(pointer))
        subprocess.run(["git", "add", "--all"], cwd=self.root, check=True)

    def validate(self):
        validate.main(TELEMETRY, *FILES, RESULT, METRICS)


RAW = Path("raw")
TELEMETRY = RAW / "telemetry"
FILES = [RAW / f"{name}.parquet" for name in ("incidents", "coverage", "ticket_sources", "alarms", "actions")]
RESULT, METRICS = Path("validated.json"), Path("metrics.json")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # a table without line breaks
    return Project(tmp_path)


def test_good_data_passes_with_the_same_bytes_on_every_run(project, capsys):
    project.validate()
    before = RESULT.read_bytes(), METRICS.read_bytes()
    project.validate()
    assert (RESULT.read_bytes(), METRICS.read_bytes()) == before
    assert "144 rows in 3 partitions, nothing critical" in capsys.readouterr().err
    assert json.loads(RESULT.read_text())["success"] is True
    assert json.loads(METRICS.read_text()) == {
        "actions": 1,
        "actions_on_unknown_servers": 0,
        "crashes": 3,
        "critical_failures": 0,
        "duplicate_rows": 0,
        "incidents": 4,
        "incidents_on_unknown_servers": 0,
        "missing_values": 0,
        "out_of_range_values": 0,
        "overlapping_incidents": 0,
        "partitions": 3,
        "rows": 144,
        "servers": 2,
        "warnings": 0,
    }


def test_a_refusal_is_recorded_before_it_is_raised(project):
    project.days[1] = project.days[1].with_columns(server_id=pl.lit("c"))
    project.write()
    with pytest.raises(UserError) as refusal:
        project.validate()
    for part in ("server_id is one that coverage knows", "day=2026-01-06", "48 of 48", "2026-01-06T00:00:00Z c"):
        assert part in str(refusal.value)
    result = json.loads(RESULT.read_text())
    assert result["success"] is False
    assert result["figures"] == json.loads(METRICS.read_text())
    assert result["figures"]["critical_failures"] == len(failed(result["outcomes"]))
    before = RESULT.read_bytes()
    with pytest.raises(UserError) as again:
        project.validate()
    assert str(again.value) == str(refusal.value)
    assert RESULT.read_bytes() == before


def test_a_warning_is_recorded_shown_and_refuses_nothing(project, capsys):
    project.tables["incidents"] = incidents(*TICKETS, ("I-9", "z", "crash", 9, 10, 10))
    project.write()
    project.validate()
    assert json.loads(METRICS.read_text())["warnings"] == 1
    shown = capsys.readouterr().err
    assert "1 warning, recorded in validated.json" in shown
    assert "I-9 z" in shown


def test_the_result_names_neither_machine_nor_moment(project):
    project.validate()
    text = RESULT.read_text()
    assert str(project.root) not in text
    assert f"{datetime.now(UTC):%Y-%m-%d}" not in text


def cut_short(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("name", ["telemetry/day=2026-01-06/part-0.parquet", *(path.name for path in FILES)])
def test_a_truncated_file_is_a_canonical_refusal(project, name):
    cut_short(RAW / name)
    project.accept()
    with pytest.raises(UserError, match="the file is readable Parquet"):
        project.validate()
    outcome = only_failure(json.loads(RESULT.read_text())["outcomes"])
    assert outcome["description"] == "the file is readable Parquet"
    assert outcome["partition"] == ("day=2026-01-06" if "day" in name else "")


def leave_nothing(_):
    shutil.rmtree(TELEMETRY)
    TELEMETRY.mkdir()


def add_a_stray_file(_):
    (TELEMETRY / "notes.txt").write_text("")


def misspell(project):
    project.parameters["validate"]["max_duplicates_share"] = project.parameters["validate"].pop("max_duplicate_share")
    project.write()


def leave_the_range(project):
    project.parameters["validate"]["max_missing_share"] = 1.5
    project.write()


def edit_unaccepted(_):
    tables.write(FILES[0], incidents(*TICKETS[:2]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (leave_nothing, "raw/telemetry holds no partitions"),
        (add_a_stray_file, "raw/telemetry/notes.txt is not a partition"),
        (misspell, "validate.max_duplicates_share: unknown key; did you mean 'max_duplicate_share'"),
        (leave_the_range, r"validate.max_missing_share: .* \(got 1.5\)"),
        (edit_unaccepted, "raw/incidents.parquet is not the data that git knows"),
    ],
)
def test_what_cannot_be_judged_leaves_earlier_results_as_they_were(project, spoil, message):
    project.validate()
    before = RESULT.read_bytes(), METRICS.read_bytes()
    spoil(project)
    if spoil in (leave_nothing, add_a_stray_file):
        project.accept()
    with pytest.raises(UserError, match=message):
        project.validate()
    assert (RESULT.read_bytes(), METRICS.read_bytes()) == before


def test_data_docs_are_built_for_refused_data_too(project):
    from crashcast import data_docs

    project.days[1] = project.days[1].with_columns(server_id=pl.lit("c"))
    project.write()
    first = data_docs.build(TELEMETRY, *FILES, out=project.root / "docs")
    pages = {page.name: page.read_text() for page in first.parent.glob("validations/**/*.html")}
    assert len([name for name in pages if "keys" in name]) == 3
    failing = [name.split()[1] for name, page in sorted(pages.items()) if "Failed" in _status(page)]
    assert failing == ["day=2026-01-06", "servers-telemetry.html"]
    assert all("server_id is one that coverage knows" in page for name, page in pages.items() if "servers" in name)


def _status(page):
    return page.split("Status:")[1][:200]
