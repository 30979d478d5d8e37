"""ServiceNow: its CSV and its JSON give the same tickets."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from crashcast.params.tickets import TicketSource
from crashcast.sources.tickets import saved_records
from crashcast.sources.tickets.tickets import parse

RECORDED = Path(__file__).parents[4] / "data/incident_apis"
LATEST = datetime(2026, 6, 1, tzinfo=UTC)


def source(type_: str = "table", **settings: Any) -> TicketSource:
    """Return what params.yaml might say about a source."""
    needed = {"files": ["tickets.csv"]} if type_ in ("table", "servicenow", "notes") else {}
    return TicketSource.model_validate({"type": type_, **needed, **settings})


def tickets_of(type_: str, name: str, **settings: Any) -> pl.DataFrame:
    """Return the tickets of a recorded file."""
    rule = source(type_, files=[str(RECORDED / name)], time_zone="Europe/Berlin", **settings)
    return parse(type_, rule, saved_records.records(type_, rule), LATEST).tickets


def test_servicenows_csv_says_what_its_json_says() -> None:
    exported, asked = (tickets_of("servicenow", f"servicenow_incident.{end}") for end in ("csv", "json"))
    assert_frame_equal(exported.drop("summary"), asked.drop("summary"))
    assert exported["started_at"][0] == datetime(2026, 3, 2, 9, 5, tzinfo=UTC)  # written 10:05, in Berlin
    assert exported["summary"][1] == 'Web shop slow, "one server gone"'
