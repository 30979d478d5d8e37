"""Telemetry of the simulated fleet: ordinary load, precursors, decoys (harmless patterns), and bad samples.

Any window of whole days is rendered on its own, from its events and random numbers indexed by absolute time: no value
depends on how the period is cut into partitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.sources.demo.mechanisms import (
    DAY_MINUTES,
    EPOCH,
    REBOOT,
    SITE_PEAK_HOUR,
    Bools,
    Fleet,
    Floats,
    Ints,
    generator,
    minutes_of,
)
from crashcast.tables import Partition

DECIMALS = {  # digits of a sensor; rounding also hides differences of CPU types in the last bits
    "cpu_pct": 1,
    "memory_pct": 1,
    "disk_used_pct": 1,
    "disk_io_mbps": 1,
    "network_mbps": 1,
    "latency_ms": 1,
    "error_rate_pct": 2,
    "uptime_h": 2,
}
CHUNK_CELLS = 500_000  # times x servers rendered at once: limits the peak of memory

NOISE = {  # standard deviation: in points if the metric has a limit, else of the logarithm
    "cpu_pct": 2.0,
    "memory_pct": 0.6,
    "disk_used_pct": 0.15,
    "disk_io_mbps": 0.15,
    "network_mbps": 0.15,
    "latency_ms": 0.08,
    "error_rate_pct": 0.15,
}
FULLEST_CACHE_PCT, FULLEST_DISK_PCT = 92, 93  # highest values of healthy servers: caches are emptied, disks cleaned
LIMITS_PCT = {"cpu_pct": 100.0, "memory_pct": 99.5, "disk_used_pct": 100.0}

# harmless patterns, at most one per server and half day; kind: share of half days, shortest and longest hours
DECOYS = {"batch": (0.075, 2, 9), "slow": (0.075, 2, 9), "fill": (0.015, 5, 10), "deploy": (0.015, 1, 2)}
HALF_DAY_MINUTES = DAY_MINUTES // 2

MISSING_SHARE, OVERLOAD_MISSING_SHARE = 0.004, 0.04  # an overloaded server drops samples
GAPS_PER_DAY, SITE_GAPS_PER_DAY, LONGEST_GAP_H = 0.02, 1 / 60, 4
DYING_SHARE = 0.3  # share of crashes with one more sample, taken while the server dies
STUCK_PER_DAY, STUCK_SHORTEST_H, STUCK_LONGEST_H = 1 / 250, 24, 60
STUCK_READINGS = {"cpu_pct": (5, 60), "memory_pct": (30, 80), "latency_ms": (10, 50)}
OUT_OF_RANGE = {"cpu_pct": 400.0, "memory_pct": -1.0, "latency_ms": -1.0, "error_rate_pct": 999.0}
OUT_OF_RANGE_SHARE, LATE_SHARE, REPEATED_SHARE, CONFLICTING_SHARE = 0.0005, 0.002, 0.002, 0.001


def render(
    partition: Partition, fleet: Fleet, events: pl.DataFrame, booted_at: Floats
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Render one partition of telemetry from the events that touch it.

    Parameters
    ----------
    partition : Partition
        Rendered as far as it is in the fleet's period.
    fleet : Fleet
        The servers.
    events : DataFrame
        Of `simulate_events`, those whose [onset, up_again) meets the partition.
    booted_at : array of shape (S,)
        Each server's last boot before the partition, minutes.

    Returns
    -------
    frame : DataFrame
        `timestamp`, `server_id` and the metrics, sorted by all of them in that order.
    counts : dict
        How many rows there are.
    """
    start, end = max(partition.start, fleet.start), min(partition.end, fleet.end)
    days = max(1, CHUNK_CELLS // (len(fleet) * (timedelta(days=1) // fleet.interval)))
    frames = []
    while start < end:
        stop = min(start + timedelta(days=days), end)
        frames.append(_render_days(Window(fleet, start, stop), events, booted_at))
        start = stop
    frame = pl.concat(frames, rechunk=True)
    return frame, {"rows": len(frame)}


@dataclass(frozen=True)
class Window:
    """Whole days of the fleet, rendered at once as arrays of shape (T, S)."""

    fleet: Fleet
    start: datetime
    end: datetime

    @property
    def days(self) -> range:
        """The days as ordinals."""
        return range(self.start.toordinal(), self.end.toordinal())

    @property
    def step_minutes(self) -> float:
        """The interval."""
        return self.fleet.interval / timedelta(minutes=1)

    @property
    def day_shape(self) -> tuple[int, int]:
        """Rows and servers of one day."""
        return timedelta(days=1) // self.fleet.interval, len(self.fleet)

    @property
    def minutes(self) -> Floats:
        """The T times, minutes since 0001-01-01."""
        return minutes_of(self.start) + self.step_minutes * np.arange(
            len(self.days) * self.day_shape[0], dtype=np.float64
        )

    def white(self, stream: str) -> Floats:
        """Return standard normal noise, independent from cell to cell."""
        daily = (generator(self.fleet.seed, stream, day).standard_normal(self.day_shape) for day in self.days)
        return np.concatenate(list(daily))

    def uniform(self, stream: str) -> Floats:
        """Return uniform noise in [0, 1), independent from cell to cell."""
        daily = (generator(self.fleet.seed, stream, day).random(self.day_shape) for day in self.days)
        return np.concatenate(list(daily))

    def smooth(self, stream: str, hours: int) -> Floats:
        """Return standard normal noise that changes over `hours`.

        Drawn at nodes `hours` apart and interpolated, so a value depends on two nodes and not, as an autoregression's,
        on all its past: any window can be rendered alone.
        """
        place = self.minutes / (60 * hours)
        node = np.floor(place).astype(np.int64)
        size = len(self.fleet)
        wanted = range(int(node[0]), int(node[-1]) + 2)
        nodes = np.stack([generator(self.fleet.seed, stream, k).standard_normal(size) for k in wanted])
        weight = (place - node)[:, None]
        before, after = nodes[node - node[0]], nodes[node - node[0] + 1]
        return ((1 - weight) * before + weight * after) / np.sqrt((1 - weight) ** 2 + weight**2)

    def row_at(self, minutes: NDArray[Any]) -> Ints:
        """Return the first row at or after each moment; may lie outside [0, T)."""
        return np.ceil((minutes - self.minutes[0]) / self.step_minutes).astype(np.int64)

    def spread(self, onset: NDArray[Any], end: NDArray[Any]) -> tuple[Ints, Ints]:
        """Return the cells of periods [onset, end): for each cell which period it is of, and its row."""
        first, last = (np.clip(self.row_at(moments), 0, len(self.minutes)) for moments in (onset, end))
        count = np.maximum(last - first, 0)
        period = np.repeat(np.arange(len(count)), count)
        row = np.arange(len(period)) + np.repeat(first - np.cumsum(count) + count, count)
        return period, row


def _render_days(window: Window, events: pl.DataFrame, booted_at: Floats) -> pl.DataFrame:
    metrics = ordinary(window)
    overloaded, down, dying = add_episodes(window, metrics, events)
    _add_decoys(window, metrics, calm=~overloaded)
    _add_noise(window, metrics)
    metrics["uptime_h"] = _uptime_h(window, events, booted_at)
    metrics["error_rate_pct"][dying] += 40
    metrics["cpu_pct"][dying] *= 0.3
    seen = ~down & ~_missing(window, overloaded)
    _add_broken_sensors(window, metrics)
    return _samples(window, metrics, seen)


Metrics = dict[str, Floats]


def ordinary(window: Window) -> Metrics:
    """Return the metrics of healthy servers."""
    trait, minutes = window.fleet.trait, window.minutes[:, None]
    hour, weekday = minutes / 60 % 24, (minutes // DAY_MINUTES) % 7  # 0001-01-01 was a Monday
    busiest = np.array(SITE_PEAK_HOUR)[trait("site")]
    profile = 1 + trait("daily") * np.cos(2 * np.pi * (hour - busiest) / 24)
    profile = profile * np.where(weekday >= 5, trait("weekend"), 1)
    load = trait("cpu_pct") / 100 * profile * np.exp(0.12 * window.smooth("load", 6))
    load = np.clip(load, 0.02, 0.55)
    turn = trait("phase") + minutes / 60 / trait("cache_period_h")
    logs = trait("phase") + minutes / 60 / trait("log_period_h")
    memory = trait("memory_pct") + 10 * load + trait("cache_pct") * (turn % 1) + 1.5 * window.smooth("memory", 12)
    disk = trait("disk_used_pct") + trait("log_pct") * (logs % 1)
    return {
        "cpu_pct": 100 * load,
        "memory_pct": np.minimum(memory, FULLEST_CACHE_PCT),
        "disk_used_pct": np.minimum(disk, FULLEST_DISK_PCT),
        "disk_io_mbps": trait("disk_io_mbps") * (0.3 + 2 * load) * np.exp(0.2 * window.smooth("io", 4)),
        "network_mbps": trait("network_mbps") * 3 * load,
        "latency_ms": trait("latency_ms") / (1 - load) * np.exp(0.1 * window.smooth("latency", 6)),
        "error_rate_pct": trait("error_rate_pct") * np.exp(0.3 * window.smooth("errors", 8)),
    }


def add_episodes(window: Window, metrics: Metrics, events: pl.DataFrame) -> tuple[Bools, Bools, Bools]:
    """Add precursors; return the cells of overloaded servers, of servers that are down, and of last samples."""
    column = {name: events[name].to_numpy() for name in events.columns}
    period, row = window.spread(column["onset"], column["ended"])
    cell = row, column["server"][period]
    kind, strength, shape = (column[name][period] for name in ("kind", "strength", "shape"))
    length = np.maximum(column["planned"] - column["onset"], 1)[period]
    progress = np.clip((window.minutes[row] - column["onset"][period]) / length, 0, 1)

    def towards(metric: str, of: Bools, target: Floats, share: Floats) -> None:
        cells = cell[0][of], cell[1][of]
        metrics[metric][cells] += share[of] * np.maximum(target[of] - metrics[metric][cells], 0)

    def times(metric: str, of: Bools, factor: Floats) -> None:
        metrics[metric][cell[0][of], cell[1][of]] *= factor[of]

    leak, overload, disk, errors = (kind == name for name in ("leak", "overload", "disk", "errors"))
    towards("memory_pct", leak, 88 + 10 * strength, progress)  # the limit is the host's or a lower one of the service
    times("disk_io_mbps", leak, 1 + 2 * shape * np.maximum(progress - 0.7, 0) / 0.3)  # swapping
    towards("cpu_pct", overload, 60 + 20 * strength, np.sqrt(progress))
    times("latency_ms", overload, 1 + (3 + 3 * shape) * np.sqrt(progress))
    towards("disk_used_pct", disk, 96 + 4 * strength, progress)
    times("disk_io_mbps", disk, 1 + (1 + 2 * shape) * progress)
    times("latency_ms", disk, 1 + 1.0 * np.maximum(progress - 0.5, 0) / 0.5)
    towards("error_rate_pct", errors, 6 + 14 * strength, progress**1.5)
    times("network_mbps", errors, 1 + shape * progress)  # clients try again

    overloaded, down, dying = (np.zeros(metrics["cpu_pct"].shape, dtype=bool) for _ in range(3))
    overloaded[cell[0][overload], cell[1][overload]] = True
    dark = column["crashed"] | (column["kind"] == REBOOT)
    ended, up_again, server = (column[name][dark] for name in ("ended", "up_again", "server"))
    period, row = window.spread(ended, up_again)
    down[row, server[period]] = True
    first_row = window.minutes[row] < ended[period] + window.step_minutes
    arrives = first_row & (column["crashed"] & (column["last_words"] < DYING_SHARE))[dark][period]
    dying[row[arrives], server[period][arrives]] = True
    return overloaded, down & ~dying, dying


def _add_decoys(window: Window, metrics: Metrics, calm: Bools) -> None:
    """Add patterns that look like precursors: batch jobs, slow dependencies, disks that fill, deploys."""
    fleet = window.fleet
    offset = np.floor(fleet.trait("phase") * HALF_DAY_MINUTES)  # each server's half days begin at another minute
    first, last = int(window.minutes[0]) // HALF_DAY_MINUTES - 1, int(window.minutes[-1]) // HALF_DAY_MINUTES
    slots = np.arange(first, last + 1)
    draw = np.stack([generator(fleet.seed, "decoys", int(slot)).random((5, len(fleet))) for slot in slots], axis=1)
    begins = slots[:, None] * HALF_DAY_MINUTES + offset
    below = 0.0
    for kind, (share, shortest_h, longest_h) in DECOYS.items():
        slot, server = np.nonzero((below <= draw[0]) & (draw[0] < below + share))
        below += share
        when, length, strength, shape = draw[1:, slot, server]
        minutes = 60 * (shortest_h + (longest_h - shortest_h) * length)
        onset = begins[slot, server] + when * (HALF_DAY_MINUTES - minutes)
        period, row = window.spread(onset, onset + minutes)
        keep = calm[row, server[period]]
        period, cell = period[keep], (row[keep], server[period][keep])
        strength, shape = strength[period], shape[period]
        if kind == "batch":  # high CPU, normal latency
            metrics["cpu_pct"][cell] = 86 + 13 * strength
            metrics["latency_ms"][cell] *= 1 + 0.3 * shape
            metrics["disk_io_mbps"][cell] *= 1 + shape
        elif kind == "slow":  # a slow dependency: requests wait while the CPU is idle
            metrics["latency_ms"][cell] *= 5 + 15 * strength
            metrics["cpu_pct"][cell] *= 0.4 + 0.3 * shape
        elif kind == "fill":  # cleaned by cron before it is full
            share_done = (window.minutes[cell[0]] - onset[period]) / minutes[period]
            free_pct = FULLEST_DISK_PCT - metrics["disk_used_pct"][cell]
            metrics["disk_used_pct"][cell] += (0.4 + 0.5 * strength) * free_pct * share_done
        else:  # errors of a deploy
            metrics["error_rate_pct"][cell] += 1 + 7 * strength


def _add_noise(window: Window, metrics: Metrics) -> None:
    for metric, spread in NOISE.items():
        noise = spread * window.white(metric)
        if metric in LIMITS_PCT:
            metrics[metric] = np.clip(metrics[metric] + noise, 0.5, LIMITS_PCT[metric])
        else:
            metrics[metric] *= np.exp(noise)
    metrics["error_rate_pct"] = np.minimum(metrics["error_rate_pct"], 100)


def _uptime_h(window: Window, events: pl.DataFrame, booted_at: Floats) -> Floats:
    boots = events.filter(pl.col("crashed") | (pl.col("kind") == REBOOT)).select("up_again", "server").to_numpy()
    row = window.row_at(boots[:, 0])
    began = row < len(window.minutes)
    (up_again, server), row = boots[began].T, np.maximum(row[began], 0)
    booted = np.zeros((len(window.minutes), len(window.fleet)))
    booted[0] = booted_at
    np.maximum.at(booted, (row, server), up_again)
    return (window.minutes[:, None] - np.maximum.accumulate(booted, axis=0)) / 60


def _missing(window: Window, overloaded: Bools) -> Bools:
    """Return the cells of lost samples: single ones, short gaps of a server, gaps of a whole site's collector."""
    fleet = window.fleet
    missing = window.uniform("missing") < np.where(overloaded, OVERLOAD_MISSING_SHARE, MISSING_SHARE)
    for day in (window.days[0] - 1, *window.days):
        draw = generator(fleet.seed, "gaps", day)
        own, collector = draw.random((3, len(fleet))), draw.random((3, len(SITE_PEAK_HOUR)))[:, fleet.trait("site")]
        for (happens, when, length), per_day in ((own, GAPS_PER_DAY), (collector, SITE_GAPS_PER_DAY)):
            server = np.flatnonzero(happens < per_day)
            onset = (day - EPOCH.toordinal() + when[server]) * DAY_MINUTES
            period, row = window.spread(onset, onset + 60 * LONGEST_GAP_H * length[server])
            missing[row, server[period]] = True
    return missing


def _add_broken_sensors(window: Window, metrics: Metrics) -> None:
    """Freeze some sensors for a day or more, and set some values out of range."""
    fleet = window.fleet
    lookback = -(-STUCK_LONGEST_H // 24)
    for day in range(window.days[0] - lookback, window.days[-1] + 1):
        happens, which, when, length, reading = generator(fleet.seed, "stuck", day).random((5, len(fleet)))
        for number, (metric, (low, high)) in enumerate(STUCK_READINGS.items()):
            chosen = np.floor(which * len(STUCK_READINGS)) == number
            server = np.flatnonzero((happens < STUCK_PER_DAY) & chosen)
            onset = (day - EPOCH.toordinal() + when[server]) * DAY_MINUTES
            hours = STUCK_SHORTEST_H + (STUCK_LONGEST_H - STUCK_SHORTEST_H) * length[server]
            period, row = window.spread(onset, onset + 60 * hours)
            metrics[metric][row, server[period]] = (low + (high - low) * reading[server])[period]
    broken = window.uniform("out of range") / OUT_OF_RANGE_SHARE * len(OUT_OF_RANGE)
    for number, (metric, value) in enumerate(OUT_OF_RANGE.items()):
        metrics[metric][(number <= broken) & (broken < number + 1)] = value


def _samples(window: Window, metrics: Metrics, seen: Bools) -> pl.DataFrame:
    """Return the cells as rows; some are late, some repeated, some repeated with other values."""
    row, server = np.nonzero(seen)
    kind, delay = window.uniform("samples")[seen], window.uniform("delay")[seen]
    steps = window.day_shape[0]
    late = (kind < LATE_SHARE) & (row % steps < steps - 1)  # not after midnight: the fleet may end there
    step_s = window.step_minutes * 60
    second = np.round(window.minutes[row] * 60 + np.where(late, step_s * (0.02 + 0.3 * delay), 0)).astype(np.int64)
    frame = pl.DataFrame(
        {
            "timestamp": second,
            "server_id": window.fleet.servers["server_id"].gather(server),
            **{name: np.round(metrics[name][seen], decimals).astype(np.float32) for name, decimals in DECIMALS.items()},
        }
    ).with_columns(((pl.col("timestamp") - 60 * minutes_of(datetime(1970, 1, 1))) * 1_000_000).cast(tables.TIMESTAMP))
    repeated = frame.filter((kind >= LATE_SHARE) & (kind < LATE_SHARE + REPEATED_SHARE))
    above = LATE_SHARE + REPEATED_SHARE
    conflicting = frame.filter((kind >= above) & (kind < above + CONFLICTING_SHARE)).with_columns(
        (pl.col("cpu_pct") * 0.95).round(1), (pl.col("latency_ms") * 1.05).round(1)
    )
    return pl.concat([frame, repeated, conflicting]).sort(frame.columns)
