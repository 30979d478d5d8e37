"""Logistic regression on standardized logarithms of the features, missing values replaced by the median.

Counters have heavy tails: a few huge values would set the scale of all.

It weighs each negative by how many it stands for: it is never quite the right model, and unweighted it would fit best
in the sample, which is rich in crash rows, and not in the fleet (benchmarks/sampling.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crashcast.modeling.algorithms.base import PIECE_ROWS, Floats, Matrix, check_type, significant
from crashcast.params.base import Group

VARYING = ()
WEIGHS_SAMPLING = True


class Grid(Group):
    """A grid of logistic regressions."""

    C: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


SMALLEST = Grid(C=[1.0])


def build(grid: Grid, seed: int, features: Sequence[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield a pipeline for each strength of regularization (see `Algorithm`)."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    for c in grid.C:
        imputer = SimpleImputer(strategy="median", keep_empty_features=True)
        yield {"C": c}, make_pipeline(imputer, FunctionTransformer(signed_log), StandardScaler(), solver(c))


def signed_log(values: Floats) -> Floats:
    """Return log(1 + |x|) with the sign of x: nearly x if it is small, and no heavy tail."""
    return np.copysign(np.log1p(np.abs(values)), values)


def solver(c: float) -> Any:
    """Return an unfitted regression that reaches its optimum to more digits than are kept."""
    from sklearn.linear_model import LogisticRegression

    # cholesky steps in float64 to a tight optimum: float32, or the default tolerance, stops far from it
    return LogisticRegression(C=c, solver="newton-cholesky", tol=1e-9, max_iter=200)


def fit(estimator: Any, features: Matrix, crash: NDArray[np.bool_], weight: Floats | None) -> None:
    """Fit step by step, to hold the features once in float64 and no more often (see `Algorithm`)."""
    (_, imputer), (_, logarithm), (_, scaler), (_, regression) = estimator.steps
    imputer.fit(_medians(features))
    wide = _in_pieces(imputer, features)
    scaler.fit(_in_pieces(logarithm, wide, out=wide))
    regression.fit(_in_pieces(scaler, wide, out=wide), crash, sample_weight=weight)
    regression.coef_, regression.intercept_ = significant(regression.coef_), significant(regression.intercept_)


def _medians(features: Matrix) -> Floats:
    """Return one row that an imputer learns the medians from, NaN if a feature has no value.

    From all rows, it would sort copies of all columns at once, several times the memory of the rest of the fit.
    """
    columns = (column[~np.isnan(column)].astype(np.float64) for column in features.T)
    return np.array([[np.median(values) if values.size else np.nan for values in columns]])


def _in_pieces(step: Any, values: NDArray[Any], out: Floats | None = None) -> Floats:
    """Transform some rows at a time, in float64; `out` may be `values` itself."""
    out = np.empty(values.shape) if out is None else out
    for start in range(0, len(values), PIECE_ROWS):
        some = slice(start, start + PIECE_ROWS)
        out[some] = step.transform(values[some].astype(np.float64))
    return out


def log_odds(estimator: Any, features: Floats) -> Floats:
    """Return the linear predictor (see `Algorithm`)."""
    return estimator.decision_function(features)


def check(estimator: Any, width: int) -> None:
    """Refuse a pipeline that ends in another estimator (see `Algorithm`)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

    check_type(estimator, Pipeline, width)
    if not isinstance(estimator[-1], LogisticRegression):
        raise ValueError(f"model.skops holds a pipeline to a {type(estimator[-1]).__name__}")
