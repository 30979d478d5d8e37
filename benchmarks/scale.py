"""How cost grows with the fleet and its history, what a new month costs, and what DVC's own share is.

    python benchmarks/scale.py size --servers 38 380 --months 3 12 36     # CPU per row of the data stages
    python benchmarks/scale.py size --raw FOLDER --months 3 12 36         # the same on the first months of raw data
    python benchmarks/scale.py repro --servers 380 --months 36            # whole `dvc repro`, no-op, append, correction
    python benchmarks/scale.py append --servers 10000 --months 36         # `dvc repro label featurize`, append
    python benchmarks/scale.py workers --servers 380 --months 36          # 1 and 2 processes, a cluster of 2

`size` runs the processes that dvc.yaml starts for clean, label and featurize, the memo off, on demo fleets of every
number of servers and on the first of their months. Two limits are checked: from the fewest months to the most, CPU
per row of all three together grows at most 5 % (at the most servers); from 380 servers to the most at most 1.3 times
(at the most months).

`repro` runs, in a repository of its own, a fleet of all months but the last; then nothing again; then with the last
month appended, its tickets and coverage included; then with one server's day corrected in a month a third of the way
in. Each is one `dvc repro`, of which every stage is timed apart; the rest is DVC's own:
its start, its hashing and its cache. After the append and after the correction the memo is switched off and
everything rebuilt by force: the outputs must have the same bytes (`dvc.lock` is the same), and the data stages' CPU
of the rebuild is "the whole" that the append is compared with. `append` is the part of that which a large fleet has
time for: up to `featurize`, and no correction.

`workers` runs the data stages with 1 and 2 processes, the memo off, and on a Dask cluster of two workers (scheduler and
workers as processes of this machine, each with one thread and a folder of its own, the shared folder and the memo
empty; their CPU is added), and checks that the bytes are the same.

CPU is user + system time of all processes, and grows on a busy machine: compare within a run. Results are added to
benchmarks/results/scale.json. Nothing touches the checkout.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from distributed import Client
from measure import measure
from project import (
    ANNOTATIONS,
    DATA_STAGES,
    ROOT,
    accept,
    command_of,
    copy_to,
    count_rows,
    edit,
    environment,
    run,
    simulate,
)
from rich.console import Console
from rich.table import Table

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.files import md5
from crashcast.paths import TABLES, TELEMETRY_PATH

RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
RAW = "data/raw"
OUTPUTS = ("data/clean", "data/labels", "data/features")
MAX_GROWTH_BY_MONTHS, MAX_GROWTH_BY_SERVERS, FROM_SERVERS = 1.05, 1.3, 380
GIT = ("git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@example.com")
# stands before Python on PATH: runs it, and notes what a stage cost
SHIM = """#!{python} -IS
import json, os, sys, time
began = time.perf_counter()
_, status, used = os.wait4(os.posix_spawn({python!r}, [{python!r}, *sys.argv[1:]], os.environ), 0)
note = dict(stage=sys.argv[2], wall_s=time.perf_counter() - began, cpu_s=used.ru_utime + used.ru_stime,
            largest_process_mib=used.ru_maxrss / 2**10)
with open({notes!r}, "a") as file:
    print(json.dumps(note), file=file)
sys.exit(os.waitstatus_to_exitcode(status))
"""
Figures = dict[str, Any]


def main() -> None:
    """Run one benchmark and add its figures to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    defaults = {
        "size": ([38, 380], [3, 12]),
        "repro": ([380], [36]),
        "append": ([10_000], [36]),
        "workers": ([380], [36]),
    }
    for name, (servers, months) in defaults.items():
        command = commands.add_parser(name)
        several = "+" if name == "size" else 1
        command.add_argument("--servers", type=int, nargs=several, default=servers)
        command.add_argument("--months", type=int, nargs=several, default=months)
        command.add_argument("--out", type=Path, default=RESULTS)
        command.add_argument("--folder", type=Path, help="for the copy of the project; by default, a temporary folder")
        if name == "size":
            command.add_argument("--raw", type=Path, help="raw data that is there already, instead of demo fleets")
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.command == "size":
            figures = size(Path(folder), arguments.servers, arguments.months, arguments.raw)
        elif arguments.command in ("repro", "append"):
            figures = repro(Path(folder), arguments.servers[0], arguments.months[0], arguments.command == "append")
        else:
            figures = workers(Path(folder), arguments.servers[0], arguments.months[0])
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    write_json(arguments.out, before | {arguments.command: figures})


