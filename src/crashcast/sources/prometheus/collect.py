"""`crashcast collect`: telemetry from where it lives, a Prometheus-compatible server or S3, into data/raw.

What is collected becomes files, and the importer does the rest: so a partition enters data/raw whole or not at all, and
a row that came before is corrected, never lost. Until then every finished chunk, or file of a bucket, waits in
`COLLECTED` for a run that follows a killed one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import reduce
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import polars as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from crashcast import tables
from crashcast.errors import UserError
from crashcast.files import replacing, sha256
from crashcast.params.base import PATH, format_duration
from crashcast.params.collect import Collect, Query
from crashcast.params.telemetry import Telemetry
from crashcast.paths import RAW, TELEMETRY
from crashcast.sources.importing.columns import SUFFIXES
from crashcast.sources.importing.files import import_files, known_telemetry
from crashcast.sources.importing.report import Report
from crashcast.sources.importing.transaction import recover
from crashcast.sources.prometheus.client import COLUMNS, MAX_POINTS, Chunk, Server, promql, rows
from crashcast.tables import KEYS, Partition

COLLECTED = RAW.parent / ".collect"
S3 = "s3://"
DIGITS = 32  # of a hash in a chunk's name
DOWNLOADS = 4  # at once
LINES = 20  # of progress, where there is no terminal
Item = TypeVar("Item")


def collect(
    sources: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    is_open: bool = False,
    again: bool = False,
    incidents: Path | None = None,
    coverage: Path | None = None,
    replace: bool = False,
) -> list[str]:
    """Bring telemetry from the server that params.yaml names, or from files, into data/raw.

    Parameters
    ----------
    sources : sequence of str
        Files, folders and `s3://bucket/prefix`; none of them means the server.
    since, until : datetime, optional
        Naive, meaning UTC. The server's partitions from the one that holds `since`, by default the newest one there, to
        the last that ends by `until`, by default now.
    is_open : bool
        Also the partition that is not over yet.
    again : bool
        Also partitions that are there; without it, of those only what late samples may have changed.
    incidents, coverage, replace
        As of `import_files`.

    Returns
    -------
    list of str
        What was done, for the user; empty where there was nothing to do.

    Raises
    ------
    UserError
        Where a source cannot be read: data/raw and params.yaml are then as they were.
    """
    with _alone():
        recover()
        if sources:
            if since or until or is_open or again:
                raise UserError("--since, --until, --open and --again are for a server: files are taken whole")
            lines = import_files(list(_local(sources)), incidents, coverage, replace)
        else:
            lines = _from_server(since, until, is_open, again, incidents, coverage, replace)
        for done in COLLECTED.iterdir():
            if done.is_dir():
                shutil.rmtree(done)
    return lines


@contextmanager
def _alone() -> Iterator[None]:
    COLLECTED.mkdir(parents=True, exist_ok=True)
    with (COLLECTED / "lock").open("w") as lock:  # let go of by the kernel, however this ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError("another `crashcast collect` runs in this clone: wait until it is done") from None
        yield


def _from_server(
    since: datetime | None,
    until: datetime | None,
    is_open: bool,
    again: bool,
    incidents: Path | None,
    coverage: Path | None,
    replace: bool,
) -> list[str]:
    settings, known = Collect.read(), known_telemetry(replace, Report())
    telemetry, queries, unasked = known or Telemetry.read(), settings.queries, list[str]()
    present, reach = list[Partition](), None
    if known:
        queries, unasked = _known(settings, known)
        present = tables.partitions(TELEMETRY)
        reach = _newest(present[-1]) - settings.late_window
    elif since is None:
        raise UserError("nothing has been collected yet: say from when on, such as --since 2026-01-01")
    now = datetime.now(UTC).replace(tzinfo=None)
    until = min(until or now, now)
    chosen = choose(telemetry.partition, present, reach, since, until, is_open, again)
    if not chosen:
        return []
    server = Server(settings.url)
    is_left_open = server.is_left_open(until)
    asked = {metric: promql(metric, query, telemetry.interval, is_left_open) for metric, query in queries.items()}
    plans = {
        partition: list(chunks(partition, start, until, asked, telemetry.interval, settings.chunk))
        for partition, start in chosen.items()
    }
    folder = COLLECTED / "server"
    _fetch(server, [chunk for plan in plans.values() for chunk in plan], max(chosen).end, settings, folder)
    paths, said = [], [f"Collected from {settings.url}:", *unasked]
    for partition, plan in plans.items():
        frame = _assembled(plan, settings, folder)
        said.append(f"  {partition.name}: {_span(plan, frame)}")
        if frame.height:
            path = folder / f"{partition.name}.parquet"
            frame.write_parquet(path)
            paths.append(path)
    if not paths:
        names = " to ".join(dict.fromkeys((min(chosen).name, max(chosen).name)))
        raise UserError(f"{settings.url} has no samples for collect.queries in {names}: are its metrics named so?")
    interval = format_duration(telemetry.interval)
    return [*said, *import_files(paths, incidents, coverage, replace, interval, telemetry.partition)]


def _newest(partition: Partition) -> datetime:
    newest = tables.read(partition.path(TELEMETRY), ["timestamp"])["timestamp"].max()
    assert isinstance(newest, datetime)  # no partition is empty
    return newest.replace(tzinfo=None)


def _known(settings: Collect, telemetry: Telemetry) -> tuple[dict[str, Query], list[str]]:
    # what is collected must have the metrics that are there
    if missing := [metric for metric in telemetry.metrics if metric not in settings.queries]:
        message = f"{PATH}: collect.queries has none for {missing[0]}, which telemetry.metrics names"
        raise UserError(f"{message}; write one, or start over with --replace")
    unasked = [metric for metric in settings.queries if metric not in telemetry.metrics]
    said = [f"  {metric} was not asked for: {TELEMETRY} is without it, until --replace" for metric in unasked]
    return {metric: settings.queries[metric] for metric in telemetry.metrics}, said


def choose(
    unit: str,
    present: Collection[Partition],
    reach: datetime | None,
    since: datetime | None,
    until: datetime,
    is_open: bool = False,
    again: bool = False,
) -> dict[Partition, datetime]:
    """Choose the partitions to collect, and from when on: missing ones as a whole, the others where they may be late.

    Parameters
    ----------
    unit : {"month", "week", "day"}
        Their length.
    present : collection of Partition
        Those that are there.
    reach : datetime, optional
        The time of the newest row less the late window. What is there was collected after that row's time, so that no
        sample from before `reach` could come later. None where nothing is there.
    since, until : datetime
        The period wanted, by default from `reach` or the first partition on.
    is_open, again : bool
        Also the partition that holds `until`; also all of those that are there.
    """
    first = since
    if first is None:
        assert reach is not None
        first = max(reach, min(present).start)
    chosen, partition = {}, tables.partition_at(first, unit)
    while partition.start <= until if is_open else partition.end <= until:
        if again or reach is None or partition not in present:
            chosen[partition] = partition.start
        elif partition.end > reach:
            chosen[partition] = max(partition.start, reach)
        partition = tables.partition_at(partition.end, unit)
    return chosen


def chunks(
    partition: Partition,
    start: datetime,
    until: datetime,
    asked: dict[str, str],
    interval: timedelta,
    chunk: timedelta,
) -> Iterator[Chunk]:
    """Yield what to ask for the rows of a partition from `start` to `until`: metric by metric, some time at once."""
    points = max(1, min(chunk // interval, MAX_POINTS))
    # the row at a time speaks for the interval before it
    count = min((partition.end - partition.start) // interval, (until - partition.start) // interval + 1)
    origin = partition.start.replace(tzinfo=UTC)
    for metric, query in asked.items():
        for begin in range((start - partition.start) // interval, count, points):
            last = min(begin + points, count) - 1
            yield Chunk(metric, query, origin + begin * interval, origin + last * interval, interval)


def _fetch(server: Server, chunks: list[Chunk], end: datetime, settings: Collect, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kept = _kept(folder)

    def fetch(chunk: Chunk) -> None:
        buffer = BytesIO()
        rows(server.read(chunk), chunk.metric, settings).write_parquet(buffer, compression="lz4")
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:DIGITS]
        with replacing(folder / f"{_key(chunk, settings)}.{digest}.parquet") as aside:
            aside.write_bytes(buffer.getvalue())

    missing = []
    for chunk in chunks:
        path = kept.get(_key(chunk, settings))
        if path is None or not _is_usable(path, chunk, end, settings):
            if path is not None:
                path.unlink()
            missing.append(chunk)
    if len(missing) < len(chunks):
        print(f"collect: {len(chunks) - len(missing)} of {len(chunks)} chunks are there already", file=sys.stderr)
    _side_by_side(fetch, missing, settings.parallel, "chunk", server.end)


def _kept(folder: Path) -> dict[str, Path]:
    return {path.name.partition(".")[0]: path for path in sorted(folder.glob(f"*.{'?' * DIGITS}.parquet"))}


def _key(chunk: Chunk, settings: Collect) -> str:
    labels = [settings.server_label, settings.server_pattern, settings.group_label]
    asked = [settings.url, chunk.promql, str(chunk.first), str(chunk.last), str(chunk.step), labels]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:DIGITS]


def _is_usable(path: Path, chunk: Chunk, end: datetime, settings: Collect) -> bool:
    # samples that came late since are lost, unless none can have, or the next run collects them
    fetched = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    is_recent = fetched >= min(chunk.last + settings.late_window, end.replace(tzinfo=UTC))
    return is_recent and sha256(path)[:DIGITS] == path.name.split(".")[1]


def _assembled(plan: list[Chunk], settings: Collect, folder: Path) -> pl.DataFrame:
    # one row per moment and server, a column per metric; the first metric that names a group has the say
    kept, of_metric = _kept(folder), dict[str, list[pl.DataFrame]]()
    for chunk in plan:
        of_metric.setdefault(chunk.metric, []).append(tables.read(kept[_key(chunk, settings)], COLUMNS))
    frames = [
        pl.concat(chunks).rename({"value": metric, "group": f"group of {metric}"})
        for metric, chunks in of_metric.items()
    ]
    joined = reduce(lambda one, other: one.join(other, on=list(KEYS), how="full", coalesce=True), frames)
    group = pl.coalesce(f"group of {metric}" for metric in of_metric).alias("group")
    columns = [*KEYS, *([group] if settings.group_label else []), *of_metric]
    return joined.select(columns).sort("timestamp", "server_id")


def _span(plan: list[Chunk], frame: pl.DataFrame) -> str:
    if frame.is_empty():
        return "no samples"
    first, last = frame["timestamp"][0], frame["timestamp"][-1]
    late = " (it begins late: does the server keep data that long?)" if first > plan[0].first else ""
    return f"{frame.height:,} rows, {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}{late}"


def _local(sources: Sequence[str]) -> Iterator[Path]:
    for source in sources:
        if source.startswith(S3):
            yield from _downloaded(source)
        elif "://" in source:
            raise UserError(f"{source} is neither a file nor {S3}bucket/prefix; a server's address is collect.url")
        else:
            yield Path(source)


def _downloaded(source: str) -> list[Path]:
    import fsspec
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        bucket = fsspec.filesystem("s3", use_listings_cache=False)
        found = bucket.find(source, detail=True)
        members = {name: facts for name, facts in sorted(found.items()) if name.lower().endswith(SUFFIXES)}
        if not members:
            raise UserError(f"{source} holds no telemetry: no {', '.join(SUFFIXES)} below it")

        def download(name: str) -> None:
            path, size, changed = COLLECTED / "s3" / name, members[name]["size"], members[name]["LastModified"]
            with suppress(FileNotFoundError):
                if (facts := path.stat()).st_size == size and facts.st_mtime == int(changed.timestamp()):
                    return  # by a run that was killed
            with replacing(path) as aside:
                bucket.get_file(name, str(aside))
                if aside.stat().st_size != size:
                    raise UserError(f"{S3}{name} changed while it was read: run the same command again")
                os.utime(aside, (changed.timestamp(), int(changed.timestamp())))

        _side_by_side(download, list(members), DOWNLOADS, "file")
    except (OSError, BotoCoreError, ClientError) as error:
        raise UserError(f"{source} cannot be read with the AWS settings of this shell: {error}") from None
    return [COLLECTED / "s3" / name for name in members]


def _side_by_side(
    work: Callable[[Item], None], items: Sequence[Item], parallel: int, noun: str, stop: Callable[[], object] = int
) -> None:
    with ThreadPoolExecutor(parallel) as pool, _progress(noun, len(items)) as advance:
        try:
            for future in as_completed([pool.submit(work, item) for item in items]):
                future.result()
                advance()
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _progress(noun: str, total: int) -> Iterator[Callable[[], None]]:
    if sys.stderr.isatty():
        columns = (TextColumn("collect"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, transient=True) as progress:
            bar = progress.add_task("collect", total=total)
            yield lambda: progress.advance(bar)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % math.ceil(total / LINES) == 0 or done == total:
            print(f"collect: {noun} {done:,} of {total:,}", file=sys.stderr, flush=True)

    yield advance
