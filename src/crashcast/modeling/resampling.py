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

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MONDAY = datetime(2001, 1, 1)  # blocks are counted from here: one of 7d is a calendar week
MAX_UNDEFINED_SHARE = 0.05


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
        servers = server_id.cast(pl.Enum(self.servers), strict=False).to_physical().cast(pl.Int64)
        if servers.has_nulls():
            raise ValueError("servers that were not drawn from")
        since = moments.dt.replace_time_zone(None).to_numpy().astype("datetime64[us]") - np.datetime64(MONDAY, "us")
        blocks = since // np.timedelta64(self.block) - self.first_block
        if ((blocks < 0) | (blocks >= self.shape[1])).any():
            raise ValueError("moments outside the blocks that were drawn from")
        return servers.to_numpy() * self.shape[1] + blocks

    def weights(self, replicate: int) -> Ints:
        """Return the weight of every cell in one replicate, shape (S x B,)."""
        return np.outer(self.of_servers[replicate], self.of_blocks[replicate]).ravel()


def _draw(n: int, replicates: int, rng: np.random.Generator) -> Ints:
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(replicates)])


def pr_auc_replicates(labels: NDArray[np.generic], scores: Floats, cells: Ints, draws: TwoWayDraws) -> Floats:
    """Compute the PR-AUC (average precision, ties as one step) of every replicate.

    Precision matters only where recall grows, at the scores of positives, so rows between two of those are but a count
    per cell, and rows below the lowest matter nowhere.

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
    steps = np.unique(scores[positive])[::-1]
    reached = np.searchsorted(-steps, -scores)  # the first step, from the highest down, that takes the row in
    counted = reached < len(steps)
    rows = _Counts.of(reached[counted], cells[counted], draws)
    positives = _Counts.of(reached[positive], cells[positive], draws)

    replicates = np.full(draws.replicates, np.nan)
    for replicate in range(draws.replicates):
        weights = draws.weights(replicate)
        gained = positives.per_step(weights)
        true = np.cumsum(gained)
        if true[-1] > 0:
            predicted = np.cumsum(rows.per_step(weights))
            # where nothing was drawn so far nothing is gained either
            replicates[replicate] = np.sum(gained * (true / np.maximum(predicted, 1))) / true[-1]
    return replicates


@dataclass(frozen=True)
class _Counts:
    """How many rows each step takes in from each cell, where any."""

    cells: Ints
    rows: Ints
    starts: Ints  # of each step among `cells`

    @classmethod
    def of(cls, steps: Ints, cells: Ints, draws: TwoWayDraws) -> Self:
        n_cells = draws.shape[0] * draws.shape[1]
        keys, rows = np.unique(steps * n_cells + cells, return_counts=True)
        return cls(keys % n_cells, rows, np.unique(keys // n_cells, return_index=True)[1])

    def per_step(self, weights: Ints) -> Ints:
        return np.add.reduceat(weights[self.cells] * self.rows, self.starts)


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
