"""Files whose bytes depend on their content alone: JSON, text and DVC's hashes."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

SIGNIFICANT_DIGITS = 6  # what a reader can use; later ones differ between CPU types


class Signature(NamedTuple):
    """What changes when a file is changed."""

    device: int
    inode: int
    changed_ns: int
    size_bytes: int


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, and move it into place only on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(path)
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill, and put it in its place only on success."""
    aside = _beside(path)
    before = aside.with_name(f".{path.name}.before.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        yield aside
        if path.exists():
            os.replace(path, before)
        try:
            os.replace(aside, path)
        except OSError:
            if before.exists():
                os.replace(before, path)
            raise
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _beside(path: Path) -> Path:
    """Return a path beside `path` for this process alone, and remove what killed ones left there."""
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*"):
        owner = aside.name.rpartition(".")[2]
        if owner.isdigit() and not _is_another_running(int(owner)):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}")


def _is_another_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return process != os.getpid()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with a final newline, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text.rstrip("\n") + "\n", encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, digits: int = SIGNIFICANT_DIGITS) -> None:
    """Write JSON with sorted keys and finite numbers of so many significant digits; 17 keep every bit.

    Raises
    ------
    ValueError
        Where a number is NaN or infinite: `dvc metrics diff` would pass over it.
    """
    write_text(path, json_text(value, digits))


def json_text(value: Any, digits: int = SIGNIFICANT_DIGITS) -> str:
    """Return `value` as canonical JSON (see `write_json`)."""
    return json.dumps(_canonical(value, digits, "$"), sort_keys=True, indent=2, ensure_ascii=False)


def _canonical(value: Any, digits: int, where: str) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item, digits, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, digits, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "item"):  # numpy scalars
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: only finite numbers can be compared between commits")
        return float(f"{value:.{digits}g}")
    return value


def signature(path: Path) -> Signature:
    """Return what changes when a file is changed; its bytes are not read."""
    status = path.stat()
    return Signature(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_ignored(relative: Path) -> bool:
    # .dvcignore keeps these out of what DVC hashes
    return relative.suffix == ".pyc" or any(part == "__pycache__" or part.startswith(".") for part in relative.parts)
