"""`dvc pull`, once it is sure that every file which it would write lies in the project's own folders.

DVC takes each name in dvc.lock, .dvc files and the lists of folders' files as it stands, so one can lead anywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from crashcast.errors import UserError
from crashcast.text import some_of
from crashcast.versioning import cache, commit_limits, dvc_command, dvc_files, git, remote

if TYPE_CHECKING:
    from dvc.output import Output

CODE = "src"  # Python looks for modules there first


def pull(targets: Sequence[str] = ()) -> int:
    """Bring data and models from DVC's remote into the work tree.

    Parameters
    ----------
    targets : sequence of str
        As `dvc pull` takes them; by default everything.

    Returns
    -------
    int
        An exit status: that of `dvc pull`, or 1 if the list of a folder's files is nowhere.

    Raises
    ------
    UserError
        If anything would be written elsewhere than in a folder of data, before DVC writes a byte.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.index import index_from_targets

    commit_limits.check_places()
    cache.shared_root()  # refuses one that came with a commit
    remote.check()
    try:
        dvc_command.forget_files()
        with Repo() as repo:
            outputs = {_checked(out): out for out in index_from_targets(repo, list(targets)).outs if out.use_cache}
    except DvcException as error:
        raise UserError(f"nothing was pulled: {error}") from None
    tracked = {path.casefold() for path in git.modes()}
    lists = {path: out.hash_info.value for path, out in outputs.items() if out.hash_info.isdir}
    lost = cache.bring(lists.values(), "the lists of folders' files")
    for path in outputs:
        members = cache.members(lists[path], path) if path in lists and lists[path] not in lost else [""]
        for name in members:
            _check_place(PurePosixPath(path, name), tracked)
    # a list that comes to the remote in this moment would be pulled without a check
    absent = [path for path, digest in lists.items() if digest in lost]
    found = [path for path in outputs if path not in absent]
    status = dvc_command.run("pull", "--", *(found if absent else targets)) if found or not absent else 0
    if absent or status:
        missing = f": {some_of(absent)}" if absent else ""
        print(
            "The remote answers; cache files that are missing were never pushed to it: run 'make push' where they were "
            f"made{missing}.",
            file=sys.stderr,
        )
    return status or bool(absent)


def _checked(output: Output) -> str:
    """Return the path of an output, if it is one of data in the project."""
    path = Path(os.path.relpath(output.fs_path)).as_posix()
    where, digest = f"{path}, in {output.stage.relpath},", output.hash_info.value
    is_local = output.protocol == "local" and path.partition("/")[0].casefold() != CODE
    if not is_local or dvc_files.leads_out(path):
        raise UserError(f"{where} is refused: no data belongs there")
    if output.stage.is_import and (output.stage.is_repo_import or not digest):
        raise UserError(f"{where} comes from elsewhere than DVC's remote, unchecked: `dvc pull {path}` if you trust it")
    if digest and (output.hash_name != "md5" or output.files):
        raise UserError(f"{where} is refused: no MD5 as DVC 3 records it; `dvc commit {path}` writes one")
    if digest:
        dvc_files.object_path(digest)
    return path


def _check_place(path: PurePosixPath, tracked: set[str]) -> None:
    """Refuse a file that would replace one of git's, or be written through a link of a commit."""
    if taken := next((str(p) for p in (path, *path.parents) if str(p).casefold() in tracked), None):
        raise UserError(f"{path} is refused: git tracks {taken}, so data would be written over it or through it")
