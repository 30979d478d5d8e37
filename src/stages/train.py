"""Fit the candidates, choose one on validation, and decide when it raises an alarm.

In: features, labels, the split's rule, the incidents that are believed and their coverage. Out: `models/` (the model
and its card), `metrics/candidates.json` (the evidence for the choice) and `metrics/train.json` (the chosen model on
validation).

Crashes are rare, so all crash rows are kept and only a share of the other training rows, and where that is still too
much to hold, the same share of both. Logistic regression undoes that by weights; the log-odds of the others are shifted
by the logarithm of the ratio of the two shares.
Validation keeps every known row. The test part is not looked at here. With `train.self_training` the chosen one learns
once more, from what no incident records cover, too.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.canonical import write_json, write_text
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import alarms, ranking
from crashcast.modeling.card import model_card
from crashcast.modeling.estimators import Candidate, Matrix, candidates, fit, log_odds
from crashcast.modeling.model import Model, calibration, matrix, save
from crashcast.modeling.split_rule import (
    HASH_RANGE,
    assign,
    crashes_of_part,
    labelled,
    period,
    read_part,
    read_rule,
    read_uncovered,
    row_hash,
)
from crashcast.params.alarms import Alarms
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train


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
    rules, limits, label, settings = Train.read(), Alarms.read(), Label.read(), Telemetry.read()
    rule = read_rule(split)
    columns = feature_names(features)
    crashes = crashes_of_part(read_covered_crashes(incidents, coverage, Incidents.read()), rule, "validation")

    values, crash, (share, share_of_crash_rows) = training_rows(features, labels, rule, columns, rules)
    weights = None
    if rules.weigh_by_confidence:
        weights = training_weights(
            labels, rule, rules, (share, share_of_crash_rows), confidences(incidents), label.lead
        )
    kept = share / share_of_crash_rows
    fitted: list[tuple[Candidate, Any]] = []
    for candidate in candidates(rules):
        print(f"train: fitting {candidate.name} on {len(values)} rows", file=sys.stderr)
        fitted.append((candidate, fit(candidate, values, crash, kept, weights)))
    if not rules.self_training:
        del values

    rows, scores = score_validation(features, labels, rule, columns, fitted, kept)
    target, window = rows["label"].to_numpy(), alarms.AlarmWindow.of(label, settings.interval)

    def at_budget(raw: NDArray[np.float64]) -> tuple[float, alarms.EventMetrics]:
        scored = rows.with_columns(score=raw)
        threshold = alarms.choose_threshold(scored, crashes, limits.false_alarms_per_server_day, window).threshold
        return threshold, alarms.judge(scored, crashes, threshold, window, period(rule, "validation")).metrics

    evidence: dict[str, dict[str, Any]] = {}
    for (candidate, _), file in zip(fitted, scores, strict=True):
        raw = read_scores(file)
        evidence[candidate.name] = ranking.ranking(target, raw) | {"event_recall": at_budget(raw)[1].event_recall}
    best = int(np.argmax([evidence[candidate.name]["pr_auc"] for candidate, _ in fitted]))  # the simplest of equals
    candidate, estimator = fitted[best]
    write_json(candidates_metrics, {"chosen": candidate.name, "candidates": evidence})

    def calibrated(estimator: Any, raw: NDArray[np.float64]) -> Model:
        slope, intercept = calibration(raw, target == 1)
        offset = candidate.offset(kept)
        return Model(estimator, candidate.algorithm, candidate.hyperparameters, columns, offset, slope, intercept)

    raw = read_scores(scores[best])
    model = calibrated(estimator, raw)
    if rules.self_training:
        more, guessed = guessed_rows(features, labels, rule, model, rules, crash, (share, share_of_crash_rows))
        weights = None if weights is None else np.append(weights, np.ones(len(guessed)))
        estimator = fit(candidate, np.concatenate([values, more]), np.append(crash, guessed), kept, weights)
        _, [file] = score_validation(features, labels, rule, columns, [(candidate, estimator)], kept)
        raw = read_scores(file)
        model = calibrated(estimator, raw)
    probability = model.probability(raw)
    threshold, at_threshold = at_budget(probability)
    model = replace(model, threshold=threshold)
    figures = {
        **ranking.row_metrics(target, probability, threshold),
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
) -> tuple[Matrix, NDArray[np.bool_], tuple[float, float]]:
    """Read some rows of the train part, drawn by a hash of each row's key.

    Returns
    -------
    float32 array of shape (n, k)
        The features.
    bool array of shape (n,)
        Whether the row is one before a crash.
    pair of float
        The shares of negatives and of crash rows that were kept.
    """
    known = np.zeros(2, dtype=np.int64)  # of each label
    for _, rows in labelled(labels):
        known += np.bincount(rows["label"].filter(assign(rows, rule) == "train"), minlength=2)
    shares = shares_kept(int(known[0]), int(known[1]), rules)
    draw = partial(is_drawn, shares=shares, seed=rules.seed)
    # memory is taken as it is filled, so room for twice what is expected costs nothing
    room = min(int(known.sum()), 1000 + int(2 * known @ shares))
    values, crash, n = np.empty((room, len(columns)), dtype=np.float32), np.empty(room, dtype=bool), 0
    for _, rows in read_part(features, labels, rule, "train", columns, draw):
        some = slice(n, n := n + rows.height)
        values[some], crash[some] = matrix(rows, columns), rows["label"] == 1
    return values[:n], crash[:n], shares


def is_drawn(rows: pl.DataFrame, shares: tuple[float, float], seed: int) -> pl.Series:
    """Tell which rows are trained on, of either label so large a share."""
    below = pl.Series([min(int(share * HASH_RANGE), HASH_RANGE - 1) for share in shares], dtype=pl.UInt64)
    drawn = pl.Series(row_hash(rows, seed, "training sample"))
    return drawn <= below.gather(rows["label"].fill_null(0))


def confidences(incidents: Path) -> pl.DataFrame:
    """Return the believed crashes with the probability of each, 1 where nobody was asked, sorted by their start."""
    crashes = tables.read(incidents, ["server_id", "kind", "started_at", "confidence"]).filter(kind=tables.CRASH)
    return crashes.select("server_id", "started_at", pl.col("confidence").fill_null(1.0)).sort("started_at")


def training_weights(
    labels: Path,
    rule: dict[str, Any],
    rules: Train,
    shares: tuple[float, float],
    believed: pl.DataFrame,
    lead: timedelta,
) -> NDArray[np.float64]:
    """Return what each row of `training_rows` counts: before a crash the confidence of that crash, else 1.

    Parameters
    ----------
    labels : Path
        The table.
    rule : dict
        What `split` wrote.
    rules : Train
        The parameters.
    shares : pair of float
        As `training_rows` returned them.
    believed : DataFrame
        See `confidences`.
    lead : timedelta
        A row is labelled by the first crash that starts later than this.

    Returns
    -------
    float array of shape (n,)
    """
    weights = []
    for _, rows in labelled(labels):
        chosen = rows.filter((assign(rows, rule) == "train") & is_drawn(rows, shares, rules.seed))
        ahead = chosen.select("server_id", "label", after=pl.col("timestamp") + lead).join_asof(
            believed,
            left_on="after",
            right_on="started_at",
            by="server_id",
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        weights.append(ahead.select(pl.when(label=1).then("confidence").otherwise(1.0).alias("weight")).to_series())
    return pl.concat(weights).to_numpy()


def guessed_rows(
    features: Path,
    labels: Path,
    rule: dict[str, Any],
    model: Model,
    rules: Train,
    learned: NDArray[np.bool_],
    shares: tuple[float, float],
) -> tuple[Matrix, NDArray[np.bool_]]:
    """Read some of the rows that no incident records cover, as the model labels them where it is certain.

    A row is one before a crash where the risk is at least `certainty`, and none where it is at most 1 - `certainty` of
    the base rate; what lies between teaches nothing. They are drawn as the labelled rows are.

    Parameters
    ----------
    model : Model
        What was learned from the labelled rows.
    learned, shares : array of bool, pair of float
        The labels that it learned from, and of which share of either kind, as `training_rows` returned them.

    Returns
    -------
    float32 array of shape (n, k)
        The features.
    bool array of shape (n,)
        Whether the row is one before a crash.

    References
    ----------
    Yarowsky, Unsupervised word sense disambiguation rivaling supervised methods, ACL 1995.
    """
    assert rules.self_training is not None
    certainty = rules.self_training.certainty
    known = np.bincount(learned, minlength=2) / shares
    base_rate = known[1] / known.sum()
    uncovered = sum(rows.height for _, rows in read_uncovered(features, labels, rule, []))
    thinned = min(1.0, rules.max_rows / max(1.0, uncovered * shares[0]))
    values, crash = [np.empty((0, len(model.features)), dtype=np.float32)], [np.empty(0, dtype=bool)]
    for _, rows in read_uncovered(features, labels, rule, model.features):
        risk = model.predict(rows)
        guess = np.select([risk >= certainty, risk <= (1 - certainty) * base_rate], [1, 0], -1)
        certain = rows.with_columns(label=guess).filter(pl.col("label") >= 0)
        chosen = certain.filter(is_drawn(certain, (shares[0] * thinned, shares[1] * thinned), rules.seed))
        values.append(matrix(chosen, model.features))
        crash.append(chosen["label"].to_numpy() == 1)
    found = np.concatenate(crash)
    counts = f"{len(found):,} of {uncovered:,} rows that no records cover, {found.sum():,} of them before a crash"
    print(f"train: learning again, with {counts}", file=sys.stderr)
    return np.concatenate(values), found


def shares_kept(negatives: int, positives: int, rules: Train) -> tuple[float, float]:
    """Return the shares of negatives and of positives to train on."""
    share = min(1.0, rules.negatives_per_positive * positives / negatives)
    thinned = min(1.0, rules.max_rows / (positives + share * negatives))
    return share * thinned, thinned


def score_validation(
    features: Path,
    labels: Path,
    rule: dict[str, Any],
    columns: list[str],
    fitted: list[tuple[Candidate, Any]],
    kept: float,
) -> tuple[pl.DataFrame, list[BinaryIO]]:
    """Score the validation part with every candidate, a piece at a time.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id`, `label`.
    list of files
        Each candidate's log-odds, the sampling undone: for many rows and candidates, more than memory holds.
    """
    keys: list[pl.DataFrame] = []
    files: list[BinaryIO] = [TemporaryFile() for _ in fitted]  # noqa: SIM115 - they outlive this function
    for _, rows in read_part(features, labels, rule, "validation", columns):
        keys.append(rows.select("timestamp", pl.col("server_id").cast(pl.Categorical), "label"))
        values = matrix(rows, columns)
        for (candidate, estimator), file in zip(fitted, files, strict=True):
            file.write((log_odds(estimator, values) + candidate.offset(kept)).tobytes())
    return pl.concat(keys, rechunk=True), files


def read_scores(file: BinaryIO) -> NDArray[np.float64]:
    """Read a candidate's log-odds."""
    file.seek(0)
    return np.frombuffer(file.read(), dtype=np.float64)
