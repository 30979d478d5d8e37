"""Confirm the crashes, and label every row by whether its server is about to crash: 1, 0, or unknown.

In: of the clean rows the keys and `observed`; the evidence of crashes: incident records, their coverage and that of the
systems they come from, raw telemetry, annotations; alarms and actions, which may have prevented a crash. Out: the
labels, that is those rows, `label` (null is unknown) and `reason` (why it is unknown); the confirmed incidents and the
votes that confirm them (docs/labels.md); `metrics/label.json` with counts and the quality of each source.

A row at t is 1 if a crash of its server starts in (t + lead, t + lead + horizon]. It is unknown, never 0, if the
records cannot tell: see `Reason`. Unknown wins over 1: nobody can act on a warning during an outage.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import numpy as np
import polars as pl

from crashcast import crash_groups, tables
from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.execution import runner
from crashcast.execution.task import Period, Task
from crashcast.grid import Bools, Grid, encode, microseconds
from crashcast.incidents import read_covered_crashes, read_incidents
from crashcast.labelling import candidate_events, consensus, interruptions, labelling_functions
from crashcast.params.base import format_duration
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH, MAINTENANCE, Partition
from crashcast.text import counted


class Reason(StrEnum):
    """Why a label is unknown; if several reasons hold, the last one is given."""

    MAINTENANCE_AHEAD = "maintenance_ahead"  # a planned reboot in the horizon may have prevented a crash
    MITIGATED = tables.MITIGATED  # somebody acted in the horizon, or because of an alarm that still stands
    RECORDS_END = "records_end"  # too close to the end: the crash may not have been recorded yet
    LEAD = "lead"  # a crash starts before a warning could be acted on
    OUTAGE = "outage"  # down, planned or not, or recovering
    UNCOVERED = tables.UNCOVERED


REMEDIES = {  # of crashes without a row that is labelled 1
    Reason.MAINTENANCE_AHEAD: "is maintenance recorded that was a crash?",
    Reason.MITIGATED: "is an action recorded on the wrong server, or at the wrong time?",
    Reason.RECORDS_END: "if incidents were recorded for longer, say so (`crashcast import --coverage`), or import more",
    Reason.LEAD: "shorten label.lead, or are crashes recorded again and again?",
    Reason.OUTAGE: "do outages last too long (resolved_at), or is label.recovery too long?",
    Reason.UNCOVERED: "if incidents were recorded then, say so (`crashcast import --coverage`)",
}


def main(
    clean: Path,
    telemetry_path: Path,
    incidents_path: Path,
    coverage: Path,
    ticket_sources: Path,
    alarms: Path,
    actions_path: Path,
    annotations: Path,
    out: Path,
    confirmed: Path,
    votes: Path,
    metrics: Path,
) -> None:
    """Confirm the incidents, and label every partition of `clean` by them."""
    telemetry, label, incidents = Telemetry.read(), Label.read(), Incidents.read()
    tell_rare_rows(label.horizon, telemetry.interval)
    covered = tables.read(coverage, ["server_id", "covered_from", "covered_to"])
    actions = tables.read(actions_path, tables.ACTIONS)
    found = consensus.resolve(
        up_intervals(telemetry_path, telemetry, label),
        tables.read(incidents_path, tables.INCIDENTS),
        tables.read(annotations, candidate_events.ANNOTATIONS),
        covered,
        tables.read(ticket_sources, tables.TICKET_SOURCES),
        actions,
        telemetry,
        label,
        incidents,
    )
    print(f"label: {found}", file=sys.stderr)
    tables.write(confirmed, found.incidents)
    tables.write(votes, found.votes)
    records = read_incidents(confirmed, incidents)
    # a crash may lie that far ahead, and be recorded that much later
    blind = label.reach + incidents.reporting_delay
    mitigated = mitigated_periods(tables.read(alarms, tables.ALARMS), actions, label)
    cleaned = tables.partitions(clean)
    tasks = [
        Task(
            partition,
            {
                "rows": Period.among(cleaned, clean, partition.start, partition.end, (*tables.KEYS, tables.OBSERVED)),
                "incidents": incidents_that_reach(partition, records, label),
                "coverage": coverage_that_reaches(partition, covered, blind),
                "mitigated": clipped(mitigated, "begun", "ended", partition.start, partition.end),
                "blind": blind,
                "telemetry": telemetry,
                "label": label,
            },
        )
        for partition in cleaned
    ]
    total = runner.total(runner.run("label", label_partition, tasks, out))
    if not total["crash"]:
        check_that_crashes_show(out, read_covered_crashes(confirmed, coverage, incidents), label)
    write_json(metrics, {**summarise(total), "evidence": found.figures})
    crashes = read_covered_crashes(confirmed, coverage, incidents)
    if outlook := outlook_of_labels(out, crashes, telemetry.interval):
        print(f"label: {outlook}", file=sys.stderr)  # before anything is trained; no output has it


def tell_rare_rows(horizon: timedelta, interval: timedelta) -> None:
    """Say on stderr how many crashes no row can precede, because rows are further apart than the horizon."""
    if horizon < interval:
        shorter = f"({format_duration(horizon)}) is shorter than telemetry.interval ({format_duration(interval)})"
        missed = f"about {1 - horizon / interval:.0%} of crashes are within the horizon of no row"
        print(f"label: label.horizon {shorter}: {missed}", file=sys.stderr)


def outlook_of_labels(labels: Path, crashes: pl.DataFrame, interval: timedelta) -> crash_groups.Outlook | None:
    """Count the groups of crashes that a review would judge, in the period of the known labels.

    Parameters
    ----------
    labels : Path
        The table.
    crashes : DataFrame
        `server_id`, `started_at`.
    interval : timedelta
        The cadence.

    Returns
    -------
    Outlook or None
        None if no label is known, or the split is not by time.
    """
    parts = tables.partitions(labels)
    # the last ones may hold no known label, because a crash is known only later
    ends = [next(filter(None, (_known_times(labels, part) for part in order)), []) for order in (parts, parts[::-1])]
    if not all(ends) or ends[0][0] == ends[1][-1]:
        return None
    first, last = ends[0][0], ends[1][-1]
    within = crashes.filter(pl.col("started_at").is_between(first, last)).select("server_id", "started_at").rows()
    return crash_groups.outlook(within, (first, last), interval)


def _known_times(labels: Path, partition: Partition) -> list[datetime]:
    """Return the first and the last time of a partition's rows with a known label; nothing if there is none."""
    is_known = pl.col("label").is_not_null()
    times = tables.read(partition.path(labels), ["timestamp", "label"], is_known)["timestamp"]
    return [times[0], times[-1]] if len(times) else []


