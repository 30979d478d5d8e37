"""`crashcast import`: bring somebody's own telemetry and incidents into data/raw.

Files are understood one at a time and set aside as they are read; then each partition is merged on its own, so that
memory holds one file or one partition. Nothing in data/raw or params.yaml changes before everything is ready, and
everything goes back if the last step fails.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import polars as pl

from crashcast import tables
from crashcast.canonical import write_text
from crashcast.errors import UserError
from crashcast.files import link
from crashcast.params.base import DAY, PATH, format_duration, parse_duration
from crashcast.params.clean import Clean
from crashcast.params.data import Data
from crashcast.params.features import Features
from crashcast.params.label import Label
from crashcast.params.telemetry import Metric, Telemetry
from crashcast.params.validate import Validate
from crashcast.paths import COVERAGE, DEMO_TRUTH, INCIDENTS, RAW, TABLES, TELEMETRY, TICKET_SOURCES, TICKETS_FILE
from crashcast.sources import settings
from crashcast.sources.importing import inference, merging
from crashcast.sources.importing.columns import SUFFIXES
from crashcast.sources.importing.records import Records, Samples, read_coverage, read_incidents, read_samples
from crashcast.sources.notation import utc_text
from crashcast.tables import CRASH, KEYS, Partition
from crashcast.versioning.tracking import forget, pointer, track

Unit = Literal["month", "week", "day"]
# of an import: where what it replaces waits until it is done, what says that nothing was there, and the .dvc files
BEFORE, NOTHING, TRACKING = "before", ".nothing", "tracking"
SHOWN = 3  # servers in a message
MAX_CONFLICTING_SHARE = 0.1  # above it, a file holds something finer than servers
SILENT_GAPS = 10  # so many usual gaps between incidents without one: did the records stop?


@dataclass
class Report:
    """What the import says when it is done."""

    read: list[str] = field(default_factory=list)
    inferred: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it as text, a heading and its lines at a time."""
        parts = {"Read": self.read, "Inferred": self.inferred, "Assumed, please check": self.assumed}
        return [
            line
            for heading, lines in {**parts, "Written": self.written}.items()
            if lines
            for line in (f"{heading}:", *(f"  {text}" for text in lines))
        ]


def import_files(
    telemetry: list[Path],
    incidents: Path | None,
    coverage: Path | None = None,
    replace: bool = False,
    interval: str | None = None,
    partition: Unit | None = None,
) -> list[str]:
    """Merge files into data/raw, describe them in params.yaml and track them with DVC.

    Parameters
    ----------
    telemetry : list of Path
        Parquet or CSV files of samples, or folders of them; a later row replaces an earlier one with the same key.
    incidents, coverage : Path, optional
        One file each; without incidents, those that are there stay as they are; without coverage, every server is
        taken as covered while it has telemetry.
    replace : bool
        Start over, instead of merging into what was imported before.
    interval : str, optional
        The cadence; inferred by default.
    partition : {"month", "week", "day"}, optional
        The length of a file where the import starts over; inferred by default.

    Returns
    -------
    list of str
        What was read, inferred, assumed and written, for the user.

    Raises
    ------
    UserError
        Where a file is bad: data/raw and params.yaml are then as they were.
    """
    recover()
    now = datetime.now(UTC)
    report = Report()
    wanted = None if interval is None else _parse_interval(interval)
    known = known_telemetry(replace, report)
    records = None if incidents is None else read_incidents(incidents, now)
    cover = None if coverage is None else read_coverage(coverage, now)
    if records is not None and records.frame.is_empty() and known is None:
        raise records.sheet.error("no incidents: there is nothing to learn from")
    with _aside() as aside:
        files = _stage(_telemetry_files(telemetry, {incidents, coverage}), aside, known, now)
        rows = _all_rows(files, _agree(files, known, report))
        spans = (
            rows.group_by("server_id")
            .agg(rows=pl.len(), first=pl.col("timestamp").min(), last=pl.col("timestamp").max())
            .sort("server_id")
            .collect()
        )
        described = _describe(rows, spans, known, wanted, partition, report)
        old_coverage = None if known is None else tables.read(COVERAGE)
        covered = set() if old_coverage is None else set(old_coverage["server_id"])
        _check_servers(records, cover, set(spans["server_id"]), covered, report)

        touched = _merge_telemetry(files, described, aside, known is not None, report)
        places = {aside / COVERAGE.name: COVERAGE}
        if records is not None or known is None:
            _merge_incidents(records, aside, known is not None, report)
            places[aside / INCIDENTS.name] = INCIDENTS
        # who recorded what was replaced says nothing of what is new; and imports of earlier versions wrote none
        if known is None or not TICKET_SOURCES.exists():
            tables.write(aside / TICKET_SOURCES.name, pl.DataFrame(schema=tables.TICKET_SOURCES))
            places[aside / TICKET_SOURCES.name] = TICKET_SOURCES
        _merge_coverage(cover, old_coverage, files, spans, described.interval, aside, report)
        if records is not None:
            _assume_records(records, cover, spans, report)
        if touched:
            places[aside / TELEMETRY.name] = TELEMETRY
        if described != known:
            places[aside / PATH.name] = PATH
            _write_settings(aside / PATH.name, described, report)
        with _exchanged(places, aside):
            track([*TABLES])
    forget(DEMO_TRUTH)  # nobody could pull what only the demo's own clone has
    if known is None:
        forget(TICKETS_FILE)  # of what was replaced: the next `crashcast incidents` would merge it
    return report.lines()


