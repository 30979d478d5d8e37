"""`crashcast serve` over a real Prometheus: the pipeline's bits, late samples, kills, and every kind of bad input."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import polars as pl
import pytest
from prometheus_server import Prometheus, needs_prometheus, servers
from replayed_fleet import HOUR, KEYS, as_series, configure, new_service, pipelines_scores, samples, table, ticks

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
SUPPORT = Path(__file__).parents[1] / "support"
INSTANT = timedelta(microseconds=1)
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
    reset()
    subprocess.run(["git", "checkout", "--quiet", "."], check=True)


def reset() -> None:
    """Forget what was served."""
    for folder in (Path(".dvc/tmp/crashcast"), Path("data/served")):
        shutil.rmtree(folder, ignore_errors=True)


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


def late(found: pl.DataFrame) -> pl.DataFrame:
    """Choose samples that come late: all of one server at 17:00, and some metrics of one that alarms, at 18:00."""
    rows = found.with_columns(hour=(pl.col("timestamp") - INSTANT).dt.truncate("1h") + HOUR)
    whole = rows.filter(pl.col("hour") == pl.lit(START + 17 * HOUR, tables.TIMESTAMP), server_id="cache-00016")
    some = rows.filter(pl.col("hour") == pl.lit(START + 18 * HOUR, tables.TIMESTAMP), server_id="app-00010")
    others = [name for name in found.columns[2:] if name not in ("cpu_pct", "latency_ms")]
    chosen = pl.concat([whole, some.with_columns(pl.lit(None, pl.Float32).alias(name) for name in others)])
    assert (whole.height, some.height) == (1, 1)
    return chosen.select(found.columns)


def test_late_samples_change_nothing_that_was_issued_and_are_listed(
    here: Path, used: Deployment, new_server: Callable[[], Prometheus], tmp_path: Path
) -> None:
    server, found = new_server(), samples(START - BEFORE, START + DAY)
    missing = late(found)
    in_time = found.join(missing, on=KEYS, how="left", suffix=" late").select(
        *KEYS, *(pl.when(pl.col(f"{name} late").is_null()).then(name) for name in found.columns[2:])
    )
    server.fill(as_series(in_time))
    server.start()
    configure(server.url)
    service = new_service()
    before = ticks(used, START + 12 * HOUR, 7, service)
    server.stop()
    server.fill(as_series(missing))
    server.start()
    after = ticks(used, START + 19 * HOUR, 3, service, before[-1])
    assert not any(state.problems for state in (*before, *after))

    expected = pipelines_scores(used, START + 12 * HOUR, START + 21 * HOUR, tmp_path).filter("observed")
    both = issued().join(expected, on=KEYS, how="full", coalesce=True)
    assert both["later"].null_count() == 0
    differing = both.filter(pl.col("score").ne_missing(pl.col("later"))).select(*KEYS, "score", "later").sort(KEYS)
    listed = issued("revisions")
    assert differing.rows() == listed.select(*KEYS, "issued", "later").sort(KEYS).rows()
    assert [state.late_revisions for state in after] == [listed.height] * 3
    # the one row that was never issued, and the one that would have opened an alarm an hour earlier
    assert listed.filter(pl.col("issued").is_null())["server_id"].to_list() == ["cache-00016"]
    own = listed.filter(server_id="app-00010").sort("timestamp").row(0, named=True)
    assert own["issued"] < used.model.threshold < own["later"]
    assert [one.opened_at for one in after[-1].alarms if one.server_id == "app-00010"] == [START + 19 * HOUR]
    # another process compares again, and finds nothing new
    assert ticks(used, START + 22 * HOUR, 1)[0].late_revisions == 0


def test_an_instance_that_comes_later_issues_nothing_again(
    here: Path, used: Deployment, prometheus: Prometheus, tmp_path: Path
) -> None:
    """Also if it has a tail of its own, as on another machine."""
    configure(prometheus.url)
    one, other = new_service(), replace(new_service(), tail=tmp_path / "tail")
    ticks(used, START, 3, one)
    before = contents()
    states = [ticks(used, START + 2 * HOUR, 1, service)[0] for service in (other, one)]
    assert contents() == before
    assert states[0].alarms == states[1].alarms
    assert states[0].scores is not None
    assert states[1].scores is not None
    assert states[0].scores.rows.equals(states[1].scores.rows)
    ticks(used, START + 3 * HOUR, 2, other)
    ticks(used, START + 3 * HOUR, 2, one)
    assert issued().select(KEYS).is_duplicated().sum() == 0
    assert issued("revisions").is_empty()


def contents() -> dict[str, bytes]:
    """Return every file of the log."""
    return {str(path): path.read_bytes() for path in Path("data/served").rglob("*") if path.is_file()}


def replay(until: datetime, kill_after_s: float | None = None) -> list[str]:
    """Run a process that ticks until then, or is killed so long after it is ready; return what it printed."""
    command = [sys.executable, str(SUPPORT / "replaying_process.py"), str(START), str(until)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill_after_s is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(kill_after_s)
            process.kill()
        printed = process.stdout.read().splitlines()
    assert process.returncode == (0 if kill_after_s is None else -signal.SIGKILL) or process.returncode == 0
    return printed


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_process_goes_on_with_the_same_alarms(here: Path, prometheus: Prometheus, kills: int) -> None:
    configure(prometheus.url)
    until = START + timedelta(hours=30 if kills < 10 else 60)
    undisturbed, before = replay(until), contents()
    reset()
    draw, printed, whole = Random(1), list[str](), set(undisturbed)
    for _ in range(kills):
        printed += replay(until, draw.uniform(0.02, 1.2))
        for path in contents():
            if not Path(path).name.startswith("."):
                assert before[path] == Path(path).read_bytes()
    printed += replay(until)
    assert {line for line in printed if json_ends(line)} == whole
    assert {path: content for path, content in contents().items() if "/." not in path} == before
    assert len(before) > 34


def json_ends(line: str) -> bool:
    """Tell whether a line was printed whole."""
    return line.endswith("]]")
