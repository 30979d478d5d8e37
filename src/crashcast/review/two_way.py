"""How far a figure may be off where servers and blocks of time both tie rows together.

A standard error comes from influence: how much each cell (a server in a block) moves the figure. Crashes of one server
go together, and crashes of several servers in one block or in two adjoining ones; what a cell adds by itself counts
once. Replicates draw servers and blocks with replacement and compute the figure anew; they say how figures move
together. Their spread counts a cell's own noise about three times (Owen, The Annals of Applied Statistics 1(2), 2007,
theorem 3), so it is brought to the standard error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from crashcast.modeling.bootstrap import TwoWayDraws
from crashcast.modeling.ranking import Labels

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

CHUNK_ROWS = 2**21
GROWTH = 0.1  # of the logarithm of the rows taken in, within which steps of a precision-recall curve are merged
DENSE = 1 / 20  # of the cells: a step that takes in more rows is summed by a dense product
DENSE_GROWTH = 3  # times as much is merged there


class Spread(NamedTuple):
    """A standard error, and of how many degrees of freedom."""

    standard_error: float
    degrees_of_freedom: float


def spread(influence: Floats) -> Spread:
    """Return the standard error of a figure that is tied together by servers and by time.

    Parameters
    ----------
    influence : array of shape (S, B)
        What each server in each block adds to the figure's error; adds up to 0.

    Returns
    -------
    Spread
        The variance adds up the products of influences of the same server, and of different servers in the same block
        or in adjoining ones (labels and alarms reach from one block into the next); it is never below that of servers
        or blocks alone. Degrees of freedom: the number of servers, or of blocks if fewer, that carry the sum of
        squares, less one: a few that weigh much count as few.

    Notes
    -----
    Source: Cameron, Gelbach, Miller, Robust inference with multiway clustering, Journal of Business & Economic
    Statistics 29(2), 2011; across blocks: Thompson, Simple formulas for standard errors that cluster by both firm and
    time, Journal of Financial Economics 99(1), 2011. Degrees of freedom: Carter, Schnepel, Steigerwald, Asymptotic
    behavior of a t-test robust to cluster heterogeneity, Review of Economics and Statistics 99(4), 2017, in spirit.
    """
    of_servers, of_blocks = influence.sum(axis=1), influence.sum(axis=0)
    corrections = [n / max(n - 1, 1) for n in influence.shape]
    by_server = corrections[0] * float(of_servers @ of_servers)
    by_block = corrections[1] * float(of_blocks @ of_blocks)
    near = float(of_blocks @ of_blocks + 2 * of_blocks[1:] @ of_blocks[:-1])
    same_server = float(np.vdot(influence, influence) + 2 * np.vdot(influence[:, 1:], influence[:, :-1]))
    variance = max(by_server, by_block, by_server + corrections[1] * (near - same_server))
    effective = min(_effective(of_servers), _effective(of_blocks))
    return Spread(float(np.sqrt(variance)), max(effective - 1, 1.0))


def _effective(influence: Floats) -> float:
    """Return how many equal ones would carry this sum of squares (normal ones count in full)."""
    squares = influence**2
    fourth = float(squares @ squares)
    return min(3 * float(squares.sum()) ** 2 / fourth, len(influence)) if fourth > 0 else float(len(influence))


def steps_of(labels: Labels, scores: Floats) -> NDArray[np.int32]:
    """Return how many distinct scores of positives lie at or below each row's score: all that a ranking needs.

    Parameters
    ----------
    labels, scores : array of shape (n,)

    Returns
    -------
    array of shape (n,)
        Recall grows at these steps alone: rows between two of them are as good as tied.
    """
    rising = np.unique(scores[labels == 1])
    steps = np.empty(len(scores), dtype=np.int32)
    for some in chunks(len(scores)):
        steps[some] = np.searchsorted(rising, scores[some], side="right")
    return steps


class _Curve(NamedTuple):
    """At each step, rising: positives at it, and precision and rows at or above it."""

    gained: Floats
    precision: Floats
    taken: Floats

    @classmethod
    def of(cls, labels: Labels, steps: Ints) -> _Curve:
        n_steps = int(steps.max()) + 1
        rows = np.zeros(n_steps)
        for some in chunks(len(steps)):
            rows += np.bincount(steps[some], minlength=n_steps)
        gained = np.bincount(steps[labels == 1], minlength=n_steps).astype(np.float64)
        taken = np.cumsum(rows[::-1])[::-1]
        return cls(gained, np.cumsum(gained[::-1])[::-1] / taken, taken)


def chunks(n: int) -> Iterator[slice]:
    """Cut n rows into pieces that are looked at together, to save memory."""
    return (slice(begin, begin + CHUNK_ROWS) for begin in range(0, n, CHUNK_ROWS))


def pr_auc_influence(labels: Labels, steps: Ints, cells: Ints, n_cells: int) -> tuple[float, Floats]:
    """Return PR-AUC (average precision) and what each cell adds to its error.

    The derivative of average precision by a row's weight: by how much the row moves its own term, if it is a positive,
    and the precision at every positive at or below it.

    Parameters
    ----------
    labels, steps, cells : array of shape (n,)
        At least one label is 1; steps are those of `steps_of`, of these rows or of more.
    n_cells : int

    Returns
    -------
    float
    array of shape (n_cells,)
        Adds up to 0.
    """
    gained, precision, taken = _Curve.of(labels, steps)
    positives = gained.sum()
    area = float(np.sum(gained * precision) / positives)
    up_to = np.cumsum(gained / taken)
    precise_up_to = np.cumsum(gained * precision / taken)
    of_positive = precision - area + up_to - precise_up_to

    influence = np.zeros(n_cells)
    for some in chunks(len(steps)):
        step = steps[some]
        each = np.where(labels[some] == 1, of_positive[step], -precise_up_to[step])
        influence += np.bincount(cells[some], weights=each, minlength=n_cells)
    return area, influence / positives


def total_influence(values: Floats, weights: Floats | Ints) -> tuple[float, Floats]:
    """Return a ratio of totals over cells and what each cell adds to its error.

    Parameters
    ----------
    values, weights : array of shape (n_cells,)
        The numerator and the denominator, cell by cell; the denominator's total is not 0.
    """
    ratio = float(values.sum() / weights.sum())
    return ratio, (values - ratio * weights) / float(weights.sum())


class Replicator:
    """Sums that are weighted anew in every replicate; float32 inside, for speed."""

    def __init__(self, draws: TwoWayDraws) -> None:
        self.shape = draws.shape
        self.replicates = draws.replicates
        self._servers = np.ascontiguousarray(draws.of_servers.T, dtype=np.float32)  # (S, replicates)
        self._blocks = np.ascontiguousarray(draws.of_blocks.T, dtype=np.float32)

    def total(self, per_cell: Floats | Ints, inside: NDArray[np.bool_] | None = None) -> Floats:
        """Return the weighted sum over cells in every replicate, shape (replicates,).

        Parameters
        ----------
        per_cell : array
            Of all cells, or of those of the servers `inside`.
        inside : bool array of shape (S,), optional
        """
        servers = self._servers if inside is None else self._servers[inside]
        by_block = per_cell.reshape(-1, self.shape[1]).T.astype(np.float32) @ servers
        return np.einsum("br,br->r", by_block, self._blocks).astype(np.float64)

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

    def pr_auc(self, labels: Labels, steps: Ints, cells: Ints) -> Floats:
        """Return PR-AUC in every replicate, NaN where no positive was drawn; parameters as for `pr_auc_influence`.

        Steps are merged while the rows taken in grow by `GROWTH`. Within a merged step precision lies between the
        precisions before and after it, as far along as it does with all weights 1. That moves the difference of two
        models by some 2 % of its standard deviation over replicates.
        """
        gained, precision, taken = (
            values[:0:-1] for values in _Curve.of(labels, steps)
        )  # falling; 0 holds no positive
        n_cells = self.shape[0] * self.shape[1]
        dense_from = max(DENSE * n_cells / GROWTH, 1.0)  # rows, from where on steps are costly and precision is flat
        merged = np.log(np.minimum(taken, dense_from)) + np.log(np.maximum(taken / dense_from, 1)) / DENSE_GROWTH
        index = (merged / GROWTH).astype(np.int64)
        ends = np.flatnonzero(np.append(np.diff(index) > 0, True))
        starts = np.append(0, ends[:-1] + 1)
        gains = np.add.reduceat(gained, starts)
        mean = np.divide(
            np.add.reduceat(gained * precision, starts), gains, out=precision[ends].copy(), where=gains > 0
        )
        before, after = precision[np.append(ends[0], ends[:-1])], precision[ends]
        change = after - before
        along = np.clip(np.divide(mean - before, change, out=np.ones_like(change), where=change != 0), 0, 1)

        # the merged step of every step; rows below the lowest positive are in none
        merged_of = np.append(len(ends), np.searchsorted(ends, np.arange(len(gained)))[::-1]).astype(np.int16)
        rows = np.diff(taken[ends], prepend=0)
        positive = labels == 1
        gains = self._taken(merged_of[steps[positive]], cells[positive], gains)
        true, taken = np.cumsum(gains, axis=0), np.cumsum(self._taken(merged_of[steps], cells, rows), axis=0)
        now = true / np.maximum(taken, 1)
        earlier = now.copy()
        np.copyto(earlier[1:], now[:-1], where=taken[:-1] > 0)
        at = earlier + along[:, None] * (now - earlier)
        with np.errstate(invalid="ignore"):
            return np.where(true[-1] > 0, np.sum(gains * at, axis=0) / true[-1], np.nan)

    def _taken(self, step: Ints, cells: Ints, rows: Floats) -> Floats:
        """Return the weighted rows that each step takes in, shape (steps, replicates); `rows` says how many it does."""
        n_cells = self.shape[0] * self.shape[1]
        is_dense = rows > DENSE * n_cells
        few = ~np.append(is_dense, True)[step]  # the last: below every step
        sums = self.totals(step[few], cells[few], np.ones(np.count_nonzero(few), dtype=np.float32), len(rows))
        for index in np.flatnonzero(is_dense):
            sums[index] = self.total(np.bincount(cells[step == index], minlength=n_cells))
        return sums
