"""The model that dvc.lock names, and no other: for whatever loads one outside the pipeline.

A stage gets its model from DVC, and the review checks each file against the hash of its commit. A folder of a work tree
may have been filled by anybody.
"""

from __future__ import annotations

from pathlib import Path

from crashcast.errors import UserError
from crashcast.files import md5
from crashcast.modeling import model
from crashcast.modeling.model import Model
from crashcast.versioning import dvc_files


def load(folder: Path = Path("models"), lock: Path = Path(dvc_files.LOCK)) -> Model:
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
        Where dvc.lock cannot be read, has no hash of it, or another one; or `crashcast.modeling.model.load` refuses it.
    """
    locked = dvc_files.outs_of(dvc_files.read(lock)).get(folder.as_posix())
    if locked is None:
        raise UserError(f"{lock} names no {folder}: only a model that the pipeline made is loaded")
    found = md5(folder) if folder.is_dir() else "nothing"
    if found != locked:
        raise UserError(
            f"{folder} is refused: its hash is {found}, {lock} names {locked}. "
            f"`dvc checkout {folder}` brings that one, `dvc repro` makes a new one"
        )
    return model.load(folder)
