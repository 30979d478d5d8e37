"""Make the pattern before a crash visible to a model.

In: the clean rows and the incidents. Out: keys and features only, float32 with `SIGNIFICANT_BITS` bits, the same
columns in every partition.

Every feature at t uses rows at or before t, and incidents that had been reported by t: looking forward even once is
how crash predictors get good on paper and useless on call. `features` in params.yaml says which columns and windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.errors import UserError
from crashcast.execution import runner
from crashcast.execution.task import Period, Task
from crashcast.grid import (
    NEVER,
    Bools,
    Floats,
    Grid,
    Ints,
    Piece,
    encode,
    floats,
    microseconds,
    window_max,
    window_sums,
)
from crashcast.incidents import read_incidents
from crashcast.params.base import format_duration
from crashcast.params.features import Features
from crashcast.params.incidents import Incidents
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH, Partition

SIGNIFICANT_BITS = 12  # more are noise to a model, differ between CPU types and do not compress
FLOAT32_RESOLUTION = 2.0**-24
MICROSECOND = timedelta(microseconds=1)
FLEET_LEVELS = 2**22  # squares of so many levels, summed over 2^18 servers, still fit 63 bits


def main(clean: Path, incidents: Path, coverage: Path, out: Path) -> None:
    """Compute the features of every partition of `clean`."""
    settings, rules = Telemetry.read(), Features.read()
    columns = (*tables.KEYS, *feature_columns(settings, rules))
    reach = lookback(settings, rules)
    known = read_incidents(incidents, Incidents.read())
    covered = tables.read(coverage, ["server_id", "covered_from", "covered_to"])
    tasks = [
        Task(
            partition,
            {
                "rows": Period(clean, partition.start - reach, partition.end, columns),
                "crashes": crashes_that_show(partition, known, rules),
                "records": records_that_reach(partition, covered, rules),
                "settings": settings,
                "rules": rules,
            },
        )
        for partition in tables.partitions(clean)
    ]
    runner.run("featurize", featurize_partition, tasks, out)


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
    start, end = tables.utc(partition.start - longest_history(rules), partition.end)
    touching = (pl.col("kind") == CRASH) & (pl.col("started_at") >= start) & (pl.col("reported_at") < end)
    return incidents.filter(touching).select("server_id", "started_at", "reported_at")


def records_that_reach(partition: Partition, coverage: pl.DataFrame, rules: Features) -> pl.DataFrame:
    """Return since when a partition's rows can know of crashes: more of the past or the future changes nothing.

    Returns
    -------
    DataFrame
        `server_id` and `known_since`: the start of each stretch of coverage, those that touch or overlap merged. Of
        those that begin by the partition's start only the latest is there, and as early as any feature can see.
    """
    start, end = tables.utc(partition.start, partition.end)
    earliest, _ = tables.utc(partition.start - longest_history(rules), partition.end)
    begun, server = pl.col("covered_from"), "server_id"
    covered_before = pl.col("covered_to").cum_max().shift().over(server)
    return (
        coverage.filter(begun < pl.col("covered_to"), begun < end)
        .sort(server, "covered_from", "covered_to")
        .filter((begun > covered_before).fill_null(True))
        .filter((begun.shift(-1).over(server) > start).fill_null(True))
        .select(server, known_since=pl.max_horizontal("covered_from", earliest))
    )


def longest_history(rules: Features) -> timedelta:
    """Return how far before a row its features of crashes reach."""
    return max([rules.history_cap, *rules.incident_counts])


def featurize_partition(
    partition: Partition,
    rows: pl.DataFrame,
    crashes: pl.DataFrame,
    records: pl.DataFrame,
    settings: Telemetry,
    rules: Features,
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
    records : DataFrame
        `server_id`, `known_since`: see `records_that_reach`.
    settings, rules : Telemetry, Features
        The parameters.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id` and float32 features, null where their window holds nothing.
    dict
        The number of `rows`.
    """
    reach = lookback(settings, rules)
    servers, columns = encode(rows["server_id"])
    whole = Grid.over(partition.start - reach, partition.end, settings.interval, servers)
    grid = Grid.over(partition.start, partition.end, settings.interval, servers)
    before = reach // settings.interval  # rows that only the windows of the partition's reach
    exists = np.zeros(whole.shape, dtype=bool)
    exists.ravel()[whole.cells(rows["timestamp"], columns)] = True
    del columns  # at full size every column of whole numbers counts
    here = exists[before:]
    features: dict[str, pl.Series] = {}
    buffers: list[NDArray[np.float32]] = []  # the features at hand, before cells without a row are left out

    def keep(pieces: Iterable[Piece], compute: Callable[[Piece], Iterable[tuple[str, Floats]]]) -> None:
        names: list[str] = []
        for piece in pieces:
            for position, (name, values) in enumerate(compute(piece)):
                if position == len(names):
                    names.append(name)
                if position == len(buffers):
                    buffers.append(np.empty(grid.shape, dtype=np.float32))
                buffers[position][piece] = round_bits(values)
        for name, values in zip(names, buffers, strict=False):
            if name in features:
                raise UserError(
                    f"params.yaml: two features would be called '{name}': rename that metric or interaction"
                )
            features[name] = pl.Series(name, values[here], nan_to_null=True)

    def keep_metric(name: str, values: Floats, others: Floats | None, limits: tuple[float, float]) -> None:
        def at(times: slice, servers: slice) -> Floats:
            piece = values[times, servers]
            return piece if others is None else np.multiply(piece, others[times, servers], dtype=np.float64)

        def windows(piece: Piece) -> Iterator[tuple[str, Floats]]:
            return metric_features(name, at(slice(None), piece[1]), before, grid, rules)

        def place_in_fleet(piece: Piece) -> Iterator[tuple[str, Floats]]:
            times = slice(before + piece[0].start, before + piece[0].stop)
            yield f"{name}_vs_fleet", against_fleet(at(times, piece[1]), limits)

        keep(grid.pieces_by_server(), windows)
        if rules.fleet_relative:
            keep(grid.pieces_by_time(), place_in_fleet)

    def dense(name: str) -> Floats:
        column = floats(rows[name])
        out = np.full(whole.shape, np.nan, dtype=column.dtype)
        out[exists] = column
        return out

    for name in settings.metrics if rules.columns == "all" else rules.columns:
        keep_metric(name, dense(name), None, limits_of_row(settings, name))
    for name, (left, right) in rules.interactions.items():
        corners = [x * y for x in limits_of_row(settings, left) for y in limits_of_row(settings, right)]
        keep_metric(name, dense(left), dense(right), (min(corners), max(corners)))
    keep(grid.pieces_by_server(), lambda piece: missing_features(exists[:, piece[1]], before, grid, rules))
    keep(grid.pieces_by_server(), history_features(crashes, records, grid, rules))
    height = int(np.count_nonzero(here))
    frame = pl.DataFrame([*(rows[name].tail(height) for name in tables.KEYS), *features.values()])
    return frame, {"rows": height}


