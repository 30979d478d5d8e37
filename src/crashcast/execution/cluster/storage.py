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


@dataclass(frozen=True)
class Storage:
    """A mounted folder or an S3 prefix. Objects appear there whole.

    S3's address and keys come from the environment (AWS_ENDPOINT_URL and so on). Every method raises UserError if the
    storage cannot be used.

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
            if isinstance(source, bytes):
                self._files.pipe_file(aside, source)
            else:
                self._files.put_file(str(source), aside)
            if aside != target:
                os.replace(aside, target)

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
            raise UserError(
                f"{self.url}, which params.yaml names as execution.shared, is no folder on {socket.gethostname()}"
            )
        return fsspec.filesystem("file", auto_mkdir=True)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (OSError, BotoCoreError, ClientError) as error:
            raise UserError(f"{self.url} cannot be used from {socket.gethostname()}: {error}") from None
