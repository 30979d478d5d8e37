"""What was issued: scores, alarms and late revisions, one Parquet file for each table and tick, never written again.

A file is named after the tick's moment (`scores/day=2026-01-31/2026-01-31T120000Z.parquet`), so two instances name the
same one, and the first one's holds. It appears whole or not at all: locally a finished file is linked to its name, and
on S3 a put is atomic. Which alarms stand follows from the scores alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pyarrow.parquet as pq

from crashcast import files
from crashcast.errors import UserError
from crashcast.modeling.alarms import AlarmWindow, open_alarms
from crashcast.sources.bucket import S3
from crashcast.tables import TIMESTAMP

SCORES: dict[str, Any] = {
    "moment": TIMESTAMP,  # of the tick
    "timestamp": TIMESTAMP,  # of the row
    "server_id": pl.String,
    "score": pl.Float64,
    "threshold": pl.Float64,
    "model": pl.String,  # its version
    "samples": pl.String,  # a digest of the telemetry that the scores of this moment came from
    "incidents": pl.String,  # and of the records of incidents and their coverage
}
REASON = pl.Struct(
    {
        "source": pl.String,
        "feature": pl.String,
        "value": pl.Float64,
        "fleet": pl.Float64,
        "risk": pl.Float64,
        "risk_without": pl.Float64,
    }
)
ALARMS: dict[str, Any] = {
    "moment": TIMESTAMP,  # of the tick
    "timestamp": TIMESTAMP,  # of the row
    "server_id": pl.String,
    "opened_at": TIMESTAMP,  # of the page; `timestamp` unless this renews it
    "ends_at": TIMESTAMP,  # timestamp + lead + horizon
    "score": pl.Float64,
    "threshold": pl.Float64,
    "model": pl.String,
    "reasons": pl.List(REASON),
    "delivered": pl.Boolean,  # false: held back
}
REVISIONS: dict[str, Any] = {
    "moment": TIMESTAMP,  # of the tick that found it
    "timestamp": TIMESTAMP,  # of the row
    "server_id": pl.String,
    "issued": pl.Float64,  # null: its sample came too late to be scored
    "later": pl.Float64,  # from the samples that are known now; null: the row was not observed after all
    "model": pl.String,
    "samples": pl.String,  # a digest of what it was scored from
}
ACTIONS: dict[str, Any] = {
    "moment": TIMESTAMP,  # of the report
    "server_id": pl.String,
    "what": pl.String,  # such as restart
    "at": TIMESTAMP,  # when it was done
    "who": pl.String,
    "source": pl.String,  # how it was reported: api or cli
}
TABLES = {"scores": SCORES, "alarms": ALARMS, "revisions": REVISIONS, "actions": ACTIONS}
NAME = re.compile(r"(\d{4}-\d\d-\d\dT\d{6})(\.\d{6})?Z\.parquet")
DAY_NAME = re.compile(r"day=(\d{4}-\d\d-\d\d)")


class Place(Protocol):
    """Where files lie."""

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none if it is missing."""

    def read(self, name: str) -> bytes:
        """Return a file."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file; False if there is one, which stays."""

    def replace(self, name: str, content: bytes) -> None:
        """Write a file in the place of another one: only to take out what names a person."""


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none if it is missing."""
        place = self.path / folder
        return sorted(path.name for path in place.iterdir()) if place.is_dir() else []

    def read(self, name: str) -> bytes:
        """Return a file."""
        return (self.path / name).read_bytes()

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file; False if there is one, which stays."""
        return files.create(self.path / name, content)

    def replace(self, name: str, content: bytes) -> None:
        """Write a file in the place of another one."""
        with files.replacing(self.path / name) as aside:
            aside.write_bytes(content)


class Bucket:
    """A prefix in S3, with the AWS settings of the environment."""

    def __init__(self, prefix: str) -> None:
        import fsspec

        self.prefix = prefix.rstrip("/")
        # a client of its own: a shared one may have another's keys
        self.fs = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none if it is missing."""
        with self._as_user_error():
            try:
                found = self.fs.ls(f"{self.prefix}/{folder}", detail=False)
            except FileNotFoundError:
                return []
            return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def read(self, name: str) -> bytes:
        """Return a file."""
        with self._as_user_error():
            content: bytes = self.fs.cat_file(f"{self.prefix}/{name}")
            return content

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file; False if there is one, which stays."""
        path = f"{self.prefix}/{name}"
        with self._as_user_error():
            if self.fs.exists(path):  # some servers do not know of puts that only create
                return False
            try:
                self.fs.pipe_file(path, content, mode="create")
            except FileExistsError:  # another instance was faster
                return False
            return True

    def replace(self, name: str, content: bytes) -> None:
        """Write a file in the place of another one."""
        with self._as_user_error():
            self.fs.pipe_file(f"{self.prefix}/{name}", content)

    @contextmanager
    def _as_user_error(self) -> Iterator[None]:
        from crashcast.versioning.remote import failures

        try:
            yield
        except failures() as error:
            raise UserError(f"serve.log: {self.prefix}: {error or type(error).__name__}") from None


