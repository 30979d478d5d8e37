"""The newest days of telemetry, kept on disk, so that a tick asks the server only for what is new or may be late.

The rows are those that `crashcast collect` would bring, with a file for each `BLOCK_ROWS` rows of a server: a day if
they are an hour apart, and less if they are closer, for a tick writes the newest file anew. Beside them lies a file of
notes: which rows were asked for, and a digest of each moment's rows. It is written last. So if an update is killed, the
next one asks for the same rows again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.files import replacing
from crashcast.grid import floats
from crashcast.params.collect import Collect
from crashcast.params.telemetry import Telemetry
from crashcast.run_record import FOLDER
from crashcast.sources.collect import known_queries
from crashcast.sources.prometheus.chunks import chunks
from crashcast.sources.prometheus.client import Server
from crashcast.sources.prometheus.fetching import asked_of, assembled, fetch_chunks
from crashcast.tables import KEYS, Partition

TAIL = FOLDER / "serve" / "telemetry"
NOTES, CHUNKS = ".notes.json", ".chunks"  # in the tail's folder
BLOCK_ROWS = 24  # of a server, in one file
NAME = "%Y-%m-%dT%H%M%SZ.parquet"  # of a file, after its first moment
EPOCH = datetime(1970, 1, 1)
DIGITS = 32  # of a digest
LATE_LOOKS = 4  # how often a row that may be late is asked for again: at a short interval each tick would cost too much


@dataclass(frozen=True)
class Tail:
    """What the tail holds. Moments are naive, meaning UTC.

    Attributes
    ----------
    folder : Path
    asked_from, asked_to : datetime or None
        The server was asked for all rows between them; None if it never was.
    late_asked : datetime or None
        `asked_to` when late rows were asked for last.
    first : datetime or None
        The oldest row that the server ever gave; it may have been removed since.
    digests : mapping of datetime to str
        Of the rows of each moment.
    """

    folder: Path
    asked_from: datetime | None = None
    asked_to: datetime | None = None
    late_asked: datetime | None = None
    first: datetime | None = None
    digests: Mapping[datetime, str] = field(default_factory=dict)

    @property
    def newest(self) -> datetime | None:
        """The time of the newest row."""
        return max(self.digests, default=None)

    def is_whole(self, since: datetime, interval: timedelta) -> bool:
        """Tell whether it reaches back so far: it was asked for, and the server had samples then."""
        if self.asked_from is None or self.first is None:
            return False
        return self.asked_from <= since and self.first <= since + interval

    def digest(self, start: datetime, end: datetime) -> str:
        """Return a digest of the rows with start <= time < end."""
        inside = sorted((moment, one) for moment, one in self.digests.items() if start <= moment < end)
        return _digest(json.dumps([(moment.isoformat(), one) for moment, one in inside]).encode())


class DamagedError(Exception):
    """A file of the tail cannot be read, or not be merged."""


def read(folder: Path, collect: Collect, telemetry: Telemetry) -> Tail:
    """Return the tail on disk; an empty one if there is none, or if other rows would be asked for now."""
    try:
        notes = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        if notes["key"] != _key(collect, telemetry):
            return Tail(folder)
        first, *asked = map(datetime.fromisoformat, notes["spans"])
        asked_from, asked_to, late_asked = asked
        digests = {datetime.fromisoformat(moment): digest for moment, digest in notes["digests"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it is fetched again
        return Tail(folder)
    return Tail(folder, asked_from, asked_to, late_asked, first, digests)


def update(
    tail: Tail,
    server: Server,
    collect: Collect,
    telemetry: Telemetry,
    since: datetime,
    until: datetime,
    late_window: timedelta,
) -> tuple[Tail, pl.DataFrame]:
    """Bring the tail up to a moment.

    Parameters
    ----------
    tail : Tail
    server : Server
        Prometheus, or a server with its API.
    collect, telemetry : Collect, Telemetry
        What to ask for.
    since, until : datetime
        The oldest and the newest row that are needed, both whole intervals.
    late_window : timedelta
        Rows of this time before the newest known one are asked for again, `late_period` after they last were.

    Returns
    -------
    Tail
    DataFrame
        The last rows that the server gave now, of one file at most: `timestamp`, `server_id`, `group` if telemetry has
        groups, and the metrics.

    Raises
    ------
    UserError
        If the server gives no answer or a wrong one: the next update then starts where this one did.
    OSError
        If the disk is full: so it does then.
    """
    start, asked_from, late_asked = since, since, until
    if tail.asked_from and tail.asked_to and tail.late_asked and tail.asked_from <= since <= tail.asked_to:
        late = -(-late_window // telemetry.interval) * telemetry.interval
        start, asked_from, late_asked = min(tail.asked_to, until), tail.asked_from, tail.late_asked
        if until - late_asked >= late_period(late_window, telemetry.interval):
            start, late_asked = max(tail.asked_from, min(late_asked, until) - late), until
    queries, _ = known_queries(collect, telemetry)
    asked, digests, found = asked_of(server, queries, telemetry.interval, until), dict[datetime, str](), pl.DataFrame()
    try:
        for first, last in _blocks(start, until, telemetry.interval):  # one at a time, to save memory
            found = _fetch(server, collect, telemetry, asked, first, last, tail.folder / CHUNKS)
            if first == start:
                _prepare(tail)
            digests |= _store(tail.folder, found, telemetry)
    except DamagedError:  # all of it is fetched again
        return update(Tail(tail.folder), server, collect, telemetry, since, until, late_window)
    updated = Tail(
        tail.folder,
        asked_from=asked_from,
        asked_to=until,
        late_asked=late_asked,
        first=min([*digests, tail.first or datetime.max]),
        digests={**tail.digests, **digests},
    )
    _write_notes(updated, collect, telemetry)
    return updated, found


def late_period(late_window: timedelta, interval: timedelta) -> timedelta:
    """Return how long after late rows were asked for they are asked for again."""
    return max(interval, late_window / LATE_LOOKS)


def prune(tail: Tail, before: datetime, collect: Collect, telemetry: Telemetry) -> Tail:
    """Remove the files whose rows are all from before a moment."""
    length = BLOCK_ROWS * telemetry.interval
    gone = {path: first + length for first, path in _files(tail.folder) if first + length <= before}
    if not gone or tail.asked_from is None:
        return tail
    end = max(gone.values())
    pruned = replace(
        tail,
        asked_from=max(tail.asked_from, end),
        digests={moment: digest for moment, digest in tail.digests.items() if moment >= end},
    )
    _write_notes(pruned, collect, telemetry)  # first: what is not noted is asked for again
    for path in gone:
        path.unlink()
    return pruned


def read_files(
    folder: Path, start: datetime, end: datetime, columns: Sequence[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a tail with start <= timestamp < end, file by file, each sorted by (timestamp, server_id).

    Raises
    ------
    UserError
        If a file is damaged.
    """
    inside, listed = pl.col("timestamp").is_between(*tables.utc(start, end), closed="left"), _files(folder)
    nexts = [first for first, _ in listed[1:]] + [datetime.max]
    for (first, path), following in zip(listed, nexts, strict=False):
        if first < end and start < following:
            yield tables.read(path, columns, None if start <= first and following <= end else inside)


