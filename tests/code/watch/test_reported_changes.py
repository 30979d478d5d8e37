"""Reported changes of the fleet: a small table that people can edit."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from crashcast import cli
from crashcast.errors import UserError
from crashcast.params.retrain import Retrain
from crashcast.params.split import Split
from crashcast.watch import due, reported_changes
from crashcast.watch.drift import Finding, Report
from crashcast.watch.drift_output import as_json, verdict
from crashcast.watch.due import Due
from crashcast.watch.reported_changes import Change, add, between, named, read

AT = datetime(2026, 5, 1, 12)
RELEASE, KERNEL = Change(AT, "app 4.2"), Change(AT - timedelta(days=3), "kernel 6.12", ("web-1", "web-2"))


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/raw").mkdir(parents=True)
    pl.DataFrame({"server_id": ["web-1", "web-2", "db-1"]}).write_parquet("data/raw/coverage.parquet")


def test_the_table_is_sorted_and_has_each_change_once() -> None:
    assert read() == []
    assert add([RELEASE]) == [RELEASE]
    assert add([KERNEL, RELEASE]) == [KERNEL]
    assert add([KERNEL]) == []
    assert reported_changes.PATH.read_text() == (
        "at,what,servers\n2026-04-28T12:00,kernel 6.12,web-1 web-2\n2026-05-01T12:00,app 4.2,\n"
    )
    assert read() == [KERNEL, RELEASE]
    assert between(KERNEL.at, RELEASE.at) == [KERNEL]
    assert str(KERNEL) == "kernel 6.12 on 2 servers (2026-04-28)"


def test_a_text_that_a_spreadsheet_would_run_stays_the_same_change() -> None:
    formula = named("=1+1", [], AT)
    assert add([formula]) == [formula]
    assert "'=1+1" in reported_changes.PATH.read_text()
    assert add([formula]) == []
    assert read() == [formula]


def test_a_servers_name_is_one_of_the_fleet() -> None:
    with pytest.raises(UserError, match=r"no server is called wep-1"):
        add([RELEASE, named("a disk", ["wep-1", "db-1"], AT)])
    assert not reported_changes.PATH.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name the columns: at,what,servers"),
        ("at,servers\n", "must name the columns"),
        ("at,what,who\n", "must name the columns"),
        ("at,what\n2026-05-01,app 4.2\nyesterday,app\n", "line 3: at yesterday: write a moment such as"),
        ("at,what\n2026-05-01\n", "line 2: name a moment, and what was changed"),
        ("at,what\n2026-05-01, \n", "say what was changed"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(text: str, message: str) -> None:
    reported_changes.PATH.write_text(text)
    with pytest.raises(UserError, match=message):
        read()


def test_times_may_name_a_zone() -> None:
    reported_changes.PATH.write_text("at,what,servers\n2026-05-01T14:00+02:00,app 4.2,\n")
    assert read() == [RELEASE]


def test_a_change_is_a_reason_once_labels_reach_far_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    add([RELEASE, KERNEL])
    policy = {"max_age": "900d", "new_crashes": 9, "min_crashes": 1, "min_interval": "0h"}

    def reasons(known_to: datetime, since: list[str] | None = None, **after: str | None) -> list[str]:
        section = Retrain.model_validate({**policy, "after_change": "14d", **after})
        found = Due("v1.0.0", AT - timedelta(days=1), known_to, 100, 10)
        split = Split(method="time", train=0.7, validation=0.15, test=0.15, seed=1, since=since)
        return [*due._by_changes(found, section, AT - timedelta(days=56), split)]

    assert reasons(AT + timedelta(days=14)) == []
    (reason,) = reasons(AT + timedelta(days=15))
    # 56 days before it and 14 beyond are 70 % of 100
    assert reason == (
        "Changed since: app 4.2 (2026-05-01); labels reach 14d beyond it (after_change), but the train part, 70% of "
        "the history since 2026-03-06, will only with labels to 2026-06-14: a larger split.train or a shorter history "
        "helps (docs/retraining.md)."
    )
    (reason,) = reasons(AT + timedelta(days=44))
    assert reason == "Changed since: app 4.2 (2026-05-01); labels reach 14d beyond it (after_change)."
    assert reasons(AT + timedelta(days=15), ["new-site"]) == [reason]  # where the borders will lie is not known here
    assert reasons(AT + timedelta(days=15), after_change=None) == []


def test_drift_names_the_changes_of_its_week() -> None:
    shift = Finding("data", "cpu_pct", "mean", 14, 10, 5, 1e-6, is_shift=True, effect=0.2)
    report = Report(datetime(2026, 4, 27), 12, 12, [shift], [KERNEL, RELEASE])
    assert verdict(report).endswith(
        "cpu_pct (mean). Changed in that week: kernel 6.12 on 2 servers (2026-04-28), app 4.2 (2026-05-01)."
    )
    assert as_json(report)["changes"] == [str(KERNEL), str(RELEASE)]


def test_the_command_records_and_lists(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["crashcast", "changed", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        told = capsys.readouterr()
        return told.out + told.err

    subprocess.run(["git", "init", "-q"], check=True)
    assert "No change is reported" in run()
    given = ("--servers", "web-2", "--servers", "web-1", "--at", "2026-04-28T12:00")
    assert "Recorded: kernel 6.12 on 2 servers" in run("--what", "kernel 6.12", *given)
    Path("more.csv").write_text("at,what\n2026-05-01T12:00,app 4.2\n")
    assert "Recorded: app 4.2 (2026-05-01)" in run("--csv", "more.csv")
    assert "Nothing is new" in run("--csv", "more.csv")
    assert run() == f"{KERNEL}\n{RELEASE}\n"
    assert "leave out --what" in run("--csv", "more.csv", "--what", "x")
    assert "say what was changed" in run("--at", "2026-04-28")
