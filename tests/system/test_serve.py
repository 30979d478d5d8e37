"""`crashcast serve` over a real Prometheus: the pipeline's bits, late samples, kills, and every kind of bad input."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from prometheus_server import Prometheus, needs_prometheus, servers
from replayed_fleet import HOUR, KEYS, as_series, configure, pipelines_scores, samples, table, ticks

from crashcast import tables
from crashcast.modeling.alarms import AlarmWindow, open_alarms
from crashcast.operate.deployment import Deployment
from crashcast.operate.served_log import ServedLog
from crashcast.operate.serving import ModelInUse
from crashcast.params.base import DAY

pytestmark = needs_prometheus
START = datetime(2025, 3, 19)  # in the small fleet's test period, before a day with several alarms
BEFORE = timedelta(days=5)  # more than the features look back
PREDICTIONS = Path("data/predictions")
REGISTER = "git tag -a crash-model@v1.0.0 -m first && git tag -a 'crash-model#prod#1' -m prod"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path]) -> Path:
    """Return a repository of this project with a small fleet, run once, its model in stage prod."""
    folder = small_fleet(tmp_path_factory.mktemp("serve") / "project")
    subprocess.run(REGISTER, shell=True, cwd=folder, check=True)
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in the project, in which nothing was served."""
    monkeypatch.chdir(project)
    yield project
    for folder in (Path(".dvc/tmp/crashcast"), Path("data/served")):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "checkout", "--quiet", "."], check=True)


@pytest.fixture(scope="module")
def used(project: Path) -> Deployment:
    """Return the model in stage prod."""
    with chdir(project):
        return ModelInUse().find()


@pytest.fixture(scope="module")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Prometheus]]:
    """Make servers that end with the tests."""
    with servers(tmp_path_factory.mktemp) as make:
        yield make


@pytest.fixture(scope="module")
def prometheus(project: Path, new_server: Callable[[], Prometheus]) -> Prometheus:
    """Return a server with the fleet's samples of some days."""
    server = new_server()
    with chdir(project):
        server.fill(as_series(samples(START - BEFORE, START + timedelta(days=3))))
    server.start()
    return server


def log() -> ServedLog:
    return ServedLog("data/served")


def issued(name: str = "scores") -> pl.DataFrame:
    return log().read(name, log().moments(name))


def test_scores_and_alarms_are_the_pipelines(
    here: Path, used: Deployment, prometheus: Prometheus, tmp_path: Path
) -> None:
    configure(prometheus.url)
    states = ticks(used, START, 31)
    assert [dict(state.problems) for state in states] == [{}] * 31
    found = issued()
    expected = pipelines_scores(used, START - DAY, START + 30 * HOUR, tmp_path)
    both = found.join(expected, on=KEYS)
    assert both.height == found.height > 1500
    assert both["score"].equals(both["later"].alias("score"))
    since = pl.col("timestamp") >= pl.lit(START, tables.TIMESTAMP)  # the first tick may score older rows
    rows = expected.filter(since)
    assert found.filter(since).select(KEYS).sort(KEYS).equals(rows.filter("observed").select(KEYS))
    raw = found.join(table(PREDICTIONS), on=KEYS, suffix=" of the pipeline")
    assert raw["score"].equals(raw["score of the pipeline"].alias("score"))  # not aggregated by Prometheus
    assert raw.height > 1400
    assert issued("revisions").is_empty()

    window = AlarmWindow.of(used.label, HOUR)
    opened = open_alarms(rows.with_columns(score="later", label=None), used.model.threshold, window)
    alarms = issued("alarms")
    assert alarms.select(KEYS).sort(KEYS).equals(opened.select(KEYS))
    assert alarms["reasons"].list.len().min() > 0
    assert alarms.height == opened.height == 6
    # 18:00 of the first day, renewed a horizon later; 04:00 of the second day
    midnight, four = START + 24 * HOUR, START + 28 * HOUR
    assert {(one.opened_at, one.renewed_at, one.ends_at) for one in states[-1].alarms} == {
        (midnight - used.label.horizon, midnight, midnight + used.label.reach),
        (four, four, four + used.label.reach),
    }
    assert all(one.reasons for one in states[-1].alarms)
