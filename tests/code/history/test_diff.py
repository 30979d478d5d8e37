"""Two versions of a model's file, from whoever committed them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crashcast.errors import UserError
from crashcast.history.diff import read_difference


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return path


def array(*values: float) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(values))
    return out.getvalue()


def test_members_are_compared_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "../../canary.npy"
    old, new = (archive(Path(f"{value}.skops"), {name: array(1.0, value)}) for value in (2.0, 3.0))
    before = set(tmp_path.parent.rglob("*"))
    assert read_difference(old, new, "model.skops") == (None, {f"{name}[1]": (2.0, 3.0)})
    assert set(tmp_path.parent.rglob("*")) == before


def test_an_archive_that_would_fill_the_memory_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = archive(tmp_path / "bomb", {"1.npy": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match=r"unreadable: model\.skops would unpack to 10,000,000 bytes"):
        read_difference(bomb, bomb, "model.skops")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', "])
def test_a_damaged_archive_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model").write_bytes(content)
    whole = archive(tmp_path / "whole", {"1.npy": content})
    for path in (tmp_path / "model", whole):
        with pytest.raises(UserError, match="unreadable: "):
            read_difference(path, path, "model.skops")
