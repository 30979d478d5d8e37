"""Samples become rows: by hand, and for all data against a slow account in plain Python."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from crashcast import grid, tables
from crashcast.errors import UserError
from crashcast.params.clean import Clean
from crashcast.params.telemetry import Telemetry
from crashcast.tables import TIMESTAMP, Partition
from stages import clean

START = datetime(2025, 3, 3)  # a Monday
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DAY = tables.partition_at(START, "day")
NEVER = "999d"


def telemetry_of(interval="5m", **metrics):
    described = {"min": 0, "max": 100}
    return Telemetry.model_validate(
        {
            "interval": interval,
            "partition": "day",
            "metrics": {name: described | rules for name, rules in (metrics or {"cpu_pct": {}}).items()},
        }
    )


def rules_of(fill_limit="0m", stuck_after=NEVER):
    return Clean.model_validate({"fill_limit": fill_limit, "stuck_after": stuck_after})


def samples_of(settings, *rows):
    """Lay (minute, server, value...) out as a frame; minutes count from START."""
    keyed = [(START + minute * MINUTE, server, *values) for minute, server, *values in rows]
    schema = {"timestamp": pl.Datetime("us"), "server_id": pl.String, **dict.fromkeys(settings.metrics, pl.Float64)}
    frame = pl.DataFrame(keyed, schema=schema, orient="row")
    # stable: which of two duplicates comes first is the test's choice
    return frame.cast({"timestamp": TIMESTAMP}).sort("timestamp", "server_id", maintain_order=True)


def cleaned(samples, settings, rules, partition=DAY):
    """Clean one partition of the samples that the stage would hand it."""
    within = pl.col("timestamp").is_between(
        *tables.utc(*clean.samples_period(partition, settings, rules)), closed="left"
    )
    return clean.clean_partition(partition, samples.filter(within), settings, rules)


def rows_of(frame):
    """Return the rows as {(minute, server): value}, or a tuple of values if there are several metrics."""
    found = {}
    for moment, server, _, *values in frame.iter_rows():
        found[(moment.replace(tzinfo=None) - START) / MINUTE, server] = values[0] if len(values) == 1 else tuple(values)
    return found


def hourly(*values, first=0, **metric):
    """Clean one server's hourly values, None where it sent nothing; return its rows' values by hour."""
    settings = telemetry_of("1h", cpu_pct=metric)
    sent = [(60 * hour, "a", value) for hour, value in enumerate(values, first) if value is not None]

    def run(partition=DAY, **rules):
        frame, counts = cleaned(samples_of(settings, *sent), settings, rules_of(**rules), partition)
        return {minute / 60: value for (minute, _), value in rows_of(frame).items()}, counts

    return run


# resampling


@pytest.mark.parametrize(
    ("aggregate", "value"), [("mean", 3.0), ("min", 1.0), ("max", 6.0), ("sum", 9.0), ("last", 2.0)]
)
def test_a_row_holds_the_samples_since_the_row_before(aggregate, value):
    settings = telemetry_of(cpu_pct={"aggregate": aggregate})
    minutes = samples_of(
        settings, (5, "a", 8.0), (6, "a", 1.0), (8, "a", 6.0), (10, "a", 2.0), (10.01, "a", 7.0), (15, "a", None)
    )
    frame, counts = cleaned(minutes, settings, rules_of())
    assert rows_of(frame) == {(5, "a"): 8.0, (10, "a"): value, (15, "a"): 7.0}
    assert counts["kept"] == 3
    assert counts["merged"] == 2
    assert counts["dropped_no_valid_value"] == 1


def test_each_metric_has_its_own_aggregate():
    settings = telemetry_of(cpu_pct={"aggregate": "mean"}, disk_pct={"aggregate": "last"}, errors={"aggregate": "sum"})
    rows = [
        (1, "a", 10.0, 40.0, 1.0),
        (2.5, "a", 20.0, None, 2.0),
        (4, "a", 60.0, 41.0, 3.0),
        (4.5, "a", 50.0, None, 0.0),
    ]
    frame, _ = cleaned(samples_of(settings, *rows), settings, rules_of())
    assert rows_of(frame) == {(5, "a"): (35.0, 41.0, 6.0)}


def test_one_minute_samples_become_five_minute_rows():
    settings = telemetry_of()
    frame, counts = cleaned(samples_of(settings, *((m, "a", float(m)) for m in range(1, 21))), settings, rules_of())
    assert rows_of(frame) == {(5, "a"): 3.0, (10, "a"): 8.0, (15, "a"): 13.0, (20, "a"): 18.0}
    assert counts["samples"] == 20


def test_servers_keep_apart_and_rows_are_sorted():
    settings = telemetry_of()
    frame, _ = cleaned(
        samples_of(settings, (4, "b", 1.0), (4, "a", 2.0), (9, "a", 3.0), (1, "b", 5.0)), settings, rules_of()
    )
    assert list(rows_of(frame).items()) == [((5, "a"), 2.0), ((5, "b"), 3.0), ((10, "a"), 3.0)]
    assert frame.schema == {**tables.KEYS, "observed": pl.Boolean, "cpu_pct": pl.Float32}


def test_a_sample_after_the_last_row_is_the_next_partitions():
    settings = telemetry_of()
    day = 24 * 60
    samples = samples_of(settings, (day - 5, "a", 1.0), (day - 4, "a", 2.0), (day, "a", 4.0), (day + 0.5, "a", 8.0))
    today, tomorrow = DAY, tables.partition_at(DAY.end, "day")
    first, counts = cleaned(samples, settings, rules_of(), today)
    assert rows_of(first) == {(day - 5, "a"): 1.0}
    assert counts["samples"] == 1
    second, counts = cleaned(samples, settings, rules_of(), tomorrow)
    assert rows_of(second) == {(day, "a"): 3.0, (day + 5, "a"): 8.0}
    assert counts["samples"] == 3


def test_the_first_row_of_a_partition_reaches_back_before_it():
    settings = telemetry_of()
    frame, counts = cleaned(
        samples_of(settings, (-5, "a", 9.0), (-4.99, "a", 1.0), (0, "a", 3.0)), settings, rules_of()
    )
    assert rows_of(frame) == {(0, "a"): 2.0}
    assert counts["samples"] == 2


@pytest.mark.parametrize(("fill_limit", "stuck_after"), [("0m", "90m"), ("90m", "25h"), ("1s", "100s"), ("7m", "999m")])
def test_rows_lie_on_whole_intervals_whatever_the_limits(fill_limit, stuck_after):
    settings = telemetry_of("1h")
    frame, _ = cleaned(samples_of(settings, (30, "a", 1.0)), settings, rules_of(fill_limit, stuck_after))
    assert (60, "a") in rows_of(frame)
    assert all(minute % 60 == 0 for minute, _ in rows_of(frame))


# duplicates and impossible values


def test_of_samples_with_one_key_the_first_counts():
    settings = telemetry_of()
    samples = samples_of(settings, (4, "a", 10.0), (4, "a", 90.0), (4, "a", 10.0), (4, "b", 90.0), (5, "a", 30.0))
    frame, counts = cleaned(samples, settings, rules_of())
    assert rows_of(frame) == {(5, "a"): 20.0, (5, "b"): 90.0}
    assert counts == {
        "samples": 5,
        "kept": 2,
        "merged": 1,
        "dropped_duplicate": 2,
        "dropped_no_valid_value": 0,
        "rows": 2,
        "filled": 0,
        "out_of_range_cpu_pct": 0,
    }


def test_impossible_values_are_dropped_and_limits_are_possible():
    settings = telemetry_of(cpu_pct={}, latency_ms={"max": 500})
    rows = [
        (1, "a", -0.1, 0.0),
        (2, "a", 100.0, 500.1),
        (6, "a", 100.1, math.inf),
        (11, "a", math.nan, 3.0),
        (12, "a", None, -math.inf),
    ]
    frame, counts = cleaned(samples_of(settings, *rows), settings, rules_of())
    assert rows_of(frame) == {(5, "a"): (100.0, 0.0), (15, "a"): (None, 3.0)}
    assert counts["out_of_range_cpu_pct"] == 2
    assert counts["out_of_range_latency_ms"] == 3
    assert counts["dropped_no_valid_value"] == 2
    assert counts["kept"] == 2
    assert counts["merged"] == 1


def test_without_a_limit_every_finite_value_is_possible():
    settings = telemetry_of(cpu_pct={"max": None}, latency_ms={"min": None, "max": None})
    rows = [(1, "a", -0.1, -1e38), (6, "a", 3e38, math.inf), (11, "a", math.inf, 3e38), (12, "a", 2.0, -math.inf)]
    frame, counts = cleaned(samples_of(settings, *rows), settings, rules_of())
    large = pytest.approx(3e38)
    assert rows_of(frame) == {(5, "a"): (None, pytest.approx(-1e38)), (10, "a"): (large, None), (15, "a"): (2.0, large)}
    assert counts["out_of_range_cpu_pct"] == 2
    assert counts["out_of_range_latency_ms"] == 2


def test_what_limits_dropped_is_said_by_metric_and_month(capsys):
    settings = telemetry_of(cpu_pct={}, latency_ms={"max": None}, load={})
    days = [
        DAY,
        tables.partition_at(START + timedelta(days=1), "day"),
        tables.partition_at(START.replace(month=4), "day"),
    ]
    lost = [(1, 2), (3, 0), (1500, 0)]
    counts = [{"out_of_range_cpu_pct": a, "out_of_range_latency_ms": b, "out_of_range_load": 0} for a, b in lost]
    clean.report_limits(days, counts, settings)
    assert capsys.readouterr().err.splitlines() == [
        "clean: 1,504 values of cpu_pct are dropped, not in [0, 100]: 1,500 in 2025-04, 4 in 2025-03",
        "clean: 2 values of latency_ms are dropped, not at least 0: 2 in 2025-03",
    ]


def test_what_was_lost_before_the_partition_is_not_counted_again():
    settings = telemetry_of(cpu_pct={"can_stick": True})
    rows = [(-15, "a", 200.0), (-15, "a", 200.0), *((minute, "a", 5.0) for minute in (-10, -5, 0)), (5, "a", 6.0)]
    _, counts = cleaned(samples_of(settings, *rows), settings, rules_of(stuck_after="15m"))
    assert counts["samples"] == 2
    assert counts["dropped_duplicate"] == 0
    assert counts["out_of_range_cpu_pct"] == 0
    assert counts["stuck_cpu_pct"] == 1


# filling


def test_a_gap_is_filled_up_to_the_limit_and_not_beyond():
    rows, counts = hourly(5.0, None, None, None, 7.0, None, 8.0)(fill_limit="2h")
    assert rows == {0: 5, 1: 5, 2: 5, 4: 7, 5: 7, 6: 8, 7: 8, 8: 8}
    assert counts["kept"] == 3
    assert counts["filled"] == 5


def test_a_limit_below_the_interval_fills_nothing():
    assert hourly(5.0, None, 6.0)(fill_limit="59m")[0] == {0: 5, 2: 6}


def test_a_gap_is_filled_across_the_border_of_partitions():
    run = hourly(4.0, 5.0, None, first=-2)
    assert run(fill_limit="2h")[0] == {0: 5, 1: 5}
    assert run(fill_limit="1h")[0] == {0: 5}
    assert run(fill_limit="59m")[0] == {}


def test_each_metric_is_filled_by_itself():
    settings = telemetry_of("1h", cpu_pct={}, memory_pct={})
    samples = samples_of(settings, (0, "a", 1.0, 2.0), (60, "a", None, 3.0), (180, "a", None, 4.0))
    frame, counts = cleaned(samples, settings, rules_of("1h"))
    assert rows_of(frame) == {
        (0, "a"): (1, 2),
        (60, "a"): (1, 3),
        (120, "a"): (None, 3),
        (180, "a"): (None, 4),
        (240, "a"): (None, 4),
    }
    assert counts["kept"] == 3
    assert counts["filled"] == 2


def test_an_impossible_value_is_filled_like_a_missing_one():
    assert hourly(5.0, 900.0, 6.0)(fill_limit="1h")[0] == {0: 5, 1: 5, 2: 6, 3: 6}


def test_nothing_is_filled_before_a_server_appears():
    settings = telemetry_of("1h")
    frame, _ = cleaned(samples_of(settings, (0, "a", 1.0), (60, "a", 1.0), (60, "b", 2.0)), settings, rules_of("1h"))
    assert rows_of(frame) == {(0, "a"): 1, (60, "a"): 1, (60, "b"): 2, (120, "a"): 1, (120, "b"): 2}


# stuck sensors


def test_a_stuck_sensor_is_dropped_once_it_has_been_stuck_for_long_enough():
    rows, counts = hourly(1.0, 7.0, 7.0, 7.0, 7.0, 2.0, can_stick=True)(stuck_after="3h")
    assert rows == {0: 1, 1: 7, 2: 7, 5: 2}
    assert counts["stuck_cpu_pct"] == 2
    assert counts["dropped_no_valid_value"] == 2


def test_a_sensor_that_cannot_stick_may_stay_the_same():
    rows, counts = hourly(7.0, 7.0, 7.0, 7.0)(stuck_after="3h")
    assert rows == {0: 7, 1: 7, 2: 7, 3: 7}
    assert "stuck_cpu_pct" not in counts


def test_a_new_server_is_not_stuck_before_its_time():
    assert hourly(7.0, 7.0, 7.0, 7.0, 7.0, can_stick=True)(stuck_after="4h")[0] == {0: 7, 1: 7, 2: 7}


def test_a_stuck_value_fills_nothing():
    rows, _ = hourly(1.0, 7.0, 7.0, 7.0, None, None, None, can_stick=True)(stuck_after="3h", fill_limit="2h")
    assert rows == {0: 1, 1: 7, 2: 7}


def test_a_gap_that_may_be_filled_does_not_unstick_a_sensor_and_a_longer_one_does():
    short = hourly(7.0, 7.0, None, 7.0, 7.0, can_stick=True)
    assert short(stuck_after="4h", fill_limit="1h")[0] == {0: 7, 1: 7, 2: 7}
    assert short(stuck_after="4h", fill_limit="0h")[0] == {0: 7, 1: 7, 3: 7, 4: 7}
    # two values in four hours are no evidence, whatever fills the gap between them
    assert hourly(7.0, None, None, 7.0, can_stick=True)(stuck_after="4h", fill_limit="2h")[0] == dict.fromkeys(
        range(6), 7
    )


def test_a_sensor_stuck_since_yesterday_is_stuck_at_midnight():
    run = hourly(1.0, 7.0, 7.0, 7.0, 7.0, first=-3, can_stick=True)
    assert run(stuck_after="4h")[0] == {0: 7}
    assert run(stuck_after="3h")[0] == {}


def test_what_fills_the_first_rows_is_judged_by_all_of_its_past():
    # at -2 the sensor has shown 7 for 11 hours, not for 12: a shorter look back would say that it has always
    run = hourly(1.0, *[7.0] * 11, first=-13, can_stick=True)
    assert run(stuck_after="12h", fill_limit="2h")[0] == {0: 7}
    assert run(stuck_after="11h", fill_limit="2h")[0] == {}


def test_the_stretch_that_makes_the_source_of_a_fill_stuck_may_begin_in_a_bridged_gap():
    # three hours back the sensor sticks, by a value carried on from three hours before that stretch
    run = hourly(7.0, None, None, None, 7.0, 7.0, first=-8, can_stick=True)
    assert run(stuck_after="3h", fill_limit="3h")[0] == {}
    assert run(stuck_after="4h", fill_limit="3h")[0] == {0: 7}


def test_a_stuck_sensor_is_seen_through_means_of_few_or_many_samples():
    settings = telemetry_of(error_pct={"can_stick": True})
    counts_of_samples = [5, 3, 4, 5, 3, 1]  # three times 0.1 by three is not 0.1
    assert (0.1 + 0.1 + 0.1) / 3 != 0.1
    rows = [(5 * row - 1 + k / 10, "a", 0.1) for row, n in enumerate(counts_of_samples) for k in range(n)]
    _, counts = cleaned(samples_of(settings, *rows), settings, rules_of(stuck_after="20m"))
    assert counts["stuck_error_pct"] == 3


def test_a_stuck_metric_leaves_the_others_alone():
    settings = telemetry_of("1h", cpu_pct={"can_stick": True}, memory_pct={})
    samples = samples_of(settings, *((60 * hour, "a", 7.0, float(hour)) for hour in range(3)))
    frame, counts = cleaned(samples, settings, rules_of(stuck_after="2h", fill_limit="1h"))
    assert rows_of(frame) == {(0, "a"): (7, 0), (60, "a"): (None, 1), (120, "a"): (None, 2), (180, "a"): (None, 2)}
    assert counts["kept"] == 3


# nothing much


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([], id="no samples"),
        pytest.param([(5, "a", None), (10, "a", math.nan)], id="no values"),
        pytest.param([(5, "a", 101.0)], id="no possible values"),
        pytest.param([(-999, "a", 5.0)], id="too long ago"),
    ],
)
def test_without_values_there_are_no_rows(rows):
    settings = telemetry_of()
    frame, counts = cleaned(samples_of(settings, *rows), settings, rules_of("10m", "1h"))
    assert frame.height == counts["rows"] == counts["kept"] == counts["filled"] == 0
    assert frame.schema == {**tables.KEYS, "observed": pl.Boolean, "cpu_pct": pl.Float32}
    assert counts["dropped_no_valid_value"] == counts["samples"]


def test_a_server_without_values_is_left_out():
    settings = telemetry_of()
    frame, _ = cleaned(samples_of(settings, (5, "a", None), (5, "b", 1.0)), settings, rules_of())
    assert rows_of(frame) == {(5, "b"): 1}


def test_one_sample_is_one_row():
    settings = telemetry_of()
    frame, counts = cleaned(samples_of(settings, (0, "a", 1.0)), settings, rules_of())
    assert rows_of(frame) == {(0, "a"): 1}
    assert counts["samples"] == counts["kept"] == counts["rows"] == 1


def test_whole_numbers_are_values():
    settings = telemetry_of()
    whole = samples_of(settings, (5, "a", 3.0), (10, "a", None)).cast({"cpu_pct": pl.Int64})
    assert rows_of(cleaned(whole, settings, rules_of())[0]) == {(5, "a"): 3}


# for all data


def account(samples, partition, settings, rules):
    """Clean slowly: return what `rows_of` and the counts must be, from all samples ever."""
    interval = settings.interval / MINUTE
    fill_rows = rules.fill_limit // settings.interval
    stuck_rows = -(-rules.stuck_after // settings.interval)
    begin, end = ((moment - START) / MINUTE / interval for moment in (partition.start, partition.end))
    names = list(settings.metrics)

    cells, counts, seen = {}, Counter(), set()
    for minute, server, *values in sorted(samples, key=lambda sample: sample[:2]):
        row = math.ceil(minute / interval)
        here = begin <= row < end
        counts["samples"] += here
        if (minute, server) in seen:
            counts["dropped_duplicate"] += here
            continue
        seen.add((minute, server))
        valid = {}
        for name, value in zip(names, values, strict=True):
            metric = settings.metrics[name]
            if value is not None and not metric.min <= value <= metric.max:
                counts[f"out_of_range_{name}"] += here
            elif value is not None:
                valid[name] = value
        cells.setdefault((row, server), []).append(valid)

    combine = {"mean": lambda v: sum(v) / len(v), "min": min, "max": max, "sum": sum, "last": lambda v: v[-1]}
    observed = {}
    for (row, server), parts in cells.items():
        for name in names:
            if values := [part[name] for part in parts if name in part]:
                observed[row, server, name] = float(np.float32(combine[settings.metrics[name].aggregate](values)))

    def source(row, server, name):
        return next((row - age for age in range(fill_rows + 1) if (row - age, server, name) in observed), None)

    def is_stuck(row, server, name):
        if not settings.metrics[name].can_stick or (row, server, name) not in observed:
            return False
        stretch = range(row - stuck_rows + 1, row + 1)
        sources = [source(earlier, server, name) for earlier in stretch]
        evidence = sum((earlier, server, name) in observed for earlier in stretch)
        return (
            None not in sources
            and len({observed[earlier, server, name] for earlier in sources}) == 1
            and 2 * evidence > stuck_rows
        )

    rows, own_rows = {}, set()
    for server in {server for _, server in cells}:
        for row in range(int(begin), int(end)):
            values = []
            for name in names:
                earlier = source(row, server, name)
                usable = earlier is not None and not is_stuck(earlier, server, name)
                values.append(observed[earlier, server, name] if usable else None)
                counts[f"stuck_{name}"] += is_stuck(row, server, name)
            if values != [None] * len(names):
                rows[row * interval, server] = tuple(values)
            own = any((row, server, n) in observed and not is_stuck(row, server, n) for n in names)
            counts["kept"] += own
            if own:
                own_rows.add((row * interval, server))
                counts["merged"] += sum(bool(part) for part in cells[row, server]) - 1
    counts["rows"] = len(rows)
    counts["filled"] = counts["rows"] - counts["kept"]
    lost = counts["dropped_duplicate"] + counts["kept"] + counts["merged"]
    counts["dropped_no_valid_value"] = counts["samples"] - lost
    return rows, own_rows, +counts


values = st.sampled_from([None, 1.0, 1.0, 1.0, 2.0, 64.0, -5.0])  # binary, so that sums are exact in any order
samples = st.lists(
    st.tuples(st.integers(-8 * 60, 8 * 60).map(lambda m: m / 2), st.sampled_from("ab"), values, values), max_size=40
)
stretches = st.lists(st.tuples(st.integers(-16, 16), values), max_size=24).map(
    lambda rows: [(15 * row, "a", value, value) for row, value in rows]
)
SETTINGS = telemetry_of("15m", cpu_pct={"can_stick": True}, disk_pct={"aggregate": "last"})
limits = st.builds(rules_of, st.sampled_from(["0m", "15m", "20m", "45m"]), st.sampled_from(["16m", "30m", "45m", "1h"]))


@hypothesis_settings(deadline=None, max_examples=150)
@given(samples, stretches, limits)
def test_cleaning_agrees_with_the_slow_account(scattered, stretch, rules):
    frame, counts = cleaned(samples_of(SETTINGS, *scattered, *stretch), SETTINGS, rules)
    rows, observed, expected = account([*scattered, *stretch], DAY, SETTINGS, rules)
    assert rows_of(frame) == rows
    assert {key for key, is_own in zip(rows_of(frame), frame["observed"], strict=True) if is_own} == observed
    assert +Counter(counts) == expected


@hypothesis_settings(deadline=None, max_examples=60)
@given(samples, stretches, limits, st.lists(st.integers(-20, 20), max_size=5, unique=True))
def test_any_division_into_partitions_gives_the_same_rows_and_counts_every_sample_once(
    scattered, stretch, rules, borders
):
    everything = samples_of(SETTINGS, *scattered, *stretch)
    edges = [START - 6 * HOUR, *(START + 15 * border * MINUTE for border in sorted(borders)), START + 12 * HOUR]
    pieces = [cleaned(everything, SETTINGS, rules, Partition(*edge, "day")) for edge in pairwise(edges)]
    whole, counts = cleaned(everything, SETTINGS, rules, Partition(edges[0], edges[-1], "day"))
    assert pl.concat([frame for frame, _ in pieces]).equals(whole)
    assert sum((Counter(part) for _, part in pieces), Counter()) == +Counter(counts)
    assert counts["samples"] == everything.height


@pytest.mark.parametrize("cells", [1, 7 * 24, 512 * 24])
@pytest.mark.parametrize("every_minutes", [60, 7])
def test_the_size_of_the_pieces_changes_no_byte(cells, every_minutes, tmp_path, monkeypatch):
    settings = telemetry_of("1h", cpu_pct={"can_stick": True}, disk_pct={"aggregate": "last"})
    draw = Random(5)
    rows = [
        (minute, f"s{number:02}", draw.choice([5.0, 5.0, 5.0, 6.0, None, 200.0]), draw.random())
        for minute in range(-20 * 60, 24 * 60, every_minutes)
        for number in range(30)
        if draw.random() < 0.9
    ]

    def written(size):
        monkeypatch.setattr(grid, "PIECE_CELLS", size)
        frame, counts = cleaned(samples_of(settings, *rows, *rows[::9]), settings, rules_of("2h", "4h"))
        tables.write(tmp_path / "out.parquet", frame)
        return counts, (tmp_path / "out.parquet").read_bytes()

    assert written(cells) == written(10**9)


# the stage


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write params.yaml and raw telemetry, run the stage, and return its rows and counts."""
    monkeypatch.chdir(tmp_path)

    def run(samples, unit, settings, rules):
        described = settings.model_dump(mode="json") | {"partition": unit}
        params = {
            "telemetry": described,
            "clean": rules.model_dump(mode="json"),
            "execution": {"workers": 1, "memo_gb": 0},
        }
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        raw = tmp_path / unit
        days = samples["timestamp"].dt.date().unique().sort()
        for partition in {tables.partition_at(datetime(day.year, day.month, day.day), unit) for day in days}:
            inside = pl.col("timestamp").is_between(*tables.utc(partition.start, partition.end), closed="left")
            tables.write(partition.path(raw), samples.filter(inside))
        (tmp_path / "validated.json").write_text('{"success": true}')
        clean.main(raw, tmp_path / "validated.json", tmp_path / f"clean-{unit}", tmp_path / "clean.json")
        found = tables.partitions(tmp_path / f"clean-{unit}")
        frames = [tables.read(partition.path(tmp_path / f"clean-{unit}")) for partition in found]
        counts = json.loads((tmp_path / "clean.json").read_text())
        return [partition.name for partition in found], pl.concat(frames), counts

    return run


