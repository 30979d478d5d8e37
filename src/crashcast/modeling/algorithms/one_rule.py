"""A rule of one feature that anybody would try first: the higher its value, or the lower, the sooner the crash.

Nothing is learned but the scale and the base rate; calibration on validation makes a probability of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crashcast.modeling.algorithms.base import Floats, Matrix, check_type, significant
from crashcast.params.base import Group

VARYING = ("column", "sign", "n_features_in_")
WEIGHS_SAMPLING = False


class Grid(Group):
    """Rules: a feature, and 1 if a higher value is worse, else -1."""

    rules: Annotated[dict[str, Literal[1, -1]], Field(min_length=1)]


SMALLEST = Grid(rules={"0": 1})


class OneRule:
    """The values of one column.

    Parameters
    ----------
    column : int
        Its place among the features.
    sign : int
        1 if a higher value is worse, else -1.

    Attributes
    ----------
    n_features_in_ : int
    safest_, mean_, scale_ : float
        Of the training rows' values times the sign; a missing value counts as the safest.
    log_odds_ : float
        Of the training rows' labels.
    """

    n_features_in_: int
    safest_: float
    mean_: float
    scale_: float
    log_odds_: float

    def __init__(self, column: int, sign: int) -> None:
        self.column, self.sign = column, sign

    def __sklearn_clone__(self) -> OneRule:
        """Return an unfitted one, as `sklearn.base.clone` asks."""
        return OneRule(self.column, self.sign)


def build(grid: Grid, seed: int, features: Sequence[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield each rule of a feature that there is (see `Algorithm`)."""
    for name, sign in grid.rules.items():
        if name in features:
            yield {name: sign}, OneRule(features.index(name), sign)


def fit(estimator: Any, features: Matrix, crash: NDArray[np.bool_], weight: Floats | None) -> None:
    """Take the scale from the values and the base rate from the labels (see `Algorithm`)."""
    values = estimator.sign * features[:, estimator.column].astype(np.float64)
    known = values[~np.isnan(values)] if not np.isnan(values).all() else np.zeros(1)
    odds = crash.sum() / (~crash).sum()
    estimator.n_features_in_ = features.shape[1]
    estimator.safest_ = float(known.min())
    learned = significant(np.array([known.mean(), known.std() or 1.0, np.log(odds)]))
    estimator.mean_, estimator.scale_, estimator.log_odds_ = learned.tolist()


def log_odds(estimator: Any, features: Floats) -> Floats:
    """Return the value in standard deviations, around the log-odds of the base rate (see `Algorithm`)."""
    values = estimator.sign * features[:, estimator.column]
    values = np.where(np.isnan(values), estimator.safest_, values)
    return np.asarray((values - estimator.mean_) / estimator.scale_ + estimator.log_odds_)


def check(estimator: Any, width: int) -> None:
    """Refuse a column that is not there, and another sign (see `Algorithm`)."""
    check_type(estimator, OneRule, width)
    if not (0 <= estimator.column < width and estimator.sign in (1, -1)):
        raise ValueError(f"model.skops holds a rule of column {estimator.column}, sign {estimator.sign}")
