"""The data stages against other engines on the same raw bytes, and against the floor: to read and write, nothing more.

    python benchmarks/engines/run.py                                  # 380 servers, 36 months: 10 million rows
    python benchmarks/engines/run.py --servers 20 --months 3 --runs 3
    python benchmarks/engines/run.py --raw FOLDER                     # telemetry/, incidents.parquet, coverage.parquet

Compared: clean + label + featurize, from raw telemetry to the three tables.
- pipeline: the three processes that dvc.yaml starts, one after another, with an empty memo: their start, imports and
  what they write into the memo included. DVC's own hashing of the outputs is listed apart (MD5 over the same bytes).
- pandas, DuckDB, Polars: one process each over the whole history, free to keep tables in memory between the stages;
  it writes the same three tables, sorted alike, in one zstd file each.
- floor: the inputs of the three stages read and their outputs written by the pipeline's reader and writer, a
  partition at a time. The frames to write are read as well, which no stage has to: `cpu_s` of the floor includes
  that; the honest floor is `cpu_s - extra_reading_cpu_s`, and "over the floor" is said against that one.

Every engine's tables are compared with the pipeline's, partition by partition: keys, order, nulls, labels and reasons
exactly; floats to one unit in the last of the `SIGNIFICANT_BITS` bits that the pipeline keeps. Two exceptions, each
reported: standard deviations also pass within `SPREAD_TOLERANCE` of the largest level (pandas computes them by
updating, which leaves rounding behind), and values against the fleet within `FLEET_TOLERANCE` standard deviations
(the pipeline sums whole levels of the metric's range, the others sum floats).

Limits: one machine, one fleet without servers that come and go; the others compute in float64 and round as the
pipeline does. Engines alternate in order from run to run, ratios are taken within a run, and medians over runs. CPU
on a busy machine is inflated for all: compare ratios.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import polars as pl
from measure import Usage, measure
from project import ANNOTATIONS, DATA_STAGES, ROOT, accept, command_of, copy_to, count_rows, edit, environment, simulate
from rich.console import Console
from rich.table import Table

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.files import md5

HERE = Path(__file__).resolve().parent
ENGINES = ("pipeline", "floor", "polars", "pandas", "duckdb")
TABLES = ("clean", "labels", "features")
SIGNIFICANT_BITS = 12
SPREAD_TOLERANCE = 1e-7
FLEET_TOLERANCE = 0.01


def main() -> None:
    """Make the fleet, run the engines, compare and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", type=int, default=380)
    parser.add_argument("--months", type=int, default=36)
    parser.add_argument("--raw", type=Path, help="raw data that is there already")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "engines.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = copy_to(Path(folder) / "project", servers=arguments.servers, months=arguments.months)
        if arguments.raw:
            for source in arguments.raw.resolve().iterdir():
                if source.name != Path(ANNOTATIONS).name:
                    (project / "data" / "raw" / source.name).symlink_to(source)
            accept(project)
        else:
            simulate(project)
        edit(project, "label", aggregate="tickets")  # the other engines believe every ticket
        result = benchmark(project, ["pipeline", *(set(arguments.engines) - {"pipeline"})], arguments.runs)
    write_json(arguments.out, result)
    report(result, Console())


def benchmark(project: Path, engines: list[str], runs: int) -> dict[str, Any]:
    """Run every engine `runs` times; see the module."""
    engines = sorted(engines, key=ENGINES.index)
    costs: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    equal: dict[str, Any] = {}
    for number in range(runs):
        # the pipeline's tables are what the floor writes, so it goes first the first time
        for engine in engines if number % 2 == 0 else engines[::-1]:
            out = project / "out"
            costs[engine].append(cost(engine, project, out))
            print(f"run {number + 1}, {engine}: {json.dumps(costs[engine][-1])}", file=sys.stderr, flush=True)
            if number == 0 and engine not in ("pipeline", "floor"):
                equal[engine] = compare(project / "data", out)
            shutil.rmtree(out, ignore_errors=True)
    began = time.process_time()
    for table in TABLES:
        md5(project / "data" / table)
    hashing = time.process_time() - began
    return {
        "rows": count_rows(project / "data" / "clean"),
        "runs": runs,
        "versions": {name: version(name) for name in sorted({"numpy", "polars", *equal})},
        "engines": {engine: medians(costs[engine], costs["pipeline"]) for engine in engines},
        "md5_of_outputs_cpu_s": hashing,
        "equality": equal,
    }


def cost(engine: str, project: Path, out: Path) -> dict[str, float]:
    """Run an engine once; return what it cost."""
    if engine == "pipeline":
        return cost_of_pipeline(project)
    arguments = [out, *([project / "data"] if engine == "floor" else [])]
    script = HERE / (f"{engine}.py" if engine == "floor" else f"{engine}_.py")
    command = [sys.executable, script, project / "data" / "raw", *arguments]
    usage, printed = measure(command, project, environment(project))
    found = re.search(r"extra reading: ([\d.]+)", printed)
    return asdict(usage) | ({"extra_reading_cpu_s": float(found[1])} if found else {})


def cost_of_pipeline(project: Path) -> dict[str, float]:
    """Run the data stages with an empty memo; sum their times, take the highest peaks, note each one's CPU."""
    shutil.rmtree(project / ".dvc" / "cache", ignore_errors=True)
    usages: dict[str, Usage] = {}
    for stage in DATA_STAGES:
        usages[stage], _ = measure(command_of(project, stage), project, environment(project))
    every = usages.values()
    return {
        "wall_s": sum(usage.wall_s for usage in every),
        "cpu_s": sum(usage.cpu_s for usage in every),
        "largest_process_mib": max(usage.largest_process_mib for usage in every),
        "all_processes_mib": max(usage.all_processes_mib for usage in every),
    } | {f"{stage}_cpu_s": usage.cpu_s for stage, usage in usages.items()}


