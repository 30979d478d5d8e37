"""Compute the features of every row: levels, windows and differences of metrics, and the history of crashes.

In: the clean rows and the incidents. Out: keys and features only, float32 with `SIGNIFICANT_BITS` bits, the same
columns in every partition.

Every feature at t uses rows at or before t, and incidents that had been reported by t: a feature that
looks ahead makes a model good on paper and useless on call. `features` in params.yaml says which columns and windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

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
from crashcast.params.telemetry import UNLIMITED, Telemetry
from crashcast.tables import CRASH, Partition

SIGNIFICANT_BITS = 12  # more are noise to a model, differ between CPU types and do not compress
FLOAT32_RESOLUTION = 2.0**-24
MICROSECOND = timedelta(microseconds=1)
FLEET_LEVELS = 2**22  # squares of so many levels, summed over 2^18 servers, still fit 63 bits


def main(clean: Path, incidents: Path, coverage: Path, out: Path) -> None:
    """Compute the features of every partition of `clean`."""
    telemetry, features = Telemetry.read(), Features.read()
    columns = (*tables.KEYS, *feature_columns(telemetry, features))
    reach, listed = lookback(telemetry, features), tables.partitions(clean)
    known = read_incidents(incidents, Incidents.read())
    covered = tables.read(coverage, ["server_id", "covered_from", "covered_to", *features.categories])
    tasks = [
        Task(
            partition,
            {
                "rows": Period.among(listed, clean, partition.start - reach, partition.end, columns),
                "crashes": crashes_that_show(partition, known, features),
                "records": records_that_reach(partition, covered, features),
                "categories": categories_that_show(partition, covered, features),
                "telemetry": telemetry,
                "features": features,
            },
        )
        for partition in listed
    ]
    runner.run("featurize", featurize_partition, tasks, out)


def feature_columns(telemetry: Telemetry, features: Features) -> list[str]:
    """Return the metrics that features are made of.

    Raises
    ------
    UserError
        If `features` names a metric that the telemetry does not have, or an interaction has a metric's name.
    """
    columns = list(telemetry.metrics) if features.columns == "all" else list(features.columns)
    used = {"columns": columns, **{f"interactions.{name}": pair for name, pair in features.interactions.items()}}
    for key, names in used.items():
        for name in names:
            if name not in telemetry.metrics:
                known = ", ".join(telemetry.metrics)
                raise UserError(f"params.yaml: features.{key}: no metric '{name}' in telemetry.metrics ({known})")
    if taken := [name for name in features.interactions if name in telemetry.metrics]:
        raise UserError(f"params.yaml: features.interactions.{taken[0]}: a metric has this name, choose another")
    return list(dict.fromkeys([*columns, *(name for pair in features.interactions.values() for name in pair)]))


def lookback(telemetry: Telemetry, features: Features) -> timedelta:
    """Return how far before a row its longest window over telemetry reaches, in whole intervals."""
    windows = [
        features.rolling_mean,
        features.rolling_std,
        features.rolling_max,
        features.differences,
        features.missing_share,
    ]
    longest = max((window for kind in windows for window in kind), default=timedelta(0))
    return -(-longest // telemetry.interval) * telemetry.interval


def crashes_that_show(partition: Partition, incidents: pl.DataFrame, features: Features) -> pl.DataFrame:
    """Return the crashes that can touch a partition's features: started within the cap, reported by its end."""
    start, end = tables.utc(partition.start - longest_history(features), partition.end)
    touching = (pl.col("kind") == CRASH) & (pl.col("started_at") >= start) & (pl.col("reported_at") < end)
    return incidents.filter(touching).select("server_id", "started_at", "reported_at")


def records_that_reach(partition: Partition, coverage: pl.DataFrame, features: Features) -> pl.DataFrame:
    """Return since when a partition's rows can know of crashes: more of the past or the future changes nothing.

    Returns
    -------
    DataFrame
        `server_id` and `known_since`: the start of each period of coverage, those that touch or overlap merged. Of
        those that begin by the partition's start only the latest is there, and as early as any feature can see.
    """
    start, end = tables.utc(partition.start, partition.end)
    earliest, _ = tables.utc(partition.start - longest_history(features), partition.end)
    begun, server = pl.col("covered_from"), "server_id"
    covered_before = pl.col("covered_to").cum_max().shift().over(server)
    return (
        coverage.filter(begun < pl.col("covered_to"), begun < end)
        .sort(server, "covered_from", "covered_to")
        .filter((begun > covered_before).fill_null(True))
        .filter((begun.shift(-1).over(server) > start).fill_null(True))
        .select(server, known_since=pl.max_horizontal("covered_from", earliest))
    )


