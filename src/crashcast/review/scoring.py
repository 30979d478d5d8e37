"""Score rows with a model: in the review's own process, or as a script under the code of the model's own commit.

As a script it must not assume more of that commit than `crashcast.modeling.model.load` and what it returns: `predict`
and `features`. So everything else here is polars and numpy.

    python -P scoring.py MODEL FEATURES ROWS SCORES
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

PART = "part-0.parquet"
KEYS = ["timestamp", "server_id"]
PIECE_ROWS = 1_000_000  # scored together, to save memory
TIMED_ROWS, TIMES = 10_000, 3


def score(model_folder: Path, features: Path, rows: Path, scores: Path) -> dict[str, float]:
    """Score the wanted rows, partition by partition.

    Parameters
    ----------
    model_folder : Path
        `model.skops`, `model.json`.
    features : Path
        The features, a folder of partitions.
    rows : Path
        The same partitions: `timestamp`, `server_id`, `wanted`.
    scores : Path
        Where to write, for each partition, PARTITION.npy: a probability for each wanted row, NaN if the features
        have no such row.

    Returns
    -------
    dict
        `latency_ms`: CPU time of scoring 1,000 rows, the least of several times: a verdict must not depend on what else
        the machine does.
    """
    from crashcast.modeling.model import load

    scores.mkdir(exist_ok=True)
    model = load(model_folder)
    timed: pl.DataFrame | None = None
    for folder in sorted(rows.iterdir()):
        done = []
        for wanted, values in _pieces(folder / PART, features / folder.name / PART, model.features):
            found = np.full(wanted.height, np.nan)
            is_there = values["is_there"].to_numpy()
            if is_there.any():
                known = values.filter("is_there")
                found[is_there] = model.predict(known)
                if timed is None or timed.height < min(known.height, TIMED_ROWS):
                    timed = known.head(TIMED_ROWS)
            done.append(found)
        np.save(scores / f"{folder.name}.npy", np.concatenate(done))
    return {"latency_ms": _latency_ms(model, timed) if timed is not None else 0.0}


def _pieces(rows: Path, features: Path, columns: list[str]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield wanted rows, and for each its features and whether there are any (`is_there`)."""
    listed = pl.read_parquet(rows, hive_partitioning=False)
    table = pl.scan_parquet(features, hive_partitioning=False, glob=False).select(*KEYS, *columns)
    moments = listed["timestamp"].gather_every(PIECE_ROWS).unique().sort().to_list()
    for start, end in pairwise([*moments, listed["timestamp"][-1] + timedelta(microseconds=1)]):
        inside = pl.col("timestamp").is_between(start, end, closed="left")
        piece, values = listed.filter(inside), table.filter(inside).collect()
        chosen = piece["wanted"]
        wanted = piece.filter(chosen).select(KEYS)
        if values.select(KEYS).equals(piece.select(KEYS)):
            yield wanted, values.filter(chosen).with_columns(is_there=True)
        else:  # another cleaning has other rows
            marked = values.with_columns(is_there=True)
            joined = wanted.join(marked, on=KEYS, how="left", maintain_order="left")
            yield wanted, joined.with_columns(pl.col("is_there").fill_null(False))


def _latency_ms(model: Any, rows: pl.DataFrame) -> float:
    taken = []
    for _ in range(TIMES):
        begun = time.process_time()
        model.predict(rows)
        taken.append(time.process_time() - begun)
    return min(taken) * 1000 / rows.height * 1000


if __name__ == "__main__":
    print(json.dumps(score(*map(Path, sys.argv[1:]))))
