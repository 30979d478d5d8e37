"""From raw samples to features: whatever comes after a moment, no row at or before it changes."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from crashcast import tables
from crashcast.params.clean import Clean
from crashcast.params.features import Features
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH, TIMESTAMP
from stages import clean, featurize

START = datetime(2025, 3, 3)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DAYS = [tables.partition_at(START + 24 * day * HOUR, "day") for day in range(2)]
TELEMETRY = Telemetry.model_validate(
    {
        "interval": "1h",
        "partition": "day",
        "metrics": {
            "cpu_pct": {"min": 0, "max": 100, "can_stick": True},
            "latency_ms": {"min": 0, "max": 500, "aggregate": "max"},
            "errors": {"min": 0, "max": 9, "aggregate": "sum"},
        },
    }
)
CLEAN = Clean(fill_limit="2h", stuck_after="3h")
FEATURES = Features(
    columns="all",
    interactions={"cpu_latency_combo": ("cpu_pct", "latency_ms")},
    categories={"group": ["web", "db"]},
    rolling_mean=["4h"],
    rolling_std=["6h"],
    rolling_max=["3h"],
    differences=["2h"],
    fleet_relative=True,
    missing_share=["5h"],
    incident_counts=["3h", "1d"],
    history_cap="12h",
)
SAMPLE = {"timestamp": pl.Datetime("us"), "server_id": pl.String, **dict.fromkeys(TELEMETRY.metrics, pl.Float64)}
COVERED = {
    "server_id": pl.String, "covered_from": pl.Datetime("us"), "covered_to": pl.Datetime("us"), "group": pl.String,
}  # fmt: skip
COVERAGE = [("a", -9999, 9999, "web"), ("b", 700, 1000, "db"), ("b", 1500, 9999, "db")]
INCIDENT = {"server_id": pl.String, "started_at": pl.Datetime("us"), "reported_at": pl.Datetime("us")}


def frame_of(schema, rows):
    """Lay rows out as a frame; whole numbers in columns of times are minutes from START."""
    timed = [[START + value * MINUTE if isinstance(value, int) else value for value in row] for row in rows]
    utc = {name: TIMESTAMP for name, dtype in schema.items() if dtype == pl.Datetime}
    return pl.DataFrame(timed, schema=schema, orient="row").cast(utc)


def sliced(rows, begin, end):
    return rows.filter(pl.col("timestamp").is_between(*tables.utc(begin, end), closed="left"))


def features_of(samples, incidents, coverage=COVERAGE):
    """Compute the features of both days from (minute, server, values...) and (server, started, reported)."""
    raw = frame_of(SAMPLE, samples).sort("timestamp", "server_id", maintain_order=True)
    records = frame_of(INCIDENT, incidents).with_columns(kind=pl.lit(CRASH))
    rows = pl.concat(
        clean.clean_partition(day, sliced(raw, *clean.samples_period(day, TELEMETRY, CLEAN)), TELEMETRY, CLEAN)[0]
        for day in DAYS
    )
    covered = frame_of(COVERED, coverage)
    reach = featurize.lookback(TELEMETRY, FEATURES)
    return pl.concat(
        featurize.featurize_partition(
            day,
            sliced(rows, day.start - reach, day.end),
            featurize.crashes_that_show(day, records, FEATURES),
            featurize.records_that_reach(day, covered, FEATURES),
            featurize.categories_that_show(day, covered, FEATURES),
            TELEMETRY,
            FEATURES,
        )[0]
        for day in DAYS
    )


def until(frame, minute):
    return sliced(frame, datetime.min, START + (minute + 1 / 60e6) * MINUTE)


def levels(highest):
    # few distinct values: stuck sensors; some impossible; some missing
    return st.sampled_from([None, float("nan"), -1.0, 0.0, 3.0, 3.0, 3.0, highest / 3, highest, 2 * highest])


minutes = st.integers(0, 2 * 24 * 60 - 1)
hours = st.integers(0, 47).map(lambda hour: 60 * hour)
times = st.one_of(minutes, hours)
servers = st.sampled_from(["a", "b", "c"])
scattered = st.lists(st.tuples(times, servers, levels(100.0), levels(500.0), levels(9.0)), max_size=40)
# a sensor that may stick: one value for hours, then another
stretches = st.tuples(st.integers(0, 47), st.lists(st.tuples(st.integers(1, 5), levels(100.0)), max_size=4)).map(
    lambda drawn: [
        (60 * hour, "a", value, 7.0, 1.0)
        for hour, value in enumerate((value for length, value in drawn[1] for _ in range(length)), drawn[0])
        if hour < 48
    ]
)
samples = st.builds(list.__add__, scattered, stretches)
days_before = st.integers(-24 * 60, 2 * 24 * 60)
incidents = st.lists(st.tuples(servers, days_before, days_before), max_size=6)
moments = st.one_of(minutes, hours, st.sampled_from([24 * 60 - 60, 24 * 60 - 1, 24 * 60]))


@hypothesis_settings(deadline=None, max_examples=80)
@given(samples, incidents, samples, incidents, moments)
def test_another_future_changes_no_feature(past, known, future, reported_later, moment):
    before = [sample for sample in past if sample[0] <= moment]
    reports = [incident for incident in known if incident[2] <= moment]
    came = [sample for sample in past if sample[0] > moment], [crash for crash in known if crash[2] > moment]
    # a crash that started before the moment may be reported after it
    might = [s for s in future if s[0] > moment], [(server, a, b) for server, a, b in reported_later if b > moment]
    assume(came != might)
    found, others = (
        until(features_of(before + samples_after, reports + reports_after), moment)
        for samples_after, reports_after in (came, might)
    )
    assert found.equals(others)


@hypothesis_settings(deadline=None, max_examples=40)
@given(samples, incidents, moments, st.randoms(use_true_random=False))
def test_shuffling_the_future_changes_no_feature(everything, known, moment, random):
    before = [sample for sample in everything if sample[0] <= moment]
    after = [sample for sample in everything if sample[0] > moment]
    values = [sample[2:] for sample in after]
    random.shuffle(values)
    shuffled = [(*sample[:2], *other) for sample, other in zip(after, values, strict=True)]
    found, others = (until(features_of(before + later, known), moment) for later in (after, shuffled))
    assert found.equals(others)


@hypothesis_settings(deadline=None, max_examples=40)
@given(samples, incidents, st.integers(0, 47))
def test_production_which_has_no_future_sees_the_same(everything, known, hour):
    moment = 60 * hour
    then = [sample for sample in everything if sample[0] <= moment], [crash for crash in known if crash[2] <= moment]
    begun = [(name, start, min(end, moment + 1), group) for name, start, end, group in COVERAGE if start <= moment]
    assert until(features_of(*then, begun), moment).equals(until(features_of(everything, known), moment))


def eventful():
    """Return two days of three servers with stuck sensors, gaps, impossible values and several samples an hour."""
    draw, rows = Random(5), []
    for server in "abc":
        cpu = 0.0
        for quarter in range(4 * 48):
            if draw.random() < 0.2 or quarter % 16 == 0:
                cpu = draw.choice([10.0, 20.0, 30.0, 130.0, None])
            if draw.random() < 0.8 and quarter // 4 % 11:
                rows.append((15 * quarter + draw.randrange(15), server, cpu, draw.choice([5.0, 400.0, None]), 1.0))
    return rows


EVENTFUL = eventful()
REPORTS = [("a", 100, 100), ("a", 400, 1000), ("b", -500, 700), ("b", 1300, 1500), ("c", 2000, 1900)]


@pytest.fixture(scope="module")
def true_features():
    return features_of(EVENTFUL, REPORTS)


@pytest.mark.parametrize("hour", range(48))
def test_at_no_hour_does_a_wholly_different_future_change_a_feature(true_features, hour):
    moment = 60 * hour
    samples_then = [(*row[:2], *((99.0, 499.0, 8.0) if row[0] > moment else row[2:])) for row in EVENTFUL]
    reports_then = [(server, a, b) if b <= moment else (server, a - 300, moment + 1) for server, a, b in REPORTS]
    other = features_of(samples_then, reports_then)
    assert until(other, moment).equals(until(true_features, moment))
    assert hour == 47 or not other.equals(true_features)


STEADY = [(60 * hour, server, 20.0 + hour % 5, 100.0, 1.0) for hour in range(48) for server in "ab"]


@pytest.mark.parametrize("moment", [60 * 10, 60 * 10 + 1, 24 * 60 - 60, 24 * 60, 24 * 60 + 59])
def test_the_present_does_change_features(moment):
    # what the tests above would miss if they compared nothing
    changed = [(*sample[:2], 90.0, *sample[3:]) if sample[0] == moment // 60 * 60 else sample for sample in STEADY]
    plain, other = (until(features_of(rows, []), moment) for rows in (STEADY, changed))
    assert plain.height == other.height == 2 * (moment // 60 + 1)
    assert not plain.equals(other)
    assert plain.head(-2).equals(other.head(-2))


def test_a_crash_shows_in_the_row_of_its_report_and_in_none_before():
    plain = features_of(STEADY, [])
    known = features_of(STEADY, [("a", 300, 420)])
    assert until(known, 419).equals(until(plain, 419))
    at_report = until(known, 420).filter(pl.col("server_id") == "a").row(-1, named=True)
    assert at_report["hours_since_crash"] == 2
    assert at_report["crashes_3h"] == 1


def test_a_crash_reported_before_it_starts_does_not_show_until_it_does():
    # a clock that runs ahead, or a report of something else: taken as known from its start
    plain = features_of(STEADY, [])
    known = features_of(STEADY, [("a", 420, 300)])
    assert until(known, 419).equals(until(plain, 419))
    assert until(known, 420).row(-2, named=True)["hours_since_crash"] == 0
