"""Features: by hand, and for all data against a slow account in plain Python."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from statistics import fmean

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from crashcast import grid, tables
from crashcast.errors import UserError
from crashcast.params.features import Features
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH, INCIDENTS, MAINTENANCE, Partition
from stages import featurize
from stages.featurize import FLEET_LEVELS, against_fleet, round_bits, sum_of_squares

START = datetime(2025, 3, 3)
HOUR = timedelta(hours=1)
DAY = tables.partition_at(START, "day")
GROUPS = {"a": "web", "b": "us-east", "c": "mail"}  # of servers that coverage names
NAN = math.nan
ONE_BIT = 2.0**-11  # a rounded value's neighbour lies this far, relatively


def telemetry_of(interval="1h", **metrics):
    described = {"min": 0, "max": 100}
    return Telemetry.model_validate(
        {
            "interval": interval,
            "partition": "day",
            "metrics": {name: described | rules for name, rules in (metrics or {"cpu_pct": {}}).items()},
        }
    )


def rules_of(**given):
    nothing = {
        "columns": "all",
        "interactions": {},
        "rolling_mean": [],
        "rolling_std": [],
        "rolling_max": [],
        "differences": [],
        "fleet_relative": False,
        "missing_share": [],
        "incident_counts": [],
        "history_cap": "60d",
    }
    return Features.model_validate(nothing | given)


def moments(hours):
    return pl.Series([START + hour * HOUR for hour in hours], dtype=pl.Datetime("us")).dt.replace_time_zone("UTC")


def clean_rows(settings, *rows):
    """Lay (hour, server, value...) out as the table that `clean` writes."""
    hours, servers, *values = zip(*sorted(rows, key=lambda row: row[:2]), strict=True) if rows else ((), ())
    values = values or [()] * len(settings.metrics)
    columns = {name: pl.Series(v, dtype=pl.Float32) for name, v in zip(settings.metrics, values, strict=True)}
    return pl.DataFrame({"timestamp": moments(hours), "server_id": pl.Series(servers, dtype=pl.String), **columns})


def crashes_of(*crashes):
    """Lay (server, started, reported) out as crashes; hours from START."""
    servers, started, reported = zip(*crashes, strict=True) if crashes else ((), (), ())
    return pl.DataFrame(
        {
            "server_id": pl.Series(servers, dtype=pl.String),
            "started_at": moments(started),
            "reported_at": moments(reported),
        }
    )


def coverage_of(*stretches):
    """Lay (server, from, to) out as coverage, with the `GROUPS` of servers; hours from START."""
    servers, begun, ended = zip(*stretches, strict=True) if stretches else ((), (), ())
    return pl.DataFrame(
        {
            "server_id": pl.Series(servers, dtype=pl.String),
            "covered_from": moments(begun),
            "covered_to": moments(ended),
            "group": pl.Series(map(GROUPS.get, servers), dtype=pl.String),
        }
    )


def featurized(rows, settings, rules, crashes=None, partition=DAY, coverage=None):
    """Compute one partition's features from what the stage would hand it; by default all of the past is on record."""
    if coverage is None:
        coverage = coverage_of(*((server, -9999, 9999) for server in rows["server_id"].unique().sort()))
    begin = partition.start - featurize.lookback(settings, rules)
    reached = rows.filter(pl.col("timestamp").is_between(*tables.utc(begin, partition.end), closed="left"))
    known = (crashes_of() if crashes is None else crashes).with_columns(kind=pl.lit(CRASH))
    shown = featurize.crashes_that_show(partition, known, rules)
    recorded = featurize.records_that_reach(partition, coverage, rules)
    kinds = featurize.categories_that_show(partition, coverage, rules)
    frame, counts = featurize.featurize_partition(partition, reached, shown, recorded, kinds, settings, rules)
    assert counts == {"rows": frame.height}
    return frame


def of_server(frame, name, server="a"):
    """Return {hour: value} of one feature."""
    own = frame.filter(pl.col("server_id") == server)
    hours = [(moment.replace(tzinfo=None) - START) / HOUR for moment in own["timestamp"]]
    return dict(zip(hours, own[name].to_list(), strict=True))


def feature(name, *values, settings=None, **rules):
    """Return {hour: value} of one feature of a server that has these hourly values, None where no row is."""
    rows = [(hour, "a", value) for hour, value in enumerate(values) if value is not None]
    settings = settings or telemetry_of()
    return of_server(featurized(clean_rows(settings, *rows), settings, rules_of(**rules)), name)


# by hand


def test_five_rows_that_a_person_can_check():
    settings = telemetry_of(cpu_pct={}, latency_ms={})
    rules = rules_of(
        interactions={"cpu_latency_combo": ["cpu_pct", "latency_ms"]},
        rolling_mean=["2h"],
        rolling_std=["2h"],
        rolling_max=["3h"],
        differences=["1h"],
        fleet_relative=True,
        missing_share=["2h"],
        incident_counts=["3h"],
        history_cap="4h",
    )
    rows = clean_rows(
        settings,
        (0, "a", 10, 2),
        (0, "b", 20, 2),
        (1, "a", 30, 4),
        (3, "a", 50, 8),
        (3, "b", 50, None),
    )
    # a crashed at 00:30, known at 03:00
    frame = featurized(rows, settings, rules, crashes_of(("a", 0.5, 3)))
    expected = {
        "timestamp": moments([0, 0, 1, 3, 3]).to_list(),
        "server_id": ["a", "b", "a", "a", "b"],
        "cpu_pct": [10, 20, 30, 50, 50],
        "cpu_pct_mean_2h": [10, 20, 20, 50, 50],
        "cpu_pct_std_2h": [0, 0, 10, 0, 0],
        "cpu_pct_max_3h": [10, 20, 30, 50, 50],
        "cpu_pct_diff_1h": [None, None, 20, None, None],
        "cpu_pct_vs_fleet": [-1, 1, 0, 0, 0],
        "latency_ms": [2, 2, 4, 8, None],
        "latency_ms_mean_2h": [2, 2, 3, 8, None],
        "latency_ms_std_2h": [0, 0, 1, 0, None],
        "latency_ms_max_3h": [2, 2, 4, 8, None],
        "latency_ms_diff_1h": [None, None, 2, None, None],
        "latency_ms_vs_fleet": [0, 0, 0, 0, None],
        "cpu_latency_combo": [20, 40, 120, 400, None],
        "cpu_latency_combo_mean_2h": [20, 40, 70, 400, None],
        "cpu_latency_combo_std_2h": [0, 0, 50, 0, None],
        "cpu_latency_combo_max_3h": [20, 40, 120, 400, None],
        "cpu_latency_combo_diff_1h": [None, None, 100, None, None],
        "cpu_latency_combo_vs_fleet": [-1, 1, 0, 0, None],
        "missing_share_2h": [0.5, 0.5, 0, 0.5, 0.5],
        "hours_since_crash": [4, 4, 4, 2.5, 4],
        "crashes_3h": [0, 0, 0, 1, 0],
    }
    assert frame.to_dict(as_series=False) == expected
    assert frame.schema == {**tables.KEYS, **dict.fromkeys(frame.columns[2:], pl.Float32)}