def _parse_interval(text: str) -> timedelta:
    try:
        interval = parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise UserError(f"--interval {text}: {error}") from None
    if not interval or DAY % interval:
        raise UserError(f"--interval {text} does not divide a day: take one that does, such as 1m, 5m, 15m or 1h")
    return interval


def known_telemetry(replace: bool, report: Report) -> Telemetry | None:
    """Return the telemetry section that new rows must fit; None where the import starts over.

    Raises
    ------
    UserError
        Where data/raw is not what was imported before.
    """
    if Data.read().source == "demo":
        if TELEMETRY.exists():
            report.written.append("the demo fleet in data/raw is replaced")
        return None
    if replace:
        if TELEMETRY.exists():
            report.written.append("what was imported before is replaced")
        return None
    wanted = [path for path in TABLES if path != TICKET_SOURCES or pointer(path).exists()]
    present = [path for path in wanted if path.exists()]
    if not present and not list(RAW.glob("*.dvc")):
        return None
    if present != wanted:
        raise UserError(f"{RAW} is incomplete: `dvc pull` the earlier import, or start over with --replace")
    known = Telemetry.read()
    if (unit := tables.partitions(TELEMETRY)[0].unit) != known.partition:
        message = f"{PATH}: telemetry.partition is {known.partition}, but {TELEMETRY} has one file per {unit}"
        raise UserError(f"{message}; set it back, or import everything again with --replace")
    return known


def _telemetry_files(paths: list[Path], others: Collection[Path | None]) -> list[Path]:
    apart = {path.resolve() for path in others if path is not None}
    found: dict[Path, Path] = {}
    for path in paths:
        members = [path]
        if path.is_dir():
            members = [p for p in sorted(path.rglob("*")) if p.name.lower().endswith(SUFFIXES) and p.is_file()]
            members = [p for p in members if not any(part.startswith(".") for part in p.relative_to(path).parts)]
            members = [p for p in members if p.resolve() not in apart]
            if not members:
                raise UserError(f"{path} holds no telemetry: no {', '.join(SUFFIXES)} below it")
        found |= {member.resolve(): member for member in members}
    return list(found.values())


def _stage(paths: list[Path], aside: Path, known: Telemetry | None, now: datetime) -> list[Samples]:
    files = []
    for position, path in enumerate(paths):
        if len(paths) > 1:
            print(f"import: file {position + 1} of {len(paths)}", file=sys.stderr)
        files.append(read_samples(path, aside / f"{position:06}.parquet", set(known.metrics if known else ()), now))
    return files


