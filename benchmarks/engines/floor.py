"""What the stages cost that compute nothing: python benchmarks/engines/floor.py RAW OUT FINISHED.

Reads what clean, label and featurize read and writes what they write, a partition at a time, with the pipeline's own
reader and writer. The frames to write are read from the finished tables in the folder FINISHED; the CPU of that extra
reading is printed, for whoever wants to subtract it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from crashcast import tables
from crashcast.params.telemetry import Telemetry


def main(raw: Path, out: Path, finished: Path) -> None:
    """Read and write, stage by stage."""
    metrics = list(Telemetry.read().metrics)
    extra = copy("clean", raw / "telemetry", [*tables.KEYS, *metrics], finished, out)
    extra += copy("labels", out / "clean", list(tables.KEYS), finished, out)
    extra += copy("features", out / "clean", [*tables.KEYS, *metrics], finished, out)
    print(f"extra reading: {extra:.3f} CPU-s")


def copy(table: str, source: Path, columns: list[str], finished: Path, out: Path) -> float:
    """Read every partition of `source`, write every one of `table`; return the CPU-s of reading the latter."""
    sources = {partition.name for partition in tables.partitions(source)}
    extra = 0.0
    for partition in tables.partitions(finished / table):
        if partition.name in sources:
            tables.read(partition.path(source), columns)
        began = time.process_time()
        frame = tables.read(partition.path(finished / table))
        extra += time.process_time() - began
        tables.write(partition.path(out / table), frame)
    return extra


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
