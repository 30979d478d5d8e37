"""Make the pattern before a crash visible to a model.

In: the clean rows and the incidents. Out: keys and features only, float32 with `SIGNIFICANT_BITS` bits, the same
columns in every partition.

Every feature at t uses rows at or before t, and incidents that had been reported by t: looking forward even once is
how crash predictors get good on paper and useless on call. `features` in params.yaml says which columns and windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import partitions, tables
from crashcast.errors import UserError
from crashcast.grid import Bools, Floats, Grid, lag, window_max, window_sum
from crashcast.params import Features, Incidents, Telemetry, format_duration
from crashcast.partitions import Period, Task
from crashcast.tables import CRASH, Partition

SIGNIFICANT_BITS = 12  # more are noise to a model, differ between CPU types and do not compress
FLOAT32_RESOLUTION = 2.0**-24
FLEET_LEVELS = 2**22  # squares of so many levels, summed over 2^18 servers, still fit 63 bits


def main(clean: Path, incidents: Path, out: Path) -> None:
    """Compute the features of every partition of `clean`."""
    settings, rules = Telemetry.read(), Features.read()
    columns = (*tables.KEYS, *feature_columns(settings, rules))
    reach = lookback(settings, rules)
    records = tables.read_incidents(incidents, Incidents.read())
    tasks = [
        Task(
            partition,
            {
                "rows": Period(clean, partition.start - reach, partition.end, columns),
                "crashes": crashes_that_show(partition, records, rules),
                "settings": settings,
                "rules": rules,
            },
        )
        for partition in tables.partitions(clean)
    ]
    partitions.run("featurize", featurize_partition, tasks, out)


def feature_columns(settings: Telemetry, rules: Features) -> list[str]:
    """Return the metrics that features are made of.

    Raises
    ------
    UserError
        Where `features` names a metric that the telemetry does not have, or an interaction has a metric's name.
    """
    columns = list(settings.metrics) if rules.columns == "all" else list(rules.columns)
    used = {"columns": columns, **{f"interactions.{name}": pair for name, pair in rules.interactions.items()}}
    for key, names in used.items():
        for name in names:
            if name not in settings.metrics:
                known = ", ".join(settings.metrics)
                raise UserError(f"params.yaml: features.{key}: no metric '{name}' in telemetry.metrics ({known})")
    if taken := [name for name in rules.interactions if name in settings.metrics]:
        raise UserError(f"params.yaml: features.interactions.{taken[0]}: a metric has this name, choose another")
    return list(dict.fromkeys([*columns, *(name for pair in rules.interactions.values() for name in pair)]))


def lookback(settings: Telemetry, rules: Features) -> timedelta:
    """Return how far before a row its longest window over telemetry reaches, in whole intervals."""
    windows = [rules.rolling_mean, rules.rolling_std, rules.rolling_max, rules.differences, rules.missing_share]
    longest = max((window for kind in windows for window in kind), default=timedelta(0))
    return -(-longest // settings.interval) * settings.interval


def crashes_that_show(partition: Partition, incidents: pl.DataFrame, rules: Features) -> pl.DataFrame:
    """Return the crashes that can touch a partition's features: started within the cap, reported by its end."""
    reach = max([rules.history_cap, *rules.incident_counts])
    start, end = tables.utc(partition.start - reach, partition.end)
    touching = (pl.col("kind") == CRASH) & (pl.col("started_at") >= start) & (pl.col("reported_at") < end)
    return incidents.filter(touching).select("server_id", "started_at", "reported_at")


