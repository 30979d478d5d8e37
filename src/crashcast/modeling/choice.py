"""The choice of one candidate, by its figures on forward-chained folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crashcast.modeling.algorithms import DUMMY, ONE_RULE, Candidate
from crashcast.modeling.folds import FoldFigures
from crashcast.modeling.skill import lower_bounds


@dataclass(frozen=True)
class Choice:
    """The chosen candidate, and why.

    Attributes
    ----------
    place : int
        Its place among the candidates.
    skill : dict
        `best` (the candidate that would be chosen if skill need not be shown; empty if only the dummy competes), its
        `lift`, the mean over the folds, `lift_low` and `confidence`.
    expected : dict
        See `FoldFigures.expected`; empty if the dummy is chosen.
    """

    place: int
    skill: dict[str, Any]
    expected: dict[str, float]

    @property
    def why_the_dummy(self) -> str:
        """Why the dummy was chosen; empty if it was not, or if nothing else competed."""
        if self.skill.get("lift_low", np.inf) > 1:
            return ""
        return (
            "no candidate is shown to rank better than chance, so the dummy is chosen, which opens no alarm; the best, "
            f"{self.skill['best']}, has a mean lift of {self.skill['lift']:.3g} over the folds, with a lower bound of "
            f"{self.skill['lift_low']:.2g} ({self.skill['confidence']:.0%} confidence), which must be above 1"
        )


def choose(
    competing: Sequence[Candidate], pr_auc: Sequence[float], figures: FoldFigures, skill: float, confidence: float
) -> Choice:
    """Choose the simplest of the candidates that are not shown to differ from the best one, else the dummy.

    Only candidates that are shown to rank better than chance are chosen, and none that is worse on the validation part
    than the best rule of one feature.

    Parameters
    ----------
    competing : sequence of Candidate
        K candidates, the simplest first.
    pr_auc : sequence of float
        Of each, on the validation part.
    figures : FoldFigures
        Of all of them.
    skill : float
        The confidence of the bounds of their lifts, which hold for all candidates at once.
    confidence : float
        Of the interval of the expected figures.
    """
    algorithms, on_validation = np.array([one.algorithm for one in competing]), np.asarray(pr_auc)
    rivals = algorithms != DUMMY
    if not rivals.any():
        return Choice(int(np.argmin(rivals)), {"best": "", "confidence": skill}, {})
    low = np.zeros(len(competing))
    low[rivals] = lower_bounds(figures.lift_replicates[rivals], skill)
    eligible = rivals & (on_validation >= on_validation[algorithms == ONE_RULE].max(initial=0.0))
    shown = eligible & (low > 1)
    best = figures.simplest_of_the_best(shown if shown.any() else eligible)
    told = {"best": competing[best].name, "lift": float(figures.lift[best]), "lift_low": float(low[best])}
    if not shown.any():
        return Choice(int(np.argmin(rivals)), told | {"confidence": skill}, {})
    return Choice(best, told | {"confidence": skill}, figures.expected(best, shown, confidence))
