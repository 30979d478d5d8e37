"""Whether the files of an import fit together, and with earlier imports: their metrics, servers and periods."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl

from crashcast.errors import UserError
from crashcast.params.base import DAY, PATH
from crashcast.params.telemetry import Telemetry
from crashcast.sources.importing.counters import as_rates, name_of_rate
from crashcast.sources.importing.inferred_settings import choose_servers
from crashcast.sources.importing.layouts import servers_of
from crashcast.sources.importing.local_time import AGAINST, Clock, sign_of_crashes, signs_of_hours
from crashcast.sources.importing.long_format import as_columns
from crashcast.sources.importing.parsing import STAGED_ROWS, Records, Samples, incident_id
from crashcast.sources.importing.report import Report
from crashcast.sources.importing.server_names import by_short_name
from crashcast.sources.importing.table_file import SHOWN
from crashcast.sources.value_formats import NULLS, utc_text
from crashcast.tables import CRASH, KEYS, TIMESTAMP
from crashcast.text import some_of

GAP_INTERVALS = 1.5  # without a sample, a server was silent
SAME_SERVERS = 0.5  # of all: the files are about other metrics, not about other servers
SILENT_GAPS = 10  # after so many usual gaps between crashes without one, the records may have stopped


def common_metrics(files: list[Samples], known: Telemetry | None, is_strict: bool, report: Report) -> list[str]:
    """Return the metrics; every file must have each of them.

    Parameters
    ----------
    files : list of Samples
        At least one.
    known : Telemetry, optional
        The section of params.yaml that earlier imports wrote; its metrics are the only ones then.
    is_strict : bool
        Left-out columns that look like numbers are an error, not only if they are more than half of all such columns.
    report : Report
        Takes what was read, and what was left out.

    Raises
    ------
    UserError
        If a file has another metric, or lacks one, or if too many columns with numbers are left out.
    """
    owners = {name: file for file in reversed(files) for name in reversed(file.metrics)}
    metrics = list(dict.fromkeys(known.metrics if known else [name for file in files for name in file.metrics]))
    lost = _report_numbers(files, metrics, is_strict, report)
    if not metrics:
        raise UserError(f"{files[0].source}: no numeric column besides the keys; telemetry needs at least one metric")
    for file in files:
        if known and (new := [name for name in file.metrics if name not in known.metrics]):
            message = f"column '{new[0]}' is new: earlier imports and {PATH} do not have it"
            raise UserError(f"{file.source}: {message}; leave it out, or import everything again with --replace")
        for name in metrics:
            if name not in (*file.metrics, *file.empty):
                other = owners[name].source if name in owners else "earlier imports"
                message = f"no column '{name}', unlike {other}"
                raise UserError(f"{file.source}: {message}; add it; it may be empty")
    left_out = {name: "empty" for file in files for name in file.empty}
    left_out |= {name: why for file in files for name, why in file.left_out.items()}
    others = [name for name in left_out if name not in (*metrics, *lost)]
    report.read += [f"column '{name}' left out: {left_out[name]}" for name in others]
    return metrics


def _report_numbers(files: list[Samples], metrics: list[str], is_strict: bool, report: Report) -> list[str]:
    # columns that look like numbers: those that were read, and those that were lost
    forms = {name: form for file in files for name, form in file.forms.items()}
    report.read += [f"column '{name}' is text, read as numbers: {form}" for name, form in forms.items()]
    lost = {name: file.left_out[name] for file in files for name in sorted(file.lost) if name not in metrics}
    report.lost += [f"column '{name}': {why}" for name, why in lost.items()]
    if lost and (is_strict or len(lost) > len(metrics)):
        message = f"columns look like numbers, but cannot be read: {'; '.join(report.lost[:SHOWN])}"
        wanted = "plain numbers, or one known unit for a whole column (12 ms, 6.9 %, 1.5 GiB)"
        raise UserError(f"{files[0].source}: {len(lost)} of {len(lost) + len(metrics)} {message}; write {wanted}")
    return list(lost)


def _check_metrics(files: list[Samples]) -> None:
    # numbers in one file are not text, and have no other unit, in another one
    owners = {name: file for file in reversed(files) for name in reversed(file.metrics)}
    for file in files:
        for name in file.left_out.keys() & owners.keys():
            message = f"column '{name}' holds {file.left_out[name]}, but numbers in {owners[name].source}"
            raise UserError(f"{file.source}: {message}")
        for name in file.metrics:
            units = [of.units.get(name, "") for of in (file, owners[name])]
            if units[0] != units[1]:
                here, there = (unit or "no unit" for unit in units)
                message = f"column '{name}' has {here}, but {there} in {owners[name].source}"
                raise UserError(f"{file.source}: {message}; write it in one unit")


def report_readings(files: list[Samples], new_names: Mapping[str, str], report: Report) -> None:
    """Report how files were read.

    Parameters
    ----------
    files : list of Samples
    new_names : mapping of str to str
        Names that the user chose.
    report : Report

    Raises
    ------
    UserError
        If no file has a name that was to be changed, or if numbers are text or have another unit in another file.
    """
    files_of_reading: dict[str, list[str]] = {}
    for file in files:
        files_of_reading.setdefault(file.reading, []).append(str(file.source))
    for reading, names in files_of_reading.items():
        others = f" and {len(names) - 1:,} more files" if len(names) > 1 else ""
        report.read.append(f"{names[0]}{others}: {reading}")
    renamed = {old: new for file in files for old, new in file.new_names.items()}
    if unused := [old for old in new_names if old not in renamed]:
        raise UserError(f"--map {unused[0]}={new_names[unused[0]]}: {files[0].source} has no '{unused[0]}'")
    report.read += [
        f"'{old}' is named {new}{', as --map says' if old in new_names else '; --map says otherwise'}"
        for old, new in renamed.items()
    ]
    _check_metrics(files)


def join_metrics(files: list[Samples], staged: Path, report: Report) -> list[Samples]:
    """Join files with different metrics of the same servers, by server and time.

    Parameters
    ----------
    files : list of Samples
    staged : Path
        The file to write the joined rows to.
    report : Report

    Returns
    -------
    list of Samples
        The same ones, if they have the same metrics, or some metrics are in several of their kinds.
    """
    kinds = {frozenset([*file.metrics, *file.empty]) for file in files}
    if len(kinds) < 2 or sum(map(len, kinds)) > len(frozenset().union(*kinds)):
        return files
    servers: dict[frozenset[str], set[str]] = {kind: set() for kind in kinds}
    for file in files:
        present = file.scan().select("server_id").unique().collect()["server_id"]
        servers[frozenset([*file.metrics, *file.empty])] |= set(present)
    if SAME_SERVERS * len(set.union(*servers.values())) > len(set.intersection(*servers.values())):
        return files
    parts = [file.scan().unpivot(index=list(KEYS), variable_name="metric").drop_nulls("value") for file in files]
    long = pl.concat(parts, how="vertical_relaxed").collect()
    distinct = long.unique()
    if conflicts := distinct.height - distinct.n_unique([*KEYS, "metric"]):
        of = "another of their metric, server and time: the last one read holds"
        report.assumed.append(f"{conflicts:,} values conflict with {of}")
    frame, rounded = as_columns(long)
    frame = frame.sort("timestamp", maintain_order=True)
    frame.write_parquet(staged, compression="lz4", row_group_size=STAGED_ROWS)
    names = frame.columns[len(KEYS) :]
    report.read.append(f"{len(files)} files are joined by server and time: {', '.join(names)}{rounded}")
    return [
        replace(
            files[0],
            staged=staged,
            first=frame["timestamp"][0],
            last=frame["timestamp"][-1],
            metrics=names,
            empty=sorted(frozenset().union(*kinds) - set(names)),
            left_out={name: why for file in files for name, why in file.left_out.items() if name not in names},
            lost={name for file in files for name in file.lost},
            units={name: unit for file in files for name, unit in file.units.items()},
            forms={name: form for file in files for name, form in file.forms.items()},
            groups=pl.concat([file.groups for file in files]),
            is_local=any(file.is_local for file in files),
        )
    ]


def with_rates(files: list[Samples], counters: Collection[str], folder: Path, report: Report) -> list[Samples]:
    """Replace counters by their rates, which reach from one file into the next.

    Parameters
    ----------
    files : list of Samples
    counters : collection of str
    folder : Path
        To write the new rows to.
    report : Report
    """
    if not counters:
        return files
    scans = [file.scan().with_columns(file=pl.lit(number)) for number, file in enumerate(files)]
    rows, said = as_rates(pl.concat(scans, how="diagonal_relaxed").collect(), list(counters))
    report.read += said
    names = {counter: name_of_rate(counter) for counter in counters}
    changed = []
    for number, file in enumerate(files):
        metrics, empty = ([names.get(name, name) for name in group] for group in (file.metrics, file.empty))
        staged = folder / f"rates-{number:06}.parquet"
        frame = rows.filter(file=number).select(*KEYS, *metrics, *empty)
        frame.write_parquet(staged, compression="lz4", row_group_size=STAGED_ROWS)
        changed.append(replace(file, staged=staged, metrics=metrics, empty=empty))
    return changed


def split_servers(incidents: Records, known: set[str], is_short: bool, report: Report) -> Records:
    """Make one incident for each server, if the id of an unknown server is a list that names known ones."""
    cells = {cell: names for cell in set(incidents.frame["server_id"]) - known if len(names := servers_of(cell)) > 1}
    cells = {
        cell: names
        for cell, names in cells.items()
        if not known.isdisjoint(names) or (is_short and by_short_name(names, known))
    }
    if not cells:
        return incidents
    server = pl.col("server_id")
    several = incidents.frame.filter(server.is_in(list(cells)))
    listed = server.replace_strict(cells, default=pl.concat_list(server), return_dtype=pl.List(pl.String))
    own_id = pl.when(pl.col("is_one_of_several")).then(pl.format("{} {}", "incident_id", "server_id"))
    frame = (
        incidents.frame.with_columns(listed, is_one_of_several=server.is_in(list(cells)))
        .explode("server_id")
        .with_columns(incident_id=own_id.otherwise("incident_id") if incidents.has_ids else incident_id())
        .drop("is_one_of_several")
        .unique(maintain_order=True)
    )
    frame = _unrepeated(incidents, frame)
    example = f"such as '{several['server_id'][0]}'"
    report.read.append(f"{several.height:,} incidents name several servers ({example}): they are one for each server")
    return replace(incidents, frame=frame)


def with_full_names(records: Records, known: set[str], is_short: bool, noun: str, report: Report) -> Records:
    """Give records the servers' names in telemetry, if --short-names says so; else propose it.

    Parameters
    ----------
    records : Records
    known : set of str
        Servers with telemetry.
    is_short : bool
        Whether the user says so.
    noun : str
        What the records are.
    report : Report

    Raises
    ------
    UserError
        If a record is there under both names, and differs.
    """
    full = by_short_name(set(records.frame["server_id"]) - known, known)
    if not full:
        return records
    pairs = some_of([f"{name} as {server}" for name, server in full.items()])
    if not is_short:
        return replace(records, proposal=f"; --short-names takes {pairs}")
    report.read.append(f"{noun}s take {pairs}, as --short-names says")
    frame = records.frame.with_columns(pl.col("server_id").replace(full))
    if "incident_id" in frame.columns:
        frame = frame if records.has_ids else frame.with_columns(incident_id=incident_id())
        frame = _unrepeated(records, frame.unique(maintain_order=True))
    return replace(records, frame=frame)


def _unrepeated(incidents: Records, frame: pl.DataFrame) -> pl.DataFrame:
    if (twice := frame.filter(pl.col("incident_id").is_duplicated())).height:
        message = f"incident '{twice['incident_id'][0]}' is there twice, once with other servers, and differs; keep one"
        raise incidents.sheet.error(message)
    return frame


def check_servers_of_records(records: Records, noun: str, known: set[str], report: Report) -> None:
    """Report incidents, or actions, on servers without telemetry; if all are, that is an error."""
    servers = records.frame["server_id"]
    strange = set(servers) - known
    example = f"{noun}s name {_some(strange)}; telemetry has {_some(known)}{records.proposal}"
    if servers.len() and len(strange) == servers.n_unique():
        raise records.sheet.error(f"no {noun} is on a server that has telemetry: {example}")
    report.read += records.notes
    report.assumed += records.doubts
    if strange:
        count = servers.is_in(strange).sum()
        report.assumed.append(f"{count:,} {noun}s on servers without telemetry are kept: {example}")


def check_servers_of_coverage(coverage: Records, sampled: set[str], covered: set[str], report: Report) -> None:
    """Raise an error unless coverage names servers with telemetry only, and all that earlier imports do not cover.

    Parameters
    ----------
    coverage : Records
    sampled, covered : set of str
        Servers with telemetry in this import; servers that earlier imports cover.
    report : Report
    """
    report.read += coverage.notes
    servers, known = coverage.frame["server_id"], sampled | covered
    if (index := coverage.sheet.first(~servers.is_in(known))) is not None:
        message = f"server '{servers[index]}' has no telemetry (which has {_some(known)})"
        raise coverage.sheet.error(f"{message}; remove the row, or import its telemetry too", None, index)
    if missing := sampled - covered - set(servers):
        message = f"{_some(missing)} has telemetry, but no row here"
        raise coverage.sheet.error(f"{message}; add one, or leave its telemetry out if its incidents are unknown")
    if unextended := sampled - set(servers):
        report.assumed.append(f"{_some(unextended)} is not in {coverage.sheet.path}: its new rows have no labels")


def report_odd_names(servers: set[str], report: Report) -> None:
    """Report names of servers that other columns have for a missing value, such as NA."""
    if odd := [name for name in servers if name.lower() in NULLS]:
        report.assumed.append(f"{_some(set(odd))} is taken as a server's name, not as a missing one")


def _some(servers: set[str]) -> str:
    return some_of(sorted(servers))


def report_periods(incidents: Records, has_coverage: bool, first: datetime, last: datetime, report: Report) -> None:
    """Report crashes outside the telemetry's period [first, last], and long periods in it without a crash."""
    starts = incidents.frame.filter(pl.col("kind") == CRASH)["started_at"].sort()
    within = starts.filter(starts.is_between(first, last)).to_list()
    if outside := starts.len() - len(within):
        period = f"{utc_text(first)} to {utc_text(last)}"
        report.assumed.append(f"{outside:,} crashes start outside this telemetry ({period})")
    if has_coverage:
        return
    period = "from its first sample to the end of all telemetry"
    report.assumed.append(f"incidents were recorded for every server {period}: --coverage says otherwise")
    if len(within) > 1:
        usual = (within[-1] - within[0]) / (len(within) - 1)
        for silence, end in ((within[0] - first, "first"), (last - within[-1], "last")):
            if silence > max(SILENT_GAPS * usual, DAY):
                days = f"{silence / DAY:.0f} days"
                report.assumed.append(f"there is no crash in the {end} {days}: were incidents recorded then?")


