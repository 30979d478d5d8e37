"""Bounds that hold for all models at once, though the best was chosen on the same rows."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from crashcast.modeling.bootstrap import TwoWayDraws, pr_auc_replicates, ratio_replicates, total_replicates
from crashcast.modeling.row_metrics import ranking, steps_of
from crashcast.modeling.skill import lower_bounds

DAY, START = timedelta(days=1), datetime(2025, 3, 3)
SERVERS, BLOCKS, HOURS = 20, 15, 24


def drawn(number, seed=1):
    names = pl.Series([f"s{number:02}" for number in range(SERVERS)])
    draws = TwoWayDraws.draw(names, (START, START + BLOCKS * DAY), DAY, number, seed)
    return draws, np.repeat(np.arange(SERVERS * BLOCKS), HOURS)


def replicates(labels, scores, draws, cells):
    """Return the lifts of models in every replicate, 0 without crashes."""
    totals = [total_replicates(values, cells, draws) for values in (labels, np.ones(len(labels)))]
    areas = [pr_auc_replicates(labels, steps_of(labels, score), cells, draws) for score in scores]
    return np.nan_to_num([ratio_replicates(area, ratio_replicates(*totals)) for area in areas])


def fleet(rng, models, skill=0.0):
    """Return labels (six hours before each of some 40 crashes) and the scores of models that see so much of it."""
    labels = np.zeros((SERVERS * BLOCKS, HOURS), np.int8)
    labels[rng.choice(SERVERS * BLOCKS, 40, replace=False), 6:12] = 1
    return labels.ravel(), [skill * labels.ravel() + rng.normal(size=labels.size) for _ in range(models)]


def test_the_bound_of_one_model_is_a_quantile_of_its_replicates():
    draws, cells = drawn(300)
    labels, scores = fleet(np.random.default_rng(1), 1, skill=1.0)
    lifts = replicates(labels, scores, draws, cells)
    assert lower_bounds(lifts, 0.9) == pytest.approx(np.quantile(lifts, 0.1), rel=0.01)


def test_more_models_lower_the_bounds_and_copies_of_one_do_not():
    draws, cells = drawn(300)
    labels, scores = fleet(np.random.default_rng(1), 5, skill=1.0)
    (alone,) = lower_bounds(replicates(labels, scores[:1], draws, cells), 0.9)
    assert lower_bounds(replicates(labels, scores[:1] * 5, draws, cells), 0.9) == pytest.approx(alone)
    assert lower_bounds(replicates(labels, scores, draws, cells), 0.9)[0] < alone


def test_of_models_without_skill_few_are_taken_for_better_than_chance():
    """The best of five, on 100 fleets: at most 10 % at 90 % confidence; chance allows 16 of 100."""
    rng, shown, highest = np.random.default_rng(5), 0, []
    draws, cells = drawn(200)
    for _ in range(100):
        labels, scores = fleet(rng, 5)
        lifts = [ranking(labels, score)["lift"] for score in scores]
        highest.append(max(lifts))
        shown += lower_bounds(replicates(labels, scores, draws, cells), 0.9)[int(np.argmax(lifts))] > 1
    assert np.mean(highest) > 1.05  # the best of five looks skilled
    assert shown <= 16


def test_a_weak_skill_is_shown():
    draws, cells = drawn(200)
    labels, scores = fleet(np.random.default_rng(2), 5, skill=1.0)
    bounds = lower_bounds(replicates(labels, scores, draws, cells), 0.9)
    assert (bounds > 1).all()
    assert (bounds < [ranking(labels, score)["lift"] for score in scores]).all()


def test_a_crash_on_one_server_alone_shows_nothing():
    draws, cells = drawn(200)
    labels = np.zeros(len(cells), np.int8)
    labels[6:12] = 1
    assert lower_bounds(replicates(labels, [labels.astype(float)], draws, cells), 0.9) == [0.0]
