"""Candidate events: every moment at which some source says that a server may have crashed.

An interruption of telemetry is one, and so is a crash ticket or an annotation that no interruption explains. What
people wrote is about an interruption if it begins while that lasts or shortly after, for tickets are late.
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
    "started_at": TIMESTAMP,  # what was shown: [started_at, ended_at]
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
    "due": pl.Boolean,  # work that is not on record was due
    "hears": pl.Boolean,  # the server was heard before and after, so telemetry could have told
    "hears_uptime": pl.Boolean,
    "hears_errors": pl.Boolean,
}


def candidates(
    stretches: pl.DataFrame,
    incidents: pl.DataFrame,
    annotations: pl.DataFrame,
    interval: timedelta,
    same_event: timedelta,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Find the candidate events, and what people said of each.

    Parameters
    ----------
    stretches : DataFrame
        heard.STRETCHES of all partitions.
    incidents : DataFrame
        tables.INCIDENTS, `resolved_at` filled.
    annotations : DataFrame
        ANNOTATIONS.
    interval : timedelta
        The cadence of the telemetry.
    same_event : timedelta
        How long after an interruption a ticket may still mean it, and how far apart tickets that no interruption
        explains may begin and be of one event.

    Returns
    -------
    events : DataFrame
        EVENTS, sorted by (began_after, server_id).
    tickets : DataFrame
        The crash tickets with their `event`.
    verdicts : DataFrame
        The annotations with their `event`; one for each event that an annotation is about.
    """
    found, fleet = interruptions.interruptions(stretches, interval), interruptions.spans(stretches)
    work = incidents.filter(kind=MAINTENANCE)
    found = found.with_columns(
        planned=planned_work.is_recorded(found, work, interval),
        due=planned_work.is_in_rhythm(found, work, interval),
        hears=pl.lit(True),
        hears_uptime="has_uptime",
        hears_errors=pl.col("storm").is_not_null(),
    )
    tickets = incidents.filter(kind=CRASH).with_row_index("ticket")
    notes = annotations.with_row_index("note")
    dated = notes.filter(pl.col("crash_at").is_not_null(), pl.col("verdict") == CRASH)
    said = pl.concat(
        [tickets.select("server_id", "ticket", at="started_at"), dated.select("server_id", "note", at="crash_at")],
        how="diagonal",
    )
    said = said.with_columns(place=about(said, found, interval, same_event))
    apart = _together(said.filter(pl.col("place").is_null()), same_event)
    inside = pl.col("at").is_between("first", "last").fill_null(False)
    told = (
        apart.unique("group", keep="first", maintain_order=True)
        .join(fleet, on="server_id", how="left", maintain_order="left")
        .select(
            "server_id",
            "group",
            began_after="at",
            began_by="at",
            restarted=pl.lit(False),
            silent=pl.lit(False),
            planned=pl.lit(False),
            due=pl.lit(False),
            hears=inside,
            hears_uptime=inside & pl.col("reports_uptime").fill_null(False),
            hears_errors=inside & pl.col("reports_errors").fill_null(False),
        )
    )
    events = (
        pl.concat([found.with_row_index("place"), told], how="diagonal")
        .sort("began_after", "server_id", "over")
        .with_columns(event=pl.int_range(pl.len()))
    )
    said = pl.concat(
        [
            said.drop_nulls("place").join(events.select("event", "place"), on="place"),
            apart.drop("place").join(events.select("event", "group"), on="group"),
        ],
        how="diagonal",
    )
    shown = notes.join(said.select("event", "note").drop_nulls(), on="note", how="left")
    begun = events.select("server_id", begun="began_by", other="event")
    in_view = (
        notes.filter(pl.col("verdict").is_in([CRASH, NO_CRASH]))
        .join(begun, on="server_id")
        .filter(pl.col("begun").is_between("started_at", "ended_at"))
        .join(shown.select("note", "event").drop_nulls(), on="note", how="left")
        # who said when a crash began says of all else that was shown that it is none
        .with_columns(
            verdict=pl.when(pl.col("event") != pl.col("other")).then(pl.lit(NO_CRASH)).otherwise("verdict"),
            event="other",
        )
    )
    verdicts = pl.concat([shown.drop_nulls("event"), in_view], how="diagonal").unique(["note", "event"])
    return (
        events.select(*EVENTS).cast({**EVENTS, "server_id": stretches.schema["server_id"]}),  # type: ignore[dict-item]
        tickets.join(said.select("event", "ticket").drop_nulls(), on="ticket").drop("ticket"),
        verdicts.select("event", *ANNOTATIONS).sort("event", "annotator", "annotated_at", "verdict"),
    )


def about(said: pl.DataFrame, found: pl.DataFrame, interval: timedelta, same_event: timedelta) -> pl.Series:
    """Return which interruption a statement is about, by its row; null: none.

    The latest one of its server that had begun and was not over for longer than `same_event`: of restarts, if none
    fits of silences, and last of what was planned or due.

    Parameters
    ----------
    said : DataFrame
        `server_id`, `at`.
    found : DataFrame
        See `heard.interruptions`; `planned`, `due`.
    interval, same_event : timedelta
        How much earlier than the last sample a statement may lie, and how much later than the end.
    """
    rows = said.select("server_id", "at").with_row_index("row").sort("at")
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


def _together(said: pl.DataFrame, same_event: timedelta) -> pl.DataFrame:
    """Give a number to each group of statements: of one server, each at most `same_event` after the one before."""
    ordered = said.sort("server_id", "at")
    is_other = (pl.col("server_id") != pl.col("server_id").shift()) | (pl.col("at").diff() > same_event)
    return ordered.with_columns(group=is_other.fill_null(True).cum_sum())
