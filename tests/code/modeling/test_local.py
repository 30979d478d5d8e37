"""Corrections by server: right values by hand, and what they may depend on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from crashcast.modeling import local
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.algorithms import logistic_regression
from crashcast.modeling.model import Model
from crashcast.modeling.sampling import Sample

HOUR = timedelta(hours=1)
START = datetime(2025, 3, 3)
WINDOW = AlarmWindow(lead=HOUR, horizon=2 * HOUR, interval=HOUR)  # two rows before each crash have label 1


def one_quarter(raw: float = float(logit(0.25))) -> Model:
    """Return a model that says 0.25 of each row, whatever its feature x is."""
    ((settings, estimator),) = logistic_regression.build(logistic_regression.SMALLEST, 1, ["x"])
    estimator.fit(np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32), [0, 0, 1, 1])
    found = Model(estimator, "logistic_regression", settings, ["x"], 0.0)
    return replace(found, slope=1e-12, intercept=raw)


def sample(servers: str, crash: list[int], shares: tuple[float, float] = (1.0, 1.0)) -> Sample:
    """Return a row each hour, of the server with that letter."""
    moments = pl.Series([START + number * HOUR for number in range(len(servers))]).dt.replace_time_zone("UTC")
    keys = pl.DataFrame({"timestamp": moments, "server_id": pl.Series(list(servers), dtype=pl.Categorical)})
    return Sample(keys, np.zeros((len(servers), 1), np.float32), np.array(crash, dtype=bool), shares)


def test_crashes_are_counted_for_the_rows_that_were_not_drawn_too() -> None:
    """Half of the negatives was drawn, and each of them counts twice; two rows are one crash."""
    found = local.evidence(one_quarter(), sample("abaa", [1, 0, 1, 0], (0.5, 1.0)), WINDOW)
    assert found["server_id"].to_list() == ["a", "b"]
    assert found["observed"].to_list() == [1.0, 0.0]  # a: two crash rows
    # a: 0.25 of each crash row and 2 x 0.25 of the negative, over two rows a crash; b: 2 x 0.25 over two
    assert found["expected"].to_list() == pytest.approx([0.5, 0.25])


def test_a_horizon_shorter_than_the_interval_has_one_row_a_crash() -> None:
    window = AlarmWindow(lead=HOUR, horizon=HOUR, interval=2 * HOUR)
    assert local.evidence(one_quarter(), sample("a", [1]), window)["observed"].to_list() == [1.0]


def test_corrections_are_the_logarithm_of_the_shrunk_ratio() -> None:
    found = pl.DataFrame({"server_id": ["a", "b", "c"], "observed": [3.0, 0.0, 2.0], "expected": [1.0, 1.0, 2.0]})
    assert local.corrections(found, 1.0) == pytest.approx({"a": np.log(2), "b": np.log(1 / 2), "c": 0}, rel=1e-6)
    assert local.corrections(found, 9.0) == pytest.approx({"a": np.log(1.2), "b": np.log(0.9), "c": 0}, rel=1e-6)
    assert local.corrections(found, local.OFF) == {}


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_the_larger_the_strength_the_smaller_the_correction(observed: float, expected: float) -> None:
    found = pl.DataFrame({"server_id": ["a"], "observed": [observed], "expected": [expected]})
    sizes = [abs(local.corrections(found, a).get("a", 0.0)) for a in local.STRENGTHS]
    assert sizes[0] == 0
    assert all(small <= large * (1 + 1e-6) for small, large in pairwise(sizes))


def rows(servers: str) -> pl.DataFrame:
    return pl.DataFrame({"server_id": list(servers), "x": pl.Series([0.0] * len(servers), dtype=pl.Float32)})


def test_a_models_risk_is_that_of_the_fleet_corrected_for_the_servers_it_knows() -> None:
    model = replace(one_quarter(), local={"a": 1.0, "b": -2.0})
    found = model.predict(rows("abca"))
    assert found == pytest.approx(expit(logit(0.25) + np.array([1, -2, 0, 1])), rel=1e-8)
    assert found[[2, 1, 0]].tolist() == model.predict(rows("cba")).tolist()  # of its own row alone
    assert model.predict(rows("abca").cast({"server_id": pl.Categorical})).tolist() == found.tolist()


def test_without_corrections_no_server_is_needed() -> None:
    assert one_quarter().predict(rows("ab").drop("server_id")) == pytest.approx([0.25, 0.25])
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        replace(one_quarter(), local={"a": 1.0}).predict(rows("ab").drop("server_id"))


def test_rows_of_later_labels_do_not_count() -> None:
    """A fold's corrections come from the rows before it: `before` has the same evidence whatever comes later."""
    early = local.evidence(one_quarter(), sample("abab", [1, 0, 1, 0]), WINDOW)
    later = sample("ababab", [1, 0, 1, 0, 0, 1]).before(START + 4 * HOUR)
    assert local.evidence(one_quarter(), later, WINDOW).equals(early)
