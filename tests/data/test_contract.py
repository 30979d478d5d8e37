"""Data from every source holds the contract that `validate` enforces; the committed limits leave it room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from crashcast.expectations import CRITICAL, WARNING, failures
from crashcast.params.telemetry import Telemetry
from crashcast.params.validate import Validate
from crashcast.paths import TABLES
from crashcast.sources.demo import simulator
from crashcast.sources.importing import run_import
from stages import validate

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"

pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning an ndarray")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Start a project with the committed parameters and no data."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    return tmp_path


def set_demo(**changes):
    yaml = YAML()
    parameters = yaml.load(Path("params.yaml"))
    parameters["demo"].update(changes)
    yaml.dump(parameters, Path("params.yaml"))


def check():
    telemetry_path, *files = TABLES
    sections = Telemetry.read(), Validate.read()
    return validate.check(validate.check_partitions(telemetry_path, *sections), files, *sections)


@pytest.mark.parametrize("seed", [7, 8])
def test_the_simulated_fleet_is_dirty_and_passes(project, seed):
    set_demo(seed=seed, servers=40, months=3)
    simulator.write()
    outcomes, figures = check()
    assert not failures(outcomes, CRITICAL)
    assert (figures["servers"], figures["partitions"]) == (40, 3)
    assert figures["duplicate_rows"] > 0
    assert figures["out_of_range_values"] > 0
    limits = Validate.read()
    assert figures["duplicate_rows"] < limits.max_duplicate_share * figures["rows"] / 2
    assert figures["out_of_range_values"] < limits.max_out_of_range_share * figures["rows"] / 2


@pytest.mark.parametrize("name", ["upptime", pytest.param("smd", marks=pytest.mark.slow)])
def test_real_fleets_pass_as_imported(project, name):
    source = SHARED / name
    if not source.is_dir():
        pytest.skip(f"{source} is not on this machine")
    labelled = source / "label_coverage.csv"
    coverage = labelled if labelled.exists() else None
    run_import.import_files([source / "telemetry.parquet"], source / "incidents.csv", coverage)
    outcomes, figures = check()
    assert not failures(outcomes, CRITICAL)
    assert len(failures(outcomes, WARNING)) <= 1  # upptime samples more often while a site is down
    assert figures["incidents_on_unknown_servers"] == 0
