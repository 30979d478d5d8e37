from __future__ import annotations

import importlib
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml

from crashcast import partitions, tables
from crashcast.canonical import md5
from crashcast.errors import UserError
from crashcast.partitions import Period, Task
from crashcast.tables import partition_at

HOUR = timedelta(hours=1)
MONTHS = [partition_at(datetime(2024, month, 1), "month") for month in (1, 2, 3)]

# tasks run in processes that import their function by name, so it lives in a module of its own
TASKS = """
import os
import signal
import time

import polars as pl

from crashcast.errors import UserError


def double(partition, rows, factor):
    return rows.with_columns(pl.col("value") * factor), {"rows": rows.height, "month": partition.start.month}


def slow_at_first(partition, rows, factor):
    time.sleep(0.5 * (partition.start.month == 1))
    return double(partition, rows, factor)


def nothing_in_february(partition, rows, factor):
    return rows.clear() if partition.start.month == 2 else rows, {"rows": rows.height}


def fail_in_february(partition, rows, factor):
    if partition.start.month == 2:
        raise UserError(f"{partition.name} is bad")
    return double(partition, rows, factor)


def killed_in_february(partition, rows, factor):
    if partition.start.month == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(partition, rows, factor)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a project with an hourly table of three months."""
    (tmp_path / "fleet_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")  # the runner sets it where nobody has
    workers(1)
    for number, month in enumerate(MONTHS):
        moments = pl.datetime_range(month.start, month.end, "1h", eager=True, closed="left", time_zone="UTC")
        rows = pl.DataFrame({"timestamp": moments.dt.cast_time_unit("us"), "server_id": "a", "value": 100.5 + number})
        tables.write(month.path(tmp_path / "in"), rows)
    return tmp_path


def listed(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def workers(number):
    Path("params.yaml").write_text(yaml.safe_dump({"execution": {"workers": number}}))


def run(name, out="out", months=MONTHS):
    compute = getattr(importlib.import_module("fleet_tasks"), name)
    root = Path.cwd()
    tasks = [Task(month, {"rows": Period(root / "in", month.start - HOUR, month.end), "factor": 2}) for month in months]
    return partitions.run("doubling", compute, tasks, root / out)


def test_a_task_is_handed_its_period_and_its_result_is_its_partition(project):
    run("double")
    assert [partition.name for partition in tables.partitions(project / "out")] == [month.name for month in MONTHS]
    february = tables.read(MONTHS[1].path(project / "out"))
    assert february.height == 1 + 29 * 24  # one hour of January before it
    assert february["value"].unique().sort().to_list() == [201, 203]


def test_two_workers_write_what_one_writes(project):
    counts = run("double", "one")
    workers(2)
    assert run("double", "two") == counts
    assert md5(project / "one") == md5(project / "two")
    assert listed(project) == ["fleet_tasks.py", "in", "one", "params.yaml", "two"]


@pytest.mark.parametrize("number", [1, 2])
def test_counts_come_in_order_of_time_whichever_task_ends_first(project, number):
    workers(number)
    counts = run("slow_at_first")
    assert counts == [{"rows": 744, "month": 1}, {"rows": 697, "month": 2}, {"rows": 745, "month": 3}]
    assert partitions.total(counts) == {"rows": 2186, "month": 6}


def test_the_old_output_goes_with_all_it_held(project):
    run("double")
    run("double", months=MONTHS[1:])
    assert [partition.name for partition in tables.partitions(project / "out")] == ["month=2024-02", "month=2024-03"]


def test_an_empty_result_leaves_no_file(project):
    assert [count["rows"] for count in run("nothing_in_february")] == [744, 697, 745]
    assert listed(project / "out") == ["month=2024-01", "month=2024-03"]


@pytest.mark.parametrize(
    ("number", "task", "message"),
    [
        (1, "fail_in_february", "month=2024-02 is bad"),
        (2, "fail_in_february", "month=2024-02 is bad"),
        (2, "killed_in_february", "a worker was killed, most likely for want of memory: lower `workers`"),
    ],
)
def test_a_task_that_fails_leaves_the_old_output(project, number, task, message):
    run("double")
    before, names = md5(project / "out"), listed(project)
    workers(number)
    with pytest.raises(UserError, match=message):
        run(task)
    assert md5(project / "out") == before
    assert listed(project) == names


def test_a_first_run_that_fails_leaves_nothing(project):
    with pytest.raises(UserError):
        run("fail_in_february")
    assert not (project / "out").exists()


def test_progress_is_told_line_by_line_where_nobody_watches(project, capsys):
    run("double")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [f"doubling: partition {number} of 3" for number in (1, 2, 3)]


def test_progress_ends_where_the_work_fails(project, capsys):
    with pytest.raises(UserError):
        run("fail_in_february")
    assert capsys.readouterr().err.splitlines() == ["doubling: partition 1 of 3"]


def test_a_terminal_gets_a_bar(project, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run("double")
    assert "partition 1 of 3" not in capsys.readouterr().err


def test_small_tables_take_one_process_and_large_ones_all_cores(project, monkeypatch):
    workers("auto")
    monkeypatch.setattr(partitions.os, "cpu_count", lambda: 7)
    assert partitions._workers(partitions.SMALL_BYTES - 1) == 1
    assert partitions._workers(partitions.SMALL_BYTES) == 7
    workers(3)
    assert partitions._workers(0) == partitions._workers(partitions.SMALL_BYTES) == 3


def test_the_size_of_a_period_is_that_of_the_files_it_touches(project):
    sizes = [month.path(project / "in").stat().st_size for month in MONTHS]
    assert Period(project / "in", MONTHS[1].start, MONTHS[1].end).size_bytes == sizes[1]
    assert Period(project / "in", MONTHS[1].start - HOUR, MONTHS[1].end).size_bytes == sizes[0] + sizes[1]
    assert Period(project / "in", MONTHS[2].end, MONTHS[2].end + HOUR).size_bytes == 0
