"""What each algorithm's file holds, and what several of them need.

These files import scikit-learn inside functions: the parameters refer to the grids, and whoever reads parameters should
not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crashcast.params.base import Group

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]
PIECE_ROWS = 100_000  # transformed or scored together, to save memory
LEARNED_DIGITS = 8  # of coefficients and leaves: digits that optima agree on between CPU types


class Algorithm(Protocol):
    """A module of this folder."""

    @property
    def Grid(self) -> type[Group] | None:  # noqa: N802 - a class
        """The section `train.candidates.<name>` of params.yaml; None: the algorithm always competes."""

    @property
    def SMALLEST(self) -> Group | None:  # noqa: N802 - a constant
        """A grid of one small model: a loaded one holds the same types in the same places (modeling/archive.py)."""

    @property
    def VARYING(self) -> tuple[str, ...]:  # noqa: N802 - a constant
        """Whole numbers in an estimator that differ from model to model, beside its hyperparameters."""

    @property
    def WEIGHS_SAMPLING(self) -> bool:  # noqa: N802 - a constant
        """Whether weights undo the sampling of negatives within the fit; if not, the log-odds are shifted after it."""

    def build(self, grid: Any, seed: int, features: Sequence[str], /) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield the hyperparameters that vary, and the unfitted estimator, of each point of the grid."""

    def fit(self, estimator: Any, features: Matrix, crash: NDArray[np.bool_], weight: Floats | None, /) -> None:
        """Fit in place, with the same bytes whatever the number of threads, and round what was learned.

        Parameters
        ----------
        estimator : estimator
            Unfitted.
        features : float32 array of shape (n, k)
            NaN if missing.
        crash : bool array of shape (n,)
            The labels.
        weight : float array of shape (n,) or None
            Of each row; None: all alike.
        """

    def log_odds(self, estimator: Any, features: Floats, /) -> Floats:
        """Return the log-odds of a crash, shape (n,), of features of shape (n, k)."""

    def check(self, estimator: Any, width: int, /) -> None:
        """Refuse a loaded estimator that could crash the process, as scikit-learn does not check its own numbers.

        Raises
        ------
        ValueError
            If it is of another type, was fitted on another number of features than `width`, or is damaged.
        """


def check_type(estimator: Any, kind: Any, width: int) -> None:
    """Refuse an estimator of another type or another number of features (see `Algorithm.check`)."""
    if not isinstance(estimator, kind):
        raise ValueError(f"model.skops holds a {type(estimator).__name__}")
    if estimator.n_features_in_ != width:
        raise ValueError(f"model.skops was fitted on {estimator.n_features_in_} features, model.json names {width}")


def significant(values: NDArray[np.float64], digits: int = LEARNED_DIGITS) -> NDArray[np.float64]:
    """Round to a number of significant decimal digits."""
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(np.abs(values)))
    # a scale beyond 1e300 would overflow: numbers that small lose their last digits instead
    scale = 10.0 ** np.minimum(digits - 1 - np.where(np.isfinite(exponent), exponent, 0), 300)
    return np.where(np.isfinite(exponent), np.rint(values * scale) / scale, values)
