"""Small projects: without data, with data and this project's Makefile, and one that DVC runs and pushes in a second."""

from __future__ import annotations

import fcntl
import importlib
import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dvc.cli import main as dvc_main
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.utils.serialize import parse_yaml
from pages import chromium

from crashcast.review import look_ahead
from crashcast.versioning import dvc_command

ROOT = Path(__file__).parents[2]
PIPELINE = """
stages:
  train:
    cmd: mkdir models && cp recipe models/model && echo a card > models/card
    deps: [recipe]
    outs: [models]
"""
RULES = "{hours_since_crash: -1, crashes_7d: 1}  # features; 1 if a higher value is worse, else -1"
# what tests expect of its alarms and verdicts stays true if the demo gets other features or candidates
SMALL_FLEET = {
    "rolling_mean: []  ": "rolling_mean: [6h, 1d]  ",
    "rolling_std: [6h, 1d]": "rolling_std: [1d]",
    "differences: [6h, 1d]": "differences: [1d]",
    "servers: 300": "servers: 60",
    "months: 8": "months: 3",
    f"    one_rule:\n      rules: {RULES}\n": "",
    "    logistic_regression:\n      C: [0.01, 0.1]\n": "",
    "negatives_per_positive: 20 ": "negatives_per_positive: 10 ",
    "learning_rate: [0.07]": "learning_rate: [0.05]",
    "max_iter: 100": "max_iter: 10",
    "max_leaf_nodes: [15]": "max_leaf_nodes: [7, 15]",
    "min_samples_leaf: 200 ": "min_samples_leaf: 50 ",
    "l2_regularization: 10.0": "l2_regularization: 1.0",
    "replicates: 1000": "replicates: 100",
}


@pytest.fixture(scope="session")
def dvc() -> Callable[..., None]:
    """Return what runs a dvc command in a folder and in this process, which has imported DVC already."""

    def dvc(folder: Path, *arguments: str) -> None:
        with chdir(folder):
            assert dvc_main([*arguments, "-q"]) == 0, arguments

    return dvc


