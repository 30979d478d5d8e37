"""Objects of a bucket as local files: only inside the folder of the collection."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from crashcast.errors import UserError
from crashcast.sources.bucket import local_files


@pytest.mark.parametrize(
    "key", ["b/tel/../../../raw/a.csv", "b/../a.csv", "b/tel/..", "b/tel/./good.csv", "b/tel//good.csv", "b//tel/a.csv"]
)
def test_a_key_that_is_no_place_of_its_own_in_the_folder_is_not_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    key = key if key.endswith(".csv") else f"{key}/a.csv"
    facts = {"b/tel/good.csv": {}, key: {}}
    bucket = SimpleNamespace(find=lambda source, detail: facts)
    monkeypatch.setattr(fsspec, "filesystem", lambda *arguments, **options: bucket)
    with pytest.raises(UserError, match=r"a key with '\.\.', '\.' or '//' is not downloaded"):
        list(local_files(["s3://b/tel"], tmp_path / "collected"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_takes_no_download_is_not_taken_for_a_bucket_that_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    def refuse(name: str, path: str) -> None:
        Path(path).write_text("half")
        raise OSError(code, os.strerror(code), path)

    facts = {"b/a.csv": {"size": 9, "LastModified": datetime.now(UTC)}}
    bucket = SimpleNamespace(find=lambda source, detail: facts, get_file=refuse)
    monkeypatch.setattr(fsspec, "filesystem", lambda *arguments, **options: bucket)
    with pytest.raises(UserError, match=rf"a\.csv.*: {os.strerror(code)}; .*, then run the same command again"):
        list(local_files(["s3://b"], tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_address_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a server's address is collect\.url"):
        list(local_files(["http://localhost:9090"], tmp_path))
    assert list(local_files(["a.csv", "folder"], tmp_path)) == [Path("a.csv"), Path("folder")]
