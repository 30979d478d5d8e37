"""Servers that stand for all: if there are very many rows, candidates are compared, and thresholds are set, on some.

They are drawn by lot, and so many that enough of them crash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crashcast.modeling.split_rule import assign, labelled, server_hash

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


def draw_servers(rule: dict[str, Any], labels: Path, max_rows: int, rows_per_crash: float, seed: int) -> Compared:
    """Draw servers that have about so many rows of the validation part as are enough; all if it has no more.

    Whole servers are drawn, by a hash of their names, for alarms and intervals need all rows of a server. Earlier folds
    validate on rows of the train part; but under a split by server no server of that part is compared on.

    Parameters
    ----------
    rule : dict
        What `split` wrote.
    labels : Path
        The table.
    max_rows, rows_per_crash
        See `rows_to_compare`; rows of known label.
    seed : int
        Of the draw.
    """
    names, count, crash_rows = pl.Series(dtype=pl.String), 0, 0
    compared = ["train", "validation"] if rule["method"] == "time" else ["validation"]
    for _, rows in labelled(labels):
        part = assign(rows, rule)
        inside = part.is_in(compared).fill_null(False)
        names = pl.concat([names, rows["server_id"].filter(inside).unique().cast(pl.String)]).unique()
        known = rows.filter(part == "validation")["label"]
        count, crash_rows = count + len(known), crash_rows + int(known.sum())
    names, wanted = names.sort(), rows_to_compare(max_rows, crash_rows / max(count, 1), rows_per_crash)
    if count <= wanted:
        return Compared(names.to_list(), True, count)
    drawn = np.argsort(server_hash(names, seed, "compared servers"), kind="stable")
    number = math.ceil(len(names) * wanted / count)
    return Compared(names[drawn[:number]].sort().to_list(), False, round(wanted))
