"""Candidate events: every moment at which some source says that a server may have crashed.

An interruption of telemetry is one, and so is a crash ticket or an annotation that matches no interruption. A ticket
matches an interruption if it begins while that lasts or shortly after, because tickets are late.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl

from crashcast.labelling import interruptions, planned_work
from crashcast.tables import CRASH, MAINTENANCE, TIMESTAMP

UNNAMED = "records"  # the source of tickets that do not say theirs
NO_CRASH = "no crash"  # a verdict, as CRASH is
ANNOTATIONS: dict[str, Any] = {
    "server_id": pl.String,
    "started_at": TIMESTAMP,  # the annotator saw [started_at, ended_at]
    "ended_at": TIMESTAMP,
    "verdict": pl.String,  # crash, no crash, unsure
    "crash_at": TIMESTAMP,  # null: the annotator did not say when
    "annotator": pl.String,
    "annotated_at": TIMESTAMP,
}
EVENTS: dict[str, Any] = {
    "event": pl.Int64,
    "server_id": pl.String,
    "began_after": TIMESTAMP,
    "began_by": TIMESTAMP,
    "over": TIMESTAMP,  # null: no telemetry shows it
    "restarted": pl.Boolean,
    "silent": pl.Boolean,
    "storm": pl.Boolean,
    "planned": pl.Boolean,  # recorded work explains it
    "due": pl.Boolean,  # it may be work: some was due that is not on record, or somebody acted
    "has_telemetry": pl.Boolean,  # there are samples before and after, so an interruption would show
    "has_uptime": pl.Boolean,
    "has_errors": pl.Boolean,
}


def candidates(
    up: pl.DataFrame,
    incidents: pl.DataFrame,
    annotations: pl.DataFrame,
    actions: pl.DataFrame,
    interval: timedelta,
    same_event: timedelta,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Find the candidate events, and the tickets and annotations of each.

    Parameters
    ----------
    up : DataFrame
        interruptions.UP_INTERVALS of all partitions.
    incidents : DataFrame
        tables.INCIDENTS, `resolved_at` filled.
    annotations : DataFrame
        ANNOTATIONS.
    actions : DataFrame
        tables.ACTIONS.
    interval : timedelta
        The cadence of the telemetry.
    same_event : timedelta
        How long after an interruption a ticket still matches it, how long after an action an interruption may be its
        work, and how far apart tickets that match none may begin and be of one event.

    Returns
    -------
    events : DataFrame
        EVENTS, sorted by (began_after, server_id).
    tickets : DataFrame
        The crash tickets with their `event`.
    verdicts : DataFrame
        The annotations with their `event`: one row for each event that an annotation is about.
    """
    found = _interruptions(up, incidents.filter(kind=MAINTENANCE), actions, interval, same_event)
    tickets = incidents.filter(kind=CRASH).with_row_index("ticket")
    notes = annotations.with_row_index("note")
    dated = notes.filter(pl.col("crash_at").is_not_null(), pl.col("verdict") == CRASH)
    statements = pl.concat(
        [tickets.select("server_id", "ticket", at="started_at"), dated.select("server_id", "note", at="crash_at")],
        how="diagonal",
    )
    statements = statements.with_columns(place=matching(statements, found, interval, same_event))
    apart = _together(statements.filter(pl.col("place").is_null()), same_event)
    events = (
        pl.concat([found.with_row_index("place"), _unmatched(apart, interruptions.seen(up))], how="diagonal")
        .sort("began_after", "server_id", "over")
        .with_columns(event=pl.int_range(pl.len()))
    )
    statements = pl.concat(
        [
            statements.drop_nulls("place").join(events.select("event", "place"), on="place"),
            apart.drop("place").join(events.select("event", "group"), on="group"),
        ],
        how="diagonal",
    )
    return (
        events.select(*EVENTS).cast({**EVENTS, "server_id": up.schema["server_id"]}),  # type: ignore[dict-item]
        tickets.join(statements.select("event", "ticket").drop_nulls(), on="ticket").drop("ticket"),
        _verdicts(notes, statements.select("event", "note").drop_nulls(), events),
    )


