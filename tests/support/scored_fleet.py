"""A simulated fleet whose rows two models have scored: crashes, warnings and skill are known."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl

from crashcast.modeling.alarms import AlarmWindow
from crashcast.params.acceptance import Acceptance
from crashcast.review.rescoring import ScoredRows

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2025, 3, 3)
WINDOW = AlarmWindow(lead=HOUR, horizon=6 * HOUR, interval=HOUR)
BUDGET = 0.05
POLICY = Acceptance.model_validate(
    {
        "metric": "pr_auc",
        "min_gain": 0.005,
        "margin": 0.02,
        "stale_after": "60d",
        "block": "8h",
        "replicates": 400,
        "seed": 1,
        "min_groups": 40,
        "min_servers": 20,
        "max_denominator_loss": 0.005,
        "max_latency_ms": 100,
        "max_size_mb": 50,
        "guardrails": {"event_recall": 0.05, "lead_h": 0.5, "brier": 0.05, "false_alarms_over_budget": 2},
        "slices": {"pr_auc": 0.05, "event_recall": 0.1, "min_crashes": 30},
    }
)
CHRONIC_FACTOR = 12


def moments(hours):
    return pl.Series(
        np.datetime64(START, "us") + (np.asarray(hours) * 3.6e9).astype("timedelta64[us]")
    ).dt.replace_time_zone("UTC")


def fleet(
    seed=1, servers=40, days=20, crashes=120, outages=0, signals=(2.0, 2.0), chronic=0, late=0.0, own_servers=0.0
):
    """Return hourly rows of servers of which some crash, alone or together, and two models that see part of it.

    Parameters
    ----------
    crashes : int
        Of single servers.
    outages : int
        How often two fifths of the fleet crash at once.
    signals : pair of float
        How strongly the champion and the challenger see a crash coming. If equal, neither is better in anything.
    chronic : int
        Servers that crash `CHRONIC_FACTOR` times as often as they would.
    late : float
        Share of the crashes of single servers of which only the last hour warns, when it is too late.
    own_servers : float
        How far a model's scores of one server lie from those of another for no reason, in standard deviations of noise.
    """
    rng = np.random.default_rng(seed)
    hours = 24 * days
    frailty = rng.gamma(2, 1, servers)
    frailty[:chronic] *= CHRONIC_FACTOR
    crashed, at = rng.choice(servers, crashes, p=frailty / frailty.sum()), rng.uniform(0, hours, crashes)
    warned = rng.exponential(1, crashes) * (rng.random(crashes) < 0.7)
    together = np.zeros(crashes)
    for _ in range(outages):
        hit = np.flatnonzero(rng.random(servers) < 0.4)
        crashed, at = np.append(crashed, hit), np.append(at, np.full(len(hit), rng.uniform(8, hours)))
        warned = np.append(warned, np.full(len(hit), rng.exponential(1)))
        together = np.append(together, np.full(len(hit), rng.normal()))
    label, score = np.zeros((hours, servers), dtype=np.int8), rng.normal(size=(2, hours, servers))
    score += rng.normal(size=servers)
    if own_servers:
        score += own_servers * rng.normal(size=(2, 1, servers))
    is_late = np.arange(len(at)) < late * crashes
    for server, hour, strength, shared, too_late in zip(crashed, at, warned, together, is_late, strict=True):
        first, last = max(int(np.floor(hour - 7)) + 1, 0), max(int(np.ceil(hour - 1)), 0)
        label[first:last, server] = 1
        seen = slice(last, int(np.ceil(hour))) if too_late else slice(first, last)
        for model, signal in enumerate(signals):
            own = rng.normal() + (2 * model - 1) * shared  # what one model sees of an outage the other does not
            score[model, seen, server] += signal * strength * np.exp(0.4 * own)
    names = np.array([f"s{i:03d}" for i in range(servers)])
    champion, challenger = 1 / (1 + np.exp(4 - score))
    rows = pl.DataFrame(
        {
            "timestamp": moments(np.repeat(np.arange(hours), servers)),
            "server_id": pl.Series(np.tile(names, hours)).cast(pl.Categorical),
            "label": label.ravel(),
            "observed": True,
            "champion": champion.ravel(),
            "challenger": challenger.ravel(),
        }
    )
    return ScoredRows(
        rows=rows,
        crashes=pl.DataFrame({"server_id": names[crashed], "started_at": moments(at)}),
        period=(START, START + days * DAY),
        window=WINDOW,
        thresholds={"champion": 0.9, "challenger": 0.9},
        slices={"group_even": frozenset(names[::2]), "group_odd": frozenset(names[1::2])},
    )


def altered(rescored, **columns):
    return ScoredRows(**{**vars(rescored), "rows": rescored.rows.with_columns(**columns)})