def size(folder: Path, servers: list[int], months: list[int], raw: Path | None) -> Figures:
    """Measure the data stages on fleets of several sizes."""
    found = []
    for number in servers if raw is None else [0]:
        project = copy_to(folder / f"servers-{number}", servers=max(20, number), months=max(months))
        source = raw.resolve() if raw else project / "data" / "raw"
        if raw is None:
            simulate(project)
        for length in months:
            with first_months(project, source, length):
                cost = data_stages(project)
                rows = count_rows(project / "data" / "clean")
            per_row = {stage: 1e6 * cost[stage]["cpu_s"] / rows for stage in DATA_STAGES}
            found.append(
                {
                    "servers": count_servers(source) if raw else number,
                    "months": length,
                    "rows": rows,
                    "cpu_s_per_million_rows": per_row | {"all": sum(per_row.values())},
                    "stages": cost,
                }
            )
            print(f"{found[-1]['servers']} servers, {length} months: done", file=sys.stderr)
    print_sizes(found)
    return {"sizes": found, "growth": growth(found)}


@contextmanager
def first_months(project: Path, source: Path, months: int) -> Iterator[None]:
    """Let data/first hold the first months of raw data, and the stages' commands read that."""
    first = project / "data" / "first"
    (first / "telemetry").mkdir(parents=True)
    for partition in tables.partitions(source / "telemetry")[:months]:
        (first / "telemetry" / partition.name).symlink_to(source / "telemetry" / partition.name)
    for name in (path.name for path in TABLES if path != TELEMETRY_PATH):
        (first / name).symlink_to(source / name)
    (first / "annotations.parquet").symlink_to(project / ANNOTATIONS)
    yield
    for link in [*(first / "telemetry").iterdir(), *first.glob("*.parquet")]:
        link.unlink()
    (first / "telemetry").rmdir()


def data_stages(project: Path, raw: str = "data/first", **variables: str) -> dict[str, Figures]:
    """Run clean, label and featurize, the memo off by default; return what each cost."""
    variables = {"CRASHCAST_MEMO": "off"} | variables
    accept(project)
    found = {}
    for stage in DATA_STAGES:
        command = [re.sub("^data/raw/", f"{raw}/", word) for word in command_of(project, stage)]
        usage, _ = measure(command, project, environment(project, **variables))
        found[stage] = asdict(usage)
    return found


def count_servers(raw: Path) -> int:
    """Count the servers that incident records cover."""
    return tables.read(raw / "coverage.parquet", ["server_id"])["server_id"].n_unique()


def growth(sizes: list[Figures]) -> Figures:
    """Compare CPU per row by months, at the most servers, and by servers, at the most months."""
    per_row = {(one["servers"], one["months"]): one["cpu_s_per_million_rows"]["all"] for one in sizes}
    servers, months = (sorted({key[position] for key in per_row}) for position in (0, 1))
    found: Figures = {}
    if len(months) > 1:
        ratio = per_row[servers[-1], months[-1]] / per_row[servers[-1], months[0]]
        found["by_months"] = {"ratio": ratio, "limit": MAX_GROWTH_BY_MONTHS, "holds": ratio <= MAX_GROWTH_BY_MONTHS}
    if FROM_SERVERS in servers and servers[-1] > FROM_SERVERS:
        ratio = per_row[servers[-1], months[-1]] / per_row[FROM_SERVERS, months[-1]]
        found["by_servers"] = {"ratio": ratio, "limit": MAX_GROWTH_BY_SERVERS, "holds": ratio <= MAX_GROWTH_BY_SERVERS}
    return found


def print_sizes(sizes: list[Figures]) -> None:
    """Draw what was measured."""
    table = Table("servers", "months", "rows", *DATA_STAGES, "all", "peak MiB", title="CPU-s per million rows")
    for one in sizes:
        peak = max(cost["all_processes_mib"] for cost in one["stages"].values())
        per_row = [f"{value:.2f}" for value in one["cpu_s_per_million_rows"].values()]
        table.add_row(str(one["servers"]), str(one["months"]), f"{one['rows']:,}", *per_row, f"{peak:,.0f}")
    Console().print(table)


