"""A partition as arrays of (time, server): windows over time become shifts along one axis.

Rows sorted by (timestamp, server_id) are cells of a regular grid. Laid out densely, a window is built from windows of
doubled length: a few additions of whole arrays, the same bits with any number of threads and wherever the grid begins,
and about a sixth of the CPU of a grouped rolling query. Missing rows and values are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """A regular grid of T times by S servers.

    Attributes
    ----------
    times : datetime64[us] array of shape (T,)
        UTC, one interval apart.
    servers : list of str
        The S servers, sorted.
    interval : timedelta
        The cadence.
    """

    times: NDArray[np.datetime64]
    servers: list[str]
    interval: timedelta

    @classmethod
    def over(cls, start: datetime, end: datetime, interval: timedelta, servers: pl.Series) -> Grid:
        """Return the grid of [start, end) for the distinct `servers`."""
        times = np.arange(np.datetime64(start, "us"), np.datetime64(end, "us"), np.timedelta64(interval))
        return cls(times, servers.unique().sort().to_list(), interval)

    @property
    def shape(self) -> tuple[int, int]:
        """(T, S)."""
        return len(self.times), len(self.servers)

    def steps(self, duration: timedelta) -> int:
        """Return how many rows cover `duration`: at least one, rounded up."""
        return max(1, -(-duration // self.interval))

    def rows_at(self, moments: pl.Series) -> NDArray[np.int64]:
        """Return the index of the first row at or after each moment; may lie outside [0, T)."""
        offset = moments.dt.replace_time_zone(None).to_numpy().astype("datetime64[us]") - self.times[0]
        return -(-offset // np.timedelta64(self.interval)).astype(np.int64)

    def columns_of(self, server_id: pl.Series) -> NDArray[np.int64]:
        """Return each server's column, -1 where the grid does not hold it."""
        codes = server_id.cast(pl.Enum(self.servers), strict=False).to_physical()
        return codes.cast(pl.Int64).fill_null(-1).to_numpy()

    def cells(self, timestamp: pl.Series, server_id: pl.Series) -> NDArray[np.int64]:
        """Return the flat index of each row's cell; the caller keeps to times and servers on the grid."""
        return self.rows_at(timestamp) * len(self.servers) + self.columns_of(server_id)

    def dense(self, cells: NDArray[np.int64], values: Floats, aggregate: str = "last") -> Floats:
        """Lay values out as (T, S), NaN where there is none.

        Parameters
        ----------
        cells : int array of shape (n,)
            Each value's cell.
        values : float array of shape (n,)
            In order of time; NaN is none.
        aggregate : {"mean", "min", "max", "sum", "last"}
            How several values in a cell become one.
        """
        cells, values = cells[valid := ~np.isnan(values)], values[valid]
        size = len(self.times) * len(self.servers)
        out = np.full(size, np.nan)
        if aggregate == "last":
            out[cells] = values
        elif aggregate in ("min", "max"):
            (np.fmin if aggregate == "min" else np.fmax).at(out, cells, values)
        else:
            count = np.bincount(cells, minlength=size)
            total = np.bincount(cells, weights=values, minlength=size)
            np.divide(total, 1 if aggregate == "sum" else count, out=out, where=count > 0)
        return out.reshape(self.shape)

    def keys(self, mask: Bools) -> pl.DataFrame:
        """Return timestamp and server_id of the cells in `mask` (T, S), sorted by (timestamp, server_id)."""
        time, server = np.nonzero(mask)
        return pl.DataFrame(
            {
                "timestamp": pl.Series(self.times[time]).dt.replace_time_zone("UTC"),
                "server_id": pl.Series(self.servers, dtype=pl.String).gather(pl.Series(server, dtype=pl.UInt32)),
            }
        )


def window_sum(values: Floats | Bools, steps: int) -> Floats:
    """Sum over the last `steps` rows, this one included; shorter at the beginning.

    Adds windows of doubled length, log2(steps) passes: values outside a window leave no trace in its sum, which a
    difference of cumulative sums cannot say.

    Parameters
    ----------
    values : array of shape (T, S)
        Without NaN.
    steps : int
        Rows in the window.
    """
    part, width = values.astype(np.float64), 1  # sums over `width` rows
    total, covered = np.zeros_like(part), 0  # over `covered` rows, which ends as `steps`
    while True:
        if steps & width:
            total[covered:] += part[: max(0, len(part) - covered)]
            covered += width
        if covered == steps:
            return total
        part[width:] += part[:-width]  # reads before it writes: numpy buffers overlaps
        width *= 2


def window_max(values: Floats, steps: int) -> Floats:
    """Maximum over the last `steps` rows, this one included; NaN only where all are NaN.

    Doubles a window until it covers `steps`: log2(steps) passes.
    """
    out, width = values.copy(), 1
    while width < steps:
        shift = min(width, steps - width)
        out[shift:] = np.fmax(out[shift:], out[:-shift])  # reads before it writes: numpy buffers overlaps
        width += shift
    return out


def age_of_last(present: Bools) -> NDArray[np.int64]:
    """Return how many rows ago each cell's server was last `present`: 0 is now; T or more: never on the grid."""
    time = np.arange(len(present))[:, None]
    last = np.maximum.accumulate(np.where(present, time, -len(present)), axis=0)
    return time - last


def lag(values: Floats, steps: int) -> Floats:
    """Return the values `steps` rows earlier, NaN at the beginning."""
    out = np.full_like(values, np.nan)
    out[steps:] = values[:-steps] if steps < len(values) else np.empty((0, values.shape[1]))
    return out
