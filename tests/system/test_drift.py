"""`crashcast drift` on a small fleet: as it is, with a metric that moved, and with too few weeks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from crashcast import cli, tables
from crashcast.operate import deployment
from crashcast.params.telemetry import Telemetry
from crashcast.paths import CLEAN_PATH
from crashcast.watch import drift
from crashcast.watch.drift import Report
from crashcast.watch.weekly_statistics import WEEK
from stages import featurize

Run = Callable[..., tuple[int, str]]
RECORDS = Path("data/raw/incidents.parquet"), Path("data/raw/coverage.parquet")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path]) -> Path:
    """Return a project with a small fleet, run once; its training period has eight whole weeks."""
    folder = small_fleet(tmp_path_factory.mktemp("drift") / "project")
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("min_weeks: 12 ", "min_weeks: 8 "))
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def told() -> Report:
    """Return what drift says of HEAD's model."""
    name, commit, _ = deployment.find_revision("HEAD")
    return drift.read(deployment.Deployment.of(name, commit), commit)


@pytest.fixture
def crashcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return its exit status and what it printed, in one line."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crashcast", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0), " ".join(capsys.readouterr().out.split())

    return run


@pytest.fixture
def in_week(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[pl.Expr], Report]:
    """Return what changes the observed rows of the newest whole week, and says what drift tells of them."""

    def in_week(change: pl.Expr) -> Report:
        start = told().week
        assert isinstance(start, datetime)
        inside = pl.col("timestamp").is_between(*tables.utc(start, start + WEEK), closed="left")
        changed = tmp_path / "clean"
        for partition in tables.partitions(CLEAN_PATH):
            rows = tables.read(partition.path(CLEAN_PATH))
            name = change.meta.output_name()
            tables.write(partition.path(changed), rows.with_columns(pl.when(inside).then(change).otherwise(name)))
        featurize.main(changed, *RECORDS, tmp_path / "features")
        monkeypatch.setattr(drift, "CLEAN_PATH", changed)
        monkeypatch.setattr(drift, "FEATURES_PATH", tmp_path / "features")
        return told()

    return in_week


def test_the_fleet_as_it_is_has_not_drifted(here: Path, crashcast: Run) -> None:
    status, said = crashcast("drift")
    assert status == 0
    assert said.startswith("No drift in the week from ")
    assert "compared with 8 weeks of the training period" in said


def test_a_metric_that_moved_is_named_first_with_its_effect(in_week: Callable[[pl.Expr], Report]) -> None:
    report = in_week((pl.col("latency_ms") * 1.3).cast(pl.Float32))
    first = report.alarms[0]
    assert (first.layer, first.name) == ("data", "latency_ms")
    assert {one.name for one in report.alarms if one.layer == "data"} == {"latency_ms"}
    assert first.effect is not None
    assert abs(first.effect) > 0.01


def test_a_collector_that_broke_is_named(in_week: Callable[[pl.Expr], Report]) -> None:
    lost = pl.col("server_id").hash(1) % 3 == 0
    report = in_week(pl.when(lost).then(None).otherwise("memory_pct").alias("memory_pct"))
    assert (report.alarms[0].name, report.alarms[0].figure) == ("memory_pct", "missing")


def test_the_exit_status_and_the_gauges_say_it(
    here: Path, crashcast: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = told()
    worst = found.findings[0]._replace(is_shift=True, p_value=1e-9)
    monkeypatch.setattr(drift, "read", lambda *_: Report(found.week, found.weeks, 8, [worst]))
    status, said = crashcast("drift", "--json", "--textfile", tmp_path)
    assert status == 1
    assert json.loads(said)["drift"] is True
    assert json.loads(said)["findings"][0]["is_alarm"] is True
    written = (tmp_path / "crashcast_drift.prom").read_text()
    assert "crashcast_drift_known 1" in written
    assert f'crashcast_drift_p_value{{figure="{worst.figure}"' in written

    monkeypatch.setattr(drift, "read", lambda *_: Report(found.week, 7, 8, []))
    status, said = crashcast("drift")
    assert status == 3
    assert said.startswith("Not known: the training period has 7 whole weeks, and 8 are needed")


def test_a_week_after_the_training_period_is_needed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interval = Telemetry.read().interval
    assert interval == timedelta(hours=1)
    monkeypatch.setattr(drift, "period", lambda rule, part: (datetime(2025, 1, 1), datetime(2025, 12, 1)))
    report = told()
    assert (report.week, report.is_known, report.findings) == (None, False, [])
