"""How well `crashcast plan` forecasts what larger runs cost: the forecast from small runs, beside the large ones.

    python benchmarks/plan.py run      # runs demo fleets of several sizes; goes on where it was stopped
    python benchmarks/plan.py report   # forecasts, compares, and writes the results
    python benchmarks/plan.py alone --servers 10000 --months 36     # what a size costs since then; no forecast

`run` makes a project of its own for each size, does one `dvc repro` in it, and keeps the project's own record of runs
(`.dvc/tmp/crashcast/runs.jsonl`), and the disk that it then takes; three years of ten thousand servers come last, and
take most of an hour. `report` forecasts each larger size from the records of the smaller ones alone. CPU grows on a
busy machine: `load` is the machine's load average before each run.

`alone` runs one size with the code of today, and keeps it apart from the others, which are of one version of the code.

Results are in benchmarks/results/plan.json. Nothing touches the checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from project import ROOT, copy_to, run
from rich.console import Console
from rich.table import Table

from crashcast.canonical import write_json
from crashcast.params.train import Train
from crashcast.planning.cost_model import Estimate
from crashcast.planning.records import COMPARE, FIT, Measured, measurements
from crashcast.planning.run_cost import MONTH, Limited, RunModel, Size, disk_bytes, highest, total
from crashcast.run_record import FILE

RESULTS = ROOT / "benchmarks" / "results" / "plan.json"
SIZES = [(servers, months) for servers in (100, 380) for months in (2, 4, 12)] + [(1500, 4)]
ROUNDS = 2
CORES = 2
HOUR = timedelta(hours=1)
LARGE = [(10_000, 2), (10_000, 36)]  # forecast, and committed, before any of them was run
SMALL = [(servers, months) for servers in (100, 380) for months in (2, 4)]
CASES = {
    "3 times the history, 100 servers": (SMALL, (100, 12)),
    "3 times the history, 380 servers": (SMALL, (380, 12)),
    "4 times the servers": ([*SMALL, (100, 12), (380, 12)], (1500, 4)),
    "15 times the servers": ([(100, months) for months in (2, 4, 12)], (1500, 4)),
    "26 times the servers": ([size for size in SIZES if size[0] <= 380], LARGE[0]),
    "26 times the servers, 3 times the history": ([size for size in SIZES if size[0] <= 380], LARGE[1]),
    "3 times the history, from runs of one size": ([(380, 4)], (380, 12)),
}
Figures = dict[str, Any]


def main() -> None:
    """Run what is missing, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "report", "alone"))
    parser.add_argument("--folder", type=Path, help="for the projects; by default, a temporary folder")
    parser.add_argument("--servers", type=int, default=LARGE[-1][0])
    parser.add_argument("--months", type=int, default=LARGE[-1][1])
    arguments = parser.parse_args()
    if arguments.command == "run":
        run_missing(arguments.folder)
    elif arguments.command == "alone":
        run_alone(arguments.folder, arguments.servers, arguments.months)
    else:
        report()


def run_missing(folder: Path | None) -> None:
    """Run every size that the results do not hold, and add it at once."""
    rounds = [(*size, number) for number in range(1, ROUNDS + 1) for size in SIZES]
    for servers, months, number in [*rounds, *((*size, 1) for size in LARGE)]:
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}
        name = f"{servers} servers, {months} months, round {number}"
        if name in found["runs"]:
            continue
        with tempfile.TemporaryDirectory(dir=folder) as place:
            found["runs"][name] = {"servers": servers, "months": months, **measured(Path(place), servers, months)}
        write_json(RESULTS, found)
        print(f"{name}: done", file=sys.stderr)