def _interruptions(
    up: pl.DataFrame, maintenance: pl.DataFrame, actions: pl.DataFrame, interval: timedelta, same_event: timedelta
) -> pl.DataFrame:
    """Return the interruptions as events."""
    found = interruptions.interruptions(up, interval)
    return found.with_columns(
        planned=planned_work.is_recorded(found, maintenance, interval),
        due=planned_work.is_due(found, maintenance, interval)
        | planned_work.follows_action(found, actions, interval, same_event),
        has_telemetry=pl.lit(True),
        has_errors=pl.col("storm").is_not_null(),
    )


def _unmatched(statements: pl.DataFrame, fleet: pl.DataFrame) -> pl.DataFrame:
    """Return each `group` of statements that match no interruption as an event."""
    inside = pl.col("at").is_between("first", "last").fill_null(False)
    return (
        statements.unique("group", keep="first", maintain_order=True)
        .join(fleet, on="server_id", how="left", maintain_order="left")
        .select(
            "server_id",
            "group",
            began_after="at",
            began_by="at",
            **dict.fromkeys(("restarted", "silent", "planned", "due"), pl.lit(False)),
            has_telemetry=inside,
            has_uptime=inside & pl.col("reports_uptime"),
            has_errors=inside & pl.col("reports_errors"),
        )
    )


def _verdicts(notes: pl.DataFrame, matched: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Return the annotations of each event: those that date a crash then, and those that had it in view."""
    dated = notes.join(matched, on="note", how="left")
    in_view = (
        notes.filter(pl.col("verdict").is_in([CRASH, NO_CRASH]))
        .join(events.select("server_id", begun="began_by", other="event"), on="server_id")
        .filter(pl.col("begun").is_between("started_at", "ended_at"))
        .join(dated.select("note", "event"), on="note", how="left")
        # an annotator who dated the crash has said of every other event in view that it is none
        .with_columns(
            verdict=pl.when(pl.col("event") != pl.col("other")).then(pl.lit(NO_CRASH)).otherwise("verdict"),
            event="other",
        )
    )
    verdicts = pl.concat([dated.drop_nulls("event"), in_view], how="diagonal").unique(["note", "event"])
    return verdicts.select("event", *ANNOTATIONS).sort("event", "annotator", "annotated_at", "verdict")


def matching(statements: pl.DataFrame, found: pl.DataFrame, interval: timedelta, same_event: timedelta) -> pl.Series:
    """Return the row number of the interruption that each statement matches; null if there is none.

    It is the latest one of the server that had begun, and was over for `same_event` at most: a restart; if none fits, a
    gap; if none fits, one that was planned or due.

    Parameters
    ----------
    statements : DataFrame
        `server_id`, `at`.
    found : DataFrame
        See `interruptions.interruptions`; `planned`, `due`.
    interval, same_event : timedelta
        How much earlier than the last sample a statement may lie, and how much later than the end.
    """
    rows = statements.select("server_id", "at").with_row_index("row").sort("at")
    begun = found.with_row_index("place").select(
        "server_id",
        "place",
        "over",
        "restarted",
        planned=pl.col("planned") | pl.col("due"),
        begun=pl.col("began_after") - interval,
    )
    unplanned = ~pl.col("planned")
    places = []
    for kind in (unplanned & pl.col("restarted"), unplanned & ~pl.col("restarted"), ~unplanned):
        near = rows.join_asof(
            begun.filter(kind).sort("begun"), left_on="at", right_on="begun", by="server_id", check_sortedness=False
        )
        places.append(pl.when(near["at"] <= near["over"] + same_event).then(near["place"]))
    return rows.select("row", place=pl.coalesce(places)).sort("row")["place"]


def _together(statements: pl.DataFrame, same_event: timedelta) -> pl.DataFrame:
    """Give a number to each group of statements: of one server, each at most `same_event` after the one before."""
    ordered = statements.sort("server_id", "at")
    is_other = (pl.col("server_id") != pl.col("server_id").shift()) | (pl.col("at").diff() > same_event)
    return ordered.with_columns(group=is_other.fill_null(True).cum_sum())
