"""What telemetry alone says of a server's life: when it was heard, and what interrupted that.

A partition is reduced to stretches, a few rows per server, by its own samples alone: a later partition changes none of
them. What lies between two stretches, within a partition or across its border, is an interruption: a silence, or a
restart that shows in the uptime although no sample was missed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl

from crashcast.grid import encode
from crashcast.params.telemetry import Telemetry
from crashcast.tables import KEYS, TIMESTAMP, Partition

STRETCHES: dict[str, Any] = {
    "server_id": pl.String,
    "heard_from": TIMESTAMP,
    "heard_to": TIMESTAMP,
    "booted_at": TIMESTAMP,  # null: no uptime was reported
    "storm": pl.Boolean,  # its last sample reported an error storm; null: no errors were reported
    "sudden": pl.Boolean,  # and the sample before did not
}
SILENCE_INTERVALS = 2.5  # samples jitter, and a single one is easily lost: two in a row are missing
RESOLUTION = timedelta(minutes=1)  # clocks and counters are rounded
MICROSECONDS_PER_HOUR = 3_600_000_000


def columns(settings: Telemetry, *metrics: str | None) -> tuple[str, ...]:
    """Return the columns to look at: keys, and those of `metrics` that the telemetry has."""
    return (*KEYS, *(name for name in metrics if name is not None and name in settings.metrics))


def stretches(
    partition: Partition,
    samples: pl.DataFrame,
    settings: Telemetry,
    uptime_metric: str | None,
    error_metric: str | None,
    error_storm: float,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Reduce one partition's raw samples to the stretches in which servers were heard without interruption.

    Parameters
    ----------
    partition : Partition
        Whose samples these are.
    samples : DataFrame
        `columns`, sorted by (timestamp, server_id).
    settings : Telemetry
        The parameters.
    uptime_metric : str or None
        Hours since the last boot; None, or one that the telemetry lacks: restarts do not show.
    error_metric : str or None
        What is above `error_storm` in an error storm; None, or one that the telemetry lacks: storms do not show.

    Returns
    -------
    DataFrame
        STRETCHES, sorted by (server_id, heard_from).
    dict
        The number of `samples`.
    """
    moment, server = pl.col("timestamp"), pl.col("server")
    servers, codes = encode(samples["server_id"])
    uptime, errors = (_valid(name, samples, settings) for name in (uptime_metric, error_metric))
    up_for = pl.duration(microseconds=(pl.col("uptime") * MICROSECONDS_PER_HOUR).round().cast(pl.Int64))
    known = pl.when(pl.col("uptime").is_not_null()).then(moment).forward_fill().shift()  # of another server: is_first
    rows = (
        samples.lazy()
        .select("timestamp", server=pl.Series(codes, dtype=pl.UInt32), uptime=uptime, storm=errors > error_storm)
        .sort("server", maintain_order=True)  # in order of time already: sorting by both costs three times as much
        .with_columns(booted_at=moment - up_for, is_first=(server != server.shift()).fill_null(True), known=known)
        .with_columns(
            begins=pl.col("is_first")
            | (moment - moment.shift() > SILENCE_INTERVALS * settings.interval)
            | (pl.col("booted_at") > pl.col("known") + RESOLUTION).fill_null(False),
            sudden=pl.col("storm") & ~pl.when(~pl.col("is_first")).then(pl.col("storm").shift()).fill_null(False),
        )
        .drop("uptime", "known", "is_first")
        .collect()
    )
    first = rows.filter("begins")
    last = rows.filter(rows["begins"].shift(-1, fill_value=True))
    booted = (
        rows.select("booted_at", stretch=pl.col("begins").cum_sum())
        .drop_nulls()
        .unique("stretch", keep="first", maintain_order=True)
    )
    found = (
        first.select(
            server_id=servers.gather(first["server"]),
            heard_from="timestamp",
            heard_to=last["timestamp"],
            storm=last["storm"],
            sudden=last["sudden"],
            stretch=pl.int_range(1, pl.len() + 1, dtype=pl.UInt32),
        )
        .join(booted.cast({"stretch": pl.UInt32}), on="stretch", how="left", maintain_order="left")
        .select(*STRETCHES)
        .cast(STRETCHES)  # type: ignore[arg-type]
    )
    return found, {"samples": samples.height}


def _valid(name: str | None, samples: pl.DataFrame, settings: Telemetry) -> pl.Expr:
    if name is None or name not in samples.columns:
        return pl.lit(None, dtype=pl.Float64)
    metric = settings.metrics[name]
    value = pl.col(name).cast(pl.Float64)
    return pl.when(value.is_between(metric.min, metric.max)).then(value)


def interruptions(heard: pl.DataFrame, interval: timedelta) -> pl.DataFrame:
    """Return what lies between the stretches of all partitions.

    Parameters
    ----------
    heard : DataFrame
        STRETCHES of all partitions.
    interval : timedelta
        The cadence of the telemetry.

    Returns
    -------
    DataFrame
        `server_id`, `began_after` and `began_by` (between which the server went down, if it did), `over` (when it had
        booted or was heard again), `restarted`, `silent` (samples are missing), `storm` and `has_uptime`, sorted by
        (server_id, began_after).
    """
    ordered = heard.sort("server_id", "heard_from")
    last, again = pl.col("heard_to").shift(), pl.col("heard_from")
    # a sample that a dying server still sent: it went down before that
    sudden = pl.col("sudden").shift().fill_null(False)
    return (
        ordered.select(
            "server_id",
            "booted_at",
            is_same=pl.col("server_id") == pl.col("server_id").shift(),
            last=last,
            again=again,
            restarted=(pl.col("booted_at") > last + RESOLUTION).fill_null(False),
            silent=again - last > SILENCE_INTERVALS * interval,
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


def spans(heard: pl.DataFrame) -> pl.DataFrame:
    """Return from when to when each server was heard, and whether it reported its uptime and its errors."""
    return (
        heard.group_by("server_id")
        .agg(
            first=pl.col("heard_from").min(),
            last=pl.col("heard_to").max(),
            reports_uptime=pl.col("booted_at").is_not_null().any(),
            reports_errors=pl.col("storm").is_not_null().any(),
        )
        .sort("server_id")
    )
