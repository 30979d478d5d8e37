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
    assert "first run" in compare("HEAD:nothing")[0]


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
