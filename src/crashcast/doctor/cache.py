"""Which objects lie in DVC's cache, and whether their bytes have the hashes in their names.

DVC trusts a write-protected cache file unread. Here it is read and hashed, unless it is the same file (inode, size,
time of change) as when it was last hashed here. A hard link in the work tree is that file itself, no second copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from crashcast import files
from crashcast.run_record import FOLDER
from crashcast.versioning.cache import cached, is_whole
from crashcast.versioning.threads import side_by_side

State = Literal["good", "unread", "damaged", "missing"]
HASHED = FOLDER / "hashed.json"  # by object: inode, size and time of change of a file that was whole
READERS = 4


def states(hashes: Iterable[str], deep: bool = False) -> dict[str, State]:
    """Return of objects whether they are `good`, `damaged` or `missing` in the cache.

    Parameters
    ----------
    hashes : iterable of str
        Their names.
    deep : bool
        Hash also files that have not changed since they were last hashed here.
    """
    hashed: dict[str, list[int]] = {}
    with suppress(OSError, ValueError):
        hashed = json.loads(HASHED.read_text(encoding="utf-8"))
    found: dict[str, State] = {}
    to_read: dict[str, int] = {}
    for md5 in hashes:
        stamp = _stamp(cached(md5))
        if stamp is None:
            found[md5] = "missing"
        elif not deep and hashed.get(md5) == stamp:
            found[md5] = "good"
        else:
            to_read[md5] = stamp[1]
    read = side_by_side(_whole_stamp, sorted(to_read), READERS, "cache", to_read.get)
    for md5, stamp in zip(sorted(to_read), read, strict=True):
        found[md5] = "good" if stamp else "damaged"
        hashed.pop(md5, None)
        if stamp:
            hashed[md5] = stamp
    if to_read:
        with files.replacing(HASHED) as aside:
            aside.write_text(json.dumps(hashed), encoding="utf-8")
    return found


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether both are there and are one file, by a hard or a symbolic link."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _whole_stamp(md5: str) -> list[int] | None:
    stamp = _stamp(cached(md5))  # before it is read: a file that changes meanwhile has another one
    return stamp if is_whole(cached(md5), md5) else None


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns]
