"""Gradient boosting of trees on binned features; trees adapt to the sample's density, and weights would harm them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, product
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crashcast.modeling.algorithms.base import Floats, Matrix, check_type, significant
from crashcast.params.base import Group

VARYING = ("state", "inc")  # of the random numbers
WEIGHS_SAMPLING = False


class Grid(Group):
    """A grid of histogram gradient boostings."""

    learning_rate: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    max_iter: Annotated[int, Field(ge=1)]
    max_leaf_nodes: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    min_samples_leaf: Annotated[int, Field(ge=1)]
    l2_regularization: Annotated[float, Field(ge=0)]


SMALLEST = Grid(learning_rate=[1.0], max_iter=1, max_leaf_nodes=[2], min_samples_leaf=1, l2_regularization=0)


def build(grid: Grid, seed: int, features: Sequence[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield a boosting for each learning rate and number of leaves (see `Algorithm`)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    for learning_rate, leaves in product(grid.learning_rate, grid.max_leaf_nodes):
        chosen = {"learning_rate": learning_rate, "max_leaf_nodes": leaves}
        fixed = grid.model_dump(exclude=set(chosen))
        yield chosen, HistGradientBoostingClassifier(**chosen, **fixed, early_stopping=False, random_state=seed)


def fit(estimator: Any, features: Matrix, crash: NDArray[np.bool_], weight: Floats | None) -> None:
    """Fit the trees (see `Algorithm`)."""
    # a feature without any value cannot be binned; one that never varies is left alone
    empty = np.isnan(features).all(axis=0)
    estimator.fit(np.where(empty, 0, features) if empty.any() else features, crash, sample_weight=weight)
    estimator._bin_mapper.n_threads = None  # the machine's, and of no use after fitting
    vars(estimator).pop("_fitted_with_sw", None)  # which it has only if rows were weighted: of no use either
    for tree in chain.from_iterable(estimator._predictors):
        tree.nodes["value"] = significant(tree.nodes["value"])
        tree.nodes["gain"] = significant(tree.nodes["gain"])


def log_odds(estimator: Any, features: Floats) -> Floats:
    """Return the sum of the trees (see `Algorithm`)."""
    return estimator.decision_function(features)


def check(estimator: Any, width: int) -> None:
    """Refuse trees whose links leave the tree or the features (see `Algorithm`)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    check_type(estimator, HistGradientBoostingClassifier, width)
    for tree in chain.from_iterable(estimator._predictors):
        inner = np.flatnonzero(tree.nodes["is_leaf"] == 0)
        nodes, end = tree.nodes[inner], len(tree.nodes)
        is_sound = (nodes["feature_idx"] < width) & (nodes["feature_idx"] >= 0) & (nodes["is_categorical"] == 0)
        for side in ("left", "right"):
            is_sound &= (inner < nodes[side]) & (nodes[side] < end)
        if end == 0 or not is_sound.all():
            raise ValueError("model.skops holds a tree that leads outside itself")
