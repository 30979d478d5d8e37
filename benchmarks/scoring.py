"""What `crashcast score` costs as the fleet grows: the demo fleet's last days, many times side by side.

    python benchmarks/scoring.py [--servers 300 3000 10000]

Run it in a project whose demo data and model are there (`make`). A child process loads the model, scores once to load
all libraries, and then measures one more scoring: from files on disk to risks. Peak memory is that of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import polars as pl
from measure import measure
from project import ROOT

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.operate import deployment
from crashcast.operate.score import score
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TELEMETRY_PATH

DAYS = 4  # more than the longest window of the features
MAX_CPU_S, MAX_MIB = 2.0, 512  # of 10,000 servers


def main() -> None:
    """Measure each size in a process of its own, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, nargs="+", default=[300, 3000, 10_000])
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.score:
        score_twice(arguments.score)
        return
    found = []
    for servers in arguments.servers:
        with tempfile.TemporaryDirectory() as folder:
            enlarge(servers, Path(folder))
            usage, printed = measure([sys.executable, __file__, "--score", folder])
        found.append({"servers": servers, **json.loads(printed.splitlines()[-1]), "process": asdict(usage)})
        print(f"{servers:,} servers: {found[-1]['cpu_s']:.2f} CPU-s, {found[-1]['peak_mib']:.0f} MiB", flush=True)
    print(f"(at most {MAX_CPU_S:g} CPU-s and {MAX_MIB} MiB for 10,000)")
    write_json(ROOT / "benchmarks" / "results" / "scoring.json", found)


def enlarge(servers: int, folder: Path, per_hour: int = 1) -> None:
    """Write raw data of so many servers: copies of the demo fleet's, of its last days.

    Parameters
    ----------
    servers : int
    folder : Path
    per_hour : int
        Samples of an hour: an hour's values are repeated, which costs what different ones do.
    """
    last = tables.partitions(TELEMETRY_PATH)[-1]
    samples = tables.read(last.path(TELEMETRY_PATH))
    since = pl.col("timestamp").max() - timedelta(days=DAYS)
    if per_hour > 1:
        hours = samples.unique([*tables.KEYS], keep="first")
        steps = pl.DataFrame({"step": [timedelta(hours=n) / per_hour for n in range(per_hour)]})
        samples = hours.join(steps, how="cross").with_columns(pl.col("timestamp") + pl.col("step")).drop("step")
        samples = samples.sort("timestamp", "server_id")
    names = samples["server_id"].unique().sort()
    copies = pl.DataFrame({"copy": range(-(-servers // len(names)))})
    wanted = names.to_frame().join(copies, how="cross").head(servers)
    for path, frame in (
        (last.path(folder / "telemetry"), samples.filter(pl.col("timestamp") > since)),
        (folder / "incidents.parquet", tables.read(INCIDENTS_PATH)),
        (folder / "coverage.parquet", tables.read(COVERAGE_PATH)),
    ):
        copied = frame.join(wanted, on="server_id").with_columns(
            pl.format("{}-{}", "server_id", "copy").alias("server_id")
        )
        keys = [name for name in ("timestamp", "server_id") if name in frame.columns]
        tables.write(path, copied.drop("copy").sort(keys, maintain_order=True))


def score_twice(folder: Path) -> None:
    """Score, and print what the second time cost."""
    used, _ = deployment.find("HEAD")
    paths = [folder / name for name in ("telemetry", "incidents.parquet", "coverage.parquet")]
    score(used, None, *paths)
    began = time.process_time()
    found = score(used, None, *paths)
    cpu_s = time.process_time() - began
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"cpu_s": cpu_s, "peak_mib": peak_mib, "scored": found.rows.height}))


if __name__ == "__main__":
    main()
