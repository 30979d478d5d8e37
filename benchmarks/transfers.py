"""What it costs to push and pull a GiB of monthly files, beside s5cmd and rclone.

    python benchmarks/transfers.py [--runs 5] [--mib 1024] [--files 36]

Files of random bytes, which nothing can compress, go up to the local S3 server and come back. In every run each tool
has its turn, in an order that rotates, with a new server and empty folders:

    dvc       `dvc push` from a cache that holds the files, `dvc pull` in a clone that has none, verify on as committed
    make      `make push` and `make pull`: the same with the checks and the other steps that the project adds
    s5cmd     `s5cmd cp`, as installed
    rclone    `rclone copy`, as installed; it checks MD5s, as dvc does

What came back is compared byte for byte, unmeasured. s5cmd is a package of Python's index, rclone one of Debian's;
without them the benchmark ends in an error. Wall time includes each program's start. CPU is user + system time of the
command and its children; the server's, which works on the same machine, stands apart. Ratios are of medians, to s5cmd.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from measure import measure
from project import ROOT
from rich.console import Console
from rich.table import Table

from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.versioning import local_s3

RESULTS = ROOT / "benchmarks" / "results" / "transfers.json"
PORT = 21_333
MIB = 2**20
DATA = Path("data", "raw", "telemetry")
TOOLS = ("dvc", "make", "s5cmd", "rclone")
DIRECTIONS = ("push", "pull")
GIT = ("git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@example.com")
Figures = dict[str, dict[str, dict[str, list[float]]]]


@dataclass(frozen=True)
class Folders:
    """The source and target of the files.

    Attributes
    ----------
    project, clone : Path
        A project whose cache holds the files, and a clone of it that has none.
    back : Path
        The folder into which the tools beside DVC download.
    """

    project: Path
    clone: Path
    back: Path


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--files", type=int, default=36)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="the folder for the files; by default, a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        folders = prepare(Path(folder), arguments.files, arguments.mib * MIB)
        found: Figures = {tool: {direction: {} for direction in DIRECTIONS} for tool in arguments.tools}
        load: list[float] = []
        for run in range(arguments.runs):
            turns = [*arguments.tools[run % len(arguments.tools) :], *arguments.tools[: run % len(arguments.tools)]]
            for tool in turns:
                load.append(os.getloadavg()[0])
                for direction, costs in transfer(tool, folders, Path(folder, "crashcast", "s3")).items():
                    for name, value in costs.items():
                        found[tool][direction].setdefault(name, []).append(round(value, 2))
    result = {
        "files": arguments.files,
        "mib": arguments.mib,
        "load_before": [round(value, 2) for value in load],
        "programs": {tool: version(tool) for tool in arguments.tools if tool != "make"},
        "tools": found,
        "wall_over_s5cmd": ratios(found),
    }
    write_json(arguments.out, result)
    show(found)


def prepare(folder: Path, files: int, total_bytes: int) -> Folders:
    """Make a project with the files, tracked by DVC and committed, and a clone of it."""
    folders = Folders(folder / "project", folder / "clone", folder / "back")
    (folders.project / ".dvc").mkdir(parents=True)
    for name in ("Makefile", "params.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, folders.project / name)
    config = folders.project / ".dvc" / "config"
    config.write_text(config.read_text().replace(local_s3.endpoint(), local_s3.endpoint(PORT)))
    rng = np.random.default_rng(1)
    for number in range(files):
        path = folders.project / DATA / f"month={2023 + number // 12}-{number % 12 + 1:02}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(rng.bytes(total_bytes // files))
    run(folders.project, "git", "init", "--quiet", "--initial-branch=main")
    run(folders.project, "dvc", "add", "--quiet", DATA)
    run(folders.project, "git", "add", ".")
    run(folders.project, *GIT, "commit", "--quiet", "--message=files")
    run(folder, "git", "clone", "--quiet", folders.project, folders.clone)
    for here in (folders.project, folders.clone):
        (here / ".venv").symlink_to(sys.prefix)
    return folders


def transfer(tool: str, folders: Folders, store: Path) -> dict[str, dict[str, float]]:
    """Push with a tool to a new server, pull from it, and say what both cost."""
    shutil.rmtree(folders.back, ignore_errors=True)
    shutil.rmtree(folders.clone / ".dvc" / "cache", ignore_errors=True)
    shutil.rmtree(folders.clone / DATA, ignore_errors=True)
    costs = {}
    home = store.parents[1]  # where `crashcast s3` looks for it
    with tempfile.TemporaryDirectory(dir=home) as state, local_s3.serving(store, PORT) as environment:
        own = {"DVC_SITE_CACHE_DIR": state, "XDG_DATA_HOME": str(home), "PATH": path()}
        for direction in DIRECTIONS:
            cwd, command = command_of(tool, direction, folders)
            before_s = server_cpu_s(store)
            os.sync()  # what lies unwritten is not this run's
            usage, _ = measure(command, cwd=cwd, env=environment | own)
            costs[direction] = {
                "wall_s": usage.wall_s,
                "cpu_s": usage.cpu_s,
                "largest_process_mib": usage.largest_process_mib,
                "server_cpu_s": server_cpu_s(store) - before_s,
            }
    with suppress(UserError):
        local_s3.wait_for_end(store)
    compare(folders.project / DATA, folders.clone / DATA if tool in ("dvc", "make") else folders.back)
    shutil.rmtree(store)
    return costs


def command_of(tool: str, direction: str, folders: Folders) -> tuple[Path, list[str]]:
    """Return the folder to run a command in, and the command."""
    is_push = direction == "push"
    here = folders.project if is_push else folders.clone
    local, far = folders.project / DATA, f"{local_s3.BUCKET}/{tool}"
    match tool:
        case "dvc":
            return here, ["dvc", direction, "--quiet"]
        case "make":
            return here, ["make", "--silent", "--old-file=env", f"S3_PORT={PORT}", direction]
        case "s5cmd":
            ends = [f"{local}/", f"s3://{far}/"] if is_push else [f"s3://{far}/*", f"{folders.back}/"]
            return here, ["s5cmd", "--log=error", f"--endpoint-url={local_s3.endpoint(PORT)}", "cp", *ends]
        case _:
            server = f':s3,provider=Other,env_auth=true,endpoint="{local_s3.endpoint(PORT)}":{far}'
            ends = [str(local), server] if is_push else [server, str(folders.back)]
            return here, ["rclone", "--config=", "--s3-no-check-bucket", "copy", *ends]


def server_cpu_s(store: Path) -> float:
    """Return the CPU time that the server over `store` has taken so far."""
    total_s = 0.0
    for process in psutil.process_iter(["name", "cwd", "cpu_times"]):
        if process.info["name"] == "weed" and process.info["cwd"] == str(store):
            total_s += process.info["cpu_times"].user + process.info["cpu_times"].system
    return total_s


def compare(one: Path, other: Path) -> None:
    """Check that two folders hold the same files.

    Raises
    ------
    SystemExit
        If they do not.
    """
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    found = sorted(str(path.relative_to(other)) for path in other.rglob("*") if path.is_file())
    if names != found or filecmp.cmpfiles(one, other, names, shallow=False)[0] != names:
        sys.exit(f"{other} does not hold what {one} does")


def version(tool: str) -> str:
    """Return what a program says of itself, in its first line."""
    option = "--version" if tool == "dvc" else "version"
    said = subprocess.run([tool, option], text=True, capture_output=True, check=True, env=os.environ | {"PATH": path()})
    return said.stdout.splitlines()[0]


def path() -> str:
    """Return the search path of programs: this environment's first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def ratios(found: Figures) -> dict[str, dict[str, float]]:
    """Return every tool's median wall time over s5cmd's."""
    if "s5cmd" not in found:
        return {}
    return {
        direction: {
            tool: round(median(found, tool, direction) / median(found, "s5cmd", direction), 2) for tool in found
        }
        for direction in DIRECTIONS
    }


def median(found: Figures, tool: str, direction: str, name: str = "wall_s") -> float:
    """Return the median of one figure."""
    return statistics.median(found[tool][direction][name])


def run(cwd: Path, *command: object) -> None:
    """Run a command."""
    subprocess.run(list(map(str, command)), cwd=cwd, check=True, env=os.environ | {"PATH": path()})


def show(found: Figures) -> None:
    """Print the medians."""
    table = Table("", *(f"{direction} {name}" for direction in DIRECTIONS for name in ("wall s", "CPU-s", "server")))
    for tool in found:
        names = ("wall_s", "cpu_s", "server_cpu_s")
        figures = [median(found, tool, direction, name) for direction in DIRECTIONS for name in names]
        table.add_row(tool, *(f"{figure:.2f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
