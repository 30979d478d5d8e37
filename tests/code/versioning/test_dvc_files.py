"""A folder's list is a file from a shared bucket: it must not lead anywhere else."""

from __future__ import annotations

import json

import pytest

from crashcast.errors import UserError
from crashcast.versioning.dvc_files import RefusedListError, members, object_path

MD5 = "0" * 32


def test_a_list_names_files_and_their_hashes() -> None:
    content = json.dumps(
        [{"md5": MD5, "relpath": "month=2026-01/part-0.parquet"}, {"md5": "a" * 32, "relpath": "b..c"}]
    )

    assert members(content.encode(), "x") == {"month=2026-01/part-0.parquet": MD5, "b..c": "a" * 32}


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "", ".", "a\0b", "..\\x", "a/..", "./a", "a//b", "a/"])
def test_a_name_that_leads_out_of_its_folder_is_refused(path: str) -> None:
    with pytest.raises(RefusedListError, match=r"the models of commit 1 is refused: .* names"):
        members(json.dumps([{"md5": MD5, "relpath": path}]).encode(), "the models of commit 1")


@pytest.mark.parametrize("md5", ["../../x", "A" * 32, "0" * 31, f"{MD5}.dir", None])
def test_a_hash_that_is_none_is_refused(md5: str | None) -> None:
    with pytest.raises(RefusedListError, match="names 'a'"):
        members(json.dumps([{"md5": md5, "relpath": "a"}]).encode(), "x")


@pytest.mark.parametrize("content", [b"", b"{}x", b"3", b'[{"md5": "a"}]', b"[1]", b"\xff"])
def test_what_is_no_list_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedListError, match="not as DVC writes it"):
        members(content, "x")


@pytest.mark.parametrize("other", ["a", "a/b"])
def test_a_name_in_the_place_of_another_is_refused(other: str) -> None:
    """Of two files of one name the last would win, and a file that is another one's folder cannot be written."""
    with pytest.raises(RefusedListError, match=r"x is refused"):
        members(json.dumps([{"md5": MD5, "relpath": path} for path in ("a", other)]).encode(), "x")


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(RefusedListError, match="which no folder holds"):
        members(json.dumps([{"md5": MD5, "relpath": "\ud800"}]).encode(), "x")
    with pytest.raises(RefusedListError, match="not as DVC writes it"):
        members(b"[" * 100_000, "x")


@pytest.mark.parametrize("digest", ["aa/../../../../../etc/passwd", "..", "", "A" * 32, f"{MD5}.dir.dir", f"{MD5}/x"])
def test_what_is_no_hash_is_no_path_of_an_object(digest: str) -> None:
    """A dvc.lock or .dvc file names objects by their hash; each of them is read, or brought from the remote."""
    with pytest.raises(UserError, match="is no hash as DVC records it"):
        object_path(digest)
    assert object_path(f"{MD5}.dir") == f"files/md5/00/{'0' * 30}.dir"
