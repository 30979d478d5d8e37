"""The model: an estimator, how its log-odds become a probability, and when that is an alarm.

`model.skops` holds the estimator alone, of types that skops knows to be harmless and two listed here; `model.json`
everything a person may want to read. Neither can run code when loaded, and both are the same bytes for the same model.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import skops.io
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.files import replacing
from crashcast.modeling.estimators import Matrix, log_odds, significant

TRUSTED = ["numpy.dtype", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
SCORE_DIGITS = 9
PIECE_ROWS = 1_000_000  # looked at together, to save memory


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
        where weights in the fit have undone the sampling.
    slope, intercept : float
        Calibration on the log-odds; the slope is positive, so the ranking stays as it is.
    threshold : float
        The probability at or above which an alarm opens.
    """

    estimator: Any
    algorithm: str
    hyperparameters: dict[str, Any]
    features: list[str]
    sampling_offset: float
    slope: float = 1.0
    intercept: float = 0.0
    threshold: float = 1.0

    def predict(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """Return the probability of a crash in (t + lead, t + lead + horizon], shape (n,)."""
        return self.probability(log_odds(self.estimator, matrix(rows, self.features)) + self.sampling_offset)

    def probability(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that belongs to log-odds from which the sampling has been undone."""
        pieces = np.array_split(raw, len(raw) // PIECE_ROWS + 1)
        return np.concatenate([significant(expit(self.slope * x + self.intercept), SCORE_DIGITS) for x in pieces])


def matrix(rows: pl.DataFrame, features: list[str]) -> Matrix:
    """Return the features as a float32 array of shape (n, k), NaN where missing.

    Raises
    ------
    UserError
        Where `rows` lack one of them.
    """
    if missing := [name for name in features if name not in rows.columns]:
        raise UserError(f"the model needs {', '.join(missing)}, which the features lack: run `dvc repro`")
    return rows.select(pl.col(features).cast(pl.Float32).fill_null(np.nan)).to_numpy()


def calibration(raw: NDArray[np.float64], crash: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept that turn log-odds into probabilities.

    Source: Platt, Probabilistic outputs for support vector machines, 1999. Where the fitted slope is not positive the
    order of the scores would turn over, so the slope is 1 and the intercept is the one that matches the observed rate.
    """
    with threadpool_limits(1, user_api="blas"):  # a sum split over threads has other last digits
        fitted = LogisticRegression(C=1e6, solver="newton-cholesky", tol=1e-9).fit(raw[:, None], crash)
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
    described = {field.name: getattr(model, field.name) for field in fields(model) if field.name != "estimator"}
    write_json(folder / "model.json", described, digits=17)
    with replacing(folder / "model.skops") as aside:
        aside.write_bytes(canonical_archive(skops.io.dumps(model.estimator)))


def load(folder: Path) -> Model:
    """Read a model; nothing in it is executed.

    Raises
    ------
    UserError
        Where a file is missing or damaged, or holds a type that no model of this project has.
    """
    archive = folder / "model.skops"
    try:
        described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if absent := sorted({field.name for field in fields(Model)} - {"estimator", *described}):
            raise ValueError(f"model.json lacks {', '.join(absent)}")
        _check_size(archive)
        unknown = sorted(set(skops.io.get_untrusted_types(file=archive)) - set(TRUSTED))
        if unknown:
            raise UserError(f"{archive} is refused: it holds {', '.join(unknown)}, which no model of crashcast does")
        model = Model(skops.io.load(archive, trusted=TRUSTED), **described)
        _check(model)
        return model
    except UserError:
        raise
    except Exception as error:  # a damaged archive may provoke any
        raise UserError(f"{folder} holds no readable model ({error}): `dvc pull` or `dvc repro train`") from None


def _check_size(archive: Path) -> None:
    """Refuse what would unpack to more than the file holds, and fill the memory; `save` compresses nothing."""
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
    unpacked_bytes = sum(member.file_size for member in members)
    is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not is_stored or unpacked_bytes > archive.stat().st_size:
        raise ValueError(f"model.skops would unpack to {unpacked_bytes:,} bytes, and is not packed as `train` packs it")


def _check(model: Model) -> None:
    # scikit-learn follows the numbers in a tree without looking where they lead
    estimator, width = model.estimator, len(model.features)
    if not isinstance(estimator, DummyClassifier | Pipeline | HistGradientBoostingClassifier):
        raise ValueError(f"model.skops holds a {type(estimator).__name__}")
    if estimator.n_features_in_ != width:
        raise ValueError(f"model.skops was fitted on {estimator.n_features_in_} features, model.json names {width}")
    for tree in chain.from_iterable(getattr(estimator, "_predictors", [])):
        inner = np.flatnonzero(tree.nodes["is_leaf"] == 0)
        nodes, end = tree.nodes[inner], len(tree.nodes)
        is_sound = (nodes["feature_idx"] < width) & (nodes["feature_idx"] >= 0) & (nodes["is_categorical"] == 0)
        for side in ("left", "right"):
            is_sound &= (inner < nodes[side]) & (nodes[side] < end)
        if end == 0 or not is_sound.all():
            raise ValueError("model.skops holds a tree that leads outside itself")


def canonical_archive(archive: bytes) -> bytes:
    """Return a skops archive whose bytes depend on the model alone.

    skops names members and marks shared objects by memory addresses, and zip stores the time: number both in order of
    appearance, fix the time, store without compression (whose bytes differ between zlib versions). Numbers and text
    get no mark: whether two equal ones are one object is for the interpreter to choose.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        schema = json.loads(source.read("schema.json"))
        members = {name: source.read(name) for name in source.namelist() if name != "schema.json"}
    number: dict[int, int] = {}
    renamed: dict[str, str] = {}

    def renumber(key: str, node: Any) -> Any:
        if isinstance(node, dict):
            is_plain = node.get("__loader__") == "JsonNode"
            return {name: renumber(name, item) for name, item in node.items() if not (is_plain and name == "__id__")}
        if isinstance(node, list):
            return [renumber("", item) for item in node]
        if key == "__id__":
            return number.setdefault(node, len(number) + 1)  # skops takes 0 for no mark
        if key == "file" and node in members:
            stem, _, suffix = node.partition(".")
            return renamed.setdefault(node, f"{number.setdefault(int(stem), len(number) + 1)}.{suffix}")
        return node

    schema = renumber("", schema)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        target.writestr(zipfile.ZipInfo("schema.json", ZIP_EPOCH), json.dumps(schema))
        for old, new in renamed.items():
            target.writestr(zipfile.ZipInfo(new, ZIP_EPOCH), members[old])
    return out.getvalue()
