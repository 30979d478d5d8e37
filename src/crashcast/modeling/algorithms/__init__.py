"""The algorithms that compete: a file for each, with all that is particular to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crashcast.modeling.algorithms import dummy, extra_trees, hist_gradient_boosting, logistic_regression
from crashcast.modeling.algorithms.base import Algorithm
from crashcast.params.base import Group

DUMMY = "dummy"
# named as in params.yaml and model.json; the simplest first: of two that score alike, the first one is chosen
ALGORITHMS: dict[str, Algorithm] = {
    DUMMY: dummy,
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


def candidates(grids: Group, seed: int) -> Iterator[Candidate]:
    """Yield the candidates, the simplest first.

    Parameters
    ----------
    grids : Group
        The section `train.candidates`: a grid, or None, for each algorithm that has one. The others always compete.
    seed : int
        Of the random numbers in a fit.
    """
    for name, algorithm in ALGORITHMS.items():
        grid = getattr(grids, name, None)
        if grid or not algorithm.Grid:
            for hyperparameters, estimator in algorithm.build(grid, seed):
                yield Candidate(name, hyperparameters, estimator)
