"""Which interruptions planned work explains: what is on record, and what the rhythm of a server's reboots betrays."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from crashcast.params.base import DAY

MIN_SPACINGS = 10  # fewer show no rhythm
SPREAD_QUANTILE = 0.95


def is_recorded(interruptions: pl.DataFrame, maintenance: pl.DataFrame, interval: timedelta) -> pl.Series:
    """Tell which interruptions lie in recorded maintenance, give or take an interval.

    Parameters
    ----------
    interruptions : DataFrame
        See `heard.interruptions`.
    maintenance : DataFrame
        `server_id`, `started_at`, `resolved_at`.
    interval : timedelta
        The cadence of the telemetry.
    """
    work = maintenance.select("server_id", "resolved_at", begun=pl.col("started_at") - interval).sort("begun")
    found = (
        interruptions.with_row_index("row")
        .sort("over")
        .join_asof(work, left_on="over", right_on="begun", by="server_id", check_sortedness=False)
        .sort("row")
    )
    reaches = pl.when("restarted").then("over").otherwise("began_after")  # a silence may outlast the work
    return found.select((pl.col("resolved_at") + interval >= reaches).fill_null(False)).to_series()


def rhythm(maintenance: pl.DataFrame) -> tuple[timedelta, timedelta] | None:
    """Return after how many days a server's planned work comes round, and how far off it may be; None without rhythm.

    The most common number of days between two recorded ones of a server, if more than half are so far apart.
    """
    apart = maintenance.sort("server_id", "started_at").select(
        apart=pl.when(pl.col("server_id") == pl.col("server_id").shift()).then(pl.col("started_at").diff())
    )
    days = apart.drop_nulls().with_columns(days=(pl.col("apart") / DAY).round().cast(pl.Int64))
    if days.height < MIN_SPACINGS:
        return None
    common, times = days["days"].value_counts().sort("count", "days", descending=[True, False]).row(0)
    if common < 1 or 2 * times <= days.height:
        return None
    period = common * DAY
    spread = days.filter(days=common).select((pl.col("apart") - period).abs().quantile(SPREAD_QUANTILE, "higher"))
    return period, spread.item()


def is_in_rhythm(interruptions: pl.DataFrame, maintenance: pl.DataFrame, interval: timedelta) -> pl.Series:
    """Tell which restarts come when a planned reboot was due and none is on record.

    Due is a whole number of periods before or after recorded work of the same server, unless other work is on record
    less than half a period away.
    """
    found = rhythm(maintenance)
    if found is None:
        return pl.repeat(False, interruptions.height, dtype=pl.Boolean, eager=True)
    period, spread = found
    moment = pl.col("began_after") + (pl.col("began_by") - pl.col("began_after")) / 2
    rows = interruptions.with_row_index("row").with_columns(moment=moment).sort("moment")
    work = maintenance.select("server_id", "started_at").sort("started_at")
    distances = []
    for strategy in ("backward", "forward"):
        near = rows.join_asof(
            work,
            left_on="moment",
            right_on="started_at",
            by="server_id",
            strategy=strategy,
            check_sortedness=False,
        )
        distances.append(near.select((pl.col("moment") - pl.col("started_at")).abs().alias(strategy)).to_series())
    from_due = [
        (pl.col(name) - (pl.col(name) / period).round() * period).abs() <= spread + interval for name in
        ("backward", "forward")
    ]  # fmt: skip
    free = pl.min_horizontal("backward", "forward") > period / 2
    due = rows.with_columns(distances).select("row", due=free & pl.col("restarted") & pl.any_horizontal(from_due))
    return due.sort("row")["due"].fill_null(False)
