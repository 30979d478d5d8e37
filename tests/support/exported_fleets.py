"""Exports of a simulated fleet, as a monitoring and a ticket system write them: CSV files of samples and incidents.

Before a crash some metrics rise, so a model that sees them is clearly better than one that does not.

    python tests/support/exported_fleets.py FOLDER
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

START = datetime(2023, 1, 2)
MINUTE, HOUR, DAY = (timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days"))
RISES_BEFORE = 7 * HOUR  # CPU, latency and errors


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
    _write(folder, pl.concat(frames).sort("time", "host"), incidents)


def _write(folder: Path, samples: pl.DataFrame, incidents: list[tuple[str, datetime, datetime, datetime]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    samples.write_csv(folder / "samples.csv", datetime_format="%Y-%m-%dT%H:%M:%SZ")
    columns = ["host", "started_at", "resolved_at", "reported_at"]
    tickets = pl.DataFrame(sorted(incidents, key=lambda row: row[1]), schema=columns, orient="row")
    tickets.write_csv(folder / "incidents.csv", datetime_format="%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    servers(Path(sys.argv[1]))