def up_intervals(telemetry_path: Path, telemetry: Telemetry, label: Label) -> pl.DataFrame:
    """Return interruptions.UP_INTERVALS of every partition of raw telemetry; none if tickets are taken as they are."""
    nothing = pl.DataFrame(schema=interruptions.UP_INTERVALS)
    if label.aggregate == consensus.RECORDED:
        return nothing
    columns = interruptions.columns(telemetry, label.uptime_metric, label.error_metric)
    shown_by = {labelling_functions.RESTARTS: "uptime_metric", labelling_functions.STORMS: "error_metric"}
    for source, name in shown_by.items():
        metric = getattr(label, name)
        if source in label.evidence and metric is not None and metric not in columns:
            print(
                f"label: {source} do not vote: telemetry has no {metric} (params.yaml: label.{name})", file=sys.stderr
            )
    raw = tables.partitions(telemetry_path)
    tasks = [
        Task(
            partition,
            {
                "samples": Period.among(raw, telemetry_path, partition.start, partition.end, columns),
                "telemetry": telemetry,
                "uptime_metric": label.uptime_metric,
                "error_metric": label.error_metric,
                "error_storm": label.error_storm,
            },
        )
        for partition in raw
    ]
    return pl.concat([nothing, *map(tables.read, runner.files("evidence", interruptions.up_intervals, tasks))])


