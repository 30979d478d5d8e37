"""Gauges of a project's own files, counted by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from crashcast import tables
from crashcast.operate.textfile import Sample
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TELEMETRY_PATH
from crashcast.watch import project_gauges


def at(day: int) -> datetime:
    return datetime(2026, 2, day, tzinfo=UTC)


def values(found: list[Sample]) -> dict[tuple[str, ...], float]:
    return {(name, *labels.values()): value for name, _, value, labels in found}


def test_the_data_says_how_far_it_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    samples = pl.DataFrame([(at(7), "a"), (at(3), "b")], tables.KEYS, orient="row")
    for month, rows in ((1, samples.head(0)), (2, samples)):
        tables.write(tables.partition_at(datetime(2026, month, 1), "month").path(TELEMETRY_PATH), rows)
    records = {name: [None] for name in tables.INCIDENTS} | {"started_at": [at(2)]}
    tables.write(INCIDENTS_PATH, pl.DataFrame(records, tables.INCIDENTS))
    coverage = {"server_id": ["a"], "covered_from": [at(1)], "covered_to": [at(5)], "group": [None]}
    tables.write(COVERAGE_PATH, pl.DataFrame(coverage, tables.COVERAGE))
    Path("data/validated.json").write_text(json.dumps({"figures": {"warnings": 3, "critical_failures": 0}}))
    assert values([*project_gauges._of_data()]) == {
        ("crashcast_data_newest_sample_timestamp_seconds",): at(7).timestamp(),
        ("crashcast_data_records_end_timestamp_seconds",): at(5).timestamp(),
        ("crashcast_data_newest_ticket_timestamp_seconds",): at(2).timestamp(),
        ("crashcast_data_validation_findings", "warnings"): 3,
        ("crashcast_data_validation_findings", "critical_failures"): 0,
    }


def test_the_size_of_a_store_is_that_of_its_files_and_a_link_is_none(tmp_path: Path) -> None:
    (tmp_path / "store/below").mkdir(parents=True)
    (tmp_path / "store/one").write_bytes(b"123")
    (tmp_path / "store/below/two").write_bytes(b"12345")
    (tmp_path / "store/link").symlink_to(tmp_path / "store/one")
    assert project_gauges._extent(tmp_path / "store") == (2, 8)
    assert project_gauges._extent(tmp_path / "none") == (0, 0)
