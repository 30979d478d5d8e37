"""`crashcast incidents`: read every source, merge its tickets into those of earlier collections, write data/raw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.canonical import write_text
from crashcast.errors import UserError
from crashcast.params.base import format_duration
from crashcast.params.data import Data
from crashcast.params.tickets import Tickets, TicketSource
from crashcast.paths import ACTIONS_PATH, COVERAGE_PATH, INCIDENTS_PATH, RAW, TICKET_SOURCES_PATH, TICKETS_PATH
from crashcast.sources.importing import merging
from crashcast.sources.importing.transaction import exchanged, recover, workspace
from crashcast.sources.raw_table import read_or_empty
from crashcast.sources.tickets import api, saved_records
from crashcast.sources.tickets.outages import IS_ALARM, merge, starts_after_report
from crashcast.sources.tickets.tickets import TICKETS, LeftOut, Parsed, parse
from crashcast.sources.value_formats import utc_text
from crashcast.spreadsheet import write_csv
from crashcast.tables import CRASH, TIMESTAMP
from crashcast.text import counted
from crashcast.versioning.tracked_data import track

LEFT_OUT_FILE = Path("reports/tickets_left_out.csv")
IMPORTED = "import"  # the source of incidents that `crashcast import` wrote
KEY = ("source", "ticket_id", "server_id")
INSTANT = timedelta(microseconds=1)
SHOWN = 10  # bad tickets in a message


@dataclass(frozen=True)
class Collected:
    """The records of one source, and the period [covered_from, covered_to) in which it recorded all its tickets."""

    name: str
    parsed: Parsed
    covered_from: datetime | None
    covered_to: datetime | None


def collect(
    only: Sequence[str] = (), since: date | None = None, until: date | None = None, replace: bool = False
) -> list[str]:
    """Collect tickets into data/raw and track the files with DVC.

    Parameters
    ----------
    only : sequence of str
        Names of sources; all of params.yaml by default.
    since, until : date, optional
        APIs are asked for [since, until), in UTC; by default from tickets.since, and at most until the last full hour.
    replace : bool
        Drop earlier tickets of these sources.

    Returns
    -------
    list of str
        Counts of what was found and written, for the user.

    Raises
    ------
    UserError
        If a source fails or too many of its records are no valid tickets: data/raw is then as it was.
    """
    recover()
    section, now = Tickets.read(), datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    first, last = _midnight(since or section.since), min(hour, _midnight(until)) if until else hour
    if Data.read().source == "demo":
        raise UserError(f"{RAW} holds the demo fleet: bring in your own telemetry first, with `crashcast import`")
    if not section.sources:
        raise UserError("params.yaml: tickets.sources names no system; docs/incidents.md shows how")
    if unknown := [name for name in only if name not in section.sources]:
        raise UserError(
            f"params.yaml: tickets.sources has no {', '.join(unknown)}; it has {', '.join(section.sources)}"
        )
    if first >= last:
        raise UserError(f"nothing lies between {utc_text(first)} and {utc_text(last)}")
    chosen = {name: source for name, source in section.sources.items() if not only or name in only}
    found = [_collect_one(name, source, first, last, now) for name, source in chosen.items()]
    lines = _report_bad(found, section.max_bad_share)
    old, periods = _known()
    if replace:
        old, periods = (frame.filter(~pl.col("source").is_in(list(chosen))) for frame in (old, periods))
    actions = _with_actions(found, [*chosen] if replace else [])
    new = pl.concat([one.parsed.tickets for one in found])
    tickets, counts = update(old, new)
    incidents, tickets = merge(tickets, section)
    new_files = {
        TICKETS_PATH: tickets,
        INCIDENTS_PATH: incidents,
        TICKET_SOURCES_PATH: cover(periods, found, tickets),
        ACTIONS_PATH: actions,
    }
    with workspace() as folder:
        for path, frame in new_files.items():
            tables.write(folder / path.name, frame)
        with exchanged([*new_files], folder):
            track([*new_files])
    return [*lines, *_summarise(tickets, incidents, counts, section), *_summarise_own(tickets, actions)]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _collect_one(name: str, source: TicketSource, first: datetime, last: datetime, now: datetime) -> Collected:
    asked = not source.files
    records = api.records(name, source, first, last) if asked else saved_records.records(name, source)
    parsed = parse(name, source, records, now)
    if asked:
        return Collected(name, parsed, first, last)
    ((_, since, until),) = recorded_periods(parsed.tickets).rows() or [(name, None, None)]
    return Collected(name, parsed, since, until)


def _report_bad(found: list[Collected], max_bad_share: float) -> list[str]:
    bad = [left_out for one in found for left_out in one.parsed.bad]
    write_text(LEFT_OUT_FILE, write_csv(pl.DataFrame(bad, dict.fromkeys(LeftOut._fields, pl.String), orient="row")))
    lines = []
    for one in found:
        parsed = one.parsed
        counts = f"{parsed.tickets.height:,} tickets of {parsed.read:,} records"
        lines.append(f"{one.name}: {counts}, {parsed.ignored:,} ignored, {len(parsed.bad):,} not understood")
    lines += [f"  {source} {ticket_id}: {reason}" for source, ticket_id, reason in bad[:SHOWN]]
    lines += [f"  and {len(bad) - SHOWN:,} more in {LEFT_OUT_FILE}"] if len(bad) > SHOWN else []
    for one in found:
        share = len(one.parsed.bad) / max(1, one.parsed.read - one.parsed.ignored)
        if share > max_bad_share:
            reason = f"{share:.0%} of its tickets are not understood; tickets.max_bad_share allows {max_bad_share:.0%}"
            raise UserError("\n".join([f"{one.name}: {reason}. Nothing was written.", *lines]))
    return lines


def _known() -> tuple[pl.DataFrame, pl.DataFrame]:
    # tickets and periods of earlier collections, and incidents that were imported since
    files: dict[Path, dict[str, Any]] = {
        TICKETS_PATH: TICKETS,
        TICKET_SOURCES_PATH: tables.TICKET_SOURCES,
        INCIDENTS_PATH: tables.INCIDENTS,
    }
    tickets, periods, incidents = (read_or_empty(path, schema) for path, schema in files.items())
    return update(tickets, imported(incidents))[0], periods


def _with_actions(found: list[Collected], dropped: list[str]) -> pl.DataFrame:
    """Return the actions that are known, except those of dropped sources, with what the tickets say was done."""
    known = read_or_empty(ACTIONS_PATH, tables.ACTIONS).filter(~pl.col("source").is_in(dropped))
    merged, _ = merging.merge(known, pl.concat([one.parsed.actions for one in found]), tables.ACTION_KEY)
    return merged.sort(tables.ACTION_KEY)


def imported(incidents: pl.DataFrame) -> pl.DataFrame:
    """Return imported incidents, those that are not made of tickets, as tickets of the source `import`."""
    begun_by = pl.col("incident_id").str.split(":").list.first()  # see `outages.ID`
    collected = pl.col("source").str.split(", ").list.contains(begun_by).fill_null(False)
    return (
        incidents.filter(~collected)
        .with_columns(source=pl.lit(IMPORTED), ticket_id="incident_id", updated_at=pl.lit(None, TIMESTAMP))
        .select(*TICKETS)
    )


def update(old: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """Replace older versions of tickets by newer ones.

    A new version replaces an old one unless both have a time of update, and the old one's is later.

    Parameters
    ----------
    old, new : DataFrame
        In the schema of `TICKETS`, each (source, ticket_id, server_id) once in each.

    Returns
    -------
    DataFrame
        In no particular order.
    Counter
        As of `merging.merge`.
    """
    before = old.select(*KEY, before="updated_at")
    current = new.join(before, on=KEY, how="left").filter((pl.col("updated_at") >= pl.col("before")).fill_null(True))
    return merging.merge(old, current.select(*TICKETS), KEY)


def cover(periods: pl.DataFrame, found: list[Collected], tickets: pl.DataFrame) -> pl.DataFrame:
    """Add the periods of a collection to those of earlier ones; periods of a source that overlap or touch are joined.

    No period begins before its source's first ticket, because an API also answers for times before the system was in
    use. Imported incidents were recorded from the first report to the last.
    """
    spans = recorded_periods(tickets)
    rows = [(one.name, one.covered_from, one.covered_to) for one in found if one.covered_from is not None]
    new = pl.DataFrame(rows, schema=tables.TICKET_SOURCES, orient="row")
    joined = merging.join_periods(pl.concat([periods, new, spans.filter(source=IMPORTED)]), "source")
    first = spans.select("source", first="covered_from")
    return (
        joined.join(first, on="source", maintain_order="left")
        .with_columns(pl.max_horizontal("covered_from", "first").alias("covered_from"))
        .filter(pl.col("covered_from") < pl.col("covered_to"))
        .select(*tables.TICKET_SOURCES)
    )


def recorded_periods(tickets: pl.DataFrame) -> pl.DataFrame:
    """Return the period of each source from its first report to its last, both included.

    A ticket that stems from our own alarm does not show that crashes were reported.
    """
    reported = pl.coalesce("reported_at", "started_at")
    spans = (
        tickets.filter(~IS_ALARM)
        .group_by("source")
        .agg(covered_from=reported.min(), covered_to=reported.max() + INSTANT)
    )
    return spans.drop_nulls().sort("source").cast(tables.TICKET_SOURCES)  # type: ignore[arg-type]


def _summarise_own(tickets: pl.DataFrame, actions: pl.DataFrame) -> list[str]:
    own = tickets.filter(IS_ALARM)
    if own.is_empty():
        return []
    count = actions.filter(pl.col("source").is_in(own["source"].unique().implode())).height
    no_crashes = f"{own.height:,} tickets stem from our own alarms, so they are part of no incident"
    return [f"{no_crashes}; {counted(count, 'action')} reported there are in {ACTIONS_PATH}"]


def _summarise(tickets: pl.DataFrame, incidents: pl.DataFrame, counts: Counter[str], section: Tickets) -> list[str]:
    crashes = incidents.filter(pl.col("kind") == CRASH)
    several = incidents.filter(pl.col("source").str.contains(", ")).height
    changes = f"{counts['added']:,} tickets added, {counts['corrected']:,} corrected, {counts['unchanged']:,} unchanged"
    of_incidents = tickets.filter(~IS_ALARM)
    made = f"{incidents.height:,} incidents of {of_incidents.height:,} tickets, {several:,} of several sources"
    lines = [
        f"{TICKETS_PATH}: {changes}",
        f"{INCIDENTS_PATH}: {made}; {crashes.height:,} crashes on {crashes['server_id'].n_unique():,} servers",
    ]
    if doubtful := tickets.filter(starts_after_report()).height:
        lines.append(f"{doubtful:,} crashes start after their own report, and are taken as starting with it")
    late = pl.col("resolved_at") - pl.col("started_at") > section.longest_outage
    if forgotten := of_incidents.filter(late).height:
        longest = format_duration(section.longest_outage)
        lines.append(f"{forgotten:,} tickets were closed more than {longest} after their start: as if never closed")
    if COVERAGE_PATH.exists():
        known = tables.read(COVERAGE_PATH, ["server_id"])["server_id"]
        if unknown := sorted(set(tickets["server_id"]) - set(known)):
            some = ", ".join(unknown[:3])
            lines.append(
                f"{len(unknown):,} servers have tickets but no coverage, such as {some}: is server.pattern right?"
            )
    return lines
