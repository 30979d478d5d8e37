"""DVC's remote as an S3 bucket: what it holds, byte for byte, and what it lets this user do.

Requests go through DVC's own S3 file system, so that every setting of the remote counts: keys, endpoint, encryption.
"""

from __future__ import annotations

import base64
import hashlib
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from crashcast.errors import UserError
from crashcast.versioning import remote
from crashcast.versioning.cache import cached, is_whole
from crashcast.versioning.dvc_files import HASH, OBJECTS, hash_of, is_of, object_path
from crashcast.versioning.threads import side_by_side

ASIDE = "crashcast-damaged"  # beside the objects
REQUESTS = 16  # at once
STREAMS = 4
READ_TIMEOUT_S = 30
ATTEMPTS = 4
BLOCK_BYTES = 8 << 20


class Stored(NamedTuple):
    """What the server says of an object without sending it."""

    size_bytes: int
    etag: str
    age_s: float


@dataclass(frozen=True)
class Bucket:
    """The place in a bucket that DVC's default remote names.

    Attributes
    ----------
    fs : s3fs.S3FileSystem
        DVC's, with the remote's settings.
    name, prefix : str
        The bucket, and the remote's folder in it.
    settings : dict
        The remote's section of DVC's configuration.
    """

    fs: Any
    name: str
    prefix: str
    settings: dict[str, Any]

    def key(self, *parts: str) -> str:
        """Return the key of something below the remote's folder."""
        return "/".join(filter(None, (self.prefix, *parts)))

    def object_key(self, md5: str) -> str:
        """Return the key of an object."""
        return self.key(object_path(md5))

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Ask the server for something.

        Raises
        ------
        UserError
            If it does not answer, or refuses.
        """
        with _as_user_error(method):
            answer: dict[str, Any] = self.fs.call_s3(method, Bucket=self.name, **arguments)
            return answer

    def stored(self, hashes: Iterable[str] | None = None) -> dict[str, Stored]:
        """Return what the server lists of these objects; of all objects if none are named.

        One request suffices for a small remote. A large one is listed side by side, by the first two digits of hashes.
        """
        wanted = None if hashes is None else set(hashes)
        folders = [f"{i:02x}" for i in range(256)] if wanted is None else sorted({md5[:2] for md5 in wanted})
        if len(folders) > 1:
            listed, following = self._page()
            if following is None:
                return {md5: told for md5, told in listed if wanted is None or md5 in wanted}
        found = chain.from_iterable(side_by_side(self._folder, folders, REQUESTS))
        return {md5: told for md5, told in found if wanted is None or md5 in wanted}

    def _folder(self, name: str) -> list[tuple[str, Stored]]:
        listed, token = self._page(f"{name}/")
        while token:
            page, token = self._page(f"{name}/", ContinuationToken=token)
            listed += page
        return listed

    def _page(self, below: str = "", **more: str) -> tuple[list[tuple[str, Stored]], str | None]:
        """Return hashes of up to 1,000 objects with what the server lists of them, and how to ask for the next."""
        prefix = self.key(OBJECTS) + "/"
        answer = self.call("list_objects_v2", Prefix=prefix + below, **more)
        with _as_user_error("list_objects_v2"):
            listed = [
                (
                    entry["Key"].removeprefix(prefix).replace("/", "", 1),
                    Stored(entry["Size"], entry["ETag"].strip('"'), time.time() - entry["LastModified"].timestamp()),
                )
                for entry in answer.get("Contents", ())
            ]
            return listed, answer["NextContinuationToken"] if answer.get("IsTruncated") else None

    def is_sound(self, md5: str, stored: Stored) -> bool | None:
        """Return whether the server's own checksums show that an object is what its name says; None if they cannot.

        The ETag of what was sent in one piece is the MD5 of the content, unless a key of KMS or the client encrypts
        it. Then a CRC-32 of the whole, which S3 keeps if the client sent one, is compared with the cache's copy.
        Source: Amazon S3 API reference, "Object" and "HeadObject".
        """
        if is_of(md5, stored.etag):
            return True
        head = self.call("head_object", Key=self.object_key(md5), ChecksumMode="ENABLED")
        is_encrypted = "kms" in head.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in head
        if is_encrypted or not HASH.fullmatch(stored.etag):  # in pieces: a dash and their number follow
            is_of_all = "ChecksumCRC32" in head and head.get("ChecksumType") == "FULL_OBJECT"
            if not (is_of_all and is_whole(copy := cached(md5), md5)):
                return None
            if head["ChecksumCRC32"] == _crc32(copy):
                return True
        return is_of(md5, self.hash_of(md5))  # the server's checksum is another: the bytes decide

    @contextmanager
    def open(self, md5: str, block_bytes: int = BLOCK_BYTES) -> Iterator[Any]:
        """Give an object as a file that asks the server for the ranges that are read, in blocks of at least so much."""
        with (
            _as_user_error(f"get_object {md5}"),
            self.fs.open(f"{self.name}/{self.object_key(md5)}", "rb", block_size=block_bytes) as file,
        ):
            yield file

    def hash_of(self, md5: str) -> str:
        """Read an object and return the MD5 of its content."""
        with self.open(md5) as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

    def hashes_of(self, objects: dict[str, int]) -> dict[str, str]:
        """Read many objects, a few at a time, and return their MD5s.

        Parameters
        ----------
        objects : dict of str to int
            Their names and sizes in bytes.
        """
        names = sorted(objects)
        return dict(zip(names, side_by_side(self.hash_of, names, STREAMS, "remote", objects.get), strict=True))

    def content(self, key: str) -> bytes:
        """Return what lies at a key."""
        with _as_user_error(f"get_object {key}"):
            content: bytes = self.fs.cat_file(f"{self.name}/{key}")
            return content

    def read(self, md5: str) -> bytes | None:
        """Return a small object, such as the list of a folder's files; None if it is not there, or damaged."""
        if md5 not in self.stored([md5]):
            return None
        content = self.content(self.object_key(md5))
        return content if is_of(md5, hash_of(content)) else None

    def download(self, md5: str, path: Path) -> bool:
        """Bring an object to `path`; return whether it is whole."""
        if md5 not in self.stored([md5]):
            return False
        with _as_user_error(f"get_object {md5}"):
            self.fs.get_file(f"{self.name}/{self.object_key(md5)}", str(path))
        return is_whole(path, md5)

    def upload(self, md5: str, path: Path) -> None:
        """Put a file whose hash was checked in an object's place, and read it back; what lay there is kept aside.

        Raises
        ------
        UserError
            If the server does not keep what was sent.
        """
        target = f"{self.name}/{self.object_key(md5)}"
        if before := self.stored([md5]).get(md5):
            with _as_user_error(f"copy_object {md5}"):
                self.fs.copy(target, f"{self.name}/{self.key(ASIDE, f'{md5}.{before.etag}')}")
        with _as_user_error(f"put_object {md5}"):
            self.fs.put_file(str(path), target)
        self._check_kept(md5)

    def restore_version(self, md5: str) -> bool:
        """Make an older version of an object the current one, if the bucket keeps versions and one is whole."""
        key = self.object_key(md5)
        versions = self.call("list_object_versions", Prefix=key).get("Versions", ())
        with _as_user_error("list_object_versions"):
            newest_first = sorted(versions, key=lambda version: version["LastModified"], reverse=True)
            numbers = [version["VersionId"] for version in newest_first if version["Key"] == key]
        for number in numbers:
            if self._is_whole_version(md5, number):
                self.call("copy_object", Key=key, CopySource={"Bucket": self.name, "Key": key, "VersionId": number})
                self._check_kept(md5)
                return True
        return False

    def _is_whole_version(self, md5: str, number: str) -> bool:
        with TemporaryDirectory(prefix="crashcast-") as folder, _as_user_error(f"get_object {md5}"):
            path = Path(folder, "version")
            self.fs.get_file(f"{self.name}/{self.object_key(md5)}", str(path), version_id=number, max_concurrency=1)
            return is_whole(path, md5)

    def _check_kept(self, md5: str) -> None:
        if not is_of(md5, self.hash_of(md5)):
            raise UserError(f"the server did not keep {md5} as it was sent: run this again")

    def delete(self, hashes: Iterable[str]) -> None:
        """Delete objects; a bucket that keeps versions keeps them as older versions."""
        for md5 in side_by_side(self._delete, list(hashes), REQUESTS, "deleting"):
            assert md5

    def _delete(self, md5: str) -> str:
        self.call("delete_object", Key=self.object_key(md5))
        return md5


