"""The algorithms that compete, and how one is fitted so that its bytes can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from crashcast.params.train import Train

Matrix = NDArray[np.float32]
PIECE_ROWS = 100_000  # transformed together, to save memory
LEARNED_DIGITS = 8  # of coefficients and leaves: what optima agree on between CPU types


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

    def offset(self, share: float) -> float:
        """Return what to add to its log-odds to undo the sampling of negatives: 0 where weights in the fit did."""
        return 0.0 if self.algorithm == "logistic_regression" else float(np.log(share))


def candidates(rules: Train) -> Iterator[Candidate]:
    """Yield what competes, the simplest first: where two score alike, the first one is chosen."""
    yield Candidate("dummy", {}, DummyClassifier(strategy="prior"))
    if logistic := rules.candidates.logistic_regression:
        for c in logistic.C:
            # cholesky steps in float64 to a tight optimum: float32, or the default tolerance, stops far from it
            solver = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-9, max_iter=200)
            scaled = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), solver)
            yield Candidate("logistic_regression", {"C": c}, scaled)
    if boosting := rules.candidates.hist_gradient_boosting:
        for learning_rate, leaves in product(boosting.learning_rate, boosting.max_leaf_nodes):
            estimator = HistGradientBoostingClassifier(
                learning_rate=learning_rate,
                max_leaf_nodes=leaves,
                max_iter=boosting.max_iter,
                min_samples_leaf=boosting.min_samples_leaf,
                l2_regularization=boosting.l2_regularization,
                early_stopping=False,
                random_state=rules.seed,
            )
            grid = {"learning_rate": learning_rate, "max_leaf_nodes": leaves}
            yield Candidate("hist_gradient_boosting", grid, estimator)


def fit(
    candidate: Candidate,
    features: Matrix,
    crash: NDArray[np.bool_],
    share: float = 1.0,
    weight: NDArray[np.float64] | None = None,
) -> Any:
    """Fit a candidate, with the same bytes whatever the number of threads.

    A logistic regression weighs each negative by 1 / share: it is never quite the right model, and unweighted it would
    fit best where the sample is dense, not where the fleet is. Trees bend where they must, and weights harm them
    (benchmarks/sampling.py).

    Parameters
    ----------
    candidate : Candidate
        What to fit.
    features : float32 array of shape (n, k)
        NaN where missing.
    crash : bool array of shape (n,)
        The labels.
    share : float
        Of negatives that were kept, over that of crash rows.
    weight : float array of shape (n,), optional
        How certain each label is; by default all alike.

    Returns
    -------
    estimator
        Its learned numbers rounded to `LEARNED_DIGITS` significant digits.
    """
    estimator = candidate.estimator
    with threadpool_limits(1, user_api="blas"):  # a sum split over threads has other last digits
        if isinstance(estimator, Pipeline):
            (_, imputer), (_, scaler), (_, solver) = estimator.steps
            imputer.fit(_medians(features))
            wide = _in_pieces(imputer, features)
            scaler.fit(wide)
            sampled = np.where(crash, 1.0, 1 / share)
            weights = sampled if weight is None else sampled * weight
            solver.fit(_in_pieces(scaler, wide, out=wide), crash, sample_weight=weights)
        else:
            # trees cannot bin a feature without any value; one that never varies they leave alone
            empty = np.isnan(features).all(axis=0)
            # the dummy's shares are the labels' own
            certain = {} if weight is None or candidate.algorithm == "dummy" else {"sample_weight": weight}
            estimator.fit(np.where(empty, 0, features) if empty.any() else features, crash, **certain)
    _round_learned(estimator)
    return estimator


def _medians(features: Matrix) -> NDArray[np.float64]:
    """Return what an imputer needs to see of the features: one row, NaN where a feature has no value.

    Shown all rows, it would sort copies of all columns at once, several times the memory of the rest of the fit.
    """
    columns = (column[~np.isnan(column)].astype(np.float64) for column in features.T)
    return np.array([[np.median(values) if values.size else np.nan for values in columns]])


def _in_pieces(step: Any, values: NDArray[Any], out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Transform some rows at a time, in float64; `out` may be `values` itself."""
    out = np.empty(values.shape) if out is None else out
    for start in range(0, len(values), PIECE_ROWS):
        some = slice(start, start + PIECE_ROWS)
        out[some] = step.transform(values[some].astype(np.float64))
    return out


def _round_learned(estimator: Any) -> None:
    if isinstance(estimator, Pipeline):
        solver = estimator.steps[-1][1]
        solver.coef_, solver.intercept_ = significant(solver.coef_), significant(solver.intercept_)
    elif isinstance(estimator, HistGradientBoostingClassifier):
        estimator._bin_mapper.n_threads = None  # the machine's, and of no use after fitting
        for trees in estimator._predictors:
            for tree in trees:
                tree.nodes["value"] = significant(tree.nodes["value"])
                tree.nodes["gain"] = significant(tree.nodes["gain"])


def significant(values: NDArray[np.float64], digits: int = LEARNED_DIGITS) -> NDArray[np.float64]:
    """Round to a number of significant decimal digits."""
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(np.abs(values)))
    # a scale beyond 1e300 would overflow: what is that small loses its last digits instead
    scale = 10.0 ** np.minimum(digits - 1 - np.where(np.isfinite(exponent), exponent, 0), 300)
    return np.where(np.isfinite(exponent), np.rint(values * scale) / scale, values)


def log_odds(estimator: Any, features: Matrix) -> NDArray[np.float64]:
    """Return the estimator's log-odds of a crash, shape (n,)."""
    with threadpool_limits(1, user_api="blas"):
        if isinstance(estimator, DummyClassifier):
            share = estimator.predict_proba(features)[:, 1]
            return np.asarray(np.log(share) - np.log1p(-share))
        # in float64, as it was fitted; column by column, which trees read three times as fast, and sums round one way
        pieces = (some.astype(np.float64, "F") for some in np.array_split(features, len(features) // PIECE_ROWS + 1))
        return np.concatenate([estimator.decision_function(some) for some in pieces])
