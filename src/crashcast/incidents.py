"""Incident records, with missing times filled in."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from crashcast import tables
from crashcast.params.incidents import Incidents
from crashcast.tables import CRASH


def read_incidents(path: Path, incidents: Incidents) -> pl.DataFrame:
    """Read the incidents, with missing times filled in by the rules of params.yaml.

    Returns
    -------
    DataFrame
        `server_id`, `kind`, `started_at`, `resolved_at` (started_at + unresolved_outage if the ticket was never
        closed) and `reported_at` (when the team could know; started_at + reporting_delay if the source has none),
        sorted by (started_at, server_id, kind).
    """
    records = tables.read(path, ["server_id", "kind", "started_at", "resolved_at", "reported_at"])
    return complete_incidents(records, incidents).sort("started_at", "server_id", "kind", "resolved_at", "reported_at")


def complete_incidents(records: pl.DataFrame, incidents: Incidents) -> pl.DataFrame:
    """Return incidents with missing times filled in: see `read_incidents`."""
    return records.with_columns(
        pl.col("resolved_at").fill_null(pl.col("started_at") + incidents.unresolved_outage),
        pl.col("reported_at").fill_null(pl.col("started_at") + incidents.reporting_delay),
    )


def read_covered_crashes(incidents_path: Path, coverage: Path, incidents: Incidents) -> pl.DataFrame:
    """Read the crashes that fall into a period of coverage: those that can serve as ground truth.

    Returns
    -------
    DataFrame
        `server_id`, `started_at`, sorted by (started_at, server_id).
    """
    crashes = (
        read_incidents(incidents_path, incidents).filter(pl.col("kind") == CRASH).select("server_id", "started_at")
    )
    covered = tables.read(coverage, ["server_id", "covered_from", "covered_to"])
    inside = pl.col("started_at").is_between("covered_from", "covered_to", closed="left")
    found = crashes.join(covered, on="server_id").filter(inside).select(crashes.columns)
    return found.unique().sort("started_at", "server_id")
