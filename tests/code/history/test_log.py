"""What the history of data says if not all of it is in the clone, or can be read."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from crashcast.errors import UserError
from crashcast.history import diff, log
from crashcast.history.files import Files
from crashcast.versioning import git, outputs
from crashcast.versioning.outputs import outputs_of
from crashcast.versioning.revision import Revision

Shell = Callable[..., subprocess.CompletedProcess[str]]
POINTER = "outs:\n- md5: {}\n  hash: md5\n  size: 4\n  path: raw\n"
PROJECT = "projects/crashes"


@pytest.fixture
def origin(tmp_path: Path, shell: Shell) -> Path:
    """Return a repository that is older than the project in a folder of it: four commits, the second adds data."""
    here = tmp_path / "origin" / PROJECT
    here.mkdir(parents=True)
    shell("git init -q -b main origin && git -C origin config uploadpack.allowFilter true")
    shell("echo others > note && git add note && git commit -q -m others", cwd=tmp_path / "origin")
    (here / ".dvc").mkdir()
    (here / ".dvc/config").write_text("")
    for subject, digest in (("first", "a"), ("second", "b"), ("code", "b")):
        (here / "raw.dvc").write_text(POINTER.format(digest * 32))
        (here / "code").write_text(subject)
        shell(f"git add -A && git commit -q -m {subject}", cwd=here)
    return tmp_path / "origin"


@pytest.fixture
def clone(origin: Path, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what clones the repository with options, and makes the project there the place to work in."""

    def clone(options: str) -> None:
        log._datasets.cache_clear()  # commits of another test's second may have the same name
        outputs._blob.cache_clear()
        shell(f"git clone -q {options} file://{origin} clone")
        monkeypatch.chdir(tmp_path / "clone" / PROJECT)

    return clone


def told() -> list[tuple[str, list[str], tuple[str, ...]]]:
    return [(commit.subject, [change.what for change in commit.changes], commit.problems) for commit in log.history()]


def shown() -> str:
    out = io.StringIO()
    log.show(log.history(), Console(file=out, width=200))
    return out.getvalue()


def test_a_repository_older_than_the_project_has_no_data_in_its_first_commits(clone: Callable[[str], None]) -> None:
    clone("")
    assert told() == [("second", ["changed"], ()), ("first", ["added"], ())]
    assert outputs_of([Revision.find("HEAD~3")]) == ([], [])
    assert [(one.before, one.after) for one in diff.diff("HEAD~3")] == [(None, "b" * 32)]


@pytest.mark.parametrize(("depth", "known"), [(1, []), (2, []), (3, ["second"])])
def test_what_the_oldest_commits_of_a_shallow_clone_changed_is_not_known(
    clone: Callable[[str], None], depth: int, known: list[str]
) -> None:
    clone(f"--depth={depth}")
    cut = ["code", "second", "first"][depth - 1]
    assert told() == [*((subject, ["changed"], ()) for subject in known), (cut, [], (log.CUT,))]
    assert git.cut() == {git.commit(f"HEAD~{depth - 1}")}
    text = shown()
    assert "not known: `git fetch --unshallow`" in text
    assert "new" not in text
    assert [commit.subject for commit in log.history(["raw"])] == [*known, cut]
    assert len(list(log.history(limit=1))) == 1


def test_without_data_a_shallow_clone_does_not_say_that_there_was_none(
    origin: Path, clone: Callable[[str], None], shell: Shell
) -> None:
    shell("git rm -q raw.dvc && git commit -q -m removed", cwd=origin / PROJECT)
    clone("--depth=1")
    assert told() == [("removed", [], (log.CUT,))]
    assert "No commit has changed data" not in shown()


def test_a_path_that_no_commit_changed_is_an_error_if_all_commits_are_here(clone: Callable[[str], None]) -> None:
    clone("")
    with pytest.raises(UserError, match="no commit of HEAD has changed nothing"):
        list(log.history(["nothing"]))


def test_what_a_partial_clone_cannot_fetch_is_not_taken_for_removed(origin: Path, clone: Callable[[str], None]) -> None:
    clone("--filter=blob:none")
    origin.rename(origin.with_name("away"))
    second, first = told()
    for subject, changes, problems in (first, second):
        assert (subject, changes) == (subject, [])
        assert "raw.dvc of " in problems[0]
        assert "could not fetch" in problems[0]
    origin.with_name("away").rename(origin)
    log._datasets.cache_clear()
    assert told() == [("second", ["changed"], ()), ("first", ["added"], ())]


def test_a_clone_without_trees_asks_its_origin(origin: Path, clone: Callable[[str], None]) -> None:
    clone("--filter=tree:0")
    origin.rename(origin.with_name("away"))
    with pytest.raises(UserError, match="could not fetch"):
        told()
    with pytest.raises(UserError, match="could not fetch"):
        outputs_of([Revision.find("HEAD~3")])


def test_versions_whose_records_cannot_be_compared_do_not_end_the_log(
    clone: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clone("")
    rows = pl.DataFrame({"incident_id": ["a"], "seen": ["2026-01-01"]})
    rows.write_parquet(tmp_path / "old")
    rows.with_columns(seen=pl.lit(2**62).cast(pl.Datetime("ms"))).write_parquet(tmp_path / "new")  # in no known year
    monkeypatch.setattr(Files, "whole", lambda self, md5: nullcontext(tmp_path / md5))
    unread: dict[str, set[str]] = {}

    records = log._records({"x.parquet": "old"}, {"x.parquet": "new"}, Files(), unread)

    assert records is None
    assert [*unread.values()] == [{"new"}]
    assert next(iter(unread)).startswith("its values cannot be compared: ")
