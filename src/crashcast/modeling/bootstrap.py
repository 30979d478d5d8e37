"""How sure a figure is: two-way resampling of servers and, independently, of blocks of time.

Rows of one server resemble each other, and so do the rows of a day that shook the whole fleet: resampling rows would
claim to know far more than it does. So servers are drawn with replacement, and blocks of time too, and a row, an alarm
or a crash counts as often as its server was drawn times as often as its block was (the pigeonhole bootstrap: Owen, The
Annals of Applied Statistics 1(2), 2007). Figures of several models from the same draws are paired: the replicates of
their difference are the differences of their replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast.errors import UserError
from crashcast.modeling.ranking import Steps

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

MONDAY = datetime(2001, 1, 1)  # blocks are counted from here: one of 7d is a calendar week
MAX_UNDEFINED_SHARE = 0.05
EXACT_ROWS = 1_000_000  # of the highest scores every step counts; below, steps are merged
CELLS_PER_LISTED_ROW = 50  # where a step takes in more rows than cells / 50, a matrix product is the cheaper sum
GROWTH = 0.05  # of the rows taken in, within which they are merged


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
        first, last = (period[0] - MONDAY) // block, (period[1] - timedelta(microseconds=1) - MONDAY) // block
        for_servers, for_blocks = np.random.SeedSequence(seed).spawn(2)
        return cls(
            names,
            first,
            block,
            _draw(len(names), replicates, np.random.default_rng(for_servers)),
            _draw(last - first + 1, replicates, np.random.default_rng(for_blocks)),
        )

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
            Where a server or a moment was not among those drawn from.
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


def _draw(n: int, replicates: int, rng: np.random.Generator) -> Ints:
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(replicates)])


def pr_auc_replicates(labels: NDArray[np.generic], scores: Floats, cells: Ints, draws: TwoWayDraws) -> Floats:
    """Compute the PR-AUC (average precision, ties as one step) of every replicate.

    Precision matters only where recall grows, at the scores of positives, so rows between two of those are but a count
    per cell, and rows below the lowest matter nowhere. Beyond the `EXACT_ROWS` highest scores precision hardly changes
    from step to step: steps while the rows taken in grow by `GROWTH` are merged, at the mean of the precisions before
    and after. That moves a replicate by less than 0.2 % of itself.

    Parameters
    ----------
    labels, scores, cells : array of shape (n,)
        At least one label is 1.
    draws : TwoWayDraws
        Whose cells they are.

    Returns
    -------
    array of shape (replicates,)
        NaN where no positive was drawn.
    """
    positive = labels.astype(bool)
    lowest, is_merged = _merged(Steps.of(positive, scores))
    # the first step, from the highest down, that takes a row in
    reached = np.concatenate(
        [np.searchsorted(-lowest, -part).astype(np.int32) for part in np.array_split(scores, len(scores) // 2**20 + 1)]
    )
    rows = _Counts.of(reached, cells, draws, len(lowest))
    positives = _Counts.of(reached[positive], cells[positive], draws, len(lowest))

    replicates = np.full(draws.replicates, np.nan)
    for replicate in range(draws.replicates):
        weights = draws.weights(replicate)
        gained = positives.per_step(replicate, weights)
        true = np.cumsum(gained)
        if true[-1] > 0:
            # where nothing was drawn so far nothing is gained either
            precision = true / np.maximum(np.cumsum(rows.per_step(replicate, weights)), 1)
            precision[is_merged] = (precision[is_merged] + precision[is_merged - 1]) / 2
            replicates[replicate] = np.sum(gained * precision) / true[-1]
    return replicates


def _merged(steps: Steps) -> tuple[Floats, Ints]:
    """Return the lowest score of each step that is left, and which of them several were merged into."""
    beyond = np.floor(np.log(np.maximum(steps.taken / EXACT_ROWS, 1)) / np.log1p(GROWTH)).astype(np.int64)
    own = np.where(steps.taken <= EXACT_ROWS, np.arange(len(beyond)), len(beyond) + beyond)
    opens = np.diff(own, prepend=-1) != 0  # this one stays as it is: a tie may have taken in any number of rows
    index = np.cumsum(opens | np.append(False, opens[:-1])) - 1
    return steps.score[np.append(np.diff(index) > 0, True)], np.flatnonzero(np.bincount(index) > 1)


@dataclass(frozen=True)
class _Counts:
    """How many rows each step takes in from each cell.

    The few of most steps are listed; those of steps that take in many are summed beforehand for all replicates.
    """

    cells: Ints
    rows: Ints
    starts: Ints  # of each listed step among `cells`
    listed: Ints
    summed: Ints
    sums: Floats  # of each replicate and summed step
    n_steps: int

    @classmethod
    def of(cls, steps: Ints, cells: Ints, draws: TwoWayDraws, n_steps: int) -> Self:
        n_cells = draws.shape[0] * draws.shape[1]
        n_rows = np.bincount(steps, minlength=n_steps)[:n_steps]
        is_summed = n_rows > n_cells / CELLS_PER_LISTED_ROW
        summed = np.flatnonzero(is_summed)
        sums = np.empty((draws.replicates, len(summed)))
        for column, step in enumerate(summed):
            members = cells[steps == step]
            sums[:, column] = total_replicates(np.ones(len(members)), members, draws)
        few = ~np.append(is_summed, True)[steps]  # the last: below every step
        keys, rows = np.unique(steps[few] * np.int64(n_cells) + cells[few], return_counts=True)
        listed, starts = np.unique(keys // n_cells, return_index=True)
        return cls(keys % n_cells, rows, starts, listed, summed, sums, n_steps)

    def per_step(self, replicate: int, weights: Ints) -> Floats:
        counts = np.zeros(self.n_steps)
        counts[self.summed] = self.sums[replicate]
        if len(self.listed):
            counts[self.listed] = np.add.reduceat(weights[self.cells] * self.rows, self.starts)
        return counts


def total_replicates(values: NDArray[np.generic], cells: Ints, draws: TwoWayDraws) -> Floats:
    """Sum weighted values in every replicate: exact where they are whole numbers or flags.

    Parameters
    ----------
    values, cells : array of shape (n,)
        What to sum, such as whether a crash was caught, and where it belongs.
    draws : TwoWayDraws
        Whose cells they are.

    Returns
    -------
    array of shape (replicates,)
    """
    per_cell = np.bincount(cells, weights=values, minlength=draws.shape[0] * draws.shape[1]).reshape(draws.shape)
    totals: Floats = np.sum((draws.of_servers.astype(np.float64) @ per_cell) * draws.of_blocks, axis=1)
    return totals


def ratio_replicates(numerator: Floats, denominator: Floats) -> Floats:
    """Divide totals replicate by replicate, NaN where the denominator is 0.

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
        NaN where the figure is undefined; those are left out and counted.
    confidence : float
        Such as 0.9.

    Raises
    ------
    UserError
        Where more than 5 % are undefined: what is left would no longer be a fair sample.
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
