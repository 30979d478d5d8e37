"""What a tick of `crashcast serve` costs as the fleet grows: the demo fleet's last days, many times side by side.

    python benchmarks/serving.py [--servers 300 3000 10000] [--minutes 60 5]

Run it in a project whose demo data and model are there (`make`). A first process fills the tail: that is the first
start. A second one ticks once to load all libraries, then until late samples were asked for again, which is measured:
from the series that a Prometheus would answer with, in memory, to alarms in the log. The figures are means of a tick;
`most_cpu_s` is that of the one with the late samples. Peak memory is that of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
from measure import measure
from project import ROOT
from scoring import MAX_CPU_S, MAX_MIB, enlarge

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.operate import deployment, score, telemetry_tail, tick
from crashcast.operate.served_log import ServedLog
from crashcast.operate.tick import Service
from crashcast.params.collect import Collect
from crashcast.params.serve import Serve
from crashcast.sources.prometheus.chunks import Chunk


@dataclass(frozen=True)
class Memory:
    """In place of a Prometheus: it answers from a table, in the API's form."""

    samples: pl.DataFrame

    def is_left_open(self, _: datetime) -> bool:
        """Tell whether ranges leave out their left end."""
        return True

    def end(self) -> None:
        """Give up waiting."""

    def read(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Return the series of a chunk."""
        inside = pl.col("timestamp").is_between(chunk.first, chunk.last)
        rows = self.samples.filter(inside & pl.col(chunk.metric).is_not_null())
        seconds, value = pl.col("timestamp").dt.epoch("s"), pl.col(chunk.metric).cast(pl.String)
        grouped = rows.group_by("server_id").agg(seconds, value.alias("value"))
        return [
            {"metric": {"instance": server}, "values": list(zip(moments, values, strict=True))}
            for server, moments, values in grouped.iter_rows()
        ]


STEPS: dict[str, tuple[Any, str]] = {
    "answer": (Memory, "read"),
    "fetch": (telemetry_tail, "update"),  # apart from the answer
    "clean": (score, "clean_partition"),
    "featurize": (score, "featurize_partition"),
    "score": (tick, "score_samples"),  # apart from the steps within
    "reasons": (tick, "reasons"),
    "deliver": (ServedLog, "write"),
}


def main() -> None:
    """Measure each size in processes of their own, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, nargs="+", default=[300, 3000, 10_000])
    parser.add_argument("--minutes", type=int, nargs="+", default=[60, 5], help="between two rows of a server")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        run(arguments.part[0], Path(arguments.part[1]), timedelta(minutes=arguments.minutes[0]))
        return
    found = []
    for servers, minutes in product(arguments.servers, arguments.minutes):
        with tempfile.TemporaryDirectory() as folder:
            enlarge(servers, Path(folder), 60 // minutes)
            for part in ("fill", "tick"):
                command = [sys.executable, __file__, "--minutes", str(minutes), "--part", part, folder]
                usage, printed = measure(command)
                about = {"servers": servers, "minutes": minutes, "part": part}
                found.append({**about, **json.loads(printed.splitlines()[-1]), "process": asdict(usage)})
        *_, filled, ticked = found
        shares = ", ".join(f"{name} {cpu_s:.2f}" for name, cpu_s in ticked["steps"].items())
        costs = f"{ticked['cpu_s']:.2f} CPU-s ({shares}; with late samples {ticked['most_cpu_s']:.2f})"
        print(f"{servers:,} servers, {minutes} minutes: {costs}, {ticked['peak_mib']:.0f} MiB")
        print(f"  the first start: {filled['cpu_s']:.2f} CPU-s, {filled['peak_mib']:.0f} MiB", flush=True)
    print(
        f"(at most {MAX_CPU_S:g} CPU-s and {MAX_MIB} MiB for a tick of 10,000 each hour, and twice that each 5 minutes)"
    )
    write_json(ROOT / "benchmarks" / "results" / "serving.json", found)


def run(part: str, folder: Path, interval: timedelta) -> None:
    """Tick, and print what the last tick cost."""
    used, _ = deployment.find("HEAD")
    telemetry = used.telemetry.model_copy(update={"interval": interval})
    used = replace(used, telemetry=telemetry)  # the model's features have the same names at another interval
    serve, newest = Serve.read(), folder / "newest.parquet"
    late = telemetry_tail.late_period(serve.late_window, interval)
    number = late // interval  # of ticks that are measured
    if part == "fill":
        path = tables.partitions(folder / "telemetry")[-1].path(folder / "telemetry")
        on_grid = pl.col("timestamp") == pl.col("timestamp").dt.truncate(f"{telemetry.interval.total_seconds():.0f}s")
        samples = tables.read(path, where=on_grid).unique([*tables.KEYS], keep="first")
        # what the ticks after it ask for again, and what is new then: they need not have the others in memory
        since = pl.col("timestamp").max() - serve.late_window - 3 * late
        tables.write(newest, samples.filter(pl.col("timestamp") > since))
    else:
        samples = tables.read(newest)
    last = samples["timestamp"].max().replace(tzinfo=None)  # type: ignore[union-attr]
    collect = Collect.read().model_copy(
        # one query at a time, to tell the CPU time of the answer from that of what reads it
        update={"queries": {name: {"last": name} for name in telemetry.metrics}, "group_label": None, "parallel": 1}
    )
    service = Service(
        serve, collect, Memory(samples), ServedLog(str(folder / "served")), folder / "tail",  # type: ignore[arg-type]
        folder / "incidents.parquet", folder / "coverage.parquet",
    )  # fmt: skip
    back = {"fill": [number + 1], "tick": range(number, -1, -1)}[part]
    state, costs = None, list[dict[str, float]]()
    for intervals in back:
        with counted() as cpu_s:
            began = time.process_time()
            now = last - intervals * interval + serve.delay + timedelta(minutes=1)
            state = tick.tick(used, service, now, state)
            total_s = time.process_time() - began
        assert not state.problems, state.problems
        assert state.scores is not None
        total_s -= cpu_s["answer"]  # of the server
        cpu_s["fetch"] -= cpu_s.pop("answer")
        cpu_s["score"] -= cpu_s["clean"] + cpu_s["featurize"]
        cpu_s["other"] = total_s - sum(cpu_s.values())
        costs.append(cpu_s)
    costs = costs[-number:]
    totals = [sum(cost.values()) for cost in costs]
    steps = {name: sum(cost[name] for cost in costs) / len(costs) for name in sorted({*chain.from_iterable(costs)})}
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({
        "cpu_s": sum(totals) / len(costs), "most_cpu_s": max(totals), "steps": steps, "peak_mib": peak_mib,
        "scored": state.scores.rows.height, "alarms": len(state.alarms),
    }))  # fmt: skip


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Count the CPU time of each step."""
    cpu_s: defaultdict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                cpu_s[name] += time.process_time() - began

        return call

    with ExitStack() as stack:
        for name, (place, function) in STEPS.items():
            stack.enter_context(patch.object(place, function, timed(name, getattr(place, function))))
        yield cpu_s


if __name__ == "__main__":
    main()
