"""Each ticket system has one file, and nothing else in the code knows a system by its name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from crashcast.sources.tickets import systems
from crashcast.sources.tickets.systems import NAMES, SYSTEMS

SRC = Path(__file__).parents[5] / "src"
FOLDER = Path(systems.__file__).parent
COMMON_WORDS = {"table", "notes"}  # which mean other things elsewhere
MADE_UP = SRC / "crashcast/sources/demo/simulator.py"  # names the systems that the simulated fleet's incidents are from


def test_the_list_names_every_file() -> None:
    assert sorted(SYSTEMS) == sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in COMMON_WORDS])
def test_only_a_systems_own_file_and_the_list_name_it(name: str) -> None:
    files = [path for path in SRC.rglob("*") if path.suffix in (".py", ".html", ".css") and path != MADE_UP]
    naming = {path.relative_to(SRC) for path in files if name in path.read_text(encoding="utf-8").lower()}
    assert naming == {(FOLDER / end).relative_to(SRC) for end in (f"{name}.py", "__init__.py")}


@pytest.mark.parametrize("name", sorted(COMMON_WORDS))
def test_no_other_code_compares_with_the_name_of_a_system(name: str) -> None:
    files = [*FOLDER.parent.glob("*.py"), SRC / "crashcast/params/tickets.py"]
    for path in files:
        texts = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        assert name not in set(texts), path
