"""The base rate for every row: what any other algorithm must beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashcast.modeling.algorithms.base import Floats, Matrix, check_type

Grid = None
VARYING = ()
SMALLEST = None
WEIGHS_SAMPLING = False


def build(grid: None, seed: int, features: Sequence[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield the only one (see `Algorithm`)."""
    from sklearn.dummy import DummyClassifier

    yield {}, DummyClassifier(strategy="prior")


def fit(estimator: Any, features: Matrix, crash: NDArray[np.bool_], weight: Floats | None) -> None:
    """Count the labels, all alike: the base rate is theirs, however certain they are (see `Algorithm`)."""
    estimator.fit(features, crash)


def log_odds(estimator: Any, features: Floats) -> Floats:
    """Return the log-odds of the base rate (see `Algorithm`)."""
    share = estimator.predict_proba(features)[:, 1]
    return np.asarray(np.log(share) - np.log1p(-share))


def check(estimator: Any, width: int) -> None:
    """Refuse another type (see `Algorithm`)."""
    from sklearn.dummy import DummyClassifier

    check_type(estimator, DummyClassifier, width)
