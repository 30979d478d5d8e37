"""Scores of code that is not this one: made apart, and refused if they look ahead."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier

from crashcast import tables
from crashcast.errors import UserError
from crashcast.execution import code_hash
from crashcast.modeling.model import Model, save
from crashcast.review import rescoring
from crashcast.review.test_set import ScoredModel
from crashcast.versioning import cache

JANUARY = tables.partition_at(datetime(2026, 1, 1), "month")
HOURS = 31
Scores = NDArray[np.float64]


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoredModel:
    """A model and features of a commit that is run by another Python; x is the hour."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path(".dvc").mkdir()
    moments = [JANUARY.start + timedelta(hours=hour) for hour in range(HOURS)]
    frame = pl.DataFrame({"timestamp": moments}).cast(tables.TIMESTAMP).with_columns(server_id=pl.lit("a"))
    features = frame.with_columns(x=pl.Series(range(HOURS), dtype=pl.Float32)).cast(tables.KEYS)
    tables.write(JANUARY.path(tmp_path / "features"), features)
    tables.write(JANUARY.path(tmp_path / "rows"), features.select(*tables.KEYS, wanted=True))

    estimator = DummyClassifier(strategy="prior").fit(np.zeros((100, 1), dtype=np.float32), np.arange(100) < 30)
    (tmp_path / "model").mkdir()
    save(Model(estimator, "dummy", {}, ["x"], 0.0, threshold=0.5), tmp_path / "model")

    def held(folder: str) -> str:
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        return cache.hold_folder({str(path.relative_to(folder)): cache.hold(path) for path in files})

    monkeypatch.setattr(rescoring.environment, "interpreter", lambda *_: Path("another/python"))
    revision = SimpleNamespace(name="abc1234", outs={"models": held("model")})
    return ScoredModel(revision, held("features"), {})  # type: ignore[arg-type]


def scores_of(folder: Path, rows: Path, look: Callable[[float, int, int], float]) -> Scores:
    """Score each row by its hour, the number of all rows and the number of rows of all features."""
    features, wanted = (tables.read(JANUARY.path(table)) for table in (folder / "features", rows))
    return np.array([look(float(hour), wanted.height, features.height) for hour in features["x"]])[: wanted.height]


def honest(hour: float, rows: int, features: int) -> float:
    return hour / 100


@pytest.mark.parametrize(
    ("look", "is_refused"),
    [
        (honest, False),
        (lambda hour, rows, _: hour / 100 + rows / 1000, True),
        (lambda hour, _, features: hour / 100 + features / 1000, True),
        (lambda hour, rows, _: hour / 100 * (1 + 0.9e-5 * (rows < HOURS)), False),  # another type of CPU
        (lambda hour, rows, _: hour / 100 * (1 + 1.1e-5 * (rows < HOURS)), True),
    ],
)
def test_scores_that_are_others_if_the_rows_end_earlier_are_refused(
    scored: ScoredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable, is_refused: bool
) -> None:
    ends = []

    def apart(revision: object, place: Path, rows: Path) -> tuple[Scores, float]:
        ends.append(tables.read(JANUARY.path(rows)).height)
        assert (place / "model" / "model.skops").exists()
        return scores_of(place, rows, look), 1.5

    monkeypatch.setattr(rescoring, "_score_apart", apart)
    if is_refused:
        with pytest.raises(UserError, match="the scores of the model of commit abc1234 look ahead: they are others if"):
            rescoring._score(scored, tmp_path / "rows", tmp_path / "place")
        return
    scores, latency_ms = rescoring._score(scored, tmp_path / "rows", tmp_path / "place")
    assert scores.tolist() == [hour / 100 for hour in range(HOURS)]
    assert latency_ms == 1.5
    assert ends[0] == HOURS
    assert ends[1:] == sorted({*ends[1:]})  # each moment in a run of its own, and no row after it
    assert len(ends) == 1 + rescoring.CUTS


def test_the_script_that_scores_apart_gives_the_models_scores(
    scored: ScoredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Room:
        """A folder without walls: what the sandbox keeps out has tests of its own."""

        python = sys.executable

        def __init__(self) -> None:
            self.folder = Path(tempfile.mkdtemp(dir=tmp_path))

        def input(self, name: str) -> Path:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        def run(self, *command: str, failure: str) -> str:
            variables = os.environ | {"PYTHONPATH": str(code_hash.SRC)}
            return subprocess.run(
                command, cwd=self.folder, env=variables, check=True, capture_output=True, text=True
            ).stdout

        def written(self, name: str) -> dict[str, Path]:
            return {file.name: file for file in (self.folder / name).iterdir()}

    @contextmanager
    def room(revision: object) -> Iterator[Room]:
        yield Room()

    monkeypatch.setattr(rescoring.sandbox, "room", room)
    scores, latency_ms = rescoring._score(scored, tmp_path / "rows", tmp_path / "place")
    assert scores.tolist() == pytest.approx([0.3] * HOURS)
    assert latency_ms > 0
