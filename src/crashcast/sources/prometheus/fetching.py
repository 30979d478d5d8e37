"""Chunks, fetched side by side and kept on disk until the import is done: a run after a killed one goes on."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import reduce
from io import BytesIO
from pathlib import Path

import polars as pl

from crashcast import tables
from crashcast.files import replacing, sha256
from crashcast.params.collect import Collect, Query
from crashcast.sources.prometheus.chunks import Chunk
from crashcast.sources.prometheus.client import Server
from crashcast.sources.prometheus.queries import promql
from crashcast.sources.prometheus.series import COLUMNS, rows
from crashcast.sources.threads import side_by_side
from crashcast.tables import KEYS

DIGITS = 32  # of a hash in a chunk's name


def asked_of(server: Server, queries: Mapping[str, Query], interval: timedelta, moment: datetime) -> dict[str, str]:
    """Return the PromQL of each metric, with ranges as this server reads them; it is asked at a moment, naive UTC."""
    is_left_open = server.is_left_open(moment)
    return {metric: promql(metric, query, interval, is_left_open) for metric, query in queries.items()}


def fetch_chunks(
    server: Server, chunks: list[Chunk], end: datetime, collect: Collect, folder: Path, title: str | None = "collect"
) -> None:
    """Fetch the chunks that are not in the folder.

    Parameters
    ----------
    server : Server
    chunks : list of Chunk
    end : datetime
        Of the last partition; naive, meaning UTC.
    collect : Collect
        The section of params.yaml.
    folder : Path
        Keeps the chunks, named after what was asked and the hash of their bytes.
    title : str or None
        The command, for the progress; None shows none.

    Raises
    ------
    UserError
        If the server refuses, or gives no answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = _kept(folder)

    def fetch(chunk: Chunk) -> None:
        buffer = BytesIO()
        rows(server.read(chunk), chunk.metric, collect).write_parquet(buffer, compression="lz4")
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:DIGITS]
        with replacing(folder / f"{_key(chunk, collect)}.{digest}.parquet") as aside:
            aside.write_bytes(buffer.getvalue())

    missing = []
    for chunk in chunks:
        path = kept.get(_key(chunk, collect))
        if path is None or not _is_usable(path, chunk, end, collect):
            if path is not None:
                path.unlink()
            missing.append(chunk)
    if len(missing) < len(chunks):
        print(f"collect: {len(chunks) - len(missing)} of {len(chunks)} chunks are there already", file=sys.stderr)
    side_by_side(fetch, missing, collect.parallel, title, "chunk", server.end)


def _kept(folder: Path) -> dict[str, Path]:
    return {path.name.partition(".")[0]: path for path in sorted(folder.glob(f"*.{'?' * DIGITS}.parquet"))}


def _key(chunk: Chunk, collect: Collect) -> str:
    labels = [collect.server_label, collect.server_pattern, collect.group_label]
    asked = [collect.url, collect.headers, chunk.promql, str(chunk.first), str(chunk.last), str(chunk.step), labels]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:DIGITS]


def _is_usable(path: Path, chunk: Chunk, end: datetime, collect: Collect) -> bool:
    # usable if no sample can have come late since it was fetched, or if the next run collects those
    fetched = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    is_recent = fetched >= min(chunk.last + collect.late_window, end.replace(tzinfo=UTC))
    return is_recent and sha256(path)[:DIGITS] == path.name.split(".")[1]


def assembled(chunks: list[Chunk], collect: Collect, folder: Path) -> pl.DataFrame:
    """Return fetched chunks as one table: a row per time and server, a column per metric.

    The group of a row is that of the first metric that names one.
    """
    kept, of_metric = _kept(folder), dict[str, list[pl.DataFrame]]()
    for chunk in chunks:
        of_metric.setdefault(chunk.metric, []).append(tables.read(kept[_key(chunk, collect)], COLUMNS))
    frames = [
        pl.concat(fetched).rename({"value": metric, "group": f"group of {metric}"})
        for metric, fetched in of_metric.items()
    ]
    keys = [frame.select(*KEYS) for frame in frames]
    if all(keys[0].equals(others) for others in keys[1:]):  # as almost always: a join takes much longer
        joined = pl.concat([keys[0], *(frame.drop(*KEYS) for frame in frames)], how="horizontal")
    else:
        joined = reduce(lambda one, other: one.join(other, on=list(KEYS), how="full", coalesce=True), frames)
        joined = joined.sort("timestamp", "server_id")
    group = pl.coalesce(f"group of {metric}" for metric in of_metric).alias("group")
    columns = [*KEYS, *([group] if collect.group_label else []), *of_metric]
    return joined.select(columns)