def categories_that_show(partition: Partition, coverage: pl.DataFrame, features: Features) -> pl.DataFrame:
    """Return which servers have a value of a category, as far as a partition's rows can know.

    Returns
    -------
    DataFrame
        `feature`, `server_id` and `since`: the start of its first coverage, or of the partition if that is later.
    """
    start, end = tables.utc(partition.start, partition.end)
    begun = coverage.filter(pl.col("covered_from") < end)
    found = [
        begun.filter(pl.col(column) == value).select(
            "server_id", feature=pl.lit(name), since=pl.max_horizontal("covered_from", start)
        )
        for name, (column, value) in features.flags().items()
    ]
    schema: dict[str, Any] = {"server_id": pl.String, "feature": pl.String, "since": tables.TIMESTAMP}
    shown = pl.concat([pl.DataFrame(schema=schema), *found])
    return shown.group_by("feature", "server_id").agg(pl.col("since").min()).sort("feature", "server_id")


def longest_history(features: Features) -> timedelta:
    """Return how far before a row its features of crashes reach."""
    return max([features.history_cap, *features.incident_counts])


@dataclass(frozen=True)
class Level:
    """The values of a metric or an interaction, from the lookback on.

    Attributes
    ----------
    name : str
        The metric's or the interaction's.
    limits : (float, float)
        The range of a row's value.
    factors : one or two arrays of shape (T, S)
        A metric's values, or those of an interaction's two metrics: products are made piece by piece, to save memory.
        NaN if missing.
    """

    name: str
    limits: tuple[float, float]
    factors: tuple[Floats, ...]

    def at(self, piece: Piece) -> Floats:
        """Return the values of a piece."""
        left, *right = (factor[piece] for factor in self.factors)
        return np.multiply(left, *right, dtype=np.float64) if right else left


