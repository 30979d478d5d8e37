from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import psutil
import pytest
import yaml

from crashcast import tables
from crashcast.errors import UserError
from crashcast.execution import code_hash, memo, runner
from crashcast.execution.task import Period, Task, fingerprint
from crashcast.files import md5
from crashcast.params.execution import Execution
from crashcast.tables import partition_at
from crashcast.versioning import cache

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


def noted(partition, rows, factor):
    with open("calls", "a") as file:
        file.write(f"{partition.start.month} ")
    return double(partition, rows, factor)


def fails_on_demand(partition, rows, factor):
    if partition.start.month == 3 and "FAIL" in os.environ:
        raise UserError(f"{partition.name} is bad")
    return double(partition, rows, factor)


def edits_its_input(partition, rows, factor):
    os.utime("in/month=2024-02/part-0.parquet")
    return double(partition, rows, factor)


def depends_on_the_weather(partition, rows, factor):
    return double(partition, rows, float(os.environ.get("WEATHER", "1")))


def waits(partition, rows, factor):
    with open("calls", "a") as file:
        file.write(f"{os.getpid()} ")
    time.sleep(600)


def killed_in_february(partition, rows, factor):
    if partition.start.month == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(partition, rows, factor)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a project with an hourly table of three months."""
    (tmp_path / "fleet_tasks.py").write_text(TASKS)
    monkeypatch.delitem(sys.modules, "fleet_tasks", raising=False)
    forget_code()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")  # the runner sets it where nobody has
    workers(1)
    for number, month in enumerate(MONTHS):
        moments = pl.datetime_range(month.start, month.end, "1h", eager=True, closed="left", time_zone="UTC")
        rows = pl.DataFrame({"timestamp": moments.dt.cast_time_unit("us"), "server_id": "a", "value": 100.5 + number})
        tables.write(month.path(tmp_path / "in"), rows)
    return tmp_path


def forget_code():
    code_hash.digest.cache_clear()
    code_hash._module.cache_clear()


def listed(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def workers(number):
    Path("params.yaml").write_text(yaml.safe_dump({"execution": {"workers": number, "memo_gb": 1}}))


def run(name, out="out", months=MONTHS):
    compute = getattr(importlib.import_module("fleet_tasks"), name)
    root = Path.cwd()
    table = root / "in"
    periods = {month: Period.among(MONTHS, table, month.start - HOUR, month.end) for month in months}
    tasks = [Task(month, {"rows": period, "factor": 2}) for month, period in periods.items()]
    return runner.run("doubling", compute, tasks, root / out)


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
    assert runner.total(counts) == {"rows": 2186, "month": 6}


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
        (2, "killed_in_february", "a worker was killed, most likely because memory ran out: lower `workers`"),
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
    with pytest.raises(UserError, match=r"^month=2024-02 is bad$"):
        run("fail_in_february")
    assert not (project / "out").exists()


def test_results_that_need_not_stay_are_gone_when_they_were_read(project):
    (project / ".dvc").mkdir()
    periods = {month: Period.among(MONTHS, project / "in", month.start, month.end) for month in MONTHS}
    tasks = [Task(month, {"rows": period, "factor": 2}) for month, period in periods.items()]
    compute = importlib.import_module("fleet_tasks").nothing_in_february
    for recalled in (False, True):
        found = runner.files("halving", compute, tasks)
        first = next(found)
        assert first.exists()
        months = [first.parent.name, *(path.parent.name for path in found)]
        assert months == ["month=2024-01", "month=2024-03"], recalled
        assert not first.exists()
        first = next(unread := runner.files("halving", compute, tasks))
        unread.close()
        assert not first.exists()
    assert not list((project / ".dvc").rglob("halving"))


def test_a_file_that_is_missing_is_named_with_what_to_do(project):
    (missing := MONTHS[1].path(project / "in")).unlink()
    with pytest.raises(UserError, match=rf"^{missing} is missing: `dvc pull` or `dvc repro` brings it$"):
        run("double")


def test_progress_is_told_line_by_line_where_nobody_watches(project, capsys):
    run("double")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        *(f"doubling: partition {number} of 3" for number in (1, 2, 3)),
        "doubling: 3 partitions, 3 computed, 0 from the memo",
    ]


def test_progress_ends_where_the_work_fails(project, capsys):
    with pytest.raises(UserError, match=r"^month=2024-02 is bad$"):
        run("fail_in_february")
    assert capsys.readouterr().err.splitlines() == ["doubling: partition 1 of 3"]


def test_a_terminal_gets_a_bar(project, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run("double")
    assert "partition 1 of 3" not in capsys.readouterr().err


def test_small_tables_take_one_process_and_large_ones_all_cores(monkeypatch):
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 7)
    auto, three = Execution(workers="auto", memo_gb=1), Execution(workers=3, memo_gb=1)
    assert [runner._workers(auto, size, 50) for size in (49, 50)] == [1, 7]
    assert [runner._workers(three, size, 50) for size in (0, 50)] == [3, 3]


def test_a_period_lies_in_the_files_it_touches(project):
    paths = [month.path(project / "in") for month in MONTHS]
    _, february, march = MONTHS
    assert Period.among(MONTHS, project / "in", february.start, february.end).files == [paths[1]]
    assert Period.among(MONTHS, project / "in", february.start - HOUR, february.end).files == paths[:2]
    beyond = Period.among(MONTHS, project / "in", march.end, march.end + HOUR)
    assert beyond.files == [paths[0]]  # for its columns
    assert beyond.read().is_empty()
    assert beyond.read().columns == ["timestamp", "server_id", "value"]


@pytest.fixture
def memoised(project, monkeypatch):
    """Let the project have a memo, as under DVC."""
    (project / ".dvc").mkdir()
    monkeypatch.setattr(cache, "root", lambda: project / ".dvc" / "cache")
    return project


def computed(capsys):
    """Return which of the tasks since the last time were computed, as the stage's last line says."""
    last = capsys.readouterr().err.splitlines()[-1]
    return last.removeprefix("doubling: ")


