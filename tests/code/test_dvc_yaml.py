"""dvc.yaml tells the truth: what a stage imports, which parameters it reads and which paths it is given."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest
import yaml

from crashcast.execution import code_hash as imported
from crashcast.params import Section

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
RUNNER = SRC / "run.py"


def closure(stage: str) -> set[Path]:
    """Every file of the project whose code a stage can run."""
    return imported.closure([RUNNER, SRC / "stages" / "__init__.py", SRC / "stages" / f"{stage}.py"])


def sections_read(file: Path) -> set[str]:
    """The sections of params.yaml that a file reads: calls like `Clean.read()`."""
    known = {section.__name__: name for name, section in Section.sections.items()}
    return {
        known[node.func.value.id]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "read"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in known
    }


def plain(entries: list[str | dict[str, object]]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_import_closure(stage: str) -> None:
    declared = {name for name in plain(STAGES[stage]["deps"]) if name.startswith("src/")}
    assert declared == {file.relative_to(ROOT).as_posix() for file in closure(stage)}


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_are_those_read(stage: str) -> None:
    read = set().union(*(sections_read(file) for file in closure(stage)))
    # where partitions are computed changes no byte of any output
    assert set(STAGES[stage]["params"]) == read - {"execution"}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_given_the_paths_it_declares_and_no_others(stage: str) -> None:
    declared = STAGES[stage]
    python, runner, name, *paths = shlex.split(declared["cmd"])
    assert (python, runner, name) == ("python", "src/run.py", stage)
    data = [entry for entry in plain(declared["deps"]) if not entry.startswith("src/") and entry != "requirements.txt"]
    assert paths == data + plain(declared["outs"]) + plain(declared.get("metrics", []))


@pytest.mark.parametrize("stage", STAGES)
def test_stage_names_no_path_of_its_own(stage: str) -> None:
    tops = ("data/", "metrics/", "models/", "plots/", "reports/")
    for file in closure(stage):
        tree = ast.parse(file.read_text())
        docs = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if hasattr(node, "body") and isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docs:
                assert not node.value.startswith(tops), f"{file.name}:{node.lineno} reads {node.value}"


def test_every_stage_is_described_and_depends_on_the_locked_environment() -> None:
    for name, stage in STAGES.items():
        assert stage["desc"], name
        assert "requirements.txt" in stage["deps"], name


def test_nothing_disables_the_run_cache() -> None:
    for name, stage in STAGES.items():
        for out in stage["outs"]:
            assert isinstance(out, str) or not {"persist", "cache"} & set(next(iter(out.values()))), name
