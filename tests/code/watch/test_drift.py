"""One week against those before: by hand, and on weeks that do not change."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from crashcast.params.drift import Drift
from crashcast.watch.drift import LEAST_DISTANCE, Finding, Report, compare, distance, judge
from crashcast.watch.weekly_statistics import Series, angle

WEEKS_A_YEAR = 365.25 / 7


def numbers(*values: float, **changes: object) -> Series:
    return Series("data", "cpu_pct", "mean", np.array(values), **changes)  # type: ignore[arg-type]


def test_a_number_is_compared_by_the_prediction_interval_of_one_more() -> None:
    # mean 10, standard deviation 1, and 1 / 3 of its variance for the mean's own
    value, expected, deviations, p_value = compare(numbers(9, 10, 11, 14), 3, 3) or (0,) * 4
    assert (value, expected) == (14, 10)
    assert deviations == pytest.approx(4 / sqrt(4 / 3))
    assert p_value == pytest.approx(1 - deviations / sqrt(deviations**2 + 2))  # Student's t of two degrees of freedom
    assert compare(numbers(9, 10, 11, 6), 3, 3) == pytest.approx((6, 10, -deviations, p_value))


def test_weeks_that_are_not_known_are_left_out() -> None:
    nan = float("nan")
    assert compare(numbers(9, nan, 10, 11, 14), 4, 4) == pytest.approx(compare(numbers(9, 10, 11, 14), 3, 3))
    assert compare(numbers(9, 10, 11, nan), 3, 3) is None
    assert compare(numbers(9, nan, nan, 10), 3, 3) is None


def test_a_series_may_have_reference_weeks_of_its_own_which_end_before_the_week() -> None:
    own = numbers(99, 9, 10, 11, 14, 8, reference=slice(1, 5))
    assert compare(own, 1, 4) == pytest.approx(compare(numbers(9, 10, 11, 14), 3, 3))
    assert compare(own, 1, 5) == pytest.approx(compare(numbers(9, 10, 11, 14, 8), 4, 4))


def test_what_never_moved_may_move_by_the_floor() -> None:
    assert compare(numbers(0, 0, 0, 0), 3, 3) == (0, 0, 0, 1)
    assert compare(numbers(0, 0, 0, 0.1), 3, 3) == (0.1, 0, np.inf, 0)
    share = numbers(0, 0, 0, 0.1, scale=angle, floor=0.2)
    assert (compare(share, 3, 3) or ())[2] == pytest.approx(np.arcsin(sqrt(0.1)) / 0.2 / sqrt(4 / 3))


def test_distances_of_histograms() -> None:
    assert distance(np.array([5.0, 0]), np.array([0, 2.0])) == 1
    assert distance(np.array([1.0, 3]), np.array([2.0, 6])) == LEAST_DISTANCE
    # of (1, 0) and (1/2, 1/2): by hand, from the entropies of (3/4, 1/4) and (1/2, 1/2)
    entropy = -0.75 * np.log2(0.75) - 0.25 * np.log2(0.25)
    assert distance(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(sqrt(entropy - 0.5))


def test_a_distribution_is_compared_with_all_reference_weeks_and_each_of_those_with_the_others() -> None:
    counts = np.array([[50, 50], [52, 48], [47, 53], [49, 51], [20, 80]], dtype=float)
    shape = Series("data", "cpu_pct", "distribution", counts)
    value, expected, deviations, p_value = compare(shape, 4, 4) or (0,) * 4
    assert value == pytest.approx(distance(counts[4], counts[:4].sum(axis=0)))
    past = [np.log(distance(counts[n], counts[[m for m in range(4) if m != n]].sum(axis=0))) for n in range(4)]
    assert expected == pytest.approx(np.exp(np.mean(past)))
    assert deviations == pytest.approx((np.log(value) - np.mean(past)) / (np.std(past, ddof=1) * sqrt(5 / 4)))
    assert 0 < p_value < 0.05
    closer = Series("data", "cpu_pct", "distribution", counts[[0, 1, 2, 3, 0]])
    assert (compare(closer, 4, 4) or ())[3] > 0.5  # nearer than usual is no shift


def test_false_alarms_are_as_many_as_the_budget_says() -> None:
    draw, looks, weeks, fleets = np.random.default_rng(1), 5, 24, 4000
    drift = Drift(false_alarms_per_year=0.2 * WEEKS_A_YEAR, min_weeks=12)  # in a fifth of weeks, to see enough
    alarms = 0
    for _ in range(fleets):
        series = [numbers(*draw.normal(size=weeks + 1)) for _ in range(looks)]
        alarms += any(one.is_shift for one in judge(series, weeks, weeks, drift))
    # 1 - (1 - 0.2 / 5)^5 = 0.185, with a standard error of 0.006
    assert alarms / fleets == pytest.approx(0.185, abs=0.02)


def test_a_shift_that_moves_no_score_is_no_alarm() -> None:
    shift = Finding("data", "cpu_pct", "mean", 14, 10, 5, 1e-6, is_shift=True)
    still, moved = shift._replace(effect=0.001), shift._replace(effect=-0.2)
    assert [one.is_alarm for one in (shift, still, moved, shift._replace(is_shift=False))] == [True, False, True, False]
    assert Report(None, 24, 12, [still, moved]).alarms == [moved]


def test_without_enough_weeks_there_is_no_answer() -> None:
    from datetime import datetime

    monday = datetime(2026, 1, 5)
    assert [Report(*about, 12, []).is_known for about in ((monday, 12), (monday, 11), (None, 12))] == [
        True, False, False,
    ]  # fmt: skip
