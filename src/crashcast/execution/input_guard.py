"""A stage whose inputs are edited while it runs must fail.

DVC hashes a stage's dependencies after its command has ended: edited in between, dvc.lock would record the new data or
code beside results of the old, and call that up to date (dvc#11058).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crashcast import strict_yaml
from crashcast.errors import UserError
from crashcast.files import Signature, signature

PIPELINE, PARAMS = Path("dvc.yaml"), Path("params.yaml")
BYTECODE = "__pycache__"  # which Python writes while a stage runs, and which .dvcignore keeps DVC from hashing
Signatures = dict[Path, Signature]


@contextmanager
def unedited(stage: str) -> Iterator[None]:
    """Run something while nothing that dvc.yaml declares for a stage may change: data, code, parameters.

    Raises
    ------
    UserError
        If a file has another inode, time or size at the end.
    """
    declared = _declared(stage)
    before = _signatures(declared)
    yield
    after = _signatures(declared)
    edited = sorted(path.as_posix() for path in before | after if before.get(path) != after.get(path))
    if edited:
        shown = ", ".join(edited[:3]) + (f" and {len(edited) - 3} more" if len(edited) > 3 else "")
        raise UserError(f"{shown} changed while the stage was running; its results fit neither: run `dvc repro` again")


def _declared(stage: str) -> list[Path]:
    if not PIPELINE.is_file():  # run by hand, outside a project
        return []
    stages = strict_yaml.parse(PIPELINE.read_text(encoding="utf-8"))["stages"]
    return [PARAMS, *map(Path, stages.get(stage, {}).get("deps", []))]


def _signatures(declared: list[Path]) -> Signatures:
    found: Signatures = {}
    for path in declared:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file() and BYTECODE not in file.parts:
                found[file] = signature(file)
    return found
