"""DVC's cache: which objects lie in it, and whether their bytes are what their names say.

DVC trusts a write-protected cache file unread. Here it is read and hashed, unless it is the same file
(inode, size, time of change) as when it was last hashed here. A hard link in the work tree is that file itself, no
second copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from crashcast import files
from crashcast.versioning import cache
from crashcast.versioning.cache import is_whole
from crashcast.versioning.dvc_command import TEMPORARY
from crashcast.versioning.dvc_files import object_path
from crashcast.versioning.side_by_side import side_by_side

State = Literal["good", "unread", "damaged", "missing"]
HASHED = TEMPORARY / "crashcast" / "hashed.json"
READERS = 4


def _known() -> dict[str, list[int]]:
    with suppress(OSError, ValueError):
        known: dict[str, list[int]] = json.loads(HASHED.read_text(encoding="utf-8"))
        return known
    return {}


@dataclass(frozen=True)
class Cache:
    """DVC's cache folder.

    Attributes
    ----------
    folder : Path
        That holds `files/md5`.
    hashed : dict
        By name: inode, size and time of change of a file whose bytes had that hash.
    """

    folder: Path = field(default_factory=cache.root)
    hashed: dict[str, list[int]] = field(default_factory=_known)

    def path(self, md5: str) -> Path:
        """Return where an object lies, or would."""
        return self.folder / object_path(md5)

    def states(self, hashes: Iterable[str], deep: bool = False) -> dict[str, State]:
        """Say of objects whether they are `good`, `damaged` or `missing`.

        Parameters
        ----------
        hashes : iterable of str
            Their names.
        deep : bool
            Hash also what has not changed since it was last hashed here.
        """
        found: dict[str, State] = {}
        to_read: dict[str, int] = {}
        for md5 in hashes:
            stamp = _stamp(self.path(md5))
            if stamp is None:
                found[md5] = "missing"
            elif not deep and self.hashed.get(md5) == stamp:
                found[md5] = "good"
            else:
                to_read[md5] = stamp[1]
        read = side_by_side(self._hash, sorted(to_read), READERS, "cache", to_read.get)
        for md5, hashed in zip(sorted(to_read), read, strict=True):
            found[md5] = "good" if hashed else "damaged"
            self.hashed.pop(md5, None)
            if hashed:
                self.hashed[md5] = hashed
        if to_read:
            with files.replacing(HASHED) as aside:
                aside.write_text(json.dumps(self.hashed), encoding="utf-8")
        return found

    def _hash(self, md5: str) -> list[int] | None:
        stamp = _stamp(self.path(md5))  # before it is read: what changes meanwhile has another one
        return stamp if is_whole(self.path(md5), md5) else None


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether both are there and are one file, by a hard or a symbolic link."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _stamp(path: Path) -> list[int] | None:
    try:
        told = path.stat()
    except FileNotFoundError:
        return None
    return [told.st_ino, told.st_size, told.st_mtime_ns]
