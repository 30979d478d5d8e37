"""Scores of a fleet at one moment: the newest observed row of each server.

Rows and features come from the stages' own functions, over one interval and the history that its windows reach, so a
score here has the same bits as the one that the pipeline computes later from the same samples. A row that only fills a
gap after a server's last sample is never scored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.incidents import read_incidents
from crashcast.operate.deployment import Deployment
from crashcast.operate.look_back import between, divide
from crashcast.params.base import DAY
from crashcast.params.features import Features
from crashcast.params.telemetry import Telemetry
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TELEMETRY_PATH
from crashcast.tables import Partition
from crashcast.text import counted, some_of
from stages.clean import clean_partition, samples_period
from stages.featurize import (
    categories_that_show,
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
        `timestamp`, `server_id` and the features of these rows. `reasons` compares a row with their medians.
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

    @cached_property
    def medians(self) -> pl.DataFrame:
        """The median of each feature of the model, in one row: of the fleet."""
        return self.features.select(pl.col(self.deployment.model.features).median().cast(pl.Float32))


@dataclass(frozen=True, eq=False)
class Samples:
    """What a fleet is scored from.

    Attributes
    ----------
    pieces : iterable of DataFrame
        `timestamp`, `server_id` and the metrics, divided by servers, each sorted by (timestamp, server_id).
    newest : datetime
        Time of the newest sample that there is, maybe after these; naive, meaning UTC.
    source : Path
        Where they come from, for messages.
    """

    pieces: Iterable[pl.DataFrame]
    newest: datetime
    source: Path


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
    telemetry, newest = deployment.telemetry, _newest_sample(telemetry_path)
    moment = last_row(newest if at is None else at, telemetry.interval)
    columns = (*tables.KEYS, *telemetry.metrics)
    rows = tables.read_period(telemetry_path, *samples_needed(deployment, moment), columns)
    _check(rows, telemetry_path)
    return score_samples(deployment, moment, Samples(divide(rows), newest, telemetry_path), incidents_path, coverage)


def score_samples(
    deployment: Deployment, moment: datetime, samples: Samples, incidents_path: Path, coverage: Path
) -> Scores:
    """Score the newest observed row of each server, from samples in memory.

    Parameters
    ----------
    deployment : Deployment
    moment : datetime
        Time of the newest row that is complete; naive, meaning UTC.
    samples : Samples
        Over `samples_needed`.
    incidents_path, coverage : Path
        Raw data.

    Raises
    ------
    UserError
        As `score` does.
    """
    known = read_incidents(incidents_path, deployment.incidents)
    covered = tables.read(coverage, ["server_id", "covered_from", "covered_to", *deployment.features.categories])
    own, servers = _newest_features(deployment, moment, samples, known, covered)
    risk = deployment.model.predict(own)
    rows = own.select(
        "server_id",
        "timestamp",
        age=pl.lit(moment).dt.replace_time_zone("UTC") - pl.col("timestamp"),
        risk=pl.Series(risk),
        is_at_risk=pl.Series(risk >= deployment.model.threshold),
    ).sort("risk", "server_id", descending=[True, False])
    warnings = [*_blind(own, deployment.telemetry), *_unrecorded(own.select(*tables.KEYS), covered)]
    return Scores(deployment, moment, rows, sorted(servers - {*own["server_id"]}), warnings, own)


def _newest_features(
    deployment: Deployment, moment: datetime, samples: Samples, known: pl.DataFrame, covered: pl.DataFrame
) -> tuple[pl.DataFrame, set[str]]:
    """Return the features of each server's newest observed row, and all servers that have rows.

    The servers are cleaned piece by piece, to save memory. Almost all have a row of the newest moment, so for the
    others windows are computed apart. The fleet that a row is compared with is that of its own time.
    """
    telemetry, features = deployment.telemetry, deployment.features
    oldest, period = oldest_row(deployment, moment), _period(deployment, moment)
    columns, (windows, of_fleet) = feature_columns(telemetry, features), _divided(features)
    servers, latest = set[str](), list[pl.DataFrame]()
    current, behind, recent = list[pl.DataFrame](), list[pl.DataFrame](), list[pl.DataFrame]()

    def compute(first: datetime, last: datetime, rows: pl.DataFrame, features: Features) -> pl.DataFrame:
        partition = Partition(first, last + telemetry.interval, telemetry.partition)
        inside = between(rows, first - lookback(telemetry, features), partition.end)
        crashes, records, categories = known_of(partition)
        return featurize_partition(partition, inside, crashes, records, categories, telemetry, features)[0]

    @cache
    def known_of(partition: Partition) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        return (
            crashes_that_show(partition, known, features),
            records_that_reach(partition, covered, features),
            categories_that_show(partition, covered, features),
        )

    for some in samples.pieces:
        cleaned, _ = clean_partition(period, some, telemetry, deployment.clean)
        servers.update(cleaned["server_id"].unique())
        latest.append(_newest_rows(cleaned, oldest))
        cleaned = cleaned.select(*tables.KEYS, *columns)
        current.append(compute(moment, moment, cleaned, windows))
        late = latest[-1].filter(pl.col("timestamp") < moment.replace(tzinfo=UTC))["server_id"]
        behind.append(cleaned.filter(pl.col("server_id").is_in(late.implode())) if late.len() else cleaned.clear())
        recent.append(cleaned.filter(pl.col("timestamp") >= oldest.replace(tzinfo=UTC)))  # a slice would keep all of it
    newest = pl.concat(latest).sort(*tables.KEYS)
    if newest.is_empty():
        raise UserError(
            f"no server has a row from {oldest:%Y-%m-%d %H:%M} to {moment:%Y-%m-%d %H:%M} UTC: "
            f"the newest sample of {samples.source} is of {samples.newest:%Y-%m-%d %H:%M}"
        )
    times = sorted(newest["timestamp"].dt.replace_time_zone(None).unique())
    if times[0] < moment:
        last = max(when for when in times if when < moment)
        current.append(compute(times[0], last, pl.concat(behind).sort(*tables.KEYS), windows))
    own = newest.join(pl.concat(current), on=list(tables.KEYS), how="left", maintain_order="left")
    if features.fleet_relative:
        fleets = [pl.concat(between(some, when, when + telemetry.interval) for some in recent) for when in times]
        fleet = pl.concat(compute(when, when, rows, of_fleet) for when, rows in zip(times, fleets, strict=True))
        fleet = fleet.select(*tables.KEYS, pl.exclude(own.columns))
        own = own.join(fleet, on=list(tables.KEYS), how="left", maintain_order="left")
    in_order = compute(moment, moment, recent[0].clear(), features).columns
    return own.select(in_order), servers


def _divided(features: Features) -> tuple[Features, Features]:
    """Return the parameters of the features that come from a server's own rows, and of those that come from a moment's.

    Levels, the time since the last crash and categories are among both.
    """
    kinds = ("rolling_mean", "rolling_std", "rolling_max", "differences", "missing_share", "incident_counts")
    own = features.model_copy(update={"fleet_relative": False})
    return own, features.model_copy(update={kind: [] for kind in kinds})


def oldest_row(deployment: Deployment, moment: datetime) -> datetime:
    """Return the time of the oldest row that is scored at a moment: what an older one says is over by then."""
    interval = deployment.telemetry.interval
    return moment - (max(1, -(-deployment.label.reach // interval)) - 1) * interval


def samples_needed(deployment: Deployment, moment: datetime) -> tuple[datetime, datetime]:
    """Return the period [from, to) of all samples that the scores of a moment depend on."""
    return samples_period(_period(deployment, moment), deployment.telemetry, deployment.clean)


def _period(deployment: Deployment, moment: datetime) -> Partition:
    """Return the period of all clean rows that the scores of a moment depend on."""
    telemetry = deployment.telemetry
    begin = oldest_row(deployment, moment) - lookback(telemetry, deployment.features)
    return Partition(begin, moment + telemetry.interval, telemetry.partition)


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
