"""Baselines that a model must beat: rules of one feature, and random scores.

The rules are those that anybody would try first, and the feature that ranks the training rows best by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crashcast.errors import UserError
from crashcast.modeling.algorithms import ONE_RULE
from crashcast.modeling.algorithms.base import Floats, Matrix
from crashcast.modeling.row_metrics import Labels, Steps
from crashcast.modeling.split_rule import row_hash

Rules = dict[str, int]  # a feature, and 1 if a higher value is worse, else -1
ONE_RULES: Rules = {"hours_since_crash": -1, "crashes_7d": 1}
RANDOM = "random"
UNKNOWN = -1e9  # before the records begin a rule has no value, and raises no alarm; a float32, too, holds it exactly
FILE = "baselines.json"  # beside the model


def one_rules(features: Iterable[str]) -> Rules:
    """Return the rules of the features that exist."""
    known = set(features)
    return {name: sign for name, sign in ONE_RULES.items() if name in known}


def choose_rules(features: list[str], values: Matrix, crash: Labels, share: float, named: Rules) -> Rules:
    """Return the rules to beat: the usual and the named ones, and the feature that ranks the training rows best.

    Parameters
    ----------
    features : list of str
        The names of the k columns of `values`.
    values : float32 array of shape (n, k)
        Training rows; NaN if missing.
    crash : bool array of shape (n,)
        Their labels.
    share : float
        Of negatives that were sampled, over that of crash rows.
    named : dict
        Those that params.yaml names, of these features.

    Returns
    -------
    dict
        A feature that is the same in all rows is none: it ranks nothing.
    """
    areas: dict[tuple[str, int], float] = {}
    for number, name in enumerate(features):
        column = values[:, number].astype(np.float64)
        if not np.isnan(column).all() and np.nanmin(column) < np.nanmax(column):
            for sign in (1, -1):
                areas[name, sign] = _pr_auc(crash, np.nan_to_num(sign * column, nan=UNKNOWN), share)
    varying = {name for name, _ in areas}
    rules = {name: sign for name, sign in (one_rules(features) | named).items() if name in varying}
    return rules | dict([max(areas, key=areas.__getitem__)] if areas else [])  # of equals, the first


def _pr_auc(crash: Labels, scores: Floats, share: float) -> float:
    """Return the PR-AUC of all rows, if of those without a crash only a share was sampled."""
    steps = Steps.of(crash, scores)
    precision = steps.true / (steps.true + (steps.taken - steps.true) / share)
    return float(np.sum(np.diff(steps.true, prepend=0) * precision) / steps.true[-1])


def read_rules(file: Path, features: Iterable[str]) -> Rules:
    """Read the rules that `train` wrote beside a model of these features; an earlier version wrote none.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    if not file.exists():
        return one_rules(features)
    try:
        rules: Rules = json.loads(file.read_bytes())
        if not (rules.keys() <= {*features} and {*rules.values()} <= {1, -1}):
            raise ValueError("expected features of the model, each with 1 or -1")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file} is unreadable ({error}): `dvc pull` or `dvc repro train`") from None
    return rules


def without_itself(rules: Rules, algorithm: str, hyperparameters: dict[str, Any]) -> Rules:
    """Return the rules without the one that a model is: it cannot be better than itself."""
    itself = hyperparameters if algorithm == ONE_RULE else {}
    return {name: sign for name, sign in rules.items() if itself != {name: sign}}


def with_baselines(rows: pl.DataFrame, rules: Rules, seed: int) -> pl.DataFrame:
    """Return keys, label and score with the score of each baseline; servers as categories, to save memory.

    Parameters
    ----------
    rows : DataFrame
        `timestamp`, `server_id`, `label`, the features of the rules and, optionally, `score`.
    rules : dict
        See `choose_rules`.
    seed : int
        Of the random scores.

    Returns
    -------
    DataFrame
        `by_random` and `by_<rule>` beside the rows: alarms open at high values.
    """
    by_rule = {f"by_{name}": (sign * pl.col(name)).fill_null(UNKNOWN).cast(pl.Float32) for name, sign in rules.items()}
    random = pl.Series(row_hash(rows, seed, "random baseline") / 2.0**64)
    server = pl.col("server_id").cast(pl.Categorical)
    return rows.select("timestamp", server, "label", "observed", pl.col("^score$"), by_random=random, **by_rule)