def test_windows_are_of_time_and_not_of_rows():
    # no rows at 2 and 3
    values = (1, 2, None, None, 8, 4)
    assert feature("cpu_pct_mean_2h", *values, rolling_mean=["2h"]) == {0: 1, 1: 1.5, 4: 8, 5: 6}
    assert feature("cpu_pct_max_4h", *values, rolling_max=["4h"]) == {0: 1, 1: 2, 4: 8, 5: 8}
    assert feature("cpu_pct_std_4h", *values, rolling_std=["4h"]) == {0: 0, 1: 0.5, 4: 3, 5: 2}
    assert feature("cpu_pct_diff_1h", *values, differences=["1h"]) == {0: None, 1: 1, 4: None, 5: -4}
    assert feature("cpu_pct_diff_3h", *values, differences=["3h"]) == {0: None, 1: None, 4: 6, 5: None}
    assert feature("missing_share_4h", *values, missing_share=["4h"]) == {0: 0.75, 1: 0.5, 4: 0.5, 5: 0.5}


def test_a_window_between_intervals_holds_the_rows_that_lie_in_it():
    assert feature("cpu_pct_mean_90m", 1, 3, 9, rolling_mean=["90m"]) == {0: 1, 1: 2, 2: 6}
    assert feature("cpu_pct_mean_10m", 1, 3, 9, rolling_mean=["10m"]) == {0: 1, 1: 3, 2: 9}


def test_windows_reach_into_the_partition_before():
    settings, rules = telemetry_of(), rules_of(rolling_mean=["2h"], differences=["3h"], missing_share=["4h"])
    rows = clean_rows(settings, (-4, "a", 9), (-3, "a", 8), (-1, "a", 4), (0, "a", 2))
    frame = featurized(rows, settings, rules)
    assert frame.height == 1
    assert frame.row(0)[2:] == (2, 3, -6, 0.25, 60 * 24)


@pytest.mark.parametrize(
    ("kind", "window", "value"),
    [
        ("rolling_mean", "3h", 5),
        ("rolling_std", "3h", 3),
        ("rolling_max", "3h", 8),
        ("differences", "2h", -6),
        ("differences", "90m", -6),
        ("missing_share", "3h", 1 / 3),
    ],
)
def test_each_kind_of_window_reaches_back_by_itself(kind, window, value):
    settings = telemetry_of()
    frame = featurized(clean_rows(settings, (-2, "a", 8), (0, "a", 2)), settings, rules_of(**{kind: [window]}))
    assert frame.row(0)[3] == pytest.approx(value, rel=ONE_BIT)


def test_missing_values_are_no_part_of_a_window_and_make_no_difference():
    values = (4, NAN, 8, NAN, NAN)
    assert feature("cpu_pct", *values) == {0: 4, 1: None, 2: 8, 3: None, 4: None}
    assert feature("cpu_pct_mean_2h", *values, rolling_mean=["2h"]) == {0: 4, 1: 4, 2: 8, 3: 8, 4: None}
    assert feature("cpu_pct_std_3h", *values, rolling_std=["3h"]) == {0: 0, 1: 0, 2: 2, 3: 0, 4: 0}
    assert feature("cpu_pct_max_2h", *values, rolling_max=["2h"]) == {0: 4, 1: 4, 2: 8, 3: 8, 4: None}
    assert feature("cpu_pct_diff_1h", *values, differences=["1h"]) == dict.fromkeys(range(5))
    assert feature("missing_share_2h", *values, missing_share=["2h"])[4] == 0  # it sent a row


@pytest.mark.parametrize("level", [0.1, 33.3, 1e-5, 99999.9])
@pytest.mark.parametrize("before", [0.0, 7.7, 1e5])
def test_a_constant_has_no_spread_whatever_came_before(level, before):
    settings = telemetry_of(cpu_pct={"max": 1e5})
    found = feature("cpu_pct_std_6h", before, before / 3, *[level] * 22, rolling_std=["6h"], settings=settings)
    assert found[1] > 0 or before == 0
    assert {found[hour] for hour in range(7, 24)} == {0}


def test_a_constant_product_has_no_spread_over_a_long_window():
    settings = telemetry_of("5m", cpu_pct={}, latency_ms={})
    rules = rules_of(interactions={"combo": ["cpu_pct", "latency_ms"]}, rolling_std=["1d"])
    frame = featurized(clean_rows(settings, *((k / 12, "a", 7.7, 0.7) for k in range(288))), settings, rules)
    assert frame["combo_std_1d"].unique().to_list() == [0]


def test_a_small_spread_on_a_high_level_is_kept():
    found = feature(
        "cpu_pct_std_2h", 50000, 50001, 50000.5, rolling_std=["2h"], settings=telemetry_of(cpu_pct={"max": 1e5})
    )
    assert found == {0: 0, 1: 0.5, 2: 0.25}


@pytest.mark.parametrize(("steps", "spread"), [(1, 0), (2, 2.0**-23)])
def test_the_smallest_spread_is_that_of_float32(steps, spread):
    values = 1, 1 + steps * 2.0**-23  # their deviation is half of the steps
    assert feature("cpu_pct_std_2h", *values, rolling_std=["2h"])[1] == spread