def newest_groups(folder: Path, since: datetime) -> dict[str, str]:
    """Return the group of each server by its newest row, not before `since`, of a tail whose telemetry has groups.

    Raises
    ------
    UserError
        If no rows have any, or they cannot be read.
    """
    found = dict[str, str]()
    for rows in read_files(folder, since, datetime.max, [*KEYS, "group"]):
        newest = rows.drop_nulls("group").unique("server_id", keep="last", maintain_order=True)
        found |= dict(newest.select("server_id", "group").iter_rows())
    return found


def is_damaged(tail: Tail) -> bool:
    """Tell whether a file cannot be read; all of the tail is then fetched again by the next update."""
    try:
        for _, path in _files(tail.folder):
            tables.read(path)
    except UserError:
        (tail.folder / NOTES).unlink(missing_ok=True)
        return True
    return False


def _files(folder: Path) -> list[tuple[datetime, Path]]:
    """Return the first moment of each file's block, and the file, in order of time."""
    return sorted((datetime.strptime(path.name, NAME), path) for path in folder.glob("*Z.parquet"))


def _block_start(moment: datetime, interval: timedelta) -> datetime:
    """Return the first moment of the block that holds a moment."""
    length = BLOCK_ROWS * interval
    return EPOCH + (moment - EPOCH) // length * length


