"""Git gives the same answers whatever its caller's variables and settings are, and its own words if it fails."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_git
import pytest

from crashcast import registry
from crashcast.doctor import garbage
from crashcast.errors import UserError
from crashcast.execution.code_hash import SRC
from crashcast.history import log
from crashcast.review import ledger
from crashcast.review.commit_changes import code_between
from crashcast.versioning import cache, git
from crashcast.versioning.outputs import find_revisions, outputs_of
from crashcast.versioning.revision import Revision, default_base
from crashcast.versioning.tracked_data import check_tracked

Shell = Callable[..., subprocess.CompletedProcess[str]]
POINTER = "outs:\n- md5: {}\n  hash: md5\n  size: 4\n  path: {}\n"


@pytest.fixture
def project(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project in a folder of a clone, with a merge, changes that are not committed, and names with umlauts."""
    here = tmp_path / "clone/sub ä"
    shell("git init -q --bare -b main remote.git && git clone -q remote.git clone")
    (here / ".dvc").mkdir(parents=True)
    (here / ".dvc/config").write_text("")
    (here / "src").mkdir()
    (here / "src/code.py").write_text("one\n")
    (here / "dvc.yaml").write_text("stages: {}\n")
    (here / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (here / "raw").write_text("rows")
    (here / ".gitignore").write_text("/raw\n")
    (here / "raw.dvc").write_text(POINTER.format("48d5bdc8c9b2d3e3e0b5f8a3a3b4a9a0", "raw"))
    shell("git add -A && git commit -q -m one", cwd=here)
    shell("git switch -q -c side && git mv src/code.py src/moved.py && git commit -q -m side", cwd=here)
    shell("git switch -q main", cwd=here)
    (here / "more.dvc").write_text(POINTER.format("a" * 32, "more"))
    (here / "src/ü.py").write_text("two\n")
    shell("git add -A && git commit -q -m 'zwei ü' && git merge -q --no-edit side && git push -q origin main", cwd=here)
    (here / "src/moved.py").write_text("edited\n")
    (here / "new.dvc").write_text(POINTER.format("b" * 32, "new"))
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what sets the variables of a hook of another repository, and settings that change git's output."""
    variables = hostile_git.lay_out(tmp_path)

    def begin() -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        cache._configured.cache_clear()

    return begin


def answers() -> dict[str, Any]:
    """Return what the project asks git for."""
    head, base = Revision.find("HEAD"), Revision.find("HEAD~1")
    return {
        "head": head.sha,
        "base": default_base().sha,
        "file": head.file("src/ü.py"),
        "staged": git.file("", "raw.dvc"),
        "outputs": outputs_of(find_revisions(all_commits=True)),
        "needed": garbage._named(garbage._work_trees()),
        "commits": [(commit.sha, commit.subject, commit.changes) for commit in log.history()],
        "code": code_between(base, Revision.find("HEAD~2") if git.commit("HEAD~2") else head),
        "changed": (git.changed(untracked=True), git.changed("*.dvc", untracked=True), git.changed(untracked=False)),
        "remote": git.shared_remote(),
        "prefix": git.prefix(),
        "cache": cache.root(),
    }


def test_lists_and_files_are_the_same_in_a_hostile_environment(project: Path, hostile: Callable[[], None]) -> None:
    plain = answers()
    assert plain["changed"][1] == ["new.dvc"]
    assert plain["prefix"] == "sub ä/"
    assert {"a" * 32, "b" * 32} <= plain["needed"]
    assert len(plain["commits"]) == 2
    hostile()
    assert answers() == plain


def test_raw_data_is_compared_with_the_repository_it_lies_in(project: Path, hostile: Callable[[], None]) -> None:
    hostile()
    with pytest.raises(UserError, match=r"raw is not the data that git knows: .* raw\.dvc says 48d5bdc8"):
        check_tracked([Path("raw")])


def test_the_ledger_and_tags_are_the_same_in_a_hostile_environment(
    project: Path, tmp_path: Path, shell: Shell, hostile: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("git clone -q remote.git twin && git init -q --bare twin.git", cwd=tmp_path)
    shell("git push -q ../twin.git main && git remote set-url origin ../twin.git", cwd=tmp_path / "twin")

    def written(remote: str) -> list[str]:
        plain = {"env": {"PATH": "/usr/bin:/bin", "GIT_CONFIG_GLOBAL": "/dev/null"}, "cwd": tmp_path / remote}
        refs = shell("git for-each-ref --format='%(refname) %(objecttype)'", **plain).stdout.split("\n")
        return [shell(f"git rev-parse {ledger.REF}", **plain).stdout, *refs]

    def write() -> None:
        ledger.look("rows", "challenger")
        ledger.look("rows", "other")
        registry._push("origin", registry._gto("register", registry.REGISTERED, "HEAD", version="v1.0.0").tag)

    write()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "twin/sub ä")
        hostile()
        write()
        assert [model.version for model in registry.models()] == ["v1.0.0"]
    assert written("twin.git") == written("remote.git")


def test_what_git_says_is_shown(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="git rev-list failed: fatal: bad revision 'nowhere'"):
        git.run("rev-list", "nowhere", "--")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for ask in (lambda: Revision.find("HEAD"), lambda: check_tracked([Path("raw")]), default_base):
        with pytest.raises(UserError, match=r"dubious ownership in repository(.|\n)*git config --global --add safe"):
            ask()
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="fatal: not a git repository"):
        Revision.find("HEAD")


