"""Whether another fleet's model and labels help: they do where they know more, and not where they know nothing."""

from __future__ import annotations

from contextlib import chdir

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from crashcast.annotation import refitting
from crashcast.annotation import transfer_learning as transferring
from crashcast.errors import UserError


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch):
    monkeypatch.setattr(refitting, "REPLICATES", 60)
    monkeypatch.setattr(transferring, "SHARES", (1 / 32,))


def gains(judged, other):
    with chdir(judged.root):
        found = transferring.transfer(other.root)
    assert found["way"].to_list() == [
        transferring.OWN,
        transferring.AS_IT_IS,
        transferring.TOGETHER,
        transferring.ON_TOP,
    ]
    return found, {row["way"]: row for row in found.iter_rows(named=True)}


def test_a_fleet_with_many_labels_helps_one_with_few(judged, project) -> None:
    found, by_way = gains(judged, project)  # the same fleet, with all of its labels
    for way in (transferring.AS_IT_IS, transferring.TOGETHER):
        assert by_way[way]["pr_auc_gain_low"] > 0
        assert by_way[way]["pr_auc"] == pytest.approx(by_way[transferring.OWN]["pr_auc"] + by_way[way]["pr_auc_gain"])
    assert by_way[transferring.OWN]["pr_auc_gain_high"] == 0
    console = Console(width=140, record=True)
    transferring.show(found, console)
    assert "helps" in console.export_text()


def test_a_fleet_whose_labels_mean_nothing_is_not_said_to_help(judged, project) -> None:
    draw = np.random.default_rng(3)

    def shuffle(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(label=rows["label"].gather(draw.permutation(rows.height)))

    project.rewrite("data/labels", shuffle)
    project.run("split", "train")
    _, by_way = gains(judged, project)
    for way in (transferring.AS_IT_IS, transferring.TOGETHER, transferring.ON_TOP):
        assert by_way[way]["pr_auc_gain_low"] <= 0
    assert by_way[transferring.AS_IT_IS]["pr_auc_gain_high"] < 0


def test_labels_or_features_that_mean_something_else_are_refused(judged, project) -> None:
    project.set("label", horizon="12h")
    with chdir(judged.root), pytest.raises(UserError, match="another lead or horizon"):
        transferring.transfer(project.root)
    project.set("label", horizon="6h")
    project.rewrite("data/features", lambda rows: rows.rename({"memory_pct": "memory_mb"}))
    with chdir(judged.root), pytest.raises(UserError, match=r"other features.*memory_mb, memory_pct"):
        transferring.transfer(project.root)
