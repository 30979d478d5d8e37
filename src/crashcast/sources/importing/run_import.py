"""`crashcast import`: bring files of telemetry and incidents into data/raw.

Files are read one at a time and staged; then each partition is merged on its own, so that memory holds one file or one
partition. Nothing in data/raw or params.yaml changes before everything is ready.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl

from crashcast import tables
from crashcast.canonical import write_text
from crashcast.errors import UserError
from crashcast.params.base import PATH
from crashcast.params.data import Data
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.paths import (
    ACTIONS_PATH,
    COVERAGE_PATH,
    DEMO_TRUTH,
    INCIDENTS_PATH,
    RAW,
    TABLES,
    TELEMETRY_PATH,
    TICKETS_PATH,
)
from crashcast.progress import progress
from crashcast.sources.importing.columns import UTC_CLOCK
from crashcast.sources.importing.consistency import (
    check_servers_of_coverage,
    check_servers_of_records,
    common_metrics,
    join_metrics,
    report_clocks,
    report_odd_names,
    report_periods,
    report_readings,
    split_servers,
    with_full_names,
    with_rates,
)
from crashcast.sources.importing.feasibility import report_outlook
from crashcast.sources.importing.layouts import Layout, beside_servers, metric_of, servers_of
from crashcast.sources.importing.local_time import Clock
from crashcast.sources.importing.params_file import describe_import
from crashcast.sources.importing.parsing import (
    Records,
    Samples,
    read_actions,
    read_coverage,
    read_incidents,
    read_samples,
)
from crashcast.sources.importing.report import Report
from crashcast.sources.importing.table_file import SUFFIXES
from crashcast.sources.importing.telemetry_section import choose_groups, extend_section, infer_section, parse_interval
from crashcast.sources.importing.transaction import exchanged, recover, workspace
from crashcast.sources.importing.units import with_uptime
from crashcast.sources.importing.writing import (
    MAY_BE_EMPTY,
    fleet_end,
    write_actions,
    write_coverage,
    write_empty,
    write_incidents,
    write_telemetry,
)
from crashcast.tables import CRASH, KEYS
from crashcast.versioning.dvc_files import pointer
from crashcast.versioning.tracked_data import forget, track

Unit = Literal["month", "week", "day"]


def import_files(
    telemetry: list[Path],
    incidents: Path | None,
    coverage: Path | None = None,
    replace: bool = False,
    interval: str | None = None,
    partition: Unit | None = None,
    is_strict: bool = False,
    clock: Clock = UTC_CLOCK,
    incident_clock: Clock = UTC_CLOCK,
    layout: Layout = Layout(),  # noqa: B008 - it is frozen
    actions: Path | None = None,
    is_short: bool = False,
    is_dry: bool = False,
) -> list[str]:
    """Merge files into data/raw, describe them in params.yaml and track them with DVC.

    Parameters
    ----------
    telemetry : list of Path
        Files of samples, or folders of them; a later row replaces an earlier one with the same key. Without any, other
        tables are merged into an earlier import.
    incidents, coverage : Path, optional
        One file each; without incidents, those that are there stay as they are; without coverage, every server is
        taken as covered from its first sample to the fleet's last one.
    replace : bool
        Start over, instead of merging into earlier imports.
    interval : str, optional
        The cadence; inferred by default.
    partition : {"month", "week", "day"}, optional
        The length of a file if the import starts over; inferred by default.
    is_strict : bool
        Columns that look like numbers, but cannot be read, are an error.
    clock, incident_clock : Clock
        How times without a zone are read, in telemetry and in the other files.
    layout : Layout
        Names that the user chose.
    actions : Path, optional
        A file of what was done to servers; without it, those that are there stay as they are.
    is_short : bool
        Incidents and actions may name servers without their domain.
    is_dry : bool
        Write nothing.

    Returns
    -------
    list of str
        What was read, inferred, assumed and written, for the user.

    Raises
    ------
    UserError
        If a file is bad: data/raw and params.yaml are then as they were.
    """
    recover()
    now, report = datetime.now(UTC), Report()
    stated_interval = None if interval is None else parse_interval(interval)
    known = known_telemetry(replace, report)
    new_incidents = None if incidents is None else read_incidents(incidents, now, incident_clock)
    new_coverage = None if coverage is None else read_coverage(coverage, now, incident_clock)
    new_actions = None if actions is None else read_actions(actions, now, incident_clock)
    if not telemetry and known is None:
        raise UserError("nothing has been imported yet: give --telemetry too")
    with workspace() as folder:
        files = list[Samples]()
        if telemetry:
            paths = _telemetry_files(telemetry, {incidents, coverage, actions})
            files = _stage(paths, folder, known, now, clock, _layout(paths, layout, new_incidents, known))
            report_readings(files, layout.new_names, report)
            files = join_metrics(files, folder / "joined.parquet", report)
            files = with_rates(files, layout.rates, folder, report)
            files = with_uptime(files, Label.read().uptime_metric, folder, report)
        rows = _rows(files, known, is_strict, report)
        spans = _spans(rows)
        if known is None:
            section = infer_section(rows, spans, stated_interval, partition, report)
        else:
            section = extend_section(rows, spans, known, stated_interval, report)
        old_coverage = None if known is None else tables.read(COVERAGE_PATH)
        sampled, covered = set(spans["server_id"]), set() if old_coverage is None else set(old_coverage["server_id"])
        servers = sampled | covered
        if incidents is not None:
            new_incidents = new_incidents or read_incidents(incidents, now, incident_clock, servers, is_short)
            assert new_incidents is not None
            if new_incidents.frame.is_empty() and known is None:
                raise new_incidents.sheet.error("no incidents: there is nothing to learn from")
            new_incidents = split_servers(new_incidents, servers, is_short, report)
            new_incidents = with_full_names(new_incidents, servers, is_short, "incident", report)
            check_servers_of_records(new_incidents, "incident", servers, report)
        if new_actions is not None:
            new_actions = with_full_names(new_actions, servers, is_short, "action", report)
            check_servers_of_records(new_actions, "action", servers, report)
        if new_coverage is not None:
            check_servers_of_coverage(new_coverage, sampled if files else set(), covered, report)
        report_odd_names(sampled | ({*new_incidents.frame["server_id"]} if new_incidents else set()), report)
        report_clocks(files, new_incidents, rows, spans, section, (clock, incident_clock), report)

        changed = list[Path]()
        if files and write_telemetry(files, section, folder, known is not None, report):
            changed.append(TELEMETRY_PATH)
        if new_incidents is not None or known is None:
            known_incidents = write_incidents(new_incidents, folder, known is not None, report)
            changed.append(INCIDENTS_PATH)
        else:
            known_incidents = tables.read(INCIDENTS_PATH, ["server_id", "kind", "started_at"])
        if new_actions is not None:
            write_actions(new_actions, folder, known is not None, report)
            changed.append(ACTIONS_PATH)
        emptied = [path for path in MAY_BE_EMPTY if path not in changed and (known is None or not path.exists())]
        write_empty(emptied, folder)
        changed += emptied
        groups = None
        if files or new_coverage is not None:
            covers = write_coverage(new_coverage, old_coverage, files, spans, section.interval, folder, report)
            groups = choose_groups(covers, known is None, report)
            changed.append(COVERAGE_PATH)
        first, last = spans.select(pl.col("first").min(), pl.col("last").max()).row(0)
        if new_incidents is not None:
            report_periods(new_incidents, new_coverage is not None, first, last, report)
        if old_coverage is not None:
            first, last = min(first, old_coverage["covered_from"].min()), max(last, fleet_end())
        known_crashes = known_incidents.filter(kind=CRASH)
        report_outlook(known_crashes, len(servers), (first, last), section.interval, report)
        if section != known:
            _write_params(section, groups, folder, report)
            changed.append(PATH)
        if is_dry:
            return report.lines(is_dry)
        with exchanged(changed, folder):
            track([*TABLES])
    forget(DEMO_TRUTH)  # nobody could pull it: only the demo's own clone has it
    if known is None:
        forget(TICKETS_PATH)  # or the next `crashcast incidents` would merge tickets of replaced data
    return report.lines()


def known_telemetry(replace: bool, report: Report) -> Telemetry | None:
    """Return the telemetry section that new rows must fit; None if the import starts over.

    Raises
    ------
    UserError
        If data/raw does not hold the earlier imports.
    """
    if Data.read().source == "demo":
        if TELEMETRY_PATH.exists():
            report.written.append("the demo fleet in data/raw is replaced")
        return None
    if replace:
        if TELEMETRY_PATH.exists():
            report.written.append("what was imported before is replaced")
        return None
    needed = [path for path in TABLES if path not in MAY_BE_EMPTY or pointer(path).exists()]
    present = [path for path in needed if path.exists()]
    if not present and not list(RAW.glob("*.dvc")):
        return None
    if present != needed:
        raise UserError(f"{RAW} is incomplete: `dvc pull` the earlier import, or start over with --replace")
    known = Telemetry.read()
    if (unit := tables.partitions(TELEMETRY_PATH)[0].unit) != known.partition:
        message = f"{PATH}: telemetry.partition is {known.partition}, but {TELEMETRY_PATH} has one file per {unit}"
        raise UserError(f"{message}; set it back, or import everything again with --replace")
    return known


def _telemetry_files(paths: list[Path], others: Collection[Path | None]) -> list[Path]:
    # each file once, by its resolved path; of folders, all but hidden files and those of other tables
    apart = {path.resolve() for path in others if path is not None}
    found: dict[Path, Path] = {}
    for path in paths:
        members = [path]
        if path.is_dir():
            members = [
                member
                for member in sorted(path.rglob("*"))
                if member.name.lower().endswith(SUFFIXES)
                and member.is_file()
                and not any(part.startswith(".") for part in member.relative_to(path).parts)
                and member.resolve() not in apart
            ]
            if not members:
                raise UserError(f"{path} holds no telemetry: no {', '.join(SUFFIXES)} below it")
        found |= {member.resolve(): member for member in members}
    return list(found.values())


def _layout(paths: list[Path], layout: Layout, incidents: Records | None, known: Telemetry | None) -> Layout:
    cells = set() if incidents is None else set(incidents.frame["server_id"])
    servers = cells | {server for cell in cells for server in servers_of(cell)}
    if known:
        servers |= set(tables.read(COVERAGE_PATH)["server_id"])
    return replace(
        layout,
        servers=servers,
        beside_server=beside_servers(paths, servers),
        is_named_by_metric=len(set(map(metric_of, paths))) > 1,
    )


def _stage(
    paths: list[Path], folder: Path, known: Telemetry | None, now: datetime, clock: Clock, layout: Layout
) -> list[Samples]:
    files, metrics = [], set(known.metrics if known else ())
    with progress("import", len(paths), "file") as advance:
        for position, path in enumerate(paths):
            files.append(read_samples(path, folder / f"{position:06}.parquet", metrics, now, clock, layout))
            advance()
    return files


def _rows(files: list[Samples], known: Telemetry | None, is_strict: bool, report: Report) -> pl.LazyFrame:
    # of new files, or else of all that is there
    if known is not None and not files:
        paths = [partition.path(TELEMETRY_PATH) for partition in tables.partitions(TELEMETRY_PATH)]
        return pl.scan_parquet(paths, glob=False).select(*KEYS, *known.metrics)
    metrics = common_metrics(files, known, is_strict, report)
    return pl.concat([file.scan() for file in files], how="diagonal").select(*KEYS, *metrics)


def _spans(rows: pl.LazyFrame) -> pl.DataFrame:
    first, last = pl.col("timestamp").min(), pl.col("timestamp").max()
    return rows.group_by("server_id").agg(rows=pl.len(), first=first, last=last).sort("server_id").collect()


def _write_params(section: Telemetry, groups: list[str] | None, folder: Path, report: Report) -> None:
    text, changes = describe_import(PATH, section, groups)
    write_text(folder / PATH.name, text)
    report.written.append(f"{PATH}: data.source and the telemetry section")
    report.written += [f"{PATH}: {change}" for change in changes]
