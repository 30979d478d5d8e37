"""What anybody would try first: the rules that a model must beat, and alarms by lot."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from crashcast.modeling.split_rule import row_hash

ONE_RULES = {"hours_since_crash": -1, "crashes_7d": 1}  # a feature, and whether more of it is worse
RANDOM = "random"
UNKNOWN = -1e9  # where a rule knows nothing, before the records begin, it raises no alarm


def one_rules(features: Iterable[str]) -> dict[str, int]:
    """Return the rules that these features allow."""
    known = set(features)
    return {name: sign for name, sign in ONE_RULES.items() if name in known}


def with_baselines(rows: pl.DataFrame, rules: dict[str, int], seed: int) -> pl.DataFrame:
    """Return keys, label and score with what each baseline would have said; servers as categories, to save memory.

    Parameters
    ----------
    rows : DataFrame
        `timestamp`, `server_id`, `label`, the features of the rules and, optionally, `score`.
    rules : dict
        See `one_rules`.
    seed : int
        Of the lots.

    Returns
    -------
    DataFrame
        `by_random` and `by_<rule>` beside the rows: the higher, the sooner an alarm.
    """
    said = {f"by_{name}": (sign * pl.col(name).cast(pl.Float64)).fill_null(UNKNOWN) for name, sign in rules.items()}
    lots = pl.Series(row_hash(rows, seed, "random baseline") / 2.0**64)
    server = pl.col("server_id").cast(pl.Categorical)
    return rows.select("timestamp", server, "label", pl.col("^score$"), by_random=lots, **said)
