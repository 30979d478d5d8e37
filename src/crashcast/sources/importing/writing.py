"""New rows merged into the tables of data/raw; the merged tables are written to the workspace of an import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.files import link
from crashcast.params.telemetry import Telemetry
from crashcast.paths import (
    ACTIONS_PATH,
    ALARMS_PATH,
    COVERAGE_PATH,
    INCIDENTS_PATH,
    TELEMETRY_PATH,
    TICKET_SOURCES_PATH,
)
from crashcast.sources.importing import merging
from crashcast.sources.importing.parsing import Records, Samples
from crashcast.sources.importing.report import Report
from crashcast.sources.value_formats import utc_text
from crashcast.tables import CRASH, KEYS, Partition
from crashcast.text import some_of

MAY_BE_EMPTY: dict[Path, dict[str, Any]] = {  # and their schemas; data of earlier versions is without them
    TICKET_SOURCES_PATH: tables.TICKET_SOURCES,
    ALARMS_PATH: tables.ALARMS,
    ACTIONS_PATH: tables.ACTIONS,
}
MAX_CONFLICTING_SHARE = 0.1  # above it, the rows of a file stand for something finer than servers


def write_telemetry(files: list[Samples], telemetry: Telemetry, folder: Path, is_merge: bool, report: Report) -> bool:
    """Write the partitions that change, each merged on its own; return whether any does.

    Raises
    ------
    UserError
        If too many rows have the server and time of another one, but other values.
    """
    columns = [*KEYS, *telemetry.metrics]
    partitions = _partitions_of(files, telemetry.partition)
    new_table, counts, written, conflict = folder / TELEMETRY_PATH.name, Counter[str](), 0, ""
    for partition in partitions:
        rows = _rows_of(partition, files, columns)
        new, repeats = merging.last_of_each(rows, list(KEYS))
        path = partition.path(TELEMETRY_PATH)
        old = tables.read(path, columns) if is_merge and path.exists() else new.clear()
        merged, changes = merging.merge(old, new, list(KEYS))
        counts += repeats + changes
        if repeats["conflicting"] and not conflict:
            conflict = _example_of_conflict(rows)
        if changes["added"] or changes["corrected"]:
            tables.write(partition.path(new_table), merged.sort("timestamp", "server_id"))
            written += 1
    share = counts["conflicting"] / counts.total()
    if share > MAX_CONFLICTING_SHARE:
        message = f"{share:.0%} of rows have the server and time of another row, but other values, such as {conflict}"
        raise UserError(f"telemetry: {message}; give one row per server and time, with a column per metric or device")
    if is_merge and written:
        _link_others(new_table)
    if counts["repeated"] or counts["conflicting"]:
        repeated = f"{counts['repeated']:,} rows repeat another, {counts['conflicting']:,} conflict with a later one"
        report.assumed.append(f"{repeated}: of a server's samples at one moment the last one read holds")
    changed = _changes(counts, "rows")
    report.written.append(f"{TELEMETRY_PATH}: {changed}; {written:,} of {len(partitions):,} partitions written")
    return written > 0


def _partitions_of(files: list[Samples], unit: str) -> list[Partition]:
    days = pl.concat([file.scan().select(pl.col("timestamp").dt.date()) for file in files]).unique().collect()
    moments = (datetime(day.year, day.month, day.day) for day in days["timestamp"])
    return sorted({tables.partition_at(moment, unit) for moment in moments})


def _rows_of(partition: Partition, files: list[Samples], columns: list[str]) -> pl.DataFrame:
    start, end = tables.utc(partition.start, partition.end)
    begin, stop = (moment.replace(tzinfo=UTC) for moment in (partition.start, partition.end))
    frames = [
        file.scan().filter(pl.col("timestamp").is_between(start, end, closed="left")).select(columns).collect()
        for file in files
        if file.first < stop and begin <= file.last
    ]
    return pl.concat(frames)


def _example_of_conflict(rows: pl.DataFrame) -> str:
    keys = rows.unique().select(*KEYS)
    moment, server = keys.filter(keys.is_duplicated()).sort("timestamp", "server_id").row(0)
    return f"{server} at {utc_text(moment)}"


def _link_others(new_table: Path) -> None:
    # the partitions that do not change: nothing to copy, and DVC need not hash them again
    for partition in tables.partitions(TELEMETRY_PATH):
        source, target = partition.path(TELEMETRY_PATH), partition.path(new_table)
        if not target.exists():
            link(source, target)


def _changes(counts: Counter[str], noun: str) -> str:
    return f"{counts['added']:,} {noun} added, {counts['corrected']:,} corrected, {counts['unchanged']:,} unchanged"


def write_incidents(incidents: Records | None, folder: Path, is_merge: bool, report: Report) -> pl.DataFrame:
    """Write and return the incidents, merged into those of earlier imports; without incidents, an empty table."""
    if incidents is None:
        brings = "`crashcast import --incidents` or `crashcast incidents` brings them"
        report.assumed.append(f"there are no incidents yet, and nothing to learn from: {brings}")
    new = pl.DataFrame(schema=tables.INCIDENTS) if incidents is None else incidents.frame  # type: ignore[arg-type]
    old = tables.read(INCIDENTS_PATH, tables.INCIDENTS) if is_merge else new.clear()
    if incidents is not None and not incidents.has_ids:
        new = merging.adopt_ids(old, new)
    merged, counts = merging.merge(old, new, ["incident_id"])
    tables.write(folder / INCIDENTS_PATH.name, merged.sort("started_at", "server_id", "incident_id"))
    crashes = merged.filter(pl.col("kind") == CRASH)
    total = f"{crashes.height:,} crashes on {crashes['server_id'].n_unique():,} servers in all"
    report.written.append(f"{INCIDENTS_PATH}: {_changes(counts, 'incidents')}; {total}")
    return merged


def write_actions(actions: Records, folder: Path, is_merge: bool, report: Report) -> None:
    """Write the actions, merged into those that are there."""
    is_there = is_merge and ACTIONS_PATH.exists()
    old = tables.read(ACTIONS_PATH, tables.ACTIONS) if is_there else actions.frame.clear()
    merged, counts = merging.merge(old, actions.frame, tables.ACTION_KEY)
    tables.write(folder / ACTIONS_PATH.name, merged.sort(tables.ACTION_KEY))
    report.written.append(f"{ACTIONS_PATH}: {_changes(counts, 'actions')}")


def write_coverage(
    coverage: Records | None,
    old: pl.DataFrame | None,
    files: list[Samples],
    spans: pl.DataFrame,
    interval: timedelta,
    folder: Path,
    report: Report,
) -> pl.DataFrame:
    """Write and return the coverage: a file's, or every server's to the end of telemetry, joined with earlier periods.

    Parameters
    ----------
    coverage : Records, optional
        The file's.
    old : DataFrame, optional
        The coverage of earlier imports.
    files : list of Samples
        Name the servers' groups, if `coverage` does not.
    spans : DataFrame
        `server_id`, `first` and `last` sample.
    interval : timedelta
        The cadence.
    folder : Path
        The workspace.
    report : Report
    """
    periods = _assumed_coverage(old, spans, interval, report) if coverage is None else coverage.frame
    schema: dict[str, Any] = {"timestamp": tables.TIMESTAMP, "server_id": pl.String, "group": pl.String}
    groups = [pl.DataFrame(schema=schema), *(file.groups.select(*schema) for file in files)]
    seen_groups = pl.concat(groups).sort("timestamp", maintain_order=True)
    last_groups = seen_groups.group_by("server_id", maintain_order=True).last()
    of_server = dict(last_groups.select("server_id", "group").iter_rows())
    group = pl.col("server_id").replace_strict(of_server, default=None, return_dtype=pl.String)
    periods = periods.with_columns(group=pl.coalesce("group", group))
    stated = periods if old is None else pl.concat([old.select(*tables.COVERAGE), periods])
    _report_changes_of_group(pl.concat([frame.select("server_id", "group") for frame in (stated, seen_groups)]), report)
    merged = merging.merge_coverage(stated)
    tables.write(folder / COVERAGE_PATH.name, merged)
    count = merged["group"].drop_nulls().n_unique()
    in_groups = f" in {count:,} groups" if count else ""
    report.written.append(f"{COVERAGE_PATH}: {merged['server_id'].n_unique():,} servers{in_groups}")
    return merged


def _report_changes_of_group(groups: pl.DataFrame, report: Report) -> None:
    named = groups.drop_nulls().unique()
    if servers := sorted(named.filter(pl.col("server_id").is_duplicated())["server_id"].unique()):
        message = f"the group of {some_of(servers)} has changed, and the newest is taken for all rows of a server"
        report.assumed.append(f"{message}: features.categories must not list groups that follow from crashes")


def _assumed_coverage(
    old: pl.DataFrame | None, spans: pl.DataFrame, interval: timedelta, report: Report
) -> pl.DataFrame:
    end: datetime = spans["last"].max()  # type: ignore[assignment]
    if old is None:
        return merging.assume_coverage(spans, interval, end)
    old_end = fleet_end()
    end = max(end, old_end)
    periods = merging.assume_coverage(spans, interval, end, old, old_end)
    if silent := set(periods["server_id"]) - set(spans["server_id"]):
        message = f"incidents were recorded until {utc_text(end)} for servers without new samples too"
        report.assumed.append(f"{message} ({some_of(sorted(silent))}): --coverage says otherwise")
    stated = old.group_by("server_id").agg(begun=pl.col("covered_from").min(), ended=pl.col("covered_to").max())
    stated = stated.filter(pl.col("ended") != old_end)
    uncovered = spans.join(stated, on="server_id").filter(pl.col("first") < pl.col("begun"))["server_id"]
    if uncovered.len():
        message = f"{some_of(sorted(uncovered))} has samples before its coverage, which an earlier import was given"
        report.assumed.append(f"{message}: those rows have no labels; --coverage says otherwise")
    return periods


def write_empty(paths: Iterable[Path], folder: Path) -> None:
    """Write tables of `MAY_BE_EMPTY` without rows."""
    for path in paths:
        tables.write(folder / path.name, pl.DataFrame(schema=MAY_BE_EMPTY[path]))


def fleet_end() -> datetime:
    """Return the last sample of all telemetry in data/raw."""
    newest = tables.partitions(TELEMETRY_PATH)[-1].path(TELEMETRY_PATH)
    last = tables.read(newest, ["timestamp"])["timestamp"].max()
    assert isinstance(last, datetime)  # no partition is empty
    return last
