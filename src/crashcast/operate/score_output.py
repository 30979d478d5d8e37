"""Scores for people and programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from crashcast.errors import UserError
from crashcast.files import replacing
from crashcast.operate.reasons import Reason, reasons
from crashcast.operate.score import Scores
from crashcast.operate.textfile import Sample
from crashcast.params.base import format_duration
from crashcast.spreadsheet import write_csv
from crashcast.text import counted, some_of

SHOWN = 20  # servers of a table
WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    ".parquet": pl.DataFrame.write_parquet,
    ".csv": write_csv,
    ".json": pl.DataFrame.write_json,
}


def rfc3339(moment: datetime) -> str:
    """Write a naive moment for programs."""
    return f"{moment.isoformat(timespec='seconds')}Z"


def check_name(path: Path) -> None:
    """Refuse a file whose name does not say how to write it, or that has no place."""
    if path.suffix not in WRITERS:
        raise UserError(f"--out {path}: name a file that ends in {', '.join(WRITERS)}")
    if path.is_dir():
        raise UserError(f"--out {path}: this is a folder")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")


def write(scores: Scores, path: Path) -> None:
    """Write every server's row, with the first reason of those at risk, whole or not at all."""
    at_risk = scores.at_risk["server_id"]
    first = {server: str(found[0]) if (found := reasons(scores, server)) else None for server in at_risk}
    rows = scores.rows.with_columns(
        age_s=pl.col("age").dt.total_seconds(),
        reason=pl.col("server_id").replace_strict(first, default=None, return_dtype=pl.String),
    ).drop("age")
    with replacing(path) as aside:
        WRITERS[path.suffix](rows, aside)


def as_json(scores: Scores) -> dict[str, Any]:
    """Return the scores as plain values."""
    return {
        "model": scores.deployment.name,
        "threshold": scores.deployment.model.threshold,
        "at": scores.moment.isoformat(),
        "silent": scores.silent,
        "warnings": scores.warnings,
        "servers": [
            {
                "server_id": row["server_id"],
                "row": row["timestamp"].replace(tzinfo=None).isoformat(),
                "age_s": int(row["age"].total_seconds()),
                "risk": row["risk"],
                "is_at_risk": row["is_at_risk"],
            }
            for row in scores.rows.iter_rows(named=True)
        ],
    }


def samples(scores: Scores) -> Iterator[Sample]:
    """Yield the gauges of a fleet's scores. Prometheus keeps `instance` for what it scrapes: the label is `server`."""
    model = scores.deployment.model
    for server, row, risk in scores.rows.select("server_id", "timestamp", "risk").sort("server_id").iter_rows():
        of_server = {"server": server}
        yield Sample("crashcast_risk", "Probability of a crash after the lead, within the horizon.", risk, of_server)
        yield Sample("crashcast_row_timestamp_seconds", "Time of the row that was scored.", row.timestamp(), of_server)
    yield Sample("crashcast_threshold", "Risk from which a server counts as at risk.", model.threshold, {})
    yield Sample("crashcast_servers_scored", "Servers with a row that is new enough.", scores.rows.height, {})
    yield Sample("crashcast_servers_silent", "Servers without a row that is new enough.", len(scores.silent), {})
    yield Sample("crashcast_score_warnings", "Kinds of input that the scores lack.", len(scores.warnings), {})
    at = scores.moment.replace(tzinfo=UTC).timestamp()
    yield Sample("crashcast_score_timestamp_seconds", "Time of the newest row that is complete.", at, {})
    yield Sample(
        "crashcast_model_info", "The model that scored.", 1,
        {"version": scores.deployment.name, "algorithm": model.algorithm},
    )  # fmt: skip


def show(scores: Scores, console: Console) -> None:
    """Print the servers at risk, each with its first reason."""
    label, threshold = scores.deployment.label, scores.deployment.model.threshold
    console.print(
        f"At {scores.moment:%Y-%m-%d %H:%M} UTC, {counted(scores.rows.height, 'server')} scored by "
        f"{scores.deployment.name}: {scores.at_risk.height} at risk of a crash "
        f"{format_duration(label.lead)} to {format_duration(label.reach)} later (alarm threshold {threshold:.3g}).",
        highlight=False,
    )
    if scores.silent:
        told = f"{counted(len(scores.silent), 'server')} silent, not scored: {some_of(scores.silent)}"
        console.print(Text(told, "yellow"))
    for warning in scores.warnings:
        console.print(Text(warning, "yellow"))
    if scores.at_risk.is_empty():
        return
    table = Table(
        Column("server", overflow="fold"), "risk", "newest row", "first reason", box=None, padding=(0, 2, 0, 0)
    )
    for server, row, risk in scores.at_risk.select("server_id", "timestamp", "risk").head(SHOWN).iter_rows():
        found = reasons(scores, server)
        table.add_row(Text(server), f"{risk:.0%}", f"{row:%d %b %H:%M}", Text(str(found[0])) if found else "")
    console.print(table)
    if (more := scores.at_risk.height - SHOWN) > 0:
        console.print(f"and {more:,} more: --out FILE writes them all", highlight=False)


def explained(scores: Scores, server_id: str) -> list[Reason]:
    """Return the reasons for one server's risk.

    Raises
    ------
    UserError
        If it was not scored.
    """
    if server_id in scores.silent:
        raise UserError(f"{server_id} is silent: it has no row that is new enough to score")
    if server_id not in scores.rows["server_id"]:
        raise UserError(f"no server {server_id} was scored: {some_of(scores.rows['server_id'].sort().to_list())}")
    return reasons(scores, server_id)


def show_reasons(found: Sequence[Reason], console: Console) -> None:
    """Print reasons, the strongest first."""
    for number, reason in enumerate(found, 1):
        console.print(Text(f"{number}. {reason.source}: {reason}"))
    if not found:
        console.print("No metric raises its risk above that of a server with the fleet's median values.")


def reasons_as_json(found: Sequence[Reason]) -> list[dict[str, Any]]:
    """Return reasons as plain values."""
    return [reason._asdict() for reason in found]