def incidents_that_reach(partition: Partition, incidents: pl.DataFrame, label: Label) -> pl.DataFrame:
    """Return the incidents that can touch a partition's labels."""
    start, end = tables.utc(partition.start - label.recovery, partition.end + label.reach)
    touching = incidents.filter((pl.col("started_at") <= end) & (pl.col("resolved_at") >= start))
    return touching.select("server_id", "kind", "started_at", "resolved_at")


def coverage_that_reaches(partition: Partition, coverage: pl.DataFrame, blind: timedelta) -> pl.DataFrame:
    """Return the coverage as far as it can touch a partition's labels: more of the future changes nothing."""
    return clipped(coverage, "covered_from", "covered_to", partition.start, partition.end + blind)


def mitigated_periods(alarms: pl.DataFrame, actions: pl.DataFrame, label: Label) -> pl.DataFrame:
    """Return the periods in which an action may have prevented the crash that a label asks for.

    Such a period reaches back from the action as far as a label looks ahead; and from it to the end of the alarm in
    which it was taken, renewals included.

    Parameters
    ----------
    alarms, actions : DataFrame
        tables.ALARMS, tables.ACTIONS.
    label : Label
        The parameters.

    Returns
    -------
    DataFrame
        `server_id`, `begun`, `ended`: [begun, ended).
    """
    at = pl.col("at")
    standing = alarms.group_by("server_id", "opened_at").agg(ended=pl.col("ends_at").max())
    within_alarm = actions.join(standing, on="server_id").filter(pl.col("opened_at") <= at, at < pl.col("ended"))
    found = [
        actions.select("server_id", begun=at - label.reach, ended=at),
        within_alarm.select("server_id", begun=at, ended="ended"),
    ]
    return pl.concat(found).unique()


def clipped(periods: pl.DataFrame, first: str, last: str, start: datetime, end: datetime) -> pl.DataFrame:
    """Return the pieces of periods [first, last), two columns, that lie in [start, end), in order."""
    since, until = tables.utc(start, end)
    return (
        periods.with_columns(pl.max_horizontal(first, since).alias(first), pl.min_horizontal(last, until).alias(last))
        .filter(pl.col(first) < pl.col(last))
        .sort("server_id", first, last)
    )


