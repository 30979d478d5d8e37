"""Baselines that a model must beat: rules of one feature, and random scores."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from crashcast.modeling.split_rule import row_hash

ONE_RULES = {"hours_since_crash": -1, "crashes_7d": 1}  # a feature, and 1 if a higher value is worse, else -1
RANDOM = "random"
UNKNOWN = -1e9  # before the records begin a rule has no value, and raises no alarm


def one_rules(features: Iterable[str]) -> dict[str, int]:
    """Return the rules of the features that exist."""
    known = set(features)
    return {name: sign for name, sign in ONE_RULES.items() if name in known}


def with_baselines(rows: pl.DataFrame, rules: dict[str, int], seed: int) -> pl.DataFrame:
    """Return keys, label and score with the score of each baseline; servers as categories, to save memory.

    Parameters
    ----------
    rows : DataFrame
        `timestamp`, `server_id`, `label`, the features of the rules and, optionally, `score`.
    rules : dict
        See `one_rules`.
    seed : int
        Of the random scores.

    Returns
    -------
    DataFrame
        `by_random` and `by_<rule>` beside the rows: alarms open at high values.
    """
    by_rule = {f"by_{name}": (sign * pl.col(name).cast(pl.Float64)).fill_null(UNKNOWN) for name, sign in rules.items()}
    random = pl.Series(row_hash(rows, seed, "random baseline") / 2.0**64)
    server = pl.col("server_id").cast(pl.Categorical)
    return rows.select("timestamp", server, "label", "observed", pl.col("^score$"), by_random=random, **by_rule)
