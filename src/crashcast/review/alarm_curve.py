"""The alarms that a model raises at falling thresholds, and where on that curve it spends exactly the alarm budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast.modeling import alarms
from crashcast.params.base import DAY

if TYPE_CHECKING:
    from crashcast.review.rescoring import ScoredRows

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

CURVE = (1 / 4, 4)  # thresholds are tried from a quarter of the alarm budget to four times it
CURVE_POINTS = 32
SEARCHED, SAMPLED_ROWS = 32, 1_000_000  # times as many rows as at first, found among so many


def _scores(scored: ScoredRows, model: str) -> pl.DataFrame:
    return scored.rows.select("timestamp", "server_id", "label", "observed", score=model).filter("observed")


def false_alarms(scored: ScoredRows, model: str) -> int:
    """Count false alarms at the model's stored threshold; of windows, at each one's."""
    return sum(len(_false(_opened(one, model), one)) for one in scored.by_model)


def mitigated_alarms(scored: ScoredRows, model: str) -> int:
    """Count the alarms at the model's stored threshold of which nobody knows the outcome because somebody acted."""
    found = (alarms.judge_alarms(_opened(one, model), one.crashes, one.window) for one in scored.by_model)
    return sum(alarms.on_mitigated(judged, one.mitigated) for judged, one in zip(found, scored.by_model, strict=True))


def _opened(scored: ScoredRows, model: str) -> pl.DataFrame:
    threshold = scored.thresholds[model]
    high = _scores(scored, model).filter(pl.col("score") >= threshold)
    return alarms.open_alarms(high, threshold, scored.window)


def _false(opened: pl.DataFrame, scored: ScoredRows) -> pl.DataFrame:
    return alarms.judge_alarms(opened, scored.crashes, scored.window).filter(outcome=alarms.FALSE)


class AlarmCurve(NamedTuple):
    """Alarms at falling thresholds: what each false one and each caught crash belongs to.

    Attributes
    ----------
    points : int
        Thresholds.
    false : DataFrame
        `point`, `server_id`, `timestamp` of each false alarm.
    caught : DataFrame
        `point`, `crash` (its number) and `lead_h` of each caught crash.
    """

    points: int
    false: pl.DataFrame
    caught: pl.DataFrame

    @classmethod
    def of(cls, scored: ScoredRows, model: str, crashes: pl.DataFrame, budget: float) -> AlarmCurve:
        """Try thresholds until false alarms exceed the budget several times over."""
        window, rows = scored.window, _scores(scored, model)
        allowed = budget * alarms.known_rows(scored.rows) * (window.interval / DAY)
        scores = rows["score"].to_numpy()
        # r rows raise at most r alarms
        first = min(max(int(CURVE[0] * allowed), 1), rows.height)
        every = -(-rows.height // SAMPLED_ROWS)
        falling, last = np.sort(scores[::every])[::-1], SEARCHED * first
        while last < rows.height:
            score = float(falling[last // every])
            high = rows.filter(pl.col("score") >= score)
            if _false(alarms.open_alarms(high, score, window), scored).height > CURVE[1] * allowed:
                break
            last *= 4
        else:
            high = rows
        falling = np.sort(high["score"].to_numpy())[::-1]
        ranks = np.geomspace(min(first, len(falling)), len(falling), CURVE_POINTS).astype(np.int64)

        numbered = crashes.with_row_index("crash")
        false, caught = [], []
        for point, score in enumerate(np.unique(falling[ranks - 1])[::-1]):
            some = high.filter(pl.col("score") >= score)
            opened = alarms.open_alarms(some, float(score), window)
            false.append(_false(opened, scored).select("server_id", "timestamp", point=pl.lit(point, pl.Int64)))
            caught.append(
                alarms.catch(numbered, opened, some, window)
                .filter("caught")
                .select("crash", lead_h=pl.col("lead_time") / alarms.HOUR, point=pl.lit(point, pl.Int64))
            )
            if false[-1].height > CURVE[1] * allowed:
                break
        return cls(len(false), pl.concat(false), pl.concat(caught))


class Place(NamedTuple):
    """Where on a curve, in each replicate: between the thresholds before `point` (none before 0) and `point`."""

    point: Ints
    share: Floats  # of the way


def place_of(false: Floats, allowed: Floats) -> Place:
    """Find where false alarms first come to what is allowed, going down; the last threshold if they never do.

    Parameters
    ----------
    false : array of shape (points, replicates)
        At falling thresholds; above the first there are none.
    allowed : array of shape (replicates,)
    """
    exceeds = false > allowed
    point = np.where(exceeds.any(axis=0), exceeds.argmax(axis=0), len(false) - 1)
    at, padded = np.arange(len(point)), np.vstack([np.zeros(len(point)), false])
    before, after = padded[point, at], padded[point + 1, at]
    share = np.divide(allowed - before, after - before, out=np.ones(len(point)), where=after > before)
    return Place(point, np.clip(share, 0, 1))


def between(values: Floats, place: Place) -> Floats:
    """Interpolate values of shape (points, replicates)."""
    at, padded = np.arange(values.shape[1]), np.vstack([np.zeros(values.shape[1]), values])
    between: Floats = (1 - place.share) * padded[place.point, at] + place.share * padded[place.point + 1, at]
    return between


class PerPoint(NamedTuple):
    """Values that belong to a threshold and a cell."""

    point: Ints
    cells: Ints
    value: Floats
    points: int

    @property
    def sums(self) -> Floats:
        """Of each threshold, shape (points, 1)."""
        return np.bincount(self.point, weights=self.value, minlength=self.points)[:, None].astype(np.float64)

    def in_cells(self, place: Place, n_cells: int) -> Floats:
        """Sum each cell's values, interpolated."""
        point, share = place.point[0], place.share[0]
        weight = np.where(self.point == point, share, np.where(self.point == point - 1, 1 - share, 0.0))
        return np.bincount(self.cells, weights=weight * self.value, minlength=n_cells).astype(np.float64)