def featurize_partition(
    partition: Partition,
    rows: pl.DataFrame,
    crashes: pl.DataFrame,
    records: pl.DataFrame,
    categories: pl.DataFrame,
    telemetry: Telemetry,
    features: Features,
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
    categories : DataFrame
        `feature`, `server_id`, `since`: see `categories_that_show`.
    telemetry, features : Telemetry, Features
        The parameters.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id` and float32 features, null if their window holds nothing.
    dict
        The number of `rows`.
    """
    reach = lookback(telemetry, features)
    before = reach // telemetry.interval  # rows that only the windows of the partition's reach
    servers, codes = encode(rows["server_id"])
    whole = Grid.over(partition.start - reach, partition.end, telemetry.interval, servers)
    grid = Grid.over(partition.start, partition.end, telemetry.interval, servers)
    exists = np.zeros(whole.shape, dtype=bool)
    exists.ravel()[whole.cells(rows["timestamp"], codes)] = True
    del codes
    here = exists[before:]

    columns: list[pl.Series] = []
    for level in levels(rows, exists, telemetry, features):
        columns += series(here, grid.pieces_by_server(), partial(metric_features, level, before, grid, features))
        if features.fleet_relative:
            columns += series(here, grid.pieces_by_time(), partial(fleet_features, level, before))
        del level  # at full size every array counts: before the next level is laid out
    columns += series(here, grid.pieces_by_server(), partial(missing_features, exists, before, grid, features))
    columns += series(here, grid.pieces_by_server(), partial(history_features, crashes, records, grid, features))
    columns += series(here, grid.pieces_by_server(), partial(category_features, categories, grid, features))
    for name, count in Counter(column.name for column in columns).items():
        if count > 1:
            raise UserError(f"params.yaml: two features would be called '{name}': rename that metric or interaction")
    height = int(np.count_nonzero(here))
    return pl.DataFrame([*(rows[name].tail(height) for name in tables.KEYS), *columns]), {"rows": height}


def levels(rows: pl.DataFrame, exists: Bools, telemetry: Telemetry, features: Features) -> Iterator[Level]:
    """Yield the metrics and the interactions that features are made of."""

    def dense(name: str) -> Floats:
        values = floats(rows[name])
        out = np.full(exists.shape, np.nan, dtype=values.dtype)
        out[exists] = values
        return out

    for name in telemetry.metrics if features.columns == "all" else features.columns:
        yield Level(name, limits_of_row(telemetry, name), (dense(name),))
    for name, (left, right) in features.interactions.items():
        corners = [x * y for x in limits_of_row(telemetry, left) for y in limits_of_row(telemetry, right)]
        yield Level(name, (min(corners), max(corners)), (dense(left), dense(right)))


def series(
    exists: Bools, pieces: Iterable[Piece], compute: Callable[[Piece], Iterable[tuple[str, Floats]]]
) -> list[pl.Series]:
    """Return features as columns, rounded, without the cells that have no row.

    Parameters
    ----------
    exists : bool array of shape (T, S)
        Which cells have a row.
    pieces : iterable of Piece
        They cover the T times of S servers.
    compute : function
        From a piece to the names of its features and their values, in the same order for every piece.
    """
    found: list[tuple[str, NDArray[np.float32]]] = []
    for piece in pieces:
        for position, (name, values) in enumerate(compute(piece)):
            if position == len(found):
                found.append((name, np.empty(exists.shape, dtype=np.float32)))
            found[position][1][piece] = round_bits(values)
    return [pl.Series(name, values[exists], nan_to_null=True) for name, values in found]


def limits_of_row(telemetry: Telemetry, name: str) -> tuple[float, float]:
    """Return the range of a metric's rows: that of its samples, or of a sum of one sample a second."""
    metric = telemetry.metrics[name]
    samples = telemetry.interval / timedelta(seconds=1) if metric.aggregate == "sum" else 1
    low, high = metric.limits
    return min(low, low * samples), max(high, high * samples)


def metric_features(
    level: Level, before: int, grid: Grid, features: Features, piece: Piece
) -> Iterator[tuple[str, Floats]]:
    """Yield the level of a metric or an interaction, its windows and differences.

    Parameters
    ----------
    level : Level
        Of (before + T, S) values.
    before : int
        How many rows come before the T wanted ones.
    grid, features : Grid, Features
        For the cadence; the parameters.
    piece : Piece
        All T times of some servers.
    """
    values = np.ascontiguousarray(level.at((slice(None), piece[1])))
    yield level.name, values[before:]
    gaps = np.flatnonzero(np.isnan(values))
    filled = np.add(values, 0.0, dtype=np.float64)  # turns -0.0 into 0.0
    filled.ravel()[gaps] = 0.0
    # without gaps all servers count alike
    observed = np.ones(filled.shape if gaps.size else (len(filled), 1), dtype=bool)
    observed.ravel()[gaps] = False

    steps = {window: grid.steps(window) for window in sorted({*features.rolling_mean, *features.rolling_std})}
    counts = window_sums(observed, steps.values())
    sums = window_sums(filled, steps.values())
    squares = window_sums(filled * filled, (steps[window] for window in features.rolling_std))
    for window, rows in steps.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            count = counts[rows][before:]
            mean = sums[rows][before:] / count
            if window in features.rolling_mean:
                yield f"{level.name}_mean_{format_duration(window)}", mean
            if window in features.rolling_std:
                square = mean * mean
                variance = squares[rows][before:] / count - square
                # the values come in float32: a spread below its resolution is noise of the rounding
                variance[variance <= square * FLOAT32_RESOLUTION**2] = 0.0
                yield f"{level.name}_std_{format_duration(window)}", np.sqrt(variance)
    for window in features.rolling_max:
        yield f"{level.name}_max_{format_duration(window)}", window_max(values, grid.steps(window))[before:]
    for window in features.differences:
        rows = grid.steps(window)
        yield f"{level.name}_diff_{format_duration(window)}", values[before:] - values[before - rows : -rows]


def fleet_features(level: Level, before: int, piece: Piece) -> Iterator[tuple[str, Floats]]:
    """Yield how far each server is from the fleet: of a piece of some times and all servers."""
    times = slice(before + piece[0].start, before + piece[0].stop)
    yield f"{level.name}_vs_fleet", against_fleet(level.at((times, piece[1])), level.limits)


def against_fleet(values: Floats, limits: tuple[float, float]) -> Floats:
    """Return how many standard deviations each server is from the fleet's mean at the same moment.

    The sums run over whole numbers, so they are exact: in any order, over any split of the fleet.

    Parameters
    ----------
    values : array of shape (T, S)
        NaN if missing.
    limits : (float, float)
        The metric's range, divided into `FLEET_LEVELS` levels; if it has no limit, the values of each moment are.
    """
    low, high = extremes(values) if max(map(abs, limits)) >= UNLIMITED else limits
    level = np.clip(values, low, high, dtype=np.float64)
    level -= low
    with np.errstate(invalid="ignore"):
        level *= FLEET_LEVELS / np.maximum(high - low, float(np.finfo(np.float32).tiny))
    np.rint(level, out=level)
    gaps = np.flatnonzero(np.isnan(level))
    level.ravel()[gaps] = 0.0
    times, servers = level.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        count = (servers - np.bincount(gaps // max(1, servers), minlength=times))[:, None]
        mean = level.sum(axis=1, keepdims=True) / count
        variance = sum_of_squares(level)[:, None] / count - mean**2
        # half a level is rounding noise: servers that all agree are at 0, not at 0/0
        level -= mean
        level /= np.sqrt(np.maximum(variance, 0.25))
    level.ravel()[gaps] = np.nan
    return level


def extremes(values: Floats) -> tuple[Floats, Floats]:
    """Return the least and the largest value of each row, of shape (T, 1); NaN if it has none."""
    low, high = (find.reduce(values, axis=1, keepdims=True, initial=np.nan) for find in (np.fmin, np.fmax))
    return low.astype(np.float64), high.astype(np.float64)


def sum_of_squares(level: Floats) -> Ints:
    """Add up the squares of whole numbers up to `FLEET_LEVELS` along the last axis, exactly."""
    # 2^9 squares fit the 53 bits of a float64
    parts = np.add.reduceat(level * level, np.arange(0, level.shape[1], 2**9), axis=1)
    return parts.astype(np.int64).sum(axis=1)


def missing_features(
    exists: Bools, before: int, grid: Grid, features: Features, piece: Piece
) -> Iterator[tuple[str, Floats]]:
    """Yield the share of rows that a server did not send and that were too many to fill."""
    counts = window_sums(exists[:, piece[1]], map(grid.steps, features.missing_share))
    for window in features.missing_share:
        steps = grid.steps(window)
        yield f"missing_share_{format_duration(window)}", 1 - counts[steps][before:] / steps


def history_features(
    crashes: pl.DataFrame, records: pl.DataFrame, grid: Grid, features: Features, piece: Piece
) -> Iterator[tuple[str, Floats]]:
    """Yield the hours since the last known crash, and the numbers of crashes in the windows.

    A crash is known from the time it was reported. NaN if the answer lies before the server's records.
    """
    grid = grid.piece(piece)
    now = grid.times.astype(np.int64)[:, None]
    since, recorder = microseconds(records["known_since"]), grid.columns_of(records["server_id"])
    started, server = microseconds(crashes["started_at"]), grid.columns_of(crashes["server_id"])
    known_from = grid.rows_at(np.maximum(started, microseconds(crashes["reported_at"])))

    begun = grid.latest(grid.rows_at(since), recorder, since)
    recorded = np.where(begun == NEVER, -1, now - begun)  # for so long there have been records
    ago = np.minimum(now - grid.latest(known_from, server, started), features.history_cap // MICROSECOND)
    hours = ago / (timedelta(hours=1) // MICROSECOND)
    hours[recorded < ago] = np.nan
    yield "hours_since_crash", hours
    for window in features.incident_counts:
        length = window // MICROSECOND
        count = grid.overlaps(known_from, grid.rows_at(started + length), server).astype(np.float32)
        count[recorded < length] = np.nan
        yield f"crashes_{format_duration(window)}", count


def category_features(
    categories: pl.DataFrame, grid: Grid, features: Features, piece: Piece
) -> Iterator[tuple[str, Floats]]:
    """Yield for each value of a category whether the server has it: 0 also if its value is not known or not listed."""
    grid = grid.piece(piece)
    for name in features.flags():
        own = categories.filter(feature=name)
        first = grid.rows_at(microseconds(own["since"]))
        stop = np.full_like(first, len(grid.times))
        yield name, grid.overlaps(first, stop, grid.columns_of(own["server_id"])).astype(np.float32)


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
