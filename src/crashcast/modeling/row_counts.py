"""The rows of known label of each server in each part, counted by partition: shares and lots are drawn by them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from crashcast import tables
from crashcast.execution import runner
from crashcast.execution.runner import SMALL_TO_SCORE_BYTES
from crashcast.execution.task import File, Task
from crashcast.modeling.split_rule import HAS_LABEL, KEYS_AND_LABEL, Rule, assign
from crashcast.tables import Partition

COUNTS = {"server_id": pl.String, "part": pl.String, "rows": pl.Int64, "crash_rows": pl.Int64}


def count_rows(labels: Path, rule: Rule) -> pl.DataFrame:
    """Count the rows of known label.

    Parameters
    ----------
    labels : Path
        The table.
    rule : dict
        What `split` wrote.

    Returns
    -------
    DataFrame
        `server_id`, `part`, `rows`, `crash_rows`, sorted; rows that are in no part are left out.
    """
    tasks = [
        Task(partition, {"labels": File(partition.path(labels)), "rule": rule})
        for partition in tables.partitions(labels)
    ]
    files = runner.files("count", count_partition, tasks, SMALL_TO_SCORE_BYTES)
    return _total(pl.concat([pl.DataFrame(schema=COUNTS), *map(tables.read, files)]))


def count_partition(partition: Partition, labels: Path, rule: Rule) -> tuple[pl.DataFrame, dict[str, int]]:
    """Count those of one partition."""
    known = tables.read(labels, KEYS_AND_LABEL, HAS_LABEL)
    one = known.select("server_id", part=assign(known, rule).cast(pl.String), rows=pl.lit(1), crash_rows="label")
    return _total(one), {"rows": known.height}


def _total(counted: pl.DataFrame) -> pl.DataFrame:
    whole = pl.col("rows", "crash_rows").cast(pl.Int64).sum()
    return counted.drop_nulls("part").group_by("server_id", "part").agg(whole).sort("server_id", "part")
