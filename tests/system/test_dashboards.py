"""The Grafana dashboards: every query, run by a real Prometheus over what real runs wrote, returns data that moves.

A small fleet is served for some days and trained twice. Prometheus holds what `serve` answers to each scrape, and the
gauges that the commands write to files after each training.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import chdir
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import requests
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from prometheus_server import Prometheus, Series, needs_prometheus, servers
from replayed_fleet import HOUR, as_series, configure, new_service, samples
from retraining_fleet import make, run

from crashcast import cli, tables
from crashcast.operate import deployment
from crashcast.operate.exposition import Exposition
from crashcast.operate.state import State
from crashcast.operate.tick import tick
from crashcast.params.telemetry import Telemetry
from crashcast.paths import TELEMETRY_PATH

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy/grafana"))
import dashboards

FILES = Path(dashboards.__file__).parent / "dashboards"
TICKS = 60  # of each of two models
QUERIES = [
    pytest.param(target["expr"], panel["type"], id=f"{name}: {panel['title']}, {target['refId']}")
    for name in dashboards.DASHBOARDS
    for panel in json.loads((FILES / f"{name}.json").read_text())["panels"]
    for target in panel["targets"]
]


def test_the_files_are_what_the_code_makes_and_what_grafana_reads() -> None:
    for name in dashboards.DASHBOARDS:
        text = (FILES / f"{name}.json").read_text()
        assert text == JSONEncoder(sort_keys=True, indent=2).encode(dashboards.build(name)) + "\n"
        read: Any = Dashboard.from_json(json.loads(text))
        assert JSONEncoder(sort_keys=True, indent=2).encode(read) + "\n" == text
    assert {path.stem for path in FILES.iterdir()} == set(dashboards.DASHBOARDS)


class Scrapes:
    """What Prometheus got: the text of each scrape, as series."""

    def __init__(self) -> None:
        self.series: Series = defaultdict(list)
        self.kinds: dict[str, str] = {}

    def add(self, text: str, moment: datetime, job: str) -> None:
        for family in text_string_to_metric_families(text):
            self.kinds[family.name] = family.type
            for sample in family.samples:
                labels = {**sample.labels, "job": job, "instance": "ops:9100"}
                told = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
                self.series[f"{sample.name}{{{told}}}"].append((moment.replace(tzinfo=UTC).timestamp(), sample.value))


def crashcast(*arguments: object) -> None:
    """Run a command in this process, whatever its exit status says but an error."""
    argv, sys.argv = sys.argv, ["crashcast", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = argv
    assert ended.value.code != 2, arguments


def write_gauges(folder: Path) -> str:
    """Let every command that has gauges write them, and return their text."""
    crashcast("alarms")
    crashcast("metrics", "--remote", "--textfile", folder)
    for command in ("drift", "due"):
        crashcast(command, "--textfile", folder)
    return "".join(path.read_text() for path in sorted(folder.glob("*.prom")))


def serve(scrapes: Scrapes, start: datetime) -> None:
    """Tick each hour, and scrape after each tick."""
    used, service, shown = deployment.find("HEAD")[0], new_service(), Exposition(HOUR)
    state: State | None = None
    for hour in range(TICKS):
        state = tick(used, service, start + hour * HOUR + timedelta(minutes=15), state)
        shown.show(state)
        scrapes.add(shown.text().decode(), start + hour * HOUR + timedelta(minutes=30), "crashcast")


def slow_down() -> None:
    """Let every request take longer in the newest month, so that the fleet has drifted."""
    newest = tables.partitions(TELEMETRY_PATH)[-1].path(TELEMETRY_PATH)
    rows = tables.read(newest)
    newest.unlink()  # a link into DVC's cache
    tables.write(newest, rows.with_columns((pl.col("latency_ms") * 1.3).cast(rows["latency_ms"].dtype)))
    run("dvc add -q data/raw/telemetry", Path.cwd())


def answered(start: datetime) -> pl.DataFrame:
    """Return the samples that a Prometheus has: all servers are away for a while, and one in the second half."""
    found = samples(start - timedelta(days=4), start + 2 * TICKS * HOUR)
    outage = tables.utc(start + TICKS // 2 * HOUR, start + (TICKS // 2 + 3) * HOUR)
    second, _ = tables.utc(start + TICKS * HOUR, start)
    is_away = pl.col("timestamp").is_between(*outage)
    is_gone = (pl.col("timestamp") > second) & (pl.col("server_id") == found["server_id"].min())
    return found.filter(~is_away & ~is_gone).select("timestamp", "server_id", *Telemetry.read().metrics)


@pytest.fixture(scope="module")
def scraped(
    tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path], s3: dict[str, str]
) -> Iterator[tuple[Prometheus, datetime, datetime]]:
    """Return a Prometheus that scraped the fleet in operation, and the period in which it did."""
    place, environment = tmp_path_factory.mktemp("dashboards"), pytest.MonkeyPatch()
    for name, value in s3.items():
        environment.setenv(name, value)
    project, scrapes, gauges = make(place, small_fleet, s3), Scrapes(), place / "gauges"
    gauges.mkdir()
    params = project / "params.yaml"
    with chdir(project), servers(tmp_path_factory.mktemp) as new_server:
        slow_down()
        start = tables.partitions(TELEMETRY_PATH)[-1].start + timedelta(days=2)
        middle, end = start + TICKS * HOUR, start + 2 * TICKS * HOUR
        source = new_server()
        source.fill(as_series(answered(start)))
        source.start()
        params.write_text(params.read_text().replace("min_weeks: 12 ", "min_weeks: 8 "))
        configure(source.url, holdback=0.6)
        run("git commit -q -am configured", project)
        serve(scrapes, start)
        scrapes.add(write_gauges(gauges), start, "node")
        text = params.read_text()
        params.write_text(text.replace("false_alarms_per_server_day: 0.02", "false_alarms_per_server_day: 0.03"))
        assert params.read_text() != text
        run("dvc repro -q", project)
        assert subprocess.run("crashcast incidents", shell=True, capture_output=True).returncode == 2
        scrapes.add(write_gauges(gauges), middle - TICKS // 2 * HOUR, "node")
        run("git commit -q -am trained && dvc push -q", project)
        serve(scrapes, middle)
        scrapes.add(write_gauges(gauges), middle, "node")
        target = new_server()
        target.fill(scrapes.series, scrapes.kinds)
        # a gauge of a file stands until the next one, as with node_exporter
        target.start(f"--query.lookback-delta={TICKS}h")
        yield target, start, end
    environment.undo()


@needs_prometheus
@pytest.mark.ci
@pytest.mark.parametrize(("query", "kind"), QUERIES)
def test_each_query_returns_data_that_is_not_constant(
    query: str, kind: str, scraped: tuple[Prometheus, datetime, datetime]
) -> None:
    prometheus, start, end = scraped
    moments = {"start": start.replace(tzinfo=UTC).timestamp(), "end": end.replace(tzinfo=UTC).timestamp()}
    answer = requests.get(f"{prometheus.url}/api/v1/query_range", {"query": query, "step": "20m", **moments}).json()
    assert answer["status"] == "success", answer
    values = {value for series in answer["data"]["result"] for _, value in series["values"]}
    assert len(values) > 1, answer["data"]["result"]
