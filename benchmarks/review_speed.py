"""What the comparison of a review costs at full size: 10,000 servers, four months of hourly rows, 2,000 replicates.

    python benchmarks/review_speed.py

Scores are simulated: half of the crashes announce themselves, each model sees them through its own noise. The rows are
written to a file first, so that what is measured is reading them back and comparing the models.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
from measure import measure
from project import ROOT

from crashcast.canonical import write_json
from crashcast.modeling.alarms import AlarmWindow
from crashcast.params.acceptance import Acceptance
from crashcast.params.alarms import Alarms
from crashcast.review.comparison import compare

SERVERS, DAYS, GROUPS = 10_000, 122, 5
CRASHES_PER_SERVER_DAY = 0.024
START, HOUR = datetime(2025, 3, 3), timedelta(hours=1)
LEAD_H, HORIZON_H = 1, 6
MAX_WALL_S, MAX_MIB = 60, 2048


def main() -> None:
    """Simulate, measure in a process of its own, and write what came out."""
    if len(sys.argv) > 1:
        compare_from(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder))
        usage, printed = measure([sys.executable, __file__, folder])
    result = {"servers": SERVERS, "days": DAYS, "rows": SERVERS * DAYS * 24, **asdict(usage)}
    write_json(ROOT / "benchmarks" / "results" / "review_speed.json", result)
    print(printed, end="")
    print(f"{usage.wall_s:.0f} s wall (at most {MAX_WALL_S}), {usage.cpu_s:.0f} CPU-s")
    print(f"{usage.largest_process_mib:.0f} MiB (at most {MAX_MIB})")


def names() -> list[str]:
    """Return the servers, sorted."""
    return [f"server-{number:05d}" for number in range(SERVERS)]


def simulate(folder: Path) -> None:
    """Write a file of rows a day, so that no more than that is held, and the crashes."""
    rng = np.random.default_rng(1)
    hours = 24 * DAYS
    frailty = rng.gamma(2, 0.5, SERVERS)
    crashes = rng.poisson(CRASHES_PER_SERVER_DAY * SERVERS * DAYS)
    server, moment = rng.choice(SERVERS, crashes, p=frailty / frailty.sum()), rng.uniform(0, hours, crashes)
    strength = rng.exponential(4, crashes) * (rng.random(crashes) < 0.55)
    seen = strength * np.exp(0.4 * rng.normal(size=(2, crashes)))
    label = np.zeros((hours, SERVERS), dtype=np.int8)
    signal = np.zeros((2, hours, SERVERS), dtype=np.float32)
    for ahead in range(LEAD_H, LEAD_H + HORIZON_H):
        hour = np.ceil(moment).astype(np.int64) - 1 - ahead
        known = hour >= 0
        label[hour[known], server[known]] = 1
        for model in range(2):
            np.maximum.at(signal[model], (hour[known], server[known]), seen[model, known].astype(np.float32))
    base = 0.7 * rng.normal(size=SERVERS)
    for day in range(DAYS):
        some = slice(24 * day, 24 * day + 24)
        shared = base + 0.6 * rng.normal(size=(24, SERVERS))
        champion, challenger = (
            1 / (1 + np.exp(6 - 1.3 * (signal[model, some] + shared + 0.5 * rng.normal(size=shared.shape))))
            for model in range(2)
        )
        pl.DataFrame(
            {
                "timestamp": stamps(np.repeat(np.arange(24 * day, 24 * day + 24), SERVERS)),
                "server": np.tile(np.arange(SERVERS, dtype=np.uint32), 24),
                "label": label[some].ravel(),
                "champion": champion.ravel(),
                "challenger": challenger.ravel(),
            }
        ).write_parquet(folder / f"rows-{day:03d}.parquet")
    crashed = pl.Series(names()).gather(server)
    pl.DataFrame({"server_id": crashed, "started_at": stamps(moment)}).write_parquet(folder / "crashes.parquet")


def stamps(hours: np.ndarray) -> pl.Series:
    """Return hours since `START` as timestamps."""
    since = (hours * 3.6e9).astype("timedelta64[us]")
    return pl.Series(np.datetime64(START, "us") + since).dt.replace_time_zone("UTC")


def compare_from(folder: Path) -> None:
    """Read the rows and compare the models."""
    began = time.perf_counter()
    files = sorted(folder.glob("rows-*.parquet"))
    servers = pl.Series("server_id", names(), dtype=pl.Categorical)

    def column(name: str) -> pl.Series:
        """Read one column at a time, for its pieces lie in memory twice while they are joined."""
        pieces = (pl.read_parquet(file, columns=[name]).to_series() for file in files)
        return pl.concat([servers.gather(some) if name == "server" else some for some in pieces], rechunk=True)

    rows = pl.DataFrame([column(name) for name in ("timestamp", "server", "label", "champion", "challenger")])
    rescored = SimpleNamespace(
        rows=rows,
        crashes=pl.read_parquet(folder / "crashes.parquet"),
        period=(START, START + timedelta(days=DAYS)),
        window=AlarmWindow(LEAD_H * HOUR, HORIZON_H * HOUR, HOUR),
        thresholds={"champion": 0.5, "challenger": 0.5},
        slices={f"group_{group}": frozenset(names()[group::GROUPS]) for group in range(GROUPS)},
    )
    print(f"{time.perf_counter() - began:.0f} s to read {rescored.rows.height:,} rows")
    params = ROOT / "params.yaml"
    found = compare(rescored, Acceptance.read(params), Alarms.read(params).false_alarms_per_server_day)
    for name, one in found.differences.items():
        print(f"{name}: {one.champion:.4f}, {one.challenger:.4f}; standard error {one.standard_error:.2g}")
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
