"""Targets of the Makefile in a fresh clone: all that they need comes from git and from DVC's remote."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crashcast.files import md5
from crashcast.versioning import bucket as buckets

ROOT = Path(__file__).parents[2]
Make = Callable[..., subprocess.CompletedProcess[str]]
Shell = Callable[..., subprocess.CompletedProcess[str]]
Train = Callable[..., None]


@pytest.fixture
def project(trained: Path, shell: Shell) -> Path:
    """Return a project of one stage with this project's Makefile and hooks, pushed."""
    for name in ("Makefile", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / name, trained)
    for name in (".githooks", ".kingfisher"):
        shutil.copytree(ROOT / name, trained / name)
    (trained / "requirements.txt").touch()
    shell("git add -A && git commit -q -m make && git push -q origin main", cwd=trained)
    return trained


@pytest.fixture
def clone(project: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a fresh clone with this environment, and work there."""
    return cloned(tmp_path, shell, monkeypatch)


def cloned(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    shell(f"git clone -q remote.git clone && ln -s {sys.prefix} clone/.venv")
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


def test_a_model_is_rebuilt_and_compared(clone: Path, make: Make) -> None:
    done = make(clone, "reproduce", 0)
    assert done.returncode == 0, done.stderr
    assert "is reproduced: all 1 stages gave the bytes of its dvc.lock" in done.stdout
    assert not (clone / "models").exists()  # it was rebuilt elsewhere

    lock = clone / "dvc.lock"
    hashes = [line.split()[-1] for line in lock.read_text().splitlines() if line.endswith(".dir")]
    lock.write_text(lock.read_text().replace(hashes[-1], f"{'0' * 32}.dir"))
    subprocess.run("git commit -q -a -m forged", shell=True, cwd=clone, check=True)
    forged = make(clone, "reproduce", 0)
    assert forged.returncode == 2
    assert "train is the first stage that differs" in forged.stdout


@pytest.mark.slow
def test_garbage_of_the_remote_is_deleted_and_what_commits_need_stays(
    project: Path, train: Train, tmp_path: Path, make: Make, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was pushed, and whose commit nobody has any more."""
    needed = md5(project / "models/model")
    train("given up")
    garbage = {md5(project / "models"), md5(project / "models/model")}
    shell("git reset -q --hard HEAD~1 && git push -q -f origin main", cwd=project)
    clone, bucket = cloned(tmp_path, shell, monkeypatch), buckets.connect()
    assert bucket.stored().keys() >= {needed, *garbage}

    assert make(clone, "gc", 0).returncode == 0  # all is young
    unasked = make(clone, "gc", 0, "ARGS=--min-age-days=0")
    assert unasked.returncode == 2
    assert "nobody can be asked here: --yes" in unasked.stderr
    assert bucket.stored().keys() >= {needed, *garbage}

    done = make(clone, "gc", 0, "ARGS=--min-age-days=0 --yes")
    assert done.returncode == 0, done.stderr
    assert "2 objects deleted" in done.stdout
    assert not bucket.stored().keys() & garbage
    assert make(clone, "pull", 0).returncode == 0
    assert (clone / "models/model").read_text() == "one"


@pytest.mark.ci  # 20 seconds of installing and scanning
def test_hooks_check_commits_and_pushes(clone: Path, make: Make, shell: Shell) -> None:
    done = make(clone, "hooks", 0, "--old-file=dev")
    assert done.returncode == 0, done.stderr

    (clone / "key").write_text("aws_secret_access_key = " + "Zk3vW9qL5xT2nB8yR4mJ7cH1dF6gS0aPeQuYiUoX"[:40] + "\n")
    refused = shell("git add key && SKIP=lint git commit -q -m key", check=False, cwd=clone)
    assert refused.returncode != 0
    assert "credentials" in refused.stdout + refused.stderr
    shell("git rm -q -f key", cwd=clone)

    (clone / "recipe").write_text("not pushed")
    shell("dvc repro -q && SKIP=lint git commit -q -a -m two", cwd=clone)
    refused = shell("git push -q origin HEAD:main", check=False, cwd=clone)
    assert refused.returncode != 0
    assert "not on the remote" in refused.stdout + refused.stderr
    shell("dvc push -q && git push -q origin HEAD:main", cwd=clone)


@pytest.mark.slow
def test_data_is_made_and_documented(
    small_fleet: Callable[[Path], Path], tmp_path: Path, make: Make, shell: Shell
) -> None:
    small_fleet(tmp_path / "project")
    shell(f"git clone -q project clone && ln -s {sys.prefix} clone/.venv")
    done = make(tmp_path / "clone", "data", 0, "docs")
    assert done.returncode == 0, done.stderr
    index = Path(done.stdout.rpartition("Data Docs: ")[2].strip())
    assert "telemetry month=2025-03 cpu_pct to uptime_h" in (tmp_path / "clone" / index).read_text()
    pages = {page.name for page in (tmp_path / "clone" / index.parent / "validations").rglob("*.html")}
    assert pages >= {"coverage rows-coverage.html", "incidents rows-incidents.html"}
