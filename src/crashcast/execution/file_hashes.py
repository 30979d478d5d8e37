"""SHA-256 of files, remembered by inode, time and size: a file that has not changed is not read again.

DVC does the same with its MD5s. A file that is written to gets another time; `crashcast memo --verify` finds bytes that
decayed on the disk.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from crashcast.files import Signature, replacing, sha256, signature

MAX_REMEMBERED = 50_000  # of some 130 bytes
SETTLED_NS = 50_000_000  # a file hashed sooner after its last change could change again without another time
WORTH_WAITING_BYTES = 50_000_000  # to read more than this again costs more than to wait until it has settled


class Digests:
    """A file of hashes.

    Parameters
    ----------
    file : Path
        If it is missing or damaged, no hashes are known.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, str] = {}
        with suppress(OSError, ValueError):
            found = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                self._known = found

    def of(self, path: Path) -> str:
        """Return the SHA-256 of a file."""
        before = signature(path)
        key = " ".join(map(str, before))
        digest = self._known.pop(key, None)
        settled = _has_settled(before)
        if digest is None:
            if not settled and before.size_bytes > WORTH_WAITING_BYTES:
                time.sleep(SETTLED_NS / 1e9)
                settled = _has_settled(before)
            digest = sha256(path)
        if settled:
            self._known[key] = digest  # the last used at the end
        return digest

    def save(self) -> None:
        """Write the hashes to the file, at most `MAX_REMEMBERED`, the last used ones."""
        with replacing(self._file) as aside:
            aside.write_text(json.dumps(dict(list(self._known.items())[-MAX_REMEMBERED:])), encoding="utf-8")

    def forget(self) -> None:
        """Read every file again from now on."""
        self._known.clear()


def _has_settled(before: Signature) -> bool:
    return time.time_ns() - before.changed_ns > SETTLED_NS
