"""A clone behaves the same whatever its owner has set in git, and what was set stays."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path, shell: Shell) -> Path:
    """Return a clone with this project's hooks; in place of our check stands one that writes down its input."""
    shell("git init -q -b main project && git init -q --bare remote.git")
    here = tmp_path / "project"
    shutil.copytree(ROOT / ".githooks", here / ".githooks")
    (here / ".githooks/pre-push").write_text('#!/bin/sh\n{ echo ours "$@"; cat; } >> pushed.log\n')
    shell("git add . && git commit -q -m one && git remote add origin ../remote.git", cwd=here)
    return here


def hook(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("times", [1, 2])
def test_a_hook_that_is_there_is_kept_and_runs_first(project: Path, shell: Shell, times: int) -> None:
    hook(project / ".git/hooks/pre-push", '{ echo theirs "$@"; cat; } >> pushed.log')
    for _ in range(times):
        shell(".githooks/install", cwd=project)
    shell("git push -q origin main", cwd=project)
    sha = shell("git rev-parse HEAD", cwd=project).stdout.strip()
    ref = f"refs/heads/main {sha} refs/heads/main {'0' * 40}"
    assert (project / "pushed.log").read_text().split("\n") == [
        "theirs origin ../remote.git", ref, "ours origin ../remote.git", ref, "",
    ]  # fmt: skip


def test_a_hook_that_refuses_still_refuses(project: Path, shell: Shell) -> None:
    hook(project / ".git/hooks/pre-push", "exit 1")
    shell(".githooks/install", cwd=project)
    assert shell("git push -q origin main", cwd=project, check=False).returncode
    assert not (project / "pushed.log").exists()


def test_a_hook_of_ours_that_refuses_is_obeyed(project: Path, shell: Shell) -> None:
    (project / ".githooks/pre-push").write_text("#!/bin/sh\nexit 1\n")
    shell(".githooks/install", cwd=project)
    assert shell("git push -q origin main", cwd=project, check=False).returncode


@pytest.mark.parametrize("scope", ["--local", "--global"])
def test_a_folder_of_hooks_that_repositories_share_is_left_alone(
    project: Path, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    theirs = hook(tmp_path / "hooks/pre-push", "echo company-wide check")
    shell(f"git config {scope} core.hooksPath {theirs.parent}", cwd=project)
    refused = shell(".githooks/install", cwd=project, check=False)
    assert refused.returncode == 1
    assert f"core.hooksPath is '{theirs.parent}'" in refused.stderr
    assert list(theirs.parent.iterdir()) == [theirs]
    assert "company-wide" in theirs.read_text()
    assert not (project / ".git/hooks/pre-push").exists()


@pytest.mark.parametrize("settings", ["core.autocrlf=true", "core.eol=crlf", "core.autocrlf=input"])
def test_every_clone_has_the_bytes_that_are_hashed(tmp_path: Path, shell: Shell, settings: str) -> None:
    """DVC and the memo hash files of the work tree: line ends that differ would make every stage stale."""
    names = shell("git ls-files -z", cwd=ROOT).stdout.split("\0")[:-1]
    files = [name for name in names if (ROOT / name).is_file()]
    (tmp_path / "project").mkdir()
    shell("git init -q", cwd=tmp_path / "project")
    for name in files:
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "project" / name)
    shell("git add -f . && git commit -q -m one", cwd=tmp_path / "project")
    shell(f"git clone -q -c {settings} project clone")
    differing = [name for name in files if (tmp_path / "clone" / name).read_bytes() != (ROOT / name).read_bytes()]
    assert differing == []
