"""Cost = start + rate x rows + rate x partitions, fitted to measured runs, with prediction intervals.

Errors are relative: a run twice as long is off by twice as much. Rates are never negative. The costs of a start and of
a partition have weak priors, so that runs of one size alone give a forecast, too; runs of several sizes outweigh them.

The memory of a stage that reads its rows in pieces grows more slowly than they do: `PowerModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
CONFIDENCE = 0.9
USUAL_ERROR, OF_RUNS = 0.1, 4  # prior of the relative error: that of so many runs
# further relative error for each factor of e beyond the largest run: forecasts for 26 times the servers were up to
# 22 % off, which is 7 % for each of 3.3 factors
ERROR_OF_GROWTH = 0.07
# the same for memory that grows more slowly than rows: forecasts for 14 million rows from at most 3 were 43 % too low
ERROR_OF_SLOW_GROWTH = 0.15
USUAL_POWER = 0.4, 0.2  # of memory: prior mean and standard deviation
CERTAIN = 0.01  # an error so small that runs outweigh every prior
FAR = 3.0  # times the largest run: an extrapolation


class Estimate(NamedTuple):
    """A value with its prediction interval, and by what factor it goes beyond what was measured."""

    value: float
    low: float
    high: float
    beyond: float = 1.0

    def __add__(self, other: object) -> Estimate:
        """Add up, as if the errors had one cause: a busy machine makes every stage slower."""
        assert isinstance(other, Estimate)
        beyond = max(self.beyond, other.beyond)
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high, beyond)

    def __mul__(self, factor: object) -> Estimate:
        """Scale the value and its interval."""
        assert isinstance(factor, int | float)
        return Estimate(factor * self.value, factor * self.low, factor * self.high, self.beyond)


NOTHING = Estimate(0.0, 0.0, 0.0)


def exactly(value: float) -> Estimate:
    """Return a value that is counted or assumed, not measured."""
    return Estimate(value, value, value)


@dataclass(frozen=True)
class CostModel:
    """A fitted model.

    Attributes
    ----------
    rates : array of shape (k,)
        Cost of each predictor's unit.
    covariance : array of shape (k, k)
        Of the rates.
    error : float
        Relative standard error of one run.
    freedom : float
        Degrees of freedom of that error.
    largest : float
        The largest fitted cost of a run.
    runs : int
    """

    rates: Floats
    covariance: Floats
    error: float
    freedom: float
    largest: float
    runs: int

    @classmethod
    def fit(cls, predictors: Sequence[Sequence[float]], costs: Sequence[float], prior: Sequence[float | None]) -> Self:
        """Fit.

        Parameters
        ----------
        predictors : sequence of shape (n, k)
        costs : sequence of shape (n,)
            Positive.
        prior : sequence of shape (k,)
            The usual rate of each predictor, with a standard deviation as large; None: anything is possible.
        """
        x, y = np.array(predictors, dtype=np.float64), np.array(costs, dtype=np.float64)
        known = [(place, value) for place, value in enumerate(prior) if value is not None]
        priors = np.array([np.eye(x.shape[1])[place] / value for place, value in known]).reshape(-1, x.shape[1])
        freedom = OF_RUNS + max(0, len(y) - x.shape[1])

        def solve(error: float) -> tuple[Floats, Floats]:
            rows = np.vstack([x / y[:, None] / error, priors])
            rates, _ = optimize.nnls(rows, np.append(np.full(len(y), 1 / error), np.ones(len(priors))))
            return rates, np.linalg.pinv(rows.T @ rows)

        rates, _ = solve(CERTAIN)  # the runs' own error, free of priors
        error = float(np.sqrt((OF_RUNS * USUAL_ERROR**2 + np.sum((1 - x @ rates / y) ** 2)) / freedom))
        rates, covariance = solve(error)
        return cls(rates, covariance, error, freedom, float(np.max(x @ rates)), len(y))

    def predict(self, predictors: Sequence[float]) -> Estimate:
        """Forecast the cost of a run, with its prediction interval.

        The interval has the error of the rates, that of one run, and `ERROR_OF_GROWTH` for what is beyond the largest
        run.
        """
        x = np.array(predictors, dtype=np.float64)
        value = float(x @ self.rates)
        if value <= 0:
            return NOTHING
        beyond = max(1.0, value / self.largest)
        of_rates = float(x @ self.covariance @ x) / value**2
        return _interval(value, of_rates + self.error**2, self.freedom, beyond)


@dataclass(frozen=True)
class PowerModel:
    """Cost = factor x rows to a power between 0 and 1, fitted in logarithms.

    Attributes
    ----------
    rates, covariance : arrays of shape (2,) and (2, 2)
        The logarithm of the cost of a million rows, and the power.
    error, freedom : float
        See `CostModel`.
    largest : float
        The most rows of a run, in millions.
    """

    rates: Floats
    covariance: Floats
    error: float
    freedom: float
    largest: float

    @classmethod
    def fit(cls, rows: Sequence[float], costs: Sequence[float]) -> Self:
        """Fit to the costs of runs with so many million rows."""
        x, y = np.column_stack([np.ones(len(rows)), np.log(rows)]), np.log(np.array(costs, dtype=np.float64))
        power, deviation = USUAL_POWER
        freedom = OF_RUNS + max(0, len(y) - 2)

        def solve(error: float) -> tuple[Floats, Floats]:
            weighed = np.vstack([x / error, [0, 1 / deviation]])
            limits = [-np.inf, 0], [np.inf, 1]
            rates: Floats = optimize.lsq_linear(weighed, np.append(y / error, power / deviation), limits).x
            return rates, np.linalg.inv(weighed.T @ weighed)

        rates, _ = solve(CERTAIN)
        error = float(np.sqrt((OF_RUNS * USUAL_ERROR**2 + np.sum((y - x @ rates) ** 2)) / freedom))
        rates, covariance = solve(error)
        return cls(rates, covariance, error, freedom, max(rows))

    def predict(self, rows: float) -> Estimate:
        """Forecast the cost of so many million rows, with its prediction interval."""
        x = np.array([1.0, log(rows)])
        variance = float(x @ self.covariance @ x) + self.error**2
        beyond = max(1.0, rows / self.largest)
        return _interval(exp(float(x @ self.rates)), variance, self.freedom, beyond, ERROR_OF_SLOW_GROWTH)


def _interval(
    value: float, variance: float, freedom: float, beyond: float, growth: float = ERROR_OF_GROWTH
) -> Estimate:
    """Return a value with its prediction interval, given the relative variance without that of growth."""
    error = np.sqrt(variance + (growth * log(beyond)) ** 2)
    reach = exp(float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * min(error, 2.0))
    return Estimate(value, value / reach, value * reach, beyond)
