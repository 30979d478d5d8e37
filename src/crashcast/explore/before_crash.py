"""What happens before a crash: medians and quartiles of metrics and scores, aligned at the crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from crashcast.modeling.alarms import HOUR
from crashcast.modeling.slices import crash_kinds
from crashcast.operate.score import last_row

BEFORE, AFTER = timedelta(hours=24), timedelta(hours=6)
MOST_CRASHES = 1000  # of a kind, the newest
MOST_POINTS = 120
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Aligned:
    """A metric around the crashes of one kind.

    Attributes
    ----------
    hours : list of float
        After the crash, negative before it.
    lower, middle, upper : list of (float or None)
        The quartiles over the crashes.
    crashes : int
        How many.
    """

    hours: list[float]
    lower: list[float | None]
    middle: list[float | None]
    upper: list[float | None]
    crashes: int


def kinds(crashes: pl.DataFrame) -> pl.DataFrame:
    """Return crashes, `server_id` and `started_at`, with their `kind`: see `crash_kinds`."""
    masks = crash_kinds(crashes, crashes)
    kind = pl.coalesce(pl.when(pl.Series(mask)).then(pl.lit(name)) for name, mask in masks.items())
    return crashes.select("server_id", "started_at", kind=kind)


def align(
    rows: pl.DataFrame, crashes: pl.DataFrame, columns: Sequence[str], interval: timedelta
) -> dict[str, dict[str, Aligned]]:
    """Return the quartiles of each column at each time around crashes, by kind.

    A row holds the samples until its time, so the row at hour 0 is the last one that ended before the crash.

    Parameters
    ----------
    rows : DataFrame
        `timestamp`, `server_id` and the columns, on a grid of `interval`.
    crashes : DataFrame
        `server_id`, `started_at`, `kind`.
    columns : sequence of str
    interval : timedelta
        Of the grid.

    Returns
    -------
    dict of str to dict of str to Aligned
        By column and kind; a kind without crashes is left out.
    """
    step = max(1, -(-(BEFORE + AFTER) // (MOST_POINTS * interval))) * interval
    offsets = pl.DataFrame({"offset": [k * step for k in range(-(BEFORE // step), AFTER // step + 1)]})
    newest = crashes.sort("started_at", "server_id").group_by("kind", maintain_order=True).tail(MOST_CRASHES)
    at = [last_row(moment.replace(tzinfo=None), interval) for moment in newest["started_at"]]
    aligned = newest.with_columns(last_row=pl.Series(at, dtype=pl.Datetime("us")).dt.replace_time_zone("UTC"))
    wanted = aligned.join(offsets, how="cross").with_columns(timestamp=pl.col("last_row") + pl.col("offset"))
    found = wanted.join(rows.select("timestamp", "server_id", *columns), on=["timestamp", "server_id"], how="inner")
    quartiles = [
        pl.col(name).cast(pl.Float64).quantile(share).alias(f"{name}/{share}")
        for name in columns
        for share in QUARTILES
    ]
    summary = found.group_by("kind", "offset").agg(*quartiles).sort("kind", "offset")
    counts = dict(found.select("kind", "server_id", "started_at").unique().group_by("kind").len().iter_rows())
    found_of: dict[str, dict[str, Aligned]] = {name: {} for name in columns}
    for (kind,), some in summary.partition_by("kind", as_dict=True, maintain_order=True).items():
        hours = [offset / HOUR for offset in some["offset"]]
        for name in columns:
            lower, middle, upper = ([rounded(value) for value in some[f"{name}/{share}"]] for share in QUARTILES)
            found_of[name][str(kind)] = Aligned(hours, lower, middle, upper, counts[kind])
    return found_of


def rounded(value: float | None) -> float | None:
    """Return a value as a page shows it: with six digits."""
    return None if value is None else float(f"{value:.6g}")
