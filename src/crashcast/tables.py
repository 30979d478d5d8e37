"""The tables' schemas, their calendar of partitions, and canonical reading and writing.

A large table is a folder of Parquet files, one per month, week or day (`month=2026-01/part-0.parquet`),
each sorted by (timestamp, server_id). Times are UTC, partitions half-open: [start, end).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from crashcast.errors import UserError
from crashcast.files import replacing

TIMESTAMP = pl.Datetime("us", "UTC")
KEYS = {"timestamp": TIMESTAMP, "server_id": pl.String}
CRASH, MAINTENANCE = "crash", "maintenance"  # kinds of incident
OBSERVED = "observed"  # whether a row has a value of its own: rows that only fill a gap raise no alarm
# why a label is unknown: no incidents were recorded for this server at this time; somebody acted, and no crash came
UNCOVERED, MITIGATED = "uncovered", "mitigated"
INCIDENTS = {
    "incident_id": pl.String,
    "server_id": pl.String,
    "kind": pl.String,
    "started_at": TIMESTAMP,
    "resolved_at": TIMESTAMP,  # null: never closed
    "reported_at": TIMESTAMP,  # null: started_at + incidents.reporting_delay
    "severity": pl.String,
    "source": pl.String,
    "summary": pl.String,
}
COVERAGE = {
    "server_id": pl.String,
    "covered_from": TIMESTAMP,  # incidents were recorded in [covered_from, covered_to)
    "covered_to": TIMESTAMP,
    "group": pl.String,  # role, site or any other kind of server; null: none
}
TICKET_SOURCES: dict[str, Any] = {
    "source": pl.String,  # as incidents name it; one without periods recorded wherever COVERAGE says so
    "covered_from": TIMESTAMP,  # it recorded tickets in [covered_from, covered_to)
    "covered_to": TIMESTAMP,
}
ALARMS: dict[str, Any] = {  # openings and renewals
    "server_id": pl.String,
    "timestamp": TIMESTAMP,  # of the row
    "opened_at": TIMESTAMP,  # of the page; `timestamp` unless this renews it
    "ends_at": TIMESTAMP,  # it stands in [timestamp, ends_at)
    "score": pl.Float64,
    "threshold": pl.Float64,
    "model": pl.String,  # its version
    "delivered": pl.Boolean,  # false: held back, as one of the control group
}
ALARM_KEY = ("timestamp", "server_id")  # and the order of rows
ACTIONS: dict[str, Any] = {
    "server_id": pl.String,
    "what": pl.String,  # such as restart
    "at": TIMESTAMP,  # when it was done
    "who": pl.String,  # null: not known
    "source": pl.String,  # cli, api, silence, csv, or that of a ticket
    "reported_at": TIMESTAMP,
}
ACTION_KEY = ("at", "server_id", "what", "source")  # and the order of rows
ROW_GROUP_ROWS = 1_000_000
FILE_NAME = "part-0.parquet"


@dataclass(frozen=True, order=True)
class Partition:
    """The period [start, end) of one file; naive datetimes, meaning UTC. Of a fold, that of its validation part."""

    start: datetime
    end: datetime
    unit: str

    @property
    def name(self) -> str:
        """The folder's name, `month=2026-01`, `week=2026-W05` or `day=2026-01-31`."""
        form = {"month": "%Y-%m", "week": "%G-W%V", "day": "%Y-%m-%d", "fold": "%Y-%m-%dT%H:%M:%S"}[self.unit]
        return f"{self.unit}={self.start.strftime(form)}"

    def path(self, table: Path) -> Path:
        """Return the file of this partition of `table`."""
        return table / self.name / FILE_NAME


def partition_at(moment: datetime, unit: str) -> Partition:
    """Return the partition that holds `moment` (UTC)."""
    day = datetime(moment.year, moment.month, moment.day)
    if unit == "day":
        return Partition(day, day + timedelta(days=1), unit)
    if unit == "week":
        monday = day - timedelta(days=day.weekday())
        return Partition(monday, monday + timedelta(days=7), unit)
    first = day.replace(day=1)
    return Partition(first, (first + timedelta(days=32)).replace(day=1), unit)