def medians(costs: list[dict[str, float]], pipeline: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure, and that of the CPU over the pipeline's in the same run."""
    ratios = [own["cpu_s"] / its["cpu_s"] for own, its in zip(costs, pipeline, strict=True)]
    return {name: median(one[name] for one in costs) for name in costs[0]} | {"cpu_over_pipeline": median(ratios)}


def compare(data: Path, out: Path) -> dict[str, float]:
    """Compare an engine's tables with the pipeline's.

    Returns
    -------
    dict
        The worst deviations: in units of the last bit that the pipeline keeps; of standard deviations, as a share of
        the metric's largest level; of values against the fleet, in standard deviations.

    Raises
    ------
    ValueError
        If they differ by more than the module says.
    """
    worst = {"units": 0.0, "std_of_largest_level": 0.0, "vs_fleet": 0.0}
    for table in TABLES:
        rows = pl.scan_parquet(out / f"{table}.parquet")
        seen = 0
        for partition in tables.partitions(data / table):
            expected = tables.read(partition.path(data / table))
            inside = pl.col("timestamp").is_between(*tables.utc(partition.start, partition.end), closed="left")
            moment = pl.col("timestamp").dt.convert_time_zone("UTC").dt.cast_time_unit("us")
            found = rows.with_columns(moment).filter(inside).collect(engine="in-memory")
            seen += found.height
            for name, wanted in expected.to_dict().items():
                same(table, partition.name, wanted, found[name].cast(wanted.dtype), expected, worst)
        if seen != rows.select(pl.len()).collect().item() or set(rows.collect_schema()) != set(expected.columns):
            raise ValueError(f"{table}: other columns, or rows outside the pipeline's partitions")
    return worst


def same(
    table: str, partition: str, wanted: pl.Series, found: pl.Series, rows: pl.DataFrame, worst: dict[str, float]
) -> None:
    """Compare a column of one partition; note the worst deviations."""
    place, name = f"{table}, {partition}, {wanted.name}", wanted.name
    if wanted.len() != found.len() or not wanted.is_null().equals(found.is_null()):
        raise ValueError(f"{place}: other rows or nulls")
    if not wanted.dtype.is_float():
        if not wanted.equals(found):
            raise ValueError(f"{place}: other values")
        return
    one, other = (column.drop_nulls().cast(pl.Float64).to_numpy() for column in (wanted, found))
    if not len(one):
        return
    deviation = np.abs(one - other)
    if name.endswith("_vs_fleet"):
        worst["vs_fleet"] = max(worst["vs_fleet"], deviation.max())
        excess = deviation > FLEET_TOLERANCE
    else:
        exponent = np.frexp(one)[1]  # one = m * 2 ** exponent, m in [0.5, 1)
        units = np.where(deviation > 0, deviation / np.ldexp(1.0, exponent - SIGNIFICANT_BITS), 0)
        excess = units > 1
        if (metric := re.sub("_std_[^_]+$", "", name)) != name:
            share = deviation * excess / np.abs(rows[metric].cast(pl.Float64).max())
            worst["std_of_largest_level"] = max(worst["std_of_largest_level"], share.max())
            units, excess = units * ~excess, share > SPREAD_TOLERANCE
        worst["units"] = max(worst["units"], units.max())
    if excess.any():
        row = int(excess.argmax())
        raise ValueError(f"{place}: {one[row]!r} became {other[row]!r} in {excess.sum()} of {len(one)} rows")


def report(result: dict[str, Any], console: Console) -> None:
    """Draw the table."""
    table = Table(title=f"{result['rows']:,} rows, clean + label + featurize; medians of {result['runs']}")
    for head in ("engine", "CPU-s", "x pipeline", "wall s", "largest process MiB", "all MiB", "worst units", "equal"):
        table.add_column(head, justify="left" if head == "engine" else "right")
    for engine, cost in result["engines"].items():
        deviations = result["equality"].get(engine)
        table.add_row(
            engine,
            f"{cost['cpu_s']:.1f}",
            f"{cost['cpu_over_pipeline']:.2f}",
            f"{cost['wall_s']:.1f}",
            f"{cost['largest_process_mib']:,.0f}",
            f"{cost['all_processes_mib']:,.0f}",
            f"{deviations['units']:.2g}" if deviations else "",
            "yes" if deviations else "",
        )
    console.print(table)
    pipeline, floor = result["engines"]["pipeline"], result["engines"].get("floor")
    stages = ", ".join(f"{stage} {pipeline[f'{stage}_cpu_s']:.1f}" for stage in DATA_STAGES)
    console.print(
        f"pipeline: {stages} CPU-s; MD5 of its outputs, as DVC takes it: {result['md5_of_outputs_cpu_s']:.1f}"
    )
    if floor:
        honest = floor["cpu_s"] - floor["extra_reading_cpu_s"]
        console.print(
            f"floor: {honest:.1f} CPU-s to read the inputs and write the outputs, with the extra reading "
            f"{floor['cpu_s']:.1f}; the pipeline takes {pipeline['cpu_s'] / honest:.2f} times that"
        )
    for engine, deviations in result["equality"].items():
        console.print(f"{engine}: worst deviations " + ", ".join(f"{k} {v:.2g}" for k, v in deviations.items()))


if __name__ == "__main__":
    main()
