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

from crashcast import partitions, tables
from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.grid import Bools, Floats, Grid, age_of_last, window_max, window_sum
from crashcast.params import Clean, Telemetry
from crashcast.partitions import Period, Task
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
    write_json(metrics, partitions.total(partitions.run("clean", clean_partition, tasks, out)))


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
    start = samples_period(partition, settings, rules)[0] + settings.interval
    grid = Grid.over(start, partition.end, settings.interval, samples["server_id"])
    here = np.broadcast_to((grid.times >= np.datetime64(partition.start))[:, None], grid.shape)

    repeated = samples.select(pl.struct("timestamp", "server_id").rle_id().diff() == 0).to_series().fill_null(False)
    cells_of_all = grid.cells(samples["timestamp"], samples["server_id"])
    on_grid = cells_of_all >= 0  # the first interval of the period only completes its rows
    cells, unique = cells_of_all[on_grid & ~repeated.to_numpy()], samples.filter(pl.Series(on_grid) & ~repeated)

    lost: dict[str, int] = {}
    filled: dict[str, Floats] = {}
    usable = np.zeros(unique.height, dtype=bool)  # samples with at least one possible value
    kept_cells = np.zeros(grid.shape, dtype=bool)  # rows with at least one value of their own
    steps = rules.fill_limit // settings.interval
    for name, metric in settings.metrics.items():
        column = unique[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        possible = (column >= metric.min) & (column <= metric.max)
        impossible = ~np.isnan(column) & ~possible
        lost[f"out_of_range_{name}"] = int(np.count_nonzero(impossible & here.ravel()[cells]))
        usable |= possible
        dense = grid.dense(cells, np.where(possible, column, np.nan), metric.aggregate)
        observed = ~np.isnan(dense)
        filled[name] = fill(dense, observed, steps)
        if metric.can_stick:
            broken = stuck(filled[name], observed, grid.steps(rules.stuck_after))
            lost[f"stuck_{name}"] = int(np.count_nonzero(broken & here))
            filled[name] = fill(np.where(broken, np.nan, dense), observed, steps)
            observed &= ~broken
        kept_cells |= observed
    kept_cells &= here

    present = here & np.any([~np.isnan(values) for values in filled.values()], axis=0)
    frame = grid.keys(present).with_columns(
        pl.Series(name, values[present].astype(np.float32), nan_to_null=True) for name, values in filled.items()
    )
    in_partition = here.ravel()[cells_of_all[on_grid]]
    samples_in = int(np.count_nonzero(in_partition))
    kept = int(np.count_nonzero(kept_cells))
    duplicates = samples_in - int(np.count_nonzero(here.ravel()[cells]))
    merged = int(np.count_nonzero(usable & kept_cells.ravel()[cells])) - kept
    return frame, {
        "samples": samples_in,
        "kept": kept,
        "merged": merged,
        "dropped_duplicate": duplicates,
        "dropped_no_valid_value": samples_in - duplicates - kept - merged,
        "rows": frame.height,
        "filled": frame.height - kept,
        **lost,
    }


def stuck(filled: Floats, observed: Bools, steps: int) -> Bools:
    """Tell where a sensor has shown one value for `steps` rows, most of them observed; a filled gap is bridged.

    Only what a row's own past shows: the first rows of a stuck stretch pass, as they would in production.
    """
    shown = filled.astype(np.float32).astype(np.float64)  # means of one value differ in the last bits of float64
    unchanged = window_max(shown, steps) == -window_max(-shown, steps)
    whole = window_sum(~np.isnan(filled), steps) == steps
    return observed & unchanged & whole & (2 * window_sum(observed, steps) > steps)


def fill(values: Floats, observed: Bools, steps: int) -> Floats:
    """Carry the last observed value forward over at most `steps` rows; where that one is NaN, so is what it fills."""
    age = age_of_last(observed)
    source = np.maximum(np.arange(len(values))[:, None] - age, 0)
    return np.where(age <= steps, np.take_along_axis(values, source, axis=0), np.nan)
