"""Raw data under DVC's control."""

from __future__ import annotations

from pathlib import Path

from crashcast.errors import UserError

LOCKS = Path(".dvc", "tmp", "rwlock")


def pointer(path: Path) -> Path:
    """Return the .dvc file of a file or folder."""
    return path.with_name(f"{path.name}.dvc")


def track(paths: list[Path]) -> None:
    """Have DVC track files and folders, as `dvc add` does, and stage their .dvc files: this data is meant.

    `validate` accepts what is committed or staged. So only this, and a person's own `git add`, may stage a .dvc file:
    with DVC's core.autostage an edit in place would be staged by `dvc repro --ignore-errors`, and accepted ever after.

    Raises
    ------
    UserError
        With DVC's own message where it cannot: no repository, a path that a stage already writes, a full disk.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if LOCKS.is_file() and LOCKS.stat().st_size == 0:  # a `dvc` killed while it wrote this left it empty
        LOCKS.unlink()
    try:
        with Repo() as repo:
            repo.add([str(path) for path in paths])
            repo.scm.add([str(pointer(path)) for path in paths])
    except DvcException as error:
        raise UserError(f"{', '.join(map(str, paths))} could not be tracked by DVC: {error}") from None


def forget(path: Path) -> None:
    """Remove a file or folder that DVC tracks, and its .dvc file from the next commit; nothing where there is none."""
    from dvc.repo import Repo

    if not pointer(path).exists():
        return
    with Repo() as repo:
        repo.remove(str(pointer(path)), outs=True)
        repo.scm.add([str(pointer(path))])
