"""Repairs from a good copy: the new bytes are hashed before they replace anything, and nothing is deleted.

A file that is replaced goes to `crashcast-damaged`, beside DVC's objects in the cache or on the remote.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crashcast import files
from crashcast.doctor.cache import is_same_file
from crashcast.errors import UserError
from crashcast.text import some_of
from crashcast.versioning.bucket import ASIDE, Bucket
from crashcast.versioning.cache import READ_ONLY, cached, is_whole, root
from crashcast.versioning.dvc_files import is_of
from crashcast.versioning.outputs import Output


@dataclass(frozen=True)
class Stores:
    """Where copies of objects may lie.

    Attributes
    ----------
    bucket : Bucket or None
    files : dict
        By object, the files of the work tree that may hold it.
    """

    bucket: Bucket | None
    files: dict[str, list[Path]]

    def linked(self, md5: str) -> list[Path]:
        """Return the files of the work tree that are the cache's own file."""
        return [path for path in self.files.get(md5, ()) if is_same_file(path, cached(md5))]


def mend_cache(hashes: list[str], stores: Stores) -> str:
    """Replace damaged objects in the cache, and in the work tree the links to them.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    UserError
        If some have no good copy; the others are repaired.
    """
    kept: list[Path] = []
    _each(hashes, lambda md5: _mend_cached(md5, stores, kept))
    shown = some_of([os.path.relpath(path) for path in kept])
    return f"brought back from a good copy; the damaged files are kept: {shown}"


def _mend_cached(md5: str, stores: Stores, kept: list[Path]) -> None:
    target, linked = cached(md5), stores.linked(md5)
    if is_whole(target, md5):  # another output holds it too
        return
    with files.replacing(target) as aside:
        _bring(md5, stores, aside)
        if not is_whole(aside, md5):
            raise UserError(f"{md5} did not come over whole: run this again")
        aside.chmod(READ_ONLY)
        if target.exists():
            kept.append(_keep(target))
    for path in linked:
        with files.replacing(path) as aside:
            files.link(target, aside)


def _bring(md5: str, stores: Stores, aside: Path) -> None:
    for path in stores.files.get(md5, ()):
        if not is_same_file(path, cached(md5)) and is_whole(path, md5):
            shutil.copyfile(path, aside)
            return
    bucket = stores.bucket
    if bucket is None:
        raise UserError(f"{md5}: no whole copy in the work tree, and the remote was not looked at")
    if not (bucket.download(md5, aside) or (bucket.restore_version(md5) and bucket.download(md5, aside))):
        raise UserError(f"{md5}: no whole copy in the work tree or on the remote; a clone that has it can `dvc push`")


def _keep(damaged: Path) -> Path:
    """Give a file that is about to be replaced a second name."""
    folder, name = root() / ASIDE, damaged.parent.name + damaged.name
    for number in itertools.count(1):
        try:
            files.link(damaged, path := folder / f"{name}.{number}")
        except FileExistsError:
            continue
        return path
    raise AssertionError


def mend_remote(hashes: list[str], stores: Stores) -> str:
    """Put objects on the remote that are missing or damaged there, from the cache, the work tree or an older version.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    UserError
        If some have no good copy, or the server does not keep them; the others are repaired.
    """
    # a folder's list last: if it is there, DVC takes the files to be there too
    _each(sorted(hashes, key=lambda md5: md5.endswith(".dir")), lambda md5: _mend_stored(md5, stores))
    return "put there from a good copy, and read back"


def _mend_stored(md5: str, stores: Stores) -> None:
    assert stores.bucket is not None
    if md5 in stores.bucket.stored([md5]) and is_of(md5, stores.bucket.hash_of(md5)):
        return  # another output holds it too
    copies = [cached(md5), *stores.files.get(md5, ())]
    whole = next((path for path in copies if is_whole(path, md5)), None)
    if whole:
        stores.bucket.upload(md5, whole)
    elif not stores.bucket.restore_version(md5):
        raise UserError(
            f"{md5}: no whole copy in the cache or the work tree, nor an older version on the remote; a clone that has "
            "it can run this, or `dvc repro --force` its stage"
        )


def rebuild_list(output: Output, bucket: Bucket | None) -> str:
    """Write the list of a folder's files anew from the folder in the work tree, or bring back an older version.

    Raises
    ------
    UserError
        If neither has the hash that the commit names.
    """
    if bucket and bucket.restore_version(output.md5):
        return "an older version on the remote is current again"
    folder, target = Path(output.path), cached(output.md5)
    with files.replacing(target) as aside:
        aside.write_text(files.folder_list(files.md5s(folder)), encoding="utf-8")
        if not is_whole(aside, output.md5):
            raise UserError("the folder in the work tree is another version")
        aside.chmod(READ_ONLY)
        if target.exists():
            _keep(target)
    return "written anew from the folder in the work tree"


def _each(hashes: list[str], mend: Callable[[str], None]) -> None:
    problems: list[str] = []
    for md5 in hashes:
        try:
            mend(md5)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(some_of(problems))