def limits_of_row(settings: Telemetry, name: str) -> tuple[float, float]:
    """Return the range of a metric's rows: that of its samples, or of a sum of one sample a second."""
    metric = settings.metrics[name]
    samples = settings.interval / timedelta(seconds=1) if metric.aggregate == "sum" else 1
    return min(metric.min, metric.min * samples), max(metric.max, metric.max * samples)


def metric_features(
    name: str, values: Floats, before: int, grid: Grid, rules: Features
) -> Iterator[tuple[str, Floats]]:
    """Yield the level of a metric, its windows and differences.

    Parameters
    ----------
    name : str
        The metric's or interaction's.
    values : array of shape (before + T, S)
        NaN where missing.
    before : int
        How many rows come before the T wanted ones.
    grid, rules : Grid, Features
        For the cadence; the parameters.
    """
    yield name, values[before:]
    values = np.ascontiguousarray(values)
    gaps = np.flatnonzero(np.isnan(values))
    level = np.add(values, 0.0, dtype=np.float64)  # turns -0.0 into 0.0
    level.ravel()[gaps] = 0.0
    # without gaps all servers count alike
    observed = np.ones(level.shape if gaps.size else (len(level), 1), dtype=bool)
    observed.ravel()[gaps] = False

    steps = {window: grid.steps(window) for window in sorted({*rules.rolling_mean, *rules.rolling_std})}
    counts = window_sums(observed, steps.values())
    sums = window_sums(level, steps.values())
    squares = window_sums(level * level, (steps[window] for window in rules.rolling_std))
    for window, rows in steps.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            count = counts[rows][before:]
            mean = sums[rows][before:] / count
            if window in rules.rolling_mean:
                yield f"{name}_mean_{format_duration(window)}", mean
            if window in rules.rolling_std:
                square = mean * mean
                variance = squares[rows][before:] / count - square
                # a spread below the resolution of float32, which the values come in, is the rounding's own
                variance[variance <= square * FLOAT32_RESOLUTION**2] = 0.0
                yield f"{name}_std_{format_duration(window)}", np.sqrt(variance)
    for window in rules.rolling_max:
        yield f"{name}_max_{format_duration(window)}", window_max(values, grid.steps(window))[before:]
    for window in rules.differences:
        rows = grid.steps(window)
        yield f"{name}_diff_{format_duration(window)}", values[before:] - values[before - rows : len(values) - rows]


