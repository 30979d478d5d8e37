"""How good scores are, row by row: ranking, probabilities, and decisions at a threshold.

Labels are 0 or 1 and scores are probabilities of 1; rows whose label is unknown are left out beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from crashcast.errors import UserError

Labels = NDArray[np.integer] | NDArray[np.bool_]
Floats = NDArray[np.floating]

# deciles, and the top 1 % and 0.1 %: where crashes are rare, all alarms come from there
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
        `precision` is None where no row reaches the threshold.

    Raises
    ------
    UserError
        Where the rows are all of one class.
    """
    base_rate, area = float(np.mean(labels)), pr_auc(labels, scores)
    precision, recall = precision_recall(labels, scores, threshold)
    return {
        "rows": len(labels),
        "positives": int(np.sum(labels)),
        "base_rate": base_rate,
        "pr_auc": area,
        "lift": area / base_rate,
        "roc_auc": roc_auc(labels, scores),
        "brier": brier(labels, scores),
        "brier_of_base_rate": base_rate * (1 - base_rate),
        "accuracy": accuracy(labels, scores, threshold),
        "accuracy_of_majority": max(base_rate, 1 - base_rate),
        "precision": precision,
        "recall": recall,
    }


def pr_auc(labels: Labels, scores: Floats, weights: Floats | None = None) -> float:
    """Area under the precision-recall curve by steps (average precision); tied scores are one step.

    Raises
    ------
    UserError
        Where the rows are all of one class.
    """
    _check_both_classes(labels)
    return float(average_precision_score(labels, scores, sample_weight=weights))


def lift(labels: Labels, scores: Floats, weights: Floats | None = None) -> float:
    """PR-AUC over the base rate, which is what random scores reach: 1 means no skill."""
    return pr_auc(labels, scores, weights) / float(np.average(labels, weights=weights))


def roc_auc(labels: Labels, scores: Floats, weights: Floats | None = None) -> float:
    """Probability that a row before a crash scores above another row, ties counting half.

    Raises
    ------
    UserError
        Where the rows are all of one class.
    """
    _check_both_classes(labels)
    return float(roc_auc_score(labels, scores, sample_weight=weights))


def brier(labels: Labels, scores: Floats, weights: Floats | None = None) -> float:
    """Mean squared difference of probability and label (Brier, 1950); the constant base rate p reaches p (1 - p)."""
    return float(np.average((scores - labels) ** 2, weights=weights))


def accuracy(labels: Labels, scores: Floats, threshold: float) -> float:
    """Share of rows on the right side of the threshold; always saying "no crash" reaches 1 - base rate."""
    return float(np.mean((scores >= threshold) == labels.astype(bool)))


def precision_recall(labels: Labels, scores: Floats, threshold: float) -> tuple[float | None, float | None]:
    """Precision and recall over rows at or above the threshold; None where there is nothing to divide by."""
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
        Where the rows are all of one class.
    """
    _check_both_classes(labels)
    precision, recall, threshold = precision_recall_curve(labels, scores, drop_intermediate=True)
    # sklearn's thresholds rise, and it adds a last point (recall 0, precision 1) that belongs to none
    precision, recall, threshold = precision[-2::-1], recall[-2::-1], threshold[::-1]
    kept = np.unique(np.searchsorted(recall, np.linspace(0, 1, max_points)))
    return pl.DataFrame({"threshold": threshold[kept], "recall": recall[kept], "precision": precision[kept]})


def _check_both_classes(labels: Labels) -> None:
    positives = int(np.count_nonzero(labels))
    if positives in (0, len(labels)):
        which = "none" if positives == 0 else "all"
        raise UserError(
            f"{which} of the {len(labels)} rows precede a crash, so nothing can be ranked: give this part of the data "
            "a larger share (params.yaml: split) or bring in a longer history"
        )
