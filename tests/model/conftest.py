"""A small fleet whose crashes are known, on disk, and what the pipeline makes of it."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from threadpoolctl import threadpool_limits

from crashcast import tables
from crashcast.tables import COVERAGE, INCIDENTS, partition_at

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
START, HOURS, SERVERS = datetime(2025, 1, 6), 24 * 84, 24
BOOSTING = {
    "learning_rate": [0.1],
    "max_iter": 20,
    "max_leaf_nodes": [5],
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
}


@dataclass(frozen=True)
class Project:
    """A project's folder."""

    root: Path

    def run(self, *stages: str) -> None:
        """Run stages with the paths that dvc.yaml gives them."""
        with chdir(self.root):
            for stage in stages:
                _, _, name, *paths = shlex.split(STAGES[stage]["cmd"])
                importlib.import_module(f"stages.{name}").main(*map(Path, paths))

    def set(self, section: str, **values: Any) -> None:
        """Change params.yaml."""
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text())
        content[section] |= values
        path.write_text(yaml.safe_dump(content))

    def json(self, name: str) -> Any:
        """Read a JSON file."""
        return json.loads((self.root / name).read_text())

    def table(self, name: str) -> pl.DataFrame:
        """Read a whole table."""
        folder = self.root / name
        return pl.concat(tables.read(partition.path(folder)) for partition in tables.partitions(folder))

    def rewrite(self, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        """Change every partition of a table."""
        folder = self.root / name
        for partition in tables.partitions(folder):
            tables.write(partition.path(folder), change(tables.read(partition.path(folder))))

    def copy(self, to: Path) -> Project:
        """Copy it, to be changed."""
        return Project(shutil.copytree(self.root, to / "project"))


def simulate(root: Path) -> Project:
    """Write a fleet of 24 servers over 12 weeks: four crashes in five follow a spike of both CPU and latency."""
    draw = np.random.default_rng(7)
    shape = HOURS, SERVERS
    cpu, latency, memory = draw.uniform(5, 60, shape), draw.gamma(4, 20, shape), draw.uniform(20, 80, shape)
    spikes = draw.random((2, *shape)) < 0.02  # of either alone: harmless
    cpu[spikes[0]] += 35
    latency[spikes[1]] *= 4
    label, since, recent = np.zeros(shape, np.int8), np.full(shape, 1440.0), np.zeros(shape)
    crashes = []
    for server in range(SERVERS):
        hour = int(draw.integers(10, 200))
        while hour < HOURS - 10:
            crashes.append((hour, server))
            label[hour - 6 : hour, server] = 1  # crashes come half an hour after a row, 1.5 to 6.5 h ahead of these
            label[hour : hour + 4, server] = -1  # too late to warn, then down and recovering
            if draw.random() < 0.8:
                cpu[hour - 6 : hour, server] += 35
                latency[hour - 6 : hour, server] *= 4
            known = hour + 5
            since[known:, server] = np.arange(HOURS - known) + 4.5
            recent[known : hour + 168, server] += 1
            hour += 30 + int(draw.exponential(110))
    label[-11:] = -1  # records end
    cpu[draw.random(shape) < 0.02] = np.nan

    moments = pl.Series([START + hour * timedelta(hours=1) for hour in range(HOURS)], dtype=pl.Datetime("us"))
    names = pl.Series([f"server-{server:02}" for server in range(SERVERS)])
    cells = pl.Series(np.arange(HOURS * SERVERS))
    keys = pl.DataFrame(
        {
            "timestamp": moments.gather(cells // SERVERS).dt.replace_time_zone("UTC"),
            "server_id": names.gather(cells % SERVERS),
        }
    )
    features = {
        "cpu_pct": cpu,
        "latency_ms": latency,
        "memory_pct": memory,
        "cpu_latency_combo": cpu * latency,
        "hours_since_crash": since,
        "crashes_7d": recent,
    }
    write(
        root / "data" / "features",
        keys.with_columns(
            pl.Series(name, values.ravel().astype(np.float32)).fill_nan(None) for name, values in features.items()
        ),
    )
    known = pl.Series("label", label.ravel())
    write(
        root / "data" / "labels",
        keys.with_columns(label=pl.when(known >= 0).then(known), reason=pl.lit(None, pl.String)),
    )

    half = timedelta(minutes=30)
    started = [(moments[hour] + half, names[server]) for hour, server in sorted(crashes)]
    incidents = pl.DataFrame(
        [
            (str(number), server, "crash", at, at + half, at + 8 * half, None, "simulated", None)
            for number, (at, server) in enumerate(started)
        ],
        schema=naive(INCIDENTS),
        orient="row",
    )
    tables.write(root / "data" / "incidents.parquet", incidents.cast(INCIDENTS))
    end = START + HOURS * timedelta(hours=1)
    coverage = [(name, START, end, "web" if number % 3 else "database") for number, name in enumerate(names)]
    tables.write(
        root / "data" / "raw" / "coverage.parquet",
        pl.DataFrame(coverage, schema=naive(COVERAGE), orient="row").cast(COVERAGE),
    )

    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    project = Project(root)
    grids = {"logistic_regression": {"C": [1.0]}, "hist_gradient_boosting": BOOSTING}
    project.set("train", candidates=grids, negatives_per_positive=10, folds=2)
    project.set("evaluate", replicates=100, confidence=0.9, block="1d")
    project.set("alarms", false_alarms_per_server_day=0.05)
    return project


def naive(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with times as Python writes them."""
    return {name: pl.Datetime("us") if kind == tables.TIMESTAMP else kind for name, kind in schema.items()}


def write(folder: Path, rows: pl.DataFrame) -> None:
    """Write a table by months."""
    for (month,), part in rows.group_by(pl.col("timestamp").dt.truncate("1mo"), maintain_order=True):
        tables.write(partition_at(month, "month").path(folder), part)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep tests that run side by side out of each other's cores."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after split, train and evaluate; not to be changed."""
    project = simulate(tmp_path_factory.mktemp("judged"))
    project.run("split", "train", "evaluate")
    return project


@pytest.fixture
def project(judged: Project, tmp_path: Path) -> Project:
    """Return a copy of it, to be changed."""
    return judged.copy(tmp_path)
