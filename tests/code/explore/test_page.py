"""What the page reads of a large fleet, in rows that a person can count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from crashcast import tables
from crashcast.explore import catalogue, page
from crashcast.params.data import DEMO, Data, Input

HOUR = timedelta(hours=1)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return two months of two servers: four moments each."""
    for month in (1, 2):
        times = [datetime(2026, month, 1, tzinfo=UTC) + hour * HOUR for hour in range(4) for _ in "ab"]
        frame = pl.DataFrame({"timestamp": times, "server_id": [*"ab"] * 4}, schema_overrides=tables.KEYS)
        tables.write(tmp_path / f"month=2026-0{month}" / tables.FILE_NAME, frame)
    return tmp_path


@pytest.mark.parametrize(
    ("most", "rows", "start"),
    [
        (100, 16, datetime(2026, 1, 1)),
        (16, 16, datetime(2026, 1, 1)),
        (13, 12, datetime(2026, 1, 1, 2)),  # the two newest moments of January
        (9, 8, datetime(2026, 2, 1)),
        (8, 8, datetime(2026, 2, 1)),
        (3, 2, datetime(2026, 2, 1, 3)),
        (1, 2, datetime(2026, 2, 1, 3)),  # a moment is read whole
    ],
)
def test_the_newest_whole_moments_are_read(table: Path, most: int, rows: int, start: datetime) -> None:
    found, since = page.newest(table, list(tables.KEYS), most)
    assert (found.height, since) == (rows, start)
    assert found["timestamp"].is_sorted()
    assert found["timestamp"].min() >= start.replace(tzinfo=UTC)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "unit"), [("cpu_pct", "%"), ("latency_ms", "ms"), ("uptime_h", "h"), ("load", ""), ("P99.Seconds", "")]
)
def test_the_unit_is_what_the_name_ends_in(name: str, unit: str) -> None:
    assert catalogue.unit(name) == unit


def test_origin_and_licence_are_those_declared() -> None:
    declared = {"telemetry": {"origin": "our Prometheus", "licence": "internal"}}
    data = Data.model_validate({"source": "import", "inputs": declared})
    assert data.input("telemetry") == Input(origin="our Prometheus", licence="internal")
    assert data.input("incidents") is None
    assert Data(source="demo").input("incidents") == DEMO
    with pytest.raises(ValueError, match="data/raw has no metrics; it has telemetry, incidents"):
        Data.model_validate({"source": "import", "inputs": {"metrics": declared["telemetry"]}})
