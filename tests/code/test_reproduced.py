"""Comparing a run with a commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from crashcast.errors import UserError
from crashcast.reproduced import compare

METRICS = Path("metrics/evaluate.json")


def write(model: str, pr_auc: float, chosen: str = "a") -> None:
    METRICS.parent.mkdir(exist_ok=True)
    METRICS.write_text(json.dumps({"pr_auc": pr_auc, "nested": {"chosen": chosen}}))
    outs = [{"path": "models", "md5": model}, {"path": str(METRICS), "md5": str(hash((pr_auc, chosen)))}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train": {"outs": outs}}}))


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
