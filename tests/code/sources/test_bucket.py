"""Objects of a bucket as local files: only inside the folder of the collection."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from crashcast.errors import UserError
from crashcast.sources.bucket import local_files


@pytest.mark.parametrize("key", ["b/tel/../../../raw/a.csv", "b/../a.csv", "b/tel/.."])
def test_a_key_with_dots_is_not_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str) -> None:
    key = key if key.endswith(".csv") else f"{key}/a.csv"
    facts = {"b/tel/good.csv": {}, key: {}}
    bucket = SimpleNamespace(find=lambda source, detail: facts)
    monkeypatch.setattr(fsspec, "filesystem", lambda *arguments, **options: bucket)
    with pytest.raises(UserError, match=r"a key with '\.\.' is not downloaded"):
        list(local_files(["s3://b/tel"], tmp_path / "collected"))
    assert not list(tmp_path.iterdir())


def test_an_address_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a server's address is collect\.url"):
        list(local_files(["http://localhost:9090"], tmp_path))
    assert list(local_files(["a.csv", "folder"], tmp_path)) == [Path("a.csv"), Path("folder")]
