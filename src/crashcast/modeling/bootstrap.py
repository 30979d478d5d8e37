"""How sure a figure is: two-way resampling of servers and, independently, of blocks of time.

Rows of one server resemble each other, and so do the rows of a day that shook the whole fleet: resampling rows would
claim to know far more than it does. So servers are drawn with replacement, and blocks of time too, and a row, an alarm
or a crash counts as often as its server was drawn times as often as its block was (the pigeonhole bootstrap: Owen, The
Annals of Applied Statistics 1(2), 2007). Figures of several models from the same draws are paired: the replicates of
their difference are the differences of their replicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from crashcast.errors import UserError
from crashcast.modeling.row_metrics import Curve, Labels

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

MONDAY = datetime(2001, 1, 1)  # blocks are counted from here: one of 7d is a calendar week
MAX_UNDEFINED_SHARE = 0.05
GROWTH = 0.03  # of the logarithm of the rows taken in, within which steps are merged
DENSE = 1 / 20  # of the cells: a step that takes in more rows is summed with a dense product
DENSE_GROWTH = 3  # times as much is merged there


class Interval(NamedTuple):
    """The limits of an interval, and how many replicates were left out because the figure is undefined in them."""

    low: float
    high: float
    undefined: int


@dataclass(frozen=True)
class TwoWayDraws:
    """How often each server and each block of time was drawn in each replicate.

    A cell is one server in one block; cells are numbered server by server.

    Attributes
    ----------
    servers : list of str
        The S servers, sorted.
    first_block : int
        The number of the first of the B blocks, counted from `MONDAY`.
    block : timedelta
        A block's length.
    of_servers : array of shape (replicates, S)
    of_blocks : array of shape (replicates, B)
    """

    servers: list[str]
    first_block: int
    block: timedelta
    of_servers: Ints
    of_blocks: Ints

    @classmethod
    def draw(
        cls, servers: pl.Series, period: tuple[datetime, datetime], block: timedelta, replicates: int, seed: int
    ) -> Self:
        """Draw the distinct `servers`, and the calendar blocks that [from, to) touches, as many as there are."""
        names = servers.unique().sort().to_list()
        first, end = _blocks(period, block)
        for_servers, for_blocks = np.random.SeedSequence(seed).spawn(2)
        return cls(
            names,
            first,
            block,
            _draw(len(names), replicates, np.random.default_rng(for_servers)),
            _draw(end - first, replicates, np.random.default_rng(for_blocks)),
        )

    @cached_property
    def _servers(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.of_servers.T, dtype=np.float32)  # for speed, shape (S, replicates)

    @cached_property
    def _blocks(self) -> NDArray[np.float64]:
        return np.ascontiguousarray(self.of_blocks.T, dtype=np.float64)

    def during(self, period: tuple[datetime, datetime]) -> Self:
        """Return the draws of the blocks that [from, to) touches."""
        first, end = _blocks(period, self.block)
        some = slice(first - self.first_block, end - self.first_block)
        return replace(self, first_block=first, of_blocks=self.of_blocks[:, some])

    @property
    def replicates(self) -> int:
        """How many replicates were drawn."""
        return len(self.of_servers)

    @property
    def shape(self) -> tuple[int, int]:
        """(S, B)."""
        return self.of_servers.shape[1], self.of_blocks.shape[1]

    def cells(self, server_id: pl.Series, moments: pl.Series) -> Ints:
        """Return the cell of each row, alarm (when it opened) or crash (its `last_warning_at`).

        Raises
        ------
        ValueError
            If a server or a moment was not among those drawn from.
        """
        servers = server_id.cast(pl.Enum(self.servers), strict=False).to_physical().cast(pl.Int32)
        if servers.has_nulls():
            raise ValueError("servers that were not drawn from")
        since = moments.dt.replace_time_zone(None).to_numpy().astype("datetime64[us]") - np.datetime64(MONDAY, "us")
        blocks = (since // np.timedelta64(self.block) - self.first_block).astype(np.int32)
        if ((blocks < 0) | (blocks >= self.shape[1])).any():
            raise ValueError("moments outside the blocks that were drawn from")
        return servers.to_numpy() * np.int32(self.shape[1]) + blocks

    def weights(self, replicate: int) -> Ints:
        """Return the weight of every cell in one replicate, shape (S x B,)."""
        return np.outer(self.of_servers[replicate], self.of_blocks[replicate]).ravel()

    def total(self, per_cell: Floats | Ints, inside: NDArray[np.bool_] | None = None) -> Floats:
        """Return the weighted sum over cells in every replicate, shape (replicates,); exact for whole numbers.

        Parameters
        ----------
        per_cell : array
            Of all cells, or of those of the servers `inside`.
        inside : bool array of shape (S,), optional
        """
        servers = self._servers if inside is None else self._servers[inside]
        by_block = per_cell.reshape(-1, self.shape[1]).T.astype(np.float32) @ servers
        total: Floats = np.einsum("br,br->r", by_block.astype(np.float64), self._blocks)
        return total

    def totals(self, group: Ints, cells: Ints, values: NDArray[np.generic], n_groups: int) -> Floats:
        """Return the weighted sum of the values of each group in every replicate.

        Parameters
        ----------
        group, cells, values : array of shape (n,)
            Which sum a value belongs to, the cell it lies in, and the value.

        Returns
        -------
        array of shape (n_groups, replicates)
        """
        n_servers, n_blocks = self.shape
        row = group.astype(np.int64) * n_blocks + cells % n_blocks
        listed = csr_array(
            (values.astype(np.float32), (row, cells // n_blocks)), shape=(n_groups * n_blocks, n_servers)
        )
        listed.eliminate_zeros()
        sums = np.empty((n_groups, self.replicates))
        for index in range(n_groups):
            some = listed[index * n_blocks : (index + 1) * n_blocks]
            by_block = (some.toarray() if some.nnz > DENSE * n_servers * n_blocks else some) @ self._servers
            sums[index] = np.einsum("br,br->r", by_block, self._blocks)
        return sums


def _blocks(period: tuple[datetime, datetime], block: timedelta) -> tuple[int, int]:
    """Return the numbers of the blocks that [from, to) touches, from the first to the one after the last."""
    return (period[0] - MONDAY) // block, (period[1] - timedelta(microseconds=1) - MONDAY) // block + 1


def _draw(n: int, replicates: int, rng: np.random.Generator) -> Ints:
    # int16 suffices and saves memory
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n).astype(np.int16) for _ in range(replicates)])


def pr_auc_replicates(labels: Labels, steps: Ints, cells: Ints, draws: TwoWayDraws, growth: float = GROWTH) -> Floats:
    """Compute the PR-AUC (average precision, ties as one step) of every replicate.

    Recall grows at the scores of positives alone: rows between two of those are only a count per cell, and rows below
    the lowest do not matter. Neighbouring steps are merged while the rows taken in grow by `growth`. Within a merged
    step precision lies between the precisions before and after it, as far along as it does with all weights 1. That
    moves a replicate by less than 0.2 % of itself (tests/code/modeling/test_bootstrap.py).

    Parameters
    ----------
    labels, steps, cells : array of shape (n,)
        At least one label is 1; steps are those of `steps_of`.
    draws : TwoWayDraws
        Whose cells they are.
    growth : float
        Of the logarithm of the rows taken in. Close to 0 every step is its own, and the figures are exact.

    Returns
    -------
    array of shape (replicates,)
        NaN if no positive was drawn.
    """
    gained, precision, taken = (values[:0:-1] for values in Curve.of(labels, steps))  # falling; 0 holds no positive
    n_cells = draws.shape[0] * draws.shape[1]
    dense_from = max(DENSE * n_cells / growth, 1.0)  # rows, from where on steps are costly and precision is flat
    merged = np.log(np.minimum(taken, dense_from)) + np.log(np.maximum(taken / dense_from, 1)) / DENSE_GROWTH
    index = (merged / growth).astype(np.int64)
    ends = np.flatnonzero(np.append(np.diff(index) > 0, True))
    starts = np.append(0, ends[:-1] + 1)
    gains = np.add.reduceat(gained, starts)
    mean = np.add.reduceat(gained * precision, starts) / gains
    before, after = precision[np.append(ends[0], ends[:-1])], precision[ends]
    change = after - before
    along = np.clip(np.divide(mean - before, change, out=np.ones_like(change), where=change != 0), 0, 1)

    # the merged step of every step; rows below the lowest positive are in none
    merged_of = np.append(len(ends), np.searchsorted(ends, np.arange(len(gained)))[::-1]).astype(np.int32)
    rows = np.diff(taken[ends], prepend=0)
    positive = labels == 1
    gains = _taken(draws, merged_of[steps[positive]], cells[positive], gains)
    true, taken = np.cumsum(gains, axis=0), np.cumsum(_taken(draws, merged_of[steps], cells, rows), axis=0)
    now = true / np.maximum(taken, 1)
    earlier = now.copy()
    np.copyto(earlier[1:], now[:-1], where=taken[:-1] > 0)
    at = earlier + along[:, None] * (now - earlier)
    with np.errstate(invalid="ignore"):
        return np.where(true[-1] > 0, np.sum(gains * at, axis=0) / true[-1], np.nan)


def _taken(draws: TwoWayDraws, step: Ints, cells: Ints, rows: NDArray[np.floating]) -> Floats:
    """Return the weighted rows that each step takes in, shape (steps, replicates); `rows` says how many it does."""
    n_cells = draws.shape[0] * draws.shape[1]
    is_dense = rows > DENSE * n_cells
    few = ~np.append(is_dense, True)[step]  # the last: below every step
    sums = draws.totals(step[few], cells[few], np.ones(np.count_nonzero(few), dtype=np.float32), len(rows))
    for index in np.flatnonzero(is_dense):
        sums[index] = draws.total(np.bincount(cells[step == index], minlength=n_cells))
    return sums


def total_replicates(values: NDArray[np.generic], cells: Ints, draws: TwoWayDraws) -> Floats:
    """Sum weighted values in every replicate: exact for whole numbers and flags.

    Parameters
    ----------
    values, cells : array of shape (n,)
        The values, such as whether a crash was caught, and the cell of each.
    draws : TwoWayDraws
        Whose cells they are.

    Returns
    -------
    array of shape (replicates,)
    """
    return draws.total(np.bincount(cells, weights=values, minlength=draws.shape[0] * draws.shape[1]))


def ratio_replicates(numerator: Floats, denominator: Floats) -> Floats:
    """Divide totals replicate by replicate, NaN if the denominator is 0.

    Event recall is the total of caught crashes over the total of crashes; false alarms per server-day are the total of
    false alarms over the total of known rows x the interval in days.
    """
    ratio = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator != 0)
    return ratio


def percentile_interval(replicates: Floats, confidence: float) -> Interval:
    """Return the interval that leaves out (1 - confidence) / 2 of the replicates on either side.

    Parameters
    ----------
    replicates : array
        NaN if the figure is undefined; those are left out and counted.
    confidence : float
        Such as 0.9.

    Raises
    ------
    UserError
        If more than 5 % are undefined: the rest would no longer be a fair sample.
    """
    defined = replicates[~np.isnan(replicates)]
    undefined = len(replicates) - len(defined)
    if undefined > MAX_UNDEFINED_SHARE * len(replicates):
        raise UserError(
            f"{undefined} of {len(replicates)} replicates hold nothing to measure: too few crashes, or on too few "
            "servers and days, for an interval; give this part of the data a larger share (params.yaml: split) or "
            "bring in a longer history"
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high), undefined)