def _blocks(start: datetime, until: datetime, interval: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """Yield the first and the last row of each block from `start` to `until`."""
    while start <= until:
        end = _block_start(start, interval) + BLOCK_ROWS * interval
        yield start, min(until, end - interval)
        start = end


def _fetch(
    server: Server,
    collect: Collect,
    telemetry: Telemetry,
    asked: dict[str, str],
    first: datetime,
    last: datetime,
    folder: Path,
) -> pl.DataFrame:
    block = Partition(first, last + telemetry.interval, telemetry.partition)
    plan = list(chunks(block, first, last, asked, telemetry.interval, collect.chunk))
    fetch_chunks(server, plan, datetime.max, collect, folder, title=None)
    found = assembled(plan, collect, folder)
    shutil.rmtree(folder)
    return found.with_columns(pl.col(metric).cast(pl.Float32) for metric in telemetry.metrics)


def _store(folder: Path, found: pl.DataFrame, telemetry: Telemetry) -> dict[datetime, str]:
    """Merge the rows of a block into its file, and return the digest of each of their moments as it is then."""
    if found.is_empty():
        return {}
    first: datetime = found["timestamp"][0]
    path = folder / _block_start(first.replace(tzinfo=None), telemetry.interval).strftime(NAME)
    try:
        old = tables.read(path) if path.exists() else found.clear()
        is_before = old["timestamp"] < first  # most rows: they need no merging
        before, again = old.filter(is_before), old.filter(~is_before)
        merged = pl.concat([again.join(found, on=list(KEYS), how="anti"), found]).sort(*KEYS)
    except (UserError, pl.exceptions.PolarsError):
        raise DamagedError from None
    if not merged.equals(again):
        tables.write(path, pl.concat([before, merged]))
    touched = merged.join(found.select("timestamp").unique(), on="timestamp", how="semi", maintain_order="left")
    return {
        some["timestamp"][0].replace(tzinfo=None): digest_of(some, telemetry)
        for some in touched.partition_by("timestamp", maintain_order=True)
    }


def digest_of(rows: pl.DataFrame, telemetry: Telemetry) -> str:
    """Return a digest of the rows of one moment, sorted by server: of the servers' names and every bit of a metric."""
    hashed = hashlib.sha256(json.dumps(rows["server_id"].to_list()).encode())
    for metric in telemetry.metrics:
        hashed.update(floats(rows[metric]).tobytes())
    return hashed.hexdigest()[:DIGITS]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _key(collect: Collect, telemetry: Telemetry) -> str:
    """Return a digest of what decides which rows the server gives."""
    queries, _ = known_queries(collect, telemetry)
    labels = [collect.server_label, collect.server_pattern, collect.group_label]
    blocks = [str(telemetry.interval), BLOCK_ROWS]
    asked: list[Any] = [collect.url, collect.headers, list(queries.items()), labels, blocks]
    return _digest(json.dumps(asked).encode())


def _write_notes(tail: Tail, collect: Collect, telemetry: Telemetry) -> None:
    spans = [tail.first, tail.asked_from, tail.asked_to, tail.late_asked]
    notes = {
        "key": _key(collect, telemetry),
        "spans": [(moment or datetime.max).isoformat() for moment in spans],
        "digests": {moment.isoformat(): digest for moment, digest in sorted(tail.digests.items())},
    }
    with replacing(tail.folder / NOTES) as aside:
        aside.write_text(json.dumps(notes), encoding="utf-8")


def _prepare(tail: Tail) -> None:
    """Empty the folder of a tail of which nothing is known."""
    if tail.asked_from is None:
        (tail.folder / NOTES).unlink(missing_ok=True)  # first: they speak of the files
        for path in list(tail.folder.glob("*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
