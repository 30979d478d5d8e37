"""The section `tickets` of params.yaml."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from crashcast.params.tickets import Tickets, TicketSource
from crashcast.sources.tickets import saved_records
from crashcast.sources.tickets.systems import SYSTEMS
from crashcast.sources.tickets.tickets import parse

LATEST = datetime(2026, 6, 1, tzinfo=UTC)


def source(type_: str = "table", **settings: Any) -> TicketSource:
    """Return what params.yaml might say about a source."""
    needed = {"files": ["tickets.csv"]} if type_ in ("table", "servicenow", "notes") else {}
    return TicketSource.model_validate({"type": type_, **needed, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "pagerduty", "url": "http://pagerduty.example.com"}, "must begin with https://"),
        ({"type": "pagerduty", "url": "https://me:secret@example.com"}, "hold no password"),
        ({"type": "pagerduty", "token": "secret"}, "Extra inputs are not permitted"),
        ({"type": "pagerduty", "url": "https://example.com", "files": ["a"]}, "files or url, not both"),
        ({"type": "servicenow", "url": "https://example.com"}, "type servicenow reads files"),
        ({"type": "jira", "url": "https://example.com", "server": {"field": "x"}}, "needs files, or url and query"),
        ({"type": "jira", "files": ["a.csv"]}, "needs server.field"),
        ({"type": "table", "files": ["a.csv"], "crash": {"priority": "P[1"}}, "is no regular expression"),
        ({"type": "table", "files": ["a.csv"], "crash": {"priority": []}}, "at least 1 item"),
        ({"type": "notes", "files": ["/srv/notes/*.md"]}, "paths from the project's root"),
        (
            {"type": "jira", "url": "https://a.b", "query": "a = 1 order by x", "server": {"field": "x"}},
            "leave ORDER BY out",
        ),
    ],
)
def test_a_source_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TicketSource.model_validate(settings)


def test_the_documented_sources_are_what_params_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs/incidents.md").read_text()
    documented = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["tickets"]
    rules = Tickets.model_validate(documented)
    assert {rule.type for rule in rules.sources.values()} == set(SYSTEMS)
    note = page.split("```\n---\n")[1].split("```")[0]
    Path("note.md").write_text(f"---\n{note}")
    found = parse("notes", source("notes"), saved_records.records("notes", source("notes", files=["note.md"])), LATEST)
    assert found.tickets["server_id"].to_list() == ["web-4", "web-5"]
    assert found.bad == []