def featurize_partition(
    partition: Partition, rows: pl.DataFrame, crashes: pl.DataFrame, settings: Telemetry, rules: Features
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Compute the features of one partition.

    Parameters
    ----------
    partition : Partition
        The rows wanted.
    rows : DataFrame
        Clean rows from `lookback` before the partition to its end, sorted by (timestamp, server_id).
    crashes : DataFrame
        `server_id`, `started_at`, `reported_at`.
    settings, rules : Telemetry, Features
        The parameters.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id` and float32 features, null where their window holds nothing.
    dict
        The number of `rows`.
    """
    grid = Grid.over(partition.start - lookback(settings, rules), partition.end, settings.interval, rows["server_id"])
    cells = grid.cells(rows["timestamp"], rows["server_id"])
    exists = np.zeros(grid.shape, dtype=bool)
    exists.ravel()[cells] = True
    here = exists & (grid.times >= np.datetime64(partition.start))[:, None]

    frame = grid.keys(here)
    features: dict[str, pl.Series] = {}

    def keep(named: Iterator[tuple[str, Floats]]) -> None:
        for name, values in named:
            if name in features:
                raise UserError(
                    f"params.yaml: two features would be called '{name}': rename that metric or interaction"
                )
            features[name] = pl.Series(name, round_bits(values[here]), nan_to_null=True)

    dense = {
        name: grid.dense(cells, rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy())
        for name in feature_columns(settings, rules)
    }
    for name, values in dense.items():
        if rules.columns == "all" or name in rules.columns:
            keep(metric_features(name, values, limits_of_row(settings, name), grid, rules))
    for name, (left, right) in rules.interactions.items():
        corners = [x * y for x in limits_of_row(settings, left) for y in limits_of_row(settings, right)]
        keep(metric_features(name, dense[left] * dense[right], (min(corners), max(corners)), grid, rules))
    keep(missing_features(exists, grid, rules))
    keep(history_features(crashes, grid, rules))
    return frame.with_columns(features.values()), {"rows": frame.height}


def limits_of_row(settings: Telemetry, name: str) -> tuple[float, float]:
    """Return the range of a metric's rows: that of its samples, or of a sum of one sample a second."""
    metric = settings.metrics[name]
    samples = settings.interval / timedelta(seconds=1) if metric.aggregate == "sum" else 1
    return min(metric.min, metric.min * samples), max(metric.max, metric.max * samples)


def metric_features(
    name: str, values: Floats, limits: tuple[float, float], grid: Grid, rules: Features
) -> Iterator[tuple[str, Floats]]:
    """Yield the level of a metric, its windows, differences and place in the fleet, each of shape (T, S)."""
    yield name, values
    observed = ~np.isnan(values)
    level = np.where(observed, values, 0.0)
    square = level**2
    for window in sorted({*rules.rolling_mean, *rules.rolling_std}):
        steps = grid.steps(window)
        with np.errstate(invalid="ignore", divide="ignore"):
            count = window_sum(observed, steps)
            mean = window_sum(level, steps) / count
            if window in rules.rolling_mean:
                yield f"{name}_mean_{format_duration(window)}", mean
            if window in rules.rolling_std:
                variance = window_sum(square, steps) / count - mean**2
                # a spread below the resolution of float32, which the values come in, is the rounding's own
                spread = np.where(variance <= mean**2 * FLOAT32_RESOLUTION**2, 0.0, variance)
                yield f"{name}_std_{format_duration(window)}", np.sqrt(spread)
    for window in rules.rolling_max:
        yield f"{name}_max_{format_duration(window)}", window_max(values, grid.steps(window))
    for window in rules.differences:
        yield f"{name}_diff_{format_duration(window)}", values - lag(values, grid.steps(window))
    if rules.fleet_relative:
        yield f"{name}_vs_fleet", against_fleet(values, limits)


def against_fleet(values: Floats, limits: tuple[float, float]) -> Floats:
    """Return how many standard deviations each server is from the fleet's mean at the same moment.

    The sums run over whole numbers, so they are exact: in any order, over any split of the fleet into shards.

    Parameters
    ----------
    values : array of shape (T, S)
        NaN where missing.
    limits : (float, float)
        The metric's range, divided into `FLEET_LEVELS` levels.
    """
    low, high = limits
    observed = ~np.isnan(values)
    scale = FLEET_LEVELS / (high - low)
    level = np.where(observed, np.rint((np.clip(values, low, high) - low) * scale), 0).astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        count = observed.sum(axis=1, keepdims=True)
        mean = level.sum(axis=1, keepdims=True) / count
        variance = (level**2).sum(axis=1, keepdims=True) / count - mean**2
        # half a level is the rounding's own: servers that all agree are at 0, not at 0/0
        return np.where(observed, (level - mean) / np.sqrt(np.maximum(variance, 0.25)), np.nan)


def missing_features(exists: Bools, grid: Grid, rules: Features) -> Iterator[tuple[str, Floats]]:
    """Yield the share of rows that a server did not send and that were too many to fill."""
    for window in rules.missing_share:
        steps = grid.steps(window)
        yield f"missing_share_{format_duration(window)}", 1 - window_sum(exists, steps) / steps


def history_features(crashes: pl.DataFrame, grid: Grid, rules: Features) -> Iterator[tuple[str, Floats]]:
    """Yield the time since a server's last known crash and how many it had: each from when it was reported."""
    started = crashes["started_at"].dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")
    server = grid.columns_of(crashes["server_id"])
    known_from = grid.rows_at(crashes.select(pl.max_horizontal("started_at", "reported_at")).to_series()).clip(0)
    known = [(i, j, moment) for i, j, moment in zip(known_from, server, started, strict=True) if j >= 0]

    hour = np.timedelta64(timedelta(hours=1))
    since = np.full(grid.shape, rules.history_cap / timedelta(hours=1))
    for i, j, moment in known:
        since[i:, j] = np.minimum(since[i:, j], (grid.times[i:] - moment) / hour)
    yield "hours_since_crash", since
    for window in rules.incident_counts:
        count = np.zeros(grid.shape)
        for i, j, moment in known:
            stop = np.searchsorted(grid.times, moment + np.timedelta64(window), side="left")
            count[i:stop, j] += 1
        yield f"crashes_{format_duration(window)}", count


def round_bits(values: Floats) -> NDArray[np.float32]:
    """Return values as float32 rounded to `SIGNIFICANT_BITS` bits, half to even."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    drop = np.uint32(24 - SIGNIFICANT_BITS)  # float32 has 24
    half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
    rounded = (bits + half + ((bits >> drop) & np.uint32(1))) >> drop << drop
    return np.where(np.isfinite(values), rounded, bits).astype(np.uint32).view(np.float32)