def _agree(files: list[Samples], known: Telemetry | None, report: Report) -> list[str]:
    # the metrics, which every file must have
    for text, sources in _by_text((file.understood, str(file.source)) for file in files).items():
        report.read.append(f"{_several(sources, 'files')}: {text}")
    owners = {name: file for file in reversed(files) for name in reversed(file.metrics)}
    metrics = list(known.metrics) if known else [name for file in files for name in file.metrics]
    metrics = list(dict.fromkeys(metrics))
    if not metrics:
        raise UserError(f"{files[0].source}: no numeric column besides the keys; telemetry needs at least one metric")
    for file in files:
        if known and (new := [name for name in file.metrics if name not in known.metrics]):
            message = f"column '{new[0]}' is new: earlier imports and {PATH} do not have it"
            raise UserError(f"{file.source}: {message}; leave it out, or import everything again with --replace")
        for name in metrics:
            if name in file.left_out:
                message = f"column '{name}' holds {file.left_out[name]}, but numbers in {owners[name].source}"
                raise UserError(f"{file.source}: {message}")
            if name not in (*file.metrics, *file.empty):
                other = owners[name].source if name in owners else "earlier imports"
                message = f"no column '{name}', unlike {other}"
                raise UserError(f"{file.source}: {message}; add it, empty where there are no values")
    left_out = {**{name: "empty" for file in files for name in file.empty}}
    left_out |= {name: why for file in files for name, why in file.left_out.items()}
    report.read += [f"column '{name}' left out: {why}" for name, why in left_out.items() if name not in metrics]
    return metrics


