"""Extremely randomized trees: a forest whose trees cut at random values.

Source: Geurts, Ernst, Wehenkel, Extremely randomized trees, Machine Learning 63, 2006.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crashcast.modeling.algorithms.base import Floats, Matrix, check_type, significant
from crashcast.params.base import Group

VARYING = ("_n_samples", "max_features_", "max_depth", "node_count")
WEIGHS_SAMPLING = False
LEAST = 1e-6  # a share of 0 or 1 in all leaves has no finite log-odds
LEAF, UNDEFINED = -1, -2  # scikit-learn's marks


class Grid(Group):
    """A grid of forests."""

    n_estimators: Annotated[int, Field(ge=1)]
    min_samples_leaf: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    # the share of features that a cut is chosen from
    max_features: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]


SMALLEST = Grid(n_estimators=1, min_samples_leaf=[1], max_features=[1.0])


def build(grid: Grid, seed: int, features: Sequence[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield a forest for each size of a leaf and share of features (see `Algorithm`)."""
    from sklearn.ensemble import ExtraTreesClassifier

    for leaf, share in product(grid.min_samples_leaf, grid.max_features):
        chosen = {"min_samples_leaf": leaf, "max_features": share}
        yield chosen, ExtraTreesClassifier(grid.n_estimators, **chosen, random_state=seed)


def fit(estimator: Any, features: Matrix, crash: NDArray[np.bool_], weight: Floats | None) -> None:
    """Fit the trees side by side, each with its own random numbers (see `Algorithm`)."""
    estimator.set_params(n_jobs=-1).fit(features, crash, sample_weight=weight)
    estimator.set_params(n_jobs=None)  # scoring with threads would add the trees' shares in any order
    estimator._sample_weight = None  # of no use after fitting
    for tree in estimator.estimators_:
        tree.tree_.value[:] = significant(tree.tree_.value)
        tree.tree_.impurity[:] = significant(tree.tree_.impurity)


def log_odds(estimator: Any, features: Floats) -> Floats:
    """Return the log-odds of the mean share in the trees' leaves (see `Algorithm`)."""
    share = np.clip(estimator.predict_proba(features)[:, 1], LEAST, 1 - LEAST)
    return np.log(share) - np.log1p(-share)


def check(estimator: Any, width: int) -> None:
    """Refuse trees whose links leave the tree or the features (see `Algorithm`)."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.tree import ExtraTreeClassifier

    check_type(estimator, ExtraTreesClassifier, width)
    for member in estimator.estimators_:
        check_type(member, ExtraTreeClassifier, width)
        tree = member.tree_
        left, right, end = tree.children_left, tree.children_right, tree.node_count
        inner = np.flatnonzero(left != LEAF)
        feature = tree.feature[inner]
        is_sound = (feature >= 0) & (feature < width)
        for child in (left[inner], right[inner]):
            is_sound &= (inner < child) & (child < end)
        if end == 0 or tree.n_features != width or tree.value.shape != (end, 1, 2) or not is_sound.all():
            raise ValueError("model.skops holds a tree that leads outside itself")
