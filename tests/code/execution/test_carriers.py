"""The list of modules that cannot change a result is right, and what is on it makes nothing stale."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crashcast.execution import code_hash

SRC = code_hash.SRC
STAGES = ("validate", "clean", "label", "featurize", "split", "train", "evaluate")
Digests = dict[str, dict[str, str]]  # stage: file: hash
Compute = Callable[[], Digests]
CARRIERS = sorted(file for file in SRC.rglob("*.py") if code_hash.is_carrier(file))
# what rows and models are made of: who is handed none of it cannot change a result
FRAMES = {"numpy", "polars", "pandas", "pyarrow", "scipy", "sklearn", "skops"}
# frames go through it to workers, named by the hash of their bytes, which is checked on arrival
# (test_cluster.py: test_a_task_survives_the_way_to_a_worker)
BY_HASH = {"crashcast/execution/cluster/packing.py"}


def named(file: Path) -> str:
    return file.relative_to(SRC).as_posix()


@pytest.mark.parametrize("name", code_hash.CARRIERS)
def test_every_name_on_the_list_is_a_module(name: str) -> None:
    path = SRC.joinpath(*name.split("."))
    assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@pytest.mark.parametrize("file", CARRIERS, ids=named)
def test_a_carrier_is_handed_no_frame(file: Path) -> None:
    modules = {
        name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    handled = {name.partition(".")[0] for name in modules} & FRAMES
    assert not handled or named(file) in BY_HASH, f"{named(file)} handles {handled}: no carrier"


@pytest.fixture
def digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compute]:
    """Give what computes the hashes of each stage's code, from a copy of src that a test may edit."""
    src = shutil.copytree(SRC, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_hash, "SRC", src)

    def compute() -> Digests:
        code_hash._module.cache_clear()
        return {stage: code_hash.code_hashes(code_hash.closure([src / "stages" / f"{stage}.py"])) for stage in STAGES}

    yield compute
    code_hash._module.cache_clear()


def changed(before: Digests, after: Digests) -> set[str]:
    return {stage for stage in before if before[stage] != after[stage]}


def edit(src: Path, file: str, old: str, new: str) -> None:
    text = (src / file).read_text()
    assert old in text, f"{file} does not say {old!r} any more"
    (src / file).write_text(text.replace(old, new, 1))


def test_rewording_a_message_of_a_carrier_changes_no_key(tmp_path: Path, digests: Compute) -> None:
    before = digests()
    for file in CARRIERS:
        path = tmp_path / "src" / file.relative_to(SRC)
        path.write_text(path.read_text() + "\nMESSAGE = 'in other words'\n")
    assert changed(before, digests()) == set()


def test_a_docstring_changes_no_key(tmp_path: Path, digests: Compute) -> None:
    before = digests()
    grid = tmp_path / "src/crashcast/grid.py"
    tree = ast.parse(grid.read_text())
    first = ast.get_docstring(tree, clean=False)
    assert first
    edit(tmp_path / "src", "crashcast/grid.py", first, "Other words.")
    assert changed(before, digests()) == set()


def test_a_parameter_of_train_changes_the_keys_of_no_data_stage(tmp_path: Path, digests: Compute) -> None:
    before = digests()
    edit(tmp_path / "src", "crashcast/params/train.py", "class Train(Section):", "NEW = 1\n\n\nclass Train(Section):")
    assert changed(before, digests()) & {"validate", "clean", "label", "featurize", "split"} == set()
    assert "train" in changed(before, digests())


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("crashcast/grid.py", {"clean", "label", "featurize"}),
        ("crashcast/tables.py", set(STAGES)),
        ("crashcast/execution/task.py", {*STAGES} - {"split"}),
        ("crashcast/labelling/candidate_events.py", {"label"}),
        ("stages/clean.py", {"clean"}),
    ],
)
def test_code_that_can_change_a_result_changes_its_keys(
    tmp_path: Path, digests: Compute, file: str, stages: set[str]
) -> None:
    before = digests()
    path = tmp_path / "src" / file
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    assert changed(before, digests()) == stages