def test_only_the_chosen_columns_and_what_interactions_need():
    settings = telemetry_of(cpu_pct={}, memory_pct={}, latency_ms={}, disk_pct={})
    rules = rules_of(columns=["disk_pct"], interactions={"combo": ["cpu_pct", "latency_ms"]}, rolling_max=["2h"])
    assert featurize.feature_columns(settings, rules) == ["disk_pct", "cpu_pct", "latency_ms"]
    frame = featurized(clean_rows(settings, (0, "a", 2, 3, 5, 7)), settings, rules)
    assert frame.columns[2:] == ["disk_pct", "disk_pct_max_2h", "combo", "combo_max_2h", "hours_since_crash"]
    assert frame.row(0)[2:6] == (7, 7, 10, 10)


def test_without_any_columns_the_history_remains():
    frame = featurized(clean_rows(telemetry_of(), (0, "a", 2)), telemetry_of(), rules_of(columns=[]))
    assert frame.columns == ["timestamp", "server_id", "hours_since_crash"]


def test_a_metric_may_interact_with_itself():
    rules = {"interactions": {"cpu_squared": ["cpu_pct", "cpu_pct"]}}
    assert feature("cpu_squared", 3, 5, **rules) == {0: 9, 1: 25}


def test_names_of_features_have_the_largest_whole_unit():
    frame = featurized(clean_rows(telemetry_of()), telemetry_of(), rules_of(rolling_mean=["24h", "1d", "90m", "6h"]))
    assert frame.columns[3:-1] == ["cpu_pct_mean_90m", "cpu_pct_mean_6h", "cpu_pct_mean_1d"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"columns": ["cpu"]}, r"features\.columns: no metric 'cpu' in telemetry\.metrics \(cpu_pct, latency_ms\)"),
        ({"interactions": {"x": ["cpu_pct", "lat"]}}, r"features\.interactions\.x: no metric 'lat'"),
        ({"interactions": {"cpu_pct": ["cpu_pct", "latency_ms"]}}, r"interactions\.cpu_pct: a metric has this name"),
    ],
)
def test_a_wrong_name_in_params_is_the_users_to_mend(rules, message):
    with pytest.raises(UserError, match=message):
        featurize.feature_columns(telemetry_of(cpu_pct={}, latency_ms={}), rules_of(**rules))


def test_thirty_eight_anonymous_metrics():
    settings = telemetry_of(**{f"m{k}": {"min": -1, "max": 1} for k in range(38)})
    rules = rules_of(rolling_mean=["6h", "1d"], rolling_std=["1d"], differences=["1d"], fleet_relative=True)
    values = [k / 64 - 0.25 for k in range(38)]
    frame = featurized(clean_rows(settings, (0, "a", *values), (1, "a", *values[::-1])), settings, rules)
    assert len(frame.columns) == 2 + 38 * 6 + 1
    assert frame["m0"].to_list() == [-0.25, values[37]]
    assert frame["m37_mean_6h"].to_list() == [values[37], (values[0] + values[37]) / 2]


# against the fleet


def test_a_server_is_compared_with_the_fleet_at_the_same_moment():
    settings = telemetry_of()
    rows = [(0, "a", 0), (0, "b", 0), (0, "c", 0), (0, "d", 100), (1, "a", 100), (1, "d", 100)]
    frame = featurized(clean_rows(settings, *rows), settings, rules_of(fleet_relative=True))
    third = np.float32(1 / math.sqrt(3))
    assert frame["cpu_pct_vs_fleet"].to_list() == pytest.approx([-third] * 3 + [3 * third, 0, 0], rel=ONE_BIT)


@pytest.mark.parametrize("level", [0, 33.3333, 66.6667, 100, 1e-7])
@pytest.mark.parametrize("servers", [1, 3, 70])
def test_servers_that_all_agree_are_at_nought(level, servers):
    assert (against_fleet(np.full((2, servers), level), (0, 100)) == 0).all()


def test_the_missing_are_no_part_of_the_fleet():
    found = against_fleet(np.array([[10.0, NAN, 30.0], [NAN, NAN, NAN], [5.0, NAN, NAN]]), (0, 100))
    np.testing.assert_allclose(found, [[-1, NAN, 1], [NAN, NAN, NAN], [0, NAN, NAN]], rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_a_negative_range(scale):
    found = against_fleet(scale * np.array([[-3.0, -1.0]]), (min(-4 * scale, 0.0), max(-4 * scale, 0.0)))
    np.testing.assert_allclose(found, [[-scale, scale]], rtol=1e-4)


def test_sums_of_many_samples_do_not_overflow():
    # 3,600 samples in an hour, each in range: far outside the range of one sample
    settings = telemetry_of(requests={"aggregate": "sum"})
    rows = [(0, f"s{server:04}", 180_000.0 * (server % 3)) for server in range(999)]
    frame = featurized(clean_rows(settings, *rows), settings, rules_of(fleet_relative=True))
    third = math.sqrt(1.5)
    assert frame["requests_vs_fleet"].to_list() == pytest.approx([-third, 0, third] * 333, rel=ONE_BIT, abs=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "aggregate", "limits"),
    [
        (-2, 5, "mean", (-2, 5)),
        (-2, 5, "sum", (-7200, 18000)),  # one sample a second, over an hour
        (2, 5, "sum", (2, 18000)),
        (-5, -2, "sum", (-18000, -2)),
    ],
)
def test_the_range_of_a_rows_value(low, high, aggregate, limits):
    telemetry = telemetry_of(cpu_pct={"min": low, "max": high, "aggregate": aggregate})
    assert featurize.limits_of_row(telemetry, "cpu_pct") == limits


def test_a_narrow_range_far_from_nought():
    np.testing.assert_allclose(against_fleet(np.array([[1e6 + 0.25, 1e6 + 0.75]]), (1e6, 1e6 + 1)), [[-1, 1]])