def partitions(table: Path) -> list[Partition]:
    """List the partitions of a table in order of time.

    Raises
    ------
    UserError
        If the folder is missing, empty, or holds anything but partitions of one unit.
    """
    if not table.is_dir():
        raise UserError(f"{table} is missing: `dvc pull` or `dvc repro` brings it")
    found = sorted(_parse(folder) for folder in table.iterdir() if not folder.name.startswith("."))
    if not found:
        raise UserError(f"{table} holds no partitions")
    if len({partition.unit for partition in found}) > 1:
        raise UserError(f"{table} mixes partitions of different lengths: {found[0].name}, {found[-1].name}")
    for partition in found:
        if not partition.path(table).is_file():
            raise UserError(f"{partition.path(table)} is missing")
    return found


def _parse(folder: Path) -> Partition:
    match = re.fullmatch(r"(month|week|day)=(\d{4})-(?:W(\d\d)|(\d\d)(?:-(\d\d))?)", folder.name)
    try:
        if match is None:
            raise ValueError
        unit, year, week, month, day = match.groups()
        first = date.fromisocalendar(int(year), int(week), 1) if week else date(int(year), int(month), int(day or 1))
        partition = partition_at(datetime(first.year, first.month, first.day), unit)
        if partition.name != folder.name:
            raise ValueError
        return partition
    except ValueError:
        raise UserError(f"{folder} is not a partition: expected a folder like month=2026-01") from None


def read(path: Path, columns: Iterable[str] | None = None, where: pl.Expr | None = None) -> pl.DataFrame:
    """Read one Parquet file, or the rows of it that satisfy `where`, in the order they are stored.

    Raises
    ------
    UserError
        If the file is missing, truncated, no Parquet, or lacks one of `columns`.
    """
    try:
        lazy = pl.scan_parquet(path, hive_partitioning=False, glob=False)
        if columns is not None:
            wanted = list(columns)
            if missing := [name for name in wanted if name not in lazy.collect_schema()]:
                raise UserError(f"{path}: column {', '.join(missing)} is missing")
            lazy = lazy.select(wanted)
        return (lazy if where is None else lazy.filter(where)).collect()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `dvc pull` or `dvc repro` brings it") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable Parquet file ({reason}); restore it or import it again") from None


def read_period(
    table: Path,
    start: datetime,
    end: datetime,
    columns: Iterable[str] | None = None,
    among: Iterable[Partition] | None = None,
) -> pl.DataFrame:
    """Read the rows of a table with start <= timestamp < end, in the order they are stored.

    Parameters
    ----------
    table : Path
        A folder of partitions.
    start, end : datetime
        Naive, meaning UTC.
    columns : iterable of str, optional
        Which columns; all of them by default. `timestamp` is needed.
    among : iterable of Partition, optional
        The partitions to look in, in order of time and at least one; all of the table's by default.
    """
    inside = pl.col("timestamp").is_between(*utc(start, end), closed="left")
    wanted = None if columns is None else list(columns)
    listed = partitions(table) if among is None else list(among)
    frames = []
    for partition in listed:
        if partition.start < end and start < partition.end:
            whole = start <= partition.start and partition.end <= end
            frames.append(read(partition.path(table), wanted, None if whole else inside))
    if not frames:
        return read(listed[0].path(table), wanted, inside)
    return pl.concat(frames, how="vertical_relaxed")  # a source may have changed the width of a column


def utc(start: datetime, end: datetime) -> tuple[pl.Expr, pl.Expr]:
    """Return two naive datetimes as polars literals in UTC."""
    first, last = (pl.lit(moment, dtype=pl.Datetime("us")).dt.replace_time_zone("UTC") for moment in (start, end))
    return first, last


def write(path: Path, frame: pl.DataFrame) -> None:
    """Write one Parquet file whose bytes depend on the frame alone; it appears whole or not at all.

    The caller has put the rows into a total order.
    """
    arrow = frame.rechunk().to_arrow()
    with replacing(path) as aside:
        # pyarrow encodes rounded numbers by a dictionary, which polars does not: files are a fifth smaller, and faster
        # to write and to read. Statistics of timestamps let a reader skip row groups outside a period
        pq.write_table(
            arrow,
            aside,
            row_group_size=ROW_GROUP_ROWS,
            compression="zstd",
            compression_level=1,
            write_statistics=["timestamp"] if "timestamp" in frame.columns else False,
            store_schema=False,
        )
