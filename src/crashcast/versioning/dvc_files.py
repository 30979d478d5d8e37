"""The files that DVC writes and reads: dvc.yaml, dvc.lock, .dvc files, and the list of a folder's files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

import yaml

from crashcast import strict_yaml
from crashcast.errors import UserError

LOCK, PIPELINE = "dvc.lock", "dvc.yaml"
NAMING_DATA = ("*.dvc", f"*{LOCK}")  # git's patterns of the files that say by hash which data a commit has
HASH = re.compile(r"[0-9a-f]{32}")  # of a folder, `.dir` follows
OBJECTS = "files/md5"  # DVC 3's folder of objects, in a cache and on a remote
NO_DATA = (".git", ".dvc", ".venv")  # folders in which a file can become code or settings
CONFLICT = re.compile(rb"^(<<<<<<<|=======|>>>>>>>)", re.MULTILINE)


class ConflictError(UserError):
    """A file with the marks of a merge conflict."""


class RefusedListError(UserError):
    """A list of a folder's files that DVC did not write."""


@dataclass(frozen=True)
class Stage:
    """A stage as dvc.yaml declares it; `metrics` are outputs too."""

    command: str
    deps: frozenset[str]
    params: frozenset[str]
    outs: frozenset[str]
    metrics: frozenset[str]

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """Read a stage's section of dvc.yaml."""
        deps, params, outs, metrics, plots = (
            _names(content.get(key, ())) for key in ("deps", "params", "outs", "metrics", "plots")
        )
        return cls(_one_line(content["cmd"]), deps, params, outs | metrics | plots, metrics)


@dataclass(frozen=True)
class Locked:
    """A run of a stage as dvc.lock records it: hashes by path, parameters by file."""

    command: str
    deps: dict[str, str]
    params: dict[str, dict[str, Any]]
    outs: dict[str, str]

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """Read a stage's section of dvc.lock."""
        deps, outs = ({item["path"]: str(item["md5"]) for item in content.get(key) or ()} for key in ("deps", "outs"))
        return cls(_one_line(content["cmd"]), deps, content.get("params") or {}, outs)


def load(content: bytes, name: str) -> dict[str, Any]:
    """Return the sections of a YAML file.

    Parameters
    ----------
    content : bytes
        Of the file.
    name : str
        The file's name in messages.

    Raises
    ------
    ConflictError
        If it holds a merge conflict.
    UserError
        If it is not YAML, or has no named sections.
    """
    if CONFLICT.search(content):
        raise ConflictError(f"{name} holds a merge conflict")
    try:
        held = strict_yaml.parse(content)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name} is unreadable ({' '.join(str(error).split())})") from None
    if not isinstance(held, dict):
        raise UserError(f"{name} is unreadable (it has no named sections)")
    return held


def parse_lock(content: bytes, name: str) -> dict[str, Locked]:
    """Read a dvc.lock, by stage.

    Raises
    ------
    UserError
        If it holds a merge conflict, or cannot be read.
    """
    try:
        return {stage: Locked.of(entry) for stage, entry in load(content, name)["stages"].items()}
    except ConflictError as error:
        raise UserError(f"{error}: take one side, `dvc checkout`, `dvc repro`, and commit the new one") from None
    except UserError as error:
        raise UserError(f"{error}: remove it, and `dvc repro` writes it anew") from None
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{name} is not as DVC writes it: remove it, and `dvc repro` writes it anew") from None


def is_damaged_lock(content: bytes) -> bool:
    """Say whether DVC refuses to read a dvc.lock for another reason than a merge conflict: a kill cut it short."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(load(content, LOCK))
    except ConflictError:
        return False
    except (UserError, Invalid):
        return True
    return False


def read_lock(path: Path = Path(LOCK)) -> dict[str, Locked]:
    """Read the dvc.lock of a work tree, by stage.

    Raises
    ------
    UserError
        If it is missing, and as `parse_lock` does.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run this in the project's root, after `dvc repro`") from None
    return parse_lock(content, str(path))


def outs_of(stages: Mapping[str, Locked]) -> dict[str, str]:
    """Return the hash of every output of these stages."""
    return {path: digest for stage in stages.values() for path, digest in stage.outs.items()}


def pointer(path: Path) -> Path:
    """Return the .dvc file of a file or folder."""
    return path.with_name(f"{path.name}.dvc")


def tracked_hash(content: bytes, path: Path, place: str) -> str:
    """Return the hash that a .dvc file records.

    Parameters
    ----------
    content : bytes
        Of the .dvc file.
    path : Path
        The file or folder that it is about.
    place : str
        Which of its versions this is, in messages.

    Raises
    ------
    UserError
        If it records none.
    """
    name = f"{pointer(path)} {place}"
    try:
        return next(str(out["md5"]) for out in load(content, name)["outs"] if out["path"] == path.name)
    except (UserError, KeyError, TypeError, StopIteration):
        raise UserError(f"{name} records no hash of {path.name}: `dvc add {path}` writes it anew") from None


def members(content: bytes, name: str) -> dict[str, str]:
    """Return the hash of each file of a folder.

    Parameters
    ----------
    content : bytes
        The list of its files: the object whose hash ends in `.dir`, itself checked by that hash.
    name : str
        The folder's name in messages.

    Raises
    ------
    RefusedListError
        If it is no such list, or a name leads out of the folder or to the place of another one: a file would be written
        or linked there.
    """
    try:
        entries = json.loads(content)
        files = {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
        if len(files) < len(entries) or any(len(entry) > 2 for entry in entries):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RefusedListError(f"{name} is refused: the list of its files is not as DVC writes it") from None
    for path, md5 in files.items():
        is_taken = any(str(folder) in files for folder in PurePosixPath(path).parents)
        if leads_out(path) or is_taken or not HASH.fullmatch(md5):
            raise RefusedListError(f"{name} is refused: the list of its files names {path!r}, which no folder holds")
    return files


def leads_out(path: str) -> bool:
    """Tell whether a path, relative to a folder, may lead out of it, or to files of git, DVC or Python."""
    plain = PurePosixPath(path)
    return (
        str(plain) != path
        or not plain.parts
        or plain.is_absolute()
        or "\\" in path
        or not path.isprintable()  # some file systems ignore invisible letters
        or any(part == ".." or part.casefold() in NO_DATA for part in plain.parts)
    )


def object_path(digest: str) -> str:
    """Return an object's path in a cache or on a remote.

    Raises
    ------
    UserError
        If its name is no hash: anybody may have edited the file that it stands in.
    """
    if not HASH.fullmatch(digest.removesuffix(".dir")):
        raise UserError(f"{digest!r} is no hash as DVC records it: was dvc.lock or a .dvc file edited by hand?")
    return f"{OBJECTS}/{digest[:2]}/{digest[2:]}"


def hash_of(content: bytes) -> str:
    """Return the MD5 of a file's content, as DVC records it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def is_of(digest: str, md5: str) -> bool:
    """Tell whether the MD5 of an object's content is the one in its name."""
    return md5 == digest.removesuffix(".dir")


def _one_line(command: str | list[str]) -> str:
    """Return a command of dvc.yaml or dvc.lock, however its lines are broken."""
    return " ".join(" ".join([command] if isinstance(command, str) else command).split())


def _names(items: Any) -> frozenset[str]:
    return frozenset(name for item in items or () for name in ([item] if isinstance(item, str) else item))
