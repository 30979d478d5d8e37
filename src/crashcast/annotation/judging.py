"""A model, or many, fitted to what `train` learns from and judged on validation, as `train` judges its candidates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import clone

from crashcast import tables
from crashcast.errors import UserError
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import alarms, ranking
from crashcast.modeling.bootstrap import Floats, TwoWayDraws, pr_auc_replicates, ratio_replicates, total_replicates
from crashcast.modeling.estimators import Candidate, Matrix, candidates, fit, log_odds
from crashcast.modeling.model import matrix
from crashcast.modeling.split_rule import (
    HASH_RANGE,
    assign,
    crashes_of_part,
    labelled,
    period,
    read_part,
    read_rule,
    row_hash,
)
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train

FEATURES, LABELS, SPLIT = Path("data/features"), Path("data/labels"), Path("data/split.json")
INCIDENTS, COVERAGE = Path("data/incidents.parquet"), Path("data/raw/coverage.parquet")
EVIDENCE = Path("metrics/candidates.json")
REPLICATES = 300
FIGURES = ("pr_auc", "event_recall")
Scorer = Callable[[Matrix], Floats]
Judged = dict[str, tuple[float, Floats]]


class Sample(NamedTuple):
    """The rows that `train` learns from.

    Attributes
    ----------
    keys : DataFrame
        n rows: `timestamp`, `server_id`.
    values : float32 array of shape (n, k)
    crash : bool array of shape (n,)
    kept : float
        The share of negatives among them over that of crash rows.
    """

    keys: pl.DataFrame
    values: Matrix
    crash: NDArray[np.bool_]
    kept: float


def chosen(rules: Train) -> Candidate:
    """Return the candidate that `train` chose, unfitted."""
    try:
        name = json.loads(EVIDENCE.read_text(encoding="utf-8"))["chosen"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{EVIDENCE} is missing or unreadable: run `dvc repro`") from None
    known = {candidate.name: candidate for candidate in candidates(rules)}
    if name not in known:
        raise UserError(
            f"params.yaml: train.candidates has no {name}, which {EVIDENCE} says was chosen: run `dvc repro`"
        )
    return known[name]


def feature_names(features: Path) -> list[str]:
    """Return the features of the table, in its order."""
    first = tables.partitions(features)[0].path(features)
    return [name for name in pl.read_parquet_schema(first) if name not in tables.KEYS]


def training_sample(rules: Train, project: Path = Path()) -> Sample:
    """Read the training rows that `train` draws in a project."""
    features, labels, rule = project / FEATURES, project / LABELS, read_rule(project / SPLIT)
    columns = feature_names(features)
    known = np.zeros(2, dtype=np.int64)
    for _, rows in labelled(labels):
        known += np.bincount(rows["label"].filter(assign(rows, rule) == "train"), minlength=2)
    share = min(1.0, rules.negatives_per_positive * known[1] / known[0])
    thinned = min(1.0, rules.max_rows / (known[1] + share * known[0]))
    shares = (share * thinned, thinned)
    below = pl.Series([min(int(one * HASH_RANGE), HASH_RANGE - 1) for one in shares], dtype=pl.UInt64)

    def draw(rows: pl.DataFrame) -> pl.Series:
        return pl.Series(row_hash(rows, rules.seed, "training sample")) <= below.gather(rows["label"].fill_null(0))

    parts = [rows for _, rows in read_part(features, labels, rule, "train", columns, draw)]
    keys = pl.concat(rows.select("timestamp", "server_id") for rows in parts)
    values = np.ascontiguousarray(np.concatenate([matrix(rows, columns) for rows in parts]))
    crash = np.concatenate([rows["label"].to_numpy() == 1 for rows in parts])
    return Sample(keys, values, crash, shares[0] / shares[1])


def fitted(candidate: Candidate, values: Matrix, crash: NDArray[np.bool_], kept: float) -> Scorer:
    """Fit a candidate anew and return what scores by it; `kept` as in `Sample`."""
    # fitting changes an estimator: each fit has its own
    estimator = fit(replace(candidate, estimator=clone(candidate.estimator)), values, crash, kept)
    return lambda some: log_odds(estimator, some) + candidate.offset(kept)


def judge(rule: dict[str, Any], columns: list[str], scorers: list[Scorer]) -> Iterator[Judged]:
    """Judge scores on the validation part.

    Parameters
    ----------
    rule : dict
        What `split` wrote.
    columns : list of str
        The features that scorers are given.
    scorers : list of function
        Each turns features, float32 of shape (n, k), into log-odds of shape (n,).

    Yields
    ------
    dict
        Of `pr_auc` and `event_recall` (at the alarm budget) the value and its replicates; the same draws for all.
    """
    label, limits, rules = Label.read(), Alarms.read(), Evaluate.read()
    window = alarms.AlarmWindow.of(label, Telemetry.read().interval)
    covered = read_covered_crashes(INCIDENTS, COVERAGE, Incidents.read())
    crashes = crashes_of_part(covered, rule, "validation")
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile()) for _ in scorers]
        keys = []
        for _, rows in read_part(FEATURES, LABELS, rule, "validation", columns):
            keys.append(rows.select("timestamp", pl.col("server_id").cast(pl.Categorical), "label"))
            values = matrix(rows, columns)
            for score, file in zip(scorers, files, strict=True):
                file.write(score(values).astype(np.float64).tobytes())
        rows = pl.concat(keys, rechunk=True)
        target, span = rows["label"].to_numpy(), period(rule, "validation")
        draws = TwoWayDraws.draw(rows["server_id"].cast(pl.String), span, rules.block, REPLICATES, rules.seed)
        cells = draws.cells(rows["server_id"].cast(pl.String), rows["timestamp"])
        for file in files:
            file.seek(0)
            scores = np.frombuffer(file.read())
            scored = rows.with_columns(score=scores)
            threshold = alarms.choose_threshold(scored, crashes, limits.false_alarms_per_server_day, window).threshold
            found = alarms.judge(scored, crashes, threshold, window, span)
            of_crash = draws.cells(found.crashes["server_id"], found.crashes["last_warning_at"])
            caught = total_replicates(found.crashes["caught"].to_numpy(), of_crash, draws)
            total = total_replicates(np.ones(found.crashes.height), of_crash, draws)
            yield {
                "pr_auc": (ranking.pr_auc(target, scores), pr_auc_replicates(target, scores, cells, draws)),
                "event_recall": (found.metrics.event_recall or 0.0, ratio_replicates(caught, total)),
            }