def read_list(md5: str, bucket: Bucket | None) -> bytes | None:
    """Return the list of a folder's files from DVC's cache or else from its remote; None if neither has it whole."""
    if is_whole(cached(md5), md5):
        return cached(md5).read_bytes()
    return bucket.read(md5) if bucket else None


def _crc32(path: Path) -> str:
    """Return a file's CRC-32 as S3 writes it."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def connect() -> Bucket:
    """Return DVC's default remote.

    Raises
    ------
    UserError
        If DVC has none, or it is not S3.
    """
    from dvc.fs import get_cloud_fs

    config, settings = remote.default()
    cls, resolved, path = get_cloud_fs(config, name=config["core"]["remote"])
    if cls.protocol != "s3":
        raise UserError(f"DVC's remote {remote.url()} is not S3: what it holds cannot be checked")
    filesystem = cls(**{"connect_timeout": remote.TIMEOUT_S, "read_timeout": READ_TIMEOUT_S} | resolved)
    filesystem.fs_args["config_kwargs"]["retries"] = {"total_max_attempts": ATTEMPTS}
    name, _, prefix = path.partition("/")
    return Bucket(filesystem.fs, name, prefix.strip("/"), settings)


@contextmanager
def _as_user_error(what: str) -> Iterator[None]:
    """Turn exceptions of S3 clients into messages."""
    try:
        yield
    except remote.failures() as error:
        raise UserError(f"{what}: {error or type(error).__name__}") from None
