"""The grid: where a row falls, how values share a cell, and windows that see nothing but their own rows."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashcast import grid as grid_module
from crashcast.grid import NEVER, Grid, encode, floats, microseconds, window_max, window_sums

START = datetime(2025, 3, 3)
HOUR = timedelta(hours=1)
NAN = np.nan


def times_of(*hours):
    moments = pl.Series([START + hour * HOUR for hour in hours], dtype=pl.Datetime("us"))
    return moments.dt.replace_time_zone("UTC")


def grid_of(*servers, hours=3):
    return Grid.over(START, START + hours * HOUR, HOUR, pl.Series(servers, dtype=pl.String))


def rows_of(grid, *hours):
    return grid.rows_at(microseconds(times_of(*hours))).tolist()


def column(*values):
    return np.array(values, dtype=float)[:, None]


columns = st.lists(st.one_of(st.just(NAN), st.integers(-9, 9)), min_size=1, max_size=12).map(lambda v: column(*v))
steps = st.integers(1, 15)


def windows(values, steps):
    """Return the rows that each row's window holds, by slicing."""
    return [values[max(0, row + 1 - steps) : row + 1, 0] for row in range(len(values))]


def test_the_end_is_not_on_the_grid():
    grid = grid_of("a", "b")
    assert grid.shape == (3, 2)
    assert list(grid.times.astype("datetime64[h]").astype(int) % 24) == [0, 1, 2]


@given(st.lists(st.sampled_from(["b", "a", "a server with a long name", "d"])))
def test_servers_are_sorted_and_distinct_and_each_value_has_its_position(values):
    servers, codes = encode(pl.Series(values, dtype=pl.String))
    assert servers.to_list() == sorted(set(values))
    assert [servers[code] for code in codes.tolist()] == values


def test_a_server_that_appears_late_is_found_too():
    values = pl.Series(["b"] * 50_000 + ["a", "c"])
    servers, codes = encode(values)
    assert servers.to_list() == ["a", "b", "c"]
    assert codes[-3:].tolist() == [1, 0, 2]


def test_a_moment_belongs_to_the_first_row_at_or_after_it():
    second = 1 / 3600
    found = rows_of(grid_of("a"), -1, -second, 0, second, 1, 1 + second, 2, 2 + second)
    assert found == [-1, 0, 0, 1, 1, 2, 2, 3]


@given(st.lists(st.integers(-99, 180)), st.lists(st.integers(0, 2)))
def test_cells_of_sorted_moments(minutes, columns):
    grid, moments = grid_of("a", "b", "c"), sorted(minute / 60 for minute in minutes)
    columns = np.array((columns + [0] * len(moments))[: len(moments)], dtype=np.int64)
    cells = grid.cells(times_of(*moments), columns)
    rows = np.array(rows_of(grid, *moments), dtype=np.int64)
    assert cells.tolist() == (rows.clip(-1) * 3 + columns).tolist()
    assert np.diff(grid.edges(times_of(*moments))).tolist() == [(rows == row).sum() for row in range(3)]


def test_no_moments_fall_nowhere():
    assert rows_of(grid_of("a")) == []
    assert grid_of().cells(times_of(), np.array([], dtype=np.int64)).tolist() == []


def test_unknown_servers_have_no_column():
    assert grid_of("b", "d").columns_of(pl.Series(["d", "a", "b", "c"])).tolist() == [1, -1, 0, -1]
    assert grid_of().columns_of(pl.Series(["a"])).tolist() == [-1]


@pytest.mark.parametrize("size", [1, 5, 7, 12, 999])
@pytest.mark.parametrize("kind", ["pieces_by_server", "pieces_by_time"])
@pytest.mark.parametrize("servers", ["", "a", "abcde"])
def test_pieces_hold_every_cell_once(size, kind, servers, monkeypatch):
    monkeypatch.setattr(grid_module, "PIECE_CELLS", size)
    grid = grid_of(*servers)
    seen = np.zeros(grid.shape, dtype=int)
    pieces = list(getattr(grid, kind)())
    for piece in pieces:
        seen[piece] += 1
        assert grid.piece(piece).shape == seen[piece].shape
    assert pieces
    assert (seen == 1).all()


