"""Labels that a person gives or mends: which to doubt, what to ask, and what came back."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crashcast import tables
from crashcast.annotation import answers as given
from crashcast.annotation.windows import KEYS, Windows, read
from crashcast.canonical import write_json, write_text
from crashcast.errors import UserError
from crashcast.files import replacing
from crashcast.params.telemetry import Telemetry

CLEAN = Path("data/clean")
INCIDENTS, COVERAGE = Path("data/raw/incidents.parquet"), Path("data/raw/coverage.parquet")


def read_windows(length: timedelta) -> tuple[Windows, np.ndarray]:
    """Read every server-window, and which of them people have judged.

    Where they agree, their word stands in for the records'.

    Returns
    -------
    Windows
    bool array of shape (n,)
        Whether an annotator was asked about each.
    """
    found = read(CLEAN, INCIDENTS, COVERAGE, length)
    said = given.consensus(given.read(given.PATH)).rename({"crash_at": "marked_at"}).with_columns(asked=True)
    frame = found.frame.join(said, on=KEYS, how="left", maintain_order="left")
    crash_at = pl.coalesce("marked_at", "crash_at", "started_at")
    believed = pl.when("is_crash").then(crash_at).when(~pl.col("is_crash")).then(None).otherwise("crash_at")
    judged = frame["asked"].fill_null(False).to_numpy()
    keys = frame.select(*KEYS, crash_at=believed)
    return Windows(keys, found.evidence, found.names), judged


def write_suspects(out: Path, limit: int, length: timedelta, seed: int) -> list[str]:
    """Write the labels that are believed least as a table, CSV or Parquet by its name; return what to print.

    What people have judged is settled, and not listed.
    """
    from crashcast.annotation.suspects import suspects

    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out} must end in .csv or .parquet")
    windows, judged = read_windows(length)
    ranked = suspects(windows, seed)
    settled = windows.take(judged).frame.select(KEYS)
    listed = _with_tickets(ranked.join(settled, on=KEYS, how="anti", maintain_order="left").head(limit))
    listed = listed.with_row_index("rank", offset=1)
    with replacing(out) as aside:
        if out.suffix == ".csv":
            listed.write_csv(aside, datetime_format="%Y-%m-%d %H:%M:%SZ")
        else:
            tables.write(aside, listed)
    by_record = {kind: listed.filter(recorded=kind) for kind in ("crash", "no crash")}
    return [
        f"{out}: the {listed.height:,} least believable labels of {len(windows):,} server-windows",
        *(
            f"  {rows.height:,} recorded as {kind}, {rows['is_issue'].sum():,} of them probably wrong"
            for kind, rows in by_record.items()
        ),
    ]


def _with_tickets(ranked: pl.DataFrame) -> pl.DataFrame:
    """Add the ticket of each recorded crash, to look it up."""
    columns = ["server_id", "incident_id", "source", "summary", "started_at", "kind"]
    records = tables.read(INCIDENTS, columns).filter(kind=tables.CRASH).sort("incident_id")
    tickets = records.drop("kind").rename({"started_at": "crash_at"}).unique(["server_id", "crash_at"], keep="first")
    return ranked.join(tickets, on=["server_id", "crash_at"], how="left", maintain_order="left")


def export_tasks(folder: Path, budget: int, length: timedelta, seed: int) -> list[str]:
    """Write the most informative windows as Label Studio's tasks, and the configuration for them; return what to print.

    The record has as many votes as the telemetry's committee: a window about which they differ is uncertain.
    """
    from crashcast.annotation.committee import MEMBERS, votes_out_of_fold
    from crashcast.annotation.label_studio import configuration, tasks
    from crashcast.annotation.selection import select

    settings = Telemetry.read()
    windows, judged = read_windows(length)
    votes = votes_out_of_fold(windows.evidence, windows.crash, windows.frame["server_id"].to_numpy(), seed)
    votes = np.hstack([votes, np.repeat(windows.crash[:, None], MEMBERS, axis=1)])
    left = np.flatnonzero(~judged)
    if not left.size:
        raise UserError("people have judged every window: there is nothing left to ask")
    chosen = windows.take(left[select(votes[left], windows.evidence[left], budget, seed)])
    asked: list[dict[str, Any]] = tasks(chosen, CLEAN, settings)
    write_text(folder / "labelling.xml", configuration(settings))
    write_json(folder / "tasks.json", asked)
    return [
        f"{folder / 'tasks.json'}: {len(chosen):,} of {left.size:,} server-windows, the most informative first",
        f"{folder / 'labelling.xml'}: the labelling configuration of the project that they are imported into",
    ]


def import_answers(file: Path) -> list[str]:
    """Add an export of Label Studio to the annotations, which git tracks, and return what to print."""
    from crashcast.annotation.label_studio import read_export

    found = read_export(file, Telemetry.read().interval)
    before = given.read(given.PATH)
    after = given.merge(before, found.annotations)
    tables.write(given.PATH, after)
    windows = found.annotations.select(KEYS).n_unique()
    people = found.annotations["annotator"].n_unique()
    verdicts = [f"{found.annotations.filter(verdict=verdict).height:,} {verdict}" for verdict in given.VERDICTS]
    return [
        f"{file}: {found.annotations.height:,} annotations of {windows:,} windows by {people} annotators: "
        f"{', '.join(verdicts)}; {found.skipped:,} skipped, {found.unanswered:,} tasks without an answer",
        f"{given.PATH}: {before.height:,} annotations became {after.height:,}",
        *given.agreement(after),
    ]