def against_fleet(values: Floats, limits: tuple[float, float]) -> Floats:
    """Return how many standard deviations each server is from the fleet's mean at the same moment.

    The sums run over whole numbers, so they are exact: in any order, over any split of the fleet.

    Parameters
    ----------
    values : array of shape (T, S)
        NaN where missing.
    limits : (float, float)
        The metric's range, divided into `FLEET_LEVELS` levels.
    """
    low, high = limits
    level = np.clip(values, low, high, dtype=np.float64)
    level -= low
    level *= FLEET_LEVELS / (high - low)
    np.rint(level, out=level)
    gaps = np.flatnonzero(np.isnan(level))
    level.ravel()[gaps] = 0.0
    times, servers = level.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        count = (servers - np.bincount(gaps // max(1, servers), minlength=times))[:, None]
        mean = level.sum(axis=1, keepdims=True) / count
        variance = sum_of_squares(level)[:, None] / count - mean**2
        # half a level is the rounding's own: servers that all agree are at 0, not at 0/0
        level -= mean
        level /= np.sqrt(np.maximum(variance, 0.25))
    level.ravel()[gaps] = np.nan
    return level


def sum_of_squares(level: Floats) -> Ints:
    """Add up the squares of whole numbers up to `FLEET_LEVELS` along the last axis, exactly."""
    # 2^9 squares fit the 53 bits of a float64
    parts = np.add.reduceat(level * level, np.arange(0, level.shape[1], 2**9), axis=1)
    return parts.astype(np.int64).sum(axis=1)


def missing_features(exists: Bools, before: int, grid: Grid, rules: Features) -> Iterator[tuple[str, Floats]]:
    """Yield the share of rows that a server did not send and that were too many to fill."""
    counts = window_sums(exists, map(grid.steps, rules.missing_share))
    for window in rules.missing_share:
        steps = grid.steps(window)
        yield f"missing_share_{format_duration(window)}", 1 - counts[steps][before:] / steps


def history_features(
    crashes: pl.DataFrame, records: pl.DataFrame, grid: Grid, rules: Features
) -> Callable[[Piece], Iterator[tuple[str, Floats]]]:
    """Return what yields, for some servers, the hours since the last known crash and how many there were.

    A crash is known from when it was reported. NaN where the answer lies before the server's records.
    """
    now = grid.times.astype(np.int64)[:, None]
    since, recorder = microseconds(records["known_since"]), grid.columns_of(records["server_id"])
    recorded_from = grid.rows_at(since)
    started, server = microseconds(crashes["started_at"]), grid.columns_of(crashes["server_id"])
    known_from = grid.rows_at(np.maximum(started, microseconds(crashes["reported_at"])))
    cap, hour = rules.history_cap // MICROSECOND, timedelta(hours=1) // MICROSECOND
    windows = {window // MICROSECOND: f"crashes_{format_duration(window)}" for window in rules.incident_counts}

    def compute(piece: Piece) -> Iterator[tuple[str, Floats]]:
        part, columns = grid.part(piece), piece[1].start
        begun = part.latest(recorded_from, recorder - columns, since)
        recorded = np.where(begun == NEVER, -1, now - begun)
        ago = np.minimum(now - part.latest(known_from, server - columns, started), cap)
        hours = ago / hour
        hours[recorded < ago] = np.nan
        yield "hours_since_crash", hours
        for window, name in windows.items():
            count = part.overlaps(known_from, grid.rows_at(started + window), server - columns).astype(np.float32)
            count[recorded < window] = np.nan
            yield name, count

    return compute


def round_bits(values: Floats) -> NDArray[np.float32]:
    """Return values as float32 rounded to `SIGNIFICANT_BITS` bits, half to even."""
    original = np.asarray(values, dtype=np.float32)
    before = original.view(np.uint32)
    drop = np.uint32(24 - SIGNIFICANT_BITS)  # float32 has 24
    after = before >> drop
    after &= np.uint32(1)
    after += (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
    after += before
    after >>= drop
    after <<= drop
    strange = np.flatnonzero(~np.isfinite(original))
    after.ravel()[strange] = before.ravel()[strange]
    return after.view(np.float32)
