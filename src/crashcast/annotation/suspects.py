"""Labels that are probably wrong, the least plausible first.

Source: Northcutt, Jiang, Chuang, Confident learning: estimating uncertainty in dataset labels, JAIR 70 (2021); here by
cleanlab. A label is checked by forests that were fitted without its server (`committee`).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.annotation.answers import windows_with_answers
from crashcast.annotation.committee import Floats, votes_out_of_fold
from crashcast.annotation.windows import KEYS, Windows
from crashcast.errors import UserError
from crashcast.files import replacing
from crashcast.paths import INCIDENTS_PATH
from crashcast.spreadsheet import write_csv

ROUNDED = 4  # digits


def quality(crash: NDArray[np.bool_], probability: Floats) -> Floats:
    """Return how plausible each label is, between 0 (not at all) and 1, shape (n,).

    Parameters
    ----------
    crash : bool array of shape (n,)
        The labels.
    probability : float array of shape (n,)
        Of a crash, by a model that was fitted without this label.
    """
    from cleanlab.rank import get_label_quality_scores

    both = np.column_stack([1 - probability, probability])
    # crashes are rare: each class is measured by how sure the model usually is of it
    score = get_label_quality_scores(crash.astype(int), both, method="normalized_margin", adjust_pred_probs=True)
    return np.abs(score)  # rounding leaves some slightly below 0


def suspects(windows: Windows, seed: int) -> pl.DataFrame:
    """Rank the windows, the least plausible label first.

    Returns
    -------
    DataFrame
        The windows' `server_id`, `started_at`, `ended_at`; `recorded` ("crash" or "no crash"), `crash_at`,
        `probability` of a crash by telemetry, `quality` of the label (see `quality`), `is_issue` (cleanlab's estimate
        of which labels are wrong), `gap_h` and `gap_company` (see `windows.evidence`).
    """
    from cleanlab.filter import find_label_issues

    servers = windows.frame["server_id"].to_numpy()
    probability = votes_out_of_fold(windows.evidence, windows.crash, servers, seed).mean(axis=1)
    score = quality(windows.crash, probability)
    both = np.column_stack([1 - probability, probability])
    issues = find_label_issues(windows.crash.astype(int), both, filter_by="prune_by_noise_rate", n_jobs=1)
    shown = {name: windows.evidence[:, windows.names.index(name)] for name in ("gap_h", "gap_company")}
    return windows.frame.with_columns(
        recorded=pl.when(pl.col("crash_at").is_null()).then(pl.lit("no crash")).otherwise(pl.lit("crash")),
        probability=pl.Series(probability).round(ROUNDED),
        quality=pl.Series(score).round(ROUNDED),
        is_issue=pl.Series(issues),
        **{name: pl.Series(values).round(ROUNDED) for name, values in shown.items()},
    ).sort("quality", "started_at", "server_id")


def write_suspects(out: Path, limit: int, length: timedelta, seed: int) -> list[str]:
    """Write the least plausible labels as a table, CSV or Parquet by its name; return the lines to print.

    Windows that annotators have answered for are not listed.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out} must end in .csv or .parquet")
    windows, is_answered = windows_with_answers(length)
    ranked = suspects(windows, seed)
    answered = windows.take(is_answered).frame.select(KEYS)
    listed = _with_tickets(ranked.join(answered, on=KEYS, how="anti", maintain_order="left").head(limit))
    listed = listed.with_row_index("rank", offset=1)
    with replacing(out) as aside:
        if out.suffix == ".csv":
            write_csv(listed, aside, datetime_format="%Y-%m-%d %H:%M:%SZ")
        else:
            tables.write(aside, listed)
    by_record = {kind: listed.filter(recorded=kind) for kind in ("crash", "no crash")}
    return [
        f"{out}: the {listed.height:,} least plausible labels of {len(windows):,} server-windows",
        *(
            f"  {rows.height:,} recorded as {kind}, {rows['is_issue'].sum():,} of them probably wrong"
            for kind, rows in by_record.items()
        ),
    ]


def _with_tickets(ranked: pl.DataFrame) -> pl.DataFrame:
    """Add the ticket of each recorded crash, to look it up."""
    columns = ["server_id", "incident_id", "source", "summary", "started_at", "kind"]
    records = tables.read(INCIDENTS_PATH, columns).filter(kind=tables.CRASH).sort("incident_id")
    tickets = records.drop("kind").rename({"started_at": "crash_at"}).unique(["server_id", "crash_at"], keep="first")
    return ranked.join(tickets, on=["server_id", "crash_at"], how="left", maintain_order="left")
