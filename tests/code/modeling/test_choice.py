"""Which candidate is chosen, by hand: a rule, a linear model and trees, beside the dummy."""

from __future__ import annotations

import numpy as np
import pytest

from crashcast.modeling.algorithms import Candidate
from crashcast.modeling.choice import Choice, choose
from crashcast.modeling.folds import FoldFigures

NAMES = ["dummy", "one_rule", "logistic_regression", "hist_gradient_boosting"]
COMPETING = [Candidate(name, {}, None) for name in NAMES]


def figures(*lifts: float, noise: float = 0.1) -> FoldFigures:
    """Return one fold, of a base rate of 0.01."""
    pr_auc = np.array([lifts]) / 100
    replicates = pr_auc[..., None] + np.random.default_rng(0).normal(0, noise / 100, (1, len(lifts), 500))
    replicates[:, 0] = 0.01
    replicates = np.maximum(replicates, 1e-4)
    return FoldFigures(np.array([0.01]), pr_auc, np.full((1, 500), 0.01), replicates)


def chosen(*lifts: float, noise: float = 0.1, on_validation: tuple[float, ...] | None = None) -> Choice:
    """Choose; on validation candidates are as good as on the folds unless stated otherwise."""
    pr_auc = np.array(on_validation or lifts) / 100
    return choose(COMPETING[: len(lifts)], pr_auc, figures(*lifts, noise=noise), 0.95, 0.9)


@pytest.mark.parametrize(
    ("lifts", "name"),
    [
        ((1, 3, 5, 9), "hist_gradient_boosting"),
        ((1, 3, 5, 5.01), "logistic_regression"),  # within the error of the difference
        ((1, 5, 5, 5), "one_rule"),
        ((1, 9, 5, 5), "one_rule"),
    ],
)
def test_the_simplest_of_those_near_the_best_is_chosen(lifts: tuple[float, ...], name: str) -> None:
    found = chosen(*lifts)
    assert NAMES[found.place] == found.skill["best"] == name
    assert found.skill["lift"] == pytest.approx(lifts[found.place])
    assert 1 < found.skill["lift_low"] < found.skill["lift"]
    assert found.expected["lift"] == pytest.approx(found.skill["lift"], rel=0.05)
    assert found.why_the_dummy == ""


def test_none_is_chosen_that_a_rule_beats_on_validation() -> None:
    found = chosen(1, 3, 5, 9, on_validation=(1, 6, 6, 5.9))
    assert NAMES[found.place] == "logistic_regression"
    found = chosen(1, 3, 5, 9, on_validation=(1, 6, 5, 5.9))
    assert NAMES[found.place] == "one_rule"


def test_without_shown_skill_the_dummy_is_chosen_and_nothing_expected() -> None:
    found = chosen(1, 1.1, 1.2, 1.3, noise=1.0)
    assert found.place == 0
    assert found.expected == {}
    assert found.skill["best"] == "one_rule"
    assert found.skill["lift_low"] <= 1
    assert found.why_the_dummy.startswith("no candidate is shown to rank better than chance, so the dummy is chosen")


def test_one_that_is_shown_to_have_skill_goes_before_simpler_ones_near_it() -> None:
    """The rule's lift is within the error of the best, but not shown to be above 1."""
    fold = figures(1, 2, 5, noise=0.1)
    fold.pr_auc_replicates[0, 1] = 0.02 + np.random.default_rng(1).normal(0, 0.05, 500)
    found = choose(COMPETING[:3], [0.01, 0.02, 0.05], fold, 0.95, 0.9)
    assert NAMES[found.place] == "logistic_regression"


def test_the_dummy_needs_no_reason_if_it_competes_alone() -> None:
    found = chosen(1)
    assert (found.place, found.skill, found.expected) == (0, {"best": "", "confidence": 0.95}, {})
    assert found.why_the_dummy == ""


def test_a_bound_just_above_1_needs_no_reason() -> None:
    skill = {"best": "trees", "lift": 2.0, "confidence": 0.95}
    assert Choice(0, skill | {"lift_low": 1.001}, {}).why_the_dummy == ""
    reason = Choice(0, skill | {"lift_low": 1.0}, {}).why_the_dummy
    assert "lower bound of 1 (95% confidence), which must be above 1" in reason