def test_values_beyond_the_range_count_as_at_its_end():
    np.testing.assert_allclose(against_fleet(np.array([[-1e12, 0.0, 100.0, 1e12]]), (0, 100)), [[-1, -1, 1, 1]])


def test_without_a_limit_the_fleet_of_each_moment_sets_the_scale():
    settings = telemetry_of(cpu_pct={"max": None})
    limits = featurize.limits_of_row(settings, "cpu_pct")
    values = np.array([[0.0, 1e-3, 2e-3, NAN], [1e30, 2e30, 3e30, 2e30], [7.0, 7.0, 7.0, 7.0], [NAN, NAN, NAN, NAN]])
    third = math.sqrt(1.5)
    expected = [[-third, 0, third, NAN], [-math.sqrt(2), 0, math.sqrt(2), 0], [0, 0, 0, 0], [NAN, NAN, NAN, NAN]]
    found = against_fleet(values, limits)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(against_fleet(values[:, order].copy(order="C"), limits), found[:, order])


def test_a_difference_of_one_level_is_no_outlier():
    values = np.zeros((1, 100))
    values[0, 7] = 100 / FLEET_LEVELS
    assert against_fleet(values, (0, 100)).max() < 2


def test_a_product_of_negative_values():
    settings = telemetry_of(balance={"min": -1, "max": 1}, outdoor_c={"min": -10, "max": 30})
    rules = rules_of(columns=[], interactions={"combo": ["balance", "outdoor_c"]}, fleet_relative=True)
    rows = clean_rows(settings, (0, "a", -1, 30), (0, "b", -1, -10), (0, "c", 1, -10), (0, "d", 1, 30))
    expected = (np.array([-30, 10, -10, 30]) - 0) / math.sqrt((900 + 100) / 2)
    assert featurized(rows, settings, rules)["combo_vs_fleet"].to_list() == pytest.approx(expected, rel=ONE_BIT)


def test_the_largest_fleet_fits():
    values = np.zeros((1, 2**18))
    values[0, ::2] = 100
    found = against_fleet(values, (0, 100))
    np.testing.assert_allclose(found[0, :2], [1, -1])


fleets = st.lists(st.one_of(st.just(NAN), st.floats(0, 100, width=32)), min_size=1, max_size=30)


@given(fleets, st.randoms(use_true_random=False))
def test_the_order_of_servers_changes_no_bit(values, random):
    order = random.sample(range(len(values)), len(values))
    straight = against_fleet(np.array([values]), (0, 100))[0]
    np.testing.assert_array_equal(against_fleet(np.array([values])[:, order], (0, 100))[0], straight[order])


@given(fleets, st.integers(0, 30))
def test_sums_over_shards_of_the_fleet_give_the_whole(values, cut):
    there = [round(value * (FLEET_LEVELS / 100)) for value in values if value == value]
    assume(there)
    shards = there[:cut], there[cut:]
    count, total, squares = (
        sum(sum(of(level) for level in shard) for shard in shards) for of in (lambda _: 1, lambda x: x, lambda x: x * x)
    )
    mean = Fraction(total, count)
    variance = max(Fraction(squares, count) - mean**2, Fraction(1, 4))
    expected = [float(round(v * (FLEET_LEVELS / 100)) - mean) / math.sqrt(variance) if v == v else NAN for v in values]
    np.testing.assert_allclose(against_fleet(np.array([values]), (0, 100))[0], expected, rtol=1e-6, atol=1e-6)


# what is known of crashes


def history(*crashes, hours=range(12), counts=("3h",), cap="5h", covered=(("a", -9999, 9999),)):
    settings, rules = telemetry_of(), rules_of(incident_counts=list(counts), history_cap=cap)
    rows = clean_rows(settings, *((hour, "a", 1) for hour in hours))
    frame = featurized(rows, settings, rules, crashes_of(*crashes), coverage=coverage_of(*covered))
    return list(of_server(frame, "hours_since_crash").values()), list(of_server(frame, "crashes_3h").values())


def test_a_crash_shows_from_when_it_was_reported():
    since, counts = history(("a", 2, 4))
    assert since == [5, 5, 5, 5, 2, 3, 4, 5, 5, 5, 5, 5]
    assert counts == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]  # in (t - 3h, t]


def test_a_row_knows_what_was_reported_by_its_own_moment():
    second = 1 / 3600
    assert history(("a", 2, 4 + second))[0][4:6] == [5, 3]
    assert history(("a", 4, 4))[0][3:6] == [5, 0, 1]


def test_a_crash_reported_before_it_started_shows_from_its_start():
    since, counts = history(("a", 4, 1))
    assert since == [5, 5, 5, 5, 0, 1, 2, 3, 4, 5, 5, 5]
    assert counts == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert history(("a", 99, 1)) == history()


def test_a_later_report_of_an_earlier_crash_does_not_reset_the_clock():
    since, counts = history(("a", 1, 8), ("a", 4, 5))
    assert since == [5, 5, 5, 5, 5, 1, 2, 3, 4, 5, 5, 5]
    assert counts == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]


