"""Averages aligned at crashes, of rows that a person can check by eye."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from crashcast import tables
from crashcast.explore import before_crash

START, HOUR = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)


def rows(hours: int = 48) -> pl.DataFrame:
    """Return rows of servers a, b and c, whose load is the hour, the hour + 10 and the hour + 20."""
    added = {"a": 0, "b": 10, "c": 20}
    found = [(START + hour * HOUR, name, float(hour + more)) for hour in range(hours) for name, more in added.items()]
    return pl.DataFrame(found, schema={**tables.KEYS, "load": pl.Float32}, orient="row")


def crashes(*found: tuple[str, float, str]) -> pl.DataFrame:
    listed = [(name, START + hour * HOUR, kind) for name, hour, kind in found]
    return pl.DataFrame(
        listed, schema={"server_id": pl.String, "started_at": tables.TIMESTAMP, "kind": pl.String}, orient="row"
    )


def test_rows_are_aligned_at_the_last_one_before_the_crash() -> None:
    known = crashes(("a", 30.5, "fresh"), ("b", 30.5, "fresh"), ("c", 30.5, "fresh"))
    found = before_crash.align(rows(), known, ["load"], HOUR)["load"]["fresh"]
    assert found.crashes == 3
    assert (found.hours[0], found.hours[-1]) == (-24.0, 6.0)
    at = found.hours.index(0.0)
    assert (found.lower[at], found.middle[at], found.upper[at]) == (40.0, 40.0, 50.0)  # nearest of 30, 40, 50
    assert found.middle[at - 1] == 39.0


def test_kinds_stand_apart_and_one_without_rows_is_left_out() -> None:
    known = crashes(("a", 30.0, "fresh"), ("b", 40.0, "repeated"), ("nobody", 30.0, "other"))
    found = before_crash.align(rows(), known, ["load"], HOUR)["load"]
    assert set(found) == {"fresh", "repeated"}
    assert found["fresh"].middle[found["fresh"].hours.index(0.0)] == 30.0
    assert found["repeated"].middle[found["repeated"].hours.index(0.0)] == 50.0


def test_hours_before_the_first_row_are_left_out() -> None:
    found = before_crash.align(rows(), crashes(("a", 2.0, "fresh")), ["load"], HOUR)["load"]["fresh"]
    assert found.hours[0] == -2.0
    assert found.middle[0] == 0.0


@pytest.mark.parametrize("interval", [timedelta(minutes=1), timedelta(hours=1), timedelta(days=1), timedelta(days=7)])
def test_any_interval_gives_a_curve_that_can_be_drawn(interval: timedelta) -> None:
    monday = datetime(2026, 1, 5, tzinfo=UTC)
    times = [monday + k * interval for k in range(-3000, 3000)]
    some = pl.DataFrame({"timestamp": times, "server_id": "a", "load": 1.0}, schema_overrides=tables.KEYS)
    at = (monday - START + interval / 3) / HOUR
    found = before_crash.align(some, crashes(("a", at, "fresh")), ["load"], interval)["load"]["fresh"]
    assert 1 <= len(found.hours) <= before_crash.MOST_POINTS + 1
    assert 0.0 in found.hours
