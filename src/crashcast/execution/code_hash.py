"""The code that a result depends on: a module, what it imports, and so on, as far as that can change a result.

Modules in `CARRIERS` transport, schedule, store or report results and cannot change one. They are part of no key of the
memo and no dependency in dvc.yaml, so that editing one makes nothing stale.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SRC = Path(__file__).parents[2]
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml"}  # of modules that are not called like their package
# A name stands for a module or for all of a package. tests/code/execution/test_carriers.py says what may be here.
CARRIERS = (
    "crashcast.__init__",
    "crashcast.console",
    "crashcast.crash_groups",
    "crashcast.errors",
    "crashcast.execution.cluster",
    "crashcast.execution.code_hash",
    "crashcast.execution.file_hashes",
    "crashcast.execution.input_guard",
    "crashcast.execution.memo",
    "crashcast.execution.runner",
    "crashcast.execution.orphan_guard",
    "crashcast.files",
    "crashcast.params.every_section",
    "crashcast.params.execution",
    "crashcast.progress",
    "crashcast.run_record",
    "crashcast.text",
    "crashcast.versioning",
    "run",
)
# libraries that do the same
CARRIER_LIBRARIES = {"botocore", "dask", "distributed", "dvc", "fsspec", "psutil", "rich"}
MISSING = "missing"


def closure(files: Iterable[Path], with_carriers: bool = False) -> set[Path]:
    """Return the files and everything of this project that they import, directly or not.

    Parameters
    ----------
    files : iterable of Path
    with_carriers : bool
        Whether to follow imports of modules that cannot change a result, and of packages' docstrings.
    """
    seen: set[Path] = set()
    waiting = set(files)
    while waiting:
        file = waiting.pop()
        seen.add(file)
        found = {path for name in _module(file).imports if (path := _file_of(name))}
        waiting |= {path for path in found if with_carriers or not (is_carrier(path) or is_empty(path))} - seen
    return seen


def is_carrier(file: Path) -> bool:
    """Say whether a file of this project cannot change a result."""
    module = ".".join(file.relative_to(SRC).with_suffix("").parts)
    return any(module == name or module.startswith(f"{name}.") for name in CARRIERS)


@cache
def digest(module: str, with_carriers: bool = False) -> str:
    """Return a hash of the code that a module's functions can run, and of the versions of what it runs on."""
    return hashlib.sha256(json.dumps(contents(module, with_carriers), sort_keys=True).encode()).hexdigest()


def contents(module: str, with_carriers: bool = False) -> dict[str, str]:
    """Return what a module's functions can run and run on: the hash of each file, the version of each library.

    Comments, docstrings and line breaks do not count, nor does the folder that the project lies in.

    Raises
    ------
    ModuleNotFoundError
        If there is no such module.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {module}", name=module)
    files = closure([Path(spec.origin)], with_carriers)
    return {
        **code_hashes(files),
        **{library: _version(library) for library in _libraries(files)},
        sys.implementation.name: sys.version,
        "machine": f"{platform.system()} {platform.machine()}",  # others round otherwise
    }


def code_hashes(files: Iterable[Path]) -> dict[str, str]:
    """Return a hash of each file's code, without its docstrings."""
    return {_name(file): _module(file).sha256 for file in files}


def differences(here: dict[str, str], there: dict[str, str]) -> list[str]:
    """Name the differences between this machine's `contents` and another one's."""
    found = []
    for name in sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name)):
        if name.endswith(".py"):
            found.append(f"{name} {'differs' if name in here and name in there else 'is in one place only'}")
        else:
            found.append(f"{name} is {there.get(name, MISSING)} instead of {here.get(name, MISSING)}")
    return found


def _name(file: Path) -> str:
    return file.relative_to(SRC).as_posix() if file.is_relative_to(SRC) else file.name


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return MISSING


def _libraries(files: Iterable[Path]) -> set[str]:
    modules = {name.partition(".")[0] for file in files for name in _module(file).imports}
    own = {module for module in modules if _file_of(module) or (SRC / module).is_dir()}
    return {DISTRIBUTIONS.get(module, module) for module in modules - own - CARRIER_LIBRARIES - sys.stdlib_module_names}


class _Module(NamedTuple):
    """What is asked of a file's code: the modules and names that it imports, its hash, whether it has any."""

    imports: frozenset[str]
    sha256: str
    is_empty: bool


@cache
def _module(file: Path) -> _Module:
    tree = ast.parse(file.read_bytes())
    is_empty = tree.body[1:] == []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise ValueError(f"{file}: relative import")
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    imports = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    return _Module(frozenset(imports), hashlib.sha256(_code(tree).encode()).hexdigest(), is_empty)


def code(source: bytes) -> str:
    """Return the syntax tree of a file's content, without docstrings."""
    return _code(ast.parse(source))


def _code(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            del node.body[0]
    return ast.dump(tree)


def is_empty(file: Path) -> bool:
    """Say whether a file holds nothing but a docstring."""
    return _module(file).is_empty


def _file_of(module: str) -> Path | None:
    path = SRC.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
