"""Costs that are exact are found again, and prediction intervals hold as many runs as they say."""

from __future__ import annotations

import numpy as np
import pytest

from crashcast.planning.cost_model import CONFIDENCE, NOTHING, CostModel, Estimate, PowerModel

PRIOR = (1.0, None, 0.05)
RUNS = [(1, rows, partitions) for rows in (0.3, 0.6, 1.2) for partitions in (2, 4, 12)]


def cost(run: tuple[float, ...]) -> float:
    return 2 * run[0] + 5 * run[1] + 0.1 * run[2]


def test_exact_costs_are_forecast_exactly() -> None:
    found = CostModel.fit(RUNS, [cost(run) for run in RUNS], PRIOR)
    assert found.rates[:2] == pytest.approx([2, 5], rel=0.02)
    assert found.rates[2] == pytest.approx(0.1, rel=0.1)  # as far as its prior lets it
    assert found.predict((1, 3.6, 36)).value == pytest.approx(cost((1, 3.6, 36)), rel=0.02)


def test_no_rate_is_negative() -> None:
    assert min(CostModel.fit([(1, 1, 1), (1, 2, 1)], [2, 1], PRIOR).rates) >= 0


def test_of_one_run_the_start_is_assumed_and_the_rest_grows_with_the_rows() -> None:
    found = CostModel.fit([(1, 1, 0)], [6], PRIOR)
    assert found.predict((1, 1, 0)).value == pytest.approx(6, rel=0.01)
    assert found.predict((1, 10, 0)).value == pytest.approx(51, rel=0.01)


def test_the_interval_grows_with_the_distance_from_what_was_measured() -> None:
    found = CostModel.fit(RUNS, [cost(run) for run in RUNS], PRIOR)
    reach = [one.high / one.low for one in (found.predict((1, rows, 4)) for rows in (1.2, 12, 120))]
    assert reach[0] < reach[1] < reach[2]
    assert found.predict((1, 1.2, 12)).beyond == 1
    assert found.predict((1, 120, 12)).beyond > 50


def test_intervals_hold_as_many_runs_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(1000):
        noisy = [cost(run) * rng.lognormal(0, 0.1) for run in RUNS]
        low, high = CostModel.fit(RUNS, noisy, PRIOR).predict((1, 2.4, 12))[1:3]
        held.append(low <= cost((1, 2.4, 12)) * rng.lognormal(0, 0.1) <= high)
    assert np.mean(held) > CONFIDENCE - 0.02


def test_estimates_add_up_end_by_end() -> None:
    assert Estimate(2, 1, 3, 4) + Estimate(1, 1, 1) == Estimate(3, 2, 4, 4)
    assert Estimate(2, 1, 3) * 2 == Estimate(4, 2, 6)
    assert CostModel.fit([(1, 1, 1)], [1], PRIOR).predict((0, 0, 0)) == NOTHING


def test_what_was_measured_is_forecast_without_doubt_about_starts_and_rates() -> None:
    found = CostModel.fit([(1, 0.01, 66)], [1.2], PRIOR).predict((1, 0.01, 66))
    assert found.value == pytest.approx(1.2, rel=0.05)
    assert found.high < 2 * found.low  # by the error of one run alone


def test_a_power_is_found_again_and_is_at_most_one() -> None:
    rows = [0.1, 0.3, 1.0, 3.0]
    found = PowerModel.fit(rows, [500 * one**0.3 for one in rows])
    assert found.rates[1] == pytest.approx(0.3, abs=0.02)
    assert found.predict(30).value == pytest.approx(500 * 30**0.3, rel=0.05)
    assert PowerModel.fit(rows, [one**3 for one in rows]).rates[1] <= 1
