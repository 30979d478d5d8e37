"""Why a crash was missed and why an alarm was false, in rows that a person can check by eye."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from crashcast.explore import cases
from crashcast.explore.cases import Case
from crashcast.explore.plot import Operation
from crashcast.modeling.alarms import AlarmWindow, judge

HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1)
WINDOW = AlarmWindow(lead=HOUR, horizon=6 * HOUR, interval=HOUR)
THRESHOLD = 0.5
CRASH_AT = START + 20 * HOUR  # an alarm that opens in [13:00, 19:00) counts


def rows(high: dict[int, float], silent: range = range(0)) -> pl.DataFrame:
    """Return the hourly rows of server a: its scores are 0.1, but for the hours in `high`."""
    found = [(START + k * HOUR, "a", 0, k not in silent, high.get(k, 0.1)) for k in range(48)]
    schema: dict[str, Any] = {"timestamp": pl.Datetime("us"), "server_id": pl.String, "label": pl.Int8}
    frame = pl.DataFrame(found, schema={**schema, "observed": pl.Boolean, "score": pl.Float64}, orient="row")
    return frame.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))


def found(scored: pl.DataFrame, *crashes: datetime) -> tuple[list[Case], list[Case]]:
    times = pl.Series([*crashes], dtype=pl.Datetime("us")).dt.replace_time_zone("UTC")
    known = pl.DataFrame({"server_id": ["a"] * len(crashes), "started_at": times})
    judged = judge(scored, known, THRESHOLD, WINDOW, (START, START + 48 * HOUR))
    return cases.find(scored, judged, Operation(THRESHOLD, WINDOW))


@pytest.mark.parametrize(
    ("scored", "expected", "scored_at"),
    [
        (
            rows({15: 0.4}),
            "From 13:00 to 19:00, in time to warn, the score was at most 0.4 (at 15:00); 0.5 raises an alarm.",
            15,
        ),
        (
            rows({14: 0.3, 19: 0.9}),
            "The alarm came too late: it opened 60 min before the crash, and 1h are needed. "
            "In time the score was at most 0.3; 0.5 raises an alarm.",
            14,
        ),
        (
            rows({12: 0.9, 13: 0.8}),
            "An alarm opened too early, at 2026-01-01 12:00, and covered only hours before the crash.",
            13,
        ),
        (rows({}, silent=range(13, 19)), "No row was observed from 13:00 to 19:00, in time to warn.", None),
    ],
    ids=["below", "late", "early", "silent"],
)
def test_why_a_crash_was_missed(scored: pl.DataFrame, expected: str, scored_at: int | None) -> None:
    missed, _ = found(scored, CRASH_AT)
    assert [case.why for case in missed] == [expected]
    assert missed[0].scored_at == (None if scored_at is None else START + scored_at * HOUR)


def test_a_crash_that_was_caught_is_no_case() -> None:
    assert found(rows({15: 0.9}), CRASH_AT) == ([], [])


def test_how_an_alarm_was_false() -> None:
    _, alone = found(rows({15: 0.9}))
    assert [case.why for case in alone] == ["It announced a crash from 2026-01-01 16:00 to 22:00, and none came."]
    _, before = found(rows({2: 0.9}), CRASH_AT)
    assert before[0].why.endswith("The server's next crash came 18 h after the alarm.")


def test_the_newest_come_first() -> None:
    missed, _ = found(rows({}), CRASH_AT, CRASH_AT + 20 * HOUR)
    assert [case.at for case in missed] == [CRASH_AT + 20 * HOUR, CRASH_AT]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"cpu_vs_fleet": 1.0, "mem_vs_fleet": -1.5},
            " No metric stood out then: mem was farthest from the fleet's mean",
        ),
        ({"cpu_vs_fleet": 4.0, "mem_vs_fleet": None}, " cpu was farthest from the fleet's mean, by +4.0 standard dev"),
        ({"cpu": 4.0}, ""),
    ],
)
def test_which_metric_stood_out(values: dict[str, float | None], expected: str) -> None:
    assert cases._standing_out(values).startswith(expected)
