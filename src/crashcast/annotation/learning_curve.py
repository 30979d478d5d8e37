"""What more labels, servers or months would gain: the chosen candidate, fitted to growing parts of the training rows.

Measured on the validation part, never on test: what to do next is a choice, and choices are made there. The rows of the
last, whole size are those that `train` drew, so its figures are those of the trained model.
"""

from __future__ import annotations

from datetime import datetime
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from crashcast import tables
from crashcast.annotation.refitting import (
    FIGURES,
    REPLICATES,
    Measured,
    chosen_candidate,
    measure,
    training_sample,
)
from crashcast.modeling.bootstrap import Floats, percentile_interval
from crashcast.modeling.model import fit
from crashcast.modeling.sampling import Sample, feature_names
from crashcast.modeling.split_rule import HASH_RANGE, period, read_rule, row_hash
from crashcast.params.evaluate import Evaluate
from crashcast.params.train import Train
from crashcast.paths import FEATURES_PATH, SPLIT_PATH

LABELLED, SERVERS, MONTHS = "labels", "servers", "months"
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
AHEAD = (2.0, 4.0)  # times the present size
DRAWS = 3  # of labels and of servers; the newest months are not drawn
BAR = 16  # characters
EXPONENTS = np.linspace(0.1, 2.0, 39)


class Size(NamedTuple):
    """A part of the training rows: a share of the labels, servers or months, and which draw of it."""

    axis: str
    share: float
    draw: int


def learning_curve() -> pl.DataFrame:
    """Fit the chosen candidate to parts of the training rows, measure each on validation, and extrapolate.

    Returns
    -------
    DataFrame
        By `axis` and `times` the present size (above 1: extrapolated): `crash_rows` in the part (null if
        extrapolated); `pr_auc` and `event_recall` (at the alarm budget), each with `_low` and `_high`; if extrapolated
        also the `_gain` over the present size, with its limits. Intervals are two-way (servers, blocks of time) and
        include the draw of the part. If extrapolated, they also include the choice between a curve that levels off
        and one that does not.
    """
    rule, columns, train = read_rule(SPLIT_PATH), feature_names(FEATURES_PATH), Train.read()
    candidate, sample = chosen_candidate(train), training_sample(train)
    sizes = [Size("all", 1.0, 0)]
    sizes += [Size(axis, share, draw) for axis, share, draw in product((LABELLED, SERVERS), SHARES, range(DRAWS))]
    sizes += [Size(MONTHS, share, 0) for share in SHARES]
    parts = {size: rows for size in sizes if sample.crash[rows := part_of(sample, size, rule)].sum() > 1}
    models = [fit(candidate, columns, sample.values[rows], sample.crash[rows], sample.share) for rows in parts.values()]
    measured = dict(zip(parts, measure(rule, columns, [model.log_odds for model in models]), strict=True))
    counts = {size: int(sample.crash[rows].sum()) for size, rows in parts.items()}
    return tabulate(measured, counts, Evaluate.read().confidence)


def part_of(sample: Sample, size: Size, rule: dict[str, Any]) -> NDArray[np.bool_]:
    """Tell which rows belong to a part: labels by server and day, as people give them; of months the newest."""
    rows = sample.keys
    if size.axis == MONTHS:
        start, end = period(rule, "train")
        first, _ = tables.utc(end - size.share * (end - start), end)
        return rows.select(pl.col("timestamp") >= first).to_series().to_numpy()
    unit = pl.col("timestamp").dt.truncate("1d") if size.axis == LABELLED else pl.lit(datetime(2001, 1, 1))
    drawn = row_hash(rows.with_columns(timestamp=unit.cast(pl.Datetime("us"))), size.draw, f"learning {size.axis}")
    return drawn <= np.uint64(min(int(size.share * HASH_RANGE), HASH_RANGE - 1))


def tabulate(measured: dict[Size, Measured], counts: dict[Size, int], confidence: float) -> pl.DataFrame:
    """Put the sizes of each axis in order, the draws of one size together, and extrapolate."""
    whole = next(size for size in measured if size.axis == "all")
    rows: list[dict[str, Any]] = []
    for axis in (LABELLED, SERVERS, MONTHS):
        shares = sorted({size.share for size in measured if size.axis == axis})
        members = [*([size for size in measured if size[:2] == (axis, share)] for share in shares), [whole]]
        further = AHEAD if len(members) > 2 else ()  # two points are no curve
        ahead: list[dict[str, Any]] = [{"axis": axis, "times": times, "crash_rows": None} for times in further]
        known: list[dict[str, Any]] = [
            {"axis": axis, "times": share, "crash_rows": round(np.mean([counts[size] for size in of_share]))}
            for share, of_share in zip([*shares, 1.0], members, strict=True)
        ]
        for figure in FIGURES:
            # each replicate uses one draw of the part, so their spread includes that of the draws
            spread = [
                np.array([measured[of_share[r % len(of_share)]][figure][1][r] for r in range(REPLICATES)])
                for of_share in members
            ]
            values = [float(np.mean([measured[size][figure][0] for size in of_share])) for of_share in members]
            for row, value, replicates in zip(known, values, spread, strict=True):
                low, high, _ = percentile_interval(replicates, confidence)
                row |= {figure: value, f"{figure}_low": low, f"{figure}_high": high}
            points, sampled = np.array([*shares, 1.0]), np.array([values, *np.array(spread).T]).T
            for row in ahead:
                row |= _ahead(figure, points, sampled, row["times"], confidence)
        rows += known + ahead
    return pl.DataFrame(rows, infer_schema_length=None)


