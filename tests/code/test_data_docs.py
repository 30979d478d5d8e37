"""Great Expectations' pages of data whose names and values come from outside."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from crashcast import data_docs, tables
from crashcast.paths import TABLES

# Great Expectations' way with pandas
pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning an ndarray")

ROOT = Path(__file__).parents[2]
SIGN = "canary"
BREAKS_OUT = f"\" onclick={SIGN}() ' onclick={SIGN}() </td></script>"
EVIL = f"{BREAKS_OUT}<script>{SIGN}()</script><img src=x onerror={SIGN}()>$$x %s {{{{7*7}}}}"
LEADS_OUT = f"../../../../../../../../{SIGN}"
START = datetime(2026, 1, 5, tzinfo=UTC)


class Acting(HTMLParser):
    """Finds elements and attributes that run what a name says."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.in_script = tag == "script"
        if any(SIGN in (value or "") for name, value in attrs if name.startswith("on") or name in ("href", "src")):
            self.found.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False

    def handle_data(self, data: str) -> None:
        if self.in_script and SIGN in data:
            self.found.append(data)


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the pages of raw data with such names wherever a name or a value can be."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    params = Path("params.yaml").read_text()
    metrics = {name: {"min": 0, "max": 100} for name in ("cpu_pct", EVIL, LEADS_OUT)}
    start, end = params.index("telemetry:"), params.index("\n\n", params.index("telemetry:"))
    section = {"interval": "1h", "partition": "day", "metrics": metrics}
    Path("params.yaml").write_text(params[:start] + f"telemetry: {json.dumps(section)}" + params[end:])
    servers = ["a", EVIL, LEADS_OUT]
    rows = pl.DataFrame(
        {
            "timestamp": [START + timedelta(hours=hour // 6) for hour in range(24)],
            "server_id": [servers[n % 3] for n in range(24)],
            **{name: [1.0, 500.0] * 12 for name in metrics},
        },
        schema_overrides={"timestamp": tables.TIMESTAMP, **dict.fromkeys(metrics, pl.Float32)},
    )
    odd = rows.with_columns(pl.lit(1.0).alias(f"another {EVIL}"))
    telemetry, incidents, coverage, sources, alarms, actions = TABLES
    tables.write(telemetry / "day=2026-01-05/part-0.parquet", rows)
    tables.write(telemetry / "day=2026-01-06/part-0.parquet", odd.with_columns(pl.col("timestamp") + timedelta(days=1)))
    nothing = {name: [None] * 4 for name in tables.INCIDENTS}
    told = nothing | {"incident_id": [EVIL] * 4, "server_id": [EVIL] * 4, "kind": [EVIL] * 4, "started_at": [START] * 4}
    tables.write(incidents, pl.DataFrame(told, schema=tables.INCIDENTS))
    period = {"covered_from": [START] * 2, "covered_to": [START] * 2}
    tables.write(coverage, pl.DataFrame({"server_id": [EVIL] * 2, **period, "group": [EVIL] * 2}, tables.COVERAGE))
    tables.write(sources, pl.DataFrame({"source": [EVIL] * 2, **period}, schema=tables.TICKET_SOURCES))
    for path, schema in ((alarms, tables.ALARMS), (actions, tables.ACTIONS)):
        tables.write(path, pl.DataFrame([{n: EVIL for n, k in schema.items() if k == pl.String}] * 2, schema=schema))
    before = {*tmp_path.parent.rglob("*")}
    first = data_docs.build(*TABLES, out=Path("docs"))
    assert [path for path in {*tmp_path.parent.rglob("*")} - before if tmp_path / "docs" not in path.parents] == [
        tmp_path / "docs"
    ]
    return {str(page): page.read_text() for page in first.parent.rglob("*.html")}


def test_names_and_values_from_outside_are_text_and_no_part_of_a_path(pages: dict[str, str]) -> None:
    assert len(pages) > 10
    shown = 0
    for name, page in pages.items():
        assert SIGN not in name
        acting = Acting()
        acting.feed(page)
        assert acting.found == [], name
        shown += SIGN in page
    assert shown > 3
