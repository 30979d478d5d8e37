"""`crashcast incidents`: ask every source, merge what is new into what is known, write data/raw."""

from __future__ import annotations

import csv
import io
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
from crashcast.paths import COVERAGE, INCIDENTS, RAW, TICKET_SOURCES, TICKETS_FILE
from crashcast.sources.importing import merging
from crashcast.sources.tickets import api, saved
from crashcast.sources.tickets.outages import merge, starts_after_report
from crashcast.sources.tickets.tickets import TICKETS, LeftOut, Parsed, parse
from crashcast.tables import CRASH, TIMESTAMP
from crashcast.versioning.dvc_files import pointer
from crashcast.versioning.tracked_data import track

LEFT_OUT_FILE = Path("reports/tickets_left_out.csv")
IMPORTED = "import"  # the source of incidents that `crashcast import` wrote
KEY = ("source", "ticket_id", "server_id")
SHOWN = 10  # bad tickets in a message
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Collected:
    """What one source gave, and the period [covered_from, covered_to) in which its silence means something."""

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
        APIs are asked for [since, until), in UTC; by default from tickets.since on, until the last midnight.
    replace : bool
        Forget what was collected from these sources before.

    Returns
    -------
    list of str
        What was found and written, for the user.

    Raises
    ------
    UserError
        Where a source fails or too many of its records are no valid tickets: data/raw is then as it was.
    """
    rules, now = Tickets.read(), datetime.now(UTC)
    first, last = _midnight(since or rules.since), _midnight(until or now.date())
    if Data.read().source == "demo":
        raise UserError(f"{RAW} holds the demo fleet: bring in your own telemetry first, with `crashcast import`")
    if not rules.sources:
        raise UserError("params.yaml: tickets.sources names no system; docs/incidents.md shows how")
    if unknown := [name for name in only if name not in rules.sources]:
        raise UserError(f"params.yaml: tickets.sources has no {', '.join(unknown)}; it has {', '.join(rules.sources)}")
    if first >= last:
        raise UserError(f"nothing lies between {first:%Y-%m-%d} and {last:%Y-%m-%d}")
    chosen = {name: source for name, source in rules.sources.items() if not only or name in only}
    found = [_ask(name, source, first, last, now) for name, source in chosen.items()]
    lines = _judge(found, rules.max_bad_share)
    old, periods = _known()
    if replace:
        old, periods = (frame.filter(~pl.col("source").is_in(list(chosen))) for frame in (old, periods))
    new = pl.concat([one.parsed.tickets for one in found])
    tickets, counts = update(old, new)
    incidents, tickets = merge(tickets, rules)
    tables.write(TICKETS_FILE, tickets)  # first: the incidents follow from it, should this be killed in between
    tables.write(INCIDENTS, incidents)
    tables.write(TICKET_SOURCES, cover(periods, found, tickets))  # last: no silence without the tickets it stands for
    track([TICKETS_FILE, INCIDENTS, TICKET_SOURCES])
    return [*lines, *_summarise(tickets, incidents, counts, rules)]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _ask(name: str, source: TicketSource, first: datetime, last: datetime, now: datetime) -> Collected:
    asked = not source.files
    records = api.records(name, source, first, last) if asked else saved.records(name, source)
    parsed = parse(name, source, records, now)
    if asked:
        return Collected(name, parsed, first, last)
    ((_, since, until),) = told(parsed.tickets).rows() or [(name, None, None)]
    return Collected(name, parsed, since, until)


def _judge(found: list[Collected], max_bad_share: float) -> list[str]:
    bad = [left_out for one in found for left_out in one.parsed.bad]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([LeftOut._fields, *bad])
    write_text(LEFT_OUT_FILE, text.getvalue())
    lines = []
    for one in found:
        what = one.parsed
        counts = f"{what.tickets.height:,} tickets of {what.read:,} records"
        lines.append(f"{one.name}: {counts}, {what.ignored:,} of no concern, {len(what.bad):,} not understood")
    lines += [f"  {source} {ticket_id}: {reason}" for source, ticket_id, reason in bad[:SHOWN]]
    lines += [f"  and {len(bad) - SHOWN:,} more in {LEFT_OUT_FILE}"] if len(bad) > SHOWN else []
    for one in found:
        what = one.parsed
        share = len(what.bad) / max(1, what.read - what.ignored)
        if share > max_bad_share:
            excuse = f"{share:.0%} of its tickets are not understood; tickets.max_bad_share bears {max_bad_share:.0%}"
            raise UserError("\n".join([f"{one.name}: {excuse}. Nothing was written.", *lines]))
    return lines


def _known() -> tuple[pl.DataFrame, pl.DataFrame]:
    # the tickets and periods of earlier collections, and what `crashcast import` has brought in since
    files: dict[Path, dict[str, Any]] = {
        TICKETS_FILE: TICKETS,
        TICKET_SOURCES: tables.TICKET_SOURCES,
        INCIDENTS: tables.INCIDENTS,
    }
    tickets, periods, incidents = (
        tables.read(path, schema) if _is_there(path) else pl.DataFrame(schema=schema) for path, schema in files.items()
    )
    return update(tickets, imported(incidents))[0], periods


def _is_there(path: Path) -> bool:
    if not path.exists() and pointer(path).exists():
        raise UserError(f"{path} is missing: `dvc pull` brings it")
    return path.exists()


def imported(incidents: pl.DataFrame) -> pl.DataFrame:
    """Return the incidents that were not made of tickets, as tickets of the source `import`."""
    begun_by = pl.col("incident_id").str.split(":").list.first()  # see `outages.ID`
    collected = pl.col("source").str.split(", ").list.contains(begun_by).fill_null(False)
    return (
        incidents.filter(~collected)
        .with_columns(source=pl.lit(IMPORTED), ticket_id="incident_id", updated_at=pl.lit(None, TIMESTAMP))
        .select(*TICKETS)
    )


def update(old: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """Put newer versions of tickets in the place of older ones.

    A version is older only where both say when they were updated; else what is collected now holds.

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
    """Add the periods of a collection to those of earlier ones; a source's that overlap or touch are joined.

    No period begins before its source's first ticket: an API answers for any time, also for that before the system was
    in use. What `crashcast import` brought in was recorded from its first report to its last.
    """
    spans = told(tickets)
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


