"""The confirmed incidents and their start: models are trained on them and judged by them."""

from __future__ import annotations

from typing import Any

import polars as pl

from crashcast.labelling import labelling_functions
from crashcast.tables import CRASH, INCIDENTS, TIMESTAMP

CONFIRMED: dict[str, Any] = {
    **INCIDENTS,
    "confidence": pl.Float64,  # the probability that it was a crash; null: no votes were taken, as for planned work
    "recorded_start": TIMESTAMP,  # by the ticket, if the start was corrected
    "corrected_by": pl.String,  # the source of the corrected start
}
VOTED: dict[str, Any] = {
    "server_id": pl.String,
    "started_at": TIMESTAMP,
    "confidence": pl.Float64,
    "source": pl.String,
    "vote": pl.String,  # crash or no crash; abstentions are not listed
}
THRESHOLD = 0.5
DIGITS = 6  # later ones differ between CPU types


def with_start(events: pl.DataFrame, tickets: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Add the start of each event.

    It is the median of the annotators' times. Without one it is the start of the first ticket, if possible of one that
    fits the telemetry. If there is no ticket, or telemetry shows that the server was down before, it is the middle of
    the interval in which the server went down.

    Parameters
    ----------
    events : DataFrame
        candidates.EVENTS.
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
    is_late = pl.col("ticket") > pl.col("began_by")
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
    """Return the confirmed incidents.

    Parameters
    ----------
    records : DataFrame
        tables.INCIDENTS as recorded.
    events : DataFrame
        The events with `confidence` and the columns of `with_start`.
    tickets : DataFrame
        Crash tickets with their `event`.
    votes : DataFrame
        labelling_functions.VOTES.

    Returns
    -------
    DataFrame
        CONFIRMED: one crash for each confirmed event, with the fields of its first ticket if it has one, and all
        other incidents as recorded; sorted by (started_at, server_id, incident_id).
    """
    confirmed = events.filter(pl.col("confidence") >= THRESHOLD)
    first = (
        tickets.select("event", "incident_id")
        .join(records, on="incident_id")
        .sort("event", "started_at", "incident_id")
        .unique("event", keep="first")
        .drop("server_id", "started_at")
    )
    voters = votes.filter(vote=1).sort("event", "source").group_by("event").agg(pl.col("source"))
    new_id = pl.format("{}-{}", "server_id", pl.col("started_at").dt.strftime("%Y%m%dT%H%M%S"))
    crashes = (
        confirmed.select("event", "server_id", "started_at", "over", "confidence", "recorded_start", "corrected_by")
        .join(first, on="event", how="left")
        .join(
            voters.select("event", voters=pl.col("source").list.join(labelling_functions.BETWEEN)),
            on="event",
            how="left",
        )
        .with_columns(
            pl.coalesce("incident_id", new_id).alias("incident_id"),
            pl.lit(CRASH).alias("kind"),
            pl.coalesce("resolved_at", "over").clip(pl.col("started_at")).alias("resolved_at"),
            pl.coalesce("source", "voters").alias("source"),
        )
    )
    others = records.filter(pl.col("kind") != CRASH)
    return in_order(pl.concat([crashes.select(*CONFIRMED), others], how="diagonal"))


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Return incidents with the columns of CONFIRMED, in total order."""
    missing = {name: pl.lit(None, dtype=kind) for name, kind in CONFIRMED.items() if name not in rows.columns}
    typed = rows.with_columns(**missing).select(*CONFIRMED).cast(CONFIRMED)  # type: ignore[arg-type]
    return typed.sort("started_at", "server_id", "incident_id", "kind", "resolved_at")
