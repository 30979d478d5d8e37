"""The model: an estimator, how its log-odds become a probability, and when that is an alarm.

`model.skops` holds the estimator alone, of types that the algorithm's smallest model has in the same places;
`model.json` holds everything that people read. Neither can run code when loaded. The same model is always the same
bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, with_config
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.base import clone
from threadpoolctl import threadpool_limits
from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.files import replacing, sha256
from crashcast.modeling import archive
from crashcast.modeling.algorithms import ALGORITHMS, Candidate
from crashcast.modeling.algorithms.base import PIECE_ROWS, Floats, Matrix, significant
from crashcast.modeling.algorithms.logistic_regression import solver
from crashcast.modeling.archive import skops

DESCRIPTION_FILE, ESTIMATOR_FILE = FILES = "model.json", "model.skops"  # of a saved model
SCORE_DIGITS = 9


@dataclass(frozen=True)
class Model:
    """A fitted model.

    Attributes
    ----------
    estimator : scikit-learn estimator
        Fitted on a sample in which crash rows are more frequent than they are.
    algorithm : str
    hyperparameters : dict
    features : list of str
        Its columns, in order.
    sampling_offset : float
        Added to its log-odds: the logarithm of the share of negatives it was trained on, over that of crash rows; 0
        if weights in the fit have undone the sampling.
    slope, intercept : float
        Calibration on the log-odds; the slope is positive, so the ranking stays as it is.
    threshold : float
        The probability at or above which an alarm opens.
    local : dict of str to float
        What is added to the calibrated log-odds of each server (`modeling/local.py`); of others, nothing.
    """

    estimator: Any
    algorithm: str
    hyperparameters: dict[str, Any]
    features: list[str]
    sampling_offset: float
    slope: float = 1.0
    intercept: float = 0.0
    threshold: float = 1.0
    local: dict[str, float] = field(default_factory=dict)

    def predict(self, rows: pl.DataFrame) -> Floats:
        """Return the probability of a crash in (t + lead, t + lead + horizon], shape (n,).

        `rows` need `server_id`, too, if there are corrections by server.
        """
        servers = rows["server_id"] if self.local else None
        return self.probability(self.log_odds(matrix(rows, self.features)), servers)

    def log_odds(self, values: Matrix) -> Floats:
        """Return the log-odds of a crash before calibration, the sampling undone, shape (n,)."""
        algorithm = ALGORITHMS[self.algorithm]
        # in float64, as it was fitted; column by column, which trees read three times as fast, and sums round one way
        pieces = (some.astype(np.float64, "F") for some in np.array_split(values, len(values) // PIECE_ROWS + 1))
        with threadpool_limits(1, user_api="blas"):  # a sum split over threads has other last digits
            raw = np.concatenate([algorithm.log_odds(self.estimator, some) for some in pieces])
        return raw + self.sampling_offset

    def probability(self, raw: Floats, servers: pl.Series | None = None) -> Floats:
        """Return the probability of what `log_odds` returned, corrected by server if those are given."""
        pieces = np.array_split(self.calibrated_log_odds(raw, servers), len(raw) // PIECE_ROWS + 1)
        return np.concatenate([significant(expit(x), SCORE_DIGITS) for x in pieces])

    def calibrated_log_odds(self, raw: Floats, servers: pl.Series | None = None) -> Floats:
        """Return the calibrated log-odds of what `log_odds` returned, corrected by server if those are given."""
        calibrated = self.slope * raw + self.intercept
        if servers is None or not self.local:
            return calibrated
        added = servers.cast(pl.String).replace_strict(self.local, default=0.0, return_dtype=pl.Float64)
        return np.asarray(calibrated + added.to_numpy())

    def try_out(self) -> None:
        """Predict for rows of zeros and for one without any value: what does not fit together fails here.

        Raises
        ------
        Exception
            Of whatever kind, if it cannot, or a probability is no number.
        """
        for count in (2, 3):  # an array of a wrong shape may fit one number of rows
            rows = np.zeros((count, len(self.features)), dtype=np.float32)
            rows[-1] = np.nan
            if not np.isfinite(self.probability(self.log_odds(rows))).all():
                raise ValueError("a probability is no number")


@with_config(ConfigDict(extra="forbid", strict=True))
class _Description(TypedDict):
    """What model.json holds."""

    algorithm: str
    hyperparameters: dict[str, Any]
    features: list[str]
    sampling_offset: FiniteFloat
    slope: Annotated[FiniteFloat, Field(gt=0)]
    intercept: FiniteFloat
    threshold: FiniteFloat
    local: NotRequired[dict[str, FiniteFloat]]


_DESCRIPTION = TypeAdapter(_Description)


def fit(
    candidate: Candidate,
    features: list[str],
    values: Matrix,
    crash: NDArray[np.bool_],
    share: float = 1.0,
    weight: Floats | None = None,
) -> Model:
    """Fit a candidate; the model is not yet calibrated and raises no alarm.

    Parameters
    ----------
    candidate : Candidate
        The algorithm and its hyperparameters.
    features : list of str
        The names of the k columns of `values`.
    values : float32 array of shape (n, k)
        NaN if missing.
    crash : bool array of shape (n,)
        The labels.
    share : float
        Of negatives that were sampled, over that of crash rows.
    weight : float array of shape (n,), optional
        How certain each label is; by default all alike.
    """
    algorithm, estimator = ALGORITHMS[candidate.algorithm], clone(candidate.estimator)
    if algorithm.WEIGHS_SAMPLING:
        represented = np.where(crash, 1.0, 1 / share)
        weight = represented if weight is None else represented * weight
    with threadpool_limits(1, user_api="blas"):  # as in `log_odds`
        algorithm.fit(estimator, values, crash, weight)
    offset = 0.0 if algorithm.WEIGHS_SAMPLING else float(np.log(share))
    return Model(estimator, candidate.algorithm, candidate.hyperparameters, features, offset)


def side_by_side(fit_one: Callable[[Candidate], Model], competing: list[Candidate]) -> list[Model]:
    """Fit two candidates at a time, each with half of the processors: a fit alone leaves many of them idle."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")  # the runner sets it if other processes fit meanwhile
    threads = max(1, (int(allowed) if allowed.isdigit() else os.cpu_count() or 1) // 2)

    def share_processors() -> None:
        threadpool_limits(threads, user_api="openmp")  # of this thread alone

    # BLAS has one limit for all threads: that of the fit that ends first would end the limit of the other
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(2, initializer=share_processors) as pool:
        return list(pool.map(fit_one, competing))


def matrix(rows: pl.DataFrame, features: list[str]) -> Matrix:
    """Return the features as a float32 array of shape (n, k), NaN if missing.

    Raises
    ------
    UserError
        If `rows` lack one of them.
    """
    if missing := [name for name in features if name not in rows.columns]:
        raise UserError(f"the model needs {', '.join(missing)}, which the features lack: run `dvc repro`")
    return rows.select(pl.col(features).cast(pl.Float32).fill_null(np.nan)).to_numpy()


def calibration(raw: Floats, crash: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept that turn log-odds into probabilities.

    Source: Platt, Probabilistic outputs for support vector machines, 1999. A slope that is not positive would turn the
    order of the scores over: the slope is then 1, and the intercept the one that matches the observed rate.
    """
    with threadpool_limits(1, user_api="blas"):  # a sum split over threads has other last digits
        fitted = solver(1e6).fit(raw[:, None], crash)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope <= 0 or np.ptp(raw) == 0:
        rate, spread = crash.mean(), float(np.abs(raw).max()) + 1.0
        observed = np.log(rate / (1 - rate))
        slope = 1.0
        intercept = brentq(lambda shift: expit(raw + shift).mean() - rate, observed - spread, observed + spread)
    rounded = significant(np.array([slope, intercept]))
    return float(rounded[0]), float(rounded[1])


def save(model: Model, folder: Path) -> None:
    """Write `model.skops` and `model.json`."""
    described = {one.name: getattr(model, one.name) for one in fields(model) if one.name != "estimator"}
    if not model.local:
        del described["local"]
    write_json(folder / DESCRIPTION_FILE, described, digits=17)
    with replacing(folder / ESTIMATOR_FILE) as aside:
        aside.write_bytes(archive.canonical(skops.io.dumps(model.estimator)))


def load(folder: Path) -> Model:
    """Read a model; nothing in it is executed.

    Raises
    ------
    UserError
        If a file is missing or damaged, or holds what no model of its algorithm has.
    """
    file = folder / ESTIMATOR_FILE
    try:
        described = _DESCRIPTION.validate_json((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        if len(set(described["features"])) < len(described["features"]):
            raise ValueError("model.json: features: one is there twice")
        archive.check_size(file)
        algorithm, width = ALGORITHMS[described["algorithm"]], len(described["features"])
        content = file.read_bytes()
        smallest = _smallest(described["algorithm"], width)
        trusted = skops.io.get_untrusted_types(data=smallest)
        unknown = sorted(set(skops.io.get_untrusted_types(data=content)) - set(trusted))
        if unknown:
            raise UserError(f"{file} is refused: it holds {', '.join(unknown)}, which no model of crashcast does")
        hyperparameters = algorithm.Grid.model_fields if algorithm.Grid else ()
        varying = {*hyperparameters, *algorithm.VARYING, "random_state", "_sklearn_version"}
        archive.check_structure(content, smallest, varying)
        estimator = skops.io.loads(content, trusted=trusted)
        algorithm.check(estimator, width)
        model = Model(estimator, **described)
        model.try_out()
        return model
    except UserError:
        raise
    except Exception as error:  # a damaged archive may provoke any
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"model.json: {'.'.join(map(str, first['loc']))}: {first['msg']}" if first else error
        raise UserError(f"{folder} holds no readable model ({reason}): `dvc pull` or `dvc repro train`") from None


def loaded(folder: Path) -> Model:
    """Return what `load` does; of the last few models each is read once, wherever its files lie."""
    files = [file for name in FILES if (file := folder / name).exists()]
    return _load_once(_Files(tuple(map(sha256, files)), folder))


@dataclass(frozen=True)
class _Files:
    hashes: tuple[str, ...]
    folder: Path = field(compare=False)


@lru_cache(maxsize=8)  # those of one task, as a rule
def _load_once(files: _Files) -> Model:
    return load(files.folder)


@cache
def _smallest(name: str, width: int) -> bytes:
    """Return the archive of an algorithm's smallest model of so many features."""
    rows = np.arange(8 * width, dtype=np.float32).reshape(8, width)
    rows[0] = np.nan
    _, estimator = next(ALGORITHMS[name].build(ALGORITHMS[name].SMALLEST, 1, [str(column) for column in range(width)]))
    fitted = fit(Candidate(name, {}, estimator), [], rows, np.arange(8) % 2 == 0)
    return archive.canonical(skops.io.dumps(fitted.estimator))
