"""Alarms and actions of the log become tables of raw data; tests/system/test_outcomes.py tracks them with DVC."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from alerting import free_port
from issued_log import REACH, Issued, hour, issue

from crashcast import tables
from crashcast.errors import UserError
from crashcast.operate import actions, collect_alarms
from crashcast.operate.actions import Action
from crashcast.operate.served_log import ServedLog, aware
from crashcast.params.serve import Serve
from crashcast.paths import ACTIONS_PATH, ALARMS_PATH, RAW

NOW = hour(20)
READ = ServedLog.read
PLAIN = {"listen": "127.0.0.1:0", "log": "served", "delay": "10m", "late_window": "2h", "max_ticket_age": "1d"}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServedLog:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collect_alarms, "track", lambda _: None)
    monkeypatch.setattr("crashcast.versioning.commit_limits.check_places", lambda: None)  # there is no git
    return ServedLog("served")


def bring_in(again: bool = False, **changes: Any) -> list[str]:
    return collect_alarms.collect(Serve.model_validate(PLAIN | changes), NOW, again)


def contents() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in RAW.glob("*.parquet")}


def act(log: ServedLog, server: str, at: float, reported: float, source: str = "cli", who: str | None = None) -> None:
    actions.record(Action(server, "restart", hour(at), who, source), log, hour(reported))


def test_what_was_issued_and_done_is_brought_in(log: ServedLog) -> None:
    issue(log, [Issued("b", 0), Issued("a", 0, delivered=False), Issued("b", 6, opened_before=6, score=0.7)])
    act(log, "b", at=1, reported=2, source="api", who="ada")
    act(log, "a", at=3.05, reported=3)  # by a clock that is three minutes ahead
    assert bring_in() == [
        "data/raw/alarms.parquet: 3 alarms added, 3 in all", "data/raw/actions.parquet: 2 actions added, 2 in all",
    ]  # fmt: skip
    first, six = aware(hour(0)), aware(hour(6))
    assert tables.read(ALARMS_PATH).rows() == [
        ("a", first, first, first + REACH, 0.9, 0.5, "v1.0.0", False),
        ("b", first, first, first + REACH, 0.9, 0.5, "v1.0.0", True),
        ("b", six, first, six + REACH, 0.7, 0.5, "v1.0.0", True),
    ]
    assert tables.read(ACTIONS_PATH).rows() == [
        ("b", "restart", aware(hour(1)), "ada", "api", aware(hour(2))),
        ("a", "restart", aware(hour(3.05)), None, "cli", aware(hour(3.05))),
    ]
    schemas = {path: tables.read(path).schema for path in (ALARMS_PATH, ACTIONS_PATH)}
    assert schemas == {ALARMS_PATH: pl.Schema(tables.ALARMS), ACTIONS_PATH: pl.Schema(tables.ACTIONS)}


def test_without_anything_new_every_byte_stays(log: ServedLog) -> None:
    assert bring_in() == []
    assert not RAW.exists()
    issue(log, [Issued("a", 0)])
    act(log, "a", at=1, reported=2)
    bring_in()
    before = contents()
    assert bring_in() == bring_in(again=True) == []
    assert contents() == before
    issue(log, [Issued("a", 9)])
    assert bring_in() == ["data/raw/alarms.parquet: 1 alarm added, 2 in all"]
    assert contents()["actions.parquet"] == before["actions.parquet"]


def test_piece_by_piece_and_at_once_are_the_same_bytes(log: ServedLog) -> None:
    for at in range(5):
        issue(log, [Issued("b", at), Issued("a", at)])
        act(log, "a", at=at - 1, reported=at + 0.5)
        act(log, "a", at=at - 1, reported=at + 0.75, who="ada")  # the same again
        bring_in()
    found = contents()
    for path in RAW.glob("*.parquet"):
        path.unlink()
    bring_in()
    assert contents() == found
    assert tables.read(ACTIONS_PATH)["who"].null_count() == 5


def test_rows_of_other_sources_stay(log: ServedLog) -> None:
    own = ("a", "drain", aware(hour(-30)), "ada", "csv", aware(hour(500)))
    tables.write(ACTIONS_PATH, pl.DataFrame([own], tables.ACTIONS, orient="row"))
    act(log, "a", at=-40, reported=-39)  # older than all that is known, and of another source
    bring_in()
    assert [row[4] for row in tables.read(ACTIONS_PATH).rows()] == ["cli", "csv"]


def test_of_an_old_log_only_the_end_is_read(log: ServedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(log, [Issued("a", at) for at in (0, 24 * 3, 24 * 30)])
    bring_in()
    read: list[datetime] = []

    def noting(self: ServedLog, table: str, moments: list[datetime]) -> pl.DataFrame:
        read.extend(moments)
        return READ(self, table, moments)

    monkeypatch.setattr(ServedLog, "read", noting)
    bring_in()
    assert read == [hour(24 * 30)]
    bring_in(again=True)
    assert len(read) == 1 + 3


def test_if_alertmanager_is_away_nothing_is_written(log: ServedLog) -> None:
    issue(log, [Issued("a", 0)])
    nobody = f"http://127.0.0.1:{free_port()}"
    for key in ("alertmanager", "silences"):
        with pytest.raises(UserError, match=rf"{nobody} gives no answer"):
            bring_in(**{key: nobody})
    assert contents() == {}


def test_a_table_that_was_not_pulled_is_not_taken_for_an_empty_one(log: ServedLog) -> None:
    RAW.mkdir(parents=True)
    (RAW / "alarms.parquet.dvc").write_text("outs: []")
    with pytest.raises(UserError, match=r"data/raw/alarms.parquet is missing: `dvc pull` brings it"):
        bring_in()


def test_one_report_of_an_action_is_kept_the_first() -> None:
    moment = aware(hour(0))
    rows = [
        ("a", "restart", moment, who, "cli", moment + minutes * timedelta(minutes=1))
        for who, minutes in (("b", 2), ("a", 1))
    ]
    new = pl.DataFrame(rows, tables.ACTIONS, orient="row")
    found = collect_alarms.merge(new.clear(), new, tables.ACTION_KEY)
    assert found["who"].to_list() == ["a"]
    assert collect_alarms.merge(found, new, tables.ACTION_KEY).equals(found)