def test_five_minute_rows_by_day_and_week_and_a_month_without_data_between(project):
    settings, rules = telemetry_of(cpu_pct={"can_stick": True}), rules_of("10m", "1h")
    day = 24 * 60
    minutes = [*range(-3 * day, 3 * day, 97), *range(60 * day, 61 * day, 61)]
    minutes = [minute + wobble for minute in minutes for wobble in (0.25, 2, 3.5)]
    samples = samples_of(settings, *((minute, server, minute % 60) for minute in minutes for server in "ab"))
    by_unit = {unit: project(samples, unit, settings, rules) for unit in ("day", "week", "month")}
    names, rows, counts = by_unit["month"]
    assert names == ["month=2025-02", "month=2025-03", "month=2025-05"]
    assert counts["samples"] == samples.height
    for _, other, others in by_unit.values():
        assert other.equals(rows)
        assert others == counts


def test_samples_after_the_last_row_of_all_are_kept(project):
    settings = telemetry_of()
    names, rows, _ = project(samples_of(settings, (24 * 60 - 1, "a", 3.0)), "day", settings, rules_of())
    assert names == ["day=2025-03-04"]
    assert rows_of(rows) == {(24 * 60, "a"): 3}


def test_filling_alone_does_not_carry_the_records_beyond_their_end(project):
    settings = telemetry_of("1h")
    samples = samples_of(settings, (23 * 60, "a", 3.0), (72 * 60, "a", 4.0))
    names, rows, _ = project(samples, "day", settings, rules_of("2h"))
    assert names == ["day=2025-03-03", "day=2025-03-06"]
    assert rows_of(rows) == {(23 * 60, "a"): 3, (72 * 60, "a"): 4, (73 * 60, "a"): 4, (74 * 60, "a"): 4}


def test_a_sensor_cannot_be_stuck_within_one_row(project):
    settings = telemetry_of("1h")
    with pytest.raises(UserError, match=r"clean\.stuck_after: must be longer than telemetry\.interval"):
        project(samples_of(settings, (0, "a", 3.0)), "day", settings, rules_of(stuck_after="1h"))


def test_refused_data_is_not_cleaned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[3] / "params.yaml", tmp_path)
    (tmp_path / "validated.json").write_text('{"success": false}')
    with pytest.raises(UserError, match="says that the raw data was refused"):
        clean.main(tmp_path / "raw", tmp_path / "validated.json", tmp_path / "clean", tmp_path / "clean.json")
    assert not (tmp_path / "clean").exists()
