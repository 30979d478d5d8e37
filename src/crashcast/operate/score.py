"""Scores of a fleet at one moment: the newest observed row of each server.

Rows and features come from the stages' own functions, over one interval and the history that its windows reach, so a
score here has the same bits as the one that the pipeline computes later from the same samples. A row that only fills a
gap after a server's last sample is never scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.incidents import read_incidents
from crashcast.operate.deployment import Deployment
from crashcast.params.base import DAY
from crashcast.params.telemetry import Telemetry
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TELEMETRY_PATH
from crashcast.tables import Partition
from crashcast.text import counted, some_of
from stages.clean import clean_partition, samples_period
from stages.featurize import (
    crashes_that_show,
    feature_columns,
    featurize_partition,
    lookback,
    records_that_reach,
)


@dataclass(frozen=True, eq=False)
class Scores:
    """The newest scores of a fleet.

    Attributes
    ----------
    deployment : Deployment
        The model that gave them.
    moment : datetime
        Time of the newest row that is complete; naive, meaning UTC.
    rows : DataFrame
        One row a server, the highest risk first: `server_id`, `timestamp` of its newest observed row, `age` (Duration
        before `moment`), `risk` (the probability of a crash in (timestamp + lead, timestamp + lead + horizon]) and
        `is_at_risk` (whether it reaches the alarm threshold).
    silent : list of str
        Servers whose newest row is so old that its forecast is over.
    warnings : list of str
        What the model does not see now and saw in training.
    features : DataFrame
        `timestamp`, `server_id` and the features of all servers, at each time that `rows` names.
    """

    deployment: Deployment
    moment: datetime
    rows: pl.DataFrame
    silent: list[str]
    warnings: list[str]
    features: pl.DataFrame

    @property
    def at_risk(self) -> pl.DataFrame:
        """The rows that reach the alarm threshold."""
        return self.rows.filter("is_at_risk")


def score(
    deployment: Deployment,
    at: datetime | None = None,
    telemetry_path: Path = TELEMETRY_PATH,
    incidents_path: Path = INCIDENTS_PATH,
    coverage: Path = COVERAGE_PATH,
) -> Scores:
    """Score the newest observed row of each server.

    Parameters
    ----------
    deployment : Deployment
        The model, and the parameters of its features.
    at : datetime, optional
        Score as at this moment (naive, meaning UTC), from samples until then and incidents reported by then; by
        default at the newest sample.
    telemetry_path, incidents_path, coverage : Path
        Raw data.

    Raises
    ------
    UserError
        If raw data is missing, unreadable or out of order, or no server has a row that is new enough.
    """
    telemetry, features, interval = deployment.telemetry, deployment.features, deployment.telemetry.interval
    newest = _newest_sample(telemetry_path)
    moment = last_row(newest if at is None else at, interval)
    oldest, reach = oldest_row(deployment, moment), lookback(telemetry, features)

    unit = tables.partitions(telemetry_path)[0].unit
    period = Partition(oldest - reach, moment + interval, unit)
    columns = (*tables.KEYS, *telemetry.metrics)
    samples = tables.read_period(telemetry_path, *samples_period(period, telemetry, deployment.clean), columns)
    _check(samples, telemetry_path)
    cleaned, _ = clean_partition(period, samples, telemetry, deployment.clean)
    latest = _newest_rows(cleaned, oldest)
    del samples  # of a large fleet they are a third of the memory
    if latest.is_empty():
        raise UserError(
            f"no server has a row from {oldest:%Y-%m-%d %H:%M} to {moment:%Y-%m-%d %H:%M} UTC: "
            f"the newest sample of {telemetry_path} is of {newest:%Y-%m-%d %H:%M}"
        )

    known = read_incidents(incidents_path, deployment.incidents)
    covered = tables.read(coverage, ["server_id", "covered_from", "covered_to"])
    cleaned = cleaned.select(*tables.KEYS, *feature_columns(telemetry, features))
    found = []
    for when in sorted(latest["timestamp"].dt.replace_time_zone(None).unique()):
        single = Partition(when, when + interval, unit)
        inside = pl.col("timestamp").is_between(*tables.utc(when - reach, single.end), closed="left")
        crashes = crashes_that_show(single, known, features)
        records = records_that_reach(single, covered, features)
        found.append(featurize_partition(single, cleaned.filter(inside), crashes, records, telemetry, features)[0])
    all_features = pl.concat(found)
    own = latest.join(all_features, on=list(tables.KEYS), how="left", maintain_order="left")
    risk = deployment.model.predict(own)
    rows = own.select(
        "server_id",
        "timestamp",
        age=pl.lit(moment).dt.replace_time_zone("UTC") - pl.col("timestamp"),
        risk=pl.Series(risk),
        is_at_risk=pl.Series(risk >= deployment.model.threshold),
    ).sort("risk", "server_id", descending=[True, False])
    silent = sorted({*cleaned["server_id"].unique()} - {*latest["server_id"]})
    warnings = [*_blind(own, telemetry), *_unrecorded(latest, covered)]
    return Scores(deployment, moment, rows, silent, warnings, all_features)


def oldest_row(deployment: Deployment, moment: datetime) -> datetime:
    """Return the time of the oldest row that is scored at a moment: what an older one says is over by then."""
    interval = deployment.telemetry.interval
    return moment - (max(1, -(-deployment.label.reach // interval)) - 1) * interval


def samples_needed(deployment: Deployment, moment: datetime) -> tuple[datetime, datetime]:
    """Return the period [from, to) of all samples that the scores of a moment depend on."""
    begin = oldest_row(deployment, moment) - lookback(deployment.telemetry, deployment.features)
    period = Partition(begin, moment + deployment.telemetry.interval, deployment.telemetry.partition)
    return samples_period(period, deployment.telemetry, deployment.clean)


def _newest_sample(table: Path) -> datetime:
    for partition in reversed(tables.partitions(table)):
        found = tables.read(partition.path(table), ["timestamp"])["timestamp"].max()
        if isinstance(found, datetime):
            return found.replace(tzinfo=None)
    raise UserError(f"{table} holds no sample: collect or import telemetry first")


def _check(samples: pl.DataFrame, table: Path) -> None:
    """Refuse samples that `clean` would put into wrong rows: `validate` need not have seen them yet."""
    keys, metrics = samples.select(*tables.KEYS), samples.drop(*tables.KEYS)
    is_typed = keys["server_id"].dtype == pl.String and all(t.is_numeric() or t == pl.Null for t in metrics.dtypes)
    if not is_typed or any(column.has_nulls() for column in keys) or not _is_sorted(keys):
        raise UserError(f"{table} is out of order, or has a wrong type or no key: `dvc repro validate` says where")


def _is_sorted(keys: pl.DataFrame) -> bool:
    """Tell whether keys without nulls are in order of (timestamp, server_id); sorting them costs four times as much."""
    moment, server = (pl.col(name) for name in tables.KEYS)
    before, own = moment.shift(), server.shift()
    return not keys.select(((moment < before) | ((moment == before) & (server < own))).any()).item()


def _blind(rows: pl.DataFrame, telemetry: Telemetry) -> list[str]:
    """Name the metrics that no row has."""
    if missing := [name for name in telemetry.metrics if name in rows and rows[name].null_count() == rows.height]:
        return [f"the newest row of no server has {some_of(missing)}: see whether its exporter and its query work"]
    return []


def _unrecorded(latest: pl.DataFrame, covered: pl.DataFrame) -> list[str]:
    """Name the servers whose records of incidents end more than a day before their newest row, or are missing."""
    until = covered.group_by("server_id").agg(pl.col("covered_to").max())
    recent = pl.col("covered_to") >= pl.col("timestamp") - DAY
    stale = latest.join(until, on="server_id", how="left").filter(~recent.fill_null(False))["server_id"].to_list()
    if stale:
        told = f"coverage of {counted(len(stale), 'server')} ended more than a day before the newest row, or is missing"
        return [f"{told}, so the model may not know of crashes: {some_of(stale)}"]
    return []


def last_row(moment: datetime, interval: timedelta) -> datetime:
    """Return the time of the last row that is complete at a moment."""
    monday = datetime(moment.year, moment.month, moment.day) - timedelta(days=moment.weekday())
    return monday + (moment - monday) // interval * interval


def _newest_rows(cleaned: pl.DataFrame, oldest: datetime) -> pl.DataFrame:
    """Return the keys of each server's newest observed row, not before `oldest`, sorted."""
    return (
        cleaned.filter(pl.col(tables.OBSERVED) & (pl.col("timestamp") >= oldest.replace(tzinfo=UTC)))
        .group_by("server_id")
        .agg(pl.col("timestamp").max())
        .select(*tables.KEYS)
        .sort(*tables.KEYS)
    )
