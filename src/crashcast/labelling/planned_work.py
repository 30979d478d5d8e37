"""Which interruptions are planned work: recorded maintenance, a reboot that was due, or the result of an action."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from crashcast.params.base import DAY

MIN_SPACINGS = 10  # fewer show no period
SPREAD_QUANTILE = 0.95


def is_recorded(interruptions: pl.DataFrame, maintenance: pl.DataFrame, interval: timedelta) -> pl.Series:
    """Say which interruptions lie in recorded maintenance, give or take an interval.

    Parameters
    ----------
    interruptions : DataFrame
        See `interruptions.interruptions`.
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
    reaches = pl.when("restarted").then("over").otherwise("began_after")  # a gap may outlast the work
    return found.select((pl.col("resolved_at") + interval >= reaches).fill_null(False)).to_series()


def usual_period(maintenance: pl.DataFrame) -> tuple[timedelta, timedelta] | None:
    """Return the period of planned work in whole days, and how far off a spacing may be; None if there is no period.

    The period is the most common spacing of a server's recorded work, if more than half of all spacings have it.
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


def is_due(interruptions: pl.DataFrame, maintenance: pl.DataFrame, interval: timedelta) -> pl.Series:
    """Say which restarts come when a planned reboot was due and none is recorded.

    Work is due a whole number of periods before or after recorded work of the same server, unless other work is
    recorded less than half a period away.
    """
    found = usual_period(maintenance)
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


def follows_action(
    interruptions: pl.DataFrame, actions: pl.DataFrame, interval: timedelta, same_event: timedelta
) -> pl.Series:
    """Say which interruptions may be the work of somebody who acted, such as a restart to prevent a crash.

    The server went down at most `same_event` after an action, or before it by an interval at most: people report what
    they have just done.

    Parameters
    ----------
    interruptions : DataFrame
        See `interruptions.interruptions`.
    actions : DataFrame
        `server_id`, `at`.
    interval : timedelta
        The cadence of the telemetry.
    same_event : timedelta
        How long an action may take.
    """
    rows = interruptions.with_row_index("row").with_columns(latest=pl.col("began_by") + interval).sort("latest")
    last = actions.select("server_id", "at").sort("at")
    found = rows.join_asof(last, left_on="latest", right_on="at", by="server_id", check_sortedness=False).sort("row")
    return found.select((pl.col("began_after") - pl.col("at") <= same_event).fill_null(False)).to_series()
