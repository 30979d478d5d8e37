"""Correction by server: what a server's own crashes add to a model of the whole fleet.

A model is fitted to all servers alike. Some servers crash more often than it expects, for reasons that no feature
holds. So each server's log-odds are corrected by

    log((a + observed) / (a + expected))

with `observed`, the crashes of its training rows, and `expected`, what the model expects of these rows. The strength
`a` is a number of crashes, and shrinks the correction: a server with few training rows is nearly left as the model has
it, and an unknown one wholly. If a server's crashes are Poisson with the mean rate x expected, and rates are
gamma-distributed with mean 1 and variance 1 / a, then exp(correction) is the posterior mean of its rate.

The corrections are part of the model, so whatever scores a row gives the same score. They stay as they are until the
model is trained again: benchmarks/two_tier.py measures what it would change to add what ripens meanwhile.

Source: Clayton, Kaldor, Empirical Bayes estimates of age-standardized relative risks for use in disease mapping,
Biometrics 43, 1987, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.algorithms.base import significant
from crashcast.modeling.model import Model, calibration, loaded
from crashcast.modeling.row_metrics import pr_auc
from crashcast.modeling.sampling import Sample
from crashcast.modeling.split_rule import Rule, period
from crashcast.modeling.validation_scores import Validation

OFF = math.inf
STRENGTHS = (OFF, 30.0, 10.0, 3.0, 1.0)  # crashes; the more, the smaller the corrections


def evidence(model: Model, sample: Sample, window: AlarmWindow) -> pl.DataFrame:
    """Return the crashes of each server in the training sample, and how many the model expects there.

    Parameters
    ----------
    model : Model
        Fitted and calibrated.
    sample : Sample
        Rows that were drawn count for those that were not.
    window : AlarmWindow
        A crash has horizon / interval rows of label 1: so many rows count as one crash.

    Returns
    -------
    DataFrame
        `server_id`, `observed`, `expected`, sorted by server.
    """
    share_of_negatives, share_of_crash_rows = sample.shares
    represented = np.where(sample.crash, 1 / share_of_crash_rows, 1 / share_of_negatives)
    represented = represented / max(1.0, window.horizon / window.interval)
    expected = model.probability(model.log_odds(sample.values)) * represented
    servers = sample.keys.select(pl.col("server_id").cast(pl.String))
    rows = servers.with_columns(observed=sample.crash * represented, expected=expected)
    return rows.group_by("server_id", maintain_order=True).sum().sort("server_id")


def corrections(found: pl.DataFrame, strength: float) -> dict[str, float]:
    """Return what is added to each server's log-odds.

    Parameters
    ----------
    found : DataFrame
        See `evidence`.
    strength : float
        `a` above; infinite: no server is corrected.
    """
    if strength == OFF:
        return {}
    observed, expected = (found[name].to_numpy() for name in ("observed", "expected"))
    added = significant(np.log((strength + observed) / (strength + expected)))
    return dict(zip(found["server_id"].to_list(), added.tolist(), strict=True))


def choose_strength(
    folds: Sequence[Rule], fitted: Sequence[Path], score: Callable[..., Validation], sample: Sample
) -> tuple[float, dict[str, Any]]:
    """Choose the strength with the highest mean logarithm of PR-AUC over the folds.

    Each fold's corrections come from the rows that its model was fitted to, so none from its validation part or later.

    Parameters
    ----------
    folds : sequence of dict
        See `folds.forward_chained`.
    fitted : sequence of Path
        The folders of the chosen candidate's models, each fitted to the rows before a fold.
    score : function
        `validation_scores.score_by_tasks`, given a rule and `models`.
    sample : Sample
        See `evidence`.

    Returns
    -------
    float
        The strength.
    dict
        `strength`, null if it is off, and `log_pr_auc`: of each strength the mean over the folds.
    """
    found = []
    for fold, folder in zip(folds, fitted, strict=True):
        validation = score(fold, models=[folder])
        labels, known, raw = validation.labels, validation.known, validation.scores(0)
        if not 0 < labels.sum() < len(labels):
            continue
        slope, intercept = calibration(raw[known], labels == 1)
        model = replace(loaded(folder), slope=slope, intercept=intercept)
        counted = evidence(model, sample.before(period(fold, "train")[1]), validation.window)
        servers = validation.rows["server_id"].filter(known)
        corrected = (replace(model, local=corrections(counted, a)) for a in STRENGTHS)
        found.append([np.log(pr_auc(labels, one.calibrated_log_odds(raw[known], servers))) for one in corrected])
    means = np.mean(found, axis=0)
    strength = STRENGTHS[int(np.argmax(means))]
    names = ["off" if a == OFF else f"{a:g}" for a in STRENGTHS]
    told = dict(zip(names, means.tolist(), strict=True))
    return strength, {"strength": None if strength == OFF else strength, "log_pr_auc": told}
