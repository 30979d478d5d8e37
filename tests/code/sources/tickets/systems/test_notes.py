"""Notes with a front matter."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crashcast.params.tickets import TicketSource
from crashcast.sources.tickets import saved_records
from crashcast.sources.tickets.tickets import parse

LATEST = datetime(2026, 6, 1, tzinfo=UTC)


def source(type_: str = "table", **settings: Any) -> TicketSource:
    """Return what params.yaml might say about a source."""
    needed = {"files": ["tickets.csv"]} if type_ in ("table", "servicenow", "notes") else {}
    return TicketSource.model_validate({"type": type_, **needed, **settings})


def test_notes_keep_their_zones_and_a_broken_one_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.md").write_text(
        "---\nserver_ids: [b, a]\nstarted_at: 2026-03-01 10:00 -0500\n---\n\n# It fell over\nWhy?\n"
    )
    Path("broken.md").write_text("---\nserver_ids: [b\n---\n")
    Path("plain.md").write_text("Nothing to see\n---\n")
    rule = source("notes", files=["*.md"])
    found = parse("notes", rule, saved_records.records("notes", rule), LATEST)
    assert found.tickets.select("ticket_id", "server_id", "summary").rows() == [
        ("good.md", "a", "It fell over"),
        ("good.md", "b", "It fell over"),
    ]
    assert found.tickets["started_at"][0] == datetime(2026, 3, 1, 15, tzinfo=UTC)
    assert [(left_out.ticket_id, left_out.reason) for left_out in found.bad] == [
        ("broken.md", "no start at started_at")
    ]
    assert found.read == 2