def _by_text(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for text, item in pairs:
        grouped.setdefault(text, []).append(item)
    return grouped


def _several(names: list[str], noun: str) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more {noun}"


def _all_rows(files: list[Samples], metrics: list[str]) -> pl.LazyFrame:
    return pl.concat([file.scan() for file in files], how="diagonal").select(*KEYS, *metrics)


def _describe(
    rows: pl.LazyFrame,
    spans: pl.DataFrame,
    known: Telemetry | None,
    wanted: timedelta | None,
    unit: Unit | None,
    report: Report,
) -> Telemetry:
    chosen = inference.choose_servers(spans)
    sample = rows.filter(pl.col("server_id").is_in(chosen)) if len(chosen) < spans.height else rows
    if known:
        sample = sample.select(*KEYS)  # what the cadence shows in
    ordered = sample.collect().sort("server_id", "timestamp", maintain_order=True)
    ordered = ordered.unique(list(KEYS), keep="last", maintain_order=True)
    found = inference.infer_interval(ordered.select(*KEYS))
    if known:
        return _compare(rows, known, wanted, found[0] if found else None, report)
    if wanted:
        interval, why = wanted, "as --interval says"
    elif found:
        interval, why = found
    else:
        raise UserError("no server has two samples: say the cadence with --interval, such as --interval 5m")
    months = rows.group_by(pl.col("timestamp").dt.truncate("1mo")).len().select(pl.col("len").max())
    densest = months.collect().item()
    partition = unit or inference.infer_partition(densest)
    report.inferred.append(f"interval {format_duration(interval)}: {why}")
    report.inferred.append(f"a file per {partition}: at most {densest:,} rows a month")
    stuck_after, tolerated = Clean.read().stuck_after, Validate.read().max_missing_share
    metrics = {}
    for name in rows.collect_schema().names()[len(KEYS) :]:
        facts = inference.describe(rows, name)
        metrics[name] = inference.infer_metric(name, facts, ordered, stuck_after)
        report.inferred.append(_metric_line(name, metrics[name], facts))
        if facts.values < (1 - tolerated) * facts.rows:
            message = f"{name} is missing in {1 - facts.values / facts.rows:.0%} of rows"
            report.assumed.append(f"{message}, and validate.max_missing_share ({tolerated:g}) refuses that")
    _advise(interval, report)
    return Telemetry(interval=interval, partition=partition, metrics=metrics)


def _metric_line(name: str, metric: Metric, facts: inference.Facts) -> str:
    low, high = (f"{value:g}" for value in (facts.low or 0.0, facts.high or 0.0))
    words = [f"{name}: {_plain(metric.min)} .. {_plain(metric.max)} (seen {low} .. {high})", metric.aggregate]
    words += ["can stick"] if metric.can_stick else []
    words += [f"{facts.markers:,} x -1 or the like taken as no value"] if facts.markers else []
    return ", ".join(words)


def _plain(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:g}"


def _compare(
    rows: pl.LazyFrame, known: Telemetry, wanted: timedelta | None, found: timedelta | None, report: Report
) -> Telemetry:
    for name, metric in known.metrics.items():
        outside = rows.select((~pl.col(name).is_between(metric.min, metric.max)).sum(), pl.len()).collect().row(0)
        if outside[0]:
            limits = f"{_plain(metric.min)} .. {_plain(metric.max)}"
            report.assumed.append(
                f"{name}: {outside[0]:,} of {outside[1]:,} new values lie outside {limits} and will be dropped"
            )
    if wanted:
        _advise(wanted, report)
    interval = wanted or known.interval
    if found and found != interval:
        cadences = f"{format_duration(found)}, not {format_duration(interval)}"
        report.assumed.append(f"the new samples come every {cadences}: --interval changes telemetry.interval")
    return known.model_copy(update={"interval": interval})


def _advise(interval: timedelta, report: Report) -> None:
    # shorter than a row, these durations mean nothing
    label, features = Label.read(), Features.read()
    durations = {"label.horizon": label.horizon, "label.lead": label.lead or interval}
    for kind in ("rolling_mean", "rolling_std", "rolling_max", "differences", "missing_share"):
        durations[f"features.{kind}"] = min(getattr(features, kind), default=interval)
    short = [f"{key} ({format_duration(value)})" for key, value in durations.items() if value < interval]
    if short:
        cadence = format_duration(interval)
        report.assumed.append(
            f"shorter than the interval {cadence}, please lengthen in params.yaml: {', '.join(short)}"
        )


def _check_servers(
    records: Records | None, cover: Records | None, sampled: set[str], covered: set[str], report: Report
) -> None:
    # sampled: with telemetry in this import; covered: known from earlier ones
    known = sampled | covered
    if records is not None:
        named = records.frame["server_id"]
        strange = set(named) - known
        example = f"incidents name {_some(strange)}; telemetry has {_some(known)}"
        if named.len() and len(strange) == named.n_unique():
            raise records.sheet.error(f"no incident is on a server that has telemetry: {example}")
        report.read += records.notes
        if strange:
            count = named.is_in(strange).sum()
            report.assumed.append(f"{count:,} incidents on servers without telemetry are kept: {example}")
    if cover is None:
        return
    report.read += cover.notes
    servers = cover.frame["server_id"]
    if (index := cover.sheet.first(~servers.is_in(known))) is not None:
        message = f"server '{servers[index]}' has no telemetry (which has {_some(known)})"
        raise cover.sheet.error(f"{message}; remove the row, or import its telemetry too", None, index)
    if missing := sampled - covered - set(servers):
        message = f"{_some(missing)} has telemetry, but no row here"
        raise cover.sheet.error(f"{message}; add one, or leave its telemetry out where its incidents are unknown")
    if unextended := sampled - set(servers):
        report.assumed.append(f"{_some(unextended)} is not in {cover.sheet.path}: its new rows have no labels")


def _some(servers: set[str]) -> str:
    shown = ", ".join(sorted(servers)[:SHOWN])
    return shown if len(servers) <= SHOWN else f"{shown} and {len(servers) - SHOWN:,} more"


def _merge_telemetry(files: list[Samples], described: Telemetry, aside: Path, merging_in: bool, report: Report) -> int:
    # returns how many partitions were written; each is merged on its own
    columns = [*KEYS, *described.metrics]
    days = pl.concat([file.scan().select(pl.col("timestamp").dt.date()) for file in files]).unique().collect()
    moments_of_days = (datetime(day.year, day.month, day.day) for day in days["timestamp"])
    wanted = sorted({tables.partition_at(moment, described.partition) for moment in moments_of_days})
    out, counts, touched, conflict = aside / TELEMETRY.name, Counter[str](), 0, ""
    for partition in wanted:
        rows = _rows_of(partition, files, columns)
        new, repeats = merging.last_of_each(rows, list(KEYS))
        place = partition.path(TELEMETRY)
        old = tables.read(place, columns) if merging_in and place.exists() else new.clear()
        merged, changes = merging.merge(old, new, list(KEYS))
        counts += repeats + changes
        if repeats["conflicting"] and not conflict:
            conflict = _said_conflict(rows)
        if changes["added"] or changes["corrected"]:
            tables.write(partition.path(out), merged.sort("timestamp", "server_id"))
            touched += 1
    share = counts["conflicting"] / counts.total()
    if share > MAX_CONFLICTING_SHARE:
        message = f"{share:.0%} of rows have the server and time of another row, but other values, such as {conflict}"
        raise UserError(f"telemetry: {message}; give one row per server and time, with a column per metric or device")
    if merging_in and touched:
        for partition in tables.partitions(TELEMETRY):
            if not partition.path(out).exists():
                link(partition.path(TELEMETRY), partition.path(out))
    if counts["repeated"] or counts["conflicting"]:
        repeats_said = (
            f"{counts['repeated']:,} rows repeat another, {counts['conflicting']:,} conflict with a later one"
        )
        report.assumed.append(f"{repeats_said}: of a server's samples at one moment the last one read holds")
    report.written.append(f"{TELEMETRY}: {_said(counts, 'rows')}; {touched:,} of {len(wanted):,} partitions written")
    return touched


def _rows_of(partition: Partition, files: list[Samples], columns: list[str]) -> pl.DataFrame:
    start, end = tables.utc(partition.start, partition.end)
    begin, stop = (moment.replace(tzinfo=UTC) for moment in (partition.start, partition.end))
    frames = [
        file.scan().filter(pl.col("timestamp").is_between(start, end, closed="left")).select(columns).collect()
        for file in files
        if file.first < stop and begin <= file.last
    ]
    return pl.concat(frames)


def _said_conflict(rows: pl.DataFrame) -> str:
    keys = rows.unique().select(*KEYS)
    moment, server = keys.filter(keys.is_duplicated()).sort("timestamp", "server_id").row(0)
    return f"{server} at {utc_text(moment)}"


def _said(counts: Counter[str], noun: str) -> str:
    return f"{counts['added']:,} {noun} added, {counts['corrected']:,} corrected, {counts['unchanged']:,} unchanged"


def _merge_incidents(records: Records | None, aside: Path, merging_in: bool, report: Report) -> None:
    if records is None:
        report.assumed.append(
            "there are no incidents yet, and nothing to learn from: `crashcast incidents` brings them"
        )
    new = pl.DataFrame(schema=tables.INCIDENTS) if records is None else records.frame  # type: ignore[arg-type]
    old = tables.read(INCIDENTS, tables.INCIDENTS) if merging_in else new.clear()
    if records is not None and not records.has_ids:
        new = merging.adopt_ids(old, new)
    merged, counts = merging.merge(old, new, ["incident_id"])
    tables.write(aside / INCIDENTS.name, merged.sort("started_at", "server_id", "incident_id"))
    crashes = merged.filter(pl.col("kind") == CRASH)
    total = f"{crashes.height:,} crashes on {crashes['server_id'].n_unique():,} servers in all"
    report.written.append(f"{INCIDENTS}: {_said(counts, 'incidents')}; {total}")


def _merge_coverage(
    cover: Records | None,
    old: pl.DataFrame | None,
    files: list[Samples],
    spans: pl.DataFrame,
    interval: timedelta,
    aside: Path,
    report: Report,
) -> None:
    periods = merging.assume_coverage(spans, interval) if cover is None else cover.frame
    groups = (
        pl.concat([file.groups for file in files]).sort("timestamp").group_by("server_id", maintain_order=True).last()
    )
    of_server = dict(groups.select("server_id", "group").iter_rows())
    periods = periods.with_columns(
        group=pl.coalesce("group", pl.col("server_id").replace_strict(of_server, default=None, return_dtype=pl.String))
    )
    merged = merging.merge_coverage(periods if old is None else pl.concat([old.select(*tables.COVERAGE), periods]))
    tables.write(aside / COVERAGE.name, merged)
    kinds = merged["group"].drop_nulls().n_unique()
    groups_said = f" in {kinds:,} groups" if kinds else ""
    report.written.append(f"{COVERAGE}: {merged['server_id'].n_unique():,} servers{groups_said}")


def _assume_records(records: Records, cover: Records | None, spans: pl.DataFrame, report: Report) -> None:
    # what the absence of incidents is taken to mean
    first, last = spans.select(pl.col("first").min(), pl.col("last").max()).row(0)
    starts = records.frame.filter(pl.col("kind") == CRASH)["started_at"].sort()
    within = starts.filter(starts.is_between(first, last)).to_list()
    if outside := starts.len() - len(within):
        report.assumed.append(
            f"{outside:,} crashes start outside this telemetry ({utc_text(first)} to {utc_text(last)})"
        )
    if cover is not None:
        return
    report.assumed.append("incidents were recorded for every server while it had telemetry: --coverage says otherwise")
    if len(within) > 1:
        usual = (within[-1] - within[0]) / (len(within) - 1)
        for silence, where in ((within[0] - first, "first"), (last - within[-1], "last")):
            if silence > max(SILENT_GAPS * usual, DAY):
                days = f"{silence / DAY:.0f} days"
                report.assumed.append(f"there is no crash in the {where} {days}: were incidents recorded then?")


def _write_settings(path: Path, described: Telemetry, report: Report) -> None:
    text, changes = settings.describe_import(PATH, described)
    write_text(path, text)
    report.written.append(f"{PATH}: data.source and the telemetry section")
    report.written += [f"{PATH}: {change}" for change in changes]


def recover() -> None:
    """Put back what an import had moved when it was killed.

    Raises
    ------
    UserError
        Where another import is running.
    """
    for other in RAW.parent.glob(".import.*"):
        if _is_running(int(other.suffix[1:])):
            raise UserError(f"another import is running (process {other.suffix[1:]}): wait until it is done")
        if (other / BEFORE).exists():
            print("import: putting back what a killed import had moved", file=sys.stderr)
            _put_back(other)
        shutil.rmtree(other)


@contextmanager
def _aside() -> Iterator[Path]:
    folder = RAW.parent / f".import.{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


@contextmanager
def _exchanged(places: dict[Path, Path], aside: Path) -> Iterator[None]:
    """Move new files and folders into place; put the old ones back where that, or the body, fails or is killed."""
    (aside / TRACKING).mkdir()
    for path in _tracking_files():
        shutil.copy2(path, aside / TRACKING)
    (aside / BEFORE).mkdir()  # from here on there is something to put back
    with ExitStack() as undo:
        undo.callback(_put_back, aside)
        for new, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                os.replace(place, aside / BEFORE / place.name)
            else:
                (aside / BEFORE / f"{place.name}{NOTHING}").touch()
            os.replace(new, place)
        yield
        undo.pop_all()
    _settle(aside)


def _tracking_files() -> list[Path]:
    return [*RAW.glob("*.dvc"), *RAW.glob(".gitignore")]


def _put_back(aside: Path) -> None:
    # killed in the middle, it can be done again
    for place in (*TABLES, PATH):
        old = aside / BEFORE / place.name
        if old.exists() or (aside / BEFORE / f"{place.name}{NOTHING}").exists():
            _remove(place)
        if old.exists():
            os.replace(old, place)
    for path in _tracking_files():
        path.unlink()
    for path in (aside / TRACKING).iterdir():
        shutil.copy2(path, RAW)
    _settle(aside)


def _settle(aside: Path) -> None:
    os.replace(aside / BEFORE, aside / f"{BEFORE}.done")  # in one step: from here on nothing is to be put back


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
