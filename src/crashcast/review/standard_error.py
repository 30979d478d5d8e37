"""The standard error of a figure whose rows depend on each other through their server and through their time.

It comes from influence: how much each cell (a server in a block) moves the figure. Crashes of one server go together,
and crashes of several servers in one block or in two adjoining ones; what a cell adds by itself counts once. Two-way
replicates (modeling/bootstrap.py) say how figures move together. Their spread counts a cell's own noise about three
times (Owen, The Annals of Applied Statistics 1(2), 2007, theorem 3), so it is scaled to the standard error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crashcast.modeling.row_metrics import Curve, Labels, chunks

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]


class Spread(NamedTuple):
    """A standard error, and of how many degrees of freedom."""

    standard_error: float
    degrees_of_freedom: float


def spread(influence: Floats, share: Floats) -> Spread:
    """Return the standard error of a figure that is tied together by servers and by time.

    Parameters
    ----------
    influence : array of shape (S, B)
        What each server in each block adds to the figure's error; adds up to 0.
    share : array of shape (S, B)
        How much of the figure's denominator (positives, crashes, rows) each of them holds; adds up to 1.

    Returns
    -------
    Spread
        The variance adds up the products of influences of the same server, and of different servers in the same block
        or in adjoining ones (labels and alarms reach from one block into the next); it is never below that of servers
        or blocks alone. A server or block counts by how the figure would change without it: if it holds a share h, its
        influence is divided by 1 - h, since the others would then weigh more. Degrees of freedom: the number of
        servers, or of blocks if fewer, that carry the sum of squares, less one: a few that weigh much count as few.

    Notes
    -----
    Source: Cameron, Gelbach, Miller, Robust inference with multiway clustering, Journal of Business & Economic
    Statistics 29(2), 2011; across blocks: Thompson, Simple formulas for standard errors that cluster by both firm and
    time, Journal of Financial Economics 99(1), 2011. Without each in turn (jackknife, CV3): MacKinnon, Nielsen, Webb,
    Fast and reliable jackknife and bootstrap methods for cluster-robust inference, Journal of Applied Econometrics
    38(5), 2023. Degrees of freedom: Carter, Schnepel, Steigerwald, Asymptotic
    behavior of a t-test robust to cluster heterogeneity, Review of Economics and Statistics 99(4), 2017, in spirit.
    """
    n_servers, n_blocks = influence.shape
    of_servers = influence.sum(axis=1) / np.maximum(1 - share.sum(axis=1), 1 / n_servers)
    cells = influence / np.maximum(1 - share.sum(axis=0), 1 / n_blocks)
    of_blocks = cells.sum(axis=0)
    by_server = (1 - 1 / n_servers) * float(of_servers @ of_servers)
    by_block = (1 - 1 / n_blocks) * float(of_blocks @ of_blocks)
    near = float(of_blocks @ of_blocks + 2 * of_blocks[1:] @ of_blocks[:-1])
    same_server = float(np.vdot(cells, cells) + 2 * np.vdot(cells[:, 1:], cells[:, :-1]))
    variance = max(by_server, by_block, by_server + (1 - 1 / n_blocks) * (near - same_server))
    effective = min(_effective(of_servers), _effective(of_blocks))
    return Spread(float(np.sqrt(variance)), max(effective - 1, 1.0))


def _effective(influence: Floats) -> float:
    """Return how many equal ones would carry this sum of squares (normal ones count in full)."""
    squares = influence**2
    fourth = float(squares @ squares)
    return min(3 * float(squares.sum()) ** 2 / fourth, len(influence)) if fourth > 0 else float(len(influence))


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
    gained, precision, taken = Curve.of(labels, steps)
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
