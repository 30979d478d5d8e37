"""Raw data of commits, from DVC's cache or remote."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from crashcast import tables
from crashcast.versioning import cache
from crashcast.versioning.revision import COVERAGE, Revision


def is_another_fleet(one: Revision, other: Revision) -> bool:
    """Tell whether two commits' records cover no server in common; False if a commit has no such records."""
    digests = [revision.raw.get(COVERAGE) for revision in (one, other)]
    if None in digests or digests[0] == digests[1]:
        return False
    first, second = (set(rows["server_id"]) for rows in read_both(one, other, COVERAGE, ["server_id"]))
    return bool(first and second) and first.isdisjoint(second)


def read_both(one: Revision, other: Revision, path: str, columns: Collection[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read a piece of raw data, a single file, of two commits."""
    first, second = (
        tables.read(cache.locate(revision.raw[path], f"{path} of commit {revision.name}"), columns)
        for revision in (one, other)
    )
    return first, second
