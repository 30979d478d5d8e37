"""The algorithms that compete: a file for each, with all that is particular to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crashcast.modeling.algorithms import dummy, extra_trees, hist_gradient_boosting, logistic_regression, one_rule
from crashcast.modeling.algorithms.base import Algorithm
from crashcast.params.base import Group

DUMMY, ONE_RULE = "dummy", "one_rule"
# named as in params.yaml and model.json; the simplest first: of two that score alike, the first one is chosen
ALGORITHMS: dict[str, Algorithm] = {
    DUMMY: dummy,
    ONE_RULE: one_rule,
    "logistic_regression": logistic_regression,
    "hist_gradient_boosting": hist_gradient_boosting,
    "extra_trees": extra_trees,
}


@dataclass(frozen=True)
class Candidate:
    """An algorithm with its hyperparameters, unfitted."""

    algorithm: str
    hyperparameters: dict[str, Any]
    estimator: Any

    @property
    def name(self) -> str:
        """The algorithm and what distinguishes it from its neighbours in the grid."""
        chosen = " ".join(f"{key}={value:g}" for key, value in self.hyperparameters.items())
        return f"{self.algorithm} {chosen}".strip()


def candidates(grids: Group, seed: int, features: Sequence[str]) -> Iterator[Candidate]:
    """Yield the candidates, the simplest first.

    Parameters
    ----------
    grids : Group
        The section `train.candidates`: a grid, or None, for each algorithm that has one. The others always compete.
    seed : int
        Of the random numbers in a fit.
    features : sequence of str
        The columns to fit on; a rule of another one does not compete.
    """
    for name, algorithm in ALGORITHMS.items():
        grid = getattr(grids, name, None)
        if grid or not algorithm.Grid:
            for hyperparameters, estimator in algorithm.build(grid, seed, features):
                yield Candidate(name, hyperparameters, estimator)
