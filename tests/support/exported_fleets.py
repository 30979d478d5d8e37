"""Exports of simulated fleets, as a monitoring and a ticket system write them: CSV files of samples and incidents.

Before a crash some metrics rise, so a model that sees them is clearly better than one that does not.

    python tests/support/exported_fleets.py servers|disks FOLDER
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

START = datetime(2023, 1, 2)  # a Monday
MINUTE, HOUR, DAY = (timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days"))
WEEK = 7 * DAY
RISES_BEFORE = 7 * HOUR  # CPU, latency and errors of servers
WEARS_FOR = 4  # weeks: a disk, before it fails
SUDDEN = 0.2  # of all failures: without a sign before
WEEKS_A_YEAR = 52


def servers(
    folder: Path,
    n_servers: int = 60,
    days: int = 90,
    every: timedelta = 5 * MINUTE,
    days_per_crash: float = 25,
    seed: int = 1,
) -> None:
    """Write samples of servers that crash about once in so many days: samples.csv, incidents.csv."""
    rng = np.random.default_rng(seed)
    steps, reach = int(days * DAY / every), int(RISES_BEFORE / every)
    moments = np.arange(steps)
    daily = np.sin(2 * np.pi * moments * (every / DAY))
    frames, incidents = [], []
    for number in range(n_servers):
        name = f"web-{number:03d}"
        cpu, latency, errors, network = (
            30 + 10 * daily + rng.normal(0, 6, steps),
            np.exp(rng.normal(4, 0.25, steps)),
            rng.exponential(0.3, steps),
            80 + 20 * daily + rng.normal(0, 10, steps),
        )
        is_up = np.ones(steps, dtype=bool)
        for begin in np.sort(rng.choice(steps - 2 * reach, rng.poisson(days / days_per_crash), replace=False)) + reach:
            rise = slice(begin - int(reach * rng.uniform(0.6, 1)), begin)
            ramp = np.linspace(0, 1, rise.stop - rise.start) * rng.uniform(0.3, 1.3)
            cpu[rise] += 35 * ramp
            latency[rise] *= 1 + 3 * ramp
            errors[rise] += 4 * ramp * rng.random(len(ramp))
            end = begin + max(1, int(rng.uniform(20, 90) * MINUTE / every))
            is_up[begin:end] = False
            started = START + int(begin) * every + rng.uniform(0, 1) * every
            incidents.append((name, started, START + int(end) * every, started + rng.uniform(1, 20) * MINUTE))
        frames.append(
            pl.DataFrame(
                {
                    "time": pl.datetime_range(START, START + (steps - 1) * every, every, eager=True),
                    "host": name,
                    "cpu_pct": np.clip(cpu, 0, 100).round(1),
                    "latency_ms": latency.round(1),
                    "error_rate_pct": np.clip(errors, 0, 100).round(2),
                    "network_mbps": np.clip(network, 0, None).round(1),
                }
            ).filter(is_up)
        )
    tickets = pl.DataFrame(incidents, schema=["host", "started_at", "resolved_at", "reported_at"], orient="row")
    _write(folder, pl.concat(frames).sort("time", "host"), tickets.sort("started_at"))


def disks(folder: Path, n_disks: int = 2000, weeks: int = 156, failures_per_year: float = 0.06, seed: int = 1) -> None:
    """Write checks once a week, on Mondays, of disks that fail and are replaced: samples.csv, incidents.csv."""
    rng = np.random.default_rng(seed)
    frames, failures, count = [], [], 0
    for _ in range(n_disks):
        first, power_on_hours, check = 0, int(rng.uniform(0, 30_000)), rng.uniform(3, 5) * HOUR
        while first < weeks:
            count += 1
            serial, end = f"ZA{count:05d}", first + check / WEEK + rng.exponential(WEEKS_A_YEAR / failures_per_year)
            week = np.arange(first, min(weeks, int(np.ceil(end - check / WEEK))))
            size, worn = len(week), np.zeros(len(week))
            if rng.uniform() > SUDDEN:
                worn = np.clip(1 - (end - week) / (WEARS_FOR * rng.uniform(0.6, 1.2)), 0, 1) * rng.uniform(0.2, 1.2)
            frames.append(
                pl.DataFrame(
                    {
                        "checked_at": [START + int(n) * WEEK + check + rng.uniform(0, 5) * MINUTE for n in week],
                        "serial_number": serial,
                        "reallocated_sectors": np.cumsum(rng.poisson(0.05 + 12 * worn)),
                        "pending_sectors": rng.poisson(0.3 + 5 * worn),
                        "read_latency_ms": (np.exp(rng.normal(2.5, 0.3, size)) * (1 + worn)).round(1),
                        "temperature_c": (
                            34 + 4 * np.sin(2 * np.pi * week / WEEKS_A_YEAR) + rng.normal(0, 2, size)
                        ).round(),
                        "power_on_hours": power_on_hours + (week - first) * (WEEK // HOUR),
                    }
                )
            )
            if end < weeks:
                failures.append((serial, START + end * WEEK, START + end * WEEK + rng.uniform(4, 72) * HOUR))
            first, power_on_hours = int(np.ceil(end)) + 1, 0
    tickets = pl.DataFrame(failures, schema=["serial_number", "failed_at", "replaced_at"], orient="row")
    _write(folder, pl.concat(frames).sort("checked_at", "serial_number"), tickets.sort("failed_at"))


def _write(folder: Path, samples: pl.DataFrame, tickets: pl.DataFrame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("samples", samples), ("incidents", tickets)):
        frame.write_csv(folder / f"{name}.csv", datetime_format="%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    {"servers": servers, "disks": disks}[sys.argv[1]](Path(sys.argv[2]))
