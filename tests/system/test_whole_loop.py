"""The whole loop: served, drifted, found due, trained by Airflow, accepted, merged, and served without a restart.

Prometheus, Airflow, S3 and the git remote are real, and each team has a clone of its own: on-call, and who schedules.
The fleet's crashes came in one way while the first model was trained, and come in another one since then.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import airflow_server
import polars as pl
import pytest
import requests
import yaml
from changing_fleet import KNOWN, WEEKS, ChangingFleet
from code_sites import CodeSite, serving
from prometheus_server import Prometheus, needs_prometheus, servers
from replayed_fleet import as_series, configure
from retraining_fleet import BRANCH, run

from crashcast.operate.served_log import ServedLog
from crashcast.sources.importing.run_import import import_files

pytestmark = [pytest.mark.airflow, needs_prometheus]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SUPPORT = Path(__file__).parents[1] / "support"
EXPORT = "exports/outages.parquet"  # of the ticket system
POLICY = {
    "split": {"train": 0.75, "validation": 0.125, "test": 0.125},  # labels of four weeks after the change
    "acceptance": {"min_groups": 30},  # of crashes in the first model's test part
    "retrain": {"max_age": "365d", "min_interval": "0h"},  # so that another reason counts; all happens on one day
    # so that changes of the demo's features do not move this fleet's alarms
    "features": {"rolling_mean": ["6h", "1d"], "rolling_std": ["1d"], "differences": ["1d"]},
}


@pytest.fixture(scope="module")
def now() -> datetime:
    """Return the hour until which everybody's data reaches."""
    moment = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=30)
    return moment.replace(minute=0, second=0, microsecond=0)


@pytest.fixture(scope="module")
def changing(now: datetime) -> ChangingFleet:
    return ChangingFleet.until(now)


