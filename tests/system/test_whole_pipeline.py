"""The whole loop on a small fleet: run, rebuild, second clone, push, pull, new data, experiments, refusals, kills."""

from __future__ import annotations

import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil
import pytest
import yaml
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from crashcast import tables

ROOT = Path(__file__).parents[2]
STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
MAKE_PIPELINE = "make --old-file=env pipeline BIN="  # with the programs of these tests
FORCED_RUN_S = 25.0  # of the small fleet, about


def told_by(command: str, cwd: Path, **variables: str) -> str:
    """Run a command and return all that it printed."""
    done = run(command, cwd, **variables)
    return done.stderr + done.stdout


def run(command: str, cwd: Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, shell=True, text=True, capture_output=True, cwd=cwd, env={**os.environ, **variables}, timeout=600
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def partitions_computed(printed: str) -> dict[str, int]:
    """Count, per step, the partitions that a run says it computed."""
    told = re.findall(r"^(\w+): \d+ (?:partition|fold)s, (\d+) computed", printed, flags=re.MULTILINE)
    counted: dict[str, int] = {}
    for step, number in told:
        counted[step] = counted.get(step, 0) + int(number)
    return counted


OF_TABLES = {"validate": 3, "clean": 3, "evidence": 3, "label": 3, "featurize": 3}
# if nothing is recalled, train and evaluate both count; a fold's rows may lie in two months
EVERYTHING = {**OF_TABLES, "count": 6, "sample": 3, "fit": 3, "scores": 4, "evaluate": 1}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path]) -> Path:
    """Return a repository of this project with a small fleet, run once and committed."""
    return small_fleet(tmp_path_factory.mktemp("pipeline") / "project")


@pytest.fixture(scope="module")
def elsewhere(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run all in a fresh clone, with more threads, another order of sets, and without the vector units of newer CPUs.

    OpenBLAS takes the kernels of 2008, NumPy those that every x86-64 CPU has. Return the clone, and what was printed.
    """
    other = {"POLARS_MAX_THREADS": "3", "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "PYTHONHASHSEED": "7"}
    if platform.machine() in ("x86_64", "AMD64"):
        units = [unit for unit in __cpu_dispatch__ if __cpu_features__[unit]]
        assert units, "this CPU has no unit to switch off"
        other |= {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": " ".join(units)}
    folder = tmp_path_factory.mktemp("elsewhere") / "clone"
    run(f"git clone -q {project} {folder}", project)
    run("crashcast demo", folder, **other, CRASHCAST_MEMO="off")
    return folder, told_by("dvc repro", folder, **other, CRASHCAST_MEMO="off")


@pytest.fixture
def clone(project: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a fresh clone: no data, an empty cache."""
    run(f"git clone -q {project} clone", tmp_path)
    assert not (tmp_path / "clone" / ".dvc" / "cache").exists()
    yield tmp_path / "clone"
    shutil.rmtree(tmp_path / "clone")


def lock(folder: Path) -> dict[str, dict]:
    return yaml.safe_load((folder / "dvc.lock").read_text())["stages"]


def test_every_stage_ran_and_left_a_clean_tree(project: Path) -> None:
    assert list(lock(project)) == STAGES
    assert run("git status --porcelain", project).stdout == ""
    assert "up to date" in run("dvc status", project).stdout
    assert "Verdict: better than chance" in run("crashcast verdict", project).stdout


@pytest.mark.ci
def test_another_machine_computes_the_same_bytes(project: Path, elsewhere: tuple[Path, str]) -> None:
    clone, printed = elsewhere
    assert partitions_computed(printed) == EVERYTHING
    assert lock(clone) == lock(project)
    assert run("git status --porcelain", clone).stdout == ""


@pytest.mark.ci
def test_what_each_stage_cost_is_recorded(elsewhere: tuple[Path, str]) -> None:
    clone, _ = elsewhere
    costs = {run["name"]: run for run in json.loads(run("crashcast metrics --json", clone).stdout)}
    assert list(costs) == STAGES
    assert all(cost["cpu_s"] > 0 and cost["peak_memory_bytes"] > 50_000_000 for cost in costs.values())
    assert costs["clean"]["rows"] == json.loads((clone / "metrics/clean.json").read_text())["rows"]
    assert costs["label"]["partitions"].keys() == {"evidence", "label"}
    assert run("git status --porcelain", clone).stdout == ""


@pytest.mark.ci
def test_a_plan_is_made_of_the_run_that_was_recorded(elsewhere: tuple[Path, str]) -> None:
    clone, _ = elsewhere
    recorded = {run["name"]: run for run in json.loads(run("crashcast metrics --json", clone).stdout)}
    found = json.loads(run("crashcast plan --json --page reports/plan.html", clone).stdout)
    for stage in ("validate", "clean", "label", "featurize", "split", "evaluate"):
        cost = found["run"][stage]
        assert cost["cpu_s"]["low"] < recorded[stage]["cpu_s"] < cost["cpu_s"]["high"], stage
        assert cost["peak_bytes"]["low"] < recorded[stage]["peak_memory_bytes"] < cost["peak_bytes"]["high"], stage
    assert found["suffices"]
    assert any("runs of one size alone" in one for one in found["warnings"])
    larger = json.loads(run("crashcast plan --json --servers 1000000 --months 36", clone).stdout)
    assert not larger["suffices"]
    assert "the next 12 months of" in (clone / "reports/plan.html").read_text()
    assert run("git status --porcelain", clone).stdout == ""


def test_bytecode_and_a_second_run_change_nothing(project: Path) -> None:
    cache = project / "src" / "stages" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "clean.cpython-399.pyc").write_bytes(b"stale")
    assert "up to date" in run("dvc status", project).stdout
    assert "Running stage" not in run("dvc repro", project).stdout


