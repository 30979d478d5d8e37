"""Turn raw samples into rows at one cadence.

In: raw telemetry that `validate` passed: samples at any moments, with duplicates, impossible values, stuck sensors and
gaps. Out: rows (timestamp, server_id, metrics) on the grid, where a row at t holds the samples in (t - interval, t]
under each metric's named aggregate, and `metrics/clean.json`, which accounts for every sample.

Why here: every later stage may then count on one row per server and moment, and on values that a server can have.
Everything looks backwards: what a row holds never depends on a later sample.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.execution import runner
from crashcast.execution.task import Period, Task
from crashcast.grid import Bools, Floats, Grid, Ints, encode, floats, microseconds, window_sums
from crashcast.params.clean import Clean
from crashcast.params.telemetry import Metric, Telemetry
from crashcast.tables import Partition
from crashcast.text import some_of

MICROSECOND = timedelta(microseconds=1)
MONTHS_SHOWN = 6


class Placed(NamedTuple):
    """Samples and the rows that they belong to: T rows of S servers, of which the last are the partition's.

    Attributes
    ----------
    grid : Grid
        T by S: the rows of the period of samples.
    own : slice
        The partition's rows among the T; the earlier ones only fill these.
    edges : int array of shape (T + 1,)
        The position of each row's first sample; the samples of `own` go from `edges[own.start]` to the last.
    cells : int array of shape (n,)
        The flat index of each sample's row and server.
    repeated : bool array of shape (n,)
        Whether a sample has the server and the moment of the one before.
    is_single : bool
        Whether no two samples share a row, apart from repeated ones.
    """

    grid: Grid
    own: slice
    edges: Ints
    cells: Ints
    repeated: Bools
    is_single: bool

    @property
    def own_grid(self) -> Grid:
        """The partition's rows."""
        return self.grid.piece((self.own, slice(None)))

    @property
    def own_samples(self) -> slice:
        """The samples of the partition's rows."""
        return slice(self.edges[self.own.start], None)


def main(telemetry_path: Path, validated: Path, out: Path, metrics: Path) -> None:
    """Clean every partition of the telemetry, which `validated` must have accepted."""
    # `dvc repro --ignore-errors` comes here even after a refusal
    if not json.loads(validated.read_text(encoding="utf-8"))["success"]:
        raise UserError(f"{validated} says that the raw data was refused: `dvc repro validate` says why")
    telemetry, clean = Telemetry.read(), Clean.read()
    if clean.stuck_after <= telemetry.interval:
        raise UserError("params.yaml: clean.stuck_after: must be longer than telemetry.interval: one row never changes")
    raw = tables.partitions(telemetry_path)
    # samples after a partition's last row belong to the next; filling alone does not carry the records beyond their end
    following = {tables.partition_at(partition.end, partition.unit) for partition in raw} - {*raw}
    begun = [partition for partition in following if _first_row_holds_samples(telemetry_path, partition, telemetry)]
    columns = (*tables.KEYS, *telemetry.metrics)
    tasks = [
        Task(
            partition,
            {
                "samples": Period.among(raw, telemetry_path, *samples_period(partition, telemetry, clean), columns),
                "telemetry": telemetry,
                "clean": clean,
            },
        )
        for partition in sorted([*raw, *begun])
    ]
    counts = runner.run("clean", clean_partition, tasks, out)
    report_limits([task.partition for task in tasks], counts, telemetry)
    write_json(metrics, runner.total(counts))


def report_limits(partitions: Sequence[Partition], counts: Sequence[Mapping[str, int]], telemetry: Telemetry) -> None:
    """Say how many values each limit dropped, and in which months: a limit that is too tight hides what it drops."""
    for name, metric in telemetry.metrics.items():
        dropped = Counter[str]()
        for partition, of_partition in zip(partitions, counts, strict=True):
            dropped[f"{partition.start:%Y-%m}"] += of_partition[f"out_of_range_{name}"]
        if total := dropped.total():
            most = some_of([f"{count:,} in {month}" for month, count in dropped.most_common() if count], MONTHS_SHOWN)
            print(f"clean: {total:,} values of {name} are dropped, not {metric.range}: {most}", file=sys.stderr)


def _first_row_holds_samples(telemetry_path: Path, partition: Partition, telemetry: Telemetry) -> bool:
    before = partition.start - telemetry.interval + MICROSECOND
    return tables.read_period(telemetry_path, before, partition.start, ["timestamp"]).height > 0


