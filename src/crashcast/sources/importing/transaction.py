"""New raw data as a transaction: files are prepared in a folder of their own, then moved into place, all or none.

The folder is named after the process. If the process is killed while it moves files, the next import or collection puts
the old ones back.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from crashcast.errors import UserError
from crashcast.files import is_another_running, link, refuse_committed_links, replacing
from crashcast.params.base import PATH
from crashcast.paths import DEMO_TRUTH, RAW, TABLES, TICKETS_PATH
from crashcast.versioning import commit_limits

# in the folder of an import: replaced files, marks of files that did not exist before, and the .dvc files
BEFORE, NOTHING, TRACKING = "before", ".nothing", "tracking"


@contextmanager
def workspace() -> Iterator[Path]:
    """Give a folder beside data/raw for the files of this import; it is removed at the end."""
    folder = RAW.parent / f".import.{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recover() -> None:
    """Put back what a killed import had moved.

    Raises
    ------
    UserError
        If another import is running, or a commit made what looks like a killed one, or a link of data.
    """
    refuse_committed_links(TABLES[0])
    if folders := [*RAW.parent.glob(".import.*")]:
        commit_limits.check_places()
    for folder in folders:
        if is_another_running(int(folder.suffix[1:])):
            raise UserError(f"another import is running (process {folder.suffix[1:]}): wait until it is done")
        if (folder / BEFORE).exists():
            print("putting back what a killed import had moved", file=sys.stderr)
            _put_back(folder)
        shutil.rmtree(folder)


@contextmanager
def exchanged(paths: Sequence[Path], folder: Path) -> Iterator[None]:
    """Move new files from the workspace into place; put the old ones back if that, or the body, fails or is killed."""
    (folder / TRACKING).mkdir()
    for path in _tracking_files():
        shutil.copy2(path, folder / TRACKING)
    (folder / BEFORE).mkdir()  # from here on there is something to put back
    with ExitStack() as undo:
        undo.callback(_put_back, folder)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                os.replace(path, folder / BEFORE / path.name)
            else:
                (folder / BEFORE / f"{path.name}{NOTHING}").touch()
            os.replace(folder / path.name, path)
        yield
        undo.pop_all()
    _settle(folder)


def _tracking_files() -> list[Path]:
    return [*RAW.glob("*.dvc"), *RAW.glob(".gitignore")]


def _put_back(folder: Path) -> None:
    # killed in the middle, it can be done again
    for path in (*TABLES, TICKETS_PATH, DEMO_TRUTH, PATH):
        old = folder / BEFORE / path.name
        if old.exists() or (folder / BEFORE / f"{path.name}{NOTHING}").exists():
            _remove(path)
        if old.exists():
            os.replace(old, path)
    for path in _tracking_files():
        if not (folder / TRACKING / path.name).exists():
            path.unlink()
    for path in (folder / TRACKING).iterdir():
        with replacing(RAW / path.name) as aside:
            link(path, aside)  # a copy would need room, which a full disk does not have
    _settle(folder)


def _settle(folder: Path) -> None:
    os.replace(folder / BEFORE, folder / f"{BEFORE}.done")  # in one step: nothing is to be put back any more


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
