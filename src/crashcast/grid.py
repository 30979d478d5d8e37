"""A partition as arrays of (time, server): windows over time become shifts along one axis.

Rows sorted by (timestamp, server_id) are cells of a regular grid. Laid out densely, a window is built from windows of
doubled length: a few additions of whole arrays, the same bits with any number of threads and wherever the grid begins,
and about a sixth of the CPU of a grouped rolling query. Missing rows and values are NaN.

Arrays of a whole fleet fit no cache, so work goes piece by piece: some servers over all times, or some times of all
servers. No result depends on the size of the pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Piece = tuple[slice, slice]

PIECE_CELLS = 2**16  # a few float64 arrays of this size fit the L2 cache: measured with 2^15 to 2^17

NEVER = -(2**62)  # a moment so long ago that differences still fit 64 bits


@dataclass(frozen=True)
class Grid:
    """A regular grid of T times by S servers.

    Attributes
    ----------
    times : datetime64[us] array of shape (T,)
        UTC, one interval apart.
    servers : Series of str
        The S servers, sorted.
    interval : timedelta
        The cadence.
    """

    times: NDArray[np.datetime64]
    servers: pl.Series
    interval: timedelta

    @classmethod
    def over(cls, start: datetime, end: datetime, interval: timedelta, servers: pl.Series) -> Grid:
        """Return the grid of [start, end) for `servers`, which are distinct and sorted."""
        times = np.arange(np.datetime64(start, "us"), np.datetime64(end, "us"), np.timedelta64(interval))
        return cls(times, servers, interval)

    def piece(self, piece: Piece) -> Grid:
        """Return the grid of a piece."""
        times, servers = piece
        return Grid(self.times[times], self.servers[servers], self.interval)

    @property
    def shape(self) -> tuple[int, int]:
        """(T, S)."""
        return len(self.times), len(self.servers)

    def steps(self, duration: timedelta) -> int:
        """Return how many rows cover `duration`: at least one, rounded up."""
        return max(1, -(-duration // self.interval))

    def pieces_by_server(self) -> Iterator[Piece]:
        """Yield pieces of all times and some servers: at least one, empty if there are no servers."""
        times, servers = self.shape
        width = max(1, PIECE_CELLS // times)
        for start in range(0, max(1, servers), width):
            yield slice(0, times), slice(start, min(start + width, servers))

    def pieces_by_time(self) -> Iterator[Piece]:
        """Yield pieces of some times and all servers."""
        times, servers = self.shape
        height = max(1, PIECE_CELLS // max(1, servers))
        for start in range(0, times, height):
            yield slice(start, min(start + height, times)), slice(0, servers)

    def rows_at(self, moments: Ints) -> Ints:
        """Return the index of the first row at or after each moment (`microseconds`); may lie outside [0, T)."""
        offset = moments - self.times[0].astype(np.int64)
        return -(-offset // (self.interval // timedelta(microseconds=1)))

    def columns_of(self, server_id: pl.Series) -> Ints:
        """Return each server's column, -1 if the grid does not hold it."""
        return _codes(server_id, self.servers).cast(pl.Int64).fill_null(-1).to_numpy()

    def edges(self, timestamp: pl.Series) -> Ints:
        """Return the positions of each row's first moment, and of the last row's end, among sorted ones: (T + 1,)."""
        ends = np.concatenate([self.times[:1] - np.timedelta64(self.interval), self.times])
        return np.searchsorted(microseconds(timestamp), ends.astype(np.int64), side="right")

    def cells(self, timestamp: pl.Series, columns: Ints) -> Ints:
        """Return the flat index of each moment's cell, the moments being sorted; outside [0, T * S) off the grid."""
        rows = np.diff(self.edges(timestamp), prepend=0, append=len(timestamp))
        cells = np.repeat(np.arange(-1, len(self.times) + 1) * len(self.servers), rows)
        cells += columns
        return cells

    def dense(self, cells: Ints, values: Floats, aggregate: str = "last") -> Floats:
        """Lay values out as (T, S), NaN if there is none.

        Parameters
        ----------
        cells : int array of shape (n,)
            Each value's cell.
        values : float array of shape (n,)
            In order of time; NaN is none.
        aggregate : {"mean", "min", "max", "sum", "last", "only"}
            How several values in a cell become one; "only": no cell has several.
        """
        size = len(self.times) * len(self.servers)
        out = np.full(size, np.nan, dtype=values.dtype)
        if aggregate == "only":
            out[cells] = values
            return out.reshape(self.shape)
        cells, values = cells[valid := ~np.isnan(values)], values[valid]
        if aggregate == "last":
            out[cells] = values
        elif aggregate in ("min", "max"):
            (np.fmin if aggregate == "min" else np.fmax).at(out, cells, values)
        else:
            count = np.bincount(cells, minlength=size)
            total = np.bincount(cells, weights=values, minlength=size)
            np.divide(total, 1 if aggregate == "sum" else count, out=out, where=count > 0)
        return out.reshape(self.shape)

    def overlaps(self, first: Ints, stop: Ints, columns: Ints) -> NDArray[np.int32]:
        """Count, for each cell, the spans of rows [first, stop) in its column that hold it; on the grid or not."""
        times, servers = self.shape
        change = np.zeros((times + 1, servers), dtype=np.int32)
        on_grid = (columns >= 0) & (columns < servers) & (first < stop)
        np.add.at(change, (first[on_grid].clip(0, times), columns[on_grid]), 1)
        np.add.at(change, (stop[on_grid].clip(0, times), columns[on_grid]), -1)
        return np.cumsum(change[:times], axis=0, out=change[:times])

    def latest(self, first: Ints, columns: Ints, moments: Ints) -> Ints:
        """Return, for each cell, the latest of its column's moments that show by its row, NEVER if none does.

        Parameters
        ----------
        first : int array of shape (n,)
            The row from which each moment shows; it and the column may lie outside the grid.
        columns : int array of shape (n,)
            Its column.
        moments : int array of shape (n,)
            Microseconds since 1970.
        """
        times, servers = self.shape
        out = np.full(self.shape, NEVER, dtype=np.int64)
        on_grid = (columns >= 0) & (columns < servers) & (first < times)
        np.maximum.at(out, (first[on_grid].clip(0), columns[on_grid]), moments[on_grid])
        return np.maximum.accumulate(out, axis=0, out=out)

    def keys(self, mask: Bools) -> pl.DataFrame:
        """Return timestamp and server_id of the cells in `mask` (T, S), sorted by (timestamp, server_id)."""
        columns = np.broadcast_to(np.arange(len(self.servers), dtype=np.uint32), mask.shape)[mask]
        return pl.DataFrame(
            {
                "timestamp": pl.Series(np.repeat(self.times, mask.sum(axis=1))).dt.replace_time_zone("UTC"),
                "server_id": self.servers.gather(pl.Series(columns)),
            }
        )