def samples_period(partition: Partition, telemetry: Telemetry, clean: Clean) -> tuple[datetime, datetime]:
    """Return the period of samples that can touch a partition's rows, in whole intervals before its start.

    A row may be filled from an earlier one, which is stuck or not by what came before it, gaps bridged.
    """
    lookback = -(-(2 * clean.fill_limit + clean.stuck_after) // telemetry.interval) + 1
    return partition.start - lookback * telemetry.interval, partition.end - telemetry.interval + MICROSECOND


def clean_partition(
    partition: Partition, samples: pl.DataFrame, telemetry: Telemetry, clean: Clean
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Clean one partition.

    Parameters
    ----------
    partition : Partition
        The rows wanted.
    samples : DataFrame
        `timestamp`, `server_id` and the metrics, sorted by (timestamp, server_id), over `samples_period`.
    telemetry, clean : Telemetry, Clean
        The parameters.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id`, `observed` (whether any value is the row's own: an alarm may open) and the metrics as
        float32, sorted by (timestamp, server_id).
    dict
        `samples` = `kept` + `merged` + `dropped_duplicate` + `dropped_no_valid_value`; `rows` = `kept` + `filled`;
        then values lost per metric and reason.
    """
    placed = place(partition, samples, telemetry, clean)
    grid = placed.own_grid
    usable = np.zeros(samples.height, dtype=bool)  # samples with at least one possible value
    kept = np.zeros(grid.shape, dtype=bool)  # rows with at least one value of their own
    present = np.zeros(grid.shape, dtype=bool)  # rows with at least one value
    lost: dict[str, int] = {}
    columns: dict[str, Floats] = {}
    for name, metric in telemetry.metrics.items():
        rows, possible, lost[f"out_of_range_{name}"] = aggregate(placed, floats(samples[name]), metric)
        columns[name], observed, stuck_rows = fill(placed, rows, metric, clean)
        if metric.can_stick:
            lost[f"stuck_{name}"] = stuck_rows
        usable |= possible
        kept |= observed
        present |= ~np.isnan(columns[name])
    del rows, possible, observed  # at full size every array counts
    frame = grid.keys(present).with_columns(
        pl.Series(tables.OBSERVED, kept[present]),
        *(pl.Series(name, columns.pop(name)[present], nan_to_null=True) for name in telemetry.metrics),
    )
    return frame, {**count_samples(placed, usable, kept, frame.height), **lost}


def place(partition: Partition, samples: pl.DataFrame, telemetry: Telemetry, clean: Clean) -> Placed:
    """Find the row of each sample. The first interval of the samples' period only completes its rows: it has none."""
    servers, columns = encode(samples["server_id"])
    start = samples_period(partition, telemetry, clean)[0] + telemetry.interval
    grid = Grid.over(start, partition.end, telemetry.interval, servers)
    edges, cells = grid.edges(samples["timestamp"]), grid.cells(samples["timestamp"], columns)
    repeated = np.zeros(samples.height, dtype=bool)
    repeated[1:] = (np.diff(microseconds(samples["timestamp"])) == 0) & (np.diff(cells) == 0)
    on_grid = slice(edges[0], None)
    most = np.bincount(cells[on_grid][~repeated[on_grid]], minlength=1).max()
    own = slice((partition.start - start) // telemetry.interval, len(grid.times))
    return Placed(grid, own, edges, cells, repeated, is_single=bool(most <= 1))


def aggregate(placed: Placed, values: Floats, metric: Metric) -> tuple[Floats, Bools, int]:
    """Make one value of a metric's samples (n,) in each row, without the repeated and the impossible ones.

    Returns
    -------
    rows : float32 array of shape (T, S)
        NaN if missing.
    possible : bool array of shape (n,)
        Which samples have a value in the metric's range.
    out_of_range : int
        How many of the partition's samples have a value out of it.
    """
    rows = np.empty(placed.grid.shape, dtype=np.float32)
    possible = np.zeros(len(values), dtype=bool)
    out_of_range = 0
    low, high = metric.limits
    how = "only" if placed.is_single else metric.aggregate
    for piece in placed.grid.pieces_by_time():
        times, servers = piece
        block = slice(placed.edges[times.start], placed.edges[times.stop])
        distinct = ~placed.repeated[block]
        found = np.add(values[block], 0.0, dtype=np.float64)  # turns -0.0 into 0.0, as sums do
        found[~distinct] = np.nan
        possible[block] = (found >= low) & (found <= high)
        impossible = ~(possible[block] | np.isnan(found))
        found[impossible] = np.nan
        out_of_range += int(np.count_nonzero(impossible[max(0, placed.own_samples.start - block.start) :]))
        cells = placed.cells[block][distinct] - times.start * servers.stop
        rows[times] = placed.grid.piece(piece).dense(cells, found[distinct], how)
    return rows, possible, out_of_range


def fill(placed: Placed, rows: Floats, metric: Metric, clean: Clean) -> tuple[Floats, Bools, int]:
    """Fill short gaps in the rows (T, S) of a metric, and remove values of a stuck sensor, in the partition's P rows.

    Returns
    -------
    filled : float32 array of shape (P, S)
        NaN if missing.
    observed : bool array of shape (P, S)
        Whether the value is the row's own.
    stuck_rows : int
        How many values of the partition a stuck sensor has shown.
    """
    grid, own = placed.grid, placed.own
    filled = np.empty(placed.own_grid.shape, dtype=np.float32)
    is_own = np.empty(filled.shape, dtype=bool)
    stuck_rows = 0
    for piece in grid.pieces_by_server():
        shown = np.ascontiguousarray(rows[piece])
        observed = ~np.isnan(shown)
        gaps, sources = gaps_to_fill(observed, clean.fill_limit // grid.interval)
        shown.ravel()[gaps] = shown.ravel()[sources]
        if metric.can_stick:
            broken = stuck(shown, observed, grid.steps(clean.stuck_after))
            stuck_rows += int(np.count_nonzero(broken[own]))
            shown.ravel()[gaps[broken.ravel()[sources]]] = np.nan
            shown[broken] = np.nan
            observed &= ~broken
        filled[:, piece[1]] = shown[own]
        is_own[:, piece[1]] = observed[own]
    return filled, is_own, stuck_rows


def count_samples(placed: Placed, usable: Bools, kept: Bools, rows: int) -> dict[str, int]:
    """Account for every sample of the partition, and for its `rows`: see `clean_partition`."""
    own = placed.own_samples
    samples, kept_rows = len(placed.cells) - int(own.start), int(np.count_nonzero(kept))
    duplicates = int(np.count_nonzero(placed.repeated[own]))
    cells = placed.cells[own] - placed.own.start * kept.shape[1]
    merged = int(np.count_nonzero(usable[own] & kept.ravel()[cells])) - kept_rows
    return {
        "samples": samples,
        "kept": kept_rows,
        "merged": merged,
        "dropped_duplicate": duplicates,
        "dropped_no_valid_value": samples - duplicates - kept_rows - merged,
        "rows": rows,
        "filled": rows - kept_rows,
    }


def stuck(shown: Floats, observed: Bools, steps: int) -> Bools:
    """Say which values a stuck sensor has shown: the same for `steps` rows, most of them observed; gaps are bridged.

    Only a row's own past counts: the first rows of a stuck sensor pass, as they would in production.

    Parameters
    ----------
    shown : float32 array of shape (T, S)
        Observed values, gaps filled. In float64, means of one value would differ in the last bits.
    observed : bool array of shape (T, S)
        Whether a value is no filling.
    steps : int
        Two rows or more.
    """
    same = np.zeros(shown.shape, dtype=bool)
    same[1:] = shown[1:] == shown[:-1]
    unchanged = window_sums(same, [steps - 1])[steps - 1] == steps - 1
    return observed & unchanged & (window_sums(observed, [steps])[steps] > steps // 2)


def gaps_to_fill(observed: Bools, steps: int) -> tuple[Ints, Ints]:
    """Return the cells at most `steps` rows after an observed one of their server, and the cells of those.

    Parameters
    ----------
    observed : bool array of shape (T, S)
        Whether there is a value.
    steps : int
        How far a value is carried.

    Returns
    -------
    int arrays of shape (n,)
        Flat indexes.
    """
    times, servers = observed.shape
    time, server = np.divmod(np.flatnonzero(~observed), servers)
    by_server = np.sort(server * (times + 1) + time)  # one more than T: gaps of two servers never touch
    begins = np.flatnonzero(np.diff(by_server, prepend=-2) > 1)
    age = np.arange(1, len(by_server) + 1) - np.repeat(begins, np.diff(begins, append=len(by_server)))
    server, time = np.divmod(by_server, times + 1)
    reached = (age <= steps) & (age <= time)
    gaps = (time * servers + server)[reached]
    return gaps, gaps - age[reached] * servers
