"""Whether the best of several models is shown to rank rows better than chance, on the rows on which it was chosen.

Of several models without skill the best one looks skilled. So the bounds of their lifts hold for all of them at once.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from crashcast.modeling.bootstrap import Floats


def lower_bounds(lifts: Floats, confidence: float) -> Floats:
    """Return lower bounds of several models' lifts that hold for all of them at once.

    Each bound leaves out the same share of a model's replicates. The share is the largest one with which, in a
    replicate, no lift is below its bound with the given probability: the more alike the models are, the closer it is
    to the share of a single bound. Source: Beran, Balanced simultaneous confidence sets, Journal of the American
    Statistical Association 83, 1988.

    Parameters
    ----------
    lifts : array of shape (K, replicates)
        PR-AUC over the base rate, of all models from the same draws of servers and blocks of time.
    confidence : float
        Such as 0.9.

    Returns
    -------
    array of shape (K,)
    """
    lowest = (rankdata(lifts, axis=1) / lifts.shape[1]).min(axis=0)
    left_out = np.quantile(lowest, 1 - confidence)
    return np.asarray(np.quantile(lifts, left_out, axis=1))
