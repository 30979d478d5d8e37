"""The labelling functions: each says crash (1), no crash (0) or abstains (null) for every candidate event.

Silence of a source that was watching is a no: it would have spoken of a crash. Where it was not watching it abstains.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import polars as pl

from crashcast.labelling.candidates import NO_CRASH, UNNAMED
from crashcast.tables import CRASH

TICKETS, RESTARTS, GAPS, STORMS, ANNOTATIONS = "tickets", "restarts", "gaps", "storms", "annotations"
VOTES: dict[str, Any] = {"event": pl.Int64, "source": pl.String, "vote": pl.Int8}
BETWEEN = ", "  # an incident that several systems recorded names all of them


def _says(sign: pl.Expr, watched: str) -> pl.Expr:
    """Let a sign of telemetry vote; when work was due that may not be on record, it cannot tell and abstains."""
    return pl.when(~pl.col("due")).then(pl.when(sign & ~pl.col("planned")).then(1).when(watched).then(0))


def restarts() -> pl.Expr:
    """Take a restart that no planned reboot explains for a crash; a server whose uptime went on did not crash."""
    return _says(pl.col("restarted"), "hears_uptime")


def gaps() -> pl.Expr:
    """Take a silence that no planned reboot explains for a crash; a server that was heard throughout did not crash."""
    return _says(pl.col("silent"), "hears")


def storms() -> pl.Expr:
    """Take an error storm in the last sample before an interruption for a crash; a calm end speaks against one."""
    return _says(pl.col("storm"), "hears_errors")


def systems() -> pl.Expr:
    """Return the list of systems that an incident's `source` names."""
    return pl.col("source").fill_null(UNNAMED).str.split(BETWEEN)


def tickets(
    events: pl.DataFrame, crash_tickets: pl.DataFrame, coverage: pl.DataFrame, ticket_sources: pl.DataFrame
) -> pl.DataFrame:
    """Let each system that tickets come from vote: its crash ticket is a yes, its silence while it recorded a no.

    Parameters
    ----------
    events : DataFrame
        events.EVENTS.
    crash_tickets : DataFrame
        `event`, `source`.
    coverage : DataFrame
        `server_id`, `covered_from`, `covered_to`.
    ticket_sources : DataFrame
        tables.TICKET_SOURCES: a system adopted midway says nothing of the time before.

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
    """Let people vote: what most of those who judged an event say, and where they are divided nothing.

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


def collect(
    evidence: Collection[str],
    events: pl.DataFrame,
    crash_tickets: pl.DataFrame,
    verdicts: pl.DataFrame,
    coverage: pl.DataFrame,
    ticket_sources: pl.DataFrame,
) -> pl.DataFrame:
    """Return the votes of all functions that `evidence` names, sorted by (event, source)."""
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
