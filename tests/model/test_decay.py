"""How models of several ages are compared: on the same rows, each fitted to as many months."""

from __future__ import annotations

from contextlib import chdir

import numpy as np
import polars as pl
import pytest

from crashcast.annotation import refitting
from crashcast.errors import UserError
from crashcast.planning import decay


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare models whose ages differ by days: the fleet has eight weeks of training data."""
    monkeypatch.setattr(refitting, "REPLICATES", 40)
    monkeypatch.setattr(decay, "AGES", (0.0, 0.25, 0.5))


@pytest.mark.usefixtures("short")
def test_the_loss_is_the_slope_of_recall_over_age(judged, tmp_path) -> None:
    project = judged.copy(tmp_path)
    with chdir(project.root):
        assert decay.read() is None
        found = decay.measure_decay()
        decay.write(found)
        kept = decay.read()
    recalls = [one["event_recall"] for one in found.ages]
    assert found.loss.value == pytest.approx(-np.polyfit([0, 0.25, 0.5], recalls, 1)[0])
    assert found.loss.low <= found.loss.value <= found.loss.high
    assert found.months + 0.5 == pytest.approx(8 * 7 / 30.4, abs=0.2)
    assert kept is not None
    assert kept.loss == pytest.approx(found.loss, rel=1e-5)


@pytest.mark.usefixtures("short")
def test_rows_of_unknown_label_are_scored_and_not_counted(judged, tmp_path) -> None:
    project = judged.copy(tmp_path)
    hidden = pl.col("timestamp").dt.hour() == 3
    project.rewrite("data/labels", lambda rows: rows.with_columns(observed=True, label=pl.when(~hidden).then("label")))
    with chdir(project.root):
        ages = decay.measure_decay().ages
    assert all(0 < one["pr_auc"] <= 1 for one in ages)


def test_too_little_history_is_refused(judged) -> None:
    with chdir(judged.root), pytest.raises(UserError, match="4 months of training data or more"):
        decay.measure_decay()


def test_a_damaged_file_is_refused(tmp_path) -> None:
    (tmp_path / decay.PATH).parent.mkdir(parents=True)
    (tmp_path / decay.PATH).write_text("{")
    with pytest.raises(UserError, match="--measure-decay"):
        decay.read(tmp_path)
