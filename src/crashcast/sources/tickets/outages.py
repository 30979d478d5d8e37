"""Which tickets are one incident, and what it is then.

Tickets of one server and kind are one incident if their outages overlap or start at most `same_outage` apart, or if a
third ticket connects them in this way. Of an incident

- `started_at` is the earliest credible start: a crash that starts after its own ticket's report is taken as starting
  with the report;
- `reported_at` is the earliest report, and not before the start;
- `resolved_at` is the latest end, of those within `longest_outage` of their ticket's start; null if there is none.

A ticket that stems from our own alarm is part of no incident.

The result depends on the set of tickets only, not on their order. A further ticket makes an incident, or joins or
connects incidents, which then start no later, end no earlier and were reported no later than before.
"""

from __future__ import annotations

import polars as pl

from crashcast.params.tickets import Tickets
from crashcast.sources.tickets.own_alarms import ALARM
from crashcast.sources.tickets.tickets import TICKETS
from crashcast.tables import CRASH, INCIDENTS

IS_ALARM = pl.col("kind").eq_missing(ALARM)
ID = "{}:{}:{}"  # of the incident that a ticket begins: source, ticket_id, server_id


def merge(tickets: pl.DataFrame, section: Tickets) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Merge tickets into incidents.

    Parameters
    ----------
    tickets : DataFrame
        In the schema of `TICKETS`, each (source, ticket_id, server_id) once, in any order.
    section : Tickets
        States `same_outage` and `longest_outage`.

    Returns
    -------
    incidents : DataFrame
        In the schema of incidents.parquet, sorted by (started_at, server_id, incident_id).
    tickets : DataFrame
        With the `incident_id` of each, null if it is part of none; sorted by (source, ticket_id, server_id).
    """
    ticket_id = pl.format(ID, "source", "ticket_id", "server_id")
    start, end = credible_start(), credible_end(section)
    group = ["server_id", "kind"]
    of_incidents, of_alarms = tickets.filter(~IS_ALARM), tickets.filter(IS_ALARM)
    placed = of_incidents.select(*TICKETS, start=start, end=end, name=ticket_id).sort(*group, "start", "name")
    reach = pl.max_horizontal("end", pl.col("start") + section.same_outage)
    reached = reach.cum_max().shift().over(group)
    apart = (pl.col("start") > reached).fill_null(True)
    placed = placed.with_columns(outage=apart.cum_sum())
    incidents = (
        placed.group_by("outage", *group, maintain_order=True)
        .agg(
            incident_id=pl.col("name").first(),
            started_at=pl.col("start").min(),
            resolved_at=pl.col("end").max(),
            reported_at=pl.col("reported_at").min(),
            severity=pl.col("severity").drop_nulls().first(),
            source=pl.col("source").unique().sort().str.join(", "),
            summary=pl.col("summary").drop_nulls().first(),
        )
        .with_columns(reported_at=pl.when(pl.col("reported_at").is_not_null()).then(_not_before_start()))
    )
    kept = placed.join(incidents.select("outage", "incident_id"), on="outage").select(*TICKETS, "incident_id")
    kept = pl.concat([kept, of_alarms.select(*TICKETS)], how="diagonal")
    return (
        incidents.select(*INCIDENTS).sort("started_at", "server_id", "incident_id"),
        kept.sort("source", "ticket_id", "server_id"),
    )


def _not_before_start() -> pl.Expr:
    return pl.max_horizontal("reported_at", "started_at")


def starts_after_report() -> pl.Expr:
    """Whether a crash starts after its own ticket's report."""
    return ((pl.col("kind") == CRASH) & (pl.col("started_at") > pl.col("reported_at"))).fill_null(False)


def credible_start() -> pl.Expr:
    """When a ticket's outage started: not after its own report, unless it was planned."""
    return pl.when(starts_after_report()).then("reported_at").otherwise("started_at")


def credible_end(section: Tickets) -> pl.Expr:
    """When a ticket's outage ended; null if it is not known."""
    return pl.when(pl.col("resolved_at") - credible_start() <= section.longest_outage).then("resolved_at")
