"""Files: atomic writes, locks, hard links, and hashes as DVC computes them. Their content comes from the caller."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from crashcast.errors import UserError

CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)  # what a file system without hard links says


class Signature(NamedTuple):
    """What changes when a file is changed."""

    device: int
    inode: int
    changed_ns: int
    size_bytes: int


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and move it to `path` only on success."""
    refuse_committed_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(path)
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.errno:  # polars' errors have words instead, which a name would hide
            error.filename = error.filename or str(path)  # of a full disk, the system does not say which file it was
        raise
    finally:
        aside.unlink(missing_ok=True)


def create(path: Path, content: bytes) -> bool:
    """Write a new file, whole or not at all even if the power fails; return False if there is one, which stays."""
    refuse_committed_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(path)
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return _link_new(aside, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


def _link_new(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)  # fails if there is one, which a rename does not
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        if target.exists():
            return False
        os.replace(source, target)
    return True


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill, and move it to `path` only on success."""
    refuse_committed_links(path)
    aside = _beside(path)
    before = aside.with_name(f".{path.name}.before.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        yield aside
        if path.exists():
            os.replace(path, before)
        try:
            os.replace(aside, path)
        except OSError:
            if before.exists():
                os.replace(before, path)
            raise
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def held_alone(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file for as long as the block runs; the kernel releases it, however the process ends.

    Raises
    ------
    UserError
        With the text of `refusal` if another process holds it.
    """
    refuse_committed_links(lock)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(refusal) from None
        yield


def refuse_committed_links(path: Path) -> None:
    """Refuse to write through a symbolic link of a commit, which could lead anywhere; a user's own link is followed.

    Raises
    ------
    UserError
        Naming the link.
    """
    for folder in filter(Path.is_symlink, path.parents):
        if _is_committed(folder.absolute()):
            raise UserError(f"{path} is not written: {folder} is a symbolic link in git, to {folder.readlink()}")


@cache
def _is_committed(path: Path) -> bool:
    from crashcast.versioning import git

    return bool(git.run("ls-files", "-z", "--", path.name, folder=path.parent, expected=(0, 128)).entries)


def link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy if the file system cannot link; missing folders are made."""
    refuse_committed_links(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        shutil.copyfile(source, target)


def _beside(path: Path) -> Path:
    """Return a path beside `path` for this process alone, and remove leftovers of killed processes."""
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*"):
        owner = aside.name.rpartition(".")[2]
        if owner.isdigit() and not is_another_running(int(owner)):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}")


def is_another_running(process: int) -> bool:
    """Tell whether a process with this id runs, other than this one."""
    try:
        os.kill(process, 0)  # asks, sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return process != os.getpid()


def signature(path: Path) -> Signature:
    """Return what changes when a file is changed; its bytes are not read."""
    status = path.stat()
    return Signature(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def md5(path: Path) -> str:
    """Return the MD5 of a file, as DVC records it; of a folder, DVC's `.dir` hash.

    Source: dvc-data, `hashfile/tree.py`.
    """
    if path.is_dir():
        return hashlib.md5(folder_list(md5s(path)).encode(), usedforsecurity=False).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5s(folder: Path) -> dict[str, str]:
    """Return the MD5 of each file of a folder that DVC would track, by its path in the folder."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {name.as_posix(): md5(folder / name) for name in names if not _is_ignored(name)}


def folder_list(contents: Mapping[str, str]) -> str:
    """Return DVC's list of a folder's files, whose MD5 is the folder's hash.

    Parameters
    ----------
    contents : mapping of str to str
        The MD5 of each file, by its path in the folder.
    """
    return json.dumps([{"md5": contents[path], "relpath": path} for path in sorted(contents)], sort_keys=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(content: Any) -> str:
    """Return the SHA-256 of plain values, written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_ignored(relative: Path) -> bool:
    # .dvcignore keeps these out of what DVC hashes
    return relative.suffix == ".pyc" or any(part == "__pycache__" or part.startswith(".") for part in relative.parts)
