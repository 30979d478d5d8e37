"""Comparing a run with a commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from crashcast.errors import UserError
from crashcast.history.byte_comparison import compare

METRICS = Path("metrics/evaluate.json")


def write(model: str, pr_auc: float, chosen: str = "a", code: str = "c1", lead: str = "1h") -> None:
    METRICS.parent.mkdir(exist_ok=True)
    Path("models").mkdir(exist_ok=True)  # empty: git does not have it
    METRICS.write_text(json.dumps({"pr_auc": pr_auc, "nested": {"chosen": chosen}}))
    outs = [{"path": "models", "md5": model}, {"path": str(METRICS), "md5": str(hash((pr_auc, chosen)))}]
    deps = [{"path": "src/stages/train.py", "md5": code}]
    stage = {"cmd": "run", "deps": deps, "params": {"params.yaml": {"label": {"lead": lead}}}, "outs": outs}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train": stage}}))


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    write("m1", 0.2)
    subprocess.run("git add -A && git commit -q -m run", shell=True, check=True)


def test_the_same_bytes_need_no_words():
    write("m1", 0.2)
    assert compare() == []


def test_figures_within_the_tolerance_agree():
    write("m2", 0.2019)
    first, second = compare()
    assert first == "This run differs from HEAD in models, metrics/evaluate.json."
    assert second.startswith("Every figure agrees within 1%")


def test_figures_beyond_the_tolerance_are_named():
    write("m2", 0.21, chosen="b")
    assert compare()[1:] == [
        "  metrics/evaluate.json: nested.chosen was a, is b",
        "  metrics/evaluate.json: pr_auc was 0.2, is 0.21",
    ]


def test_a_missing_lock_is_named():
    Path("dvc.lock").unlink()
    with pytest.raises(UserError, match="dvc repro"):
        compare()


def test_only_what_is_known_is_said_of_a_commit_without_a_lock(tmp_path, monkeypatch):
    """It need not be the first run: an earlier commit may have had one, or another branch."""
    subprocess.run("git rm -q --cached dvc.lock && git commit -q -m without", shell=True, check=True)
    assert compare() == ["HEAD has no dvc.lock to compare with: commit the one of this run."]
    with pytest.raises(UserError, match="git knows no commit 'v9' here"):
        compare("v9")
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    subprocess.run(["git", "init", "-q"], check=True)
    assert compare() == ["There is no commit yet to compare with."]


@pytest.mark.parametrize("folder", [".", "projects/crashes"])
def test_a_clone_without_outputs_has_no_bytes_to_compare(tmp_path, monkeypatch, folder):
    if folder != ".":
        subprocess.run(f"mkdir -p {folder} && git mv dvc.lock metrics {folder} && git commit -qam moved", shell=True)
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{tmp_path}", "clone"], check=True)
    monkeypatch.chdir(tmp_path / "clone" / folder)
    assert compare() == ["Not in the work tree, so not compared: models. `dvc repro` makes them."]
    Path("models").mkdir()
    assert compare() == []
    with pytest.raises(UserError, match=r"git knows no commit 'HEAD~1' here.*--unshallow"):
        compare("HEAD~1")


def test_what_somebody_changed_is_not_put_down_to_the_cpu():
    write("m2", 0.2001, code="c2", lead="2h")
    assert compare() == [
        "Not a rerun of HEAD: src/stages/train.py, parameters of train changed; "
        "`dvc metrics diff` shows what came of it."
    ]


def test_a_conflicted_lock_is_named():
    Path("dvc.lock").write_text("<<<<<<< ours\n")
    with pytest.raises(UserError, match="merge conflict"):
        compare()
