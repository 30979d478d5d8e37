"""Cadence, partition and ranges of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast import tables
from crashcast.params.telemetry import Metric
from crashcast.sources.importing import inferred_settings

START = datetime(2026, 1, 1)
HOUR = timedelta(hours=1)


def keys(*seconds: float, server: str = "a") -> pl.DataFrame:
    """Return samples at these seconds."""
    times = [START + timedelta(seconds=s) for s in seconds]
    return pl.DataFrame({"timestamp": times, "server_id": server}, schema=tables.KEYS)


@pytest.mark.parametrize("cadence", inferred_settings.CADENCES)
def test_the_cadence_of_jittered_samples_with_holes(cadence: timedelta) -> None:
    random = np.random.default_rng(0)
    step = cadence.total_seconds()
    times = np.arange(500) * step + random.uniform(-0.05, 0.05, 500) * step
    found = inferred_settings.infer_interval(keys(*times[random.random(500) > 0.1]))
    assert found is not None
    assert found[0] == cadence


def test_a_weekly_check_has_a_cadence_of_a_week() -> None:
    random = np.random.default_rng(0)
    times = np.arange(100) * 7 * 86400 + random.uniform(-1, 1, 100) * 86400  # some day later, some earlier
    found = inferred_settings.infer_interval(keys(*times[random.random(100) > 0.1]))
    assert found is not None
    assert found[0] == timedelta(days=7)


def test_irregular_samples_get_a_cadence_that_most_intervals_can_fill() -> None:
    # in threes, a minute apart, every three hours: the commonest gap would leave 98 % of rows empty
    times = [3 * 3600 * i + extra for i in range(50) for extra in (60, 120, 180)]
    found = inferred_settings.infer_interval(keys(*times))
    assert found is not None
    assert found[0] == timedelta(hours=2)


def test_a_silence_of_months_is_no_cadence() -> None:
    times = [60 * i for i in range(100)] + [90 * 86400 + 60 * i for i in range(100)]
    found = inferred_settings.infer_interval(keys(*times))
    assert found is not None
    assert found[0] == timedelta(minutes=1)


def test_no_cadence_without_a_second_sample() -> None:
    assert inferred_settings.infer_interval(pl.concat([keys(0), keys(60, server="b"), keys(60, server="b")])) is None


def facts_of(*values: float | None) -> inferred_settings.Facts:
    """Describe a metric."""
    return inferred_settings.describe(pl.LazyFrame({"x": pl.Series(values, dtype=pl.Float32)}), "x")


@pytest.mark.parametrize(
    ("name", "values", "limits"),
    [
        ("cpu_pct", [3, 97], (0, 100)),
        ("cpu_percent", [3, 800], (0, None)),  # of several cores
        ("cpu_pct", [50] * 2000 + [101], (0, 100)),  # one slip
        ("hit_ratio", [0.2, 0.9], (0, 1)),
        ("is_up", [0, 1], (0, 1)),
        ("errors", [0, 1], (0, None)),  # may well be 2 tomorrow
        ("latency_ms", [20, 69], (0, None)),  # a timeout before a crash takes a minute
        ("signal_dbm", [-90, -30], (None, None)),
        ("load", [-0.5, 4], (None, None)),
        ("inlet_temp_c", [3, 30], (None, None)),  # a winter may come
        ("errors", [0, 0], (0, None)),
        ("memory", [5.0] * 200 + [-1], (0, None)),  # -1: no value
        ("memory", [-5.0] * 200 + [-1], (None, None)),
        ("inlet_temp_c", [-5.0] * 200 + [-9999], (-5000, None)),
        ("delta", [-1, 1], (None, None)),  # too often for a marker
        ("bytes", [5.0] * 200 + [2**32 - 1, 2**63], (0, 2e9)),
        ("bytes", [4e9] * 200 + [2**32 - 1], (0, 4e9)),
        ("bytes", [5e9] * 200 + [2**32 - 1], (0, None)),
    ],
)
def test_limits(name: str, values: list[float], limits: tuple[float, float]) -> None:
    assert inferred_settings.infer_limits(name, facts_of(*values)) == limits


@given(
    st.lists(st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100), min_size=1),
    st.sampled_from(["x", "x_pct", "is_x"]),
)
def test_limits_hold_nearly_all_that_was_seen_and_are_valid(values: list[float], name: str) -> None:
    facts = facts_of(*values)
    low, high = inferred_settings.infer_limits(name, facts)
    Metric(min=low, max=high)
    lowest, highest = Metric(min=low, max=high).limits
    outside = [value for value in values if not lowest <= value <= highest]
    assert len(outside) <= (1 - inferred_settings.INSIDE_SHARE) * len(values) + facts.markers


def day_of(values: Sequence[float], days: int = 15) -> pl.DataFrame:
    """Return hourly samples that repeat `values`."""
    times = [START + h * HOUR for h in range(24 * days)]
    frame = pl.DataFrame({"server_id": "a", "timestamp": times, "x": np.resize(values, len(times)).astype(np.float32)})
    return frame.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))


@pytest.mark.parametrize(
    ("frame", "aggregate", "can_stick"),
    [
        (day_of([1.25, 2.5, 1.5]), "mean", True),
        (day_of([1.25, 2.5, 1.5], days=3), "mean", False),  # too short to tell
        (day_of([1.25] * 30 + [2.5]), "mean", False),  # rests for longer than stuck_after
        (day_of([1, 2, 3, 2]), "mean", False),  # whole numbers repeat by nature
        (day_of([0, 1, 1]), "max", False),
        (day_of(np.arange(200) * 1.5), "last", False),  # a counter with a reset
    ],
)
def test_aggregate_and_sticking(frame: pl.DataFrame, aggregate: str, can_stick: bool) -> None:
    metric = inferred_settings.infer_metric(
        "x", inferred_settings.describe(frame.lazy(), "x"), frame, timedelta(hours=12)
    )
    assert (metric.aggregate, metric.can_stick) == (aggregate, can_stick)


@pytest.mark.parametrize(("rows", "unit"), [(7_300_000, "month"), (50_000_000, "week"), (440_000_000, "day")])
def test_dense_fleets_get_shorter_partitions(rows: int, unit: str) -> None:
    assert inferred_settings.infer_partition(rows) == unit


def test_servers_for_a_closer_look_are_spread_over_the_fleet() -> None:
    spans = pl.DataFrame({"server_id": ["d", "c", "b", "a"], "rows": [2_000_000] * 4})
    assert inferred_settings.choose_servers(spans) == ["a", "d"]


@pytest.mark.parametrize(("name", "expected"), [("sent_total", True), ("sent", False)])
def test_a_counter_by_its_name_may_fall_more_often(name: str, expected: bool) -> None:
    values = [float(number - 3 * (number % 5 == 0)) for number in range(200)]
    assert inferred_settings.is_counter(name, pl.DataFrame({"server_id": "a", "value": values})) == expected
    assert not inferred_settings.is_counter(name, pl.DataFrame({"server_id": "a", "value": [0.0, 1.0] * 100}))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"web": 5, "db": 3, "one": 1, "two": 2, None: 9}, ["db", "web"]),
        ({"web": 90, "db": 5, "mail": 4}, ["db", "web"]),  # of 99 servers
        ({"all": 9}, []),
        ({"some": 3, None: 6}, ["some"]),
        ({f"g{number:02}": 24 - number for number in range(12)}, [f"g{number:02}" for number in range(10)]),
        ({None: 9}, []),
        ({}, []),
    ],
)
def test_groups_of_enough_servers_are_features(sizes: dict[str | None, int], expected: list[str]) -> None:
    groups = [group for group, size in sizes.items() for _ in range(size)]
    servers = [f"s{number}" for number in range(len(groups))]
    coverage = pl.DataFrame({"server_id": servers, "group": groups}, {"server_id": pl.String, "group": pl.String})
    assert inferred_settings.infer_groups(pl.concat([coverage, coverage.head(7)])) == expected
