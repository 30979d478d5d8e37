"""What dvc.lock records: of each stage, what its last run read and wrote, by hash."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from crashcast import strict_yaml
from crashcast.errors import UserError

LOCK = "dvc.lock"
CONFLICT = re.compile(rb"^(<<<<<<<|=======|>>>>>>>)", re.MULTILINE)


@dataclass(frozen=True)
class Locked:
    """A run of a stage: hashes by path, parameters by file."""

    command: str
    deps: dict[str, str]
    params: dict[str, dict[str, Any]]
    outs: dict[str, str]

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """Read what dvc.lock says of one stage."""
        deps, outs = ({item["path"]: str(item["md5"]) for item in content.get(key) or ()} for key in ("deps", "outs"))
        return cls(one_line(content["cmd"]), deps, content.get("params") or {}, outs)


def parse(content: bytes, where: str) -> dict[str, Locked]:
    """Read a dvc.lock, by stage.

    Parameters
    ----------
    content : bytes
        Of the file.
    where : str
        Its name in messages.

    Raises
    ------
    UserError
        Where it holds a merge conflict, or cannot be read.
    """
    if CONFLICT.search(content):
        raise UserError(
            f"{where} holds a merge conflict: take one side, `dvc checkout`, `dvc repro`, and commit what it writes"
        )
    try:
        return {name: Locked.of(entry) for name, entry in strict_yaml.parse(content)["stages"].items()}
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) if isinstance(error, yaml.YAMLError) else "it is not as DVC writes it"
        raise UserError(f"{where} is unreadable ({reason}): `dvc repro` writes it anew") from None


def read(path: Path = Path(LOCK)) -> dict[str, Locked]:
    """Read the dvc.lock of a work tree, by stage.

    Raises
    ------
    UserError
        Where there is none, and as of `parse`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run this in the project's root, after `dvc repro`") from None
    return parse(content, str(path))


def outs_of(stages: Mapping[str, Locked]) -> dict[str, str]:
    """Return the hash of everything that these stages wrote."""
    return {path: digest for stage in stages.values() for path, digest in stage.outs.items()}


def one_line(command: str | list[str]) -> str:
    """Return a command as dvc.yaml and dvc.lock have it, however its lines are broken."""
    return " ".join(" ".join([command] if isinstance(command, str) else command).split())
