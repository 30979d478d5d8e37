"""Turn raw samples into rows at one cadence.

In: raw telemetry that `validate` passed: samples at any moments, with duplicates, impossible values, stuck sensors and
gaps. Out: rows (timestamp, server_id, metrics) on the grid, where a row at t holds the samples in (t - interval, t]
under each metric's named aggregate, and `metrics/clean.json`, which accounts for every sample.

Why here: every later stage may then count on one row per server and moment, and on values that a server can have.
Everything looks backwards: what a row holds never depends on a later sample.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.execution import runner
from crashcast.execution.task import Period, Task
from crashcast.grid import Bools, Floats, Grid, Ints, encode, floats, microseconds, window_sums
from crashcast.params.clean import Clean
from crashcast.params.telemetry import Telemetry
from crashcast.tables import Partition


def main(telemetry: Path, validated: Path, out: Path, metrics: Path) -> None:
    """Clean every partition of `telemetry`, which `validated` must have accepted."""
    # `dvc repro --ignore-errors` comes here even after a refusal
    if not json.loads(validated.read_text(encoding="utf-8"))["success"]:
        raise UserError(f"{validated} says that the raw data was refused: `dvc repro validate` says why")
    settings, rules = Telemetry.read(), Clean.read()
    if rules.stuck_after <= settings.interval:
        raise UserError("params.yaml: clean.stuck_after: must be longer than telemetry.interval: one row never changes")
    raw = tables.partitions(telemetry)
    # samples after a partition's last row belong to the next; filling alone does not carry the records beyond their end
    following = {tables.partition_at(partition.end, partition.unit) for partition in raw} - {*raw}
    begun = [partition for partition in following if _first_row_holds_samples(telemetry, partition, settings)]
    columns = (*tables.KEYS, *settings.metrics)
    tasks = [
        Task(
            partition,
            {
                "samples": Period(telemetry, *samples_period(partition, settings, rules), columns),
                "settings": settings,
                "rules": rules,
            },
        )
        for partition in sorted([*raw, *begun])
    ]
    write_json(metrics, runner.total(runner.run("clean", clean_partition, tasks, out)))


def _first_row_holds_samples(telemetry: Path, partition: Partition, settings: Telemetry) -> bool:
    before = partition.start - settings.interval + timedelta(microseconds=1)
    return tables.read_period(telemetry, before, partition.start, ["timestamp"]).height > 0


def samples_period(partition: Partition, settings: Telemetry, rules: Clean) -> tuple[datetime, datetime]:
    """Return the period of samples that can touch a partition's rows, in whole intervals before its start.

    A row may be filled from an earlier one, which is stuck or not by what came before it, gaps bridged.
    """
    lookback = -(-(2 * rules.fill_limit + rules.stuck_after) // settings.interval) + 1
    return partition.start - lookback * settings.interval, partition.end - settings.interval + timedelta(microseconds=1)


def clean_partition(
    partition: Partition, samples: pl.DataFrame, settings: Telemetry, rules: Clean
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Clean one partition.

    Parameters
    ----------
    partition : Partition
        The rows wanted.
    samples : DataFrame
        `timestamp`, `server_id` and the metrics, sorted by (timestamp, server_id), over `samples_period`.
    settings, rules : Telemetry, Clean
        The parameters.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id` and the metrics as float32, sorted by (timestamp, server_id).
    dict
        `samples` = `kept` + `merged` + `dropped_duplicate` + `dropped_no_valid_value`; `rows` = `kept` + `filled`;
        then values lost per metric and reason.
    """
    servers, columns = encode(samples["server_id"])
    start = samples_period(partition, settings, rules)[0] + settings.interval
    grid = Grid.over(start, partition.end, settings.interval, servers)
    before = (partition.start - start) // settings.interval  # rows that only fill those of the partition
    here = Grid.over(partition.start, partition.end, settings.interval, servers)

    edges, cells = grid.edges(samples["timestamp"]), grid.cells(samples["timestamp"], columns)
    repeated = np.zeros(samples.height, dtype=bool)
    repeated[1:] = (np.diff(microseconds(samples["timestamp"])) == 0) & (np.diff(cells) == 0)
    on_grid = slice(edges[0], None)  # the first interval of the period only completes its rows
    own = slice(edges[before], None)  # the samples of the partition's rows
    alone = np.bincount(cells[on_grid][~repeated[on_grid]], minlength=1).max() <= 1  # no two samples share a row

    lost: dict[str, int] = {}
    filled: dict[str, Floats] = {}
    usable = np.zeros(samples.height, dtype=bool)  # samples with at least one possible value
    kept = np.zeros(here.shape, dtype=bool)  # rows with at least one value of their own
    present = np.zeros(here.shape, dtype=bool)  # rows with at least one value
    for name, metric in settings.metrics.items():
        column = floats(samples[name])
        dense = np.empty(grid.shape, dtype=np.float32)
        impossible = np.zeros(samples.height, dtype=bool)
        for piece in grid.pieces_by_time():
            rows = piece[0]
            block = slice(edges[rows.start], edges[rows.stop])
            values = np.add(column[block], 0.0, dtype=np.float64)  # turns -0.0 into 0.0, as sums do
            values[repeated[block]] = np.nan
            possible = (values >= metric.min) & (values <= metric.max)
            impossible[block] = ~(possible | np.isnan(values))
            values[impossible[block]] = np.nan
            usable[block] |= possible
            first = ~repeated[block]
            own_cells = cells[block][first] - rows.start * len(servers)
            dense[rows] = grid.part(piece).dense(own_cells, values[first], "only" if alone else metric.aggregate)
        lost[f"out_of_range_{name}"] = int(np.count_nonzero(impossible[own]))

        filled[name] = np.empty(here.shape, dtype=np.float32)
        stuck_rows = 0
        for piece in grid.pieces_by_server():
            shown = np.ascontiguousarray(dense[piece])
            observed = ~np.isnan(shown)
            gaps, sources = gaps_to_fill(observed, rules.fill_limit // settings.interval)
            shown.ravel()[gaps] = shown.ravel()[sources]
            if metric.can_stick:
                broken = stuck(shown, observed, grid.steps(rules.stuck_after))
                stuck_rows += int(np.count_nonzero(broken[before:]))
                shown.ravel()[gaps[broken.ravel()[sources]]] = np.nan
                shown[broken] = np.nan
                observed &= ~broken
            filled[name][:, piece[1]] = shown[before:]
            kept[:, piece[1]] |= observed[before:]
            present[:, piece[1]] |= ~np.isnan(shown[before:])
        if metric.can_stick:
            lost[f"stuck_{name}"] = stuck_rows

    frame = here.keys(present).with_columns(
        pl.Series(name, filled.pop(name)[present], nan_to_null=True) for name in settings.metrics
    )
    samples_in, rows_kept = samples.height - int(edges[before]), int(np.count_nonzero(kept))
    duplicates = int(np.count_nonzero(repeated[own]))
    merged = int(np.count_nonzero(usable[own] & kept.ravel()[cells[own] - before * len(servers)])) - rows_kept
    return frame, {
        "samples": samples_in,
        "kept": rows_kept,
        "merged": merged,
        "dropped_duplicate": duplicates,
        "dropped_no_valid_value": samples_in - duplicates - rows_kept - merged,
        "rows": frame.height,
        "filled": frame.height - rows_kept,
        **lost,
    }


def stuck(shown: Floats, observed: Bools, steps: int) -> Bools:
    """Tell where a sensor has shown one value for `steps` rows, most of them observed; a filled gap is bridged.

    Only what a row's own past shows: the first rows of a stuck stretch pass, as they would in production.

    Parameters
    ----------
    shown : float32 array of shape (T, S)
        What was observed, gaps filled. Means of one value differ in the last bits of float64.
    observed : bool array of shape (T, S)
        Where a value is no filling.
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
        Where there is a value.
    steps : int
        How far a value is carried.

    Returns
    -------
    int arrays of shape (n,)
        Flat indexes.
    """
    times, servers = observed.shape
    time, server = np.divmod(np.flatnonzero(~observed), servers)
    stretched = np.sort(server * (times + 1) + time)  # server by server, never in touch
    begins = np.flatnonzero(np.diff(stretched, prepend=-2) > 1)
    age = np.arange(1, len(stretched) + 1) - np.repeat(begins, np.diff(begins, append=len(stretched)))
    server, time = np.divmod(stretched, times + 1)
    reached = (age <= steps) & (age <= time)
    gaps = (time * servers + server)[reached]
    return gaps, gaps - age[reached] * servers
