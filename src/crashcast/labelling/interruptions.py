"""Telemetry's evidence of crashes: the intervals in which each server was up, and the interruptions between them.

A partition is reduced to up intervals, a few rows per server, by its own samples alone: a later partition changes none
of them. They are joined across the borders of partitions by the rule that joins samples within one, so the borders
change nothing. Between two of the joined intervals lies an interruption: a gap in the telemetry, or a restart that
shows in the uptime although no sample is missing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl

from crashcast.grid import encode
from crashcast.params.telemetry import Telemetry
from crashcast.tables import KEYS, TIMESTAMP, Partition

UP_INTERVALS: dict[str, Any] = {
    "server_id": pl.String,
    "first_seen": TIMESTAMP,
    "last_seen": TIMESTAMP,
    "booted_at": TIMESTAMP,  # null: no uptime was reported
    "uptime_seen": TIMESTAMP,  # the partition's last sample so far that reports an uptime; null: none does
    "storm": pl.Boolean,  # its last sample shows an error storm; null: it reports no errors
    "storm_before": pl.Boolean,  # the sample before shows one; null: the partition has none before
    "reports_errors": pl.Boolean,  # some sample does
}
GAP_INTERVALS = 2.5  # samples jitter, and a single one is easily lost: two in a row must be missing
RESOLUTION = timedelta(minutes=1)  # clocks and uptimes are rounded
MICROSECONDS_PER_HOUR = 3_600_000_000


def columns(telemetry: Telemetry, *metrics: str | None) -> tuple[str, ...]:
    """Return the columns to read: keys, and those of `metrics` that the telemetry has."""
    return (*KEYS, *(name for name in metrics if name is not None and name in telemetry.metrics))


def up_intervals(
    partition: Partition,
    samples: pl.DataFrame,
    telemetry: Telemetry,
    uptime_metric: str | None,
    error_metric: str | None,
    error_storm: float,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Reduce one partition's raw samples to the intervals in which servers were up without interruption.

    Parameters
    ----------
    partition : Partition
        Whose samples these are.
    samples : DataFrame
        `columns`, sorted by (timestamp, server_id).
    telemetry : Telemetry
        The parameters.
    uptime_metric : str or None
        The hours since the last boot. If it is None or the telemetry lacks it, restarts do not show.
    error_metric : str or None
        Above `error_storm` in an error storm. If it is None or the telemetry lacks it, storms do not show.

    Returns
    -------
    DataFrame
        UP_INTERVALS, sorted by (server_id, first_seen).
    dict
        The number of `samples`.
    """
    moment = pl.col("timestamp")
    servers, codes = encode(samples["server_id"])
    uptime, errors = (_valid(name, samples, telemetry) for name in (uptime_metric, error_metric))
    up_for = pl.duration(microseconds=(uptime * MICROSECONDS_PER_HOUR).round().cast(pl.Int64))
    alone = (
        samples.lazy()
        .select(
            server_id=pl.Series(codes, dtype=pl.UInt32),
            first_seen=moment,
            last_seen=moment,
            booted_at=moment - up_for,
            uptime_seen=pl.when(uptime.is_not_null()).then(moment),
            storm=errors > error_storm,
            storm_before=pl.lit(None, dtype=pl.Boolean),
            reports_errors=errors.is_not_null(),
        )
        .sort("server_id", maintain_order=True)  # in order of time already: sorting by both costs three times as much
    )
    found = _joined(alone, telemetry.interval, is_unknown_restart=True)
    named = found.with_columns(server_id=servers.gather(found["server_id"]))
    return named.cast(UP_INTERVALS), {"samples": samples.height}  # type: ignore[arg-type]


