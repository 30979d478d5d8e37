"""Without a server: the data that commits need, that a push brings, and that is no garbage."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from crashcast.doctor import examine, garbage, pre_push
from crashcast.doctor.findings import SOUND, exit_status
from crashcast.errors import UserError
from crashcast.versioning.outputs import Output, Unread, find_revisions, outputs_of
from crashcast.versioning.revision import Revision

A, B, C, D = ("0123456789abcdef0123456789abcde" + letter for letter in "abcd")
POINTER = f"outs:\n- md5: {A}.dir\n  size: 30\n  nfiles: 2\n  hash: md5\n  path: raw\n"
LOCK = f"""schema: '2.0'
stages:
  join:
    cmd: join
    outs:
    - {{path: out/kept, hash: md5, md5: {B}, size: 3}}
    - {{path: out/local, hash: md5, md5: {C}, size: 4}}
    - {{path: out/figures.json, hash: md5, md5: {D}, size: 5}}
    - {{path: out/no-cache, hash: md5, md5: {D}, size: 5}}
"""
PIPELINE = """stages:
  join:
    cmd: join
    outs: [out/kept, {out/local: {push: false}}, {out/no-cache: {cache: false}}]
    metrics: [{out/figures.json: {cache: false}}]
"""

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a git repository with what DVC writes, in its folder `sub`."""
    here = tmp_path / "sub"
    for name, text in {
        "data/raw.dvc": POINTER,
        "dvc.lock": LOCK,
        "dvc.yaml": PIPELINE,
        "out/figures.json": "{}",
        ".dvc/config": "",
    }.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    shell("git init -q -b main && git add -A && git commit -q -m one")
    monkeypatch.chdir(here)
    return here


def outputs() -> tuple[list[Output], list[Unread]]:
    return outputs_of(find_revisions())


def test_a_commit_needs_what_dvc_keeps_and_nothing_that_git_keeps(project: Path) -> None:
    name = Revision.find("HEAD").name

    assert outputs() == (
        [
            Output("data/raw", f"{A}.dir", 30, name),
            Output("out/kept", B, 3, name),
            Output("out/local", C, 4, name, is_pushed=False),
        ],
        [],
    )


@pytest.mark.parametrize(
    ("name", "text", "severity", "reason"),
    [
        ("dvc.lock", f"<<<<<<< HEAD\n{LOCK}=======\n>>>>>>> theirs\n", "error", "merge conflict"),
        ("dvc.lock", "stages: [", "error", "is unreadable"),
        ("dvc.lock", "", "error", "no named sections"),
        ("dvc.lock", LOCK.replace("path: out/kept, ", ""), "error", "not as DVC writes it"),
        ("data/raw.dvc", POINTER.replace("  hash: md5\n", ""), "unknown", "no MD5 as DVC 3 records it"),
        ("dvc.yaml", "stages: [", "error", "is unreadable"),
        ("data/raw.dvc", POINTER.replace("path: raw", "path: ../../raw"), "error", "lies outside the project"),
        ("dvc.lock", LOCK.replace("out/kept", "/etc/kept"), "error", "lies outside the project"),
    ],
)
def test_what_cannot_be_read_is_never_passed_over(
    project: Path, shell: Shell, name: str, text: str, severity: str, reason: str
) -> None:
    (project / name).write_text(text)
    shell("git commit -q -a -m two")

    [finding] = outputs()[1]

    assert finding.severity == severity
    assert reason in finding.what
    assert exit_status([finding]) != SOUND


def test_of_all_commits_each_output_is_named_once_with_a_commit_that_needs_it(project: Path, shell: Shell) -> None:
    (project / "data/raw.dvc").write_text(POINTER.replace(A, D))
    shell("git commit -q -a -m two")

    found, _ = outputs_of(find_revisions(all_commits=True))

    assert sorted(output.md5 for output in found) == sorted([f"{A}.dir", f"{D}.dir", B, C])
    assert {output.md5: output.revision for output in found}[f"{A}.dir"] == Revision.find("HEAD~1").name


def test_of_a_shallow_clone_not_all_commits_are_checked(
    project: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("git commit -q --allow-empty -m two && git clone -q --depth=1 file://$PWD clone")
    assert examine(all_commits=True, parts=["environment"]) == []
    monkeypatch.chdir(project.parent / "clone/sub")
    [finding] = examine(all_commits=True, parts=["environment"])
    assert (finding.severity, finding.todo) == ("unknown", "git fetch --unshallow")


def test_the_hook_asks_for_what_the_other_side_lacks(project: Path, shell: Shell) -> None:
    def sha(name: str) -> str:
        return Revision.find(name).sha

    zeros = "0" * 40
    for number in (2, 3):
        shell(f"git commit -q --allow-empty -m {number}")
    shell("git tag -a -m tag v1 && git init -q --bare other && git remote add other other")
    shell("git push -q other HEAD~2:refs/heads/main")

    assert pre_push.commits([f"refs/heads/main {sha('main')} refs/heads/main {sha('HEAD~2')}"], "other") == [
        sha("HEAD"),
        sha("HEAD~1"),
    ]
    assert pre_push.commits([f"refs/heads/new {sha('HEAD~1')} refs/heads/new {zeros}"], "other") == [sha("HEAD~1")]
    assert len(pre_push.commits([f"refs/heads/new {sha('HEAD')} refs/heads/new {zeros}"], "file:///unnamed")) == 3
    tag = shell("git rev-parse v1").stdout.strip()
    assert pre_push.commits([f"refs/tags/v1 {tag} refs/tags/v1 {zeros}"], "other") == [sha("HEAD"), sha("HEAD~1")]
    assert pre_push.commits([f"(delete) {zeros} refs/heads/main {sha('HEAD')}"], "other") == []
    unknown = "1" * 40  # what somebody else pushed meanwhile
    assert len(pre_push.commits([f"refs/heads/main {sha('main')} refs/heads/main {unknown}"], "other")) == 2


def test_every_hash_that_any_commit_names_is_kept_even_from_files_that_cannot_be_parsed(
    project: Path, shell: Shell
) -> None:
    (project / "dvc.lock").write_text(f"<<<<<<< {'e' * 32}\n")
    shell("git commit -q -a -m conflict && git reset -q --hard HEAD~1")  # in the reflog alone
    (project / "not-in-git.dvc").write_text(POINTER.replace(A, "f" * 32))
    (project / "staged.dvc").write_text(POINTER.replace(A, "1" * 32))
    shell("git add sub/staged.dvc")
    (project / "staged.dvc").unlink()

    named = garbage._named(garbage._work_trees())

    assert named >= {f"{A}.dir", B, C, D, "e" * 32, f"{'f' * 32}.dir", f"{'1' * 32}.dir"}


def test_nothing_is_garbage_if_the_data_of_head_was_not_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERYWHERE", [":(literal)*.dvc"])

    with pytest.raises(UserError, match=r"no file names data/raw, out/kept, out/local, though HEAD has it"):
        garbage._named(garbage._work_trees())


def test_a_place_that_is_no_project_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no \.dvc folder here"):
        examine()
    Path(".dvc").mkdir()
    with pytest.raises(UserError, match="git rev-parse failed: fatal: not a git repository"):
        examine()


def test_a_commit_or_a_part_that_is_not_there_is_told(project: Path) -> None:
    with pytest.raises(UserError, match="git knows no commit 'nowhere'"):
        examine(["nowhere"])
    with pytest.raises(UserError, match="no part 'remotes': environment, project, bucket, remote, cache"):
        examine(parts=["remotes"])
