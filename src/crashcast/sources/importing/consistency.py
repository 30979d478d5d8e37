"""Whether the files of an import fit together, and with earlier imports: their metrics, servers and periods."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from crashcast.errors import UserError
from crashcast.params.base import DAY, PATH
from crashcast.params.telemetry import Telemetry
from crashcast.sources.importing.inferred_settings import choose_servers
from crashcast.sources.importing.local_time import AGAINST, Clock, sign_of_crashes, signs_of_hours
from crashcast.sources.importing.parsing import Records, Samples
from crashcast.sources.importing.report import Report
from crashcast.sources.importing.table_file import SHOWN
from crashcast.sources.value_formats import utc_text
from crashcast.tables import CRASH, KEYS, TIMESTAMP
from crashcast.text import some_of

GAP_INTERVALS = 1.5  # without a sample, a server was silent
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
        If a file has another metric, or one that is missing, text or in another unit in another file, or if too many
        columns with numbers are left out.
    """
    _report_readings(files, report)
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
            if name in file.left_out:
                message = f"column '{name}' holds {file.left_out[name]}, but numbers in {owners[name].source}"
                raise UserError(f"{file.source}: {message}")
            if name not in (*file.metrics, *file.empty):
                other = owners[name].source if name in owners else "earlier imports"
                message = f"no column '{name}', unlike {other}"
                raise UserError(f"{file.source}: {message}; add it; it may be empty")
    _check_units(files, owners)
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


def _check_units(files: list[Samples], owners: dict[str, Samples]) -> None:
    for file in files:
        for name in file.metrics:
            units = [of.units.get(name, "") for of in (file, owners[name])]
            if units[0] != units[1]:
                here, there = (unit or "no unit" for unit in units)
                message = f"column '{name}' has {here}, but {there} in {owners[name].source}"
                raise UserError(f"{file.source}: {message}; write it in one unit")


def _report_readings(files: list[Samples], report: Report) -> None:
    files_of_reading: dict[str, list[str]] = {}
    for file in files:
        files_of_reading.setdefault(file.reading, []).append(str(file.source))
    for reading, names in files_of_reading.items():
        others = f" and {len(names) - 1:,} more files" if len(names) > 1 else ""
        report.read.append(f"{names[0]}{others}: {reading}")


def check_servers_of_incidents(incidents: Records, known: set[str], report: Report) -> None:
    """Report incidents on servers without telemetry; if all are, that is an error."""
    servers = incidents.frame["server_id"]
    strange = set(servers) - known
    example = f"incidents name {_some(strange)}; telemetry has {_some(known)}"
    if servers.len() and len(strange) == servers.n_unique():
        raise incidents.sheet.error(f"no incident is on a server that has telemetry: {example}")
    report.read += incidents.notes
    if strange:
        count = servers.is_in(strange).sum()
        report.assumed.append(f"{count:,} incidents on servers without telemetry are kept: {example}")


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
