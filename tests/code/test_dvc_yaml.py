"""dvc.yaml tells the truth: what a stage imports, which parameters it reads and which paths it is given."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest
import yaml

from crashcast.execution import code_hash
from crashcast.params.base import SECTIONS

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def closure(stage: str) -> set[Path]:
    """Every file of the project whose code can change what a stage makes."""
    return code_hash.closure([SRC / "stages" / f"{stage}.py"])


def declared_as(files: set[Path]) -> list[str]:
    """What dvc.yaml declares for these files: a folder for all that it holds, as no other file is in it."""
    names = set()
    for file in files:
        whole = [folder for folder in file.parents if folder.is_relative_to(SRC / "crashcast") and holds(files, folder)]
        names.add((whole[-1] if whole else file).relative_to(ROOT).as_posix())
    return sorted(names)


def holds(files: set[Path], folder: Path) -> bool:
    inside = {file for file in folder.rglob("*.py") if not code_hash.is_empty(file)}
    return len(inside) > 1 and inside <= files


def sections_read(file: Path) -> set[str]:
    """The sections of params.yaml that a file reads: calls like `Clean.read()`."""
    known = {name.capitalize(): name for name in SECTIONS}
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
def test_code_dependencies_are_what_can_change_the_result(stage: str) -> None:
    declared = [name for name in plain(STAGES[stage]["deps"]) if name.startswith("src/")]
    needed = declared_as(closure(stage))
    assert declared == needed, "dvc.yaml shall say:\n" + "\n".join(f"      - {name}" for name in needed)


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_are_those_read(stage: str) -> None:
    read = set().union(*(sections_read(file) for file in closure(stage)))
    assert set(STAGES[stage]["params"]) == read


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
