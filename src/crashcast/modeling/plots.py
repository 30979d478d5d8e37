"""The tables that `dvc plots` draws: a few hundred points a curve, whatever the number of rows.

Each is a CSV file whose bytes depend on its content alone; dvc.yaml (plots) says how it is drawn, with the templates in
`.dvc/plots/`.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from crashcast.canonical import SIGNIFICANT_DIGITS, write_text
from crashcast.modeling import row_metrics
from crashcast.params.label import Label
from crashcast.spreadsheet import as_text

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]

MAX_POINTS = 500  # of a curve, or of the time before a crash: more are not visible
TOP_FEATURES = 20
CRASHES_SHOWN = 3  # of the caught, and of the missed
BEFORE_CRASH = timedelta(hours=24)
HOUR = timedelta(hours=1)


def write(
    folder: Path,
    test: pl.DataFrame,
    crashes: pl.DataFrame,
    threshold: float,
    importance: pl.DataFrame,
    label: Label,
) -> None:
    """Write every table into an empty folder.

    Parameters
    ----------
    folder : Path
        Gets `precision_recall.csv`, `roc.csv`, `calibration.csv`, `confusion.csv`, `importance.csv`, `timelines.csv`.
    test : DataFrame
        Every test row of known label: `timestamp`, `server_id`, `label`, `score`.
    crashes : DataFrame
        The judged crashes of the test part (see `alarms.catch`).
    threshold : float
        Rows at or above it raise alarms.
    importance : DataFrame
        `feature`, `pr_auc_lost`, the largest first.
    label : Label
        When an alarm counts as true.
    """
    labels, scores = test["label"].to_numpy(), test["score"].to_numpy()
    frames = {
        "precision_recall": row_metrics.pr_curve(labels, scores, MAX_POINTS).select("recall", "precision"),
        "roc": row_metrics.roc_curve(labels, scores, MAX_POINTS),
        "calibration": row_metrics.reliability(labels, scores).select("mean_score", "crash_rate", "rows"),
        "confusion": confusion(labels, scores, threshold),
        "importance": importance.head(TOP_FEATURES),
        "timelines": timelines(test, typical_crashes(crashes), threshold, label),
    }
    for name, frame in frames.items():
        write_text(folder / f"{name}.csv", as_csv(frame))


def confusion(labels: Labels, scores: Floats, threshold: float) -> pl.DataFrame:
    """Count the rows of each kind at a threshold.

    Returns
    -------
    DataFrame
        `actual` and `predicted` ("crash" or "no crash"), `rows`; four lines.
    """
    actual, predicted = labels.astype(bool), scores >= threshold
    word = {True: "crash", False: "no crash"}
    cells = [(a, p) for a in (True, False) for p in (True, False)]
    return pl.DataFrame(
        {
            "actual": [word[a] for a, _ in cells],
            "predicted": [word[p] for _, p in cells],
            "rows": [int(np.count_nonzero((actual == a) & (predicted == p))) for a, p in cells],
        }
    )


def typical_crashes(crashes: pl.DataFrame, shown: int = CRASHES_SHOWN) -> pl.DataFrame:
    """Choose typical crashes, not those on which the model does best.

    The caught, and the missed, are divided in order of time into `shown` groups of equal size; of each group the crash
    of median lead is chosen, or, of the missed, which have none, the middle one. Crashes without an observed row
    before them are left out.

    Returns
    -------
    DataFrame
        At most `shown` of the caught crashes, then of the missed ones, each in order of time.
    """
    chosen = []
    for caught in (True, False):
        members = crashes.filter("had_observed_row", caught=caught).sort("started_at", "server_id")
        borders = np.linspace(0, members.height, shown + 1).round().astype(int)
        for start, stop in pairwise(borders):
            group = members[start:stop].sort("lead_time", maintain_order=True)
            chosen.append(group[group.height // 2 :].head(1))
    return pl.concat(chosen)


def timelines(test: pl.DataFrame, crashes: pl.DataFrame, threshold: float, label: Label) -> pl.DataFrame:
    """Follow the score of each server up to its crash.

    Parameters
    ----------
    test : DataFrame
        `timestamp`, `server_id`, `score`.
    crashes : DataFrame
        `server_id`, `started_at`, `caught`.
    threshold : float
        Rows at or above it raise alarms.
    label : Label
        When an alarm counts as true.

    Returns
    -------
    DataFrame
        `incident` (server and time of the crash), `outcome` ("caught" or "missed"), `hours_to_crash` (falling),
        `score`, `threshold`, and `warning_from_h` and `warning_to_h`, between which an alarm is a true one. At most
        `MAX_POINTS` rows a crash, the highest scores of denser ones.
    """
    span, started_at = max(BEFORE_CRASH, label.reach), pl.col("started_at")
    shown = crashes.select("server_id", "started_at", "caught").with_row_index("crash")
    of_these = test["server_id"].is_in(shown["server_id"].to_list())
    rows = test.select("timestamp", "server_id", "score").filter(of_these)
    rows = rows.with_columns(pl.col("server_id").cast(pl.String)).join(shown, on="server_id")
    before = rows.filter(pl.col("timestamp").is_between(started_at - span, started_at, closed="right"))
    by_time = before.sort("crash", "timestamp").with_columns(hours_to_crash=(started_at - pl.col("timestamp")) / HOUR)
    slot = (pl.col("hours_to_crash") * (MAX_POINTS * HOUR / span)).floor()
    highest = by_time.filter(
        pl.col("score").arg_max().over("crash", slot) == pl.int_range(pl.len()).over("crash", slot)
    )
    return highest.select(
        incident=pl.format("{} at {}", "server_id", started_at.dt.strftime("%Y-%m-%d %H:%M")),
        outcome=pl.when("caught").then(pl.lit("caught")).otherwise(pl.lit("missed")),
        hours_to_crash="hours_to_crash",
        score="score",
        threshold=pl.lit(threshold),
        warning_from_h=pl.lit(label.reach / HOUR),
        warning_to_h=pl.lit(label.lead / HOUR),
    )


def as_csv(frame: pl.DataFrame) -> str:
    """Write a frame as CSV, its numbers with 6 significant digits, and its texts without `<`."""
    digits = f".{SIGNIFICANT_DIGITS}g"
    return (
        as_text(frame)
        # DVC writes them into a script as they are
        .with_columns(cs.string().str.replace_all("<", "\u2039", literal=True))
        .with_columns(
            pl.Series(column.name, [format(value, digits) for value in column]) for column in frame.select(cs.float())
        )
        .write_csv()
    )
