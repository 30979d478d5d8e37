"""Which part of the rows a row belongs to: train, validation, test, or none.

`split` stores its choice as a rule of a few lines, not as a copy of the data; this module applies it to any rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.errors import UserError
from crashcast.tables import Partition

Rule = dict[str, Any]  # what `split` wrote
Draw = Callable[[pl.DataFrame], pl.Series]  # says of rows which are drawn
PARTS = ("train", "validation", "test")
HASH_RANGE = 2**64
KEYS_AND_LABEL: dict[str, Any] = {**tables.KEYS, "label": pl.Int8}
HAS_LABEL = pl.col("label").is_not_null()
PIECE_ROWS = 1_000_000  # a month of 10,000 servers has seven times as many: 2 GB with 60 features


def read_rule(path: Path) -> Rule:
    """Read what `split` wrote.

    Raises
    ------
    UserError
        If it is missing, or was edited into something that cannot be applied.
    """
    try:
        rule: Rule = json.loads(path.read_text(encoding="utf-8"))
        assign(pl.DataFrame(schema=KEYS_AND_LABEL), rule)  # to no rows
        for part in PARTS:
            period(rule, part)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or unreadable ({error}): run `dvc repro split`") from None
    except (KeyError, TypeError, AttributeError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path} is no rule of a split ({error!r}): run `dvc repro split`") from None
    return rule


def assign(rows: pl.DataFrame, rule: Rule) -> pl.Series:
    """Return each row's part; null if it belongs to none.

    Parameters
    ----------
    rows : DataFrame
        `timestamp`, `server_id`, `label` (null: unknown, and in no part of a split at random).
    rule : dict
        What `split` wrote.
    """
    kind = pl.Enum(PARTS)
    name_of = {name: pl.lit(name, dtype=kind) for name in PARTS}
    if rule["method"] == "time":
        part = pl.coalesce(
            pl.when(pl.col("timestamp").is_between(*tables.utc(*period(rule, name)), closed="left")).then(name_of[name])
            for name in PARTS
        )
    elif rule["method"] == "server":
        part_of = {server: name for name in PARTS for server in rule["servers"][name]}
        of_server = pl.col("server_id").replace_strict(part_of, default=None, return_dtype=kind)
        # all parts have the period of the known labels: rows of unknown label may lie outside it
        is_within = pl.col("timestamp").is_between(*tables.utc(*period(rule, "train")), closed="left")
        part = pl.when(is_within).then(of_server)
    elif rule["method"] == "random":
        drawn = pl.Series(row_hash(rows, rule["seed"], "split"))
        cuts = {label: [pl.lit(cut, dtype=pl.UInt64) for cut in rule["cuts"][label]] for label in ("0", "1")}
        part = pl.coalesce(
            pl.when((pl.col("label").cast(pl.String) == label) & (drawn < cut)).then(name_of[name])
            for label in cuts
            for name, cut in zip(PARTS, cuts[label], strict=True)
        )
    else:
        raise ValueError(f"there is no split by {rule['method']}")
    return rows.select(part=part).to_series()


def period(rule: Rule, part: str) -> tuple[datetime, datetime]:
    """Return the period [from, to) of a part; under a split by server or at random, that of all rows."""
    span = rule["periods"][part]
    return datetime.fromisoformat(span["from"]), datetime.fromisoformat(span["to"])


def crashes_of_part(crashes: pl.DataFrame, rule: Rule, part: str, servers: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the crashes, of some servers if given, of servers that can be in a part; its period is not applied."""
    if servers is not None:
        crashes = crashes.filter(pl.col("server_id").is_in(servers))
    if rule["method"] == "server":
        return crashes.filter(pl.col("server_id").is_in(rule["servers"][part]))
    return crashes


def server_hash(servers: pl.Series, seed: int, purpose: str) -> NDArray[np.uint64]:
    """Return a uniform 64-bit number per name of a server that depends on it, the seed and the purpose alone."""
    digests = [hashlib.blake2b(f"{purpose}/{seed}/{name}".encode(), digest_size=8).digest() for name in servers]
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def row_hash(rows: pl.DataFrame, seed: int, purpose: str) -> NDArray[np.uint64]:
    """Return a uniform 64-bit number per row that depends on its key, the seed and the purpose alone.

    Two draws with one seed must not be the same draw: a sample of a part that was itself drawn would be another share.

    Source: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
    """
    servers = rows["server_id"].unique().cast(pl.String).sort()
    by_server = server_hash(servers, seed, purpose)
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
        yield partition, tables.read(partition.path(labels), KEYS_AND_LABEL, HAS_LABEL)


def read_labels(path: Path) -> pl.DataFrame:
    """Read a partition of labels: `timestamp`, `server_id`, `label`, `observed`.

    Labels of older commits do not say which rows were observed: there, alarms open on the rows of known label.
    """
    if tables.OBSERVED in tables.read(path, where=pl.lit(False)).columns:
        return tables.read(path, [*KEYS_AND_LABEL, tables.OBSERVED])
    return tables.read(path, KEYS_AND_LABEL).with_columns(HAS_LABEL.alias(tables.OBSERVED))


def mitigated_rows(labels: Path, rule: Rule, part: str) -> pl.DataFrame:
    """Return `timestamp`, `server_id`, `label` (null) of a part's rows whose crash an action may have prevented."""
    files = (partition.path(labels) for partition in partitions_of(labels, period(rule, part)))
    return pl.concat([pl.DataFrame(schema=KEYS_AND_LABEL), *(mitigated_in(file, rule, part) for file in files)])