def test_a_teammate_pulls_what_was_pushed(
    project: Path, clone: Path, dvc: Callable[..., None], s3: dict[str, str]
) -> None:
    for folder in (project, clone):
        dvc(folder, "remote", "modify", "--local", "s3", "endpointurl", s3["AWS_ENDPOINT_URL"])
    run("dvc push", project, **s3)
    run("dvc pull", clone, **s3)
    assert "up to date" in run("dvc status", clone).stdout
    for partition in tables.partitions(project / "data" / "features"):
        path = partition.path(Path("data/features"))
        assert (clone / path).read_bytes() == (project / path).read_bytes()


@pytest.mark.ci
def test_a_new_month_costs_a_month_and_gives_what_a_rebuild_gives(
    project: Path,
    clone: Path,
    dvc: Callable[..., None],
    repro: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    def accept() -> None:
        dvc(clone, "add", *(f"data/raw/{name}" for name in ("telemetry", "incidents.parquet", "coverage.parquet")))
        run("git add data/raw", clone)

    run("crashcast demo", clone)
    raw = clone / "data" / "raw"
    whole = {path: path.read_bytes() for path in raw.rglob("*.parquet")}
    last = tables.partitions(raw / "telemetry")[-1]
    shutil.rmtree(last.path(raw / "telemetry").parent)
    known_by, _ = tables.utc(last.start, last.end)
    incidents, coverage = raw / "incidents.parquet", raw / "coverage.parquet"
    reported = pl.col("reported_at").fill_null(pl.col("started_at"))
    tables.write(incidents, tables.read(incidents, where=reported < known_by))
    tables.write(coverage, tables.read(coverage).with_columns(pl.min_horizontal("covered_to", known_by)))
    accept()
    repro(clone, "label", "featurize")
    for path, content in whole.items():
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # a link to DVC's cache
        path.write_bytes(content)
    accept()
    # February's last hours could not be labelled before March's records were there
    capfd.readouterr()
    repro(clone, "label", "featurize")
    computed = partitions_computed("".join(capfd.readouterr()))
    # and it may show that an earlier restart was planned work, or was none: then that month is labelled anew, too
    assert computed["label"] in (2, 3)
    assert computed == {"validate": 1, "clean": 1, "evidence": 1, "label": computed["label"], "featurize": 1}
    stages = computed.keys() & {*STAGES}
    assert {stage: lock(clone)[stage] for stage in stages} == {stage: lock(project)[stage] for stage in stages}


def test_a_worktree_shares_the_memo(
    project: Path, tmp_path: Path, repro: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    run(f"git worktree add -q {tmp_path / 'tree'}", project)
    run("crashcast demo", tmp_path / "tree")
    capfd.readouterr()
    repro(tmp_path / "tree", "label", "featurize")
    assert partitions_computed("".join(capfd.readouterr())) == dict.fromkeys(OF_TABLES, 0)
    ours, theirs = lock(tmp_path / "tree"), lock(project)
    assert all(ours[stage] == theirs[stage] for stage in OF_TABLES.keys() & {*STAGES})
    clean = tables.partitions(project / "data" / "clean")[0].path(Path("data/clean"))
    assert (tmp_path / "tree" / clean).samefile(project / clean)
    run(f"git worktree remove --force {tmp_path / 'tree'}", project)


def test_an_experiment_in_a_folder_of_its_own_shares_the_memo(project: Path) -> None:
    change = "dvc exp run --temp --set-param label.horizon=12h --name later label"
    assert partitions_computed(told_by(change, project)) == {"evidence": 0, "label": 3}
    assert re.search(r"label +3 +6 ", run("crashcast memo", project).stdout)
    run("crashcast memo --clear", project)
    assert not re.search(r"label +3", run("crashcast memo", project).stdout)


@pytest.mark.ci
def test_an_experiment_changes_parameters_and_is_compared(project: Path) -> None:
    run("dvc exp run --set-param train.negatives_per_positive=5 --name fewer train", project)
    changed = json.loads(run("dvc metrics diff --json", project).stdout)
    assert "metrics/train.json" in changed
    assert changed["metrics/train.json"]["training_rows"]["diff"] < 0
    run("git checkout -q . && dvc checkout -q", project)
    assert "up to date" in run("dvc status", project).stdout


@pytest.mark.slow  # test_validate_refuses.py shows it with two days of one server
def test_edited_raw_data_is_refused_until_somebody_accepts_it(clone: Path) -> None:
    run("crashcast demo", clone)
    path = next((clone / "data" / "raw" / "telemetry").glob("*/part-0.parquet"))
    tables.write(path, tables.read(path).head(-1))
    for _ in range(2):  # the first refusal must not make the second run accept
        refused = run("dvc repro", clone, check=False)
        assert refused.returncode == 255
        assert "data/raw/telemetry" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert "clean" not in partitions_computed(refused.stderr + refused.stdout)


def test_pictures_and_graph_can_be_drawn(project: Path, tmp_path: Path) -> None:
    run(f"dvc plots show --out {tmp_path / 'plots'}", project)
    assert "precision" in (tmp_path / "plots" / "index.html").read_text()
    drawn = run("dvc dag", project).stdout
    assert all(stage in drawn for stage in STAGES)


def test_an_import_leaves_nothing_of_the_demo_behind(clone: Path) -> None:
    hours = [f"2026-01-{day:02}T{hour:02}:00:00" for day in range(1, 29) for hour in range(24)]
    rows = [f"{hour},{server},{int(hour[11:13]) + 0.5}" for hour in hours for server in ("a", "b")]
    (clone / "samples.csv").write_text("\n".join(["time,host,cpu_pct", *rows]))
    (clone / "tickets.csv").write_text("host,start,end\na,2026-01-09T10:20:00,2026-01-09T11:00:00")
    run("crashcast demo", clone)
    assert (
        "the demo fleet in data/raw is replaced"
        in run("crashcast import --telemetry samples.csv --incidents tickets.csv", clone).stdout
    )
    run("git add params.yaml && git commit -q -m import", clone)
    # a teammate could not pull what only the demo's own clone has
    assert run("git ls-files data/demo.dvc", clone).stdout == ""
    assert not (clone / "data" / "demo").exists()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kills", "seed", "longest_s"),
    [
        pytest.param(2, 3, FORCED_RUN_S / 2, id="two kills"),  # after an eighth and a quarter of the run
        pytest.param(34, 34, FORCED_RUN_S, id="34 kills", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_is_made_good_by_the_next(project: Path, kills: int, seed: int, longest_s: float) -> None:
    expected = lock(project)
    draw, number = random.Random(seed), 0
    while number < kills:
        began = time.monotonic()
        killed = subprocess.Popen(
            ["dvc", "repro", "--force"], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            killed.wait(draw.uniform(1, longest_s))
            longest_s = time.monotonic() - began  # it was over before it could be killed
        except subprocess.TimeoutExpired:
            # of every second run the stage outlives its DVC, for a moment
            (os.killpg if number % 2 else os.kill)(killed.pid, signal.SIGKILL)
            killed.wait()
            number += 1
        repair_after_kill(project)
        assert lock(project) == expected
        assert run("git status --porcelain", project).stdout == ""
        wait_for_the_end_of(killed.pid)
        assert "Nothing wrong was found" in run("crashcast doctor --only project --only cache", project).stdout
    (project / ".dvc" / "tmp" / "rwlock").write_text("")  # as a kill leaves it if it comes while DVC writes it
    assert run("dvc repro", project, check=False).returncode == 255
    run(MAKE_PIPELINE, project)
    # forced, it computes what the memo holds, too; a stage that runs removes what a killed one left half-written
    assert partitions_computed(told_by("dvc repro --force", project)) == EVERYTHING
    assert lock(project) == expected
    assert run("git status --porcelain", project).stdout == ""
    assert not left_over(project)


def wait_for_the_end_of(group: int) -> None:
    """Wait until the stage that a killed DVC left has noticed it; on a busy machine this takes more than a moment."""

    def belongs(process: psutil.Process) -> bool:
        with suppress(psutil.Error, ProcessLookupError):
            return process.status() != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group
        return False

    until = time.monotonic() + 30
    while left := [process for process in psutil.process_iter() if belongs(process)]:
        assert time.monotonic() < until, left
        time.sleep(0.1)


def repair_after_kill(folder: Path) -> None:
    """Do what docs/memo.md says."""
    if run(MAKE_PIPELINE, folder, check=False).returncode:
        assert "dvc.lock: empty or cut short by a kill" in run("crashcast doctor --only project", folder, False).stdout
        run("crashcast doctor --only project --repair", folder)
        run(MAKE_PIPELINE, folder)


def left_over(folder: Path) -> list[str]:
    """Return half-written outputs."""
    return [path.name for path in folder.glob("**/.*.[0-9]*") if ".dvc" not in path.parts and ".git" not in path.parts]


def started(folder: Path, stage: str) -> subprocess.Popen[str]:
    """Start `dvc repro` of one stage, and return when the stage itself runs."""
    note = folder / ".dvc" / "tmp" / "crashcast" / f"{stage}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()
    before = note.read_text()
    command = ["dvc", "repro", "--force", "--single-item", stage]
    running = subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 60
    while note.read_text() == before:
        assert time.monotonic() < until
        time.sleep(0.01)
    return running


@pytest.mark.parametrize(
    ("stage", "edited"),
    [
        ("train", "src/crashcast/modeling/alarms.py"),
        ("split", "params.yaml"),
        ("evaluate", "data/split.json"),
    ],
)
def test_what_is_edited_while_its_stage_runs_makes_it_fail(project: Path, stage: str, edited: str) -> None:
    """DVC would record the new file's hash beside the old file's result, and call that up to date."""
    path, before = project / edited, (project / "dvc.lock").read_bytes()
    content = path.read_bytes()
    running = started(project, stage)
    path.unlink()  # data is a link into DVC's cache
    path.write_bytes(content + b"\n")
    told, _ = running.communicate()
    assert running.returncode == 255
    assert f"{edited} changed while the stage was running" in told
    assert (project / "dvc.lock").read_bytes() == before
    path.write_bytes(content)
    run("dvc repro", project)
    assert (project / "dvc.lock").read_bytes() == before
    assert run("git status --porcelain", project).stdout == ""


def test_a_stage_ends_with_its_dvc(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASHCAST_MEMO", "off")  # else it may be done before it looks for its dvc
    before = (project / "dvc.lock").read_bytes()
    killed = started(project, "clean")
    family = psutil.Process(killed.pid).children(recursive=True)
    stage = next(child for child in family if "clean" in child.cmdline())
    stage.suspend()  # else a busy machine may let it finish before its dvc is killed
    killed.kill()
    killed.wait()
    stage.resume()
    assert psutil.wait_procs(family, timeout=3)[1] == []
    assert not (project / "data" / "clean").exists()
    run("dvc repro", project)
    assert (project / "dvc.lock").read_bytes() == before


@pytest.mark.ci
def test_what_a_killed_run_left_running_cannot_write_over_a_newer_one(project: Path) -> None:
    killed = started(project, "clean")
    stage = next(child for child in psutil.Process(killed.pid).children(recursive=True) if "clean" in child.cmdline())
    stage.suspend()  # slower than anything could be
    killed.kill()
    killed.wait()
    assert stage.is_running()
    told = run("dvc repro --force --single-item clean", project)
    assert f"clean: stopping process {stage.pid}, which a killed run left behind" in told.stderr + told.stdout
    assert not stage.is_running()
    run("dvc repro", project)
    assert "up to date" in run("dvc status", project).stdout
