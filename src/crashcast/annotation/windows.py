"""Server-windows, the unit of annotation ("did this server crash that day?"), and the evidence in their telemetry.

Unlike the pipeline's features, evidence includes rows after a possible crash: gaps, and counters that restart. It
serves to check labels, never to predict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.errors import UserError
from crashcast.incidents import read_incidents
from crashcast.modeling.alarms import HOUR
from crashcast.params.base import DAY, format_duration
from crashcast.params.incidents import Incidents
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH, MAINTENANCE, Partition

BEFORE = timedelta(hours=6)  # signs of a crash just after a window's start lie before it
LONGEST_GAP = DAY  # the end of a gap is searched no further
KEYS = ["server_id", "started_at", "ended_at"]


@dataclass(frozen=True)
class Windows:
    """Server-windows [started_at, ended_at), in order of (started_at, server_id).

    Attributes
    ----------
    frame : DataFrame
        n rows: `server_id`, `started_at`, `ended_at`; `crash_at`, when the first recorded crash starts in it, else
        null.
    evidence : float32 array of shape (n, k)
        NaN if missing.
    names : list of str
        Of the k columns.
    """

    frame: pl.DataFrame
    evidence: NDArray[np.float32]
    names: list[str]

    def __len__(self) -> int:
        return self.frame.height

    @property
    def crash(self) -> NDArray[np.bool_]:
        """Whether a crash is recorded in each, shape (n,)."""
        return self.frame["crash_at"].is_not_null().to_numpy()

    def take(self, chosen: NDArray[Any]) -> Windows:
        """Return some of them, by a mask or by positions."""
        positions = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Windows(self.frame[positions], self.evidence[positions], self.names)


def read(clean: Path, incidents: Path, coverage: Path, length: timedelta) -> Windows:
    """Read every server-window that has telemetry and for which the incident records are complete.

    Parameters
    ----------
    clean, incidents, coverage : Path
        The tables.
    length : timedelta
        Of a window; windows are aligned to midnight UTC, so it divides a day or is a whole number of days.

    Raises
    ------
    UserError
        If a table cannot be read, the length does not fit, or no window is left.
    """
    telemetry, recording = Telemetry.read(), Incidents.read()
    if length < telemetry.interval or (DAY % length and length % DAY):
        raise UserError(
            f"a window of {format_duration(length)}: it must divide a day, or be whole days, and hold a row "
            f"(telemetry.interval is {format_duration(telemetry.interval)})"
        )
    records = read_incidents(incidents, recording)
    covered = tables.read(coverage, ["server_id", "covered_from", "covered_to"]).with_columns(
        pl.col("covered_to") - recording.reporting_delay
    )
    parts = [
        _with_records(found, records, covered, length) for found in _evidence_by_partition(clean, length, telemetry)
    ]
    frame = pl.concat(parts).sort("started_at", "server_id") if parts else pl.DataFrame()
    if frame.is_empty():
        raise UserError(f"{clean} and {coverage} have no window of {format_duration(length)} in common")
    keys = frame.select(*KEYS, "crash_at")
    columns = frame.drop(keys.columns)
    return Windows(keys, columns.cast(pl.Float32).fill_null(np.nan).to_numpy(), columns.columns)


def _evidence_by_partition(clean: Path, length: timedelta, telemetry: Telemetry) -> Iterator[pl.DataFrame]:
    columns = [*tables.KEYS, *telemetry.metrics]
    for partition in tables.partitions(clean):
        start, end = partition.start - BEFORE - telemetry.interval, partition.end + max(length, LONGEST_GAP)
        rows = tables.read_period(clean, start, end, columns)
        yield evidence(rows, partition, length, telemetry)


def evidence(rows: pl.DataFrame, partition: Partition, length: timedelta, telemetry: Telemetry) -> pl.DataFrame:
    """Measure the evidence in each server-window that begins in a partition.

    Parameters
    ----------
    rows : DataFrame
        Clean rows of the partition, from `BEFORE` earlier to `LONGEST_GAP` later.
    partition : Partition
        Windows begin in it.
    length : timedelta
        Of a window.
    telemetry : Telemetry
        The metrics, and the rows' interval.

    Returns
    -------
    DataFrame
        `server_id`, `started_at`; of each metric the mean, highest and lowest value, from `BEFORE` earlier on; its
        largest rise and fall between neighbouring rows, and the hour of day of that fall; `gap_h`, the longest gap
        that began in the window, `gap_hour`, its hour of day, `gap_company`, the share of servers whose gap began at
        the same moment, and `gaps`, how many there were.
    """
    metrics, interval = list(telemetry.metrics), telemetry.interval
    real = measured(rows, metrics)
    following = pl.col("timestamp").shift(-1).over("server_id")
    silence = (following - pl.col("timestamp") - interval).fill_null(LONGEST_GAP).clip(timedelta(0), LONGEST_GAP)
    steps = real.with_columns(
        *(
            (pl.col(name).shift(-1).over("server_id") - pl.col(name)).alias(f"{name}_step")  # the change after this row
            for name in metrics
        ),
        silence=silence / HOUR,
        hour=pl.col("timestamp").dt.hour().cast(pl.Float32),
    ).with_columns(company=(pl.col("silence") > 0).mean().over("timestamp"))

    def by_window(frame: pl.DataFrame, moment: pl.Expr, before: timedelta, *what: pl.Expr) -> pl.DataFrame:
        grouped = frame.with_columns(at=moment).group_by_dynamic(
            "at", every=length, period=length + before, offset=-before, group_by="server_id", closed="left"
        )
        return grouped.agg(*what).with_columns(started_at=pl.col("at") + before).drop("at")

    levels = by_window(
        real,
        pl.col("timestamp") - interval,  # a row holds the samples before its time
        BEFORE,
        *(
            statistic(pl.col(name)).alias(f"{name}_{kind}")
            for name in metrics
            for kind, statistic in (("mean", pl.Expr.mean), ("max", pl.Expr.max), ("min", pl.Expr.min))
        ),
    )
    is_gap = pl.col("silence") > 0
    changes = by_window(
        steps,
        pl.col("timestamp"),  # the change after a row begins at the row's time
        timedelta(0),
        *(pl.col(f"{name}_step").max().alias(f"{name}_rise") for name in metrics),
        *(pl.col(f"{name}_step").min().alias(f"{name}_fall") for name in metrics),
        *(pl.col("hour").sort_by(f"{name}_step").first().alias(f"{name}_fall_hour") for name in metrics),
        pl.col("silence").max().alias("gap_h"),
        pl.col("hour").filter(is_gap).sort_by(pl.col("silence").filter(is_gap)).last().alias("gap_hour"),
        pl.col("company").filter(is_gap).sort_by(pl.col("silence").filter(is_gap)).last().alias("gap_company"),
        is_gap.sum().alias("gaps"),
    )
    begins_here = pl.col("started_at").is_between(*tables.utc(partition.start, partition.end), closed="left")
    return changes.filter(begins_here).join(levels, on=["server_id", "started_at"], how="left")


def measured(rows: pl.DataFrame, metrics: list[str]) -> pl.DataFrame:
    """Return the measured rows, by server and time: a row that repeats the one before was filled by `clean`."""
    same = [pl.col(name).eq_missing(pl.col(name).shift()) for name in ("server_id", *metrics)]
    return rows.sort("server_id", "timestamp").filter(~pl.all_horizontal(same))


def _with_records(found: pl.DataFrame, records: pl.DataFrame, covered: pl.DataFrame, length: timedelta) -> pl.DataFrame:
    """Add from the records the first crash that starts in each window, and whether work was planned in it."""
    windows = found.with_columns(ended_at=pl.col("started_at") + length)
    inside = (pl.col("covered_from") <= pl.col("started_at")) & (pl.col("ended_at") <= pl.col("covered_to"))
    known = windows.select(KEYS).join(covered, on="server_id").filter(inside).select(KEYS).unique()
    first = (
        records.with_columns(incident_at="started_at", started_at=pl.col("started_at").dt.truncate(length))
        .group_by("server_id", "started_at")
        .agg(
            crash_at=pl.col("incident_at").filter(pl.col("kind") == CRASH).min(),
            planned=(pl.col("kind") == MAINTENANCE).any().cast(pl.Float32),
        )
    )
    joined = windows.join(known, on=KEYS, how="semi").join(first, on=["server_id", "started_at"], how="left")
    return joined.with_columns(pl.col("planned").fill_null(0.0))
