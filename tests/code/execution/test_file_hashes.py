from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from crashcast.execution.file_hashes import SETTLED_NS, Digests
from crashcast.execution.memo import Memo

LONG_AGO_NS = 1_700_000_000_000_000_000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: bytes, at_ns: int = LONG_AGO_NS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(at_ns, at_ns))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "file", b"one")
    return tmp_path / "file"


def test_an_unchanged_file_is_read_once_by_however_many_runs(file: Path, tmp_path: Path) -> None:
    first = Digests(tmp_path / "digests.json")
    assert first.of(file) == sha256(b"one")
    first.save()
    write(file, b"two")  # nobody could see it: the same inode, time and size
    (tmp_path / "link").hardlink_to(file)
    second = Digests(tmp_path / "digests.json")
    assert second.of(file) == second.of(tmp_path / "link") == sha256(b"one")
    second.forget()
    assert second.of(file) == sha256(b"two")


@pytest.mark.parametrize("change", ["time", "size", "inode"])
def test_a_changed_file_is_read_again(file: Path, tmp_path: Path, change: str) -> None:
    digests = Digests(tmp_path / "digests.json")
    digests.of(file)
    content = b"other" if change == "size" else b"two"
    if change == "inode":
        file.rename(tmp_path / "before")
    write(file, content, LONG_AGO_NS + (change == "time"))
    assert digests.of(file) == sha256(content)


def test_what_was_written_a_moment_ago_is_read_again(file: Path, tmp_path: Path) -> None:
    """Another change could come within the clock's tick, and leave the same time."""
    digests = Digests(tmp_path / "digests.json")
    now = time.time_ns() + SETTLED_NS
    write(file, b"one", now)
    digests.of(file)
    write(file, b"two", now)
    assert digests.of(file) == sha256(b"two")


def test_a_large_file_is_remembered_as_soon_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crashcast.execution.file_hashes.WORTH_WAITING_BYTES", 2)
    digests = Digests(tmp_path / "digests.json")
    now = time.time_ns()
    write(tmp_path / "file", b"one", now)
    digests.of(tmp_path / "file")
    write(tmp_path / "file", b"two", now)  # nobody could see it
    assert digests.of(tmp_path / "file") == sha256(b"one")


@pytest.mark.parametrize("content", ["", "[1]", '{"a": '])
def test_a_damaged_memory_is_as_if_empty(file: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "digests.json").write_text(content)
    digests = Digests(tmp_path / "digests.json")
    assert digests.of(file) == sha256(b"one")
    digests.save()
    assert sha256(b"one") in (tmp_path / "digests.json").read_text()


def test_the_memo_finds_what_decayed_on_the_disk(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo")
    for key in ("aa", "bb"):
        write(tmp_path / key, b"result")
        memo.keep(key, "clean", f"month=2025-{key}", tmp_path / key, {})
    assert memo.verify() == []
    (tmp_path / "aa").unlink()
    write(tmp_path / "memo" / "aa" / "aa.parquet", b"decays")  # one bit is enough, and leaves the time as it is
    assert [entry.partition for entry in memo.verify()] == ["month=2025-aa"]
    assert memo.recall("aa", tmp_path / "again") is None
    assert memo.recall("bb", tmp_path / "again") == {}
