"""The parts of the evaluation, by hand; tests/model/test_evaluate.py runs the stage."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from crashcast.modeling.bootstrap import MONDAY, TwoWayDraws
from stages import evaluate

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def test_intervals_by_hand():
    """Three replicates of two servers and two days: all once; a twice on the first day twice; all on the second."""
    draws = TwoWayDraws(
        ["a", "b"], 0, DAY, of_servers=np.array([[1, 1], [2, 0], [1, 1]]), of_blocks=np.array([[1, 1], [2, 0], [0, 2]])
    )
    target, cells = np.array([1, 1, 0, 0]), np.arange(4)  # one row a cell; those of a precede a crash
    # in the night before the second day: an alarm could last warn of a's crash on the first
    crashes = pl.DataFrame(
        {
            "server_id": ["a", "b"],
            "started_at": [MONDAY + 24.5 * HOUR, MONDAY + 30 * HOUR],
            "last_warning_at": [MONDAY + 23.5 * HOUR, MONDAY + 29 * HOUR],
            "caught": [True, False],
        }
    ).with_columns(pl.selectors.datetime().dt.replace_time_zone("UTC"))
    found = evaluate.intervals(
        target, cells, SimpleNamespace(crashes=crashes), np.array([0.5, 0.6, 0.4]), draws, confidence=1.0
    )
    # base rates 1/2, 1 and 1/2, recalls 1/2, 1 and 0
    assert found == pytest.approx(
        {
            "pr_auc_low": 0.4, "pr_auc_high": 0.6,
            "lift_low": 0.6, "lift_high": 1.0,
            "event_recall_low": 0.0, "event_recall_high": 1.0,
        }
    )  # fmt: skip
    halves = evaluate.intervals(
        target, cells, SimpleNamespace(crashes=crashes), np.array([0.5, 0.6, 0.4]), draws, confidence=0.5
    )
    assert halves["event_recall_low"] == 0.25


def test_importance_is_what_shuffling_costs():
    sample = pl.DataFrame({"label": [1, 0] * 50, "b": [0.0] * 100, "risk": [0.9, 0.1] * 50, "a": range(100)})
    model = SimpleNamespace(features=["b", "risk", "a"], predict=lambda rows: rows["risk"].to_numpy())
    found = evaluate.importance(model, sample, seed=3)
    order = np.random.default_rng(3).permutation(100)
    shuffled = sample["risk"].to_numpy()[order] > 0.5  # two steps: precision at the first, and half
    precision = sample["label"].to_numpy()[shuffled].mean()
    assert found == pytest.approx([0, 1 - (precision**2 + (1 - precision) / 2), 0])


def test_a_recall_needs_ten_crashes():
    def figures(crashes, caught):
        started = [datetime(2025, 1, 1) + number * HOUR for number in range(crashes)]
        frame = pl.DataFrame({"server_id": "a", "started_at": started, "caught": [n < caught for n in range(crashes)]})
        return evaluate.by_slice(pl.DataFrame({"server_id": [], "label": [], "score": []}), frame, frame, {}, {})

    assert figures(10, 3)["repeated_crashes"] == {"crashes": 9, "event_recall": None}  # the first is none
    assert figures(11, 3)["repeated_crashes"] == {"crashes": 10, "event_recall": 0.2}


def test_the_lowest_of_each_label_are_drawn(monkeypatch):
    monkeypatch.setattr(evaluate, "SAMPLE_ROWS", 2)
    hashed = pl.DataFrame({"label": [0, 1, 0, 0, 1, 1], "drawn": [5, 9, 3, 4, 7, 8], "row": range(6)})
    none, ones = evaluate.lowest(hashed)
    assert (none["row"].to_list(), ones["row"].to_list()) == ([2, 3], [4, 5])
