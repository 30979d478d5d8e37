"""A team's fleet, made with an earlier version of this project, takes the present one by `git merge`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from retraining_fleet import run

from crashcast.errors import UserError
from crashcast.params.demo import Demo
from crashcast.sources.demo import simulator
from crashcast.sources.demo.mechanisms import Fleet, simulate_events
from crashcast.sources.demo.telemetry import render
from crashcast.versioning.upgrade import upgrade

ROOT = Path(__file__).parents[2]
EARLIER = "534acd1"  # before alarms and actions were raw data, and before params.yaml had drift, retrain and plan
OWN = {
    "max_iter: 150": "max_iter: 20",
    "C: [0.01, 0.1, 1.0]": "C: [0.1]",
    "replicates: 1000": "replicates: 100",
    "negatives_per_positive: 10 ": "negatives_per_positive: 12 ",
}
pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(
        subprocess.run(["git", "-C", ROOT, "cat-file", "-e", EARLIER], capture_output=True).returncode != 0,
        reason=f"this clone's history does not reach back to {EARLIER}",
    ),
]


@pytest.fixture
def fleet(tmp_path: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone of the earlier version with a fleet of its own, run once, and the present one as `upstream`."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    demo = Demo(seed=3, servers=40, start="2025-01-01", months=3, interval="1h")  # type: ignore[arg-type]
    simulated, folder = Fleet.of(demo), tmp_path / "fleet"
    events = simulate_events(simulated)
    tasks = simulator.rendering_tasks(simulated, events, "month")
    pl.concat(render(task.partition, **task.inputs)[0] for task in tasks).write_parquet(tmp_path / "telemetry.parquet")
    simulator.tickets(simulated, events).write_parquet(tmp_path / "incidents.parquet")
    run(f"git clone -q --no-checkout {ROOT} fleet && cd fleet && git checkout -q -B main {EARLIER}", tmp_path)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder / "src"))
    params = Path("params.yaml").read_text()
    for old, new in OWN.items():
        assert params.count(old) == 1
        params = params.replace(old, new)
    Path("params.yaml").write_text(params)
    run(f"dvc remote modify s3 url s3://crashcast/{tmp_path.name}", folder)
    run(f"dvc remote modify s3 endpointurl {s3['AWS_ENDPOINT_URL']}", folder)
    run("crashcast import --telemetry ../telemetry.parquet --incidents ../incidents.parquet --replace", folder)
    run("dvc repro -q && git add -A && git commit -q -m 'our fleet' && dvc push -q", folder)
    return folder


@pytest.fixture
def upstream(tmp_path: Path, copy_project: Callable[[Path], Path]) -> str:
    """Return the present files, as a commit of the present history."""
    place = tmp_path / "upstream"
    run(f"git clone -q --no-checkout {ROOT} {place}", tmp_path)
    for path in ("data", "metrics", "dvc.lock"):
        run(f"git checkout -q HEAD -- {path}", place)
    copy_project(place)
    run("git add -A && git commit -q --allow-empty -m present", place)
    return str(place)


def test_the_fleet_keeps_its_data_and_parameters_and_runs_the_new_version(fleet: Path, upstream: str) -> None:
    before = yaml.safe_load(Path("params.yaml").read_text())
    own = run("git rev-parse HEAD:data/raw/telemetry.dvc HEAD:data/raw/incidents.parquet.dvc", fleet)
    run(f"git fetch -q {upstream} HEAD && (git merge -q --no-commit --no-ff FETCH_HEAD || true)", fleet)
    assert "UU dvc.lock" in run("git status --short", fleet)

    present = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(["crashcast", "upgrade"], env=present, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "To be resolved by hand" not in done.stdout
    assert "New in params.yaml: drift: {" in done.stdout
    assert "New, and empty: data/raw/alarms.parquet" in done.stdout
    run("git commit -q -m upgraded", fleet)
    assert run("git rev-parse HEAD:data/raw/telemetry.dvc HEAD:data/raw/incidents.parquet.dvc", fleet) == own
    after = yaml.safe_load(Path("params.yaml").read_text())
    for name, section in before.items():
        kept = {key: after[name][key] for key in section} if isinstance(section, dict) else after[name]
        assert kept == section
    assert not Path("data/demo.dvc").exists()

    run("dvc repro -q && git add -u && git commit -q -m 'the new version' && dvc push -q", fleet)
    assert "Verdict:" in run("crashcast verdict", fleet)
    # the model that the earlier code trained is judged beside the new one, by its own code
    reviewed = subprocess.run(["crashcast", "review", "--base", "HEAD~2"], capture_output=True, text=True)
    assert reviewed.returncode in (0, 1, 3), reviewed.stderr
    assert "the champion scores" in reviewed.stderr


def test_without_a_merge_nothing_is_done(
    tmp_path: Path, copy_project: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_project(tmp_path / "project")
    run("git init -q && git add -A && git commit -q -m code", folder)
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="no merge is under way: `git merge --no-commit --no-ff VERSION` begins one"):
        upgrade()
    assert run("git status --short", folder) == ""