class ServedLog:
    """The log in a folder or below an `s3://` prefix."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.place: Place = Bucket(address) if address.startswith(S3) else Folder(Path(address))
        self._high: dict[datetime, pl.DataFrame] = {}  # of files, which never change
        self._read: dict[str, dict[datetime, pl.DataFrame]] = {}

    def moments(self, table: str, since: datetime | None = None) -> list[datetime]:
        """Return the moments of the ticks that wrote a table, in order, from `since` on."""
        return list(self._moments(table, since))[::-1]

    def last(self, table: str = "scores") -> datetime | None:
        """Return the moment of the last tick that wrote a table; None if none did."""
        return next(self._moments(table), None)

    def _moments(self, table: str, since: datetime | None = None) -> Iterator[datetime]:
        """Yield moments, the newest first."""
        for day in reversed(self.place.names(table)):
            if DAY_NAME.fullmatch(day) and (since is None or day >= f"day={since:%Y-%m-%d}"):
                for name in reversed(self.place.names(f"{table}/{day}")):
                    if match := NAME.fullmatch(name):
                        moment = datetime.strptime(match[1] + (match[2] or ".0"), "%Y-%m-%dT%H%M%S.%f")
                        if since is None or moment >= since:
                            yield moment

    def read(self, table: str, moments: Iterable[datetime], columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return what some ticks wrote to a table, or some columns of it.

        Raises
        ------
        UserError
            If a file is damaged.
        """
        wanted = list(columns or TABLES[table])
        frames = [pl.DataFrame(schema={name: TABLES[table][name] for name in wanted})]
        for moment in moments:
            name = _name(table, moment)
            try:
                frames.append(pl.read_parquet(io.BytesIO(self.place.read(name)), columns=wanted))
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                reason = str(error).splitlines()[0]
                message = f"{self.address}/{name} is not a table of the log ({reason})"
                raise UserError(f"{message}; restore it, or move it away") from None
        return pl.concat(frames, how="vertical_relaxed")

    def since(self, table: str, since: datetime) -> pl.DataFrame:
        """Return what was written to a table since a moment; what an earlier call read is not read again."""
        before = self._read.get(table, {})
        frames = {moment: before.get(moment) for moment in self._moments(table, since)}
        self._read[table] = read = {
            moment: self.read(table, [moment]) if frame is None else frame for moment, frame in frames.items()
        }
        return pl.concat([pl.DataFrame(schema=TABLES[table]), *reversed(read.values())])

    def write(self, table: str, moment: datetime, frame: pl.DataFrame) -> bool:
        """Write what a tick issues; return False if the moment has it already, as another instance issued it.

        Raises
        ------
        UserError, OSError
            If it cannot be written: nothing is then.
        """
        buffer = io.BytesIO()
        schema = TABLES[table]
        arrow = frame.select(pl.col(name).cast(kind) for name, kind in schema.items()).rechunk().to_arrow()
        pq.write_table(arrow, buffer, compression="zstd", compression_level=1, store_schema=False)
        return self.place.create(_name(table, moment), buffer.getvalue())

    def alarms(self, until: datetime, window: AlarmWindow) -> pl.DataFrame:
        """Return all openings of alarms that can matter to those that stand at a moment.

        The scores are read back to a time without a high one of the server, as long as an alarm stands: what came
        before it changes nothing after it.

        Returns
        -------
        DataFrame
            `moment`, `timestamp`, `server_id`, `score`, `threshold`, `model`, and `opened_at`: the time of the opening
            that this renews, or its own; sorted by (timestamp, server_id).
        """
        gap, found, earliest = window.duration, [pl.DataFrame(schema=SCORES)], dict[str, datetime]()
        read: dict[datetime, pl.DataFrame] = {}
        for moment in self._moments("scores"):
            if moment > until:
                continue
            if moment < min([*earliest.values(), until]) - gap:
                break
            high = read[moment] = self._high_of(moment)
            found.append(high)
            for server, timestamp in high.select("server_id", pl.col("timestamp").dt.replace_time_zone(None)).rows():
                if timestamp >= earliest.get(server, until) - gap:
                    earliest[server] = min(timestamp, earliest.get(server, timestamp))
        self._high = read  # what is older is not needed again
        high = pl.concat(found).filter(pl.col("server_id").is_in(list(earliest)))
        # which were high was decided as they were issued
        rows = high.with_columns(label=pl.lit(None, pl.Int8), observed=pl.lit(True))
        opened_at = pl.when("is_page").then("timestamp").forward_fill().over("server_id")
        return (
            open_alarms(rows, float("-inf"), window)
            .with_columns(opened_at=opened_at)
            .join(high, on=["timestamp", "server_id"], maintain_order="left")
            .select("moment", "timestamp", "server_id", "score", "threshold", "model", "opened_at")
        )

    def _high_of(self, moment: datetime) -> pl.DataFrame:
        if moment in self._high:
            return self._high[moment]
        return self.read("scores", [moment]).filter(pl.col("score") >= pl.col("threshold"))


def _name(table: str, moment: datetime) -> str:
    fraction = f".{moment:%f}" if moment.microsecond else ""  # of what no tick issued
    return f"{table}/day={moment:%Y-%m-%d}/{moment:%Y-%m-%dT%H%M%S}{fraction}Z.parquet"


def aware(moment: datetime) -> datetime:
    """Return a naive moment in UTC with its zone, as columns have it."""
    return moment.replace(tzinfo=UTC)


def standing(openings: pl.DataFrame, moment: datetime, duration: timedelta) -> pl.DataFrame:
    """Return the last opening of each server that still stands at a moment, the highest score first."""
    last = openings.sort("timestamp").unique("server_id", keep="last")
    return last.filter(pl.col("timestamp") + duration > aware(moment)).sort(
        "score", "server_id", descending=[True, False]
    )