def test_the_last_crash_counts_and_all_are_counted():
    since, counts = history(("a", 1, 1), ("a", 2, 2), ("a", 6, 7))
    assert since == [5, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert counts == [0, 1, 2, 2, 1, 0, 0, 1, 1, 0, 0, 0]


def test_crashes_before_the_partition_and_between_its_rows():
    since, _ = history(("a", -2, -1), ("a", 6.25, 6.5), hours=[0, 1, 9])
    assert since == [2, 3, 2.75]


def test_a_window_longer_than_the_cap_still_counts():
    settings, rules = telemetry_of(), rules_of(incident_counts=["2d"], history_cap="1h")
    rows = clean_rows(settings, (0, "a", 1), (1, "a", 1))
    frame = featurized(rows, settings, rules, crashes_of(("a", -48, -47), ("a", -47, -47), ("a", -46.5, -40)))
    assert frame["crashes_2d"].to_list() == [2, 1]  # -48 lies outside (0 - 48, 0], -47 outside (1 - 48, 1]
    assert frame["hours_since_crash"].to_list() == [1, 1]


def test_other_servers_crashes_do_not_show():
    assert history(("b", 2, 2), ("not in the telemetry", 3, 3)) == history()


def test_only_crashes_that_can_show_are_handed_to_a_partition():
    kinds = pl.Series([CRASH, MAINTENANCE, CRASH, CRASH])
    # the third is older than the cap, the fourth is reported only after the partition
    incidents = crashes_of(("a", 1, 1), ("a", 2, 2), ("a", -6, 2), ("a", 3, 24)).with_columns(kind=kinds)
    shown = featurize.crashes_that_show(DAY, incidents, rules_of(history_cap="5h"))
    assert shown.equals(crashes_of(("a", 1, 1)))


def test_an_incident_before_the_records_began_is_invisible():
    # records begin at 2: known from 5 on for the count over 3 hours, from 7 on for the cap of 5
    covered = [("a", 2, 99)]
    nothing = history(covered=covered)
    assert nothing == ([None] * 7 + [5] * 5, [None] * 5 + [0] * 7)
    assert history(("a", 1.9, 4), ("a", -3, -3), covered=covered) == nothing


def test_a_crash_since_the_records_began_is_known():
    since, counts = history(("a", 2, 3), ("a", 1.5, 6), covered=[("a", 2, 99)])
    assert since == [None, None, None, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert counts == [None] * 5 + [0] * 7
    assert history(("a", 4, 4), covered=[("a", 2, 99)])[1] == [None] * 5 + [1, 1, 0, 0, 0, 0, 0]


def test_without_coverage_no_history_is_known():
    unknown = [None] * 12, [None] * 12
    assert history(("a", 2, 2), covered=[]) == unknown
    assert history(("a", 2, 2), covered=[("b", -99, 99), ("a", 5, 5), ("a", 12, 99)]) == unknown


def test_after_a_hole_in_the_records_history_begins_anew():
    covered = [("a", -99, 3), ("a", 6, 99)]
    since, counts = history(("a", 2, 2), ("a", 4, 4), ("a", 7, 8), covered=covered)
    # in the hole, and until enough is known of what came after it
    assert since == [5, 5, 0, 1, 0, 1, None, None, 1, 2, 3, 4]
    assert counts == [0, 0, 1, 1, 2, 1, None, None, None, 1, 0, 0]


@pytest.mark.parametrize(
    "covered",
    [
        [("a", -99, 3), ("a", 3, 99)],
        [("a", 2, 99), ("a", -99, 4)],
        [("a", -99, 99), ("a", 1, 2), ("a", 5, 6)],
        [("a", -99, -5), ("a", -6, 4), ("a", 1, 4), ("a", 4, 5)],
    ],
)
def test_stretches_that_touch_or_overlap_are_one(covered):
    crashes = ("a", 2, 2), ("a", 4, 4), ("a", 7, 8)
    assert history(*crashes, covered=covered) == history(*crashes)


def test_only_the_records_that_reach_are_handed_to_a_partition():
    rules = rules_of(incident_counts=["8h"], history_cap="5h")

    def reach(*stretches):
        return featurize.records_that_reach(DAY, coverage_of(*stretches), rules)

    expected = coverage_of(("a", -8, 0), ("b", 3, 0), ("c", -2, 0), ("c", 9, 0)).drop("covered_to", "group")
    stretches = ("b", 3, 99), ("c", -2, 7), ("c", 9, 20)
    for longer in (("a", -8, 40), ("a", -9, 24), ("a", -999, 99)):
        assert reach(longer, *stretches).equals(expected.rename({"covered_from": "known_since"}))
    same = reach(("a", -9, 24), *stretches)
    # a stretch that another follows before the partition, and what begins after its end
    others = ("a", -99, -50), ("c", -20, -6), ("c", -5, -3), ("b", 100, 200), ("c", 24, 30), ("d", 24, 99)
    assert reach(*others, ("a", -9, 24), *stretches).equals(same)


# categories


def test_each_listed_group_is_a_feature_of_ones_and_zeros():
    rules = rules_of(categories={"group": ["web", "us-east"]})
    rows = clean_rows(telemetry_of(), *((0, server, 1) for server in "abcdx"))
    frame = featurized(rows, telemetry_of(), rules, coverage=coverage_of(*((server, -9, 9) for server in "abcd")))
    assert frame.columns[-2:] == ["group_is_web", "group_is_us_east"]
    assert frame.schema["group_is_web"] == pl.Float32
    # mail is not listed, d has no group, coverage does not know x
    assert frame["group_is_web"].to_list() == [1, 0, 0, 0, 0]
    assert frame["group_is_us_east"].to_list() == [0, 1, 0, 0, 0]


def test_a_group_is_known_from_the_first_coverage_on():
    rules = rules_of(categories={"group": ["web"]})
    rows = clean_rows(telemetry_of(), *((hour, "a", 1) for hour in range(5)))
    later, ended = ("a", 2, 3), ("a", 1.5, 1.5)
    for stretches, since in (((later,), 2), ((ended, later), 2), ((("a", 30, 40),), 99), ((later, ("a", -99, -50)), 0)):
        frame = featurized(rows, telemetry_of(), rules, coverage=coverage_of(*stretches))
        assert frame["group_is_web"].to_list() == [hour >= since for hour in range(5)]


def test_a_partition_does_not_depend_on_servers_that_come_later_or_have_other_groups():
    rules = rules_of(categories={"group": ["web"]})
    some = featurize.categories_that_show(DAY, coverage_of(("a", -9, 99)), rules)
    assert some.rows() == [("group_is_web", "a", moments([0])[0])]
    more = coverage_of(("a", -99, -50), ("a", -9, 999), ("b", -9, 99), ("a", 30, 99), ("d", 0, 9))
    assert featurize.categories_that_show(DAY, more, rules).equals(some)
    assert featurize.categories_that_show(DAY, more, rules_of()).is_empty()


def test_names_of_categories_are_plain_and_distinct():
    values = ["r740 xd", "r740-xd", "r740_xd_2", "Zürich", "", "r740/xd"]
    assert list(rules_of(categories={"group": values}).flags().items()) == [
        ("group_is_r740_xd", ("group", "r740 xd")),
        ("group_is_r740_xd_2", ("group", "r740-xd")),
        ("group_is_r740_xd_2_2", ("group", "r740_xd_2")),
        ("group_is_Z_rich", ("group", "Zürich")),
        ("group_is_", ("group", "")),
        ("group_is_r740_xd_3", ("group", "r740/xd")),
    ]


def test_a_metric_named_like_a_category_is_refused():
    with pytest.raises(UserError, match="two features would be called 'group_is_web'"):
        feature("group_is_web", 1, settings=telemetry_of(group_is_web={}), categories={"group": ["web"]})


# rounding


floats = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


def rounded(value):
    return float(round_bits(np.array([value]))[0])


@given(floats)
def test_rounding_errs_by_half_a_unit_of_twelve_bits(value):
    assume(abs(value) < 2.0**127)
    assert abs(rounded(value) - value) <= 2.0**-12 * abs(value)
    assert rounded(-value) == -rounded(value)


@given(st.floats(-(2.0**127), 2.0**127, allow_subnormal=False))
def test_values_in_float64_err_no_more(value):
    assume(abs(value) > 2.0**-126 or value == 0)
    assert abs(rounded(value) - value) <= 2.0**-12 * abs(value)


@given(floats)
def test_rounding_again_changes_nothing(value):
    once = round_bits(np.array([value], dtype=np.float32))
    np.testing.assert_array_equal(round_bits(once), once)


@given(floats, floats)
def test_rounding_keeps_the_order(left, right):
    low, high = sorted((left, right))
    assert rounded(low) <= rounded(high)


@given(st.integers(-4096, 4096), st.integers(-60, 60))
def test_twelve_bits_are_kept_exactly(mantissa, exponent):
    value = math.ldexp(mantissa, exponent)
    assert rounded(value) == value


def test_halves_go_to_even():
    bit = 2.0**-11
    assert [rounded(1 + k * bit) for k in (0.5, 1.5, 2.5, 2.51)] == [1, 1 + 2 * bit, 1 + 2 * bit, 1 + 3 * bit]


def test_what_is_no_number_stays_what_it_is():
    special = np.array([NAN, -NAN, np.inf, -np.inf, 0.0, -0.0])
    np.testing.assert_array_equal(round_bits(special), special.astype(np.float32))
    assert np.signbit(round_bits(special)).tolist() == np.signbit(special).tolist()
    strange = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], dtype=np.uint32).view(np.float32)
    assert np.isnan(round_bits(strange)).all()
    assert round_bits(np.zeros((0,))).shape == (0,)


