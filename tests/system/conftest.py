"""Small projects: without data, with data and this project's Makefile, and one that DVC runs and pushes in a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

ROOT = Path(__file__).parents[2]
PIPELINE = """
stages:
  train:
    cmd: mkdir models && cp recipe models/model && echo a card > models/card
    deps: [recipe]
    outs: [models]
"""


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
