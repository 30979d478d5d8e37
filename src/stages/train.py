"""Fit the candidates, choose one on validation, and decide when it raises an alarm.

In: features, labels, the split's rule, the incidents and their coverage. Out: `models/` (the model and its card),
`metrics/candidates.json` (the evidence for the choice) and `metrics/train.json` (the chosen model on validation).

Crashes are rare, so all crash rows are kept and only a share of the other training rows; the log-odds are shifted back
by the logarithm of that share. Validation keeps every known row. The test part is not looked at here.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.canonical import write_json, write_text
from crashcast.modeling import events, metrics
from crashcast.modeling.card import model_card
from crashcast.modeling.estimators import Candidate, Matrix, candidates, fit, log_odds
from crashcast.modeling.model import Model, calibration, matrix, save
from crashcast.params import Alarms, Incidents, Label, Telemetry, Train
from crashcast.parts import assign, crashes_of_part, labelled, period, read_part, read_rule, row_hash


def main(
    features: Path,
    labels: Path,
    split: Path,
    incidents: Path,
    coverage: Path,
    models: Path,
    candidates_metrics: Path,
    train_metrics: Path,
) -> None:
    """Train, choose, calibrate, set the threshold, and write it all down."""
    rules, alarms, label, settings = Train.read(), Alarms.read(), Label.read(), Telemetry.read()
    rule = read_rule(split)
    columns = feature_names(features)
    crashes = crashes_of_part(tables.read_covered_crashes(incidents, coverage, Incidents.read()), rule, "validation")

    values, crash, share = training_rows(features, labels, rule, columns, rules)
    offset = float(np.log(share))
    fitted: list[tuple[Candidate, Any]] = []
    for candidate in candidates(rules):
        print(f"train: fitting {candidate.name} on {len(values)} rows", file=sys.stderr)
        fitted.append((candidate, fit(candidate, values, crash)))
    del values

    rows, scores = score_validation(features, labels, rule, columns, fitted, offset)
    target = rows["label"].to_numpy()
    timing = {"lead": label.lead, "horizon": label.horizon, "interval": settings.interval}

    def at_budget(raw: NDArray[np.float64]) -> tuple[float, events.EventMetrics]:
        scored = rows.with_columns(score=raw)
        threshold = events.choose_threshold(scored, crashes, alarms.false_alarms_per_server_day, **timing).threshold
        return threshold, events.judge(scored, crashes, threshold, period=period(rule, "validation"), **timing).metrics

    evidence: dict[str, dict[str, Any]] = {}
    for (candidate, _), raw in zip(fitted, scores, strict=True):
        evidence[candidate.name] = {
            "pr_auc": metrics.pr_auc(target, raw),
            "lift": metrics.lift(target, raw),
            "roc_auc": metrics.roc_auc(target, raw),
            "event_recall": at_budget(raw)[1].event_recall,
        }
    best = int(np.argmax([evidence[candidate.name]["pr_auc"] for candidate, _ in fitted]))  # the simplest of equals
    candidate, estimator = fitted[best]
    write_json(candidates_metrics, {"chosen": candidate.name, "candidates": evidence})

    slope, intercept = calibration(scores[best], target == 1)
    model = Model(estimator, candidate.algorithm, candidate.hyperparameters, columns, offset, slope, intercept)
    probability = model.probability(scores[best])
    threshold, at_threshold = at_budget(probability)
    model = replace(model, threshold=threshold)
    figures = {
        **metrics.row_metrics(target, probability, threshold),
        **at_threshold.as_dict(),
        "training_rows": len(crash),
        "training_crash_rows": int(crash.sum()),
        "share_of_negatives": share,
    }
    write_json(train_metrics, figures)
    save(model, models)
    inputs = {"features": features, "labels": labels, "split": split, "incidents": incidents, "coverage": coverage}
    write_text(models / "card.md", model_card(model, inputs, rule, figures, evidence))


def feature_names(features: Path) -> list[str]:
    """Return the features of the table, in its order."""
    first = tables.partitions(features)[0].path(features)
    return [name for name in pl.read_parquet_schema(first) if name not in tables.KEYS]


def training_rows(
    features: Path, labels: Path, rule: dict[str, Any], columns: list[str], rules: Train
) -> tuple[Matrix, NDArray[np.bool_], float]:
    """Read all crash rows of the train part and a share of the others, drawn by a hash of each row's key.

    Returns
    -------
    float32 array of shape (n, k)
        The features.
    bool array of shape (n,)
        Whether the row is one before a crash.
    float
        The share of negatives that was kept.
    """
    known = [rows["label"].filter(assign(rows, rule) == "train") for _, rows in labelled(labels)]
    positives = sum(int(part.sum()) for part in known)
    negatives = sum(len(part) for part in known) - positives
    share = min(1.0, rules.negatives_per_positive * positives / negatives)
    below = np.uint64(min(int(share * 2**64), 2**64 - 1))
    kept = [
        rows.filter((pl.col("label") == 1) | pl.Series(row_hash(rows, rules.seed, "training sample") <= below))
        for _, rows in read_part(features, labels, rule, "train", columns)
    ]
    crash = np.concatenate([rows["label"].to_numpy() == 1 for rows in kept])
    return np.concatenate([matrix(rows, columns) for rows in kept]), crash, share


def score_validation(
    features: Path,
    labels: Path,
    rule: dict[str, Any],
    columns: list[str],
    fitted: list[tuple[Candidate, Any]],
    offset: float,
) -> tuple[pl.DataFrame, list[NDArray[np.float64]]]:
    """Score the validation part with every candidate, a partition at a time.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id`, `label`.
    list of float arrays of shape (n,)
        Each candidate's log-odds, the sampling undone.
    """
    keys, scores = [], []
    for _, rows in read_part(features, labels, rule, "validation", columns):
        keys.append(rows.select("timestamp", "server_id", "label"))
        values = matrix(rows, columns)
        scores.append([log_odds(estimator, values) + offset for _, estimator in fitted])
    return pl.concat(keys), [np.concatenate(column) for column in zip(*scores, strict=True)]