# nothing much


EVERYTHING = rules_of(
    rolling_mean=["2h"],
    rolling_std=["3h"],
    rolling_max=["3h"],
    differences=["1h"],
    fleet_relative=True,
    missing_share=["4h"],
    incident_counts=["2h", "1d"],
    categories={"group": ["web", "us-east", "us east"]},
    interactions={"combo": ["cpu_pct", "latency_ms"]},
    history_cap="8h",
)
TWO = telemetry_of(cpu_pct={"max": 70}, latency_ms={"min": -3, "max": 60})


@pytest.mark.parametrize("hours", [[], [-1]], ids=["no rows", "rows of the day before alone"])
def test_without_rows_there_are_no_features(hours):
    frame = featurized(
        clean_rows(TWO, *((hour, "a", 1, 2) for hour in hours)), TWO, EVERYTHING, crashes_of(("a", 1, 1))
    )
    assert frame.height == 0
    assert frame.columns[-6:-3] == ["hours_since_crash", "crashes_2h", "crashes_1d"]
    assert frame.columns[-3:] == ["group_is_web", "group_is_us_east", "group_is_us_east_2"]


def test_one_server_and_one_row():
    frame = featurized(clean_rows(TWO, (5, "a", 3, 4)), TWO, EVERYTHING)
    values = frame.row(0, named=True)
    assert [values[name] for name in ("cpu_pct_vs_fleet", "cpu_pct_std_3h", "combo", "missing_share_4h")] == [
        0,
        0,
        12,
        0.75,
    ]
    assert values["cpu_pct_diff_1h"] is None


def test_a_metric_that_is_never_there():
    rows = clean_rows(TWO, (0, "a", None, 4), (1, "a", None, 6), (1, "b", 5, 7))
    frame = featurized(rows, TWO, EVERYTHING).filter(pl.col("server_id") == "a")
    empty = [name for name in frame.columns if frame[name].null_count() == frame.height]
    assert [name for name in frame.columns if name.startswith(("cpu", "combo"))] == empty
    whole = featurized(rows.with_columns(cpu_pct=pl.lit(None, pl.Float32)), TWO, EVERYTHING)
    assert whole["cpu_pct_vs_fleet"].null_count() == whole.height
    assert whole["latency_ms_mean_2h"].to_list() == [4, 5, 7]


def test_a_server_that_appears_later_changes_nothing_before():
    rows = clean_rows(TWO, (0, "b", 1, 2), (1, "b", 3, 4))
    later = clean_rows(TWO, (0, "b", 1, 2), (1, "b", 3, 4), (2, "a", 60, 60), (2, "c", 60, 60))
    assert featurized(later, TWO, EVERYTHING).head(2).equals(featurized(rows, TWO, EVERYTHING))


# for all data


