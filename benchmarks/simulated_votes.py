"""Votes of simulated sources on simulated events, whose truth and whose errors' dependence are known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crashcast.labelling.label_model import ABSTAINS, Votes

EVENTS, SOURCES = 600, 6
PREVALENCE, SENSITIVITY, SPECIFICITY, COVERAGE = (0.2, 0.8), (0.6, 0.95), (0.7, 0.95), (0.7, 1.0)


class Poll(NamedTuple):
    """Votes (n, m), what happened (n,), and how reliable each source is (m,)."""

    votes: Votes
    crashed: NDArray[np.bool_]
    sensitivity: NDArray[np.float64]
    specificity: NDArray[np.float64]


def poll(seed: int, shared: tuple[int, int] | None = None, share: float = 0.5) -> Poll:
    """Simulate one poll.

    Parameters
    ----------
    seed : int
        Of everything: prevalence, the sources' reliability and coverage, and their votes.
    shared : (int, int), optional
        Two sources of equal reliability that err together.
    share : float
        The part of their errors that is one and the same: for so many events they toss one coin.
    """
    draw = np.random.default_rng([seed, 20])
    crashed = draw.random(EVENTS) < draw.uniform(*PREVALENCE)
    sensitivity, specificity, coverage = (draw.uniform(*span, SOURCES) for span in (SENSITIVITY, SPECIFICITY, COVERAGE))
    tossed = draw.random((EVENTS, SOURCES))
    votes_at_all = draw.random((EVENTS, SOURCES)) < coverage
    if shared is not None:
        one, other = shared
        sensitivity[other], specificity[other] = sensitivity[one], specificity[one]
        together = draw.random(EVENTS) < share
        tossed[together, other] = tossed[together, one]
    errs = tossed > np.where(crashed[:, None], sensitivity, specificity)
    votes = np.where(votes_at_all, crashed[:, None] ^ errs, ABSTAINS).astype(np.int8)
    return Poll(votes, crashed, sensitivity, specificity)
