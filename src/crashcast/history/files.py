"""The content of files of past versions, read in DVC's cache, or by ranges on its remote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from crashcast.errors import UserError
from crashcast.versioning import cache, dvc_files
from crashcast.versioning.bucket import Bucket, connect
from crashcast.versioning.cache import is_whole
from crashcast.versioning.outputs import Output

BLOCK_BYTES = 1 << 12  # little more than what is asked for
NOT_HERE, NOWHERE, DAMAGED = "not here; the remote was not asked", "neither here nor on the remote", "damaged"


class Held(NamedTuple):
    """What a Parquet file holds; no servers if it has no such column."""

    rows: int
    servers: frozenset[str]


class UnreadError(UserError):
    """A file cannot be read here."""


@dataclass(eq=False)
class Files:
    """Reads files by their hash.

    Attributes
    ----------
    bucket : Bucket or None
        DVC's remote, to be asked for what the cache lacks; None: it is not.
    """

    bucket: Bucket | None = None
    _held: dict[str, Held] = field(default_factory=dict)

    @classmethod
    def of(cls, ask_remote: bool) -> Files:
        """Read in DVC's cache, and on the remote if asked to."""
        return cls(connect() if ask_remote else None)

    def members_of(self, output: Output) -> dict[str, str]:
        """Return the hash of each file of a dataset, by its path.

        Raises
        ------
        UserError
            If a folder's list cannot be had, or is none.
        """
        if not output.is_folder:
            return {output.path: output.md5}
        path = cache.cached(output.md5)
        if path.exists():
            content = path.read_bytes() if is_whole(path, output.md5) else None
        else:
            content = self.bucket.read(output.md5) if self.bucket else None
        if content is None:
            raise UnreadError(DAMAGED if path.exists() else NOWHERE if self.bucket else NOT_HERE)
        named = dvc_files.members(content, f"{output.path} of commit {output.revision}")
        return {f"{output.path}/{name}": md5 for name, md5 in named.items()}

    def held(self, md5: str) -> Held:
        """Return what a Parquet file holds: its footer is read, and its column of servers.

        Raises
        ------
        UnreadError
            If it cannot be read.
        """
        if md5 not in self._held:
            with self._open(md5) as source:
                self._held[md5] = _held(source)
        return self._held[md5]

    @contextmanager
    def whole(self, md5: str) -> Iterator[Path]:
        """Give a file that has the bytes its hash says, downloaded for as long as needed if the cache lacks it.

        Raises
        ------
        UnreadError
            If it cannot be had.
        """
        path = cache.cached(md5)
        if path.exists():
            if not is_whole(path, md5):
                raise UnreadError(DAMAGED)
            yield path
            return
        if self.bucket is None:
            raise UnreadError(NOT_HERE)
        with TemporaryDirectory(prefix="crashcast-") as folder:
            path = Path(folder, "file")
            if not self.bucket.download(md5, path):
                raise UnreadError(NOWHERE)
            yield path

    @contextmanager
    def _open(self, md5: str) -> Iterator[Any]:
        path = cache.cached(md5)
        if path.exists():
            yield path
        elif self.bucket is None:
            raise UnreadError(NOT_HERE)
        elif md5 not in self.bucket.stored([md5]):
            raise UnreadError(NOWHERE)
        else:
            with self.bucket.open(md5, BLOCK_BYTES) as file:
                yield file


def _held(source: Any) -> Held:
    servers: set[str] = set()
    try:
        metadata = pq.read_metadata(source)
        if "server_id" in metadata.schema.names:
            file = pq.ParquetFile(source, metadata=metadata, read_dictionary=["server_id"])
            for group in range(file.num_row_groups):
                servers.update(file.read_row_group(group, ["server_id"]).column(0).unique().to_pylist())
    except (pa.ArrowException, OSError, ValueError):  # ValueError: text that is no UTF-8
        raise UnreadError(DAMAGED) from None
    return Held(metadata.num_rows, frozenset(servers - {None}))
