"""The whole way of an alarm that somebody acts on: Prometheus, Alertmanager, a silence, raw data, labels, outcomes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import requests
import yaml
from alerting import free_port, needs, pager, start_alertmanager, start_prometheus, wait_for
from issued_log import REACH
from served_fleet import HOUR, alarm, scores, state

from crashcast import cli, tables
from crashcast.operate import served_log
from crashcast.operate.http_app import HttpServer
from crashcast.operate.score import last_row
from crashcast.operate.served_log import ServedLog, aware
from crashcast.params.serve import Serve
from crashcast.paths import ACTIONS_PATH, ALARMS_PATH

pytestmark = [pytest.mark.ci, needs("prometheus", "prometheus-alertmanager")]
RULES = Path(__file__).parents[2] / "deploy/prometheus/crashcast.rules.yml"
LONG_AGO = datetime(2025, 1, 1)
SERVERS = [f"web-{number}" for number in range(1, 7)]
ACTED, CRASHED, HELD, DRAINED = SERVERS[:4]


@pytest.fixture
def project(tmp_path: Path, copy_project: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of this project, under git and without data."""
    folder = copy_project(tmp_path / "project")
    subprocess.run("git init -q -b main && git add -A && git commit -q -m code", shell=True, cwd=folder, check=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


def crashcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command in this process, and return what it printed."""
    monkeypatch.setattr(sys, "argv", ["crashcast", *arguments])
    capsys.readouterr()  # a `dvc` in this process may have printed hints
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    return printed.out


def collected(place: Path, opened: datetime) -> list[str]:
    """Write samples from four days before an opening to two after it, and their records; return how to collect them.

    One server is restarted two hours after the opening, and another one crashes.
    """
    rng, boot = np.random.default_rng(1), opened + 2 * HOUR + timedelta(minutes=5)
    rows = [
        {
            "timestamp": aware(at),
            "server_id": server,
            "cpu_pct": rng.uniform(20, 60),
            "latency_ms": rng.uniform(10, 30),
            "uptime_h": (at - (boot if server == ACTED and at > boot else LONG_AGO)) / HOUR,
        }
        for at in (opened + hour * HOUR for hour in range(-4 * 24, 2 * 24))
        for server in SERVERS
    ]
    crash = opened + 3 * HOUR + timedelta(minutes=20)
    record = {
        "incident_id": "i-1", "server_id": CRASHED, "kind": "crash", "started_at": aware(crash),
        "resolved_at": aware(crash + HOUR),
    }  # fmt: skip
    files = {"telemetry": rows, "incidents": [record]}
    for name, content in files.items():
        pl.DataFrame(content).write_parquet(place / f"{name}.parquet")
    return ["collect", str(place / "telemetry.parquet"), "--incidents", str(place / "incidents.parquet")]


def issue(opened: datetime) -> None:
    """Let the log have the scores of all servers and three alarms, of which one was held back."""
    moment, log = aware(opened), ServedLog(Serve.read().log)
    rows = [
        (moment, moment, server, moment, moment + REACH, 0.9, 0.5, "v1.0.0", [], server != HELD)
        for server in (ACTED, CRASHED, HELD)
    ]
    log.write("alarms", opened, pl.DataFrame(rows, served_log.ALARMS, orient="row"))
    scored = [(moment, moment, server, 0.1, 0.5, "v1.0.0", "a", "b") for server in SERVERS]
    log.write("scores", opened, pl.DataFrame(scored, served_log.SCORES, orient="row"))


@pytest.fixture
def alerting(tmp_path: Path, stack: ExitStack) -> SimpleNamespace:
    """Return a running Prometheus that scrapes `listen`, and an Alertmanager that pages: its `url`, and `pages`."""
    received = stack.enter_context(pager())
    found = SimpleNamespace(
        listen=f"127.0.0.1:{free_port()}", url=f"http://127.0.0.1:{free_port()}", pages=received.alerts
    )
    route = {"receiver": "pager", "group_wait": "0s", "group_interval": "1s"}
    receivers = [{"name": "pager", "webhook_configs": [{"url": received.url}]}]
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump({"route": route, "receivers": receivers}))
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [found.url.removeprefix("http://")]}]}]},
        "scrape_configs": [{"job_name": "crashcast", "static_configs": [{"targets": [found.listen]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    start_alertmanager(stack, tmp_path, int(found.url.rpartition(":")[2]))
    start_prometheus(stack, tmp_path, free_port())
    return found


def silence(url: str, labels: dict[str, str], comment: str) -> str:
    """Silence an alert as Alertmanager's page does, and return the silence's id."""
    now = datetime.now(UTC)
    body = {
        "matchers": [{"name": name, "value": value, "isRegex": False} for name, value in labels.items()],
        "startsAt": now.isoformat(), "endsAt": (now + HOUR).isoformat(), "createdBy": "ada", "comment": comment,
    }  # fmt: skip
    answer = requests.post(f"{url}/api/v2/silences", json=body, timeout=10)
    assert answer.ok, answer.text
    return str(answer.json()["silenceID"])


def test_an_alarm_that_somebody_acts_on(
    project: Path,
    tmp_path: Path,
    alerting: SimpleNamespace,
    repro: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["serve"] |= {"listen": alerting.listen, "silences": alerting.url}
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    opened = last_row(datetime.now(UTC).replace(tzinfo=None), HOUR)
    issue(opened)

    scored = scores([ACTED, CRASHED], SERVERS[2:])
    alarms = [replace(alarm(scored, server, group=None), opened_at=opened) for server in (ACTED, CRASHED)]
    served = replace(state(), ticked_at=datetime.now(UTC).replace(tzinfo=None), scores=scored, alarms=alarms)
    with HttpServer(Serve.read(), HOUR, ServedLog("data/served")) as server:
        server.show(served)
        assert wait_for(lambda: len(alerting.pages) >= 2)
    labels = {page["labels"]["server"]: page["labels"] for page in alerting.pages}
    assert labels.keys() == {ACTED, CRASHED}
    begun = datetime.now(UTC)
    ended = silence(alerting.url, labels[ACTED], "acted: restarted")
    silence(alerting.url, labels[CRASHED], "known, please be quiet")  # a mute
    assert requests.delete(f"{alerting.url}/api/v2/silence/{ended}", timeout=10).ok  # expired ones count, too
    open_alarms = crashcast(monkeypatch, capsys, "acted")
    assert [server for server in SERVERS if server in open_alarms] == [ACTED, CRASHED]
    crashcast(monkeypatch, capsys, "acted", DRAINED, "--what", "drain")  # without an alarm

    # the day after next: what follows the alarm is known then
    later = SimpleNamespace(now=lambda zone: datetime.now(zone) + timedelta(days=2))
    monkeypatch.setattr("crashcast.sources.importing.run_import.datetime", later)
    told = crashcast(monkeypatch, capsys, *collected(tmp_path, opened))
    assert f"{ALARMS_PATH}: 3 alarms added, 3 in all" in told
    action, other = tables.read(ACTIONS_PATH).rows(named=True)
    assert (action["server_id"], action["what"], action["who"], action["source"]) == (
        ACTED, "restarted", "ada", "silence",
    )  # fmt: skip
    assert (other["server_id"], other["what"], other["source"]) == (DRAINED, "drain", "cli")
    assert timedelta(0) <= action["at"] - begun < timedelta(minutes=1)
    before = {path: path.read_bytes() for path in (ALARMS_PATH, ACTIONS_PATH)}
    assert crashcast(monkeypatch, capsys, "alarms").startswith("Nothing is new")
    assert {path: path.read_bytes() for path in before} == before
    assert subprocess.run(["git", "diff", "--quiet", "--", "data"], check=False).returncode == 0

    repro(project, "label")
    rows = pl.concat(tables.read(one.path(Path("data/labels"))) for one in tables.partitions(Path("data/labels")))
    at = (
        rows.filter(timestamp=aware(opened))
        .select("server_id", "label", "reason")
        .rows_by_key("server_id", unique=True)
    )
    assert at[ACTED] == (None, "mitigated")
    assert at[CRASHED] == (1, None)
    assert at[HELD] == (0, None)
    mitigated = rows.filter(pl.col("reason").cast(pl.String) == "mitigated")
    assert set(mitigated["server_id"]) == {ACTED, DRAINED}

    found: dict[str, Any] = json.loads(crashcast(monkeypatch, capsys, "outcomes", "--json"))
    assert found["counts"]["delivered"] == {
        "acted_on": {"alarms": 1, "crash": 0, "no_crash": 1, "not_known_yet": 0},
        "not_acted_on": {"alarms": 1, "crash": 1, "no_crash": 0, "not_known_yet": 0},
    }
    assert found["counts"]["held_back"]["not_acted_on"]["no_crash"] == 1
    assert found["live_precision"]["value"] == 0
    day = opened.replace(hour=0)
    for period in (["--since", f"{day + timedelta(days=1):%Y-%m-%d}"], ["--until", f"{day:%Y-%m-%d}"]):
        assert "has no alarm of that time" in crashcast(monkeypatch, capsys, "outcomes", *period)
    gauges = tmp_path / "gauges"
    gauges.mkdir()
    crashcast(monkeypatch, capsys, "metrics", "--textfile", str(gauges))
    assert (
        'crashcast_outcomes{acted_on="true",group="delivered",outcome="no_crash"} 1.0'
        in (gauges / "crashcast_outcomes.prom").read_text()
    )
