"""Storage that the client and every worker of a cluster reach."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from crashcast.errors import UserError

CONNECT_S = 10.0


class StorageError(UserError):
    """A machine cannot use the storage; another may."""


@dataclass(frozen=True)
class Storage:
    """A mounted folder or an S3 prefix. Objects appear there whole.

    S3's address and keys come from the environment (AWS_ENDPOINT_URL and so on). Every method raises StorageError if
    this machine cannot use the storage.

    Attributes
    ----------
    url : str
        `/mount/point` or `s3://bucket/prefix`.
    """

    url: str

    def put(self, source: Path | bytes, name: str) -> None:
        """Write a file or bytes under a name."""
        target = f"{self.url}/{name}"
        aside = f"{target}.{uuid4().hex}" if self._is_folder else target  # S3 shows no half-written object
        with self._explaining():
            try:
                if isinstance(source, bytes):
                    self._files.pipe_file(aside, source)
                else:
                    self._files.put_file(str(source), aside)
                if aside != target:
                    os.replace(aside, target)
            except OSError:
                if aside != target:  # a full disk holds the first half of it
                    Path(aside).unlink(missing_ok=True)
                raise

    def get(self, name: str, path: Path) -> bool:
        """Copy an object to a new file; return False if there is none of that name."""
        with self._explaining():
            try:
                self._files.get_file(f"{self.url}/{name}", str(path))
            except FileNotFoundError:
                return False
        return True

    def has(self, name: str) -> bool:
        """Say whether there is an object of that name."""
        with self._explaining():
            try:
                self._files.info(f"{self.url}/{name}")
            except FileNotFoundError:
                return False
        return True

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._explaining(), suppress(FileNotFoundError):
            self._files.rm_file(f"{self.url}/{name}")

    def check(self, marker: str) -> None:
        """Raise StorageError if this machine cannot write here, or does not see the marker that the client wrote."""
        if not self.has(marker):
            raise StorageError(
                f"{self.url} on {socket.gethostname()} is not the storage that the client uses: mount the same there"
            )
        self.put(b"", probe := f"probes/{uuid4().hex}")
        self.remove(probe)

    @property
    def _is_folder(self) -> bool:
        return self.url.startswith("/")

    @cached_property
    def _files(self) -> Any:
        import fsspec

        if not self._is_folder:
            patience = {"connect_timeout": CONNECT_S, "retries": {"total_max_attempts": 3}}
            return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=patience)
        if not Path(self.url).is_dir():
            raise StorageError(
                f"{self.url}, which params.yaml or the environment names as execution.shared, is no folder on "
                f"{socket.gethostname()}: mount it there"
            )
        return fsspec.filesystem("file", auto_mkdir=True)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (OSError, BotoCoreError, ClientError) as error:
            raise StorageError(f"{self.url} cannot be used from {socket.gethostname()}: {error}") from None