def test_overlaps_counts_the_spans_that_hold_a_cell():
    first, stop, columns = map(np.array, ([-5, 1, 1, 2, 2, 7, 0], [1, 3, 99, 2, 1, 9, 3], [0, 0, 0, 0, 0, 1, -1]))
    assert grid_of("a", "b").overlaps(first, stop, columns).T.tolist() == [[1, 2, 2], [0, 0, 0]]
    assert grid_of("a").overlaps(first, stop, columns - 1).T.tolist() == [[0, 0, 0]]


def test_latest_of_the_moments_that_show():
    first, columns, moments = map(np.array, ([1, -4, 2, 2, 3, 0], [0, 1, 1, 1, 1, 2], [50, 70, 60, 90, 99, 99]))
    assert grid_of("a", "b").latest(first, columns, moments).T.tolist() == [[NEVER, 50, 50], [70, 70, 90]]


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64, pl.Int64])
def test_missing_values_are_nan(dtype):
    values = floats(pl.Series([1, None, 3], dtype=dtype))
    np.testing.assert_array_equal(values, [1, NAN, 3])
    assert values.dtype == (np.float32 if dtype == pl.Float32 else np.float64)


@pytest.mark.parametrize(
    ("aggregate", "shared"), [("mean", 3.0), ("min", 1.0), ("max", 6.0), ("sum", 9.0), ("last", 2.0)]
)
def test_values_that_share_a_cell(aggregate, shared):
    cells, values = np.array([0, 2, 2, 2, 2, 5]), np.array([4.0, 1.0, 6.0, 2.0, NAN, NAN])
    dense = grid_of("a", "b").dense(cells, values, aggregate)
    np.testing.assert_array_equal(dense, [[4, NAN], [shared, NAN], [NAN, NAN]])


def test_values_that_share_no_cell():
    dense = grid_of("a", "b").dense(np.array([3, 0]), np.array([4.0, NAN]), "only")
    np.testing.assert_array_equal(dense, [[NAN, NAN], [NAN, 4], [NAN, NAN]])


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


@given(columns, st.lists(steps, max_size=4))
def test_window_sums_are_the_sums_of_their_rows(values, lengths):
    values = np.nan_to_num(values)
    found = window_sums(values, lengths)
    assert set(found) == set(lengths)
    for rows, sums in found.items():
        assert sums[:, 0].tolist() == [sum(window) for window in windows(values, rows)]


@given(columns, steps)
def test_window_sums_count(values, steps):
    present = ~np.isnan(values)
    assert window_sums(present, [steps])[steps][:, 0].tolist() == [sum(window) for window in windows(present, steps)]


@pytest.mark.parametrize("steps", [255, 256, 70_000])
def test_long_windows_count_too(steps):
    assert window_sums(np.ones((80_000, 1), dtype=bool), [steps])[steps].max() == steps


@given(columns, steps, steps)
def test_other_windows_change_no_sum(values, steps, other):
    values = np.nan_to_num(values) / 7
    np.testing.assert_array_equal(window_sums(values, [steps, other])[steps], window_sums(values, [steps])[steps])


@given(
    st.lists(st.floats(-1e30, 1e30), min_size=6, max_size=20),
    st.lists(st.floats(-1e30, 1e30), max_size=20),
    st.integers(1, 6),
)
def test_values_outside_a_window_leave_no_trace_in_its_sum(values, before, steps):
    alone = window_sums(column(*values), [steps])[steps]
    after_others = window_sums(column(*before, *values), [steps])[steps][len(before) :]
    np.testing.assert_array_equal(after_others[steps - 1 :], alone[steps - 1 :])


@given(columns, steps)
def test_window_max_is_the_largest_that_is_there(values, steps):
    expected = [max(window[~np.isnan(window)], default=NAN) for window in windows(values, steps)]
    np.testing.assert_array_equal(window_max(values, steps)[:, 0], expected)


@settings(max_examples=25)
@given(st.integers(1, 9), steps)
def test_servers_do_not_touch_each_other(rows, steps):
    values = np.arange(2.0 * rows).reshape(rows, 2) % 5
    for function in (lambda values, steps: window_sums(values, [steps])[steps], window_max):
        both, alone = function(values, steps), function(values[:, 1:], steps)
        np.testing.assert_array_equal(both[:, 1:], alone)