def repro(folder: Path, servers: int, months: int, append_alone: bool) -> Figures:
    """Run the pipeline, nothing, an appended month and a correction; see the module."""
    targets = ("label", "featurize") if append_alone else ()
    project = copy_to(folder / "project", servers=servers, months=months)
    commit(project, "Code")
    run(project, sys.executable, "-c", "from crashcast.cli import main; main()", "demo")
    hide_last_month(project, folder / "hidden")
    accept_raw(project, "All months but the last")
    found: Figures = {"servers": servers, "months": months}
    found["first_run"] = dvc_repro(project, *targets)
    commit(project, "Run")
    found["no_op"] = dvc_repro(project, *targets)
    shutil.copytree(folder / "hidden", project / RAW, dirs_exist_ok=True, copy_function=replace_with)
    accept_raw(project, "The last month")
    found["appended_month"] = dvc_repro(project, *targets)
    found["rebuild"] = rebuild(project, *targets)
    whole = data_cpu_s(found["rebuild"])
    found["append_over_whole"] = data_cpu_s(found["appended_month"]) / whole
    if not append_alone:
        correct(project, months // 3)
        before = hashes(project)
        found["corrected_month"] = dvc_repro(project)
        found["corrected_month"]["changed_partitions"] = changed(before, hashes(project))
        found["rebuild_after_correction"] = rebuild(project)
        found["correction_over_whole"] = data_cpu_s(found["corrected_month"]) / whole
    print_repro(found)
    return found


def hide_last_month(project: Path, hidden: Path) -> None:
    """Put the raw data as it is into `hidden`, and leave what was known before its last month."""
    raw = project / RAW
    last = tables.partitions(raw / "telemetry")[-1]
    shutil.copytree(raw / "telemetry" / last.name, hidden / "telemetry" / last.name)
    shutil.rmtree(raw / "telemetry" / last.name)
    known_by, _ = tables.utc(last.start, last.end)
    reported = pl.col("reported_at").fill_null(pl.col("started_at")) < known_by
    for name, known in (
        ("incidents.parquet", lambda rows: rows.filter(reported)),
        ("coverage.parquet", lambda rows: rows.with_columns(pl.min_horizontal("covered_to", known_by))),
    ):
        shutil.copy(raw / name, hidden / name)
        tables.write(raw / name, known(tables.read(raw / name)))


def replace_with(source: str, target: str) -> str:
    """Copy a file; what lies there may be a link into DVC's cache."""
    Path(target).unlink(missing_ok=True)
    return shutil.copy(source, target)


def accept_raw(project: Path, message: str) -> None:
    """Track raw data as it is now, and commit that."""
    run(project, sys.executable, "-m", "dvc", "add", "--quiet", *map(str, TABLES))
    commit(project, message)


def commit(project: Path, message: str) -> None:
    """Commit everything."""
    run(project, *GIT, "add", "--all")
    run(project, *GIT, "commit", "--quiet", "--allow-empty", "--message", message)


def dvc_repro(project: Path, *options: str, **variables: str) -> Figures:
    """Run `dvc repro`; return what it and each of its stages cost, and how many partitions were computed."""
    shims, notes = project.parent / "bin", project.parent / "stages.jsonl"
    shims.mkdir(exist_ok=True)
    notes.write_text("")
    (shims / "python").write_text(SHIM.format(python=sys.executable, notes=str(notes)))
    (shims / "python").chmod(0o755)
    env = environment(project, **variables)
    env = {**env, "PATH": f"{shims}:{env['PATH']}"}
    usage, printed = measure([sys.executable, "-m", "dvc", "repro", *options], project, env)
    stages = {note.pop("stage"): note for note in map(json.loads, notes.read_text().splitlines())}
    told = re.findall(r"^(\w+): \d+ \w+, (\d+) computed, (\d+) from the memo", printed, re.MULTILINE)
    computed, recalled = Counter[str](), Counter[str]()  # some steps run more than once
    for step, *numbers in told:
        computed[step] += int(numbers[0])
        recalled[step] += int(numbers[1])
    return asdict(usage) | {
        "stages": stages,
        "dvc_own_cpu_s": usage.cpu_s - sum(note["cpu_s"] for note in stages.values()),
        "partitions_computed": {**computed},
        "partitions_recalled": {**recalled},
    }


def rebuild(project: Path, *targets: str) -> Figures:
    """Compute everything again, the memo off.

    Raises
    ------
    ValueError
        If an output has other bytes.
    """
    lock = (project / "dvc.lock").read_bytes()
    found = dvc_repro(project, "--force", *targets, CRASHCAST_MEMO="off")
    if (project / "dvc.lock").read_bytes() != lock:
        raise ValueError("a rebuild without the memo gives other bytes")
    return found


def correct(project: Path, month: int) -> None:
    """Change one server's CPU on one day of a month of raw data, and accept that."""
    telemetry = project / RAW / "telemetry"
    partition = tables.partitions(telemetry)[month]
    path = partition.path(telemetry)
    frame = tables.read(path)
    day = (pl.col("timestamp").dt.day() == 10) & (pl.col("server_id") == frame["server_id"][0])
    tables.write(
        path, frame.with_columns(pl.when(day).then(12.5).otherwise("cpu_pct").cast(pl.Float32).alias("cpu_pct"))
    )
    accept_raw(project, "Correct a day")


def hashes(project: Path) -> dict[str, str]:
    """Return the MD5 of every partition of the data stages' outputs."""
    files = [file for output in OUTPUTS for file in sorted((project / output).rglob("*.parquet"))]
    return {file.relative_to(project).as_posix(): md5(file) for file in files}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Name the partitions whose bytes differ."""
    return sorted(name.rpartition("/")[0] for name in before | after if before.get(name) != after.get(name))


def data_cpu_s(figures: Figures) -> float:
    """Add up the CPU of the data stages."""
    return sum(figures["stages"][stage]["cpu_s"] for stage in DATA_STAGES if stage in figures["stages"])


def print_repro(found: Figures) -> None:
    """Draw the runs, each stage's share, and DVC's."""
    runs = {name: figures for name, figures in found.items() if isinstance(figures, dict)}
    stages = list(runs["first_run"]["stages"])
    table = Table("run", "CPU-s", "wall s", *stages, "DVC's own", title="CPU-s of `dvc repro`, and of its stages")
    for name, figures in runs.items():
        each = [f"{figures['stages'][stage]['cpu_s']:.1f}" if stage in figures["stages"] else "" for stage in stages]
        totals = [f"{figures[key]:.1f}" for key in ("cpu_s", "wall_s")]
        table.add_row(name, *totals, *each, f"{figures['dvc_own_cpu_s']:.1f}")
    console = Console()
    console.print(table)
    for name, figures in runs.items():
        if figures["partitions_computed"]:
            console.print(f"{name}: computed {figures['partitions_computed']}, memo {figures['partitions_recalled']}")
    console.print(f"data stages: append {found['append_over_whole']:.1%} of the whole")
    if "corrected_month" in found:
        console.print(f"correction {found['correction_over_whole']:.1%} of the whole; it changed:")
        console.print(", ".join(found["corrected_month"]["changed_partitions"]))


def workers(folder: Path, servers: int, months: int) -> Figures:
    """Run the data stages with 1 and 2 processes, and on a cluster of 2 workers."""
    project = copy_to(folder / "project", servers=servers, months=months)
    simulate(project)
    found, outputs = {}, []
    for number in (1, 2):
        edit(project, "execution", workers=number)
        found[str(number)] = data_stages(project, "data/raw")
        outputs.append(hashes(project))
    with cluster(folder, project) as (address, cpu_s):
        edit(project, "execution", workers=address, shared=str(folder / "shared"))
        found["2 on a cluster"] = data_stages(project, "data/raw", CRASHCAST_MEMO="on")
        outputs.append(hashes(project))
        found["2 on a cluster"]["scheduler and workers"] = {"cpu_s": cpu_s()}
    table = Table("workers", "CPU-s", "wall s", "peak MiB", title="clean + label + featurize")
    for name, cost in found.items():
        totals = [sum(one.get(key, 0) for one in cost.values()) for key in ("cpu_s", "wall_s")]
        peak = max(one.get("all_processes_mib", 0) for one in cost.values())
        table.add_row(name, *(f"{total:.1f}" for total in totals), f"{peak:,.0f}")
    Console().print(table)
    for other in outputs[1:]:
        if other != outputs[0]:
            raise ValueError(f"other workers write other bytes: {', '.join(changed(outputs[0], other))}")
    return found


@contextmanager
def cluster(folder: Path, project: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """Start a scheduler and two workers; give its address, and what all three have used of the CPU since they stood."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    (folder / "shared").mkdir()
    commands = [["scheduler", "--host", address, "--dashboard-address", "127.0.0.1:0"]]
    commands += 2 * [["worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]]
    with ExitStack() as stack:
        processes = []
        for number, command in enumerate(commands):
            (place := folder / f"machine-{number}").mkdir()
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command], cwd=place, stderr=subprocess.DEVNULL,
                env=environment(project, POLARS_MAX_THREADS="1"),
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.terminate)
            processes.append(psutil.Process(process.pid))
        with Client(address, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)

        def used() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in processes)

        before = used()
        yield address, lambda: used() - before


if __name__ == "__main__":
    main()
