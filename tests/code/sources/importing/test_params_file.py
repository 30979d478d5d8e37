"""params.yaml keeps its user's comments, order and spelling."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from crashcast.errors import UserError
from crashcast.params import every_section
from crashcast.params.data import Data
from crashcast.params.features import Features
from crashcast.params.telemetry import Metric, Telemetry
from crashcast.sources.importing import params_file, run_import

ROOT = Path(__file__).parents[4]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with params.yaml the current one; DVC is left out."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_import, "track", lambda paths: None)
    return tmp_path


def telemetry(**metrics: Metric) -> Telemetry:
    """Return a telemetry section."""
    return Telemetry(interval=timedelta(minutes=5), partition="week", metrics=metrics)


def test_params_keep_every_other_line(project: Path) -> None:
    before = Path("params.yaml").read_text().splitlines()
    section = telemetry(
        cpu_pct=Metric(min=0, max=100, can_stick=True), load=Metric(min=-0.5, max=2e15, aggregate="last")
    )
    text, changes = params_file.describe_import(Path("params.yaml"), section, ["db", "no", "us east"])
    Path("params.yaml").write_text(text)
    assert changes == ["features.interactions.cpu_latency_combo is left out: its metrics are no more"]
    assert Telemetry.read() == section
    assert Data.read().source == "import"
    assert Features.read().categories == {"group": ["db", "no", "us east"]}
    every_section.check()
    after = text.splitlines()
    gone = [line.strip() for line in before if line not in after]
    ours = ["source:", "interval:", "partition:", "interactions:", "cpu_latency_combo:", "categories:"]
    assert [line for line in gone if not line.startswith((*ours, *Telemetry.read(ROOT / "params.yaml").metrics))] == []
    comments = [line.partition("#")[2] for line in before if "#" in line]
    assert [line.partition("#")[2] for line in after if "#" in line] == comments


def test_params_stay_byte_for_byte_where_nothing_is_new(project: Path) -> None:
    text, changes = params_file.describe_import(Path("params.yaml"), Telemetry.read())
    assert text == Path("params.yaml").read_text().replace("source: demo  ", "source: import", 1)
    assert changes == []


@pytest.mark.parametrize(
    ("columns", "kept"), [("[cpu_pct, uptime_h]", ["cpu_pct"]), ("[uptime_h]", "all"), ("\n  - cpu_pct", ["cpu_pct"])]
)
def test_features_forget_metrics_that_are_no_more(project: Path, columns: str, kept: object) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("columns: all ", f"columns: {columns} ", 1))
    section = telemetry(cpu_pct=Metric(min=0, max=100), latency_ms=Metric(min=0, max=60_000))
    path.write_text(params_file.describe_import(path, section)[0])
    assert Features.read().columns == kept
    assert Features.read().interactions == {"cpu_latency_combo": ("cpu_pct", "latency_ms")}


@pytest.mark.parametrize("name", ["data", "telemetry", "clean", "features"])
def test_a_section_that_is_missing_is_named(project: Path, name: str) -> None:
    path, section = Path("params.yaml"), Telemetry.read()
    path.write_text(re.sub(rf"(?ms)^{name}:.*?(?=^\w)", "", path.read_text()))
    with pytest.raises(UserError, match=f"section '{name}' is missing"):
        params_file.describe_import(path, section)


@pytest.mark.parametrize("groups", [[], ["web", "db"]])
def test_groups_are_replaced_also_in_a_file_of_an_earlier_version(project: Path, groups: list[str]) -> None:
    path = Path("params.yaml")
    kept = path.read_text().replace("categories: {} ", 'categories: {group: ["old"]} ', 1)
    for before in (kept, re.sub(r"(?m)^  categories: .*\n", "", kept)):
        path.write_text(before)
        after, _ = params_file.describe_import(path, Telemetry.read(), groups)
        path.write_text(after)
        assert Features.read().categories == ({"group": groups} if groups else {})
        others = [line for line in before.splitlines() if "categories" not in line and "source:" not in line]
        assert [line for line in after.splitlines() if "categories" not in line and "source:" not in line] == others
        assert ("# kinds of servers" in after) == ("# kinds of servers" in before)


def test_without_another_list_of_groups_theirs_stays(project: Path) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("categories: {} ", 'categories: {group: ["old"]} ', 1))
    path.write_text(params_file.describe_import(path, Telemetry.read())[0])
    assert Features.read().categories == {"group": ["old"]}
