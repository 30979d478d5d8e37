"""Which part of the labelled rows a row belongs to: train, validation, test, or none.

`split` stores its choice as a rule of a few lines, not as a copy of the data; this module applies it to any rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.errors import UserError
from crashcast.tables import Partition

PARTS = ("train", "validation", "test")
HASH_RANGE = 2**64


def read_rule(path: Path) -> dict[str, Any]:
    """Read what `split` wrote."""
    try:
        rule: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or unreadable ({error}): run `dvc repro split`") from None
    return rule


def assign(rows: pl.DataFrame, rule: dict[str, Any]) -> pl.Series:
    """Return each row's part; null where it belongs to none.

    Parameters
    ----------
    rows : DataFrame
        `timestamp`, `server_id`, `label` (null: unknown, in no part).
    rule : dict
        What `split` wrote.
    """
    if rule["method"] == "time":
        part = pl.coalesce(
            pl.when(pl.col("timestamp").is_between(*tables.utc(*period(rule, name)), closed="left")).then(pl.lit(name))
            for name in PARTS
        )
    elif rule["method"] == "server":
        part_of = {server: name for name in PARTS for server in rule["servers"][name]}
        part = pl.col("server_id").replace_strict(part_of, default=None, return_dtype=pl.String)
    else:
        drawn = pl.Series(row_hash(rows, rule["seed"], "split"))
        cuts = {label: [pl.lit(cut, dtype=pl.UInt64) for cut in rule["cuts"][label]] for label in ("0", "1")}
        part = pl.coalesce(
            pl.when((pl.col("label").cast(pl.String) == label) & (drawn < cut)).then(pl.lit(name))
            for label in cuts
            for name, cut in zip(PARTS, cuts[label], strict=True)
        )
    return rows.select(part=pl.when(pl.col("label").is_not_null()).then(part)).to_series()


def period(rule: dict[str, Any], part: str) -> tuple[datetime, datetime]:
    """Return the period [from, to) of a part; under a split by server or at random, that of all rows."""
    span = rule["periods"][part]
    return datetime.fromisoformat(span["from"]), datetime.fromisoformat(span["to"])


def crashes_of_part(crashes: pl.DataFrame, rule: dict[str, Any], part: str) -> pl.DataFrame:
    """Return the crashes whose servers can be in a part; its period is the caller's to apply."""
    if rule["method"] == "server":
        return crashes.filter(pl.col("server_id").is_in(rule["servers"][part]))
    return crashes


def row_hash(rows: pl.DataFrame, seed: int, purpose: str) -> NDArray[np.uint64]:
    """Return a uniform 64-bit number per row that depends on its key, the seed and the purpose alone.

    Two draws with one seed must not be the same draw: a sample of a part that was itself drawn would be another share.

    Source: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
    """
    servers = rows["server_id"].unique().sort()
    digests = [hashlib.blake2b(f"{purpose}/{seed}/{name}".encode(), digest_size=8).digest() for name in servers]
    by_server = np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)
    code = rows["server_id"].cast(pl.Enum(servers)).to_physical().to_numpy()
    mixed = by_server[code] ^ rows["timestamp"].to_physical().to_numpy().astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return hashed


def labelled(labels: Path) -> Iterator[tuple[Partition, pl.DataFrame]]:
    """Yield every partition's rows with a known label: `timestamp`, `server_id`, `label`."""
    for partition in tables.partitions(labels):
        rows = tables.read(partition.path(labels), ["timestamp", "server_id", "label"])
        yield partition, rows.filter(pl.col("label").is_not_null())


def read_part(
    features: Path, labels: Path, rule: dict[str, Any], part: str, columns: list[str] | None = None
) -> Iterator[tuple[Partition, pl.DataFrame]]:
    """Yield the rows of one part, a partition at a time, in order of (timestamp, server_id).

    Parameters
    ----------
    features, labels : Path
        The tables.
    rule : dict
        What `split` wrote.
    part : {"train", "validation", "test"}
        Which rows.
    columns : list of str, optional
        Which features; all by default.

    Yields
    ------
    Partition, DataFrame
        `timestamp`, `server_id`, `label` and the features.
    """
    start, end = period(rule, part)
    for partition in tables.partitions(labels):
        if partition.end <= start or end <= partition.start:
            continue
        rows = tables.read(partition.path(labels), ["timestamp", "server_id", "label"])
        chosen = assign(rows, rule) == part
        if chosen.any():
            wanted = None if columns is None else ["timestamp", "server_id", *columns]
            values = tables.read(partition.path(features), wanted)
            if not values.select("timestamp", "server_id").equals(rows.select("timestamp", "server_id")):
                raise UserError(f"{features} and {labels} differ in the rows of {partition.name}: run `dvc repro`")
            yield partition, rows.hstack(values.drop("timestamp", "server_id")).filter(chosen)
