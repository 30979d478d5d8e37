"""`crashcast serve` at an interval of ten seconds, as it runs for minutes: a real Prometheus, Alertmanager and clock.

The small fleet's hours become ten seconds, and so does every duration of params.yaml.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import requests
import yaml
from alerting import free_port, needs, pager, start_alertmanager
from prometheus_server import needs_prometheus, servers
from replayed_fleet import as_series, configure, table

from crashcast import tables
from crashcast.operate.alertmanager import REPEAT_S
from crashcast.operate.served_log import ServedLog
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TELEMETRY_PATH
from crashcast.versioning.tracked_data import track

pytestmark = [pytest.mark.ci, needs_prometheus, needs("prometheus-alertmanager")]
FASTER = 360  # an hour takes ten seconds
TICK = timedelta(seconds=10)
ALARM_AT = datetime(2025, 3, 19, 18)  # several alarms of the small fleet open from this hour on
DELAY = timedelta(seconds=2)
BEFORE, STRETCH = timedelta(days=5), timedelta(minutes=4)
DURATION = re.compile(r"(\d+)([mhd])")
SECONDS = {"m": 60, "h": 3600, "d": 86_400}
SECTIONS = ("clean", "incidents", "label", "features", "serve")
REGISTER = "git tag -a crash-model@v1.0.0 -m first && git tag -a 'crash-model#prod#1' -m prod"


def faster(value: object) -> object:
    """Return a value of params.yaml with shorter durations."""
    if isinstance(value, dict):
        return {name: faster(one) for name, one in value.items()}
    if isinstance(value, list):
        return [faster(one) for one in value]
    if isinstance(value, str) and (found := DURATION.fullmatch(value)):
        return f"{max(1, int(found[1]) * SECONDS[found[2]] // FASTER)}s"
    return value


def moved(frame: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Let time pass faster, and be `now` at the alarm."""
    zero = pl.lit(ALARM_AT, tables.TIMESTAMP)
    return frame.with_columns((pl.selectors.datetime() - zero) / FASTER + pl.lit(now, tables.TIMESTAMP))


@pytest.fixture
def project(tmp_path: Path, small_fleet: Callable[[Path], Path], repro: Callable[..., None]) -> Path:
    """Return a repository with the faster fleet of 2025, its model in stage prod."""
    folder = small_fleet(tmp_path / "project")
    with chdir(folder):
        params = yaml.safe_load(Path("params.yaml").read_text())
        params |= {name: faster(params[name]) for name in SECTIONS}
        params["label"] |= {"evidence": ["tickets"]}  # uptimes are still those of the slower fleet
        params["telemetry"] |= {"interval": "10s", "partition": "day"}
        params["evaluate"]["block"] = params["acceptance"]["block"] = "240s"
        params["alarms"]["false_alarms_per_server_day"] *= FASTER
        Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        bring(ALARM_AT)
        track([TELEMETRY_PATH, INCIDENTS_PATH, COVERAGE_PATH])
        repro(folder)
        subprocess.run(f"git add -A && git commit -q -m faster && {REGISTER}", shell=True, check=True)
    return folder


def bring(now: datetime) -> None:
    """Replace raw data by that of the faster fleet."""
    samples = moved(table(TELEMETRY_PATH), now)
    shutil.rmtree(TELEMETRY_PATH)
    days = (samples["timestamp"] - timedelta(microseconds=1)).dt.truncate("1d").dt.replace_time_zone(None)
    for (day,), rows in samples.with_columns(day=days).partition_by("day", as_dict=True, include_key=False).items():
        tables.write(tables.partition_at(day, "day").path(TELEMETRY_PATH), rows)
    for path in (INCIDENTS_PATH, COVERAGE_PATH):
        tables.write(path, moved(tables.read(path), now))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


def test_each_alarm_pages_once_and_ends(
    project: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    samples = table(TELEMETRY_PATH)
    with ExitStack() as stack:
        received = stack.enter_context(pager())
        manager, address = free_port(), free_port()
        route = {"receiver": "phone", "group_by": ["server"], "group_wait": "0s", "group_interval": "1s"}
        receivers = [{"name": "phone", "webhook_configs": [{"url": received.url}]}]
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump({"route": route, "receivers": receivers}))
        start_alertmanager(stack, tmp_path, manager)
        prometheus = stack.enter_context(servers(tmp_path_factory.mktemp))()
        now = datetime.now(UTC).replace(tzinfo=None, microsecond=0) + timedelta(seconds=40)  # until it serves
        now -= (now - datetime.min) % TICK
        begin, end = now - BEFORE / FASTER, now + STRETCH
        shifted = samples.with_columns(pl.col("timestamp") + (now - ALARM_AT)).filter(
            pl.col("timestamp").is_between(*tables.utc(begin, end), closed="left")
        )
        prometheus.fill(as_series(shifted.unique(["timestamp", "server_id"], keep="first", maintain_order=True)))
        prometheus.start()
        for path in (INCIDENTS_PATH, COVERAGE_PATH):
            times = pl.selectors.datetime()
            tables.write(path, tables.read(path).with_columns(times + (now - ALARM_AT)))
        configure(prometheus.url, alertmanager=f"http://127.0.0.1:{manager}", listen=f"127.0.0.1:{address}", delay="2s")
        log = stack.enter_context((tmp_path / "serve.log").open("w"))
        command = [sys.executable, "-m", "crashcast", "serve"]
        serve = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        stack.callback(serve.kill)
        time.sleep((end - datetime.now(UTC).replace(tzinfo=None)).total_seconds())
        ready = requests.get(f"http://127.0.0.1:{address}/-/ready", timeout=10)
        issued = ServedLog("data/served")
        moments, alarms = issued.moments("scores"), issued.read("alarms", issued.moments("alarms"))
        assert ready.status_code == 200, ready.text
    said = (tmp_path / "serve.log").read_text()
    assert {later - earlier for earlier, later in pairwise(moments)} == {TICK}, said
    assert moments[0] <= now
    assert moments[-1] > end - 2 * TICK

    # a page for each opening, none for a renewal, and an end where the last renewal says
    chains = alarms.group_by("server_id", "opened_at").agg(pl.col("ends_at").max()).rows()
    assert alarms.height > len(chains) > 1
    opened = [(server, opened) for server, opened, _ in chains]
    ended = [(server, ends + DELAY + timedelta(seconds=REPEAT_S)) for server, _, ends in chains]
    before_end = (end - TICK).replace(tzinfo=UTC)  # Alertmanager had the time to tell of these
    for status, all_of_them in (("firing", opened), ("resolved", ended)):
        received_of = [told(one) for one in received.alerts if one["status"] == status]
        assert len(received_of) == len(set(received_of))
        assert {one for one in all_of_them if one[1] < before_end} <= {*received_of} <= {*all_of_them}
    assert any(one["status"] == "resolved" for one in received.alerts)


def told(alert: dict[str, Any]) -> tuple[str, datetime]:
    """Return the server of an alert, and when it begins or, if it is resolved, ends."""
    return alert["labels"]["server"], datetime.fromisoformat(
        alert["startsAt" if alert["status"] == "firing" else "endsAt"]
    )
