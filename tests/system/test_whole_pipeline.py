"""The whole loop on a small fleet: run, rebuild, second clone, push and pull, an experiment, a refusal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from crashcast import tables

ROOT = Path(__file__).parents[2]
STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
SMALL = {"servers: 300": "servers: 60", "months: 8": "months: 3", "max_iter: 150": "max_iter: 20"}


def run(command: str, cwd: Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, shell=True, text=True, capture_output=True, cwd=cwd, env={**os.environ, **variables}, timeout=600
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def partitions_computed(output: str) -> dict[str, int]:
    """Count, per stage, the partitions that a run says it computed."""
    lines = [line.split(": partition ") for line in output.splitlines() if ": partition " in line]
    return {stage: sum(name == stage for name, _ in lines) for stage, _ in lines}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of this project with a small fleet, run once and committed."""
    folder = tmp_path_factory.mktemp("pipeline") / "project"
    files = run("git ls-files --cached --others --exclude-standard -z", ROOT).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file() and not name.startswith(("data/", "metrics/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = (folder / "params.yaml").read_text()
    for old, new in SMALL.items():
        assert old in params
        params = params.replace(old, new)
    (folder / "params.yaml").write_text(params)
    run("git init -q -b main && git add -A && git commit -q -m code", folder)
    run("crashcast demo && git add -A && git commit -q -m data", folder)
    run("dvc repro && git add -A && git commit -q -m run", folder)
    return folder


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
    assert "better than chance" in run("crashcast verdict", project).stdout


def test_a_second_clone_computes_the_same_bytes_with_one_thread(project: Path, clone: Path) -> None:
    one = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    run("crashcast demo", clone, **one)
    printed = run("dvc repro", clone, **one)
    computed = partitions_computed(printed.stderr + printed.stdout)
    assert computed == {"clean": 3, "label": 3, "featurize": 3}
    assert lock(clone) == lock(project)
    assert run("git status --porcelain", clone).stdout == ""


def test_a_forced_rebuild_computes_everything_and_changes_nothing(project: Path) -> None:
    before = (project / "dvc.lock").read_bytes()
    printed = run("dvc repro --force", project)
    assert sum(partitions_computed(printed.stderr + printed.stdout).values()) == 9
    assert (project / "dvc.lock").read_bytes() == before
    assert run("git status --porcelain", project).stdout == ""


def test_bytecode_and_a_second_run_change_nothing(project: Path) -> None:
    cache = project / "src" / "stages" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "clean.cpython-399.pyc").write_bytes(b"stale")
    assert "up to date" in run("dvc status", project).stdout
    assert "Running stage" not in run("dvc repro", project).stdout


def test_a_teammate_pulls_what_was_pushed(project: Path, clone: Path, s3: dict[str, str]) -> None:
    address = f"dvc remote modify --local s3 endpointurl {s3['AWS_ENDPOINT_URL']}"
    for folder in (project, clone):
        run(address, folder)
    run("dvc push", project, **s3)
    run("dvc pull", clone, **s3)
    assert "up to date" in run("dvc status", clone).stdout
    for partition in tables.partitions(project / "data" / "features"):
        path = partition.path(Path("data/features"))
        assert (clone / path).read_bytes() == (project / path).read_bytes()


def test_an_experiment_changes_parameters_and_is_compared(project: Path) -> None:
    run("dvc exp run --set-param train.negatives_per_positive=5 --name fewer", project)
    changed = json.loads(run("dvc metrics diff --json", project).stdout)
    assert "metrics/train.json" in changed
    assert changed["metrics/train.json"]["training_rows"]["diff"] < 0
    run("git checkout -q . && dvc checkout -q", project)
    assert "up to date" in run("dvc status", project).stdout


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
    assert all(stage in run("dvc dag", project).stdout for stage in STAGES)


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
