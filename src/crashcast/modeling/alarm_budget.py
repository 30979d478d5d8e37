"""The threshold that keeps to the alarm budget, and how sure that is.

False alarms on validation are a sample: they come in bursts, on few servers and days. So servers and blocks of time are
resampled, and the threshold is the lowest one at which the budget holds in a given share of the replicates.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from crashcast.modeling.alarms import FALSE, FIRST_ROWS, AlarmWindow, halfway, judge_alarms, open_alarms
from crashcast.modeling.bootstrap import Floats, TwoWayDraws, ratio_replicates, total_replicates
from crashcast.params.base import DAY


@dataclass(frozen=True)
class SpentBudget:
    """Scored rows, and what alarms on them cost.

    Attributes
    ----------
    rows : DataFrame
        `timestamp`, `server_id`, `label` (null: unknown), `observed`, `score`.
    crashes : DataFrame
        Covered crashes of these servers.
    budget : float
        False alarms per server-day.
    window : AlarmWindow
        When an alarm counts as true.
    draws : TwoWayDraws
        Of the rows' servers and blocks of time.
    """

    rows: pl.DataFrame
    crashes: pl.DataFrame
    budget: float
    window: AlarmWindow
    draws: TwoWayDraws

    def replicates(self, threshold: float) -> Floats:
        """Return the false alarms at a threshold over those that the budget allows, shape (replicates,)."""
        alarms = judge_alarms(open_alarms(self.rows, threshold, self.window), self.crashes, self.window)
        return ratio_replicates(self._total(alarms.filter(outcome=FALSE)), self._allowed)

    @cached_property
    def _allowed(self) -> Floats:
        known = self.rows.filter(pl.col("label").is_not_null())
        return self._total(known) * (self.window.interval / DAY * self.budget)

    def _total(self, some: pl.DataFrame) -> Floats:
        cells = self.draws.cells(some["server_id"].cast(pl.String), some["timestamp"])
        return total_replicates(np.ones(some.height), cells, self.draws)

    def threshold(self, confidence: float) -> float:
        """Return the lowest threshold at which the budget holds in this share of the replicates.

        It lies halfway to the next score, so that a difference in a score's last digit raises no other alarms; just
        above the highest score if the budget does not hold even there; at the lowest if it holds there.
        """
        falling = np.unique(self.rows.filter("observed")["score"].to_numpy())[::-1]

        def exceeds(place: int) -> bool:
            return bool(np.mean(self.replicates(float(falling[place])) <= 1) < confidence)

        first = _first(exceeds, len(falling))
        above = float(falling[first - 1] if first else np.nextafter(falling[0], np.inf))
        return halfway(above, float(falling[first])) if first < len(falling) else above


def _first(exceeds: Callable[[int], bool], length: int) -> int:
    """Return the first place that exceeds, `length` if none does; the search begins at the cheap, high scores."""
    begin, end = 0, min(FIRST_ROWS, length)
    while end < length and not exceeds(end - 1):
        begin, end = end, min(2 * end, length)
    return bisect_left(range(end), True, lo=begin, key=exceeds)
