"""The record of what runs cost: right figures, whole lines, a bounded file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crashcast import run_record
from crashcast.run_record import FILE, count_partitions, last_of_each, recorded, runs

CHILD = "import time; block = bytearray(300_000_000); block[::4096] = b'x' * len(block[::4096]); {}; time.sleep(0.6)"
BURN = "end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a project of DVC with one stage."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / "dvc.yaml").write_text("stages:\n  clean:\n    cmd: x\n    deps: [raw]\n    outs: [out]\n")
    (tmp_path / "raw/month=1").mkdir(parents=True)
    (tmp_path / "raw/month=1/part").write_bytes(b"x" * 700)
    return tmp_path


def test_a_run_of_a_stage_is_measured(project: Path) -> None:
    with recorded("clean"):
        time.sleep(0.3)
        subprocess.run([sys.executable, "-c", f"import time\n{BURN}"], check=True)
        (project / "out").write_bytes(b"x" * 300)
        count_partitions("clean", total=3, remembered=2, rows=1000)
    (run,) = runs()
    assert (run["name"], run["exit_status"], run["rows"]) == ("clean", 0, 1000)
    assert (run["read_bytes"], run["written_bytes"]) == (700, 300)
    assert run["partitions"] == {"clean": {"total": 3, "remembered": 2}}
    assert run["duration_s"] > 0.7
    assert 0.4 < run["cpu_s"] < run["duration_s"] + 0.3  # the child's, not the time asleep


def test_the_memory_of_children_counts(project: Path) -> None:
    with recorded("clean"):
        subprocess.run([sys.executable, "-c", CHILD.format("pass")], check=True)
    assert runs()[0]["peak_memory_bytes"] > 300_000_000


def test_what_one_run_counted_is_not_the_next_ones(project: Path) -> None:
    with recorded("clean"):
        count_partitions("clean", total=3, remembered=3, rows=5)
    with recorded("collect"):
        pass
    assert runs()[1].keys() & {"partitions", "rows", "read_bytes"} == set()


def test_a_step_that_is_repeated_adds_up_and_is_not_the_runs_table(project: Path) -> None:
    with recorded("train"):
        count_partitions("scores", total=2, remembered=0, workers=2)
        count_partitions("scores", total=3, remembered=1)
    (run,) = runs()
    assert run["partitions"] == {"scores": {"total": 5, "remembered": 1}}
    assert (run["workers"], "rows" in run) == (2, False)


def test_a_part_of_a_run_and_its_processes_are_noted_apart() -> None:
    with recorded("train"):
        count_partitions("clean", total=3, remembered=2, rows=1000, workers=2)
        count_partitions("label", total=3, remembered=3, rows=1000)
        with run_record.step("fit", rows=70):
            end = time.process_time() + 0.4
            while time.process_time() < end:
                pass
        time.sleep(0.5)
    (run,) = runs()
    assert run["workers"] == 2
    fit = run["steps"]["fit"]
    assert (fit["rows"], fit["peak_memory_bytes"] <= run["peak_memory_bytes"]) == (70, True)
    assert 0.39 < fit["cpu_s"] <= run["cpu_s"]
    assert 0.39 < fit["duration_s"] < run["duration_s"] - 0.4


def test_the_processes_of_a_cluster_are_not_counted() -> None:
    with recorded("clean"):
        count_partitions("evidence", total=3, remembered=0, rows=1000, workers=None)
        count_partitions("clean", total=3, remembered=2, rows=1000, workers=2)
    assert runs()[0]["workers"] is None


@pytest.mark.parametrize(
    ("error", "status"), [(SystemExit(2), 2), (SystemExit("why"), 1), (SystemExit(None), 0), (KeyError("x"), 1)]
)
def test_a_run_that_fails_is_recorded_as_failed(error: BaseException, status: int) -> None:
    with pytest.raises(type(error)), recorded("clean"):
        raise error
    (run,) = runs()
    assert (run["exit_status"], run_record.is_failed(run)) == (status, status != 0)


@pytest.mark.parametrize("content", ["<<<<<<< HEAD", "stages: [", "stages: {clean: 1}"])
def test_a_damaged_dvc_yaml_fails_no_run_that_has_ended(project: Path, content: str) -> None:
    (project / "dvc.yaml").write_text(content)
    with recorded("clean"):
        pass
    assert [run["exit_status"] for run in runs()] == [0]


def test_a_verdict_is_no_failure_and_an_error_of_a_review_is_one() -> None:
    found = [{"name": "review", "exit_status": status} for status in (0, 1, 2, 3)]
    assert [run_record.is_failed(run) for run in found] == [False, False, True, False]


def test_the_last_success_is_remembered_when_a_later_run_fails() -> None:
    with recorded("clean"):
        pass
    succeeded = run_record.ended_s(runs()[0])
    with pytest.raises(SystemExit), recorded("clean"):
        sys.exit(2)
    (last,) = last_of_each()
    assert (last["exit_status"], last["succeeded"]) == (2, succeeded)


def test_outside_a_project_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with recorded("clean"):
        pass
    assert not FILE.exists()
    assert runs() == []


def test_the_file_is_bounded_and_keeps_the_newest_and_the_last_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_record, "MAX_BYTES", 5_000)

    def append(name: str, number: int, exit_status: int = 0) -> None:
        run = {"name": name, "number": number, "exit_status": exit_status, "duration_s": 1.0}
        run_record._append(json.dumps({**run, "begun": f"2026-01-05T12:00:{number:02}+00:00"}))

    for number, status in enumerate([0, 0, 2, 2]):
        append("train", number, status)
    for number in range(200):
        append("score", number % 60)
    assert FILE.stat().st_size < 6_000
    kept = [run["number"] for run in runs() if run["name"] == "score"]
    assert kept == [number % 60 for number in range(200)][-len(kept) :]
    train, score = last_of_each()
    assert (train["number"], train["succeeded"]) == (3, 1767614402.0)  # number 1 ended at 12:00:02
    assert score["number"] == 199 % 60


def test_lines_of_many_writers_stay_whole_and_a_damaged_one_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_record, "MAX_BYTES", 10_000_000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: run_record._append(json.dumps({"name": "x" * 500, "n": number})), range(400)))
    assert sorted(run["n"] for run in runs()) == list(range(400))
    with FILE.open("a") as file:
        file.write('{"name": "cut')
    assert len(runs()) == 400