@pytest.mark.parametrize(
    "name", ["--output=canary", "-O canary", "../../canary", "/etc/passwd", "HEAD\nHEAD", "$(touch canary)", ""]
)
def test_a_name_of_a_commit_is_no_option_and_no_path(project: Path, name: str) -> None:
    def all_files() -> set[Path]:
        return {path for path in project.parents[1].rglob("*") if ".git" not in path.parts}

    before = all_files()
    with pytest.raises(UserError, match="git knows no commit"):
        Revision.find(name)
    assert git.file(name or "nowhere", "dvc.yaml") is None
    assert git.tree(name or "nowhere") is None
    assert all_files() == before


def test_a_file_that_a_commit_does_not_have_is_none_and_no_failure(project: Path) -> None:
    assert git.file("HEAD", "src/moved.py") == b"one\n"
    assert git.file("HEAD", "src") is None
    assert git.file("HEAD", "no such blob 3") is None
    assert git.file("nowhere", "src/moved.py") is None
    assert git.commit("HEAD^{tree}") is None


def test_a_commit_that_this_clone_does_not_have_is_in_no_history(project: Path) -> None:
    assert git.is_ancestor("side", "main")
    assert git.is_ancestor("main", "main")
    assert not git.is_ancestor("main", "side")
    assert not git.is_ancestor("0" * 40, "main")


def test_how_to_reach_a_remote_is_left_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"GIT_SSH_COMMAND": "ssh -i key", "GIT_ASKPASS": "ask", "GIT_CONFIG_COUNT": "0", "GIT_SSL_CAINFO": "ca"}
    for name, value in (kept | {"GIT_DIR": "x", "GIT_AUTHOR_DATE": "x", "GIT_CONFIG": "x"}).items():
        monkeypatch.setenv(name, value)
    found = git.environment()
    assert {name: found.get(name) for name in kept} == kept
    assert not {"GIT_DIR", "GIT_AUTHOR_DATE", "GIT_CONFIG"} & found.keys()


@pytest.mark.parametrize("file", sorted(SRC.rglob("*.py")), ids=lambda file: file.relative_to(SRC).as_posix())
def test_no_other_module_runs_git(file: Path) -> None:
    if file == Path(git.__file__):
        return
    words = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
    assert "git" not in words, f"{file} names git as a program: crashcast.versioning.git runs it"
