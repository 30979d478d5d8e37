"""Alarms as on-call knows them: each opening with its renewals, what was done about it, and the crash after it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl

from crashcast.operate.actions import Action
from crashcast.operate.served_log import ServedLog, aware

ALARM = ["server_id", "opened_at"]


def by_opening(issued: pl.DataFrame) -> pl.DataFrame:
    """Join openings and their renewals.

    Parameters
    ----------
    issued : DataFrame
        `server_id`, `timestamp`, `opened_at`, `ends_at`, `score` and `delivered`, as the log and `tables.ALARMS` have.

    Returns
    -------
    DataFrame
        A row for each alarm: `server_id`, `opened_at`, `window_to` (the end of what the opening covers), `ends_at`
        (of the last renewal), `score` (the last one) and `delivered`; sorted by (opened_at, server_id).
    """
    return (
        issued.sort("timestamp", "server_id")
        .group_by(ALARM)
        .agg(
            window_to=pl.col("ends_at").min(),
            ends_at=pl.col("ends_at").max(),
            score=pl.col("score").last(),
            delivered=pl.col("delivered").first(),
        )
        .sort("opened_at", "server_id")
    )


def with_crash(alarms: pl.DataFrame, crashes: pl.DataFrame, after: timedelta, until: str) -> pl.DataFrame:
    """Add `crashed_at`: the first crash of the server in (opened_at + after, until], or null.

    Parameters
    ----------
    alarms : DataFrame
        Of `by_opening`.
    crashes : DataFrame
        `server_id` and `started_at`.
    after : timedelta
    until : str
        The column with the end.
    """
    first = (
        alarms.select(*ALARM, until)
        .join(crashes.select("server_id", "started_at"), on="server_id")
        .filter((pl.col("started_at") > pl.col("opened_at") + after) & (pl.col("started_at") <= pl.col(until)))
        .group_by(ALARM)
        .agg(crashed_at=pl.col("started_at").min())
    )
    return alarms.join(first, on=ALARM, how="left", maintain_order="left")


def recent(log: ServedLog, since: datetime) -> pl.DataFrame:
    """Return the alarms of the log that were opened or renewed since a moment: see `by_opening`."""
    return by_opening(log.since("alarms", since))


def reported(log: ServedLog, since: datetime) -> list[Action]:
    """Return the actions that were reported to the log since a moment, in order of time."""
    found = log.since("actions", since).sort("at", "moment")
    naive = pl.col("at").dt.replace_time_zone(None)
    return [Action(*row) for row in found.select("server_id", "what", naive, "who", "source").iter_rows()]


def actions_of(server_id: str, opened_at: datetime, ends_at: datetime, actions: Sequence[Action]) -> list[Action]:
    """Return the actions on a server while its alarm stood; moments are naive, meaning UTC."""
    return [one for one in actions if one.server_id == server_id and opened_at <= one.at <= ends_at]


def open_at(alarms: pl.DataFrame, moment: datetime) -> pl.DataFrame:
    """Return the delivered alarms that stand at a moment, the highest risk first."""
    standing = (pl.col("opened_at") <= aware(moment)) & (pl.col("ends_at") > aware(moment))
    return alarms.filter("delivered", standing).sort("score", "server_id", descending=[True, False])
