"""A copy of this project with a demo fleet of any size, for benchmarks: the checkout itself is never run."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from ruamel.yaml import YAML

from crashcast import tables
from crashcast.canonical import write_json

ROOT = Path(__file__).resolve().parents[1]
MADE = ("data/", "metrics/", "plots/", "models/", "dvc.lock")  # what the pipeline makes
ANNOTATIONS = "data/raw/annotations.parquet"  # in git, for people make it
DATA_STAGES = ("clean", "label", "featurize")


def copy_to(folder: Path, **demo: Any) -> Path:
    """Copy the files of this checkout, as they are now, into a new repository, with the `demo` section changed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, text=True, capture_output=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and (name == ANNOTATIONS or not name.startswith(MADE)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    edit(folder, "demo", **demo)
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    return folder


def no_annotations(project: Path) -> None:
    """Write that nobody annotated anything, as this checkout has it."""
    (project / ANNOTATIONS).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / ANNOTATIONS, project / ANNOTATIONS)


def simulate(project: Path) -> None:
    """Write the demo fleet, and what `clean` asks of `validate`: the simulated dirt is the tests' business."""
    run(project, sys.executable, "-c", "from crashcast.sources.demo.simulator import write; write()")
    accept(project)


def clean_demo(**sections: dict[str, Any]) -> Path:
    """Simulate a fleet in the current folder, with these values in params.yaml, and return the clean table."""
    from crashcast.paths import CLEAN_PATH, TELEMETRY_PATH
    from crashcast.sources.demo import simulator
    from stages import clean

    shutil.copy(ROOT / "params.yaml", ".")
    for name, values in {**sections, "execution": {"workers": 1}}.items():
        edit(Path(), name, **values)
    simulator.write()
    no_annotations(Path())
    accept(Path())
    clean.main(TELEMETRY_PATH, Path("data/validated.json"), CLEAN_PATH, Path("metrics/clean.json"))
    return CLEAN_PATH


def run_fleets(
    about: str,
    seeds: Sequence[int],
    results: Path,
    one_fleet: Callable[[int], dict[str, Any]],
    name: str,
    summarise: Callable[[dict[str, Any]], Any],
) -> None:
    """Run every fleet that has no results yet, each in a folder of its own, write them, and print what they add up to.

    Parameters
    ----------
    about : str
        Of the benchmark, for its help.
    seeds, results
        The fleets' seeds and the file of results, if the options `--seeds` and `--out` name no others.
    one_fleet : function
        Turns a seed into the results of its fleet, which is simulated in the current folder.
    name, summarise
        What the results of all fleets add up to, and its name in the file.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--out", type=Path, default=results)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    fleets: dict[str, Any] = json.loads(out.read_text())["fleets"] if out.exists() else {}
    for seed in arguments.seeds:
        if str(seed) in fleets:
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            fleets[str(seed)] = one_fleet(seed)
            os.chdir(ROOT)
        print(f"seed {seed}: {json.dumps(fleets[str(seed)])}", file=sys.stderr, flush=True)
        write_json(out, {"fleets": fleets, name: summarise(fleets)})
    print(json.dumps(summarise(fleets), indent=1))


def accept(project: Path) -> None:
    """Write what `validate` says of good raw data."""
    write_json(project / "data" / "validated.json", {"success": True})


def count_rows(table: Path) -> int:
    """Count the rows of a table."""
    files = [partition.path(table) for partition in tables.partitions(table)]
    return sum(pl.scan_parquet(file).select(pl.len()).collect().item() for file in files)


def edit(project: Path, section: str, **values: Any) -> None:
    """Change a section of params.yaml."""
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params[section].update(values)
    yaml.dump(params, project / "params.yaml")


def environment(project: Path, **variables: str) -> Mapping[str, str]:
    """Return the environment in which the project's own code, in this Python, is what runs."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(project / "src"), **variables}


def run(project: Path, *command: object) -> None:
    """Run a command in the project."""
    subprocess.run(
        list(map(str, command)), cwd=project, env=environment(project), check=True, stdout=subprocess.DEVNULL
    )


def command_of(project: Path, stage: str) -> list[str]:
    """Return a stage's command line as dvc.yaml gives it."""
    words: list[str] = YAML(typ="safe").load(project / "dvc.yaml")["stages"][stage]["cmd"].split()
    return [sys.executable, *words[1:]]
