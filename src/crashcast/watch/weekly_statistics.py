"""What a fleet was like, week by week: of the metrics, the fleet, the scores, the crashes and the alarms.

Rows of a server, and rows of a day, depend on each other; weeks hardly do. So a week is the unit that drift is measured
in, and every figure here has one value a week. Weeks begin on Monday, 00:00 UTC, and only whole ones count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.grid import floats
from crashcast.modeling.alarms import INSTANT, AlarmWindow, judge
from crashcast.modeling.bootstrap import MONDAY
from crashcast.modeling.model import Model
from crashcast.modeling.split_rule import HAS_LABEL
from crashcast.params.base import DAY

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]
WEEK = 7 * DAY
BINS = 20  # of a distribution, each with as many rows of the training period
LEAST_ANGLE = 0.01  # least standard deviation of shares and rates, on their scales
ROWS_A_WEEK = 100_000  # that are scored, of a large fleet
LEAST_EVENTS = 5  # of a week that a share or a mean is told of
SAMPLED_ROWS = 1_000_000  # that the limits of the bins come from
MISSING, LEVEL, SHAPE, SILENT, NEW = "missing", "mean", "distribution", "silent rows", "new servers"
COMPOSITION, CRASH_RATE, TICKET_DELAY, SOURCES = "composition", "crash rate", "ticket delay", "sources"
RECALL, PRECISION, CALIBRATION = "event recall", "alarm precision", "observed / expected"
DATA, FLEET, SCORES, LABELS, PERFORMANCE = "data", "fleet", "scores", "labels", "performance"  # layers


@dataclass(frozen=True)
class Series:
    """A figure of each week.

    Attributes
    ----------
    layer, name, figure : str
        Such as `data`, `cpu_pct`, `mean`.
    values : array of shape (W,) or (W, K)
        A number a week, NaN if it is not known; or the counts of K bins, of a distribution.
    scale : callable
        From a number to one whose spread does not depend on its size.
    floor : float
        On that scale: a smaller standard deviation is taken for this one.
    reference : slice, optional
        The weeks that a later one is compared with; by default those of the training period.
    """

    layer: str
    name: str
    figure: str
    values: Floats
    scale: Callable[[Floats], Floats] = np.asarray
    floor: float = 0.0
    reference: slice | None = None

    @property
    def is_distribution(self) -> bool:
        """Whether a week has counts of bins."""
        return self.values.ndim == 2


@dataclass(frozen=True)
class Weeks:
    """The weeks of a fleet.

    Attributes
    ----------
    first : datetime
        Start of the first one; naive, meaning UTC.
    number : int
        How many there are: W.
    reference : int
        How many of them, from the first on, lie in the training period.
    """

    first: datetime
    number: int
    reference: int

    def start(self, week: int) -> datetime:
        """Return the start of a week."""
        return self.first + week * WEEK

    def between(self, begun: datetime, ended: datetime) -> range:
        """Return the weeks that lie wholly in [begun, ended)."""
        return range(-((self.first - begun) // WEEK), (ended - self.first) // WEEK)


def span(begun: datetime, trained_to: datetime, ended: datetime) -> tuple[datetime, int, int]:
    """Return the first whole week from `begun` on, how many there are until `ended`, and until `trained_to`."""
    first = MONDAY + -((MONDAY - begun) // WEEK) * WEEK
    return first, max(0, (ended - first) // WEEK), max(0, (trained_to - first) // WEEK)


def bins_of(values: Floats) -> Floats:
    """Return the limits between bins that hold as many of these values each; NaN are left out."""
    known = values[np.isfinite(values)]
    return np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else np.zeros(0)


class Counter:
    """Counts the values of a column, week by week."""

    def __init__(self, weeks: int, limits: Floats) -> None:
        self.limits = limits
        self.counts = np.zeros((weeks, len(limits) + 1))
        self.sums, self.known, self.rows = (np.zeros(weeks) for _ in range(3))

    def add(self, week: Ints, values: Floats) -> None:
        """Count values of the weeks they are of; NaN are missing."""
        number, width = self.counts.shape
        self.rows += np.bincount(week, minlength=number)
        is_known = np.isfinite(values)
        week, values = week[is_known], values[is_known].astype(np.float64)
        cells = week * width + np.searchsorted(self.limits, values, side="right")
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)
        self.sums += np.bincount(week, weights=values, minlength=number)
        self.known += np.bincount(week, minlength=number)

    def series(self, layer: str, name: str) -> Iterator[Series]:
        """Yield the mean and the distribution of each week."""
        mean = _ratio(self.sums, self.known)
        yield Series(layer, name, LEVEL, mean, floor=1e-3 * _size(mean))
        yield Series(layer, name, SHAPE, self.counts)

    def missing(self, layer: str, name: str) -> Series:
        """Return the share of rows without a value."""
        return Series(layer, name, MISSING, 1 - _ratio(self.known, self.rows), angle, LEAST_ANGLE)


def of_metrics(clean: Path, metrics: list[str], weeks: Weeks) -> list[Series]:
    """Return the series of the metrics, from the rows of `clean` that were observed."""
    limits = _limits(clean, metrics, weeks)
    counters = {name: Counter(weeks.number, limits[name]) for name in metrics}
    for rows in rows_of(clean, [*tables.KEYS, tables.OBSERVED, *metrics], weeks):
        own = rows.filter(tables.OBSERVED)
        week = week_of(own["timestamp"], weeks)
        for name in metrics:
            counters[name].add(week, floats(own[name]).astype(np.float64))
    found: list[Series] = []
    for name, counter in counters.items():
        found += [*counter.series(DATA, name), counter.missing(DATA, name)]
    return found


def of_fleet(clean: Path, groups: Mapping[str, str], interval: timedelta, weeks: Weeks) -> list[Series]:
    """Return the series of the fleet: silent rows of the week's median day, servers that are new, and its groups.

    The median, because an outage of some hours is no change of the fleet.

    Parameters
    ----------
    clean : Path
        The table.
    groups : mapping of str to str
        Each server's group; servers without one are a group of their own.
    interval : timedelta
        Between two rows of a server.
    weeks : Weeks
    """
    weeks_of: dict[str, Bools] = {}
    of_day = np.zeros((weeks.number, 7))
    for rows in rows_of(clean, [*tables.KEYS, tables.OBSERVED], weeks):
        own = rows.filter(tables.OBSERVED)
        of_day.ravel()[:] += np.bincount(_since(own["timestamp"], weeks) // (DAY // INSTANT), minlength=of_day.size)
        coded = own.select("server_id", week=pl.Series(week_of(own["timestamp"], weeks)))
        for server, week in coded.unique().iter_rows():
            weeks_of.setdefault(server, np.zeros(weeks.number, dtype=bool))[week] = True
    servers = sorted(weeks_of)
    present = np.array([weeks_of[server] for server in servers])  # (S, W)
    due = present.sum(axis=0) * (DAY / interval)
    silent = np.median(np.clip(1 - _ratio(of_day, due[:, None]), 0, 1), axis=1)
    # known: in any other week of the training period
    reference = present[:, : weeks.reference]
    elsewhere = reference.sum(axis=1, keepdims=True) - np.pad(
        reference, ((0, 0), (0, weeks.number - weeks.reference))
    ).astype(np.int64)
    new = (present & (elsewhere == 0)).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    names = sorted({groups.get(server, "") for server in servers})
    of_group = np.array([[groups.get(server, "") == name for server in servers] for name in names], dtype=np.float64)
    composition = (of_group @ present).T  # (W, groups)
    return [
        Series(FLEET, "servers", SILENT, silent, angle, LEAST_ANGLE),
        Series(FLEET, "servers", NEW, new, angle, LEAST_ANGLE),
        *([Series(FLEET, "groups", COMPOSITION, composition)] if len(names) > 1 else []),
    ]


def of_scores(features: Path, model: Model, weeks: Weeks) -> list[Series]:
    """Return the series of the scores, as log-odds, of rows of `features` that are spread over each week."""
    limits, counter = None, None
    for whole in rows_of(features, [*tables.KEYS, *model.features], weeks):
        number = len(np.unique(week_of(whole["timestamp"], weeks)))
        rows = whole.gather_every(max(1, whole.height // (number * ROWS_A_WEEK)))
        risk = model.predict(rows)
        values = np.log(risk) - np.log1p(-risk)
        if limits is None:
            limits = bins_of(values[:SAMPLED_ROWS])
            counter = Counter(weeks.number, limits)
        assert counter is not None
        counter.add(week_of(rows["timestamp"], weeks), values)
    return [] if counter is None else [*counter.series(SCORES, "log-odds")]


def of_crashes(incidents: pl.DataFrame, coverage: pl.DataFrame, known_to: datetime, weeks: Weeks) -> list[Series]:
    """Return the series of crashes: how many a server has, how long a ticket takes, and who records them.

    Parameters
    ----------
    incidents : DataFrame
        `server_id`, `kind`, `source`, `started_at`, `reported_at`.
    coverage : DataFrame
        `server_id`, `covered_from`, `covered_to`.
    known_to : datetime
        Later crashes may not be reported yet; naive, meaning UTC.
    weeks : Weeks
    """
    crashes = incidents.filter(pl.col("kind") == tables.CRASH)
    starts = [tables.utc(weeks.start(week), weeks.start(week + 1)) for week in range(weeks.number)]
    rates, delays = np.full(weeks.number, np.nan), np.full(weeks.number, np.nan)
    names = crashes["source"].unique(maintain_order=True).sort()
    sources = np.zeros((weeks.number, len(names)))
    for week, (start, end) in enumerate(starts):
        if weeks.start(week + 1) > known_to:
            break
        inside = crashes.filter(pl.col("started_at").is_between(start, end, closed="left"))
        covered = coverage.select(
            (pl.min_horizontal("covered_to", end) - pl.max_horizontal("covered_from", start)).clip(timedelta(0)).sum()
        ).item()
        if covered:
            rates[week] = inside.height / (covered / WEEK)
        # other evidence may set a crash's start after its ticket's report
        minutes = (inside["reported_at"] - inside["started_at"]).dt.total_minutes().drop_nulls().clip(0).to_numpy()
        if len(minutes) >= LEAST_EVENTS:  # no median: if half of the tickets are automatic, it lies at their edge
            delays[week] = np.expm1(np.log1p(minutes).mean())
        sources[week] = [inside.select(pl.col("source").eq_missing(name).sum()).item() for name in names]
    found = [
        Series(LABELS, "crashes", CRASH_RATE, rates, np.sqrt, LEAST_ANGLE),
        Series(LABELS, "tickets", TICKET_DELAY, delays, np.log1p, LEAST_ANGLE),
    ]
    shares = [Series(LABELS, "tickets", SOURCES, sources)] if len(names) > 1 else []
    return [one for one in found if np.isfinite(one.values).any()] + shares


def of_alarms(
    features: Path,
    labels: Path,
    crashes: pl.DataFrame,
    model: Model,
    window: AlarmWindow,
    weeks: Weeks,
    judged: range,
) -> list[Series]:
    """Return the series of what a model's scores and alarms were worth.

    Parameters
    ----------
    features, labels : Path
        The tables.
    crashes : DataFrame
        `server_id`, `started_at`: the covered ones.
    model : Model
    window : AlarmWindow
        When an alarm counts as true.
    weeks : Weeks
    judged : range
        The weeks after the training period that the model's commit knew. Later ones are compared with them: in the
        training period the model is better than it is.

    Notes
    -----
    A week in which somebody acted on an alarm has no figures: who acts removes the crashes that the alarms were right
    about (docs/outcomes.md).
    """
    recall, precision, calibration = (np.full(weeks.number, np.nan) for _ in range(3))
    for week, rows in _scored_weeks(features, labels, model, weeks, judged.start):
        if (rows["reason"] == tables.MITIGATED).any():
            continue
        found = judge(rows, crashes, model.threshold, window, (weeks.start(week), weeks.start(week + 1))).metrics
        known = rows.filter(HAS_LABEL)
        if found.crashes >= LEAST_EVENTS:
            recall[week] = found.event_recall
            calibration[week] = known["label"].to_numpy().sum() / known["score"].to_numpy().sum()
        if found.alarms - found.alarms_unknown >= LEAST_EVENTS:
            precision[week] = found.alarm_precision
    before = slice(judged.start, judged.stop)
    return [
        Series(PERFORMANCE, "alarms", RECALL, recall, angle, LEAST_ANGLE, before),
        Series(PERFORMANCE, "alarms", PRECISION, precision, angle, LEAST_ANGLE, before),
        Series(PERFORMANCE, "crash rows", CALIBRATION, calibration, np.sqrt, LEAST_ANGLE, before),
    ]


def _scored_weeks(
    features: Path, labels: Path, model: Model, weeks: Weeks, first: int
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield each week from `first` on, with its labelled and scored rows; `reason` says why a label is unknown."""
    inside = Weeks(weeks.start(first), weeks.number - first, 0)
    columns = [*tables.KEYS, "label", tables.OBSERVED, "reason"]
    held: list[pl.DataFrame] = []
    for own, values in zip(
        rows_of(labels, columns, inside), rows_of(features, [*tables.KEYS, *model.features], inside), strict=True
    ):
        scored = values.select(*tables.KEYS, score=pl.Series(model.predict(values)))
        rows = own.join(scored, on=list(tables.KEYS), how="inner", maintain_order="left")
        pieces = rows.with_columns(week=pl.Series(week_of(rows["timestamp"], inside))).partition_by("week")
        for piece in pieces:
            if held and held[0]["week"][0] != piece["week"][0]:
                yield first + held[0]["week"][0], pl.concat(held).drop("week")
                held = []
            held.append(piece)
    if held:
        yield first + held[0]["week"][0], pl.concat(held).drop("week")


