"""Answers of annotators about server-windows: `data/raw/annotations.parquet`, a row for each window and annotator."""

from __future__ import annotations

from datetime import timedelta
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import cohen_kappa_score

from crashcast import tables
from crashcast.annotation import windows
from crashcast.annotation.windows import KEYS, Windows
from crashcast.labelling.candidate_events import ANNOTATIONS, NO_CRASH
from crashcast.paths import CLEAN_PATH, COVERAGE_PATH, INCIDENTS_PATH
from crashcast.tables import CRASH

PATH = Path("data/raw/annotations.parquet")
UNSURE = "unsure"
DELETED = "deleted user, annotation"  # and its id, of an annotator whose account is gone
VERDICTS = (CRASH, NO_CRASH, UNSURE)
ORDER = ["started_at", "server_id", "ended_at", "annotator"]


def read(path: Path) -> pl.DataFrame:
    """Read the annotations; none if there is no file."""
    return tables.read(path, ANNOTATIONS) if path.exists() else pl.DataFrame(schema=ANNOTATIONS)


def windows_with_answers(length: timedelta) -> tuple[Windows, np.ndarray]:
    """Read every server-window; if annotators agree about one, their answer replaces the records.

    Returns
    -------
    Windows
    bool array of shape (n,)
        Whether an annotator has answered for each.
    """
    found = windows.read(CLEAN_PATH, INCIDENTS_PATH, COVERAGE_PATH, length)
    agreed = consensus(read(PATH)).rename({"crash_at": "marked_at"}).with_columns(is_answered=True)
    frame = found.frame.join(agreed, on=KEYS, how="left", maintain_order="left")
    crash_at = pl.coalesce("marked_at", "crash_at", "started_at")
    corrected = pl.when("is_crash").then(crash_at).when(~pl.col("is_crash")).then(None).otherwise("crash_at")
    keys = frame.select(*KEYS, crash_at=corrected)
    return Windows(keys, found.evidence, found.names), frame["is_answered"].fill_null(False).to_numpy()


def merge(before: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Add annotations; of several answers of one annotator about one window, the last one counts."""
    both = pl.concat([before, new.select(*ANNOTATIONS)])
    # an export that was made before the account was deleted has the name of the same answer
    is_deleted, answer = pl.col("annotator").str.starts_with(DELETED), [*KEYS, "verdict", "crash_at", "annotated_at"]
    named = both.filter(~is_deleted)
    both = pl.concat([named, both.filter(is_deleted).join(named, on=answer, how="anti", nulls_equal=True)])
    # two last answers at the same moment: the order is arbitrary, but always the same
    latest = both.sort("annotated_at", "verdict", "crash_at").unique([*KEYS, "annotator"], keep="last")
    return latest.sort(ORDER)


def consensus(annotations: pl.DataFrame) -> pl.DataFrame:
    """Return what the annotators of each window agree on.

    Returns
    -------
    DataFrame
        `server_id`, `started_at`, `ended_at`; `is_crash`, by the majority of those who are sure, null if there is
        none; `crash_at`, the median of the moments that they gave.
    """
    sure = pl.col("verdict").replace_strict({CRASH: 1, NO_CRASH: -1, UNSURE: 0}, return_dtype=pl.Int32).sum()
    return (
        annotations.group_by(KEYS)
        .agg(for_crash=sure, crash_at=pl.col("crash_at").median())
        .select(
            *KEYS,
            is_crash=pl.when(pl.col("for_crash") != 0).then(pl.col("for_crash") > 0),
            crash_at=pl.when(pl.col("for_crash") > 0).then("crash_at"),
        )
        .sort(KEYS)
    )


def agreement(annotations: pl.DataFrame) -> list[str]:
    """Describe how far annotators agree, a line each: all by Krippendorff's alpha, each two by Cohen's kappa."""
    of_verdicts = [(pl.col("verdict") == verdict).sum().alias(verdict) for verdict in VERDICTS]
    counts = annotations.group_by(KEYS).agg(of_verdicts).select(VERDICTS).to_numpy().astype(np.int64)
    by_several = int(np.count_nonzero(counts.sum(axis=1) > 1))
    if by_several == 0:
        return ["no window has answers of two annotators: how far they agree is not known"]
    alpha = krippendorff_alpha(counts)
    measured = "all answers are the same" if alpha is None else f"Krippendorff's alpha {alpha:.2f}"
    lines = [f"{by_several:,} windows have answers of several annotators: {measured} (1: agreement, 0: as by chance)"]
    known = annotations.filter(~pl.col("annotator").str.starts_with(DELETED))
    wide = known.pivot("annotator", index=KEYS, values="verdict", sort_columns=True).drop(KEYS)
    for one, other in combinations(wide.columns, 2):
        shared = wide.select(one, other).drop_nulls()
        if shared.height:
            same = float(np.mean(shared[one].to_numpy() == shared[other].to_numpy()))
            if shared[one].n_unique() > 1 or shared[other].n_unique() > 1:
                measured = f"Cohen's kappa {cohen_kappa_score(shared[one].to_list(), shared[other].to_list()):.2f}"
            else:
                measured = "one verdict only, so kappa is undefined"
            lines.append(f"{one} and {other}: {same:.0%} of {shared.height:,} windows alike, {measured}")
    return lines


def krippendorff_alpha(counts: np.ndarray) -> float | None:
    """Return Krippendorff's alpha of nominal values, for any number of annotators and any values missing.

    Source: Krippendorff, Computing Krippendorff's alpha-reliability, 2011.

    Parameters
    ----------
    counts : int array of shape (units, values)
        How many annotators gave each unit each value.

    Returns
    -------
    float or None
        1: agreement, 0: as by chance, below: worse; None if all values are equal, or no unit has two.
    """
    pairable = counts[counts.sum(axis=1) > 1].astype(np.float64)
    of_unit, of_value = pairable.sum(axis=1), pairable.sum(axis=0)
    n = of_value.sum()
    expected = n * n - np.sum(of_value**2)
    if expected == 0:
        return None
    observed = np.sum((of_unit**2 - np.sum(pairable**2, axis=1)) / (of_unit - 1))
    return float(1 - (n - 1) * observed / expected)