def account(rows, crashes, coverage, settings, rules, hour, server):
    """Compute one row's features slowly, from all rows and crashes ever."""
    cells = {(h, s): dict(zip(settings.metrics, map(to_float32, v), strict=True)) for h, s, *v in rows}

    def window(name, length, at=server):
        begin = hour - length / HOUR
        values = [cell[name] for (h, s), cell in cells.items() if s == at and begin < h <= hour]
        return [value for value in values if value is not None]

    ranges = {name: (metric.min, metric.max) for name, metric in settings.metrics.items()}
    for name, (left, right) in rules.interactions.items():
        corners = [x * y for x in ranges[left] for y in ranges[right]]
        ranges[name] = min(corners), max(corners)
        for cell in cells.values():
            pair = cell[left], cell[right]
            cell[name] = None if None in pair else pair[0] * pair[1]

    found = {}
    for name, (low, high) in ranges.items():
        value = cells[hour, server][name]
        found[name] = value
        for length in rules.rolling_mean:
            values = window(name, length)
            found[f"{name}_mean_{length // HOUR}h"] = fmean(values) if values else None
        for length in rules.rolling_std:
            values = [Fraction(v) for v in window(name, length)]
            mean = sum(values) / max(1, len(values))
            spread = math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values)))
            found[f"{name}_std_{length // HOUR}h"] = spread if values else None
        for length in rules.rolling_max:
            found[f"{name}_max_{length // HOUR}h"] = max(window(name, length), default=None)
        for length in rules.differences:
            earlier = cells.get((hour - length // HOUR, server), {}).get(name)
            found[f"{name}_diff_{length // HOUR}h"] = None if None in (value, earlier) else value - earlier
        scale = FLEET_LEVELS / (high - low)
        fleet = [
            Fraction(round((c[name] - low) * scale)) for (h, _), c in cells.items() if h == hour and c[name] is not None
        ]
        if value is not None:
            mean = sum(fleet) / len(fleet)
            spread = math.sqrt(max(sum((v - mean) ** 2 for v in fleet) / len(fleet), Fraction(1, 4)))
            found[f"{name}_vs_fleet"] = float(round((value - low) * scale) - mean) / spread
        else:
            found[f"{name}_vs_fleet"] = None
    for length in rules.missing_share:
        rows_in = length // HOUR
        sent = sum((hour - age, server) in cells for age in range(rows_in))
        found[f"missing_share_{rows_in}h"] = 1 - sent / rows_in
    begun = known_since(coverage, hour, server)
    known = [started for s, started, reported in crashes if s == server and max(started, reported) <= hour]
    cap = rules.history_cap / HOUR
    since = [hour - started for started in known if started >= begun and hour - started <= cap]
    found["hours_since_crash"] = min(since) if since else cap if hour - cap >= begun else None
    for length in rules.incident_counts:
        name = "1d" if length == 24 * HOUR else f"{length // HOUR}h"
        count = sum(started > hour - length / HOUR for started in known)
        found[f"crashes_{name}"] = count if hour - length / HOUR >= begun else None
    covers = [start for s, start, _ in coverage if s == server]
    for name, group in (("web", "web"), ("us_east", "us-east"), ("us_east_2", "us east")):
        found[f"group_is_{name}"] = float(GROUPS.get(server) == group and min(covers, default=math.inf) <= hour)
    return found


def known_since(coverage, hour, server):
    """Return the start of the latest stretch that began by `hour`: hours from START, infinite where there is none."""
    begun, ended = math.inf, -math.inf
    for start, end in sorted((start, end) for s, start, end in coverage if s == server and start < end):
        if start > hour:
            break
        begun, ended = (start if start > ended else begun), max(ended, end)
    return begun


def to_float32(value):
    return None if value is None else float(np.float32(value))


cpu = st.one_of(st.none(), st.sampled_from([0.0, 5.0, 70.0]), st.floats(0, 70, width=32, allow_subnormal=False))
latency = st.one_of(st.none(), st.sampled_from([0.0, 60.0]), st.floats(-3, 60, width=32, allow_subnormal=False))
telemetries = st.dictionaries(
    st.tuples(st.integers(-8, 23), st.sampled_from("abc")), st.tuples(cpu, latency), max_size=40
).map(lambda cells: [(*key, *values) for key, values in cells.items()])
half_hours = st.integers(-80, 60).map(lambda n: n / 2)
reports = st.lists(st.tuples(st.sampled_from("abcx"), half_hours, half_hours), max_size=6)
stretches = st.lists(st.tuples(st.sampled_from("abcx"), half_hours, half_hours), max_size=6)
coverages = stretches | stretches.map(lambda some: [*some, *((server, -99, 99) for server in "abc")])


@hypothesis_settings(deadline=None, max_examples=100)
@given(telemetries, reports, coverages)
def test_features_agree_with_the_slow_account(rows, crashes, covered):
    frame = featurized(clean_rows(TWO, *rows), TWO, EVERYTHING, crashes_of(*crashes), coverage=coverage_of(*covered))
    keys = sorted((hour, server) for hour, server, *_ in rows if hour >= 0)
    assert frame.select("timestamp", "server_id").rows() == [(moments([hour])[0], server) for hour, server in keys]
    for values, (hour, server) in zip(frame.iter_rows(named=True), keys, strict=True):
        expected = account(rows, crashes, covered, TWO, EVERYTHING, hour, server)
        assert list(values)[2:] == list(expected)
        for name, wanted in expected.items():
            # the spread of nearly equal values is known to the resolution of float32
            near = 70 * 60 * 2.0**-22 if "_std_" in name else 1e-9
            assert values[name] == (None if wanted is None else pytest.approx(wanted, rel=ONE_BIT, abs=near)), name


@hypothesis_settings(deadline=None, max_examples=50)
@given(telemetries, reports, coverages, st.lists(st.integers(-7, 23), unique=True, max_size=5))
def test_any_division_into_partitions_gives_the_same_bits(rows, crashes, covered, borders):
    table, known, recorded = clean_rows(TWO, *rows), crashes_of(*crashes), coverage_of(*covered)
    edges = [START + hour * HOUR for hour in [-8, *sorted(borders), 24]]
    pieces = [featurized(table, TWO, EVERYTHING, known, Partition(*edge, "day"), recorded) for edge in pairwise(edges)]
    whole = featurized(table, TWO, EVERYTHING, known, Partition(edges[0], edges[-1], "day"), recorded)
    assert whole.height == len(rows)
    assert pl.concat(pieces).equals(whole)


@pytest.mark.parametrize("servers", [1, 7, 512])
def test_the_size_of_the_pieces_changes_no_byte(servers, tmp_path, monkeypatch):
    draw = np.random.default_rng(5)
    names = [f"s{number:03}" for number in range(40)]
    rows = [(hour, name, *draw.normal(20, 9, 2)) for hour in range(-5, 24) for name in names if draw.random() < 0.97]
    rows = [(hour, name, cpu if draw.random() < 0.97 else None, latency) for hour, name, cpu, latency in rows]
    crashes = crashes_of(*((names[draw.integers(40)], hour, hour + 1) for hour in range(-9, 24)))

    def written(cells):
        monkeypatch.setattr(grid, "PIECE_CELLS", cells)
        tables.write(tmp_path / "out.parquet", featurized(clean_rows(TWO, *rows), TWO, EVERYTHING, crashes))
        return (tmp_path / "out.parquet").read_bytes()

    assert written(servers * 24) == written(10**9)


def test_the_sums_of_a_fleet_of_many_pieces_are_exact():
    level = np.random.default_rng(1).integers(0, FLEET_LEVELS + 1, (2, 20_000))
    expected = [sum(value**2 for value in row) for row in level.tolist()]
    assert sum_of_squares(level.astype(float)).tolist() == expected
    assert sum_of_squares(np.full((1, 2**18), float(FLEET_LEVELS))).tolist() == [2**18 * FLEET_LEVELS**2]


# the stage


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write params.yaml, clean rows and incidents, run the stage, and return its rows."""
    monkeypatch.chdir(tmp_path)

    def run(rows, incidents, unit, settings, rules):
        params = {
            "telemetry": settings.model_dump(mode="json") | {"partition": unit},
            "features": rules.model_dump(mode="json"),
            "incidents": {"reporting_delay": "4h", "unresolved_outage": "1d"},
            "execution": {"workers": 1, "memo_gb": 0},
        }
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        tables.write(tmp_path / "incidents.parquet", incidents)
        clean, out = tmp_path / f"clean-{unit}", tmp_path / f"features-{unit}"
        for partition in {tables.partition_at(moment.replace(tzinfo=None), unit) for moment in rows["timestamp"]}:
            inside = pl.col("timestamp").is_between(*tables.utc(partition.start, partition.end), closed="left")
            tables.write(partition.path(clean), rows.filter(inside))
        tables.write(tmp_path / "coverage.parquet", coverage_of(("a", -9999, 9999), ("b", 20, 9999)))
        featurize.main(clean, tmp_path / "incidents.parquet", tmp_path / "coverage.parquet", out)
        assert [p.name for p in tables.partitions(out)] == [p.name for p in tables.partitions(clean)]
        return {p.name: tables.read(p.path(out)) for p in tables.partitions(out)}

    return run


def tickets(*rows):
    """Lay (server, kind, started, reported) out as incident records."""
    servers, kinds, started, reported = zip(*rows, strict=True)
    frame = pl.DataFrame({"server_id": servers, "kind": kinds, "started_at": moments(started)})
    known = pl.Series([None if hour is None else START + hour * HOUR for hour in reported], dtype=pl.Datetime("us"))
    frame = frame.with_columns(reported_at=known.dt.replace_time_zone("UTC"))
    missing = {name: pl.lit(None, dtype) for name, dtype in INCIDENTS.items() if name not in frame.columns}
    return frame.with_columns(**missing).select(*INCIDENTS)


def test_months_weeks_and_days_with_a_month_without_data_between(project):
    settings = telemetry_of("15m")
    rules = rules_of(
        rolling_mean=["6h"], rolling_std=["1d"], rolling_max=["2d"], differences=["1d"], fleet_relative=True,
        missing_share=["36h"], incident_counts=["1d", "30d"], history_cap="60d",
    )  # fmt: skip
    draw = np.random.default_rng(3)
    quarters = [q / 4 for q in [*range(-400, 500), *range(5700, 5900)] if draw.random() < 0.9]
    rows = clean_rows(settings, *((hour, server, 100 * draw.random()) for hour in quarters for server in "ab"))
    incidents = tickets(("a", CRASH, -30, None), ("b", CRASH, 50, 51), ("b", CRASH, 52, 1430), ("a", MAINTENANCE, 0, 0))
    by_unit = {unit: project(rows, incidents, unit, settings, rules) for unit in ("month", "week", "day")}
    assert list(by_unit["month"]) == ["month=2025-02", "month=2025-03", "month=2025-05"]
    whole = pl.concat(by_unit["month"].values())
    assert whole.select("timestamp", "server_id").equals(rows.select("timestamp", "server_id"))
    for unit in ("week", "day"):
        assert pl.concat(by_unit[unit].values()).equals(whole)


def test_a_ticket_without_a_report_is_known_after_the_delay(project):
    rules = rules_of(history_cap="9h")
    rows = clean_rows(telemetry_of(), *((hour, "a", 1) for hour in range(8)))
    found = project(rows, tickets(("a", CRASH, 1, None), ("a", MAINTENANCE, 2, 2)), "day", telemetry_of(), rules)
    assert found["day=2025-03-03"]["hours_since_crash"].to_list() == [9, 9, 9, 9, 9, 4, 5, 6]


def test_a_partition_depends_on_its_own_slice_alone(project):
    settings, rules = telemetry_of(), rules_of(rolling_mean=["3h"], fleet_relative=True, history_cap="6h")
    rows = clean_rows(settings, *((hour, server, hour % 7) for hour in range(-30, 30) for server in "ab"))
    # outside (today - 3h, tomorrow) everything is different, and so are crashes beyond the cap or reported later
    begin, end = tables.utc(DAY.start - 3 * HOUR, DAY.end)
    inside = pl.col("timestamp").is_between(begin, end, closed="left")
    other = rows.with_columns(pl.when(inside).then("cpu_pct").otherwise(99).cast(pl.Float32).alias("cpu_pct"))
    crash = ("a", CRASH, 5, 6)
    before = project(rows, tickets(crash), "day", settings, rules)
    after = project(other, tickets(crash, ("a", CRASH, -7, -6), ("a", CRASH, 2, 24)), "day", settings, rules)
    assert after["day=2025-03-03"].equals(before["day=2025-03-03"])
    assert not after["day=2025-03-04"].equals(before["day=2025-03-04"])


def test_a_metric_named_like_a_feature_is_refused():
    with pytest.raises(UserError, match="two features would be called 'hours_since_crash'"):
        feature("hours_since_crash", 1, settings=telemetry_of(hours_since_crash={"max": 10}))
