"""From the exports of a fleet with few crashes to a verdict, by the commands of the README and the docs' settings."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import exported_fleets
import pytest
import yaml
from ruamel.yaml import YAML

Params = Mapping[str, Mapping[str, Any]]
HOUR = timedelta(hours=1)
FAST: Params = {
    "train": {
        "candidates": {
            "hist_gradient_boosting": {
                "learning_rate": [0.1], "max_iter": 20, "max_leaf_nodes": [7], "min_samples_leaf": 20,
                "l2_regularization": 1.0,
            }
        }
    },
    "evaluate": {"replicates": 100},
    "acceptance": {"replicates": 100},
}  # fmt: skip
OF_SERVERS: Params = {"features": {"interactions": {}}, "acceptance": {"windows": 3}}
BLIND: Params = {"features": {"columns": ["network_mbps"]}}  # the metric that does not change before a crash
SEEING: Params = {"features": {"columns": "all"}}
ROOT = Path(__file__).parents[2]
OF_WEEKLY_CHECKS: Params = yaml.safe_load(
    re.findall(r"^```yaml\n(.+?)^```", (ROOT / "docs/import.md").read_text(), re.MULTILINE | re.DOTALL)[0]
)
WITHOUT_WEAR: Params = {"features": {"columns": ["temperature_c"]}}  # which does not change before a disk fails


def run(command: str, folder: Path, status: int = 0) -> str:
    done = subprocess.run(command, shell=True, cwd=folder, text=True, capture_output=True, timeout=3600)
    assert done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def change(folder: Path, *changes: Params) -> None:
    round_trip = YAML()
    params = round_trip.load(folder / "params.yaml")
    for change in changes:
        for section, values in change.items():
            params[section].update(values)
    round_trip.dump(params, folder / "params.yaml")


@pytest.fixture
def project(
    tmp_path: Path, copy_project: Callable[[Path], Path], s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a clone of this project with buckets and a git remote of its own."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    folder = copy_project(tmp_path / "clone")
    run("git init -q -b main && git add -A && git commit -q -m code", folder)
    run(f"dvc remote modify s3 endpointurl {s3['AWS_ENDPOINT_URL']}", folder)
    run(f"dvc remote modify s3 url s3://crashcast/{tmp_path.name}", folder)
    run("git commit -q -am bucket && git init -q --bare ../remote.git && git remote add origin ../remote.git", folder)
    return folder


def bring_in(project: Path, exports: Path) -> str:
    said = run(f"crashcast import --telemetry {exports}/samples.csv --incidents {exports}/incidents.csv", project)
    run("git add -A && git commit -q -m import", project)
    return said


def train(project: Path, *changes: Params) -> str:
    """Train with other parameters, commit and push; return what the pipeline said."""
    change(project, *changes)
    said = run("dvc repro", project)
    run("git add dvc.lock metrics params.yaml && git commit -q -m train && git push -q origin main", project)
    run("crashcast push", project)
    return said


def review(project: Path, options: str, status: int) -> dict[str, Any]:
    said = run(f"crashcast review {options}", project, status)
    assert "Recipes were judged, not models" in " ".join(said.split())
    record: dict[str, Any] = json.loads((project / "reports/review/record.json").read_text())
    return record


def check_verdicts(project: Path, n_windows: int, blind: Params, seeing: Params) -> None:
    """Check that a clearly better recipe is accepted, and a clearly worse one rejected, on crashes of all windows."""
    better = review(project, "--base HEAD~1", status=0)
    assert (better["verdict"], better["form"]) == ("ACCEPT", "improvement")
    assert len(better["windows"]) == n_windows
    assert better["rows"]["groups"] >= better["policy"]["min_groups"]
    train(project, blind)
    worse = review(project, "--base HEAD~1", status=1)
    assert worse["verdict"] == "REJECT"
    looks = run("git show refs/crashcast/looks:looks.json", project)
    assert json.loads(looks)[worse["look"]["rows"]][0]["windows"] == [
        f"{window['from']}/{window['to']}" for window in worse["windows"]
    ]


@pytest.mark.ci
def test_thirty_servers_reach_verdicts_within_two_months(project: Path, tmp_path: Path) -> None:
    exported_fleets.servers(tmp_path / "exports", n_servers=30, days=60, every=HOUR, days_per_crash=9)
    bring_in(project, tmp_path / "exports")
    said = train(project, FAST, OF_SERVERS, BLIND)
    assert "label: the 3 test windows, the last 27 days, hold " in said
    train(project, SEEING)
    check_verdicts(project, 3, BLIND, SEEING)


@pytest.mark.slow
def test_sixty_servers_at_five_minutes_for_ninety_days_reach_verdicts(project: Path, tmp_path: Path) -> None:
    exported_fleets.servers(tmp_path / "exports")
    bring_in(project, tmp_path / "exports")
    train(project, OF_SERVERS, BLIND)
    train(project, SEEING)
    assert review(project, "--first", status=0)["verdict"] == "ACCEPT"
    check_verdicts(project, 3, BLIND, SEEING)


@pytest.mark.slow
def test_two_thousand_disks_checked_weekly_for_three_years_reach_verdicts(project: Path, tmp_path: Path) -> None:
    exported_fleets.disks(tmp_path / "exports")
    said = bring_in(project, tmp_path / "exports")
    assert "interval 7d: the gap of 100% of samples" in said
    assert "docs/import.md has an example for checks once a week" in said
    train(project, OF_WEEKLY_CHECKS, WITHOUT_WEAR)
    train(project, SEEING)
    assert review(project, "--first", status=0)["verdict"] == "ACCEPT"
    check_verdicts(project, 3, WITHOUT_WEAR, SEEING)
