"""Files whose bytes depend on their content alone: JSON, text and DVC's hashes."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIGNIFICANT_DIGITS = 6  # what a reader can use; later ones differ between CPU types


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, and move it into place only on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with a final newline, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text.rstrip("\n") + "\n", encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and rounded, finite numbers.

    Raises
    ------
    ValueError
        Where a number is NaN or infinite: `dvc metrics diff` would pass over it.
    """
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as canonical JSON (see `write_json`)."""
    return json.dumps(_canonical(value, "$"), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)


def _canonical(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "item"):  # numpy scalars
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: only finite numbers can be compared between commits")
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return value


def md5(path: Path) -> str:
    """Return the MD5 of a file, as DVC records it; of a folder, DVC's `.dir` hash.

    Source: dvc-data, `hashfile/tree.py`: the MD5 of the JSON list of members sorted by path.
    """
    if path.is_dir():
        members = [
            {"md5": md5(member), "relpath": member.relative_to(path).as_posix()}
            for member in path.rglob("*")
            if member.is_file() and not _is_ignored(member.relative_to(path))
        ]
        listing = json.dumps(sorted(members, key=lambda member: member["relpath"]), sort_keys=True)
        return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is_ignored(relative: Path) -> bool:
    # .dvcignore keeps these out of what DVC hashes
    return any(part == "__pycache__" or part.startswith(".") for part in relative.parts)
