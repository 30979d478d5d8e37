"""Which windows to ask a person about: those whose answers add most information.

Uncertain: the committee's mean is far from 0 and 1. Disagreeing: its members are sure, and differ. Diverse: a window
similar to one that was already chosen adds little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

Floats = NDArray[np.float64]
SHORTLIST = 10  # times the budget: among so many of the most informative, diversity decides
AT_RANDOM = 0.1  # of the budget: windows that the committee is wrongly sure about would never be chosen


def informativeness(votes: Floats) -> Floats:
    """Return the information in a person's answer, in bits, shape (n,).

    The entropy of the mean, plus the disagreement: its excess over the members' own entropy.

    Source: Seung, Opper, Sompolinsky, Query by committee, COLT 1992; Houlsby et al., Bayesian active learning for
    classification and preference learning, 2011.

    Parameters
    ----------
    votes : float array of shape (n, members)
        Each member's probability of a crash.
    """
    of_mean, of_members = _entropy(votes.mean(axis=1)), _entropy(votes).mean(axis=1)
    return of_mean + np.maximum(of_mean - of_members, 0)


def _entropy(probability: Floats) -> Floats:
    bits: Floats = (entr(probability) + entr(1 - probability)) / np.log(2)
    return bits


def select(votes: Floats, evidence: NDArray[np.float32], budget: int, seed: int) -> NDArray[np.int64]:
    """Choose which windows a person is asked about, the most informative first.

    Of a shortlist of the most informative, one after the other is taken whose informativeness times distance to the
    nearest already taken is highest (a weighted k-center: Sener, Savarese, Active learning for convolutional neural
    networks, ICLR 2018); the last tenth of the budget is drawn at random from all.

    Parameters
    ----------
    votes : float array of shape (n, members)
        Of a committee: each member's probability of a crash.
    evidence : float32 array of shape (n, k)
        For the distance between windows; NaN if missing.
    budget : int
        How many windows.
    seed : int
        Of the random draw.

    Returns
    -------
    int array of shape (min(budget, n),)
        Positions of the chosen, all different.
    """
    n = len(votes)
    budget = min(budget, n)
    at_random = int(AT_RANDOM * budget)
    bits = informativeness(votes)
    shortlist = np.lexsort((np.arange(n), -bits))[: max(SHORTLIST * budget, 1)]
    taken = shortlist[_spread(_ranks(evidence[shortlist]), bits[shortlist], budget - at_random)]
    rest = np.setdiff1d(np.arange(n), taken)
    return np.concatenate([taken, np.random.default_rng(seed).choice(rest, at_random, replace=False)])


def _spread(points: Floats, weight: Floats, count: int) -> NDArray[np.int64]:
    """Take `count` of the points one after the other (see `select`)."""
    chosen = np.zeros(count, dtype=np.int64)
    distance, worth = np.full(len(points), np.inf), weight.copy()
    for number in range(count):
        chosen[number] = latest = np.argmax(worth)
        distance = np.minimum(distance, np.sqrt(np.mean((points - points[latest]) ** 2, axis=1)))
        worth = weight * distance
        worth[chosen[: number + 1]] = -1  # never twice, even if all are alike
    return chosen


def _ranks(evidence: NDArray[np.float32]) -> Floats:
    """Return each column as ranks between 0 and 1, so no outlier decides; missing values rank below all."""
    filled = np.where(np.isnan(evidence), -np.inf, evidence)
    ordered = np.sort(filled, axis=0)
    columns = [np.searchsorted(ordered[:, k], filled[:, k], "left") for k in range(filled.shape[1])]
    return np.column_stack(columns) / max(len(filled), 1)
