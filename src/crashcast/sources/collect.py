"""`crashcast collect`: bring telemetry from a Prometheus-compatible server, from files or from S3 into data/raw.

Collected telemetry becomes files that are then imported: so a partition enters data/raw whole or not at all. Until the
import is done, finished chunks and downloaded files stay in `COLLECTED`: a run after a killed one does not ask for them
again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.files import held_alone
from crashcast.params.base import PATH, format_duration
from crashcast.params.collect import Collect, Query
from crashcast.params.telemetry import Telemetry
from crashcast.paths import RAW, TELEMETRY_PATH
from crashcast.sources.bucket import local_files
from crashcast.sources.importing.local_time import Clock
from crashcast.sources.importing.report import Report
from crashcast.sources.importing.run_import import import_files, known_telemetry
from crashcast.sources.importing.transaction import recover
from crashcast.sources.importing.writing import fleet_end
from crashcast.sources.prometheus.chunks import Chunk, choose, chunks
from crashcast.sources.prometheus.client import Server
from crashcast.sources.prometheus.fetching import asked_of, assembled, fetch_chunks
from crashcast.tables import Partition
from crashcast.versioning import commit_limits

CLOCK = Clock(flag="crashcast import --time-zone")
COLLECTED = RAW.parent / ".collect"


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
        Files, folders and `s3://bucket/prefix`; if there are none, the server is asked.
    since, until : datetime, optional
        Naive, meaning UTC. The server's partitions from the one that holds `since`, by default the newest one there, to
        the last that ends by `until`, by default now.
    is_open : bool
        Also the partition that is not over yet.
    again : bool
        Also collected partitions; without it, of those only the time in which samples may have come late.
    incidents, coverage, replace
        As of `import_files`.

    Returns
    -------
    list of str
        What was done, for the user; empty if there was nothing to do.

    Raises
    ------
    UserError
        If a source cannot be read: data/raw and params.yaml are then as they were.
    """
    if COLLECTED.exists():
        commit_limits.check_places()  # chunks that a commit brought would be taken for a server's
    with held_alone(COLLECTED / "lock", "another `crashcast collect` runs in this clone: wait until it is done"):
        recover()
        if sources:
            if since or until or is_open or again:
                raise UserError("--since, --until, --open and --again are for a server: files are taken whole")
            paths = list(local_files(sources, COLLECTED / "s3"))
            lines = import_files(paths, incidents, coverage, replace, clock=CLOCK, incident_clock=CLOCK)
        else:
            lines = _from_server(since, until, is_open, again, incidents, coverage, replace)
        for done in COLLECTED.iterdir():
            if done.is_dir():
                shutil.rmtree(done)
    return lines


def _from_server(
    since: datetime | None,
    until: datetime | None,
    is_open: bool,
    again: bool,
    incidents: Path | None,
    coverage: Path | None,
    replace: bool,
) -> list[str]:
    section, known = Collect.read(), known_telemetry(replace, Report())
    telemetry, queries, unasked = known or Telemetry.read(), section.queries, list[str]()
    present, reach = list[Partition](), None
    if known:
        queries, unasked = known_queries(section, known)
        present = tables.partitions(TELEMETRY_PATH)
        reach = fleet_end().replace(tzinfo=None) - section.late_window
    elif since is None:
        raise UserError("nothing has been collected yet: say from when on, such as --since 2026-01-01")
    now = datetime.now(UTC).replace(tzinfo=None)
    until = min(until or now, now)
    chosen = choose(telemetry.partition, present, reach, since, until, is_open, again)
    if not chosen:
        return []
    server = Server(section.url, headers=section.headers)
    asked = asked_of(server, queries, telemetry.interval, until)
    plans = {
        partition: list(chunks(partition, start, until, asked, telemetry.interval, section.chunk))
        for partition, start in chosen.items()
    }
    folder = COLLECTED / "server"
    fetch_chunks(server, [chunk for plan in plans.values() for chunk in plan], max(chosen).end, section, folder)
    paths, said = [], [f"Collected from {section.url}:", *unasked]
    for partition, plan in plans.items():
        frame = assembled(plan, section, folder)
        said.append(f"  {partition.name}: {_span(plan, frame)}")
        if frame.height:
            path = folder / f"{partition.name}.parquet"
            frame.write_parquet(path)
            paths.append(path)
    if not paths:
        names = " to ".join(dict.fromkeys((min(chosen).name, max(chosen).name)))
        raise UserError(f"{section.url} has no samples for collect.queries in {names}: are its metrics named so?")
    interval = format_duration(telemetry.interval)
    return [*said, *import_files(paths, incidents, coverage, replace, interval, telemetry.partition)]


def known_queries(section: Collect, telemetry: Telemetry) -> tuple[dict[str, Query], list[str]]:
    """Return the query of each metric that earlier rows have, and what to say of the others.

    Raises
    ------
    UserError
        If a metric has no query: new rows must have the metrics of earlier ones.
    """
    if missing := [metric for metric in telemetry.metrics if metric not in section.queries]:
        message = f"{PATH}: collect.queries has none for {missing[0]}, which telemetry.metrics names"
        raise UserError(f"{message}; write one, or start over with --replace")
    unasked = [metric for metric in section.queries if metric not in telemetry.metrics]
    said = [f"  {metric} was not asked for: {TELEMETRY_PATH} is without it, until --replace" for metric in unasked]
    return {metric: section.queries[metric] for metric in telemetry.metrics}, said


def _span(plan: list[Chunk], frame: pl.DataFrame) -> str:
    if frame.is_empty():
        return "no samples"
    first, last = frame["timestamp"][0], frame["timestamp"][-1]
    late = " (it begins late: does the server keep data that long?)" if first > plan[0].first else ""
    return f"{frame.height:,} rows, {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}{late}"
