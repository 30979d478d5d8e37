"""The notebooks run without a browser, on the demo fleet and on imported data whose metrics have other names."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crashcast.explore import page
from crashcast.params.telemetry import Telemetry

pytest.importorskip("marimo", reason="the extra `notebooks` is not installed")
pytestmark = pytest.mark.ci

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.py"))
OTHER_NAMES = {  # of metrics; uptime and errors, which labels use, are not among them
    "cpu_pct": "processor",
    "memory_pct": "mem used",
    "latency_ms": "response.p99",
    "network_mbps": "traffic",
}


@pytest.fixture(scope="module")
def demo(small_fleet: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_fleet(tmp_path_factory.mktemp("notebooks") / "demo")


@pytest.fixture(scope="module")
def imported(
    demo: Path,
    copy_project: Callable[[Path], Path],
    repro: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a project into which the small fleet was imported as CSV files, its metrics under other names."""
    here = copy_project(tmp_path_factory.mktemp("notebooks") / "imported")
    shutil.copy(demo / "params.yaml", here / "params.yaml")
    samples = pl.read_parquet(demo / "data/raw/telemetry/*/*.parquet", hive_partitioning=False)
    samples.select("timestamp", "server_id", *OTHER_NAMES).rename(OTHER_NAMES).write_csv(here / "samples.csv")
    pl.read_parquet(demo / "data/raw/incidents.parquet").write_csv(here / "incidents.csv")
    subprocess.run("git init -q -b main && git add -A && git commit -q -m code", shell=True, cwd=here, check=True)
    command = "crashcast import --telemetry samples.csv --incidents incidents.csv"
    subprocess.run(command, shell=True, cwd=here, check=True)
    repro(here)
    subprocess.run("git add -A && git commit -q -m run", shell=True, cwd=here, check=True)
    return here


def run(name: str) -> dict[str, Any]:
    """Run a notebook in the work tree of this process, and return its variables."""
    spec = importlib.util.spec_from_file_location(f"notebook_{name[:-3]}", ROOT / "notebooks" / name)
    assert spec is not None
    assert spec.loader is not None
    notebook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notebook)
    _, variables = notebook.app.run()
    return dict(variables)


@pytest.mark.parametrize("fleet", ["demo", "imported"])
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(
    name: str, fleet: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(request.getfixturevalue(fleet))
    variables = run(name)
    if fleet == "imported":
        assert "cpu_pct" not in Telemetry.read().metrics
        assert variables.get("metrics", list(Telemetry.read().metrics)) == list(Telemetry.read().metrics)
    if name == "missed_crash.py":
        assert variables["case"].why
        text = page.render(variables["content"])  # `crashcast explore` of this fleet
        assert all(f">{name}</h3>" in text for name in Telemetry.read().metrics)
    if name == "new_feature.py":
        found = variables["found"]
        assert 0 < found["base rate"] < found["metrics"] < 1
        assert 0 < found["metrics and the new feature"] < 1


def test_one_runs_as_a_script(demo: Path) -> None:
    command = [sys.executable, ROOT / "notebooks/fleet.py"]
    done = subprocess.run(command, cwd=demo, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_they_are_as_the_editor_writes_them() -> None:
    paths = [str(ROOT / "notebooks" / name) for name in NOTEBOOKS]
    done = subprocess.run([sys.executable, "-m", "marimo", "check", "--strict", *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