def run_alone(folder: Path | None, servers: int, months: int) -> None:
    """Run a size, and add what it cost."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        cost = {"servers": servers, "months": months, **measured(Path(place), servers, months)}
    found = json.loads(RESULTS.read_text())
    write_json(RESULTS, found | {"alone": found.get("alone", {}) | {f"{servers} servers, {months} months": cost}})


def measured(folder: Path, servers: int, months: int) -> dict[str, Any]:
    """Run the pipeline on a demo fleet in a project of its own; return its record and the disk it takes."""
    project = copy_to(folder / "project", servers=servers, months=months)
    run(project, sys.executable, "-c", "from crashcast.cli import main; main()", "demo")
    load = os.getloadavg()[0]
    run(project, sys.executable, "-m", "dvc", "repro")
    used = subprocess.run(
        ["du", "-s", "--block-size=1", "data", ".dvc"], cwd=project, check=True, text=True, capture_output=True
    )
    lines = (project / FILE).read_text().splitlines()
    disk_bytes = sum(int(line.split()[0]) for line in used.stdout.splitlines())  # a hard link counts once
    record = [{key: value for key, value in json.loads(line).items() if key != "begun"} for line in lines]
    return {"load": load, "disk_bytes": disk_bytes, "record": record}


def report() -> None:
    """Forecast each larger size from the records of smaller ones, and compare."""
    found = json.loads(RESULTS.read_text())
    runs = list(found["runs"].values())
    compared = {name: compare(runs, *sizes) for name, sizes in CASES.items() if of(runs, [sizes[1]])}
    found |= {"compared": compared, "summary": summary(compared), "large": large(runs)}
    write_json(RESULTS, found)
    show(found)


def compare(runs: list[Figures], known: list[tuple[int, int]], unknown: tuple[int, int]) -> list[Figures]:
    """Forecast runs of the unknown size from those of the known ones."""
    model, size = RunModel.fit(measured_in(of(runs, known))), size_of(of(runs, known)[-1], *unknown)
    costs, larger = model.run(size, None, CORES), of(runs, [unknown])
    true = measured_in(larger)
    cpu_s = {part: min(one.cpu_s for one in true if one.part == part) for part in costs}  # the least disturbed
    peak = {part: max(one.peak_bytes for one in true if one.part == part) for part in costs}
    rows = []
    for part, cost in costs.items():
        rows += [row(part, "cpu_s", cost.cpu_s, cpu_s[part]), row(part, "peak_bytes", cost.peak_bytes, peak[part])]
    rows.append(row("all", "cpu_s", total([cost.cpu_s for cost in costs.values()]), sum(cpu_s.values())))
    rows.append(row("all", "peak_bytes", highest(costs), max(peak.values())))
    rows.append(row("all", "disk_bytes", disk_bytes(model, size, costs), larger[0]["disk_bytes"]))
    return rows


def measured_in(runs: list[Figures]) -> list[Measured]:
    """Return what the records of some runs hold."""
    return [one for run in runs for one in measurements(run["record"])]


def of(runs: list[Figures], sizes: list[tuple[int, int]]) -> list[Figures]:
    """Return the runs of some sizes, in order of the sizes."""
    return [run for size in sizes for run in runs if (run["servers"], run["months"]) == size]


def size_of(run: Figures, servers: int, months: int) -> Size:
    """Return a size for a forecast that knows no more than a smaller run."""
    known = {one.part: one for one in measurements(run["record"])}
    rows = known["label"].rows
    expected = run["servers"] * run["months"] * (MONTH / HOUR)
    train = Train.read(ROOT / "params.yaml")
    limits = {FIT: train.max_rows, COMPARE: train.folds * train.max_compared_rows}
    steps = {part: Limited(known[part].rows / rows, limit) for part, limit in limits.items()}
    return Size(servers, months, HOUR, 8, "month", rows / expected, steps, 8)


def row(part: str, figure: str, forecast: Estimate, measured: float) -> Figures:
    """Put a forecast beside what was measured."""
    return {
        "part": part, "figure": figure, "forecast": forecast.value, "low": forecast.low, "high": forecast.high,
        "measured": measured, "error": forecast.value / measured - 1,
        "covered": forecast.low <= measured <= forecast.high,
    }  # fmt: skip


def summary(compared: dict[str, list[Figures]]) -> Figures:
    """Return the errors of whole runs and the share of intervals that cover, case by case.

    Of memory the plan shows the upper limit, so its error is that of the limit.
    """
    found = {}
    for case, rows in compared.items():
        whole = {one["figure"]: one for one in rows if one["part"] == "all"}
        limits = [one["high"] / one["measured"] - 1 for one in rows if one["figure"] == "peak_bytes"]
        found[case] = {
            "error": {figure: one["error"] for figure, one in whole.items()},
            "covered": sum(one["covered"] for one in rows) / len(rows),
            "lowest_error_of_a_limit_of_memory": min(limits),
        }
    return found


def large(runs: list[Figures]) -> Figures:
    """Forecast the large sizes from all runs of at most 380 servers."""
    known = [run for run in runs if run["servers"] <= 380]
    model, found = RunModel.fit(measured_in(known)), {}
    for servers, months in LARGE:
        size = size_of(known[-1], servers, months)
        costs = model.run(size, None, CORES)
        cpu_s = total([cost.cpu_s for cost in costs.values()])
        whole = {"cpu_s": cpu_s, "peak_bytes": highest(costs), "disk_bytes": disk_bytes(model, size, costs)}
        parts = {part: cost._asdict() for part, cost in costs.items()} | {"all": whole}
        rounded = {part: {name: list(one[:3]) for name, one in figures.items()} for part, figures in parts.items()}
        found[f"{servers} servers, {months} months"] = {"rows": size.rows, "value, low, high": rounded}
    return found


def show(found: Figures) -> None:
    """Draw the comparison."""
    for case, rows in found["compared"].items():
        table = Table("part", "figure", "forecast", "interval", "measured", "error", title=case)
        for one in rows:
            scale = 1 if one["figure"].endswith("_s") else 1e6
            table.add_row(
                one["part"], one["figure"], f"{one['forecast'] / scale:.1f}",
                f"{one['low'] / scale:.1f} to {one['high'] / scale:.1f}{'' if one['covered'] else '  !'}",
                f"{one['measured'] / scale:.1f}", f"{one['error']:+.0%}",
            )  # fmt: skip
        Console().print(table)
    Console().print(found["summary"])
    for name, size in found["large"].items():
        whole = size["value, low, high"]["all"]
        Console().print(name, {figure: [float(f"{one:.3g}") for one in values] for figure, values in whole.items()})


if __name__ == "__main__":
    main()
