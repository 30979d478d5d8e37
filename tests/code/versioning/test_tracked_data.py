"""Raw data is what git says was accepted; what DVC writes and what git holds are the real ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crashcast import files
from crashcast.errors import UserError
from crashcast.versioning.tracked_data import check_tracked

FILE, FOLDER = Path("raw/incidents.parquet"), Path("raw/telemetry")


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def track(*paths):
    """Write the .dvc files that `dvc add` would."""
    for path in paths:
        Path(f"{path}.dvc").write_text(f"outs:\n- md5: {files.md5(path)}\n  hash: md5\n  path: {path.name}\n")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Commit a file and a folder of raw data."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        FILE: "tickets",
        FOLDER / "month=2026-01/part-0": "rows",
        FOLDER / "month=2026-02/part-0": "more",
    }.items():
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(text)
    track(FILE, FOLDER)
    Path(".gitignore").write_text(f"/{FILE}\n/{FOLDER}\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Data")
    return tmp_path


def test_committed_data_passes(project):
    check_tracked([FILE, FOLDER])


def test_edited_data_is_refused_with_both_hashes_and_what_to_type(project):
    was = files.md5(FILE)[:8]
    FILE.write_text("edited")
    with pytest.raises(UserError) as refusal:
        check_tracked([FILE, FOLDER])
    assert str(refusal.value) == (
        f"raw/incidents.parquet is not the data that git knows: its hash is {files.md5(FILE)[:8]}, "
        f"raw/incidents.parquet.dvc says {was}.\n"
        "  To restore it: git restore raw/incidents.parquet.dvc && dvc checkout raw/incidents.parquet\n"
        "  To accept it: dvc add raw/incidents.parquet && git add raw/incidents.parquet.dvc"
    )


def test_a_rewritten_pointer_changes_nothing(project):
    """As `dvc repro` leaves it behind after a refusal."""
    FILE.write_text("edited")
    track(FILE)
    with pytest.raises(UserError, match="is not the data that git knows"):
        check_tracked([FILE])


def test_staged_data_passes_and_what_was_committed_before_does_not(project):
    FILE.write_text("edited")
    track(FILE)
    git("add", f"{FILE}.dvc")
    check_tracked([FILE])
    FILE.write_text("tickets")
    with pytest.raises(UserError, match="is not the data that git knows"):
        check_tracked([FILE])


@pytest.mark.parametrize("change", ["edited", "added", "removed", "renamed"])
def test_a_folder_is_refused_whatever_changed_in_it(project, change):
    member = FOLDER / "month=2026-02/part-0"
    if change == "edited":
        member.write_text("edited")
    elif change == "added":
        (member.parent / "part-1").write_text("")
    elif change == "removed":
        member.unlink()
    else:
        member.rename(member.parent / "part-1")
    with pytest.raises(UserError, match=r"raw/telemetry is not the data that git knows: its hash is \w{8}\.dir"):
        check_tracked([FOLDER])


def test_in_an_experiment_only_a_commit_counts(project, monkeypatch):
    """`dvc exp run` stages what it finds in the work tree."""
    FILE.write_text("edited")
    track(FILE)
    git("add", f"{FILE}.dvc")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123abc")
    with pytest.raises(UserError, match=r"git has committed(.|\n)*`git commit` the .dvc files first"):
        check_tracked([FILE])
    git("commit", "--quiet", "--message", "More data")
    check_tracked([FILE])


def test_a_project_may_be_a_folder_of_its_repository(project, monkeypatch):
    (project / "inner").mkdir()
    for name in ("raw", ".gitignore"):
        (project / name).rename(project / "inner" / name)
    monkeypatch.chdir(project / "inner")
    git("add", "--all")
    check_tracked([FILE, FOLDER])


def test_untracked_data_is_refused(project):
    git("rm", "--quiet", "--cached", f"{FILE}.dvc")
    with pytest.raises(UserError, match=r"git does not have .*\n  To accept it: dvc add .* && git add .*dvc"):
        check_tracked([FILE])


def test_missing_data_is_refused(project):
    FILE.unlink()
    with pytest.raises(UserError, match=r"raw/incidents\.parquet is missing: `dvc pull` brings it"):
        check_tracked([FILE])


@pytest.mark.parametrize(
    "text", ["", "outs: [", "outs:\n- path: incidents.parquet\n", "outs:\n- md5: 0\n  path: other\n"]
)
def test_a_pointer_without_a_hash_is_refused(project, text):
    Path(f"{FILE}.dvc").write_text(text)
    git("add", f"{FILE}.dvc")
    with pytest.raises(UserError, match=r"records no hash of incidents\.parquet"):
        check_tracked([FILE])


def test_all_that_differs_is_told_at_once(project):
    FILE.write_text("edited")
    (FOLDER / "month=2026-02/part-0").write_text("edited")
    with pytest.raises(UserError, match=r"raw/incidents.parquet is not(.|\n)*raw/telemetry is not"):
        check_tracked([FILE, FOLDER])


def test_without_a_repository_nothing_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="git rev-parse failed: fatal: not a git repository"):
        check_tracked([FILE])


def test_without_git_nothing_is_accepted(project, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="git is not installed"):
        check_tracked([FILE])
