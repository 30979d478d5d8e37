"""What is particular to an algorithm is in its own file: nothing else names its estimator's class."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from crashcast.modeling import algorithms
from crashcast.modeling.algorithms import ALGORITHMS

SRC = Path(__file__).parents[3] / "src"
FOLDER = Path(algorithms.__file__).parent


def classes_named(file: Path) -> set[str]:
    """Every class that a file imports from scikit-learn."""
    return {name for module, name in imported(file) if module.partition(".")[0] == "sklearn" and name[0].isupper()}


def imported(file: Path) -> set[tuple[str, str]]:
    """What a file imports by name, and from which module."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    return {(node.module or "", alias.name) for node in nodes for alias in node.names}


def classes_defined(file: Path) -> set[str]:
    """Every class of a file but its grid."""
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)} - {"Grid"}


def test_each_file_is_listed_under_its_name() -> None:
    files = {file.stem for file in FOLDER.glob("*.py")} - {"__init__", "base"}
    assert {name: module.__name__.rpartition(".")[2] for name, module in ALGORITHMS.items()} == {
        name: name for name in files
    }


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_other_file_names_its_class(name: str) -> None:
    own = classes_named(FOLDER / f"{name}.py") | classes_defined(FOLDER / f"{name}.py")
    assert own
    others = [file for file in SRC.rglob("*.py") if file != FOLDER / f"{name}.py"]
    named = {file.name: {name for _, name in imported(file)} & own for file in others}
    assert {file: shared for file, shared in named.items() if shared} == {}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_other_file_that_fits_models_names_it(name: str) -> None:
    """A name that is compared with is a special case outside the file."""
    folders = SRC / "stages", SRC / "crashcast" / "modeling", SRC / "crashcast" / "annotation"
    texts = {
        file.relative_to(SRC).as_posix()
        for folder in folders
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value == name
    }
    assert texts <= {"crashcast/modeling/algorithms/__init__.py"}