def label_partition(
    partition: Partition,
    rows: pl.DataFrame,
    incidents: pl.DataFrame,
    coverage: pl.DataFrame,
    mitigated: pl.DataFrame,
    blind: timedelta,
    telemetry: Telemetry,
    label: Label,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Label one partition.

    Parameters
    ----------
    partition : Partition
        Whose rows these are.
    rows : DataFrame
        `timestamp`, `server_id` and `observed`, sorted.
    incidents : DataFrame
        `server_id`, `kind`, `started_at`, `resolved_at`.
    coverage : DataFrame
        `server_id`, `covered_from`, `covered_to`.
    mitigated : DataFrame
        See `mitigated_periods`.
    blind : timedelta
        How long before the end of the records labels stay unknown.
    telemetry, label : Telemetry, Label
        The parameters.

    Returns
    -------
    DataFrame
        The rows with `label` (1, 0, null) and `reason` (null if the label is known).
    dict
        How many rows of each label, and of each reason.
    """
    servers, columns = encode(rows["server_id"])
    grid = Grid.over(partition.start, partition.end, telemetry.interval, servers)
    started, resolved = pl.col("started_at"), pl.col("resolved_at")
    crashes = incidents.filter(pl.col("kind") == CRASH)
    planned = incidents.filter(pl.col("kind") == MAINTENANCE)
    reach, ahead = label.reach, label.lead
    covered = within(grid, coverage, pl.col("covered_from"), pl.col("covered_to"))
    settled = within(grid, coverage, pl.col("covered_from"), pl.col("covered_to") - blind)

    # t + lead < started <= t + reach is started - reach <= t < started - lead
    crash = within(grid, crashes, started - reach, started - ahead)
    unknown = {
        Reason.MAINTENANCE_AHEAD: within(grid, planned, started - reach, started) & ~crash,
        Reason.MITIGATED: within(grid, mitigated, pl.col("begun"), pl.col("ended")) & ~crash,
        Reason.RECORDS_END: ~settled,
        Reason.LEAD: within(grid, crashes, started - ahead, started),
        Reason.OUTAGE: within(grid, incidents, started, resolved + label.recovery),
        Reason.UNCOVERED: ~covered,
    }
    code = np.zeros(grid.shape, dtype=np.uint8)  # 0: known; else the reason's position
    for position, mask in enumerate(unknown.values(), start=1):
        code[mask] = position

    cells = grid.cells(rows["timestamp"], columns)
    codes, is_crash = code.ravel()[cells], crash.ravel()[cells]
    reasons = pl.Series([None, *map(str, unknown)], dtype=pl.String)
    frame = rows.with_columns(
        label=pl.when(pl.Series(codes == 0)).then(pl.Series(is_crash.view(np.int8))),
        reason=reasons.gather(pl.Series(codes.astype(np.uint32))),
    )
    counts = np.bincount(codes, minlength=len(reasons)).tolist()
    positives = int(np.count_nonzero(is_crash & (codes == 0)))
    return frame, {
        "rows": frame.height,
        "crash": positives,
        "no_crash": counts[0] - positives,
        **{f"unknown_{reason}": count for reason, count in zip(unknown, counts[1:], strict=True)},
    }


def check_that_crashes_show(labels: Path, crashes: pl.DataFrame, label: Label) -> None:
    """Raise an error if there is a crash that should have rows: a server's that has sent some before.

    Parameters
    ----------
    labels : Path
        The labels; no row is 1.
    crashes : DataFrame
        `server_id`, `started_at`: those within the coverage.
    label : Label
        The parameters.
    """
    if crashes.is_empty():
        return
    moment, started = pl.col("timestamp"), pl.col("started_at")
    crashes = crashes.with_row_index("crash")
    warned = moment.is_between(started - label.reach, started - label.lead, closed="left")
    begun, reasons, with_rows = [], [], []
    for partition in tables.partitions(labels):
        rows = tables.read(partition.path(labels), ["timestamp", "server_id", "reason"])
        begun.append(rows.group_by("server_id").agg(first=moment.min()))
        start, end = tables.utc(partition.start + label.lead, partition.end + label.reach)
        near = rows.join(crashes.filter(started.is_between(start, end)), on="server_id").filter(warned)
        reasons.append(near["reason"])
        with_rows.append(near["crash"])
    first = pl.concat(begun).group_by("server_id").agg(pl.col("first").min())
    due = crashes.join(first, on="server_id").filter(pl.col("first") < started - label.lead)
    if due.is_empty():
        return
    counts = pl.concat(reasons).value_counts().sort("count", "reason", descending=[True, False]).rows()
    rowless = due.filter(~pl.col("crash").is_in(pl.concat(with_rows).unique().implode())).height
    found = [f"{counted(count, 'row')} before them unknown ({reason}): {REMEDIES[reason]}" for reason, count in counts]
    if rowless:
        period = f"{format_duration(label.reach)} to {format_duration(label.lead)} before them"
        remedy = "is telemetry silent then, or label.horizon shorter than telemetry.interval?"
        found.append(f"{rowless:,} without a row from {period}: {remedy}")
    raise UserError("; ".join([f"no row is labelled 1, but crashes are known: {due.height:,}", *found]))


def within(grid: Grid, spans: pl.DataFrame, start: pl.Expr, end: pl.Expr) -> Bools:
    """Say which cells lie in a span [start, end) of their server.

    Parameters
    ----------
    grid : Grid
        T times by S servers.
    spans : DataFrame
        `server_id` and the columns of `start` and `end`.
    start, end : Expr
        Moments.

    Returns
    -------
    bool array of shape (T, S)
    """
    moments = spans.select(start=start, end=end)
    first, last = (grid.rows_at(microseconds(moments[name])) for name in ("start", "end"))
    return grid.overlaps(first, last, grid.columns_of(spans["server_id"])) > 0


def summarise(total: dict[str, int]) -> dict[str, float]:
    """Return the counts with the base rate: the share of crash among the known."""
    known = total["crash"] + total["no_crash"]
    return {**total, "known": known, "base_rate": total["crash"] / known if known else 0.0}
