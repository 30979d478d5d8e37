"""The simulated fleet, what happens in it: servers, precursors, crashes, reboots, and what an oracle can know.

Everything is fixed here, with numbers and sources in docs/demo-fleet.md, and no commit changes it together with a
model. Every draw is indexed by a stream and an absolute day, never by how much was asked for: a longer fleet repeats
the shorter one and goes on. Times of events are whole minutes since 0001-01-01 UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.params.demo import Demo
from crashcast.tables import TIMESTAMP

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DAY_MINUTES = 24 * 60
EPOCH = datetime(1, 1, 1)


@dataclass(frozen=True)
class Role:
    """What servers of one role are like on average; `daily` is the amplitude of the day's load, `weekend` its share."""

    share: float
    cpu_pct: float
    daily: float
    weekend: float
    latency_ms: float
    memory_pct: float
    cache_pct: float  # how far the cache or heap grows before it is emptied
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
    """A kind of episode that ends in a crash, or is relieved (restarted, scaled out, cleaned) just in time."""

    crashes_per_1000_server_days: float  # of an average server, long after its last crash
    crash_probability: float
    shortest_h: float  # from the first sign to the planned end
    longest_h: float


TROUBLES = {
    "leak": Trouble(3.2, 0.70, 10, 30),
    "overload": Trouble(5.6, 0.70, 6, 10),
    "disk": Trouble(2.1, 0.65, 10, 24),
    "errors": Trouble(2.4, 0.65, 6, 10),
    "hardware": Trouble(5.9, 1.00, 0, 0),  # no sign beforehand
}
PRECURSORS = ("leak", "overload", "disk", "errors")
RACK, REBOOT = "rack", "reboot"
JITTER_MINUTES = 90  # an episode ends this much before or after its planned end, uniformly

CHRONIC_SHARE, CHRONIC_FACTOR = 0.08, 3.0
FRAILTY_SHAPE, FRAILTY_LIMIT = 2.0, 6.0
REPEAT_BOOST, REPEAT_DAYS = 1.5, 3.0  # right after a crash the rate is 1 + boost, and falls back over these days

RACK_OUTAGES_PER_DAY, RACK_HIT_SHARE = 1 / 200, 0.3
OUTAGE_MEDIAN_H, OUTAGE_SPREAD, OUTAGE_SHORTEST_H, OUTAGE_LONGEST_H = 1.5, 0.8, 0.5, 24
REBOOT_EVERY_DAYS, REBOOT_SHORTEST_MINUTES, REBOOT_LONGEST_MINUTES = 28, 30, 100


def generator(seed: int, stream: str, index: int) -> np.random.Generator:
    """Return the random numbers of one stream (a name) at one index (mostly a day), whatever else was drawn."""
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
        One row a server, sorted by server_id: `role`, `site`, `rack`, `frailty` and what its telemetry is like.
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
            "log_pct": np.round(draw.uniform(3, 20, size), 2),  # how far the disk fills before cron cleans it
            "log_period_h": draw.choice([24.0, 168.0], size),
            "disk_io_mbps": typical("disk_io_mbps", 0.3),
            "network_mbps": typical("network_mbps", 0.3),
            "error_rate_pct": np.round(0.15 * np.exp(0.4 * draw.standard_normal(size)), 3),
            "phase": np.round(draw.random(size), 4),  # where its cycles stand at time zero, in turns
            "reboot_day": draw.integers(0, REBOOT_EVERY_DAYS, size),
            "uptime_h": np.round(draw.uniform(0, 24 * REBOOT_EVERY_DAYS, size), 2),  # at the start
        }
    )


def simulate_events(fleet: Fleet) -> pl.DataFrame:
    """Simulate what happens to the servers, day by day.

    Returns
    -------
    DataFrame
        One row an event, in an order that more months only extend: `server` (row of `fleet.servers`), `kind`, `onset`,
        `planned`, `ended`, `up_again` (minutes), `crashed`, and `strength`, `shape`, `last_words`, what tells it from
        others of its kind, in [0, 1). An episode runs from onset to ended; after a crash and in a reboot the server is
        down from ended to up_again.
    """
    busy_until = np.full(len(fleet), minutes_of(fleet.start))
    last_up = np.full(len(fleet), -np.inf)  # when the last outage by a crash ended
    found = []
    for day in range(fleet.start.toordinal(), fleet.end.toordinal()):
        for kind, server, onset, planned, ended, crashed, down in _candidates(fleet, day, last_up):
            free = onset >= busy_until[server]  # a server has one event at a time: the first to be drawn
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
    # overload begins in the twelve hours around the site's busiest, the others at any time
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
    """Return by how much the rate is raised `days` after the last outage: crashes repeat."""
    return 1 + REPEAT_BOOST * np.exp(-np.maximum(days, 0) / REPEAT_DAYS)


