"""The model that dvc.lock names, and no other: for whatever loads one outside the pipeline.

A stage gets its model from DVC, and the review checks each file against the hash of its commit. A folder of a work tree
may have been filled by anybody.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from crashcast.canonical import md5
from crashcast.errors import UserError
from crashcast.modeling import model
from crashcast.modeling.model import Model

LOCK = Path("dvc.lock")


def load(folder: Path = Path("models"), lock: Path = LOCK) -> Model:
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
        Where dvc.lock has no hash of it, or another one; or the model is refused by `crashcast.modeling.model.load`.
    """
    locked, found = _locked(folder, lock), md5(folder) if folder.is_dir() else "nothing"
    if found != locked:
        raise UserError(
            f"{folder} is refused: its hash is {found}, {lock} names {locked}. "
            f"`dvc checkout {folder}` brings that one, `dvc repro` makes a new one"
        )
    return model.load(folder)


def _locked(folder: Path, lock: Path) -> str:
    try:
        stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"].values()
        return next(str(out["md5"]) for stage in stages for out in stage["outs"] if out["path"] == folder.as_posix())
    except FileNotFoundError:
        raise UserError(
            f"{lock} is missing, so nothing says which model belongs here: run this in the project"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        raise UserError(f"{lock} is unreadable (a merge conflict?): `dvc repro` writes it anew") from None
    except StopIteration:
        raise UserError(f"{lock} names no {folder}: only a model that the pipeline made is loaded") from None