def report_clocks(
    files: list[Samples],
    incidents: Records | None,
    rows: pl.LazyFrame,
    spans: pl.DataFrame,
    section: Telemetry,
    clocks: tuple[Clock, Clock],
    report: Report,
) -> None:
    """Report times without a zone, and what speaks for or against the zone that they are taken as.

    Parameters
    ----------
    files : list of Samples
    incidents : Records, optional
    rows, spans, section
        All samples, `server_id` and `rows` of each server, and the telemetry section.
    clocks : tuple of Clock
        Of telemetry and of incidents.
    report : Report
    """
    without = [file for file in files if file.is_local]
    parts = {"telemetry": without, "incidents": [incidents] if incidents is not None and incidents.is_local else []}
    signs = list[str]()
    if without and clocks[0].zone is None:
        signs += signs_of_hours(rows.select(pl.col("timestamp").unique().sort()).collect()["timestamp"])
    if any(parts.values()) and incidents is not None:
        crashes = incidents.frame.filter(pl.col("kind") == CRASH).join(spans, on="server_id", how="semi")
        breaks = _breaks(rows, spans.join(crashes, on="server_id", how="semi"), section)
        signs += filter(None, [sign_of_crashes(crashes, breaks, section.interval)])
    assumed = [
        f"times of {table} have no time zone: taken as UTC; {clock.flag} says otherwise"
        for (table, local), clock in zip(parts.items(), clocks, strict=True)
        if local and clock.zone is None
    ]
    report.assumed += assumed
    report.assumed += [f"  {sign}" for sign in signs if assumed or sign.startswith(AGAINST)]


def _breaks(rows: pl.LazyFrame, spans: pl.DataFrame, telemetry: Telemetry) -> pl.DataFrame:
    # the begins of gaps, and restarts: counters fall, as an uptime does
    if spans.is_empty():
        return pl.DataFrame(schema={"server_id": pl.String, "moment": TIMESTAMP})
    counters = [name for name, metric in telemetry.metrics.items() if metric.aggregate == "last"]
    of_some = rows.select(*KEYS, *counters).filter(pl.col("server_id").is_in(choose_servers(spans)))
    before = pl.col("timestamp").shift().over("server_id")
    falls = [(pl.col(name).diff() < 0).over("server_id").fill_null(False) for name in counters]
    samples = of_some.collect().sort("server_id", "timestamp").with_columns(before=before)
    is_gap = pl.col("timestamp") - pl.col("before") > GAP_INTERVALS * telemetry.interval
    moment = pl.when(is_gap).then(pl.col("before") + telemetry.interval / 2).otherwise("timestamp")
    return samples.filter(pl.any_horizontal(is_gap, *falls)).select("server_id", moment=moment)