def told(tickets: pl.DataFrame) -> pl.DataFrame:
    """Return the period from each source's first report to its last, which is in it."""
    said = pl.coalesce("reported_at", "started_at")
    spans = tickets.group_by("source").agg(covered_from=said.min(), covered_to=said.max() + INSTANT)
    return spans.drop_nulls().sort("source").cast(tables.TICKET_SOURCES)  # type: ignore[arg-type]


def _summarise(tickets: pl.DataFrame, incidents: pl.DataFrame, counts: Counter[str], rules: Tickets) -> list[str]:
    crashes = incidents.filter(pl.col("kind") == CRASH)
    several = incidents.filter(pl.col("source").str.contains(", ")).height
    said = f"{counts['added']:,} tickets added, {counts['corrected']:,} corrected, {counts['unchanged']:,} unchanged"
    made = f"{incidents.height:,} incidents of {tickets.height:,} tickets, {several:,} told by several sources"
    lines = [
        f"{TICKETS_FILE}: {said}",
        f"{INCIDENTS}: {made}; {crashes.height:,} crashes on {crashes['server_id'].n_unique():,} servers",
    ]
    if doubtful := tickets.filter(starts_after_report()).height:
        lines.append(f"{doubtful:,} crashes start after their own report, and are taken as starting with it")
    late = pl.col("resolved_at") - pl.col("started_at") > rules.longest_outage
    if forgotten := tickets.filter(late).height:
        longest = format_duration(rules.longest_outage)
        lines.append(f"{forgotten:,} tickets were closed more than {longest} after their start: as if never closed")
    if COVERAGE.exists():
        known = tables.read(COVERAGE, ["server_id"])["server_id"]
        if strangers := sorted(set(tickets["server_id"]) - set(known)):
            some = ", ".join(strangers[:3])
            lines.append(
                f"{len(strangers):,} servers have tickets but no coverage, such as {some}: is server.pattern right?"
            )
    return lines
