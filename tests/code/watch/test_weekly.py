"""Figures of weeks, counted by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from crashcast import tables
from crashcast.params.base import DAY
from crashcast.watch import weekly
from crashcast.watch.weekly import Series, Weeks, span

MONDAY = datetime(2026, 1, 5)
WEEKS = Weeks(MONDAY, 3, 2)


def named(series: list[Series]) -> dict[tuple[str, str], Series]:
    return {(one.name, one.figure): one for one in series}


def write(folder: Path, rows: pl.DataFrame) -> Path:
    for month in (1, 2):
        partition = tables.partition_at(datetime(2026, month, 1), "month")
        inside = pl.col("timestamp").is_between(*tables.utc(partition.start, partition.end), closed="left")
        if not rows.filter(inside).is_empty():
            tables.write(partition.path(folder), rows.filter(inside).sort("timestamp", "server_id"))
    return folder


def rows(*of_week: list[tuple[str, float | None, bool]]) -> pl.DataFrame:
    """Return rows of each week, a day apart: the server, cpu_pct, and whether it was observed."""
    found = [
        (MONDAY.replace(tzinfo=UTC) + week * 7 * DAY + number * DAY, *one)
        for week, some in enumerate(of_week)
        for number, one in enumerate(some)
    ]
    schema = {"timestamp": tables.TIMESTAMP, "server_id": pl.String, "cpu_pct": pl.Float32, "observed": pl.Boolean}
    return pl.DataFrame(found, schema, orient="row")


def test_only_whole_weeks_count() -> None:
    assert span(MONDAY, MONDAY + 15 * DAY, MONDAY + 28 * DAY) == (MONDAY, 4, 2)
    assert span(MONDAY - timedelta(hours=1), MONDAY + 13 * DAY, MONDAY + 28 * DAY) == (MONDAY, 4, 1)
    assert span(MONDAY + timedelta(hours=1), MONDAY + 15 * DAY, MONDAY + 27 * DAY) == (MONDAY + 7 * DAY, 2, 1)
    assert span(MONDAY, MONDAY, MONDAY + 6 * DAY) == (MONDAY, 0, 0)


def test_metrics_are_counted_over_observed_rows(tmp_path: Path) -> None:
    table = rows(
        [("a", 10, True), ("a", 20, True), ("a", 99, False), ("a", None, True)],
        [("a", 30, True), ("a", 40, True)],
        [("a", 1000, True)],
    )
    found = named(weekly.of_metrics(write(tmp_path, table), ["cpu_pct"], WEEKS))
    assert found["cpu_pct", "mean"].values.tolist() == [15, 35, 1000]
    assert found["cpu_pct", "missing"].values == pytest.approx([1 / 3, 0, 0])
    counts = found["cpu_pct", "distribution"].values
    assert counts.sum(axis=1).tolist() == [2, 2, 1]
    assert counts[2].tolist()[-1] == 1  # above all that the training weeks had
    assert counts[0] @ counts[1] == 0


def test_rows_before_the_first_and_after_the_last_whole_week_are_left_out(tmp_path: Path) -> None:
    table = rows(*[[("a", week + 1.0, True)] for week in range(5)])
    shifted = Weeks(MONDAY + 7 * DAY, 2, 1)
    found = named(weekly.of_metrics(write(tmp_path, table), ["cpu_pct"], shifted))
    assert found["cpu_pct", "mean"].values.tolist() == [2, 3]


def test_the_fleet_has_silent_rows_new_servers_and_groups(tmp_path: Path) -> None:
    every = [("a", 1.0, True)] * 7
    table = rows(every, every, every[:4])
    fresh = rows([], [], [("b", 1.0, True)] * 7)
    folder = write(tmp_path, pl.concat([table, fresh]))
    found = named(weekly.of_fleet(folder, {"a": "web", "b": "db"}, DAY, WEEKS))
    assert found["servers", "silent rows"].values == pytest.approx([0, 0, 3 / 14])
    assert found["servers", "new servers"].values.tolist() == [0, 0, 0.5]
    assert found["groups", "composition"].values.tolist() == [[0, 1], [0, 1], [1, 1]]


def test_a_server_of_one_training_week_alone_was_new_there(tmp_path: Path) -> None:
    both, once = [("a", 1.0, True)] * 2, [("b", 1.0, True)]
    found = named(weekly.of_fleet(write(tmp_path, rows(both + once, both, both)), {}, DAY, WEEKS))
    assert found["servers", "new servers"].values.tolist() == [0.5, 0, 0]
    assert ("groups", "composition") not in found


def test_crashes_are_counted_by_the_servers_that_records_cover() -> None:
    begin = MONDAY.replace(tzinfo=UTC)
    crash = {"server_id": "a", "kind": tables.CRASH, "started_at": begin + DAY, "reported_at": begin + 25 * DAY / 24}
    other = crash | {"started_at": begin + 8 * DAY, "reported_at": begin + 8 * DAY + timedelta(minutes=30)}
    planned = crash | {"kind": tables.MAINTENANCE}
    coverage = pl.DataFrame(
        {
            "server_id": ["a", "b"],
            "covered_from": [begin, begin + 3.5 * DAY],
            "covered_to": [begin + 30 * DAY, begin + 7 * DAY],
        }
    )
    known_to = MONDAY + 15 * DAY
    found = named(weekly.of_crashes(pl.DataFrame([crash, other, planned]), coverage, known_to, WEEKS))
    assert found["crashes", "crash rate"].values == pytest.approx([1 / 1.5, 1, np.nan], nan_ok=True)
    assert found["tickets", "ticket delay"].values == pytest.approx([60, 30, np.nan], nan_ok=True)
