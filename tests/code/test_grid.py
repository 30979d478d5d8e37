"""The grid: where a row falls, how values share a cell, and windows that see nothing but their own rows."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashcast.grid import Grid, age_of_last, lag, window_max, window_sum

START = datetime(2025, 3, 3)
HOUR = timedelta(hours=1)
NAN = np.nan


def times_of(*hours):
    moments = pl.Series([START + hour * HOUR for hour in hours], dtype=pl.Datetime("us"))
    return moments.dt.replace_time_zone("UTC")


def grid_of(*servers, hours=3):
    return Grid.over(START, START + hours * HOUR, HOUR, pl.Series(servers, dtype=pl.String))


def column(*values):
    return np.array(values, dtype=float)[:, None]


columns = st.lists(st.one_of(st.just(NAN), st.integers(-9, 9)), min_size=1, max_size=12).map(lambda v: column(*v))
steps = st.integers(1, 15)


def windows(values, steps):
    """Return the rows that each row's window holds, by slicing."""
    return [values[max(0, row + 1 - steps) : row + 1, 0] for row in range(len(values))]


def test_servers_are_sorted_and_distinct_and_the_end_is_not_on_the_grid():
    grid = grid_of("b", "a", "b")
    assert grid.servers == ["a", "b"]
    assert grid.shape == (3, 2)
    assert list(grid.times.astype("datetime64[h]").astype(int) % 24) == [0, 1, 2]


def test_a_moment_belongs_to_the_first_row_at_or_after_it():
    second = 1 / 3600
    found = grid_of("a").rows_at(times_of(-1, -second, 0, second, 1, 1 + second, 2, 2 + second))
    assert found.tolist() == [-1, 0, 0, 1, 1, 2, 2, 3]


def test_no_moments_fall_nowhere():
    assert grid_of("a").rows_at(times_of()).tolist() == []
    assert grid_of().cells(times_of(), pl.Series([], dtype=pl.String)).tolist() == []


def test_unknown_servers_have_no_column():
    assert grid_of("b", "d").columns_of(pl.Series(["d", "a", "b", "c"])).tolist() == [1, -1, 0, -1]
    assert grid_of().columns_of(pl.Series(["a"])).tolist() == [-1]


@pytest.mark.parametrize(
    ("aggregate", "shared"), [("mean", 3.0), ("min", 1.0), ("max", 6.0), ("sum", 9.0), ("last", 2.0)]
)
def test_values_that_share_a_cell(aggregate, shared):
    cells, values = np.array([0, 2, 2, 2, 2, 5]), np.array([4.0, 1.0, 6.0, 2.0, NAN, NAN])
    dense = grid_of("a", "b").dense(cells, values, aggregate)
    np.testing.assert_array_equal(dense, [[4, NAN], [shared, NAN], [NAN, NAN]])


def test_keys_come_in_order_of_time_then_server():
    mask = np.array([[False, True], [True, True], [False, False]])
    keys = grid_of("a", "b").keys(mask)
    assert keys["server_id"].to_list() == ["b", "a", "b"]
    assert keys["timestamp"].equals(times_of(0, 1, 1))
    assert keys.schema == {"timestamp": pl.Datetime("us", "UTC"), "server_id": pl.String}
    assert grid_of("a", "b").keys(mask & False).schema == keys.schema


@pytest.mark.parametrize(("duration", "rows"), [(0, 1), (0.5, 1), (1, 1), (1.5, 2), (24, 24)])
def test_steps_cover_a_duration(duration, rows):
    assert grid_of("a").steps(duration * HOUR) == rows


@given(columns, steps)
def test_window_sum_is_the_sum_of_its_rows(values, steps):
    values = np.nan_to_num(values)
    assert window_sum(values, steps)[:, 0].tolist() == [sum(window) for window in windows(values, steps)]


@given(columns, steps)
def test_window_sum_counts(values, steps):
    present = ~np.isnan(values)
    assert window_sum(present, steps)[:, 0].tolist() == [sum(window) for window in windows(present, steps)]


@given(
    st.lists(st.floats(-1e30, 1e30), min_size=6, max_size=20),
    st.lists(st.floats(-1e30, 1e30), max_size=20),
    st.integers(1, 6),
)
def test_values_outside_a_window_leave_no_trace_in_its_sum(values, before, steps):
    alone = window_sum(column(*values), steps)
    after_others = window_sum(column(*before, *values), steps)[len(before) :]
    np.testing.assert_array_equal(after_others[steps - 1 :], alone[steps - 1 :])


@given(columns, steps)
def test_window_max_is_the_largest_that_is_there(values, steps):
    expected = [max(window[~np.isnan(window)], default=NAN) for window in windows(values, steps)]
    np.testing.assert_array_equal(window_max(values, steps)[:, 0], expected)


@given(columns)
def test_age_counts_rows_since_the_last_one_present(values):
    present = ~np.isnan(values)
    for row, age in enumerate(age_of_last(present)[:, 0]):
        if present[: row + 1].any():
            assert present[row - age, 0]
            assert not present[row - age + 1 : row + 1].any()
        else:
            assert age >= len(values)


@given(columns, steps)
def test_lag_looks_so_many_rows_back(values, steps):
    expected = [NAN] * min(steps, len(values)) + values[: max(0, len(values) - steps), 0].tolist()
    np.testing.assert_array_equal(lag(values, steps)[:, 0], expected)


@settings(max_examples=25)
@given(st.integers(1, 9), steps)
def test_servers_do_not_touch_each_other(rows, steps):
    values = np.arange(2.0 * rows).reshape(rows, 2) % 5
    for function in (window_sum, window_max, lag):
        both, alone = function(values, steps), function(values[:, 1:], steps)
        np.testing.assert_array_equal(both[:, 1:], alone)
