"""The incidents that are believed, with when they began: what models are trained on and judged by."""

from __future__ import annotations

from typing import Any

import polars as pl

from crashcast.labelling import labelling_functions
from crashcast.tables import CRASH, INCIDENTS, TIMESTAMP

BELIEVED: dict[str, Any] = {
    **INCIDENTS,
    "confidence": pl.Float64,  # the probability that it was a crash; null: nobody was asked, as of planned work
    "recorded_start": TIMESTAMP,  # what the ticket says, where something else is believed
    "corrected_by": pl.String,  # and who says it
}
VOTED: dict[str, Any] = {
    "server_id": pl.String,
    "started_at": TIMESTAMP,
    "confidence": pl.Float64,
    "source": pl.String,
    "vote": pl.String,  # crash or no crash; who abstained is not listed
}
THRESHOLD = 0.5
DIGITS = 6  # later ones differ between CPU types


def started(events: pl.DataFrame, tickets: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Say when each event began.

    The first ticket's start is believed, if several of one that telemetry allows. Where telemetry shows that the server
    had gone by then, and without a ticket, it is the middle of the interval in which it went. What annotators say goes
    before both.

    Parameters
    ----------
    events : DataFrame
        events.EVENTS.
    tickets : DataFrame
        Crash tickets with their `event`.
    verdicts : DataFrame
        Annotations with their `event`.

    Returns
    -------
    DataFrame
        The events with `started_at`, `recorded_start` and `corrected_by`.
    """
    fits = pl.col("started_at").is_between("began_after", "began_by")
    first = (
        tickets.select("event", "started_at")
        .join(events.select("event", "began_after", "began_by"), on="event")
        .group_by("event")
        .agg(ticket=pl.coalesce(pl.col("started_at").filter(fits).min(), pl.col("started_at").min()))
    )
    dated = verdicts.filter(verdict=CRASH).drop_nulls("crash_at")
    seen = dated.group_by("event").agg(seen=pl.col("crash_at").sort().slice(pl.len() // 2, 1).first())
    middle = (pl.col("began_after") + (pl.col("began_by") - pl.col("began_after")) / 2).dt.truncate("1s")
    is_late = (pl.col("ticket") > pl.col("began_by")).fill_null(False)
    shown_by = (
        pl.when("restarted").then(pl.lit(labelling_functions.RESTARTS)).otherwise(pl.lit(labelling_functions.GAPS))
    )
    start = pl.coalesce("seen", pl.when(~is_late).then("ticket"), middle)
    return (
        events.join(first, on="event", how="left", maintain_order="left")
        .join(seen, on="event", how="left", maintain_order="left")
        .with_columns(started_at=start)
        .with_columns(
            recorded_start=pl.when(pl.col("ticket") != pl.col("started_at")).then("ticket"),
            corrected_by=pl.when(pl.col("ticket") != pl.col("started_at")).then(
                pl.when(pl.col("seen").is_not_null()).then(pl.lit(labelling_functions.ANNOTATIONS)).otherwise(shown_by)
            ),
        )
        .drop("ticket", "seen")
    )


def incidents(records: pl.DataFrame, events: pl.DataFrame, tickets: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    """Return the incidents that are believed.

    Parameters
    ----------
    records : DataFrame
        tables.INCIDENTS as recorded.
    events : DataFrame
        The events with `confidence`, and what `started` says of them.
    tickets : DataFrame
        Crash tickets with their `event`.
    votes : DataFrame
        functions.VOTES.

    Returns
    -------
    DataFrame
        BELIEVED: crashes as far as they are, one for each event and by its first ticket where there is one, and all
        else as recorded; sorted by (started_at, server_id, incident_id).
    """
    believed = events.filter(pl.col("confidence") >= THRESHOLD)
    first = (
        tickets.select("event", "incident_id")
        .join(records, on="incident_id")
        .sort("event", "started_at", "incident_id")
        .unique("event", keep="first")
        .drop("server_id", "started_at")
    )
    said_by = votes.filter(vote=1).sort("event", "source").group_by("event").agg(pl.col("source"))
    made = pl.format("{}-{}", "server_id", pl.col("started_at").dt.strftime("%Y%m%dT%H%M%S"))
    crashes = (
        believed.select("event", "server_id", "started_at", "over", "confidence", "recorded_start", "corrected_by")
        .join(first, on="event", how="left")
        .join(
            said_by.select("event", said_by=pl.col("source").list.join(labelling_functions.BETWEEN)),
            on="event",
            how="left",
        )
        .with_columns(
            pl.coalesce("incident_id", made).alias("incident_id"),
            pl.lit(CRASH).alias("kind"),
            pl.max_horizontal(pl.coalesce("resolved_at", "over"), "started_at").alias("resolved_at"),
            pl.coalesce("source", "said_by").alias("source"),
        )
    )
    others = records.filter(pl.col("kind") != CRASH)
    return in_order(pl.concat([crashes.select(*BELIEVED), others], how="diagonal"))


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Return BELIEVED in total order."""
    missing = {name: pl.lit(None, dtype=kind) for name, kind in BELIEVED.items() if name not in rows.columns}
    typed = rows.with_columns(**missing).select(*BELIEVED).cast(BELIEVED)  # type: ignore[arg-type]
    return typed.sort("started_at", "server_id", "incident_id", "kind", "resolved_at")
