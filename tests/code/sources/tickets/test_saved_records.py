"""Exports and saved answers in files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crashcast.errors import UserError
from crashcast.params.tickets import TicketSource
from crashcast.sources.tickets import saved_records
from crashcast.sources.tickets.tickets import parse

RECORDED = Path(__file__).parents[3] / "data/incident_apis"
LATEST = datetime(2026, 6, 1, tzinfo=UTC)


def source(type_: str = "table", **settings: Any) -> TicketSource:
    """Return what params.yaml might say about a source."""
    needed = {"files": ["tickets.csv"]} if type_ in ("table", "servicenow", "notes") else {}
    return TicketSource.model_validate({"type": type_, **needed, **settings})


def test_a_table_has_whatever_columns_it_has(tmp_path: Path) -> None:
    path = tmp_path / "outages.parquet"
    pl.DataFrame({"no": [7], "node": ["a"], "down": [datetime(2026, 3, 1, 10)], "up": [None]}).write_parquet(path)
    fields = {"ticket_id": "no", "started_at": "down", "resolved_at": "up", "reported_at": None}
    rule = source(files=[str(path)], server={"field": "node"}, fields=fields, time_zone="UTC")
    found = parse("ours", rule, saved_records.records("ours", rule), LATEST).tickets.row(0, named=True)
    assert (found["ticket_id"], found["server_id"], found["resolved_at"]) == ("7", "a", None)
    assert found["started_at"] == datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_moments_within_a_list_that_python_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "outages.parquet"
    days = pl.Series("down", [[3_000_000]], dtype=pl.List(pl.Int32)).cast(pl.List(pl.Date))
    pl.DataFrame({"no": [7], "down": days}).write_parquet(path)
    with pytest.raises(UserError, match=r"outages.parquet holds a value that cannot be read \(year"):
        list(saved_records.records("ours", source(files=[str(path)], fields={"ticket_id": "no"})))


def test_saved_answers_are_read_as_the_api_gives_them() -> None:
    rule = source("pagerduty", files=[str(RECORDED / "pagerduty_incidents.json")], crash={"priority": "P1"})
    found = parse("pagerduty", rule, saved_records.records("pagerduty", rule), LATEST)
    assert found.ignored == 3
    assert found.tickets["server_id"].to_list() == ["Host monitoring", "Host monitoring", "Shop checkout"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", "{", "is not valid JSON"),
        ("t.json", "[" * 100_000, "is not valid JSON"),
        (
            "t.json",
            '{"result": "none"}',
            "holds no list of records, by itself or under incidents, data, result, issues, records",
        ),
        ("t.csv", "a,b\n1\n", "row 2: 1 values for 2 columns"),
        ("t.csv", "", "row 1: no header"),
        ("t.csv", b"a,b\n\xff,1\n", "is not UTF-8 text"),
        ("t.xlsx", "x", "unknown kind of file"),
        (None, "", "there is no file .*none.csv; correct tickets.sources.ours.files"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str | None, content: str | bytes, message: str) -> None:
    if name is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        list(saved_records.records("ours", source(files=[str(tmp_path / (name or "none.csv"))])))
