"""Raw data against git: it must be what its .dvc file says, as committed or as staged.

`dvc repro` takes edited raw data for the new truth: it rewrites the .dvc file in the work tree before the first stage
runs. Git's index is what somebody accepted, so the index is what data is compared with.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import yaml

from crashcast import files
from crashcast.errors import UserError
from crashcast.versioning import git

SHOWN_DIGITS = 8


def check_tracked(paths: Iterable[Path]) -> None:
    """Refuse data that differs from its .dvc file in git's index; in an experiment, from the one committed.

    `dvc exp run` stages whatever it finds in the work tree, so there only a commit says what was accepted.

    Parameters
    ----------
    paths : iterable of Path
        Files and folders tracked with `dvc add`, relative to the project's root, where this must run.

    Raises
    ------
    UserError
        Where data differs or is missing, its .dvc file is in neither commit nor index, or there is no git repository.
    """
    git.run("rev-parse", "--git-dir")  # says what is wrong with the repository before anything about data
    in_experiment = "DVC_EXP_BASELINE_REV" in os.environ
    problems = [problem for path in paths if (problem := _compare(path, "HEAD" if in_experiment else ""))]
    if problems and in_experiment:
        problems.append("An experiment counts only what is committed: `git commit` the .dvc files first.")
    if problems:
        raise UserError("\n".join(problems))


def _compare(path: Path, revision: str) -> str | None:
    if not path.exists():
        return f"{path} is missing: `dvc pull` brings it"
    pointer = f"{path}.dvc"
    accept = f"dvc add {path} && git add {pointer}"
    tracked = git.file(revision, Path(pointer).as_posix())  # an empty revision is the index
    if tracked is None:
        return f"{path}: git does not have {pointer}, so nobody has accepted this data.\n  To accept it: {accept}"
    accepted = _recorded_hash(pointer, tracked, path.name)
    found = files.md5(path)
    if found == accepted:
        return None
    return (
        f"{path} is not the data that git {'has committed' if revision else 'knows'}: "
        f"its hash is {_shorten(found)}, {pointer} says {_shorten(accepted)}.\n"
        f"  To restore it: git restore {pointer} && dvc checkout {path}\n"
        f"  To accept it: {accept}"
    )


def _recorded_hash(pointer: str, content: bytes, name: str) -> str:
    try:
        return next(str(out["md5"]) for out in yaml.safe_load(content)["outs"] if out["path"] == name)
    except (yaml.YAMLError, KeyError, TypeError, StopIteration):
        raise UserError(f"{pointer} in git records no hash of {name}: write it anew with `dvc add`") from None


def _shorten(digest: str) -> str:
    return digest[:SHOWN_DIGITS] + (".dir" if digest.endswith(".dir") else "")
