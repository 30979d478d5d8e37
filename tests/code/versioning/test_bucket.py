"""The server's checksums of an object, and what they show."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from crashcast.versioning import bucket
from crashcast.versioning.bucket import Bucket, Stored

B = "0123456789abcdef0123456789abcdeb"
M = hashlib.md5(b"abc").hexdigest()


class Answers(Bucket):
    """A bucket of which only the answers about one object are asked."""

    def __init__(self, head: dict[str, str], content: str) -> None:
        self.head, self.content_md5 = head, content

    def object_key(self, md5: str) -> str:
        return md5

    def call(self, method: str, **arguments: object) -> dict[str, str]:
        return self.head

    def hash_of(self, md5: str) -> str:
        return self.content_md5


CRC = "NSRBwg=="  # 0x352441c2, the CRC-32 of abc
KMS = {"ServerSideEncryption": "aws:kms"}
WHOLE = {"ChecksumCRC32": CRC, "ChecksumType": "FULL_OBJECT"}


@pytest.mark.parametrize(
    ("etag", "head", "content", "expected"),
    [
        (M, {}, B, True),  # the server hashed what it was sent
        (f"{B}-2", {}, M, None),  # sent in pieces
        (B, {}, M, True),  # another hash: read
        (B, {}, B, False),
        (B, {"ServerSideEncryption": "AES256"}, B, False),
        (B, KMS, B, None),  # such an ETag is no MD5
        (B, {"SSECustomerAlgorithm": "AES256"}, B, None),
        (B, KMS | WHOLE, B, True),  # as the copy's
        (B, KMS | WHOLE | {"ChecksumCRC32": "AAAAAA=="}, B, False),  # another: read
        (B, KMS | WHOLE | {"ChecksumType": "COMPOSITE"}, B, None),
    ],
)
def test_what_a_servers_checksums_show(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    etag: str,
    head: dict[str, str],
    content: str,
    expected: bool | None,
) -> None:
    copy, damaged = tmp_path / "copy", tmp_path / "damaged"
    copy.write_bytes(b"abc")
    damaged.write_bytes(b"abd")

    for name in (M, f"{M}.dir"):
        answers = Answers(head, content)
        monkeypatch.setattr(bucket, "cached", lambda _: copy)
        assert answers.is_sound(name, Stored(3, etag, 0)) is expected
        if "ChecksumCRC32" in head:  # a copy that is not whole shows nothing
            monkeypatch.setattr(bucket, "cached", lambda _: damaged)
            assert answers.is_sound(name, Stored(3, etag, 0)) is None