def week_of(timestamp: pl.Series, weeks: Weeks) -> Ints:
    """Return the number of each moment's week."""
    return _since(timestamp, weeks) // (WEEK // INSTANT)


def _since(timestamp: pl.Series, weeks: Weeks) -> Ints:
    return (timestamp.dt.replace_time_zone(None) - weeks.first).dt.total_microseconds().to_numpy()


def rows_of(table: Path, columns: list[str], weeks: Weeks) -> Iterator[pl.DataFrame]:
    """Yield the rows of whole weeks, a partition at a time."""
    start, end = tables.utc(weeks.first, weeks.start(weeks.number))
    inside = pl.col("timestamp").is_between(start, end, closed="left")
    for partition in tables.partitions(table):
        if partition.start < weeks.start(weeks.number) and weeks.first < partition.end:
            rows = tables.read(partition.path(table), columns, inside)
            if not rows.is_empty():
                yield rows


def _limits(clean: Path, metrics: list[str], weeks: Weeks) -> dict[str, Floats]:
    """Return the limits of the metrics' bins, from rows that are spread over the training period."""
    trained = Weeks(weeks.first, weeks.reference, weeks.reference)
    partitions = [one for one in tables.partitions(clean) if one.start < trained.start(trained.number)]
    each = SAMPLED_ROWS // max(1, len(partitions))
    drawn: list[pl.DataFrame] = []
    for rows in rows_of(clean, ["timestamp", tables.OBSERVED, *metrics], trained):
        own = rows.filter(tables.OBSERVED).select(metrics)
        drawn.append(own.gather_every(max(1, own.height // each)))
    sample: Any = pl.concat(drawn, how="vertical_relaxed") if drawn else pl.DataFrame({name: [] for name in metrics})
    return {name: bins_of(floats(sample[name]).astype(np.float64)) for name in metrics}


def angle(share: Floats) -> Floats:
    """Return the arc sine of the square root of a share."""
    return np.arcsin(np.sqrt(share))


def _ratio(part: Floats | Ints, whole: Floats | Ints) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part / whole, dtype=np.float64)


def _size(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.abs(known).mean()) if len(known) else 0.0
