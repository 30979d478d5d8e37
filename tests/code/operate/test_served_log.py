"""What was issued: written once and whole, and the alarms that follow from it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast.errors import UserError
from crashcast.modeling.alarms import AlarmWindow
from crashcast.operate.served_log import SCORES, ServedLog, aware, standing

HOUR = timedelta(hours=1)
NOON = datetime(2026, 1, 5, 12)
WINDOW = AlarmWindow(lead=HOUR, horizon=3 * HOUR, interval=HOUR)


def scores(moment: datetime, values: dict[str, float], threshold: float = 0.5) -> pl.DataFrame:
    rows = [
        (aware(moment), aware(moment), server, score, threshold, "v1.0.0", "a", "b") for server, score in values.items()
    ]
    return pl.DataFrame(rows, SCORES, orient="row")


def issue(log: ServedLog, *highs: str) -> None:
    """Write an hour for each word: the servers with a high score in it."""
    for hour, servers in enumerate(highs):
        moment = NOON + hour * HOUR
        log.write("scores", moment, scores(moment, {name: 0.9 if name in servers else 0.1 for name in "ab"}))


def alarms(log: ServedLog, hour: int) -> dict[str, tuple[int, int]]:
    """Return the hours at which the standing alarm of each server opened and was renewed last."""
    moment = NOON + hour * HOUR
    found = standing(log.alarms(moment, WINDOW), moment, WINDOW.duration)
    return {
        row["server_id"]: tuple(int((row[name] - aware(NOON)) / HOUR) for name in ("opened_at", "timestamp"))  # type: ignore[misc]
        for row in found.iter_rows(named=True)
    }


def test_what_was_issued_is_never_written_again(tmp_path: Path) -> None:
    log = ServedLog(str(tmp_path))
    assert log.write("scores", NOON, scores(NOON, {"a": 0.1}))
    assert not log.write("scores", NOON, scores(NOON, {"a": 0.9}))
    assert log.read("scores", [NOON])["score"].to_list() == [0.1]
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        "scores/day=2026-01-05/2026-01-05T120000Z.parquet"
    ]


def test_moments_come_in_order_and_leftovers_are_none(tmp_path: Path) -> None:
    log = ServedLog(str(tmp_path))
    assert (log.last(), log.moments("scores")) == (None, [])
    moments = [NOON + hours * HOUR for hours in (0, 30, 2, 13)]
    for moment in moments:
        log.write("scores", moment, scores(moment, {"a": 0.1}))
    (tmp_path / "scores/day=2026-01-05/.2026-01-05T180000Z.parquet.123").write_bytes(b"PAR1")
    (tmp_path / "scores/README").write_text("a person's note")
    assert log.moments("scores") == sorted(moments)
    assert log.moments("scores", NOON + HOUR) == sorted(moments)[1:]
    assert log.last() == max(moments)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    log = ServedLog(str(tmp_path))
    log.write("scores", NOON, scores(NOON, {"a": 0.1}))
    (path,) = tmp_path.rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"2026-01-05T120000Z\.parquet is not a table of the log"):
        log.read("scores", [NOON])


def test_an_alarm_stands_for_lead_and_horizon(tmp_path: Path) -> None:
    log = ServedLog(str(tmp_path))
    issue(log, "a", "", "", "", "", "")
    assert [alarms(log, hour) for hour in range(6)] == [{"a": (0, 0)}] * 4 + [{}, {}]


def test_a_high_score_after_the_horizon_renews_it_and_opens_no_new_page(tmp_path: Path) -> None:
    log = ServedLog(str(tmp_path))
    issue(log, "a", "a", "a", "a", "", "", "", "a")
    assert [alarms(log, hour)["a"] for hour in range(7)] == [(0, 0)] * 3 + [(0, 3)] * 4
    assert alarms(log, 7) == {"a": (0, 7)}  # it stood until then, so this renews it again


def test_an_alarm_that_is_over_is_not_renewed(tmp_path: Path) -> None:
    log = ServedLog(str(tmp_path))
    issue(log, "ab", "", "", "", "", "a")
    assert alarms(log, 5) == {"a": (5, 5)}


def test_a_score_is_high_by_the_threshold_that_it_was_issued_with(tmp_path: Path) -> None:
    log = ServedLog(str(tmp_path))
    log.write("scores", NOON, scores(NOON, {"a": 0.9, "b": 0.3}, threshold=0.2))
    log.write("scores", NOON + HOUR, scores(NOON + HOUR, {"a": 0.9, "b": 0.3}, threshold=0.95))
    assert alarms(log, 1) == {"a": (0, 0), "b": (0, 0)}


@given(st.lists(st.sampled_from(["", "a", "b", "ab"]), min_size=1, max_size=40), st.data())
def test_reading_back_only_as_far_as_needed_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, highs: list[str], data: st.DataObject
) -> None:
    """The alarms that stand are those of the whole log, gone through hour by hour."""
    log = ServedLog(str(tmp_path_factory.mktemp("log")))
    issue(log, *highs)
    hour = data.draw(st.integers(0, len(highs) - 1))
    expected = {}
    for server in "ab":
        opened = last = None
        for at in range(hour + 1):
            if server in highs[at] and (last is None or at >= last + 3):
                opened = at if last is None or at > last + 4 else opened
                last = at
        if last is not None and last + 4 > hour:
            expected[server] = (opened, last)
    assert alarms(log, hour) == expected
    assert alarms(ServedLog(log.address), hour) == expected
