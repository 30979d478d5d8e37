"""Drawing the training sample: all crash rows and a share of the others, as crashes are rare.

If that is still more than `train.max_rows`, the same share of both is drawn. Rows are drawn by a hash of their keys, so
the sample is the same in whatever order they are read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.execution import runner
from crashcast.execution.runner import SMALL_TO_SCORE_BYTES
from crashcast.modeling.algorithms.base import Floats, Matrix
from crashcast.modeling.model import Model, matrix
from crashcast.modeling.part_tasks import part_tasks
from crashcast.modeling.row_counts import count_rows
from crashcast.modeling.split_rule import (
    HASH_RANGE,
    Rule,
    read_pieces,
    read_uncovered,
    row_hash,
)
from crashcast.params.train import Train
from crashcast.tables import Partition


@dataclass(frozen=True)
class Sample:
    """Rows to train on.

    Attributes
    ----------
    keys : DataFrame
        n rows: `timestamp`, `server_id` as a category.
    values : float32 array of shape (n, k)
        The features.
    crash : bool array of shape (n,)
        The labels.
    shares : pair of float
        The shares of negatives and of crash rows that were drawn.
    weight : float array of shape (n,), optional
        How much each row counts; by default all alike.
    """

    keys: pl.DataFrame
    values: Matrix
    crash: NDArray[np.bool_]
    shares: tuple[float, float]
    weight: Floats | None = None

    @property
    def share(self) -> float:
        """The share of negatives over that of crash rows."""
        return self.shares[0] / self.shares[1]

    def before(self, moment: datetime) -> Sample:
        """Return the rows before a moment (naive, UTC), without a copy if they are all."""
        is_before = (self.keys["timestamp"].dt.replace_time_zone(None) < moment).to_numpy()
        if is_before.all():
            return self
        weight = None if self.weight is None else self.weight[is_before]
        kept = self.keys.filter(is_before), self.values[is_before], self.crash[is_before]
        return Sample(*kept, self.shares, weight)

    def figures(self) -> dict[str, float]:
        """Return how many rows were drawn, for `metrics/train.json`."""
        return {
            "training_rows": len(self.crash),
            "training_crash_rows": int(self.crash.sum()),
            "share_of_negatives": self.shares[0],
        }


def feature_names(features: Path) -> list[str]:
    """Return the features of the table, in its order."""
    first = tables.partitions(features)[0].path(features)
    return [name for name in pl.read_parquet_schema(first) if name not in tables.KEYS]


@dataclass(frozen=True)
class Drawn:
    """A training sample in files, one for each partition.

    Attributes
    ----------
    folder : Path
    columns : list of str
        The features.
    shares : pair of float
        See `Sample`.
    rows : int
    """

    folder: Path
    columns: list[str]
    shares: tuple[float, float]
    rows: int

    def read(self) -> Sample:
        """Read the rows."""
        keys, values = [], np.empty((self.rows, len(self.columns)), dtype=np.float32)
        crash, n = np.empty(self.rows, dtype=bool), 0
        for partition in tables.partitions(self.folder):
            rows = tables.read(partition.path(self.folder))
            some = slice(n, n := n + rows.height)
            keys.append(rows.select("timestamp", pl.col("server_id").cast(pl.Categorical)))
            values[some], crash[some] = matrix(rows, self.columns), rows["label"] == 1
        return Sample(pl.concat(keys), values, crash, self.shares)


def draw_sample(features: Path, labels: Path, rule: Rule, columns: list[str], train: Train) -> Sample:
    """Draw the training sample (see `draw_into`)."""
    with TemporaryDirectory() as folder:
        return draw_into(Path(folder, "sample"), features, labels, rule, columns, train).read()


def draw_into(
    folder: Path,
    features: Path,
    labels: Path,
    rule: Rule,
    columns: list[str],
    train: Train,
    counted: pl.DataFrame | None = None,
) -> Drawn:
    """Draw the training sample into a folder.

    Parameters
    ----------
    folder : Path
    features, labels : Path
        The tables.
    rule : dict
        What `split` wrote.
    columns : list of str
        Which features.
    train : Train
        The parameters.
    counted : DataFrame, optional
        See `count_rows`, which is asked by default.
    """
    counted = count_rows(labels, rule) if counted is None else counted
    known, positives = counted.filter(part="train").select(pl.col("rows", "crash_rows").sum()).row(0)
    shares = shares_drawn(known - positives, positives, train)
    tasks = part_tasks(features, labels, rule, "train", columns=columns, shares=list(shares), seed=train.seed)
    counts = runner.run("sample", draw_from_partition, tasks, folder, small_bytes=SMALL_TO_SCORE_BYTES)
    return Drawn(folder, columns, shares, runner.total(counts)["rows"])


def draw_from_partition(
    partition: Partition,
    features: Path,
    labels: Path,
    rule: Rule,
    columns: list[str],
    shares: tuple[float, float],
    seed: int,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Draw the rows of one partition's files: keys, `label` and the columns."""
    draw = partial(is_drawn, shares=shares, seed=seed)
    pieces = read_pieces(partition, features, labels, rule, "train", columns, draw)
    drawn = [rows.drop(tables.OBSERVED) for rows in pieces]
    found = pl.concat(drawn) if drawn else pl.DataFrame()
    return found, {"rows": found.height}