@pytest.fixture
def prometheus(
    changing: ChangingFleet, now: datetime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Return a server that has all samples since the first model was trained."""
    found = changing.telemetry(KNOWN - 1, WEEKS + 1).filter(
        pl.col("timestamp") <= pl.lit(now, pl.Datetime("us", "UTC"))
    )
    with servers(tmp_path_factory.mktemp) as make:
        server = make()
        server.fill(as_series(found.unique(["timestamp", "server_id"], keep="first", maintain_order=True)))
        server.start()
        yield server


@pytest.fixture
def team(
    tmp_path: Path,
    changing: ChangingFleet,
    prometheus: Prometheus,
    copy_project: Callable[[Path], Path],
    s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Return a clone whose main branch has a registered model of the weeks before the change, in stage prod."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    folder = copy_project(tmp_path / "team")
    monkeypatch.chdir(folder)
    telemetry = changing.telemetry(0, KNOWN)
    telemetry.write_parquet(tmp_path / "telemetry.parquet")
    export(folder, changing, KNOWN)
    run("git init -q -b main && git add -A && git commit -q -m code", folder)
    import_files([tmp_path / "telemetry.parquet"], None, None, False, "1h", "week")
    configure(prometheus.url)
    params = yaml.safe_load(Path("params.yaml").read_text())
    for section, changed in POLICY.items():
        params[section] |= changed
    params["tickets"] |= {"since": f"{changing.start:%Y-%m-%d}"}
    params["tickets"]["sources"] = {"outages": {"type": "table", "files": [EXPORT]}}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run("crashcast incidents && dvc repro -q", folder)
    run(f"dvc remote modify s3 url s3://crashcast/{tmp_path.name}", folder)
    run(f"dvc remote modify s3 endpointurl {s3['AWS_ENDPOINT_URL']}", folder)
    run("git clone -q --bare . ../remote.git && git remote add origin ../remote.git", folder)
    register(folder, "v1.0.0")
    return folder


def export(clone: Path, changing: ChangingFleet, weeks: int) -> None:
    """Let a clone have what the ticket system exports after so many weeks."""
    (clone / EXPORT).parent.mkdir(exist_ok=True)
    changing.incidents(weeks).write_parquet(clone / EXPORT)


def register(team: Path, version: str) -> None:
    """Commit and push the main branch, register its model, and put it into stage prod."""
    run("git add -A . && git commit -q --allow-empty -m model && dvc push -q && git push -q origin main", team)
    assert f"Registered crash-model@{version}, a git tag: ACCEPT" in run("crashcast accept", team)
    run(f"crashcast stage {version} prod && git push -q --tags origin", team)


@pytest.fixture
def site(team: Path) -> Iterator[CodeSite]:
    with serving(team.parent / "remote.git") as served:
        yield served


class OnCall:
    """`crashcast serve` in a clone of its own, in a time that the test tells."""

    def __init__(self, clone: Path, begin: datetime) -> None:
        self.clone, self.told, self.now = clone, clone.parent / "clock", begin
        self.tell(begin)
        command = [sys.executable, SUPPORT / "told_clock.py", str(begin), self.told]
        with (clone.parent / "serve.log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def tell(self, moment: datetime) -> None:
        partial = self.told.with_suffix(".new")
        partial.write_text(str(moment))
        partial.replace(self.told)
        self.now = moment

    def tick_until(self, moment: datetime) -> dict[str, str]:
        """Let it tick up to a moment, and return the metrics then."""
        self.tell(moment)
        until = time.monotonic() + 300
        while True:
            found = dict(line.rsplit(" ", 1) for line in self.ask().splitlines() if not line.startswith("#"))
            if float(found.get("crashcast_last_tick_timestamp_seconds", 0)) >= moment.replace(tzinfo=UTC).timestamp():
                return found
            assert time.monotonic() < until, (self.clone.parent / "serve.log").read_text()
            time.sleep(0.1)

    def ask(self) -> str:
        return requests.get(f"{self.url}/metrics", timeout=30).text

    def alarms(self) -> pl.DataFrame:
        """Return the alarms that were issued so far."""
        log = ServedLog(str(self.clone / "data/served"))
        return log.read("alarms", log.moments("alarms")).sort("server_id", "timestamp")


def standing(metrics: dict[str, str]) -> set[str]:
    """Return the servers whose alarm is open."""
    return {name for name, value in metrics.items() if name.startswith("crashcast_alarm{") and float(value) == 1}


@pytest.fixture
def on_call(team: Path, changing: ChangingFleet, now: datetime) -> Iterator[OnCall]:
    """Serve the last days, with the incidents of them."""
    clone = team.parent / "on-call"
    run(f"git clone -q remote.git {clone.name}", team.parent)
    export(clone, changing, WEEKS + 1)
    run("crashcast pull && crashcast incidents", clone)
    serve = OnCall(clone, now - 3 * DAY + HOUR / 4)
    yield serve
    serve.process.kill()
    serve.process.wait()


def test_a_fleet_that_changes_gets_a_better_model(
    team: Path, on_call: OnCall, site: CodeSite, changing: ChangingFleet, now: datetime, s3: dict[str, str]
) -> None:
    on_call.tick_until(on_call.now + DAY)
    while not (before := standing(metrics := on_call.tick_until(on_call.now + HOUR))):
        assert on_call.now < now - 8 * HOUR, "no alarm to go on with"
    assert not [name for name in metrics if name.startswith("crashcast_degraded")]
    assert set(on_call.alarms()["model"]) == {"v1.0.0"}

    schedule = team.parent / "schedule"
    run(f"git clone -q remote.git {schedule.name}", team.parent)
    export(schedule, changing, WEEKS)
    airflow_server.give_environment(schedule)
    with airflow_server.running(team.parent / "airflow", schedule, site, s3) as airflow:
        airflow.wait_for_end()
        verdict = json.loads(airflow.returned("review.review"))
        assert verdict == "ACCEPT", airflow.said("review.review")
    (request,) = site.requests
    assert re.search(r"warned of \d+% of the new crashes; in its test it was \d+%", request["text"])
    assert "Drift" in request["text"]

    run(f"git fetch -q && git merge -q --no-ff -m merged origin/{BRANCH} && crashcast pull", team)
    register(team, "v1.1.0")
    (evidence,) = [one for one in json.loads(run("crashcast models --json", team)) if one["version"] == "v1.1.0"]
    gain = evidence["record"]["differences"][0]
    assert gain["name"] == "pr_auc"
    assert gain["difference"] > 0.08

    run("git fetch -q --tags", on_call.clone)
    metrics = on_call.tick_until(on_call.now + HOUR)
    assert standing(metrics) >= before
    after = on_call.tick_until(now + HOUR / 4)
    assert on_call.process.poll() is None
    issued = on_call.alarms()
    assert set(issued["model"]) == {"v1.0.0", "v1.1.0"}
    # one alarm of a server at a time: the next is opened or renewed after the horizon of the one before
    gaps = issued.select(pl.col("timestamp").diff().over("server_id")).drop_nulls().to_series()
    assert gaps.filter(gaps < 6 * HOUR).is_empty(), issued
    assert not [name for name in after if name.startswith("crashcast_degraded")]
