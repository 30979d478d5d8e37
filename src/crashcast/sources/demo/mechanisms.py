"""The servers of the simulated fleet and their events: precursors, crashes, reboots.

The numbers and their sources are in docs/demo-fleet.md; no commit changes them together with a model. Every random draw
is indexed by a stream and an absolute day, so that a longer period begins with the same events as a shorter one. Times
of events are whole minutes since 0001-01-01 UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast.params.demo import Demo
from crashcast.tables import TIMESTAMP

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DAY_MINUTES = 24 * 60
EPOCH = datetime(1, 1, 1)


@dataclass(frozen=True)
class Role:
    """Average traits of a role's servers; `daily` is the amplitude of a day's load, `weekend` a factor on weekends."""

    share: float
    cpu_pct: float
    daily: float
    weekend: float
    latency_ms: float
    memory_pct: float
    cache_pct: float  # growth of the cache or heap until it is emptied
    disk_used_pct: float
    disk_io_mbps: float
    network_mbps: float


ROLES = {
    "app": Role(0.25, 24, 0.45, 0.75, 22, 50, 10, 45, 10, 60),
    "cache": Role(0.12, 18, 0.35, 0.80, 12, 45, 34, 30, 5, 200),
    "db": Role(0.18, 22, 0.30, 0.85, 15, 60, 8, 58, 90, 50),
    "web": Role(0.35, 26, 0.45, 0.75, 18, 42, 8, 45, 12, 120),
    "worker": Role(0.10, 30, 0.20, 1.00, 16, 45, 10, 50, 60, 40),
}
SITE_PEAK_HOUR = (13, 19, 5)  # UTC: one site each in Europe, America and Asia
SERVERS_PER_RACK = 20


@dataclass(frozen=True)
class Trouble:
    """A kind of episode: it ends in a crash, or without one (the server is restarted, scaled out or cleaned)."""

    crashes_per_1000_server_days: float  # of an average server, long after its last crash
    crash_probability: float
    shortest_h: float  # from the first sign to the planned end
    longest_h: float


TROUBLES = {
    "leak": Trouble(3.2, 0.70, 10, 30),
    "overload": Trouble(5.6, 0.70, 6, 10),
    "disk": Trouble(2.1, 0.65, 10, 24),
    "errors": Trouble(2.4, 0.65, 6, 10),
    "hardware": Trouble(5.9, 1.00, 0, 0),  # without a precursor
}
PRECURSORS = ("leak", "overload", "disk", "errors")
RACK, REBOOT = "rack", "reboot"
JITTER_MINUTES = 90  # an episode ends this much before or after its planned end, uniformly

CHRONIC_SHARE, CHRONIC_FACTOR = 0.08, 3.0
FRAILTY_SHAPE, FRAILTY_LIMIT = 2.0, 6.0
REPEAT_BOOST, REPEAT_DAYS = 1.5, 3.0  # right after a crash the rate is 1 + boost; it decays over these days

RACK_OUTAGES_PER_DAY, RACK_HIT_SHARE = 1 / 200, 0.3
OUTAGE_MEDIAN_H, OUTAGE_SPREAD, OUTAGE_SHORTEST_H, OUTAGE_LONGEST_H = 1.5, 0.8, 0.5, 24
REBOOT_EVERY_DAYS, REBOOT_SHORTEST_MINUTES, REBOOT_LONGEST_MINUTES = 28, 30, 100


def generator(seed: int, stream: str, index: int) -> np.random.Generator:
    """Return the random generator of one stream (a name) at one index (mostly a day); other draws do not change it."""
    return np.random.default_rng([seed, index, *stream.encode()])


def minutes_of(moment: datetime) -> int:
    """Return a naive datetime (UTC) as whole minutes since 0001-01-01."""
    return (moment - EPOCH) // timedelta(minutes=1)


def timestamps_of(minutes: pl.Expr) -> pl.Expr:
    """Return minutes since 0001-01-01 as timestamps."""
    return ((minutes - minutes_of(datetime(1970, 1, 1))) * 60_000_000).cast(TIMESTAMP)


@dataclass(frozen=True)
class Fleet:
    """The servers and the period they are simulated for.

    Attributes
    ----------
    seed : int
        Of all random numbers.
    start, end : datetime
        The period [start, end); naive, meaning UTC.
    interval : timedelta
        Between two samples.
    servers : DataFrame
        One row a server, sorted by server_id: `role`, `site`, `rack`, `frailty` and the traits of its telemetry.
    """

    seed: int
    start: datetime
    end: datetime
    interval: timedelta
    servers: pl.DataFrame

    @classmethod
    def of(cls, demo: Demo) -> Fleet:
        """Return the fleet that params.yaml describes."""
        start = datetime(demo.start.year, demo.start.month, 1)
        months = demo.start.year * 12 + demo.start.month - 1 + demo.months
        end = datetime(months // 12, months % 12 + 1, 1)
        return cls(demo.seed, start, end, demo.interval, _servers(demo.seed, demo.servers))

    def __len__(self) -> int:
        return len(self.servers)

    def trait(self, name: str) -> NDArray[Any]:
        """Return one column of `servers` as an array of shape (S,)."""
        return self.servers[name].to_numpy()


def _servers(seed: int, size: int) -> pl.DataFrame:
    draw = generator(seed, "servers", 0)
    role = draw.choice(len(ROLES), size, p=[role.share for role in ROLES.values()])
    role.sort()  # so that server_id, which begins with the role, is in order
    rack = draw.permutation(size) % max(1, size // SERVERS_PER_RACK)
    frailty = draw.gamma(FRAILTY_SHAPE, 1 / FRAILTY_SHAPE, size)
    frailty *= np.where(draw.random(size) < CHRONIC_SHARE, CHRONIC_FACTOR, 1)
    frailty = np.minimum(frailty / frailty.mean(), FRAILTY_LIMIT)

    def typical(trait: str, spread: float) -> Floats:
        centre = np.array([getattr(role, trait) for role in ROLES.values()], dtype=float)[role]
        return np.round(centre * np.exp(spread * draw.standard_normal(size)), 3)

    return pl.DataFrame(
        {
            "server_id": [f"{list(ROLES)[code]}-{index:05d}" for index, code in enumerate(role)],
            "role": [list(ROLES)[code] for code in role],
            "site": rack % len(SITE_PEAK_HOUR),
            "rack": rack,
            "frailty": np.round(frailty, 4),
            "cpu_pct": typical("cpu_pct", 0.15),
            "daily": typical("daily", 0.15),
            "weekend": typical("weekend", 0),
            "latency_ms": typical("latency_ms", 0.12),
            "memory_pct": typical("memory_pct", 0.07),
            "cache_pct": typical("cache_pct", 0.1),
            "cache_period_h": np.round(draw.uniform(18, 60, size), 2),
            "disk_used_pct": typical("disk_used_pct", 0.12),
            "log_pct": np.round(draw.uniform(3, 20, size), 2),  # growth of logs until cron cleans the disk
            "log_period_h": draw.choice([24.0, 168.0], size),
            "disk_io_mbps": typical("disk_io_mbps", 0.3),
            "network_mbps": typical("network_mbps", 0.3),
            "error_rate_pct": np.round(0.15 * np.exp(0.4 * draw.standard_normal(size)), 3),
            "phase": np.round(draw.random(size), 4),  # of its cycles at time zero, in turns
            "reboot_day": draw.integers(0, REBOOT_EVERY_DAYS, size),
            "uptime_h": np.round(draw.uniform(0, 24 * REBOOT_EVERY_DAYS, size), 2),  # at the start
        }
    )


def simulate_events(fleet: Fleet) -> pl.DataFrame:
    """Simulate the events of all servers, day by day.

    Returns
    -------
    DataFrame
        One row an event; more months only append rows. `server` (row of `fleet.servers`), `kind`, `onset`, `planned`,
        `ended`, `up_again` (minutes), `crashed`, and `strength`, `shape`, `last_words`: random numbers in [0, 1) by
        which events of one kind differ. An episode lasts from onset to ended; after a crash and in a reboot the server
        is down from ended to up_again.
    """
    busy_until = np.full(len(fleet), minutes_of(fleet.start))
    last_up = np.full(len(fleet), -np.inf)  # end of the last outage after a crash
    found = []
    for day in range(fleet.start.toordinal(), fleet.end.toordinal()):
        for kind, server, onset, planned, ended, crashed, down in _candidates(fleet, day, last_up):
            free = onset >= busy_until[server]  # a server has one event at a time: the one drawn first
            up_again = ended + down * (crashed | (kind == REBOOT))
            busy_until[server[free]] = up_again[free] + 1
            last_up[server[free & crashed]] = up_again[free & crashed]
            columns = (kind, server, onset, planned, ended, up_again, crashed)
            found.append([column[free] for column in columns])
    names = ("kind", "server", "onset", "planned", "ended", "up_again", "crashed")
    events = dict(zip(names, (np.concatenate(parts) for parts in zip(*found, strict=True)), strict=True))
    draw = generator(fleet.seed, "strengths", 0).random((len(events["kind"]), 3))
    return pl.DataFrame(events | dict(zip(("strength", "shape", "last_words"), draw.T, strict=True)))


Candidates = tuple[NDArray[Any], ...]


def _candidates(fleet: Fleet, day: int, last_up: Floats) -> Iterator[Candidates]:
    """Yield a day's reboots, rack outages and troubles: kind, server, onset, planned, ended, crashed, minutes down."""
    size, midnight = len(fleet), (day - EPOCH.toordinal()) * DAY_MINUTES
    draw = generator(fleet.seed, "events", day)
    down = 60 * OUTAGE_MEDIAN_H * np.exp(OUTAGE_SPREAD * draw.standard_normal(size))
    down = np.clip(down, 60 * OUTAGE_SHORTEST_H, 60 * OUTAGE_LONGEST_H).astype(np.int64)
    happens, which, when, length, jitter, coin, hit = draw.random((7, size))

    server = np.flatnonzero((day + fleet.trait("reboot_day")) % REBOOT_EVERY_DAYS == 0)
    onset = midnight + (60 + 240 * when[server]).astype(np.int64)  # at night, between 1:00 and 5:00
    minutes = REBOOT_SHORTEST_MINUTES + (REBOOT_LONGEST_MINUTES - REBOOT_SHORTEST_MINUTES) * length[server]
    crashed = np.zeros(len(server), dtype=bool)
    yield np.full(len(server), REBOOT), server, onset, onset, onset, crashed, minutes.astype(np.int64)

    rack = fleet.trait("rack")
    outage, moment = draw.random((2, rack.max() + 1))
    server = np.flatnonzero((outage[rack] < RACK_OUTAGES_PER_DAY) & (hit < RACK_HIT_SHARE))
    onset = midnight + (moment[rack[server]] * DAY_MINUTES).astype(np.int64)
    crashed = np.ones(len(server), dtype=bool)
    yield np.full(len(server), RACK), server, onset, onset, onset, crashed, down[server]

    onsets_per_day = np.array([t.crashes_per_1000_server_days / 1000 / t.crash_probability for t in TROUBLES.values()])
    rate = onsets_per_day.sum() * fleet.trait("frailty") * repeat_factor((midnight - last_up) / DAY_MINUTES)
    server = np.flatnonzero(happens < -np.expm1(-rate))
    kind = np.searchsorted(np.cumsum(onsets_per_day / onsets_per_day.sum())[:-1], which[server], side="right")
    names = np.array(list(TROUBLES))[kind]
    # overload begins in the twelve hours around the site's peak, other kinds at any time
    busiest = np.array(SITE_PEAK_HOUR)[fleet.trait("site")[server]]
    hour = np.where(names == "overload", (busiest - 8 + 12 * when[server]) % 24, 24 * when[server])
    onset = midnight + (60 * hour).astype(np.int64)
    shortest, longest, probability = (
        np.array([getattr(trouble, name) for trouble in TROUBLES.values()])[kind]
        for name in ("shortest_h", "longest_h", "crash_probability")
    )
    planned = onset + (60 * (shortest + (longest - shortest) * length[server])).astype(np.int64)
    slip = (JITTER_MINUTES * (2 * jitter[server] - 1)).astype(np.int64)
    ended = planned + np.where(names == "hardware", 0, slip)
    yield names, server, onset, planned, ended, coin[server] < probability, down[server]


def repeat_factor(days: NDArray[np.float64]) -> Floats:
    """Return the factor of the crash rate `days` after the last outage: crashes repeat."""
    return 1 + REPEAT_BOOST * np.exp(-np.maximum(days, 0) / REPEAT_DAYS)
