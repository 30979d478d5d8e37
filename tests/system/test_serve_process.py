"""The command `crashcast serve` as a team runs it: telemetry in Prometheus, a scrape, our rules, Alertmanager, a phone.

The fleet's samples are moved in time, so that one of its alarms opens now. Nothing is in this process: what is killed
is what a team would kill.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import requests
import yaml
from alerting import ask, free_port, pager, start_alertmanager, start_prometheus, wait_for
from prometheus_server import Prometheus, needs_prometheus, servers
from replayed_fleet import as_series, configure, newest_row, samples

DEPLOY = Path(__file__).parents[2] / "deploy"
ALARM_AT = datetime(2025, 3, 20, 4)  # an alarm of the small fleet opens at this row
BEFORE = timedelta(days=5)  # more than the features look back
REGISTER = "git tag -a crash-model@v1.0.0 -m first && git tag -a 'crash-model#prod#1' -m prod"
TOKEN = "a-token-of-this-test"
PATIENCE_S = 120

pytestmark = [
    pytest.mark.ci,
    needs_prometheus,
    pytest.mark.skipif(shutil.which("prometheus-alertmanager") is None, reason="Alertmanager is not installed"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path]) -> Path:
    """Return a project with a small fleet, run once, its model in stage prod."""
    folder = small_fleet(tmp_path_factory.mktemp("serve") / "project")
    subprocess.run(REGISTER, shell=True, cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Iterator[Prometheus]:
    """Return a server with the telemetry of the fleet until now, when an alarm opens."""
    with servers(tmp_path_factory.mktemp) as make, chdir(project):
        server = make()
        shift = newest_row(delay=timedelta(0)) - ALARM_AT
        moved = samples(ALARM_AT - BEFORE, ALARM_AT + timedelta(seconds=1)).with_columns(pl.col("timestamp") + shift)
        server.fill(as_series(moved))
        server.start()
        yield server


class Served:
    """A `crashcast serve`, started again and again."""

    def __init__(self, project: Path, url: str) -> None:
        self.project, self.url = project, url
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "CRASHCAST_TOKEN": TOKEN}
        with (self.project / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "crashcast", "serve"], cwd=self.project, env=environment, stdout=log, stderr=log
            )
        assert wait_for(lambda: self.state().get("alarms") is not None and "at" in self.state(), PATIENCE_S), self.log()

    def state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = requests.get(f"{self.url}/api/v1/alarms", timeout=10).json()
            return found
        except requests.ConnectionError:
            return {}

    def stop(self, how: int) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(60)

    def log(self) -> str:
        return (self.project / "serve.log").read_text()


def test_an_alarm_reaches_the_phone_once_whatever_is_killed(
    tmp_path: Path, project: Path, prometheus: Prometheus
) -> None:
    port, manager, scraper = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        received = stack.enter_context(pager())
        with chdir(project):
            configure(prometheus.url, listen=f"127.0.0.1:{port}", delay="0s")
        alertmanager = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
        alertmanager["route"] |= {"group_wait": "1s", "group_interval": "1s"}
        phone = next(one for one in alertmanager["receivers"] if one["name"] == "phone")
        phone.pop("pagerduty_configs")
        phone["webhook_configs"] = [{"url": received.url}]
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(alertmanager))
        team = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        shutil.copy(DEPLOY / "prometheus/crashcast.rules.yml", tmp_path)
        team["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        team["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
        team["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{manager}"]}]}]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(team))

        start_alertmanager(stack, tmp_path, manager)
        running = start_prometheus(stack, tmp_path, scraper)
        served = Served(project, f"http://127.0.0.1:{port}")
        stack.callback(lambda: served.process and served.process.kill())
        served.start()
        first = served.state()["alarms"]
        assert len(first) == 1, served.log()
        assert first[0]["reasons"], served.log()
        server = first[0]["server"]
        assert wait_for(lambda: bool(received.alerts))

        for _ in range(2):
            assert served.stop(signal.SIGKILL) == -signal.SIGKILL
            served.start()
            assert [(one["server"], one["opened_at"]) for one in served.state()["alarms"]] == [
                (server, first[0]["opened_at"])
            ]
        running.kill()
        running.wait()
        start_prometheus(stack, tmp_path, scraper)
        under_own_label = f'crashcast_alarm{{host="{server}"}} == 1'
        assert wait_for(lambda: ask(scraper, under_own_label) == [1])
        time.sleep(5)
        assert [(one["status"], one["labels"]["server"]) for one in received.alerts] == [("firing", server)]

        page = requests.get(served.url, timeout=10).text
        metrics = requests.get(f"{served.url}/metrics", timeout=10).text
        assert f">{server}" in page
        action = {"server": server, "what": "restart", "at": datetime.now(UTC).isoformat()}
        address = f"{served.url}/api/v1/actions"
        assert requests.post(address, json=action, timeout=10).status_code == 401
        kept = requests.post(address, json=action, timeout=10, headers={"Authorization": f"Bearer {TOKEN}"})
        assert (kept.status_code, kept.text) == (201, "The action is recorded.\n")
        found = pl.read_parquet(project / "data/served/actions/*/*.parquet")
        assert found.select("server_id", "what").rows() == [(server, "restart")]

        assert served.stop(signal.SIGTERM) == 0
        assert TOKEN not in page + metrics + served.log()
