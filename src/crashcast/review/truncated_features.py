"""Compute features from data that ends at a moment, by the stages of the commit in whose project this runs.

For each moment on standard input, in ISO 8601 and rising, data/raw has been laid out as it was then. The answer on
standard output is the features of that moment's rows: the size in 8 bytes, then a Parquet file.

It must not assume more of that commit than `src/run.py`'s call of a stage: `stages.<name>.main` with its paths. So
everything else here is polars.

    python -P truncated_features.py FEATURES STAGE PATH... , STAGE PATH... < MOMENTS > ANSWERS
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

PART = "part-0.parquet"
SIZE_BYTES = 8
NEXT = ","  # between stages


def main(features: Path, stages: Sequence[Sequence[str]]) -> None:
    """Answer for each moment on standard input.

    Parameters
    ----------
    features : Path
        The table that the last stage writes.
    stages : sequence of sequences of str
        The name and the paths of each.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what stages print is no answer
    for line in sys.stdin:
        now = pl.col("timestamp") == datetime.fromisoformat(line.strip()).replace(tzinfo=UTC)
        for stage, *paths in stages:
            importlib.import_module(f"stages.{stage}").main(*map(Path, paths))
        parts = sorted(features.glob(f"*/{PART}"))[-2:]
        buffer = io.BytesIO()
        pl.concat(pl.read_parquet(path, hive_partitioning=False).filter(now) for path in parts).write_parquet(buffer)
        answers.write(buffer.tell().to_bytes(SIZE_BYTES, "big") + buffer.getvalue())
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [words.split() for words in " ".join(sys.argv[2:]).split(f" {NEXT} ")])
