"""The benchmarks measure what they say, and other engines come to the pipeline's values."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measured(program: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "measure.py", sys.executable, "-c", program], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_cpu_and_memory_of_children_count_and_the_parents_memory_does_not() -> None:
    child = (
        "import time; block = b'x' * 200_000_000; end = time.process_time() + 0.5\nwhile time.process_time() < end: 0"
    )
    two = f"""import subprocess, sys
for child in [subprocess.Popen([sys.executable, "-c", {child!r}]) for _ in range(2)]: child.wait()"""
    cost = measured(two)
    assert cost["cpu_s"] > 1.0
    assert 190 < cost["largest_process_mib"] < 300
    assert cost["all_processes_mib"] > 350
    assert measured("pass")["largest_process_mib"] < 60


def test_a_failure_is_passed_on() -> None:
    failed = [sys.executable, BENCHMARKS / "measure.py", sys.executable, "-c", "raise SystemExit(3)"]
    assert subprocess.run(failed, capture_output=True).returncode == 3


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    if importlib.util.find_spec("duckdb") is None:
        pytest.skip("duckdb is not installed")
    out = tmp_path_factory.mktemp("engines") / "engines.json"
    command = [sys.executable, BENCHMARKS / "engines" / "run.py", "--servers", "20", "--months", "3", "--out", out]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_every_engine_comes_to_the_pipelines_tables(result: dict) -> None:
    assert set(result["equality"]) == {"polars", "pandas", "duckdb"}  # a difference would have ended the benchmark
    assert all(deviations["units"] <= 1 for deviations in result["equality"].values())


def test_the_floor_is_below_the_pipeline(result: dict) -> None:
    engines = result["engines"]
    assert 0 < engines["floor"]["extra_reading_cpu_s"] < engines["floor"]["cpu_s"] < engines["pipeline"]["cpu_s"]


def test_every_benchmark_finds_what_it_imports() -> None:
    names = [path.stem for path in BENCHMARKS.glob("*.py")]
    assert len(names) > 5
    done = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(names)}"], cwd=BENCHMARKS, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{BENCHMARKS.parent / 'src'}{os.pathsep}{BENCHMARKS}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
