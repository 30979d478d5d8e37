"""Jira: its export and its API give the same tickets."""

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


def test_jiras_export_says_what_its_api_says() -> None:
    kinds = {"maintenance": "Change", "crash": "Incident"}
    csv = {kind: {"Issue Type": word} for kind, word in kinds.items()}
    api = {kind: {"fields.issuetype": word} for kind, word in kinds.items()}
    pattern = r"(web|db)-\d+"
    exported = tickets_of("jira", "jira_export.csv", **csv, server={"field": "Labels", "pattern": pattern})
    asked = tickets_of("jira", "jira_search.json", **api, server={"field": "fields.labels", "pattern": pattern})
    assert exported.select("ticket_id", "server_id", "kind").rows() == [
        ("OPS-31", "db-2", "crash"),
        ("OPS-32", "web-2", "maintenance"),
    ]
    assert_frame_equal(exported.drop("summary"), asked.drop("summary"))
    assert exported["summary"][1] == "Kernel upgrade, second try"
