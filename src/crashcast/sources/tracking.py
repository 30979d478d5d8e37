"""Raw data under DVC's control."""

from __future__ import annotations

from pathlib import Path

from crashcast.errors import UserError


def track(paths: list[Path]) -> None:
    """Have DVC track files and folders, as `dvc add` does; what did not change stays as it was.

    Raises
    ------
    UserError
        With DVC's own message where it cannot: no repository, a path that a stage already writes, a full disk.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            repo.add([str(path) for path in paths])
    except DvcException as error:
        raise UserError(f"{', '.join(map(str, paths))} could not be tracked by DVC: {error}") from None
