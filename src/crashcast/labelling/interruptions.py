"""Telemetry's evidence of crashes: the intervals in which each server was up, and the interruptions between them.

A partition is reduced to up intervals, a few rows per server, by its own samples alone: a later partition changes none
of them. Between two up intervals, within a partition or across its border, lies an interruption: a gap in the
telemetry, or a restart that shows in the uptime although no sample is missing.
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
    "storm": pl.Boolean,  # its last sample shows an error storm; null: it reports no errors
    "sudden": pl.Boolean,  # and the sample before shows none
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
    moment, server = pl.col("timestamp"), pl.col("server")
    servers, codes = encode(samples["server_id"])
    uptime, errors = (_valid(name, samples, telemetry) for name in (uptime_metric, error_metric))
    up_for = pl.duration(microseconds=(pl.col("uptime") * MICROSECONDS_PER_HOUR).round().cast(pl.Int64))
    # the last sample with an uptime before this one; if that is of another server, `is_first` is true
    known = pl.when(pl.col("uptime").is_not_null()).then(moment).forward_fill().shift()
    rows = (
        samples.lazy()
        .select("timestamp", server=pl.Series(codes, dtype=pl.UInt32), uptime=uptime, storm=errors > error_storm)
        .sort("server", maintain_order=True)  # in order of time already: sorting by both costs three times as much
        .with_columns(booted_at=moment - up_for, is_first=(server != server.shift()).fill_null(True), known=known)
        .with_columns(
            begins=pl.col("is_first")
            | (moment - moment.shift() > GAP_INTERVALS * telemetry.interval)
            | (pl.col("booted_at") > pl.col("known") + RESOLUTION).fill_null(False),
            sudden=pl.col("storm") & ~pl.when(~pl.col("is_first")).then(pl.col("storm").shift()).fill_null(False),
        )
        .drop("uptime", "known", "is_first")
        .collect()
    )
    first = rows.filter("begins")
    last = rows.filter(rows["begins"].shift(-1, fill_value=True))
    booted = (
        rows.select("booted_at", interval=pl.col("begins").cum_sum())
        .drop_nulls()
        .unique("interval", keep="first", maintain_order=True)
    )
    found = (
        first.select(
            server_id=servers.gather(first["server"]),
            first_seen="timestamp",
            last_seen=last["timestamp"],
            storm=last["storm"],
            sudden=last["sudden"],
            interval=pl.int_range(1, pl.len() + 1, dtype=pl.UInt32),
        )
        .join(booted.cast({"interval": pl.UInt32}), on="interval", how="left", maintain_order="left")
        .select(*UP_INTERVALS)
        .cast(UP_INTERVALS)  # type: ignore[arg-type]
    )
    return found, {"samples": samples.height}


def _valid(name: str | None, samples: pl.DataFrame, telemetry: Telemetry) -> pl.Expr:
    if name is None or name not in samples.columns:
        return pl.lit(None, dtype=pl.Float64)
    metric = telemetry.metrics[name]
    value = pl.col(name).cast(pl.Float64)
    return pl.when(value.is_between(metric.min, metric.max)).then(value)


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
    ordered = up.sort("server_id", "first_seen")
    last, again = pl.col("last_seen").shift(), pl.col("first_seen")
    # a storm that begins with the last sample: the server was already going down when it sent that one
    sudden = pl.col("sudden").shift().fill_null(False)
    return (
        ordered.select(
            "server_id",
            "booted_at",
            is_same=pl.col("server_id") == pl.col("server_id").shift(),
            last=last,
            again=again,
            restarted=(pl.col("booted_at") > last + RESOLUTION).fill_null(False),
            silent=again - last > GAP_INTERVALS * interval,
            storm=pl.col("storm").shift(),
            sudden=sudden,
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
            reports_errors=pl.col("storm").is_not_null().any(),
        )
        .sort("server_id")
    )
