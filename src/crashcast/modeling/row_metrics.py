"""How good scores are, row by row: ranking, probabilities, and decisions at a threshold.

Labels are 0 or 1 and scores are probabilities of 1; rows whose label is unknown are left out beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast.errors import UserError

Labels = NDArray[np.integer] | NDArray[np.bool_]
Floats = NDArray[np.floating]

CHUNK_ROWS = 2**21
# deciles, and the top 1 % and 0.1 %: if crashes are rare, all alarms come from there
QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999)


def row_metrics(labels: Labels, scores: Floats, threshold: float) -> dict[str, float | None]:
    """Compute every row-level figure, each beside the baseline without which it says nothing.

    Parameters
    ----------
    labels, scores : array of shape (n,)
        Known labels and the model's probabilities.
    threshold : float
        Rows at or above it count as predicted to crash.

    Returns
    -------
    dict
        `precision` is None if no row reaches the threshold.

    Raises
    ------
    UserError
        If the rows are all of one class.
    """
    base_rate = float(np.mean(labels))
    precision, recall = precision_recall(labels, scores, threshold)
    return {
        "rows": len(labels),
        "positives": int(np.sum(labels)),
        "base_rate": base_rate,
        **ranking(labels, scores),
        "brier": brier(labels, scores),
        "brier_of_base_rate": base_rate * (1 - base_rate),
        "accuracy": accuracy(labels, scores, threshold),
        "accuracy_of_majority": max(base_rate, 1 - base_rate),
        "precision": precision,
        "recall": recall,
    }


class Steps(NamedTuple):
    """The distinct scores of the S rows before a crash, from the highest down: only there does recall grow.

    All of a ranking that its figures need: tens of millions of rows, but a hundred thousand steps.

    Attributes
    ----------
    score : float array of shape (S,)
    true : int array of shape (S,)
        Rows before a crash at or above each.
    taken, above : int array of shape (S,)
        Rows at or above each, and above it.
    """

    score: Floats
    true: NDArray[np.int64]
    taken: NDArray[np.int64]
    above: NDArray[np.int64]

    @classmethod
    def of(cls, labels: Labels, scores: Floats) -> Steps:
        """Rank the rows."""
        score, gained = np.unique(scores[labels.astype(bool)], return_counts=True)
        rising = np.sort(scores)
        taken, above = (len(scores) - np.searchsorted(rising, score, side) for side in ("left", "right"))
        return cls(score[::-1], np.cumsum(gained[::-1]), taken[::-1], above[::-1])


def steps_of(labels: Labels, scores: NDArray[np.floating | np.integer]) -> NDArray[np.int32]:
    """Return how many distinct scores of positives lie at or below each row's score: all that a ranking needs.

    Parameters
    ----------
    labels, scores : array of shape (n,)

    Returns
    -------
    array of shape (n,)
        Recall grows at these steps alone: rows between two of them are as good as tied.
    """
    rising = np.unique(scores[labels == 1])
    steps = np.empty(len(scores), dtype=np.int32)
    for some in chunks(len(scores)):
        steps[some] = np.searchsorted(rising, scores[some], side="right")
    return steps


class Curve(NamedTuple):
    """At each step (see `steps_of`), rising: positives at it, and precision and rows at or above it."""

    gained: Floats
    precision: Floats
    taken: Floats

    @classmethod
    def of(cls, labels: Labels, steps: NDArray[np.integer]) -> Curve:
        """Count rows and positives by step."""
        n_steps = int(steps.max()) + 1
        rows = np.zeros(n_steps)
        for some in chunks(len(steps)):
            rows += np.bincount(steps[some], minlength=n_steps)
        gained = np.bincount(steps[labels == 1], minlength=n_steps).astype(np.float64)
        taken = np.cumsum(rows[::-1])[::-1]
        return cls(gained, np.cumsum(gained[::-1])[::-1] / taken, taken)


def chunks(n: int) -> Iterator[slice]:
    """Cut n rows into pieces that are looked at together, to save memory."""
    return (slice(begin, begin + CHUNK_ROWS) for begin in range(0, n, CHUNK_ROWS))


def ranking(labels: Labels, scores: Floats) -> dict[str, float]:
    """Compute how well scores rank rows.

    Returns
    -------
    dict
        `pr_auc`: area under the precision-recall curve by steps (average precision); tied scores are one step.
        `lift`: that over the base rate, which is what random scores reach; 1 means no skill.
        `roc_auc`: probability that a row before a crash scores above another row, ties counting half.

    Raises
    ------
    UserError
        If the rows are all of one class.
    """
    _check_both_classes(labels)
    steps = Steps.of(labels, scores)
    positives, gained = steps.true[-1], np.diff(steps.true, prepend=0)
    area = np.sum(gained / positives * (steps.true / steps.taken))
    others_higher = (steps.above - (steps.true - gained) + steps.taken - steps.true) / 2  # ties counting half
    pairs = positives * float(len(labels) - positives)
    return {
        "pr_auc": float(area),
        "lift": float(area / np.mean(labels)),
        "roc_auc": float(1 - np.sum(gained * others_higher) / pairs),
    }


def pr_auc(labels: Labels, scores: Floats) -> float:
    """Return the area under the precision-recall curve alone (see `ranking`)."""
    return ranking(labels, scores)["pr_auc"]


def brier(labels: Labels, scores: Floats) -> float:
    """Mean squared difference of probability and label (Brier, 1950); the constant base rate p reaches p (1 - p)."""
    return float(np.mean((scores - labels) ** 2))


def accuracy(labels: Labels, scores: Floats, threshold: float) -> float:
    """Share of rows on the right side of the threshold; always saying "no crash" reaches 1 - base rate."""
    return float(np.mean((scores >= threshold) == labels.astype(bool)))


def precision_recall(labels: Labels, scores: Floats, threshold: float) -> tuple[float | None, float | None]:
    """Precision and recall over rows at or above the threshold; None if there is nothing to divide by."""
    predicted = scores >= threshold
    hits = int(np.count_nonzero(predicted & labels.astype(bool)))
    predictions, positives = int(np.count_nonzero(predicted)), int(np.count_nonzero(labels))
    return hits / predictions if predictions else None, hits / positives if positives else None


def reliability(labels: Labels, scores: Floats, quantiles: Sequence[float] = QUANTILES) -> pl.DataFrame:
    """Compare probabilities with what happened, in bins between quantiles of the score.

    Equal scores share a bin, so bins may hold more or fewer rows than their quantiles say, and empty ones are left out.

    Returns
    -------
    DataFrame
        A row per bin, from low scores to high: `rows`, `positives`, `mean_score`, `crash_rate`.
    """
    edges = np.unique(np.quantile(scores, quantiles, method="inverted_cdf"))
    bins = np.searchsorted(edges, scores, side="right")
    rows = np.bincount(bins)
    positives = np.bincount(bins, weights=labels)
    total = np.bincount(bins, weights=scores)
    some = rows > 0
    return pl.DataFrame(
        {
            "rows": rows[some],
            "positives": positives[some].astype(np.int64),
            "mean_score": total[some] / rows[some],
            "crash_rate": positives[some] / rows[some],
        }
    )


def pr_curve(labels: Labels, scores: Floats, max_points: int = 500) -> pl.DataFrame:
    """Trace the precision-recall curve with at most `max_points` of its own points, evenly spaced in recall.

    Of the points that share a recall the most precise is kept. For drawing: take the area from `pr_auc`.

    Returns
    -------
    DataFrame
        `threshold` (falling), `recall`, `precision`.

    Raises
    ------
    UserError
        If the rows are all of one class.
    """
    _check_both_classes(labels)
    steps = Steps.of(labels, scores)
    threshold, recall, precision = steps.score, steps.true / steps.true[-1], steps.true / steps.taken
    if steps.above[0]:  # the curve begins at the highest score, whatever its label
        threshold, recall, precision = np.append(scores.max(), threshold), np.append(0, recall), np.append(0, precision)
    kept = np.unique(np.searchsorted(recall, np.linspace(0, 1, max_points)))
    return pl.DataFrame({"threshold": threshold[kept], "recall": recall[kept], "precision": precision[kept]})


def roc_curve(labels: Labels, scores: Floats, max_points: int = 500) -> pl.DataFrame:
    """Trace the ROC curve with at most `max_points` of its own points, evenly spaced along both axes.

    Between two rows before a crash the curve runs straight to the right, so only the ends of such runs are its points.

    Returns
    -------
    DataFrame
        `false_positive_rate`, `true_positive_rate`, from (0, 0) to (1, 1).

    Raises
    ------
    UserError
        If the rows are all of one class.
    """
    _check_both_classes(labels)
    steps = Steps.of(labels, scores)
    positives, negatives, before = steps.true[-1], len(labels) - steps.true[-1], np.append(0, steps.true[:-1])
    # just above each step, and at it
    false_positives = np.column_stack([steps.above - before, steps.taken - steps.true]).ravel()
    true_positives = np.column_stack([before, steps.true]).ravel()
    false_positive_rate = np.concatenate([[0], false_positives / negatives, [1]])
    true_positive_rate = np.concatenate([[0], true_positives / positives, [1]])
    even = np.linspace(0, 1, max_points // 2)  # one axis alone would leave the steep part, or the flat one, without
    kept = np.unique([np.searchsorted(rate, even) for rate in (false_positive_rate, true_positive_rate)])
    points = {"false_positive_rate": false_positive_rate[kept], "true_positive_rate": true_positive_rate[kept]}
    return pl.DataFrame(points)


def _check_both_classes(labels: Labels) -> None:
    positives = int(np.count_nonzero(labels))
    if positives in (0, len(labels)):
        which = "none" if positives == 0 else "all"
        raise UserError(
            f"{which} of the {len(labels)} rows precede a crash, so nothing can be ranked: give this part of the data "
            "a larger share (params.yaml: split) or bring in a longer history"
        )