def encode(server_id: pl.Series) -> tuple[pl.Series, Ints]:
    """Return the distinct servers, sorted, and the position of each value among them."""
    # almost all servers are in the first rows: looking values up costs a third of making them unique
    servers = server_id.head(max(1000, len(server_id) // 32)).unique()
    while True:
        servers = servers.sort()
        codes = _codes(server_id, servers)
        if not codes.null_count():
            return servers, codes.cast(pl.Int64).to_numpy()
        servers = pl.concat([servers, server_id.filter(codes.is_null()).unique()])


def _codes(server_id: pl.Series, servers: pl.Series) -> pl.Series:
    return server_id.cast(pl.Enum(servers), strict=False).to_physical()


def microseconds(moments: pl.Series) -> Ints:
    """Return moments as whole microseconds since 1970, UTC."""
    return moments.dt.epoch("us").to_numpy()


def floats(values: pl.Series) -> Floats:
    """Return values as float32, or float64 if they are wider or whole; NaN if they are null."""
    return (values if values.dtype.is_float() else values.cast(pl.Float64)).fill_null(np.nan).to_numpy()


def window_sums(values: Floats | Bools, windows: Iterable[int]) -> dict[int, NDArray[Any]]:
    """Sum over the last n rows, this one included, for each n in `windows`; shorter at the beginning.

    Adds windows of doubled length, log2(n) passes. Unlike with a difference of cumulative sums, values outside a
    window have no effect on its sum, not even by rounding.

    Parameters
    ----------
    values : array of shape (T, S)
        Without NaN. If it is boolean, sums are counts, in the smallest type that holds them.
    windows : iterable of int
        Rows in each window.
    """
    windows = sorted(set(windows))
    longest = max(windows, default=0)
    sums = values.astype(np.min_scalar_type(longest)) if values.dtype == np.bool_ else values  # over `width` rows
    totals: dict[int, NDArray[Any]] = {}  # over n % (2 * width) rows, which end as n
    width = 1
    while True:
        for rows in windows:
            if rows & width:
                covered = rows % width
                totals[rows] = _add(totals[rows], sums, covered) if covered else sums
        if 2 * width > longest:
            return totals
        sums, width = _add(sums, sums, width), 2 * width


def _add(total: NDArray[Any], sums: NDArray[Any], rows: int) -> NDArray[Any]:
    """Add to each row the sum of so many rows earlier."""
    out = np.empty_like(total)
    out[:rows] = total[:rows]
    np.add(total[rows:], sums[: max(0, len(sums) - rows)], out=out[rows:])
    return out


def window_max(values: Floats, steps: int) -> Floats:
    """Maximum over the last `steps` rows, this one included; NaN only if all are NaN.

    Doubles the window until it covers `steps`: log2(steps) passes.
    """
    out, width = values.copy(), 1
    while width < steps:
        shift = min(width, steps - width)
        out[shift:] = np.fmax(out[shift:], out[:-shift])  # reads before it writes: numpy buffers overlaps
        width += shift
    return out