def truth(fleet: Fleet, events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return what really happened and what an oracle needs: crashes, episodes, servers.

    Returns
    -------
    crashes : DataFrame
        `server_id`, `kind`, `crashed_at`, `resolved_at`, `has_precursor`.
    episodes : DataFrame
        `server_id`, `kind`, `onset_at`, `planned_at`, `ended_at`, `crash_probability`, `crashed`: all that began,
        relieved ones too.
    servers : DataFrame
        `server_id`, `role`, `site`, `rack`, `frailty`.
    """
    end = minutes_of(fleet.end)
    named = events.with_columns(fleet.servers["server_id"].gather(events["server"])).sort("ended", "server")
    crashes = named.filter(pl.col("crashed") & (pl.col("ended") < end)).select(
        "server_id",
        "kind",
        crashed_at=timestamps_of(pl.col("ended")),
        resolved_at=timestamps_of(pl.col("up_again")),
        has_precursor=pl.col("kind").is_in(PRECURSORS),
    )
    episodes = (
        named.filter(pl.col("kind").is_in(PRECURSORS) & (pl.col("onset") < end))
        .sort("onset", "server")
        .select(
            "server_id",
            "kind",
            onset_at=timestamps_of(pl.col("onset")),
            planned_at=timestamps_of(pl.col("planned")),
            ended_at=timestamps_of(pl.col("ended")),
            crash_probability=pl.col("kind").replace_strict(
                {kind: TROUBLES[kind].crash_probability for kind in PRECURSORS}, return_dtype=pl.Float64
            ),
            crashed="crashed",
        )
    )
    return crashes, episodes, fleet.servers.select("server_id", "role", "site", "rack", "frailty")


def oracle_scores(keys: pl.DataFrame, lead: timedelta, horizon: timedelta, folder: Path) -> pl.DataFrame:
    """Score rows by the probability of a crash in (t + lead, t + lead + horizon], given the hidden state at t.

    Known are the active episode, its planned end and the kind's crash probability, the server's frailty and its last
    crash, and that none comes within the lead, where labels are unknown; not known are the jitter, whether the episode
    will be relieved, and what has not begun.

    Parameters
    ----------
    keys : DataFrame
        `timestamp` and `server_id`, in any order.
    lead, horizon : timedelta
        Of the label.
    folder : Path
        Where `crashcast demo` left the truth: data/demo.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id`, `score`, in the order of `keys`.
    """
    episodes = tables.read(folder / "episodes.parquet").rename({"onset_at": "timestamp"}).sort("timestamp")
    crashes = tables.read(folder / "truth.parquet", ["server_id", "resolved_at"]).sort("resolved_at")
    state = (
        keys.select(pl.col("timestamp").cast(TIMESTAMP), "server_id")
        .with_row_index("row")
        .sort("timestamp")
        .join_asof(episodes, on="timestamp", by="server_id", strategy="backward", check_sortedness=False)
        .join_asof(
            crashes, left_on="timestamp", right_on="resolved_at", by="server_id", strategy="backward",
            check_sortedness=False,
        )
        .join(tables.read(folder / "servers.parquet", ["server_id", "frailty"]), on="server_id", how="left")
        .sort("row")
    )  # fmt: skip

    def hours(column: str) -> Floats:
        return state.select((pl.col("timestamp") - pl.col(column)).dt.total_seconds() / 3600).to_series().to_numpy()

    first, last = lead / timedelta(hours=1), (lead + horizon) / timedelta(hours=1)
    since_planned, jitter_h = hours("planned_at"), JITTER_MINUTES / 60

    def ended_by(later_h: float) -> Floats:
        """Probability that the episode has ended `later_h` from now: uniform around its planned end."""
        return np.clip((since_planned + later_h + jitter_h) / (2 * jitter_h), 0, 1)

    with np.errstate(invalid="ignore", divide="ignore"):  # NaN where there was no episode: not chosen below
        probability = state["crash_probability"].to_numpy()
        neither_yet_nor_within_lead = 1 - ended_by(0) - probability * (ended_by(first) - ended_by(0))
        coming = probability * (ended_by(last) - ended_by(first)) / neither_yet_nor_within_lead
    days = np.nan_to_num(hours("resolved_at") / 24, nan=np.inf)
    per_day = TROUBLES["hardware"].crashes_per_1000_server_days / 1000 * state["frailty"].to_numpy()
    per_day = per_day * repeat_factor(days) + RACK_OUTAGES_PER_DAY * RACK_HIT_SHARE
    background = -np.expm1(-per_day * (horizon / timedelta(days=1)))
    active = (state["timestamp"] < state["ended_at"]).fill_null(False).to_numpy()
    return state.select("timestamp", "server_id", score=pl.Series(np.where(active, coming, background)))