@pytest.fixture(scope="session")
def repro(dvc: Callable[..., None]) -> Callable[..., None]:
    """Return what runs `dvc repro`, of all or some stages, in a copy of this project with the stages in this process.

    Importing their libraries takes most of a stage's time with a small fleet. For tests that need the results alone.
    So does writing dvc.lock: DVC reads it with a parser that keeps comments, which is slow, before it changes it.
    """

    def run_here(stage: Stage, **_: object) -> None:
        _, _, name, *paths = shlex.split(stage.cmd)
        importlib.import_module(f"stages.{name}").main(*map(Path, paths))

    def repro(folder: Path, *stages: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dvc.stage.run.cmd_run", run_here)
            patch.setattr("dvc.utils.serialize._yaml.parse_yaml_for_update", parse_yaml)
            dvc(folder, "repro", *stages)

    return repro


@pytest.fixture(scope="module")
def _ask_dvc_here() -> Iterator[None]:
    """Let questions to DVC be answered in this process; if it refuses, by a process of its own, as for users."""

    def run_here(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
            patch.setenv("DVC_TEST", "1")  # else it takes the process's own standard output for JSON
            status = dvc_main(command[command.index("dvc") + 1 :])
        if status:
            return subprocess.run(command, **options)
        return subprocess.CompletedProcess(command, 0, said.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dvc_command, "subprocess", SimpleNamespace(run=run_here))
        yield


@pytest.fixture(scope="module")
def _few_moments() -> Iterator[None]:
    """Let the review compute features again at 2 moments, which takes 0.2 s each; test_look_ahead.py has all 20."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(look_ahead, "MOMENTS", 2)
        yield


@pytest.fixture(scope="session")
def copy_project() -> Callable[[Path], Path]:
    """Return what copies this project's files as they are now, less what its pipeline makes."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, text=True, capture_output=True,
    )  # fmt: skip

    def copy_to(folder: Path) -> Path:
        for name in filter(None, listing.stdout.split("\0")):
            is_made = name.startswith(("data/", "metrics/", "dvc.lock")) and not name.endswith("annotations.parquet")
            if (ROOT / name).is_file() and not is_made:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        return folder

    return copy_to


@pytest.fixture(scope="session")
def small_fleet(
    tmp_path_factory: pytest.TempPathFactory, copy_project: Callable[[Path], Path], repro: Callable[..., None]
) -> Callable[[Path], Path]:
    """Return what copies a repository of this project with a small fleet: code, data and run are a commit each.

    It is run once, in the worker of xdist that asks first, and with one thread. A run by `dvc repro` itself gives the
    same (test_another_machine_computes_the_same_bytes).
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    original = shared / "small-fleet"

    def run(command: str) -> None:
        subprocess.run(command, shell=True, cwd=unfinished, check=True)

    with (shared / "small-fleet.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not original.exists():
            unfinished = copy_project(shared / "small-fleet-unfinished")
            params = (unfinished / "params.yaml").read_text()
            for old, new in SMALL_FLEET.items():
                assert params.count(old) == 1, old
                params = params.replace(old, new)
            (unfinished / "params.yaml").write_text(params)
            run("git init -q -b main && git add -A && git commit -q -m code")
            run("crashcast demo && git add -A && git commit -q -m data")
            repro(unfinished)
            run("git add -A && git commit -q -m run")
            unfinished.rename(original)

    def copy_to(folder: Path) -> Path:
        subprocess.run(["cp", "-a", original, folder], check=True)  # links stay links
        return folder

    return copy_to


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Run Chromium, for tests of pages."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project without data, under git and DVC."""
    folder = tmp_path_factory.mktemp("template")
    for name in ("params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    subprocess.run(["git", "init", "--quiet", "--template=", folder], check=True)
    Repo.init(folder).close()
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    subprocess.run(["git", "commit", "--quiet", "-m", "begin"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def data_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project with two files of data and this one's Makefile, not committed yet."""
    here = tmp_path_factory.mktemp("data-project")
    (here / ".dvc").mkdir()
    for name in ("Makefile", "params.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, here / name)
    (here / ".venv").symlink_to(sys.prefix)
    (here / ".gitignore").write_text("/.venv\n")
    data = here / "data/raw/telemetry"
    data.mkdir(parents=True)
    (data / "one").write_text("1")
    (data / "two").write_text("2")
    subprocess.run("git init -q -b main && dvc add -q data/raw/telemetry", shell=True, cwd=here, check=True)
    return here


@pytest.fixture(scope="session")
def make() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a target of a project's Makefile in the environment that runs the tests."""

    def make(project: Path, target: str, port: int, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "--old-file=env", f"S3_PORT={port}", target, *more]
        return subprocess.run(command, cwd=project, env=os.environ | environment, text=True, capture_output=True)

    return make


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory, s3: dict[str, str]) -> Path:
    """Return a project with one model, pushed to S3 and committed."""
    here = tmp_path_factory.mktemp("trained")
    (here / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/.gitignore", here / ".dvc")
    shutil.copytree(ROOT / "deploy/ci", here / "deploy/ci", ignore=shutil.ignore_patterns("__pycache__"))
    remote = f"url = s3://crashcast/{here.name}\n    endpointurl = {s3['AWS_ENDPOINT_URL']}\n    verify = true"
    (here / ".dvc/config").write_text(f"[core]\n    remote = s3\n['remote \"s3\"']\n    {remote}\n")
    (here / ".gitignore").write_text("/models\n/.venv\n")
    (here / "dvc.yaml").write_text(PIPELINE)
    (here / "recipe").write_text("one")
    command = "git init -q -b main && dvc repro -q && dvc push -q && git add . && git commit -q -m one"
    subprocess.run(command, shell=True, cwd=here, env=s3, check=True)
    return here


@pytest.fixture
def trained(
    trained_once: Path,
    tmp_path: Path,
    s3: dict[str, str],
    shell: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Return that project with a bare git remote of its own, and make it the place to work in."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(trained_once, tmp_path / "trained", symlinks=True)
    shell("git clone -q --bare trained remote.git")
    shell("git remote add origin ../remote.git && git fetch -q", cwd=tmp_path / "trained")
    monkeypatch.chdir(tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def train(trained: Path, shell: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., None]:
    """Make another model, commit it and push the commit; push the model unless told not to."""

    def train(recipe: str, push: bool = True) -> None:
        (trained / "recipe").write_text(recipe)
        with Repo(str(trained)) as repo:  # as the commands do, without the second that each takes to start
            repo.reproduce()
            if push:
                repo.push()
        shell(f"git commit -q -am '{recipe}' && git push -q origin HEAD", cwd=trained)

    return train
