"""The model of a commit: the one whose bytes its dvc.lock names, and no other.

A stage gets its model from DVC, and the review checks each file against the hash of its commit. Anybody may have filled
a folder of a work tree, so a program outside the pipeline loads a model with `load`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crashcast import files
from crashcast.errors import UserError
from crashcast.execution import code_hash
from crashcast.execution.code_hash import SRC
from crashcast.versioning import dvc_files
from crashcast.versioning.cache import locate, members
from crashcast.versioning.revision import MODELS, Revision

if TYPE_CHECKING:
    from crashcast.modeling.model import Model

CARD = "card.md"


def files_of(revision: Revision, model: str = "") -> dict[str, str]:
    """Return the hash of each file of a commit's model, or of another one that its code made."""
    return members(model or revision.outs[MODELS], f"the model of commit {revision.name}")


def is_same(one: Revision, other: Revision) -> bool:
    """Tell whether two commits have the same model, whatever its card says of how it was chosen, and what it beats."""
    from crashcast.modeling import baselines

    beside = {CARD, baselines.FILE}
    model, another = ({name: md5 for name, md5 in files_of(r).items() if name not in beside} for r in (one, other))
    return model == another


def describe(revision: Revision, model: str = "") -> dict[str, Any]:
    """Return what model.json says of a commit's model, or of another one that its code made."""
    file = locate(files_of(revision, model)["model.json"], f"the model of commit {revision.name}")
    described: dict[str, Any] = json.loads(file.read_bytes())
    return described


def differing_code(revision: Revision, files: Iterable[Path]) -> list[str]:
    """Name the files whose code is not the same here and in a commit, of these and all that they import.

    Comments and docstrings do not count.
    """
    here = {path.relative_to(SRC.parent).as_posix(): path for path in code_hash.closure(files)}
    return sorted(
        name
        for name, path in here.items()
        if (there := revision.find_file(name)) != (content := path.read_bytes())
        and (there is None or code_hash.code(there) != code_hash.code(content))
    )


def load(folder: Path = Path(MODELS), lock: Path = Path(dvc_files.LOCK)) -> Model:
    """Read a model whose bytes are those of the last run; before that is sure, no byte of it is interpreted.

    Parameters
    ----------
    folder : Path
        As dvc.lock names it.
    lock : Path
        Of the project, or of the commit that the model belongs to.

    Raises
    ------
    UserError
        If dvc.lock cannot be read, has no hash of it, or another one; or `crashcast.modeling.model.load` refuses it.
    """
    locked = dvc_files.outs_of(dvc_files.read_lock(lock)).get(folder.as_posix())
    if locked is None:
        raise UserError(f"{lock} names no {folder}: only a model that the pipeline made is loaded")
    found = files.md5(folder) if folder.is_dir() else "nothing"
    if found != locked:
        raise UserError(
            f"{folder} is refused: its hash is {found}, {lock} names {locked}. "
            f"`dvc checkout {folder}` brings that one, `dvc repro` makes a new one"
        )
    from crashcast.modeling import model

    return model.load(folder)
