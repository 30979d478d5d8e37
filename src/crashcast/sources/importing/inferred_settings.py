"""Cadence, partition and metrics' ranges, inferred from telemetry.

A range must drop impossible values, but never a spike: spikes come before crashes. So a metric has the limits that
follow from its name, and those that keep out markers of missing values; otherwise none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Literal

import numpy as np
import polars as pl

from crashcast.params.base import DAY, WEEK
from crashcast.params.telemetry import Metric

CADENCES = [
    *(timedelta(seconds=n) for n in (1, 2, 5, 10, 15, 20, 30)),
    *(timedelta(minutes=n) for n in (1, 2, 3, 5, 10, 15, 20, 30)),
    *(timedelta(hours=n) for n in (1, 2, 3, 4, 6, 8, 12, 24)),
    WEEK,
]
LONGEST_GAP = 2 * DAY  # between samples of one recording, or two intervals
# written by exporters for a missing value; never taken as a limit
MARKERS = [-1, -99, -999, -9999, -99999, -(2**31), 2**31 - 1, 2**32 - 1, -(2**63), 2**63 - 1, 2**64 - 1]
UNLIKELY_LOW = -99  # -1 is a marker only if no value can be negative
RARE_MARKER_SHARE = 0.01  # more often, it is a value
PERCENT_NAME = r"(^|_)(pct|percent|percentage)($|_)"
UNIT_NAME = r"(^|_)(share|ratio|fraction|flag|up|down)$|^(is|has)_"
INSIDE_SHARE = 0.999  # of values that must lie within the limits of a name
SIGNED_NAME = r"temp|celsius|offset|drift|skew|delta|diff|change|balance|dbm?$"  # may fall below 0
STUCK_SHARE = 0.001  # of samples in long constant runs: if more, constant values are normal
MIN_RUN_SAMPLES = 12
MIN_SPAN_OVER_STUCK = 14  # with a shorter period, nobody can tell whether constant runs are rare
RESET_SHARE = 0.01  # of a counter's changes
COUNTER_NAME, NAMED_RESET_SHARE = r"_total$", 1 / 3  # as Prometheus names counters, which may be merged badly
MIN_COUNTER_STEPS = 20
MOST_SAMPLES = 3_000_000  # of the servers that are looked at in order of time
MOST_ROWS_PER_PARTITION = 20_000_000  # computed in one piece
GROUP_SHARE, FEWEST_SERVERS, MOST_GROUPS = 0.05, 3, 10  # of smaller groups a model would learn single servers


@dataclass(frozen=True)
class Facts:
    """Facts about all values of a metric.

    Attributes
    ----------
    rows, values : int
        Number of samples, and of those with a value.
    low, high : float or None
        The extremes, without markers of missing values.
    markers : int
        Number of such markers.
    above, below : float or None
        The least of these markers that is positive, and the largest one of -99 or less.
    in_percent, in_unit : float
        Shares of values within 0..100 and 0..1.
    is_whole : bool
        All values are whole numbers.
    """

    rows: int
    values: int
    low: float | None
    high: float | None
    markers: int
    above: float | None
    below: float | None
    in_percent: float
    in_unit: float
    is_whole: bool

    @property
    def is_binary(self) -> bool:
        """Values are 0 and 1, both of them seen."""
        return self.is_whole and (self.low, self.high) == (0, 1)


def infer_interval(keys: pl.DataFrame) -> tuple[timedelta, str] | None:
    """Infer the cadence: the commonest gap, or a longer one if most intervals would hold no sample.

    Parameters
    ----------
    keys : DataFrame
        `timestamp` and `server_id`.

    Returns
    -------
    timedelta, str
        One that divides a day, and the reason for it; None if no server has two samples.
    """
    gaps = keys.sort("server_id", "timestamp").select(
        "server_id", "timestamp", gap=pl.col("timestamp").diff().over("server_id")
    )
    observed = gaps["gap"].drop_nulls()
    observed = observed.filter(observed > timedelta(0))
    if observed.is_empty():
        return None
    # each gap is nearest, in proportion, to one cadence
    borders = [math.sqrt(a.total_seconds() * b.total_seconds()) for a, b in pairwise(CADENCES)]
    counts = np.bincount(np.searchsorted(borders, observed.dt.total_microseconds().to_numpy() / 1e6))
    commonest = int(counts.argmax())
    cadence, share = CADENCES[commonest], counts[commonest] / observed.len()
    filled = _filled_share(gaps, cadence)
    longer = (candidate for candidate in CADENCES[commonest:] if _filled_share(gaps, candidate) >= 0.5)
    chosen = next(longer, CADENCES[-1])
    if chosen == cadence:
        return cadence, f"the gap of {share:.0%} of samples; {filled:.0%} of intervals hold one"
    return chosen, f"samples come irregularly; {_filled_share(gaps, chosen):.0%} of intervals hold one"


def _filled_share(gaps: pl.DataFrame, cadence: timedelta) -> float:
    seconds = cadence.total_seconds()
    interval = (pl.col("timestamp").dt.epoch("us") / (seconds * 1e6)).ceil()
    # a longer gap is an outage or another recording, not the cadence
    lasting = pl.col("gap").filter(pl.col("gap") <= max(LONGEST_GAP, 2 * cadence)).dt.total_microseconds().sum() / 1e6
    held, span = gaps.select(pl.struct("server_id", interval).n_unique() - pl.col("server_id").n_unique(), lasting).row(
        0
    )
    return float(min(1.0, held / max(span / seconds, 1)))


def infer_partition(rows_per_month: int) -> str:
    """Choose the longest unit whose densest partition is still computed in one piece."""
    if rows_per_month <= MOST_ROWS_PER_PARTITION:
        return "month"
    return "week" if rows_per_month * 7 / 31 <= MOST_ROWS_PER_PARTITION else "day"


def describe(samples: pl.LazyFrame, metric: str) -> Facts:
    """Return the facts about one metric (float32, null if there is no value)."""
    value = pl.col(metric)
    marker = value.is_in(pl.Series(MARKERS, dtype=pl.Float32).implode())
    known = value.filter(~marker)
    row = samples.select(
        rows=pl.len(),
        values=value.count(),
        markers=marker.sum(),
        above=value.filter(marker & (value > 0)).min(),
        below=value.filter(marker & (value <= UNLIKELY_LOW)).max(),
        low=known.min(),
        high=known.max(),
        least=value.min(),
        most=value.max(),
        in_percent=value.is_between(0, 100).mean(),
        in_unit=value.is_between(0, 1).mean(),
        is_whole=(value == value.round()).all(),
    )
    found = row.collect(engine="streaming").row(0, named=True)
    least, most = found.pop("least"), found.pop("most")
    if found["markers"] > RARE_MARKER_SHARE * found["values"]:
        found |= {"markers": 0, "above": None, "below": None, "low": least, "high": most}
    return Facts(**{**found, "in_percent": found["in_percent"] or 0.0, "in_unit": found["in_unit"] or 0.0})


def infer_limits(name: str, facts: Facts) -> tuple[float | None, float | None]:
    """Return the range that a metric's values can have.

    0..100 for a percentage and 0..1 for a share or a flag, if the values agree with the name; otherwise from 0, unless
    a value was negative or the name says that one may be. If markers of missing values were seen, a limit lies between
    them and the values.
    """
    if re.search(UNIT_NAME, name.lower()) and facts.in_unit >= INSIDE_SHARE:
        return 0, 1
    if re.search(PERCENT_NAME, name.lower()) and facts.in_percent >= INSIDE_SHARE:
        return 0, 100
    low, high = facts.low or 0.0, facts.high or 0.0
    lowest: float | None = 0
    if low < 0 or re.search(SIGNED_NAME, name.lower()):
        lowest = _limit_before(-low, None if facts.below is None else -facts.below)
        lowest = None if lowest is None else -lowest
    return lowest, _limit_before(high, facts.above)


def _limit_before(value: float, marker: float | None) -> float | None:
    # the largest of 1, 2 or 5 times a power of ten below the marker, which leaves all values in
    if marker is None or value >= marker:
        return None
    power = 10 ** math.floor(math.log10(marker))
    limit = max(step * power // 2 for step in (1, 2, 4, 10) if step * power // 2 < marker)
    return limit if limit > value else value


def choose_servers(rows_per_server: pl.DataFrame) -> list[str]:
    """Choose servers, spread over the sorted fleet, with at most `MOST_SAMPLES` samples; at least one.

    Parameters
    ----------
    rows_per_server : DataFrame
        `server_id` and `rows`.
    """
    fleet = rows_per_server.sort("server_id")
    step = -(-int(fleet["rows"].sum()) // MOST_SAMPLES)
    return fleet["server_id"].gather_every(max(1, step)).to_list()


def infer_metric(name: str, facts: Facts, samples: pl.DataFrame, stuck_after: timedelta) -> Metric:
    """Infer a metric's entry in params.yaml.

    Parameters
    ----------
    name : str
        The metric.
    facts : Facts
        About all its values.
    samples : DataFrame
        `server_id`, `timestamp` and the metric, sorted by them, of some servers.
    stuck_after : timedelta
        Duration of an unchanging value that means a broken sensor.
    """
    low, high = infer_limits(name, facts)
    series = samples.select("server_id", "timestamp", value=pl.col(name)).drop_nulls()
    aggregate: Literal["max", "last", "mean"] = "last" if is_counter(name, series) else "mean"
    if facts.is_binary:
        aggregate = "max"  # whether it happened in the interval
    can_stick = not facts.is_whole and aggregate == "mean" and never_rests(series, stuck_after)
    return Metric(min=low, max=high, aggregate=aggregate, can_stick=can_stick)


def is_counter(name: str, series: pl.DataFrame) -> bool:
    """Tell whether values only grow, apart from resets; if the name is a counter's, falls may be more frequent.

    Parameters
    ----------
    name : str
        The metric.
    series : DataFrame
        `server_id` and `value`, each server's in order of time.
    """
    step = pl.col("value").diff().over("server_id")
    up, down = series.select(up=(step > 0).sum(), down=(step < 0).sum()).row(0)
    most = NAMED_RESET_SHARE if re.search(COUNTER_NAME, name) else RESET_SHARE
    return bool(up >= MIN_COUNTER_STEPS and down <= most * (up + down))


def never_rests(series: pl.DataFrame, stuck_after: timedelta) -> bool:
    """Tell whether long constant runs are so rare that one means a broken sensor.

    Parameters
    ----------
    series : DataFrame
        `server_id`, `timestamp` and `value`, each server's in order of time.
    stuck_after : timedelta
        A run is long from this duration on, if it also has `MIN_RUN_SAMPLES` samples.
    """
    span = pl.col("timestamp").max() - pl.col("timestamp").min()
    longest = series.group_by("server_id").agg(span=span).select(pl.col("span").max()).item()
    if longest is None or longest < MIN_SPAN_OVER_STUCK * stuck_after:
        return False
    runs = series.group_by(pl.struct("server_id", "value").rle_id()).agg(samples=pl.len(), span=span)
    constant = runs.filter((pl.col("samples") >= MIN_RUN_SAMPLES) & (pl.col("span") >= stuck_after))
    return bool(constant["samples"].sum() < STUCK_SHARE * series.height)


def infer_groups(coverage: pl.DataFrame) -> list[str]:
    """Return the groups that are features: each of enough servers, and not of all.

    Parameters
    ----------
    coverage : DataFrame
        `server_id` and `group`, which is the same in all rows of a server.
    """
    servers = coverage.unique("server_id")
    sizes = servers.drop_nulls("group").group_by("group").len()
    least = max(FEWEST_SERVERS, GROUP_SHARE * servers.height)
    found = sizes.filter((pl.col("len") >= least) & (pl.col("len") < servers.height))
    return sorted(found.sort("len", "group", descending=[True, False])["group"].head(MOST_GROUPS))
