"""Telemetry files in a bucket, downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from crashcast.errors import UserError, refusal
from crashcast.files import replacing
from crashcast.sources.importing.table_file import SUFFIXES
from crashcast.sources.threads import side_by_side

S3 = "s3://"
DOWNLOADS = 4  # at once


def local_files(sources: Sequence[str], folder: Path) -> Iterator[Path]:
    """Yield the paths of files and folders, and those of objects below `s3://bucket/prefix` once they are downloaded.

    Raises
    ------
    UserError
        If a bucket cannot be read, or a source is another address.
    """
    for source in sources:
        if source.startswith(S3):
            yield from _downloaded(source, folder)
        elif "://" in source:
            raise UserError(f"{source} is neither a file nor {S3}bucket/prefix; a server's address is collect.url")
        else:
            yield Path(source)


def _downloaded(source: str, folder: Path) -> list[Path]:
    import fsspec
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        bucket = fsspec.filesystem("s3", use_listings_cache=False)
        found = bucket.find(source, detail=True)
        members = {name: facts for name, facts in sorted(found.items()) if name.lower().endswith(SUFFIXES)}
        if not members:
            raise UserError(f"{source} holds no telemetry: no {', '.join(SUFFIXES)} below it")

        if unsafe := next((name for name in members if {"", ".", ".."}.intersection(name.split("/"))), None):
            raise UserError(
                f"{S3}{unsafe}: a key with '..', '.' or '//' is not downloaded; rename it, or narrow the prefix"
            )

        def download(name: str) -> None:
            path, size, changed = folder / name, members[name]["size"], members[name]["LastModified"]
            with suppress(FileNotFoundError):
                if (facts := path.stat()).st_size == size and facts.st_mtime == int(changed.timestamp()):
                    return  # downloaded by a run that was killed
            with replacing(path) as aside:
                bucket.get_file(name, str(aside))
                if aside.stat().st_size != size:
                    raise UserError(f"{S3}{name} changed while it was read: run the same command again")
                os.utime(aside, (changed.timestamp(), int(changed.timestamp())))

        side_by_side(download, list(members), DOWNLOADS, "collect", "file")
    except (OSError, BotoCoreError, ClientError) as error:
        if told := refusal(error):
            raise told from None
        raise UserError(f"{source} cannot be read with the AWS settings of this shell: {error}") from None
    return [folder / name for name in members]
