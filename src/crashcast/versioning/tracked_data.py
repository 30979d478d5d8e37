"""Raw data that DVC tracks, and that must be what its .dvc file says, as committed or as staged.

`dvc repro` takes edited raw data for the new truth: it rewrites the .dvc file in the work tree before the first stage
runs. Git's index is what somebody accepted, so the index is what data is compared with.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from crashcast import files
from crashcast.errors import UserError
from crashcast.versioning import dvc_command, git
from crashcast.versioning.dvc_files import pointer, tracked_hash

SHOWN_DIGITS = 8
HALF_LINKED = f".{'?' * 22}.tmp"  # that DVC leaves on a full disk


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
        If data differs or is missing, its .dvc file is in neither commit nor index, or there is no git repository.
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
    dvc_file = pointer(path)
    accept = f"dvc add {path} && git add {dvc_file}"
    tracked = git.file(revision, dvc_file.as_posix())  # an empty revision is the index
    if tracked is None:
        return f"{path}: git does not have {dvc_file}, so nobody has accepted this data.\n  To accept it: {accept}"
    accepted = tracked_hash(tracked, path, "in git")
    found = files.md5(path)
    if found == accepted:
        return None
    return (
        f"{path} is not the data that git {'has committed' if revision else 'knows'}: "
        f"its hash is {_shorten(found)}, {dvc_file} says {_shorten(accepted)}.\n"
        f"  To restore it: git restore {dvc_file} && dvc checkout {path}\n"
        f"  To accept it: {accept}"
    )


def _shorten(digest: str) -> str:
    return digest[:SHOWN_DIGITS] + (".dir" if digest.endswith(".dir") else "")


def track(paths: list[Path]) -> None:
    """Have DVC track files and folders, as `dvc add` does, and stage their .dvc files: this data is accepted.

    `validate` accepts what is committed or staged. So only this, and a person's own `git add`, may stage a .dvc file:
    with DVC's core.autostage an edit in place would be staged by `dvc repro --ignore-errors`, and accepted ever after.

    Raises
    ------
    UserError
        With DVC's own message if it cannot: no repository, a path that a stage already writes, a full disk.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    locks = dvc_command.PATH_LOCKS
    if locks.is_file() and locks.stat().st_size == 0:  # a `dvc` that was killed while it wrote them left it empty
        locks.unlink()
    try:
        with Repo() as repo:
            repo.scm_context.quiet = True  # else DVC asks for the `git add` below
            repo.add([str(path) for path in paths])
        git.run("add", "--", *(str(pointer(path)) for path in paths))
    except DvcException as error:
        raise UserError(f"{', '.join(map(str, paths))} could not be tracked by DVC: {error}") from None
    except OSError:
        for half in (half for path in paths for half in path.parent.glob(HALF_LINKED)):
            half.unlink()
        raise


def forget(path: Path) -> None:
    """Remove a file or folder that DVC tracks, and its .dvc file from the next commit; nothing if there is none."""
    from dvc.repo import Repo

    if not pointer(path).exists():
        return
    with Repo() as repo:
        repo.remove(str(pointer(path)), outs=True)
    git.run("rm", "--cached", "--quiet", "--ignore-unmatch", "--", str(pointer(path)))
