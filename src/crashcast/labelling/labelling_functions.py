"""The labelling functions: each says crash (1), no crash (0) or abstains (null) for every candidate event.

If a source was watching and reported no crash, it votes no. If it was not watching, it abstains.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import polars as pl

from crashcast.labelling.candidate_events import NO_CRASH, UNNAMED
from crashcast.tables import CRASH

TICKETS, RESTARTS, GAPS, STORMS, ANNOTATIONS = "tickets", "restarts", "gaps", "storms", "annotations"
VOTES: dict[str, Any] = {"event": pl.Int64, "source": pl.String, "vote": pl.Int8}
BETWEEN = ", "  # an incident that several systems recorded names all of them


def _says(sign: pl.Expr, watched: str) -> pl.Expr:
    """Vote by a sign in the telemetry; abstain if it may be planned work that is not on record, or an action's."""
    return pl.when(~pl.col("due")).then(pl.when(sign & ~pl.col("planned")).then(1).when(watched).then(0))


def restarts() -> pl.Expr:
    """Vote crash for a restart that is no planned reboot, no crash if the uptime went on."""
    return _says(pl.col("restarted"), "has_uptime")


def gaps() -> pl.Expr:
    """Vote crash for a gap in the telemetry that is no planned work, no crash if no sample is missing."""
    return _says(pl.col("silent"), "has_telemetry")


def storms() -> pl.Expr:
    """Vote crash for an error storm in the last sample before an interruption, no crash if there is none."""
    return _says(pl.col("storm"), "has_errors")


def systems() -> pl.Expr:
    """Return the list of systems that an incident's `source` names."""
    return pl.col("source").fill_null(UNNAMED).str.split(BETWEEN)


def tickets(
    events: pl.DataFrame, crash_tickets: pl.DataFrame, coverage: pl.DataFrame, ticket_sources: pl.DataFrame
) -> pl.DataFrame:
    """Vote for each ticket system: yes by its crash ticket, no if it was recording and has none.

    Parameters
    ----------
    events : DataFrame
        candidates.EVENTS.
    crash_tickets : DataFrame
        `event`, `source`.
    coverage : DataFrame
        `server_id`, `covered_from`, `covered_to`.
    ticket_sources : DataFrame
        tables.TICKET_SOURCES: a system that was adopted later abstains before that.

    Returns
    -------
    DataFrame
        VOTES.
    """
    named = crash_tickets.select("event", source=systems()).explode("source")
    voting = named.select(pl.col("source").unique().sort())
    inside = pl.col("began_by").is_between("covered_from", "covered_to", closed="left")
    covered = (
        events.select("event", "server_id", "began_by")
        .join(coverage, on="server_id")
        .filter(inside)
        .select("event", "began_by")
        .unique()
    )
    always = voting.join(ticket_sources, on="source", how="anti")
    at_times = ticket_sources.join(voting, on="source", how="semi")
    watched = pl.concat(
        [
            covered.join(always, how="cross").select("event", "source"),
            covered.join(at_times, how="cross").filter(inside).select("event", "source").unique(),
        ]
    )
    yes = named.unique().with_columns(vote=pl.lit(1))
    no = watched.join(yes, on=["event", "source"], how="anti").with_columns(vote=pl.lit(0))
    return pl.concat([yes, no]).cast(VOTES)  # type: ignore[arg-type]


def people(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Vote by the majority of the annotators of an event; abstain if they are divided.

    Parameters
    ----------
    verdicts : DataFrame
        `event`, `verdict`, `annotator`, `annotated_at`: an annotator's last verdict counts.

    Returns
    -------
    DataFrame
        VOTES.
    """
    last = verdicts.sort("event", "annotator", "annotated_at", "verdict").unique(["event", "annotator"], keep="last")
    lean = pl.when(verdict=CRASH).then(1).when(verdict=NO_CRASH).then(-1).otherwise(0)
    agreed = last.group_by("event").agg(lean=lean.sum()).filter(pl.col("lean") != 0)
    votes = agreed.sort("event").select("event", source=pl.lit(ANNOTATIONS), vote=pl.col("lean") > 0)
    return votes.cast(VOTES)  # type: ignore[arg-type]


def votes_of_all(
    evidence: Collection[str],
    events: pl.DataFrame,
    crash_tickets: pl.DataFrame,
    verdicts: pl.DataFrame,
    coverage: pl.DataFrame,
    ticket_sources: pl.DataFrame,
) -> pl.DataFrame:
    """Return the votes of all labelling functions that `evidence` names, sorted by (event, source)."""
    by_telemetry = {RESTARTS: restarts(), GAPS: gaps(), STORMS: storms()}
    votes = [
        events.select("event", source=pl.lit(name), vote=rule).drop_nulls("vote").cast(VOTES)  # type: ignore[arg-type]
        for name, rule in by_telemetry.items()
        if name in evidence
    ]
    if TICKETS in evidence:
        votes.append(tickets(events, crash_tickets, coverage, ticket_sources))
    if ANNOTATIONS in evidence:
        votes.append(people(verdicts))
    return pl.concat([pl.DataFrame(schema=VOTES), *votes]).sort("event", "source")
