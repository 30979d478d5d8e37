"""Simulated truth behind every error of the review: bounds must leave out the truth as often as they say.

Two models that see crashes coming equally well do not differ: in truth, each difference is 0. If one of them sees more,
the truth is measured on a fleet so large that its own error does not matter.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom, chi2
from scored_fleet import BUDGET, POLICY, fleet

from crashcast.params.acceptance import ERROR, look_error
from crashcast.review.comparison import compare

pytestmark = pytest.mark.ci

FIGURES = ("pr_auc", "event_recall", "lead_h", "brier")
USUAL = {"servers": 30, "days": 14, "crashes": 100}
CONDITIONS = {
    "usual": USUAL,
    "late alarms": USUAL | {"late": 0.4},
    "few servers": USUAL | {"servers": POLICY.min_servers},
    "chronic servers": USUAL | {"chronic": 2, "own_servers": 1.0},  # two have nearly half of the crashes
    "outages": USUAL | {"crashes": 20, "outages": 8},
}
LARGE = {"servers": 300, "days": 42, "crashes": 3000}
FLEETS = 300
SOME_FLEETS = [pytest.param(name, 20, id=f"{name}, few") for name in ("late alarms", "chronic servers", "outages")]
ALL_FLEETS = [pytest.param(name, FLEETS, id=name, marks=pytest.mark.slow) for name in CONDITIONS]
CHANCE = 1e-3  # of failing though all is well
WIDEST = 1.3  # times the truth: an error is the largest of three estimates, and the slope of the alarm curve is noisy


def differences(seed=1, replicates=2, **condition):
    """Errors come from influence, so that two replicates are enough."""
    policy = POLICY.model_copy(update={"replicates": replicates})
    return compare(fleet(seed, **condition), policy, BUDGET).differences


@cache
def simulated(condition, number, signals=(2.0, 2.0)):
    return [differences(seed, signals=signals, **CONDITIONS[condition]) for seed in range(number)]


def assert_covered(found, name, truth):
    """Beyond bounds with a one-sided error, no more may lie on either side than chance brings."""
    for error in (ERROR, look_error(1)):
        missed = [[side * (one[name].difference - truth) > one[name].reach(error) for one in found] for side in (1, -1)]
        assert max(map(sum, missed)) <= binom.isf(CHANCE, len(found), error), name


@pytest.mark.parametrize(("condition", "number"), SOME_FLEETS + ALL_FLEETS)
def test_bounds_of_equal_models_leave_out_no_difference_as_often_as_they_say(condition, number):
    for name in FIGURES:
        assert_covered(simulated(condition, number), name, truth=0.0)


@pytest.mark.parametrize(("condition", "number"), SOME_FLEETS + ALL_FLEETS)
def test_standard_errors_are_how_much_differences_differ(condition, number):
    low, high = np.sqrt(chi2.ppf([CHANCE, 1 - CHANCE], number - 1) / (number - 1))
    for name in FIGURES:
        found = [one[name] for one in simulated(condition, number)]
        deviation = np.std([one.difference for one in found], ddof=1)
        error = np.sqrt(np.mean([one.standard_error**2 for one in found]))
        assert low < error / deviation < WIDEST * high, name


@pytest.mark.slow
def test_bounds_of_unequal_models_leave_out_the_true_difference_as_often_as_they_say():
    signals = (1.5, 2.5)
    truth = differences(signals=signals, **LARGE)
    assert truth["pr_auc"].difference > 0.1
    for name in FIGURES:
        assert_covered(simulated("usual", FLEETS, signals), name, truth[name].difference)
