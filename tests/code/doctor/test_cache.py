"""Which objects of DVC's cache are hashed again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from crashcast import files
from crashcast.doctor import cache
from crashcast.versioning.cache import cached


def test_the_cache_is_hashed_again_where_it_changed_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    md5 = hashlib.md5(b"text").hexdigest()
    path = cached(md5)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"text")
    read: list[Path] = []
    monkeypatch.setattr(files, "md5", lambda path, md5=files.md5: read.append(path) or md5(path))

    def states(deep: bool = False) -> tuple[str, int]:
        read.clear()
        return cache.states([md5], deep)[md5], len(read)

    assert states() == ("good", 1)
    assert states() == ("good", 0)
    assert states(deep=True) == ("good", 1)
    path.write_bytes(b"tex!")
    assert states() == ("damaged", 1)
    assert states() == ("damaged", 1)
    path.unlink()
    assert states() == ("missing", 0)