def mitigated_in(file: Path, rule: Rule, part: str) -> pl.DataFrame:
    """Return those of one partition's labels (see `mitigated_rows`)."""
    if "reason" not in tables.read(file, where=pl.lit(False)).columns:  # of an older commit
        return pl.DataFrame(schema=KEYS_AND_LABEL)
    rows = tables.read(file, [*KEYS_AND_LABEL, "reason"], pl.col("reason") == tables.MITIGATED)
    return rows.filter((assign(rows, rule) == part).fill_null(False)).select(*KEYS_AND_LABEL)


def partitions_of(labels: Path, span: tuple[datetime, datetime]) -> list[Partition]:
    """Return the partitions of a table that [from, to) touches."""
    start, end = span
    return [partition for partition in tables.partitions(labels) if partition.start < end and start < partition.end]


def read_part(
    features: Path,
    labels: Path,
    rule: Rule,
    part: str,
    columns: list[str] | None = None,
    draw: Draw | None = None,
    servers: Sequence[str] | None = None,
) -> Iterator[tuple[Partition, pl.DataFrame]]:
    """Yield the rows of one part, a piece of a partition at a time, in order of (timestamp, server_id).

    Parameters
    ----------
    features, labels : Path
        The tables.
    rule, part, columns, draw, servers
        See `read_pieces`.
    """
    for partition in partitions_of(labels, period(rule, part)):
        own = partition.path(features), partition.path(labels)
        for rows in read_pieces(partition, *own, rule, part, columns, draw, servers):
            yield partition, rows


def read_pieces(
    partition: Partition,
    features: Path,
    labels: Path,
    rule: Rule,
    part: str,
    columns: list[str] | None = None,
    draw: Draw | None = None,
    servers: Sequence[str] | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield a partition's rows of one part, a piece at a time, in order of (timestamp, server_id).

    Of train those of known label; of the parts that are judged also the observed rows of unknown label, since alarms
    open on them too.

    Parameters
    ----------
    partition : Partition
    features, labels : Path
        Its files.
    rule : dict
        What `split` wrote.
    part : {"train", "validation", "test"}
        Which rows.
    columns : list of str, optional
        Which features; all by default.
    draw : function, optional
        Says of rows (`timestamp`, `server_id`, `label`) which of them are wanted; all by default.
    servers : sequence of str, optional
        Whose rows; all servers' by default.

    Yields
    ------
    DataFrame
        `timestamp`, `server_id`, `label`, `observed` and the features. More than `PIECE_ROWS` rows come in several
        pieces, cut between moments.
    """

    def chosen(rows: pl.DataFrame) -> pl.Series:
        is_wanted = HAS_LABEL if part == "train" else HAS_LABEL | pl.col(tables.OBSERVED)
        if servers is not None:
            is_wanted = is_wanted & pl.col("server_id").is_in(servers)
        inside = (assign(rows, rule) == part).fill_null(False) & rows.select(is_wanted).to_series()
        return inside if draw is None else inside & draw(rows)

    return _pieces(partition, features, read_labels(labels), columns, chosen)


def read_uncovered(
    features: Path, labels: Path, rule: Rule, columns: list[str]
) -> Iterator[tuple[Partition, pl.DataFrame]]:
    """Yield the rows that no incident records cover and that a model may learn from, as `read_part` does.

    They end where the train part does, and of a split by server they are those of its servers.
    """
    span = datetime.min, period(rule, "train")[1]

    def chosen(rows: pl.DataFrame) -> pl.Series:
        uncovered = pl.col("timestamp").is_between(*tables.utc(*span), closed="left")
        uncovered &= pl.col("reason") == tables.UNCOVERED
        if rule["method"] == "server":
            uncovered &= pl.col("server_id").is_in(rule["servers"]["train"])
        return rows.select(uncovered).to_series()

    for partition in partitions_of(labels, span):
        own = tables.read(partition.path(labels), [*KEYS_AND_LABEL, "reason"])
        for rows in _pieces(partition, partition.path(features), own, columns, chosen):
            yield partition, rows


def _pieces(
    partition: Partition,
    features: Path,
    labels: pl.DataFrame,
    columns: list[str] | None,
    choose: Callable[[pl.DataFrame], pl.Series],
) -> Iterator[pl.DataFrame]:
    """Yield the chosen ones of a partition's labelled rows with their features, a piece at a time."""
    moments = labels["timestamp"].gather_every(PIECE_ROWS).unique().sort().dt.replace_time_zone(None)
    for cut in pairwise([partition.start, *moments[1:], partition.end]):
        inside = pl.col("timestamp").is_between(*tables.utc(*cut), closed="left")
        rows = labels.filter(inside)
        chosen = choose(rows)
        if not chosen.any():
            continue
        wanted = None if columns is None else ["timestamp", "server_id", *columns]
        values = tables.read(features, wanted, inside)
        if not values.select("timestamp", "server_id").equals(rows.select("timestamp", "server_id")):
            raise UserError(f"{features} and the labels differ in the rows of {partition.name}: run `dvc repro`")
        kept = rows.drop("reason", strict=False)
        yield kept.hstack(values.drop("timestamp", "server_id")).filter(chosen)