def shares_drawn(negatives: int, positives: int, train: Train) -> tuple[float, float]:
    """Return the shares of negatives and of positives to train on."""
    share = min(1.0, train.negatives_per_positive * positives / negatives)
    thinned = min(1.0, train.max_rows / (positives + share * negatives))
    return share * thinned, thinned


def is_drawn(rows: pl.DataFrame, shares: tuple[float, float], seed: int) -> pl.Series:
    """Tell which rows are drawn, of either label its share."""
    below = pl.Series([min(int(share * HASH_RANGE), HASH_RANGE - 1) for share in shares], dtype=pl.UInt64)
    drawn = pl.Series(row_hash(rows, seed, "training sample"))
    return drawn <= below.gather(rows["label"])


def confidence_weights(sample: Sample, incidents: Path, lead: timedelta) -> Floats:
    """Return the weight of each row, shape (n,): before a crash the confidence of that crash, else 1.

    Parameters
    ----------
    sample : Sample
        The rows.
    incidents : Path
        The incidents with their `confidence`; null counts as 1.
    lead : timedelta
        A row is labelled by the first crash that starts later than this.
    """
    crashes = tables.read(incidents, ["server_id", "kind", "started_at", "confidence"]).filter(kind=tables.CRASH)
    after = sample.keys.select(pl.col("server_id").cast(pl.String), after=pl.col("timestamp") + lead)
    ahead = after.join_asof(
        crashes.sort("started_at"),
        left_on="after",
        right_on="started_at",
        by="server_id",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    return np.where(sample.crash, ahead["confidence"].fill_null(1.0), 1.0)


def with_pseudo_labels(features: Path, labels: Path, rule: Rule, model: Model, sample: Sample, train: Train) -> Sample:
    """Add rows that no incident records cover, labelled by the model if it is certain; each counts 1.

    A row is labelled as one before a crash if the risk is at least `certainty`, and as a negative if it is at most
    1 - `certainty` of the base rate. Others are left out. The shares drawn are those of `sample`, or smaller.

    Parameters
    ----------
    features, labels : Path
        The tables.
    rule : dict
        What `split` wrote.
    model : Model
        Fitted to `sample` and calibrated.
    sample : Sample
        The labelled rows.
    train : Train
        The parameters, with `self_training`.

    References
    ----------
    Yarowsky, Unsupervised word sense disambiguation rivaling supervised methods, ACL 1995.
    """
    assert train.self_training is not None
    certainty = train.self_training.certainty
    known = np.bincount(sample.crash, minlength=2) / sample.shares
    base_rate = known[1] / known.sum()
    uncovered = sum(rows.height for _, rows in read_uncovered(features, labels, rule, []))
    thinned = min(1.0, train.max_rows / max(1.0, uncovered * sample.shares[0]))
    shares = sample.shares[0] * thinned, sample.shares[1] * thinned
    keys, values, crash = [sample.keys], [sample.values], [sample.crash]
    for _, rows in read_uncovered(features, labels, rule, model.features):
        risk = model.predict(rows)
        guess = np.select([risk >= certainty, risk <= (1 - certainty) * base_rate], [1, 0], -1)
        certain = rows.with_columns(label=guess).filter(pl.col("label") >= 0)
        chosen = certain.filter(is_drawn(certain, shares, train.seed))
        keys.append(chosen.select("timestamp", pl.col("server_id").cast(pl.Categorical)))
        values.append(matrix(chosen, model.features))
        crash.append(chosen["label"].to_numpy() == 1)
    added, crashes = sum(map(len, crash[1:])), sum(int(some.sum()) for some in crash[1:])
    print(
        f"train: adding {added:,} of {uncovered:,} rows without incident records, {crashes:,} before a crash",
        file=sys.stderr,
    )
    weight = None if sample.weight is None else np.append(sample.weight, np.ones(added))
    return Sample(pl.concat(keys), np.concatenate(values), np.concatenate(crash), sample.shares, weight)
