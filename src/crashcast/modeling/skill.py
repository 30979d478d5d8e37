"""Whether the best of several models is shown to rank rows better than chance, on the rows on which it was chosen.

Of several models without skill the best one looks skilled. So the bounds of their lifts hold for all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.stats import rankdata

from crashcast.modeling.bootstrap import (
    Floats,
    Ints,
    TwoWayDraws,
    pr_auc_replicates,
    ratio_replicates,
    total_replicates,
)
from crashcast.modeling.row_metrics import Labels, steps_of


def lower_bounds(
    labels: Labels, scores: Iterable[Floats], cells: Ints, draws: TwoWayDraws, confidence: float
) -> Floats:
    """Return lower bounds of several models' lifts that hold for all of them at once.

    Each bound leaves out the same share of a model's replicates. The share is the largest one with which, in a
    replicate, no lift is below its bound with the given probability: the more alike the models are, the closer it is
    to the share of a single bound. Source: Beran, Balanced simultaneous confidence sets, Journal of the American
    Statistical Association 83, 1988.

    Parameters
    ----------
    labels, cells : array of shape (n,)
        At least one label is 1; the cells are those of `draws`.
    scores : iterable of K float arrays of shape (n,)
        Of each model, one at a time: many models' are more than memory holds.
    draws : TwoWayDraws
        Of servers and blocks of time.
    confidence : float
        Such as 0.9.

    Returns
    -------
    array of shape (K,)
        PR-AUC over the base rate. A replicate without crashes counts as one without skill (0).
    """
    rows = total_replicates(np.ones(len(labels)), cells, draws)
    base_rate = ratio_replicates(total_replicates(labels, cells, draws), rows)
    areas = (pr_auc_replicates(labels, steps_of(labels, score), cells, draws) for score in scores)
    lifts = np.nan_to_num(np.stack([ratio_replicates(area, base_rate) for area in areas]))
    lowest = (rankdata(lifts, axis=1) / draws.replicates).min(axis=0)
    left_out = np.quantile(lowest, 1 - confidence)
    return np.asarray(np.quantile(lifts, left_out, axis=1))