@pytest.mark.parametrize(("gb", "is_told"), [(1e-6, True), (1, False), (0, False)])
def test_a_memo_that_will_not_hold_a_stage_is_said_at_the_first_result(memoised, capsys, gb, is_told):
    Path("params.yaml").write_text(yaml.safe_dump({"execution": {"workers": 1, "memo_gb": gb}}))
    run("double")
    told = capsys.readouterr().err
    assert ("the oldest will be forgotten" in told) == is_told
    if is_told:
        needed = float(re.search(r"its 3 results take about ([\d.e-]+) GB, and execution.memo_gb is 1e-06", told)[1])
        size = sum(path.stat().st_size for path in (memoised / "out").rglob("*.parquet"))
        assert needed * 1e9 == pytest.approx(size, rel=0.2)


def entries(project):
    return sorted((project / ".dvc" / "cache" / memo.NAME).glob("??/*"))


def change(month, hour, column="value"):
    """Change one value in the input."""
    path = month.path(Path("in"))
    rows = tables.read(path).with_row_index()
    tables.write(path, rows.with_columns(pl.col(column) + (pl.col("index") == hour).cast(pl.Float64)).drop("index"))


def test_a_second_run_takes_everything_from_the_memo(memoised, capsys):
    counts = run("double")
    first = md5(memoised / "out")
    capsys.readouterr()
    assert run("double") == counts
    assert computed(capsys) == "3 partitions, 0 computed, 3 from the memo"
    assert md5(memoised / "out") == first


@pytest.mark.parametrize("number", [1, 2])
def test_workers_share_the_memo_and_each_byte_lies_there_once(memoised, number, capsys):
    workers(number)
    run("double")
    run("double", "again")
    assert computed(capsys) == "3 partitions, 0 computed, 3 from the memo"
    inodes = {folder: [month.path(memoised / folder).stat().st_ino for month in MONTHS] for folder in ("out", "again")}
    assert inodes["out"] == inodes["again"]
    assert MONTHS[0].path(memoised / "out").stat().st_nlink == 3


@pytest.mark.parametrize(
    ("month", "hour", "reached"),
    [
        pytest.param(0, 5, {1}, id="the month alone"),
        pytest.param(0, 31 * 24 - 1, {1, 2}, id="the hour that the next month looks back on"),
        pytest.param(2, 9, {3}, id="the last month"),
    ],
)
def test_a_correction_reaches_its_month_and_those_that_look_back_on_it(memoised, month, hour, reached):
    counts = run("noted")
    calls = memoised / "calls"
    assert calls.read_text().split() == ["1", "2", "3"]
    calls.unlink()
    change(MONTHS[month], hour)
    assert run("noted") == counts
    assert {int(number) for number in calls.read_text().split()} == reached


@pytest.mark.parametrize("what", ["factor", "frame", "section", "columns", "code", "python"])
def test_whatever_a_result_depends_on_is_in_its_key(memoised, what, monkeypatch):
    compute = importlib.import_module("fleet_tasks").double
    frame = pl.DataFrame({"server_id": ["a"]})
    period = Period.among(MONTHS, memoised / "in", MONTHS[1].start - HOUR, MONTHS[1].end)
    inputs = {"rows": period, "factor": 2, "frame": frame, "section": Execution(workers=1, memo_gb=1)}
    store = memo.find()

    def key(**changed):
        return Task(MONTHS[1], inputs | changed).key(compute, store)

    before = key()
    assert key() == before
    assert key(frame=pl.DataFrame({"server_id": ["a"]})) == before
    changes = {
        "factor": {"factor": 3},
        "frame": {"frame": frame.with_columns(server_id=pl.lit("b"))},
        "section": {"section": Execution(workers=2, memo_gb=1)},
        "columns": {"rows": replace(period, columns=("timestamp", "value"))},
    }
    if what == "code":
        forget_code()
        Path("fleet_tasks.py").write_text(TASKS.replace("rows.height", "len(rows)"))
    elif what == "python":
        forget_code()
        monkeypatch.setattr(code_hash.sys, "version", "3.99")
    assert key(**changes.get(what, {})) != before