def _joined(up: pl.LazyFrame, interval: timedelta, *, is_unknown_restart: bool) -> pl.DataFrame:
    """Join up intervals, or single samples, between which a server was not interrupted.

    Parameters
    ----------
    up : LazyFrame
        UP_INTERVALS, sorted by (server_id, first_seen).
    interval : timedelta
        The cadence of the telemetry.
    is_unknown_restart : bool
        Whether an uptime begins an interval of its own if no uptime of its server precedes it in `up`. It does within a
        partition: only the partitions before can tell whether the server restarted.

    Returns
    -------
    DataFrame
        UP_INTERVALS, sorted likewise.
    """
    server, first_seen, booted_at = pl.col("server_id"), pl.col("first_seen"), pl.col("booted_at")
    is_first = (server != server.shift()).fill_null(True)
    seen_of = pl.when(pl.col("uptime_seen").is_not_null()).then(server).forward_fill()
    uptime_seen = pl.when(seen_of == server).then(pl.col("uptime_seen").forward_fill())
    restarted = (booted_at > uptime_seen.shift() + RESOLUTION).fill_null(is_unknown_restart) & booted_at.is_not_null()
    begins = is_first | (first_seen - pl.col("last_seen").shift() > GAP_INTERVALS * interval) | restarted
    storm_before = pl.coalesce("storm_before", pl.when(~is_first).then(pl.col("storm").shift().fill_null(False)))
    return (
        up.with_columns(uptime_seen=uptime_seen, storm_before=storm_before, number=begins.cum_sum())
        .group_by("number", maintain_order=True)
        .agg(
            pl.first("server_id", "first_seen"),
            pl.last("last_seen"),
            booted_at.drop_nulls().first(),
            pl.last("uptime_seen", "storm", "storm_before"),
            pl.col("reports_errors").any(),
        )
        .drop("number")
        .collect()
    )


def _valid(name: str | None, samples: pl.DataFrame, telemetry: Telemetry) -> pl.Expr:
    if name is None or name not in samples.columns:
        return pl.lit(None, dtype=pl.Float64)
    metric = telemetry.metrics[name]
    value = pl.col(name).cast(pl.Float64)
    return pl.when(value.is_between(*metric.limits)).then(value)


def interruptions(up: pl.DataFrame, interval: timedelta) -> pl.DataFrame:
    """Return the interruptions: what lies between the up intervals of all partitions.

    Parameters
    ----------
    up : DataFrame
        UP_INTERVALS of all partitions.
    interval : timedelta
        The cadence of the telemetry.

    Returns
    -------
    DataFrame
        `server_id`, `began_after` and `began_by` (between which the server went down, if it did), `over` (when it had
        booted or was seen again), `restarted`, `silent` (samples are missing), `storm` and `has_uptime` (both
        neighbours report one), sorted by (server_id, began_after).
    """
    # samples of one moment, if a sample is repeated, keep their order
    joined = _joined(up.lazy().sort("server_id", "first_seen", maintain_order=True), interval, is_unknown_restart=False)
    last, again = pl.col("last_seen").shift(), pl.col("first_seen")
    # a storm that begins with the last sample: the server was already going down when it sent that one
    sudden = pl.col("storm") & ~pl.col("storm_before").fill_null(False)
    return (
        joined.select(
            "server_id",
            "booted_at",
            is_same=pl.col("server_id") == pl.col("server_id").shift(),
            last=last,
            again=again,
            restarted=(pl.col("booted_at") > last + RESOLUTION).fill_null(False),
            silent=again - last > GAP_INTERVALS * interval,
            storm=pl.col("storm").shift(),
            sudden=sudden.shift().fill_null(False),
            has_uptime=pl.col("booted_at").is_not_null() & pl.col("booted_at").shift().is_not_null(),
        )
        .filter(pl.col("is_same") & (pl.col("restarted") | pl.col("silent")))
        .with_columns(over=pl.when("restarted").then("booted_at").otherwise("again"))
        .select(
            "server_id",
            began_after=pl.when("sudden").then(pl.col("last") - interval).otherwise("last"),
            began_by=pl.when("sudden").then("last").otherwise(pl.min_horizontal(pl.col("last") + interval, "over")),
            over="over",
            restarted="restarted",
            silent="silent",
            storm="storm",
            has_uptime="has_uptime",
        )
    )


def seen(up: pl.DataFrame) -> pl.DataFrame:
    """Return the first and last sample of each server, and whether it reports its uptime and its errors."""
    return (
        up.group_by("server_id")
        .agg(
            first=pl.col("first_seen").min(),
            last=pl.col("last_seen").max(),
            reports_uptime=pl.col("booted_at").is_not_null().any(),
            reports_errors=pl.col("reports_errors").any(),
        )
        .sort("server_id")
    )
