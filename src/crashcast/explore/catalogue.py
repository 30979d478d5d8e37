"""What data there is: its tables, their versions and users, and the metrics period by period.

Counts come from the footers of Parquet files. Of each partition of `data/clean` some moments are read, of all servers:
enough for shares and percentiles, whatever the size of the fleet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from crashcast import registry, tables
from crashcast.params.data import Data, Input
from crashcast.params.telemetry import Metric, Telemetry
from crashcast.paths import CLEAN_PATH, COVERAGE_PATH, RAW, TABLES
from crashcast.tables import CRASH, MAINTENANCE, OBSERVED, Partition
from crashcast.versioning import dvc_files, git
from crashcast.versioning.outputs import outputs_of
from crashcast.versioning.revision import Revision

SAMPLED_ROWS = 50_000  # of each partition
PERCENTILES = (0.01, 0.5, 0.99)
NO_GROUP = "no group"
MOST_USERS = 10  # versions, and branches, whose data is looked up: the newest
UNITS = {"pct": "%", "percent": "%", "ms": "ms", "s": "s", "seconds": "s", "h": "h", "hours": "h", "days": "days"}
UNITS |= {"bytes": "bytes", "kb": "kB", "mb": "MB", "gb": "GB", "mbps": "mbps", "rpm": "rpm", "c": "°C"}


@dataclass(frozen=True)
class Table:
    """A table of the work tree.

    Attributes
    ----------
    path, what : str
        And what the stage that writes it does.
    rows, size_bytes, partitions : int
    first, last : str
        Its first and last partition; empty if it is a single file.
    columns : dict of str to str
        The type of each column.
    read_by : list of str
        The stages that read it.
    declared : Input or None
        Origin and licence of raw data.
    versions : dict of str to list of str
        By the start of DVC's hash: the registered versions and branches that use it.
    """

    path: str
    what: str
    rows: int
    size_bytes: int
    partitions: int
    first: str
    last: str
    columns: dict[str, str]
    read_by: list[str]
    declared: Input | None
    versions: dict[str, list[str]]


@dataclass(frozen=True)
class MetricHistory:
    """A metric, period by period, in sampled rows.

    Attributes
    ----------
    name, unit : str
        The unit that its name says, or an empty one.
    settings : Metric
    low, middle, high : list of (float or None)
        `PERCENTILES` of each period.
    missing : list of dict of str to float
        Of each period: the share of rows without a value, by group.
    """

    name: str
    unit: str
    settings: Metric
    low: list[float | None] = field(default_factory=list)
    middle: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)
    missing: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Period:
    """What a partition holds.

    Attributes
    ----------
    name : str
        As 2026-01.
    rows, servers, crashes, planned : int
        Rows of all its servers; incidents that start in it.
    filled : float
        Share of rows that only fill a gap.
    covered : float
        Share of servers whose incidents were recorded in all of it.
    """

    name: str
    rows: int
    servers: int
    crashes: int
    planned: int
    filled: float
    covered: float


def read_tables() -> list[Table]:
    """Describe raw data and what the stages wrote of it, as far as it is here."""
    stages: dict[str, Any] = dvc_files.load(Path(dvc_files.PIPELINE).read_bytes(), dvc_files.PIPELINE)["stages"]
    made = {
        str(out): stage for stage in stages.values() for out in stage.get("outs", ()) if Path(out).parts[0] == "data"
    }
    versions, data = _versions(), Data.read()
    found = []
    for path in [*TABLES, *map(Path, made)]:
        name = path.as_posix()
        if not path.exists() or path.suffix == ".json":
            continue
        parts = tables.partitions(path) if path.is_dir() else []
        files = [part.path(path) for part in parts] or [path]
        found.append(
            Table(
                name,
                made[name]["desc"] if name in made else "Raw data",
                sum(pq.read_metadata(file).num_rows for file in files),
                sum(file.stat().st_size for file in files),
                len(parts),
                *((parts[0].name, parts[-1].name) if parts else ("", "")),
                {column: str(kind) for column, kind in tables.read(files[-1], where=pl.lit(False)).schema.items()},
                [stage for stage, declared in stages.items() if name in declared.get("deps", ())],
                data.input(path.stem) if path.parent == RAW else None,
                versions.get(name, {}),
            )
        )
    return found


def _versions() -> dict[str, dict[str, list[str]]]:
    """Return who uses which version of each dataset: its path, the start of its hash, their names."""
    users = {"HEAD": "HEAD"}
    for model in reversed(registry.models()[-MOST_USERS:]):
        stages = f" ({', '.join(model.stages)})" if model.stages else ""
        users[f"{model.version}{stages}"] = model.revision
    form = "--format=%(refname:short)"
    branches = git.run(
        "for-each-ref", form, "--sort=-committerdate", f"--count={MOST_USERS}", "refs/heads", "refs/remotes"
    )
    users |= {f"branch {name}": name for name in branches.text.split()}
    found: dict[str, dict[str, list[str]]] = {}
    for user, revision in users.items():
        for output in outputs_of([Revision.find(revision)])[0]:
            found.setdefault(output.path, {}).setdefault(output.md5[:8], []).append(user)
    return found


def read_periods(telemetry: Telemetry, incidents: pl.DataFrame) -> tuple[list[Period], list[MetricHistory]]:
    """Describe each partition of `data/clean`, and each metric in it.

    Parameters
    ----------
    telemetry : Telemetry
    incidents : DataFrame
        The confirmed ones: `server_id`, `kind`, `started_at`.
    """
    coverage = tables.read(COVERAGE_PATH, ["server_id", "covered_from", "covered_to", "group"])
    group_of = coverage.select("server_id", pl.col("group").fill_null(NO_GROUP)).unique("server_id", keep="last")
    metrics = [MetricHistory(name, unit(name), settings) for name, settings in telemetry.metrics.items()]
    periods = []
    for partition, rows in _samples([*tables.KEYS, OBSERVED, *telemetry.metrics], telemetry.interval):
        start, end = tables.utc(partition.start, partition.end)
        inside = incidents.filter(pl.col("started_at").is_between(start, end, closed="left"))
        servers = rows.select("server_id").unique()
        covered = coverage.filter((pl.col("covered_from") <= start) & (pl.col("covered_to") >= end))
        periods.append(
            Period(
                partition.name.partition("=")[2],
                pq.read_metadata(partition.path(CLEAN_PATH)).num_rows,
                servers.height,
                inside.filter(kind=CRASH).height,
                inside.filter(kind=MAINTENANCE).height,
                1 - float(rows[OBSERVED].mean() or 0),  # type: ignore[arg-type]
                servers.join(covered, on="server_id", how="semi").height / max(servers.height, 1),
            )
        )
        groups = rows.join(group_of, on="server_id", how="left").with_columns(pl.col("group").fill_null(NO_GROUP))
        missing = groups.group_by("group").agg(pl.col(*telemetry.metrics).is_null().mean()).sort("group")
        low, middle, high = (rows.select(pl.col(*telemetry.metrics).quantile(share)).row(0) for share in PERCENTILES)
        for metric, *values in zip(metrics, low, middle, high, strict=True):
            for series, value in zip((metric.low, metric.middle, metric.high), values, strict=True):
                series.append(None if value is None else float(f"{value:.4g}"))
            metric.missing.append(dict(missing.select("group", metric.name).iter_rows()))
    return periods, metrics


def unit(name: str) -> str:
    """Return the unit that a metric's name ends in."""
    return UNITS.get(name.lower().rpartition("_")[2], "")


def _samples(columns: list[str], interval: timedelta) -> Iterator[tuple[Partition, pl.DataFrame]]:
    """Yield some moments of each partition, with the rows of all servers; all of a small partition."""
    for partition in tables.partitions(CLEAN_PATH):
        path = partition.path(CLEAN_PATH)
        times = tables.read(path, ["timestamp"])["timestamp"]  # sorted
        where = None
        if len(times) > SAMPLED_ROWS:
            moments = SAMPLED_ROWS * ((partition.end - partition.start) // interval) // len(times)
            chosen = times.gather_every(len(times) // max(moments, 1)).unique()
            where = pl.col("timestamp").is_in(chosen.implode())
        yield partition, tables.read(path, columns, where)
