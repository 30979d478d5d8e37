"""Figures of weeks, counted by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from crashcast import tables
from crashcast.modeling.alarms import AlarmWindow
from crashcast.params.base import DAY
from crashcast.watch import weekly_statistics
from crashcast.watch.weekly_statistics import Series, Weeks, span

MONDAY = datetime(2026, 1, 5)
BEGIN = MONDAY.replace(tzinfo=UTC)
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
        (BEGIN + week * 7 * DAY + number * DAY, *one)
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
    found = named(weekly_statistics.of_metrics(write(tmp_path, table), ["cpu_pct"], WEEKS))
    assert found["cpu_pct", "mean"].values.tolist() == [15, 35, 1000]
    assert found["cpu_pct", "missing"].values == pytest.approx([1 / 3, 0, 0])
    counts = found["cpu_pct", "distribution"].values
    assert counts.sum(axis=1).tolist() == [2, 2, 1]
    assert counts[2].tolist()[-1] == 1  # above all that the training weeks had
    assert counts[0] @ counts[1] == 0


def test_rows_before_the_first_and_after_the_last_whole_week_are_left_out(tmp_path: Path) -> None:
    table = rows(*[[("a", week + 1.0, True)] for week in range(5)])
    shifted = Weeks(MONDAY + 7 * DAY, 2, 1)
    found = named(weekly_statistics.of_metrics(write(tmp_path, table), ["cpu_pct"], shifted))
    assert found["cpu_pct", "mean"].values.tolist() == [2, 3]


def test_the_fleet_has_silent_rows_new_servers_and_groups(tmp_path: Path) -> None:
    every = [("a", 1.0, True)] * 7
    table = rows(every, every, every[:2])
    fresh = rows([], [], [("b", 1.0, True)] * 7)
    folder = write(tmp_path, pl.concat([table, fresh]))
    found = named(weekly_statistics.of_fleet(folder, {"a": "web", "b": "db"}, DAY, WEEKS))
    assert found["servers", "silent rows"].values == pytest.approx([0, 0, 0.5])
    assert found["servers", "new servers"].values.tolist() == [0, 0, 0.5]
    assert found["groups", "composition"].values.tolist() == [[0, 1], [0, 1], [1, 1]]


def test_an_outage_of_some_days_makes_no_week_silent(tmp_path: Path) -> None:
    table = rows(*[[("a", 1.0, True)] * days for days in (7, 4, 3)])
    found = named(weekly_statistics.of_fleet(write(tmp_path, table), {}, DAY, WEEKS))
    assert found["servers", "silent rows"].values.tolist() == [0, 0, 1]


def test_a_server_of_one_training_week_alone_was_new_there(tmp_path: Path) -> None:
    both, once = [("a", 1.0, True)] * 2, [("b", 1.0, True)]
    found = named(weekly_statistics.of_fleet(write(tmp_path, rows(both + once, both, both)), {}, DAY, WEEKS))
    assert found["servers", "new servers"].values.tolist() == [0.5, 0, 0]
    assert ("groups", "composition") not in found


def test_crashes_are_counted_by_the_servers_that_records_cover() -> None:
    coverage = pl.DataFrame(
        {
            "server_id": ["a", "b"],
            "covered_from": [BEGIN, BEGIN + 3.5 * DAY],
            "covered_to": [BEGIN + 30 * DAY, BEGIN + 7 * DAY],
        }
    )
    crash = {"server_id": "a", "kind": tables.CRASH, "source": "pager"}
    first = [
        {**crash, "started_at": BEGIN + DAY, "reported_at": BEGIN + DAY + timedelta(minutes=minutes)}
        for minutes in (0, 0, 3, 15, 255)
    ]
    other = crash | {"started_at": BEGIN + 8 * DAY, "reported_at": BEGIN + 9 * DAY, "source": "phone"}
    planned = other | {"kind": tables.MAINTENANCE}
    known_to = MONDAY + 15 * DAY
    found = named(weekly_statistics.of_crashes(pl.DataFrame([*first, other, planned]), coverage, known_to, WEEKS))
    assert found["crashes", "crash rate"].values == pytest.approx([5 / 1.5, 1, np.nan], nan_ok=True)
    # the geometric mean of 1, 1, 4, 16 and 256, less 1; one crash is too few
    assert found["tickets", "ticket delay"].values == pytest.approx([2 ** (14 / 5) - 1, np.nan, np.nan], nan_ok=True)
    assert found["tickets", "sources"].values.tolist() == [[5, 0], [0, 1], [0, 0]]


@dataclass(frozen=True)
class AsGiven:
    """A model whose score is a feature."""

    threshold = 0.5
    features = ("score",)

    def predict(self, table: pl.DataFrame) -> np.ndarray:
        return table["score"].to_numpy()


def of_alarms(folder: Path, reason: str | None = None) -> dict[tuple[str, str], Series]:
    """Return the figures of two weeks after a week of training: six crashes each, and an alarm for some of them.

    Each crash is of a server of its own, three hours after the only row; that of the second week's last has no label.
    """
    found, crashes = [], []
    for week, high in ((1, "abcdg"), (2, "ag")):
        for day, server in enumerate("abcdefg"):
            moment = BEGIN + (7 * week + day) * DAY
            crashed = server != "g"
            found.append((moment, server, int(crashed), True, None, 0.75 if server in high else 0.25))
            crashes += [(server, moment + timedelta(hours=3))] if crashed else []
    found.append((BEGIN + 20.5 * DAY, "h", None, True, reason, 0.0))
    schema = {**tables.KEYS, "label": pl.Int8, "observed": pl.Boolean, "reason": pl.String, "score": pl.Float64}
    table = pl.DataFrame(found, schema, orient="row")
    labels = write(folder / "labels", table.drop("score"))
    features = write(folder / "features", table.select(*tables.KEYS, "score"))
    window = AlarmWindow(timedelta(hours=1), timedelta(hours=6), timedelta(hours=1))
    started = pl.DataFrame(crashes, {"server_id": pl.String, "started_at": tables.TIMESTAMP}, orient="row")
    model: Any = AsGiven()
    return named(
        weekly_statistics.of_alarms(features, labels, started, model, window, Weeks(MONDAY, 3, 1), range(1, 2))
    )


def test_alarms_are_judged_week_by_week_after_the_training_period(tmp_path: Path) -> None:
    found = of_alarms(tmp_path)
    assert found["alarms", "event recall"].values == pytest.approx([np.nan, 4 / 6, 1 / 6], nan_ok=True)
    # the second week has two alarms, which are too few
    assert found["alarms", "alarm precision"].values == pytest.approx([np.nan, 4 / 5, np.nan], nan_ok=True)
    expected = [5 * 0.75 + 2 * 0.25, 2 * 0.75 + 5 * 0.25]
    assert found["crash rows", "observed / expected"].values == pytest.approx(
        [np.nan, 6 / expected[0], 6 / expected[1]], nan_ok=True
    )
    assert all(one.reference == slice(1, 2) for one in found.values())


def test_a_week_in_which_somebody_acted_on_an_alarm_says_nothing_of_the_model(tmp_path: Path) -> None:
    recall = of_alarms(tmp_path, tables.MITIGATED)["alarms", "event recall"].values
    assert recall == pytest.approx([np.nan, 4 / 6, np.nan], nan_ok=True)