def _ahead(figure: str, shares: Floats, values: Floats, times: float, confidence: float) -> dict[str, float]:
    """Extrapolate a figure: the mean of both curves, and limits that include both."""
    found = [curve(shares, values, times) for curve in (levelling_off, ever_growing)]
    limits = [percentile_interval(curve[1:], confidence) for curve in found]
    gains = [percentile_interval(curve[1:] - values[-1, 1:], confidence) for curve in found]
    value = float(np.mean([curve[0] for curve in found]))
    return {
        figure: value,
        f"{figure}_low": min(limit.low for limit in limits),
        f"{figure}_high": max(limit.high for limit in limits),
        f"{figure}_gain": value - float(values[-1, 0]),
        f"{figure}_gain_low": min(gain.low for gain in gains),
        f"{figure}_gain_high": max(gain.high for gain in gains),
    }


def levelling_off(shares: Floats, values: Floats, times: float) -> Floats:
    """Extrapolate by the inverse power law a - b x^-c, through the last value.

    Source: Figueroa et al., Predicting sample size required for classification performance, BMC Medical Informatics
    and Decision Making 12(8), 2012.

    Parameters
    ----------
    shares : array of shape (s,)
        Sizes, the last one 1.
    values : array of shape (s, r)
        The figure at each, of r replicates.
    times : float
        The size to extrapolate to.

    Returns
    -------
    array of shape (r,)
    """
    best, error = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.inf)
    for exponent in EXPONENTS:
        lost = _least_squares(shares**-exponent - 1, values)
        residual = np.sum((values - values[-1] + lost * (shares**-exponent - 1)[:, None]) ** 2, axis=0)
        better = residual < error
        best[better] = (values[-1] + lost * (1 - times**-exponent))[better]
        error[better] = residual[better]
    return np.clip(best, 0, 1)


def ever_growing(shares: Floats, values: Floats, times: float) -> Floats:
    """Extrapolate by a + b log x, through the last value (see `levelling_off`)."""
    return np.clip(values[-1] + _least_squares(-np.log(shares), values) * np.log(times), 0, 1)


def _least_squares(slope: Floats, values: Floats) -> Floats:
    """Return b >= 0 of values = last value - b * slope: more data never harms a curve."""
    lost = values[-1] - values
    return np.maximum(np.einsum("s,sr->r", slope, lost) / np.sum(slope**2), 0)


def show(found: pl.DataFrame, confidence: float, console: Console) -> None:
    """Print the curves for people, a block for each axis."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in (
        "size",
        "crash rows",
        "PR-AUC",
        "",
        f"{confidence:.0%} interval",
        "event recall",
        "interval",
    ):
        is_bar = not column
        justify: Literal["left", "right"] = "right" if column == "crash rows" else "left"
        table.add_column(column, justify=justify, no_wrap=is_bar, min_width=BAR if is_bar else None)
    scale = BAR / float(np.max(found["pr_auc"].to_numpy()))
    for (axis,), rows in found.group_by("axis", maintain_order=True):
        for row in rows.iter_rows(named=True):
            is_ahead = row["times"] > 1
            table.add_row(
                f"{axis} x {row['times']:g}"
                if is_ahead
                else f"{row['times']:.0%} of the {axis}".replace("100%", "all"),
                "extrapolated" if is_ahead else f"{row['crash_rows']:,}",
                f"{row['pr_auc']:.3f}",
                ("░" if is_ahead else "█") * round(scale * row["pr_auc"]),
                _gain(row, "pr_auc") if is_ahead else f"{row['pr_auc_low']:.3f} to {row['pr_auc_high']:.3f}",
                f"{row['event_recall']:.0%}",
                _gain(row, "event_recall")
                if is_ahead
                else f"{row['event_recall_low']:.0%} to {row['event_recall_high']:.0%}",
            )
        table.add_section()
    console.print(table)
    console.print(
        "Measured on validation. Extrapolated rows show the gain over the present size; its limits include a curve "
        "that levels off, one that does not, and chance.",
        highlight=False,
    )


def _gain(row: dict[str, Any], figure: str) -> str:
    return f"{row[f'{figure}_gain']:+.3f}, {row[f'{figure}_gain_low']:+.3f} to {row[f'{figure}_gain_high']:+.3f}"
