"""`crashcast acted`: an action is written as the API writes it, and the open alarms are listed with what was done."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from issued_log import Issued, hour, issue
from typer.testing import CliRunner, Result

from crashcast import tables
from crashcast.cli import app
from crashcast.errors import UserError
from crashcast.operate import acted, state
from crashcast.operate.served_log import ServedLog, aware
from crashcast.params.label import Label

ROOT = Path(__file__).parents[3]
LABEL = Label.read(ROOT / "params.yaml")
NOW = hour(2)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServedLog:
    """Work in a project whose log has alarms, at two o'clock: one renewed, one over, one held back."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setattr("crashcast.versioning.commit_limits.check_places", lambda: None)  # there is no git
    monkeypatch.setattr(state, "utc_now", lambda: NOW)
    found = ServedLog("data/served")
    issue(
        found,
        [
            Issued("web-1", -5), Issued("web-1", 1, opened_before=6, score=0.6), Issued("web-2", -5),
            Issued("db-1", 0, score=0.95), Issued("db-2", 0, delivered=False),
        ],
        ["web-3"],
    )  # fmt: skip
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["acted", *arguments])


def recorded(log: ServedLog) -> list[tuple[object, ...]]:
    return log.read("actions", log.moments("actions")).rows()


def test_an_action_is_recorded(log: ServedLog) -> None:
    done = run("db-1", "--what", "restart", "--at", "2026-01-05T14:30+01:00", "--who", "ada")
    assert done.output == "Recorded: db-1, restart by ada at 05 Jan 13:30 UTC\n"
    assert recorded(log) == [(aware(NOW), "db-1", "restart", aware(hour(1.5)), "ada", "cli")]


def test_an_action_was_done_now_if_no_time_is_given(log: ServedLog) -> None:
    assert run("web-3", "--what", "drain").exit_code == 0  # a server without an alarm can be acted on, too
    assert recorded(log) == [(aware(NOW), "web-3", "drain", aware(NOW), None, "cli")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["db-1"], "say what was done: crashcast acted db-1 --what restart"),
        (["--what", "restart"], "name the server that was acted on: crashcast acted SERVER --what restart"),
        (["bd-1", "--what", "restart"], "no server bd-1 was scored: did you mean db-1"),
        (["x", "--what", "restart"], "no server x was scored: known are db-1, db-2, web-1 and 2 more"),
        (["db-1", "--what", "restart", "--at", "2026-01-05T14:06"], "at: must be a moment in the past"),
        (["db-1", "--what", "restart", "--at", "noon"], "--at noon: write a moment such as 2026-01-31"),
        (["db-1", "--what", "a\x1b[31mb"], "what: String should match pattern"),
        (["db-1", "--what", " "], "what: String should have at least 1 character"),
    ],
)
def test_what_is_no_action_is_refused_with_the_reason(log: ServedLog, arguments: list[str], told: str) -> None:
    done = run(*arguments)
    assert isinstance(done.exception, UserError)
    assert told in str(done.exception)
    assert recorded(log) == []


def test_where_nothing_is_served_an_action_would_be_lost(log: ServedLog) -> None:
    with pytest.raises(UserError, match=r"empty holds no scores, so `crashcast serve` does not run with this log"):
        acted.report(ServedLog("empty"), "db-1", "restart", None, None, NOW)


def test_a_server_of_the_records_may_be_acted_on_while_it_is_silent(log: ServedLog, tmp_path: Path) -> None:
    coverage = tmp_path / "coverage.parquet"
    period = datetime(2025, 1, 1), datetime(2026, 1, 1)
    rows = [("silent-1", *map(aware, period), None)]
    tables.write(coverage, pl.DataFrame(rows, tables.COVERAGE, orient="row"))
    assert acted.report(log, "silent-1", "restart", None, None, NOW, coverage).server_id == "silent-1"


def test_open_alarms_are_listed_with_what_was_done_since_they_opened(log: ServedLog) -> None:
    for at in (-6, -1, 1):  # one of them before the alarm
        acted.report(log, "web-1", "restart", hour(at), "ada" if at > 0 else None, NOW + at * timedelta(seconds=1))
    found = [(one.server_id, one.risk, one.opened_at, one.ends_at) for one in acted.find_open(log, LABEL, NOW)]
    assert found == [("db-1", 0.95, hour(0), hour(7)), ("web-1", 0.6, hour(-5), hour(8))]  # web-2's ended at two
    assert " ".join(run().output.split()) == (  # of a narrow terminal, too
        "server risk open since (UTC) ends acted on "
        "db-1 95% 05 Jan 12:00 05 Jan 19:00 not yet "
        "web-1 60% 05 Jan 07:00 05 Jan 20:00 restart at 05 Jan 11:00 UTC restart by ada at 05 Jan 13:00 UTC "
        "Report an action: crashcast acted SERVER --what restart"
    )


def test_without_an_open_alarm_that_is_said(log: ServedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "utc_now", lambda: hour(50))
    assert run().output == "No alarm is open.\n"
