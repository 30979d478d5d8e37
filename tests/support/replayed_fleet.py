"""A fleet whose telemetry a real Prometheus has, and `crashcast serve` over it at simulated times."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from prometheus_server import Series

from crashcast import tables
from crashcast.operate.deployment import Deployment
from crashcast.operate.score import last_row, samples_needed
from crashcast.operate.state import State, utc_now
from crashcast.operate.tick import Service, tick
from crashcast.params.collect import Collect
from crashcast.params.serve import Serve
from crashcast.params.telemetry import Telemetry
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TELEMETRY_PATH
from crashcast.sources.prometheus.chunks import chunks
from crashcast.sources.prometheus.client import Server
from crashcast.sources.prometheus.fetching import asked_of, assembled, fetch_chunks
from crashcast.tables import Partition
from stages import clean, featurize

HOUR, QUARTER = timedelta(hours=1), timedelta(minutes=15)
KEYS = ["timestamp", "server_id"]
LONGEST_TEST = timedelta(minutes=2)  # of those that tick by the real clock


def newest_row(delay: timedelta) -> datetime:
    """Return the time of the newest hourly row by the real clock, after a wait if a test could see the next one."""
    due = last_row(utc_now() - delay, HOUR) + HOUR + delay
    if due - utc_now() < LONGEST_TEST:
        time.sleep(max(0.0, (due - utc_now()).total_seconds()) + 0.1)
    return last_row(utc_now() - delay, HOUR)


def table(folder: Path) -> pl.DataFrame:
    return pl.concat(tables.read(partition.path(folder)) for partition in tables.partitions(folder))


def samples(start: datetime, end: datetime) -> pl.DataFrame:
    """Return the raw samples of a period, of several at one moment the first, which is the one that `clean` takes."""
    found = tables.read_period(TELEMETRY_PATH, start, end)
    return found.unique(KEYS, keep="first", maintain_order=True)


def as_series(found: pl.DataFrame) -> Series:
    """Return samples as Prometheus has them: one series for each metric and server."""
    made: Series = {}
    for (server,), rows in found.partition_by("server_id", as_dict=True).items():
        labels = f'{{instance="{server}:9100",job="{server.partition("-")[0]}"}}'
        seconds = (rows["timestamp"].dt.epoch("us") / 1e6).to_list()
        for metric in rows.columns[2:]:
            values = rows[metric].to_list()
            series = [(moment, value) for moment, value in zip(seconds, values, strict=True) if value is not None]
            if series:
                made[f"{metric}{labels}"] = series
    return made


def configure(url: str, **serve: Any) -> None:
    """Let params.yaml say where to ask for which metrics."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    metrics = content["telemetry"]["metrics"]
    content["collect"] |= {"url": url, "queries": {name: {one["aggregate"]: name} for name, one in metrics.items()}}
    content["serve"] |= serve
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def new_service() -> Service:
    """Return the service of params.yaml."""
    return Service.of(Serve.read(), Collect.read())


def ticks(
    used: Deployment, start: datetime, number: int, service: Service | None = None, before: State | None = None
) -> list[State]:
    """Tick so many times, a quarter of an hour after each hour, and return the states."""
    service = service or new_service()
    states: list[State] = []
    for hour in range(number):
        before = tick(used, service, start + hour * HOUR + QUARTER, before)
        states.append(before)
    return states


def pipelines_scores(used: Deployment, start: datetime, until: datetime, place: Path) -> pl.DataFrame:
    """Return `later`, the score of each row by the stages from all samples that the server has, collected at once."""
    collect, telemetry = Collect.read(), Telemetry.read()
    begin, _ = samples_needed(used, start)
    first = datetime(begin.year, begin.month, begin.day)
    asked = asked_of(Server(collect.url), collect.queries, telemetry.interval, until)
    plan = list(chunks(Partition(first, until + HOUR, "day"), first, until, asked, telemetry.interval, collect.chunk))
    fetch_chunks(Server(collect.url), plan, datetime.max, collect, place / "chunks")
    rows = assembled(plan, collect, place / "chunks")
    rows = rows.with_columns(pl.col(name).cast(pl.Float32) for name in telemetry.metrics).drop("group")
    for day in rows["timestamp"].dt.date().unique():
        one = tables.partition_at(datetime(day.year, day.month, day.day), "day")
        inside = pl.col("timestamp").is_between(*tables.utc(one.start, one.end), closed="left")
        tables.write(one.path(place / "telemetry"), rows.filter(inside))
    (place / "validated.json").write_text(json.dumps({"success": True}))
    clean.main(place / "telemetry", place / "validated.json", place / "clean", place / "clean.json")
    featurize.main(place / "clean", INCIDENTS_PATH, COVERAGE_PATH, place / "features")
    features = table(place / "features").filter(pl.col("timestamp") >= pl.lit(start, tables.TIMESTAMP))
    rows = features.select(*KEYS, later=pl.Series(used.model.predict(features)))
    return rows.join(table(place / "clean").select(*KEYS, "observed"), on=KEYS, maintain_order="left")
