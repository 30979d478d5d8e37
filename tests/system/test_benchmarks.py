"""The benchmarks measure what they say, and other engines come to the pipeline's values."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import mutants
import two_tier

from crashcast.modeling.alarms import AlarmWindow

pytestmark = pytest.mark.ci

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measured(program: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "measure.py", sys.executable, "-c", program], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_cpu_and_memory_of_children_count_and_the_parents_memory_does_not() -> None:
    # Both hold their memory until both have used their CPU time, however slow the machine is.
    child = (
        "import time; block = b'x' * 200_000_000; end = time.process_time() + 0.5\n"
        "while time.process_time() < end: 0\nprint(flush=True); input()"
    )
    two = f"""import subprocess, sys, time
start = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
children = [subprocess.Popen([sys.executable, "-c", {child!r}], **start) for _ in range(2)]
for child in children: child.stdout.readline()
time.sleep(0.5)
for child in children: child.communicate(b"\\n")"""
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


def test_a_later_row_counts_for_its_server_once_its_label_is_ripe() -> None:
    def at(*hours: int) -> list[datetime]:
        return [datetime(2025, 3, 3, hour, tzinfo=UTC) for hour in hours]

    hour = timedelta(hours=1)
    found = pl.DataFrame({"server_id": ["a"], "observed": [1.0], "expected": [1.0]})
    later = pl.DataFrame(
        {
            "timestamp": at(0, 1, 2, 0),
            "server_id": ["a", "a", "a", "b"],
            "observed": [1, 0, 1, 0],
            "expected": [0.5] * 4,
        }
    )
    rows = pl.DataFrame({"timestamp": at(4, 2, 3, 4), "server_id": ["a", "a", "a", "c"]})
    window = AlarmWindow(lead=hour, horizon=2 * hour, interval=hour)  # two rows are one crash
    corrections = two_tier.adapted(found, later, rows, 3 * hour, window)
    # at 2:00 no later row is ripe; at 3:00 that of 0:00 is; at 4:00 also that of 1:00; c is unknown
    assert corrections == pytest.approx([0.0, 0.0, np.log((3 + 1.5) / (3 + 1.25)), 0.0])


CODE = '''
"""Documentation: 1 < 2."""
LIMIT: int = 3


def f(a: int | None, b=2.5, *, c: bool = True):
    """Documentation: 1 < 2."""
    if a is None:
        raise ValueError(f"not {1 + 1}")
    if a < 0 and not c:
        return min(a, b)
    total = a + b
    print("total", 1)
    return frame.sort("a").filter(total == 1, strict=True)
'''
CHANGES = """
3 -> 4
2.5 -> 5.0
True -> False
a is None -> False
a is None -> a is not None
a < 0 and (not c) -> False
a < 0 and (not c) -> a < 0 or not c
a < 0 and (not c) -> not c
a < 0 and (not c) -> a < 0
a < 0 -> a <= 0
a < 0 -> a >= 0
0 -> 1
not c -> c
min(a, b) -> max(a, b)
a + b -> a - b
a + b -> a
a + b -> b
frame.sort('a').filter(total == 1, strict=True) -> frame.sort('a')
frame.sort('a') -> frame
total == 1 -> total != 1
1 -> 2
"""


def test_a_mutant_is_one_error_in_code_not_in_its_documentation_types_or_messages() -> None:
    found = mutants.mutants_of(CODE)
    assert [mutant.change for mutant in found] == CHANGES.strip().splitlines()
    lines = CODE.splitlines()
    for mutant in found:
        assert lines[mutant.number - 1].strip() == mutant.line
        mutated = (CODE.encode()[: mutant.start] + mutant.new + CODE.encode()[mutant.end :]).decode()
        differing = [pair for pair in zip(lines, mutated.splitlines(), strict=True) if pair[0] != pair[1]]
        assert [line.strip() for line, _ in differing] == [mutant.line]
        compile(mutated, "", "exec")


def test_every_subject_has_tests_and_every_equivalent_mutant_exists() -> None:
    changes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for file in (file for listed in mutants.SUBJECTS.values() for file in listed):
        assert mutants.tests_of(file), file
        for mutant in mutants.mutants_of((mutants.SRC / file).read_text(), file):
            changes[file, mutant.line].add(mutant.change)
    for line, listed in mutants.read_equivalent().items():
        assert line in changes
        assert set(listed) <= changes[line]


def test_drawn_mutants_stay_the_same_if_others_are_listed_as_equivalent(monkeypatch: pytest.MonkeyPatch) -> None:
    file = "crashcast/modeling/row_metrics.py"
    monkeypatch.setattr(mutants, "read_equivalent", dict)
    before, none = mutants.drawn(file, 20, seed=1)
    listed = {(file, before[0].line): [before[0].change]}
    monkeypatch.setattr(mutants, "read_equivalent", lambda: listed)
    after, one = mutants.drawn(file, 20, seed=1)
    assert (none, one, len(before), len(after)) == (0, 1, 20, 20)
    assert set(before) - set(after) == {before[0]}
    assert mutants.drawn(file, 20, seed=2)[0] != after


@pytest.mark.slow
def test_mutants_are_killed_by_tests_that_check_something(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "mutants.py", "row_metrics", "--sample=8", f"--results={tmp_path / 'out'}"]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads((tmp_path / "out").read_text())["row_metrics"]
    assert counts["killed"] == counts["mutants"] == 8


@pytest.mark.slow
def test_a_mutant_without_a_test_survives_and_fails_the_command(tmp_path: Path) -> None:
    code = """
import mutants, sys
mutants.tests_of = lambda file: [str(mutants.ROOT / "tests" / "code" / "test_text.py")]
sys.argv[1:] = ["row_metrics", "--sample=2", "--results=" + sys.argv[1]]
mutants.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out"], text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS)},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("survived: crashcast/modeling/row_metrics.py:") == 2