def test_a_comment_changes_no_key(memoised):
    module = importlib.import_module("fleet_tasks").__name__
    before = code_hash.digest(module)
    Path("fleet_tasks.py").write_text(TASKS.replace("import time", "import time  # to sleep"))
    forget_code()
    assert code_hash.digest(module) == before


def test_what_has_no_fingerprint_is_refused(memoised):
    with pytest.raises(TypeError, match="no fingerprint of object"):
        fingerprint(object(), MONTHS[0], memo.find())


@pytest.mark.parametrize("harm", ["flip", "truncate", "record", "lose"])
def test_a_damaged_entry_is_computed_again(memoised, harm, capsys):
    run("double")
    good = md5(memoised / "out")
    shutil.rmtree("out")
    data = max((path for path in entries(memoised) if path.suffix == ".parquet"), key=lambda path: path.name)
    status = data.stat()
    if harm == "record":
        record = data.with_suffix(".json")
        record.write_text(record.read_text().replace('"rows": ', '"rows": 1'))
    elif harm == "lose":
        data.unlink()
    else:
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content if harm == "flip" else content[:-7])
        os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    capsys.readouterr()
    run("double")
    assert computed(capsys) == "3 partitions, 1 computed, 2 from the memo"
    assert md5(memoised / "out") == good
    shutil.rmtree("out")
    run("double")
    assert computed(capsys) == "3 partitions, 0 computed, 3 from the memo"


def test_an_empty_result_is_remembered(memoised, capsys):
    counts = run("nothing_in_february")
    assert run("nothing_in_february") == counts
    assert computed(capsys) == "3 partitions, 0 computed, 3 from the memo"
    assert listed(memoised / "out") == ["month=2024-01", "month=2024-03"]


def test_what_was_done_before_a_failure_is_not_done_again(memoised, capsys, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(UserError, match="month=2024-03"):
        run("fails_on_demand")
    assert not (memoised / "out").exists()
    monkeypatch.delenv("FAIL")
    run("fails_on_demand")
    assert computed(capsys) == "3 partitions, 1 computed, 2 from the memo"


@pytest.mark.parametrize("number", [1, 2])
def test_an_input_that_changes_while_it_is_read_fails_the_run_and_is_not_remembered(memoised, number):
    workers(number)
    with pytest.raises(UserError, match=r"part-0\.parquet changed while doubling was reading it"):
        run("edits_its_input")
    assert not (memoised / "out").exists()
    assert len([path for path in entries(memoised) if path.suffix == ".json"]) <= 1


def test_it_can_be_switched_off(memoised, capsys, monkeypatch):
    run("double")
    monkeypatch.setenv("CRASHCAST_MEMO", "off")
    run("double")
    assert computed(capsys) == "3 partitions, 3 computed, 0 from the memo"
    monkeypatch.setenv("CRASHCAST_MEMO", "no")
    with pytest.raises(UserError, match="CRASHCAST_MEMO is 'no': set it to `off`"):
        run("double")


def test_it_is_bounded_and_the_longest_unused_goes_first(memoised, capsys):
    run("double")
    sizes = {path.stem: path.stat().st_size for path in entries(memoised) if path.suffix == ".parquet"}
    store = memo.find()
    for age, entry in enumerate(store.entries()):
        os.utime(entry.record, (age, age))
    oldest, *_, newest = [entry.record for entry in store.entries()]
    store.trim(sum(entry.size_bytes for entry in store.entries()) - 1)
    assert not oldest.exists()
    assert newest.exists()
    assert len(sizes) == 3
    assert len(list(store.entries())) == 2
    store.trim(0)
    assert not list(store.entries())
    assert len(tables.partitions(memoised / "out")) == 3  # the outputs are links of their own


def test_what_is_computed_again_is_still_one_file(memoised, monkeypatch):
    run("double", "before")
    monkeypatch.setattr(memo, "_is_forced", lambda: True)
    run("double", "again")
    assert all(month.path(memoised / "again").samefile(month.path(memoised / "before")) for month in MONTHS)


def test_a_result_that_came_out_otherwise_is_told(memoised, capsys, monkeypatch):
    run("depends_on_the_weather")
    monkeypatch.setenv("WEATHER", "7")
    monkeypatch.setattr(memo, "_is_forced", lambda: True)
    run("depends_on_the_weather")
    told = capsys.readouterr().err
    assert "doubling: month=2024-02 differs from an earlier run's: is it reproducible?" in told
    assert told.splitlines()[-1] == "doubling: 3 partitions, 3 computed, 0 from the memo"


def test_workers_end_when_the_stage_is_killed(memoised):
    workers(2)
    script = "import test_runner as t; t.run('waits')"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(memoised), *sys.path])}
    stage = subprocess.Popen([sys.executable, "-c", script], env=env)
    pids = memoised / "calls"
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    stage.kill()
    stage.wait()
    wait_for(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split()))
    assert not (memoised / "out").exists()


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
