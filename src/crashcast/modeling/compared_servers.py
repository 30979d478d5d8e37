"""Servers that stand for all: if there are very many rows, candidates are compared, and thresholds are set, on some.

They are drawn by lot, and so many that enough of them crash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from crashcast.modeling.split_rule import Rule, server_hash

# with fewer, chance would choose the candidate and set the threshold
MIN_CRASHES = 300


@dataclass(frozen=True)
class Compared:
    """The servers on which candidates are compared, and thresholds are set.

    Attributes
    ----------
    servers : list of str
        Sorted.
    are_all : bool
        Whether they are all servers of the folds.
    rows : int
        About how many of known label they have in the validation part.
    """

    servers: list[str]
    are_all: bool
    rows: int

    @property
    def drawn(self) -> list[str] | None:
        """The servers, for `read_part`; None if they are all."""
        return None if self.are_all else self.servers


def rows_to_compare(max_rows: int, base_rate: float, rows_per_crash: float) -> float:
    """Return how many rows of a period are enough to compare candidates on: `max_rows`, more if crashes are rare.

    Parameters
    ----------
    max_rows : int
        `train.max_compared_rows`.
    base_rate : float
        The share of crash rows.
    rows_per_crash : float
        The horizon over the interval.
    """
    return max(max_rows, MIN_CRASHES * rows_per_crash / base_rate if base_rate else math.inf)


def draw_servers(rule: Rule, counted: pl.DataFrame, max_rows: int, rows_per_crash: float, seed: int) -> Compared:
    """Draw servers that have about so many rows of the validation part as are enough; all if it has no more.

    Whole servers are drawn, by a hash of their names, for alarms and intervals need all rows of a server. Earlier folds
    validate on rows of the train part; but under a split by server no server of that part is compared on.

    Parameters
    ----------
    rule : dict
        What `split` wrote.
    counted : DataFrame
        See `count_rows`.
    max_rows, rows_per_crash
        See `rows_to_compare`; rows of known label.
    seed : int
        Of the draw.
    """
    compared = ["train", "validation"] if rule["method"] == "time" else ["validation"]
    names = counted.filter(pl.col("part").is_in(compared))["server_id"].unique().sort()
    count, crash_rows = counted.filter(part="validation").select(pl.col("rows", "crash_rows").sum()).row(0)
    wanted = rows_to_compare(max_rows, crash_rows / max(count, 1), rows_per_crash)
    if count <= wanted:
        return Compared(names.to_list(), True, count)
    drawn = np.argsort(server_hash(names, seed, "compared servers"), kind="stable")
    number = math.ceil(len(names) * wanted / count)
    return Compared(names[drawn[:number]].sort().to_list(), False, round(wanted))
