"""What more data would buy: the curve ends where the model is, and its extrapolation knows what it does not."""

from __future__ import annotations

from contextlib import chdir

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from crashcast.annotation import learning_curve as curves
from crashcast.annotation import refitting
from crashcast.errors import UserError
from crashcast.modeling.split_rule import read_rule
from crashcast.paths import SPLIT_PATH

SHARES = np.array([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])


@pytest.fixture(scope="module")
def found(judged):
    with pytest.MonkeyPatch.context() as patch, chdir(judged.root):
        patch.setattr(refitting, "REPLICATES", 40)
        patch.setattr(curves, "REPLICATES", 40)
        patch.setattr(curves, "DRAWS", 2)
        patch.setattr(curves, "SHARES", (1 / 4, 1 / 2))
        return curves.learning_curve()


def test_with_all_there_is_it_is_the_model_that_was_trained(found, judged) -> None:
    evidence = judged.json("metrics/candidates.json")
    trained = evidence["candidates"][evidence["chosen"]]
    for row in found.filter(times=1.0).iter_rows(named=True):
        assert row["pr_auc"] == pytest.approx(trained["pr_auc"], rel=1e-5)
        assert row["event_recall"] == pytest.approx(trained["event_recall"], rel=1e-5)
        assert row["crash_rows"] == judged.json("metrics/train.json")["training_crash_rows"]


def test_each_axis_grows_to_all_there_is_and_beyond(found) -> None:
    assert found["axis"].unique(maintain_order=True).to_list() == ["labels", "servers", "months"]
    for _, rows in found.group_by("axis"):
        assert rows["times"].to_list() == [0.25, 0.5, 1, 2, 4]
        assert rows["crash_rows"][:3].is_sorted()
        assert rows["crash_rows"][3:].to_list() == [None, None]
        assert (rows["pr_auc_low"] <= rows["pr_auc_high"]).all()
        assert (rows["pr_auc_gain_low"][3:] >= 0).all()  # more data never harms the curve


def test_it_is_shown_for_people(found) -> None:
    console = Console(width=120, record=True)
    curves.show(found, 0.9, console)
    text = console.export_text()
    assert "months x 4" in text
    assert "Measured on validation" in text


def test_the_parts_are_whole_server_days_whole_servers_and_the_newest_months(judged) -> None:
    with chdir(judged.root):
        rule = read_rule(SPLIT_PATH)
        sample = curves.training_sample(curves.Train.read())
        parts = {
            axis: curves.part_of(sample, curves.Size(axis, 0.5, 0), rule)
            for axis in (curves.LABELLED, curves.SERVERS, curves.MONTHS)
        }
        smaller = curves.part_of(sample, curves.Size(curves.SERVERS, 0.25, 0), rule)
    rows = sample.keys.with_columns(
        day=pl.col("timestamp").dt.truncate("1d"), **{axis: pl.Series(part) for axis, part in parts.items()}
    )
    by_day = rows.group_by("server_id", "day").agg(pl.col("labels").mean())["labels"]
    assert set(by_day) == {0.0, 1.0}
    assert 0.4 < by_day.mean() < 0.6
    by_server = rows.group_by("server_id").agg(pl.col("servers").mean())["servers"]
    assert set(by_server) == {0.0, 1.0}
    assert not (smaller & ~parts["servers"]).any()  # a smaller part lies in a larger one
    assert rows.filter("months")["timestamp"].min() > rows.filter(~pl.col("months"))["timestamp"].max()


def test_a_curve_that_levels_off_is_found_again() -> None:
    true = 0.5 - 0.05 * SHARES[:, None] ** -0.5
    assert curves.levelling_off(SHARES, true, 4.0) == pytest.approx(0.5 - 0.05 * 4**-0.5, abs=1e-3)
    assert curves.ever_growing(SHARES, true, 4.0)[0] > curves.levelling_off(SHARES, true, 4.0)[0]


def test_a_curve_that_never_levels_off_is_found_again() -> None:
    true = 0.3 + 0.02 * np.log(SHARES)[:, None]
    assert curves.ever_growing(SHARES, true, 4.0) == pytest.approx(0.3 + 0.02 * np.log(4))


def test_a_falling_curve_promises_nothing() -> None:
    falling = 0.3 - 0.02 * np.log(SHARES)[:, None]
    assert curves.ever_growing(SHARES, falling, 4.0) == pytest.approx(0.3)
    assert curves.levelling_off(SHARES, falling, 4.0) == pytest.approx(0.3)


def test_an_undefined_replicate_stays_undefined() -> None:
    values = np.column_stack([0.3 + 0 * SHARES, np.full(5, np.nan)])
    for curve in (curves.levelling_off, curves.ever_growing):
        assert np.isnan(curve(SHARES, values, 2.0)).tolist() == [False, True]


def test_another_choice_of_candidates_is_told(project) -> None:
    project.set("train", candidates={"logistic_regression": {"C": [123.0]}})
    with chdir(project.root), pytest.raises(UserError, match=r"train.candidates has no .*dvc repro"):
        curves.chosen_candidate(curves.Train.read())
