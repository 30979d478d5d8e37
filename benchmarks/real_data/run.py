"""The pipeline on real telemetry: the same commands, only params.yaml differing.

    python benchmarks/real_data/run.py smd --data ../shared/data              # up to validation
    python benchmarks/real_data/run.py smd --data ../shared/data --look-at-test
    python benchmarks/real_data/run.py upptime --data ../shared/data --local  # each site corrected by its own outages

Everything is chosen on validation. Each look at a test part is appended to `looks.jsonl`, with a hash of what had been
chosen by then: a second look after a change is no longer honest evidence, and the log shows it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LOOKS = HERE / "looks.jsonl"
SOURCES = {
    "smd": ["--incidents", "incidents.csv", "--coverage", "label_coverage.csv", "--interval", "5m"],
    "upptime": ["--incidents", "incidents.csv"],
}
FIGURES = (
    "base_rate",
    "pr_auc",
    "lift",
    "lift_low",
    "lift_high",
    "event_recall",
    "false_alarms_per_server_day",
    "false_alarm_budget",
    "crashes",
    "mean_score_over_base_rate",
)


def main() -> None:
    """Import a dataset into a clone of this commit and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=SOURCES)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the datasets")
    parser.add_argument("--look-at-test", action="store_true", help="run evaluate too, and log the look")
    parser.add_argument("--local", action="store_true", help="with train.local: server")
    arguments = parser.parse_args()
    source = arguments.data.resolve() / arguments.dataset
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        run("git", "clone", "--quiet", ROOT, project, cwd=ROOT)
        options = [source / word if word.endswith(".csv") else word for word in SOURCES[arguments.dataset]]
        run("crashcast", "import", "--telemetry", source / "telemetry.parquet", *options, cwd=project)
        changes = YAML().load(HERE / f"{arguments.dataset}.yaml")
        if arguments.local:
            changes["train"]["local"] = "server"
        chosen = override(project / "params.yaml", changes)
        run("git", "add", "--all", cwd=project)
        run("git", "commit", "--quiet", "--message", f"Import {arguments.dataset}", cwd=project)
        run("dvc", "repro", "evaluate" if arguments.look_at_test else "train", cwd=project)
        show(project, "train")
        show(project, "candidates")
        if arguments.look_at_test:
            figures = show(project, "evaluate")
            log(arguments.dataset, chosen, figures)
            run("crashcast", "verdict", cwd=project)


def run(*command: object, cwd: Path) -> None:
    """Run a command of this environment, with the clone's own code."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(list(map(str, command)), cwd=cwd, check=True, env={**os.environ, "PATH": path})


def override(params: Path, changes: dict[str, Any]) -> str:
    """Change params.yaml section by section; return its hash."""
    yaml = YAML()
    content = yaml.load(params)
    for section, values in changes.items():
        content[section].update(values)
    yaml.dump(content, params)
    return hashlib.sha256(params.read_bytes()).hexdigest()[:16]


def show(project: Path, stage: str) -> dict[str, Any]:
    """Print a metrics file."""
    figures: dict[str, Any] = json.loads((project / "metrics" / f"{stage}.json").read_text())
    print(json.dumps({stage: figures}, indent=1))
    return figures


def log(dataset: str, chosen: str, figures: dict[str, Any]) -> None:
    """Append a look at the test part."""
    known = [json.loads(line) for line in LOOKS.read_text().splitlines()] if LOOKS.exists() else []
    look = 1 + sum(entry["dataset"] == dataset for entry in known)
    kept = {name: figures[name] for name in FIGURES} | {"baselines": figures["baselines"]}
    with LOOKS.open("a") as file:
        file.write(json.dumps({"dataset": dataset, "look": look, "params": chosen, **kept}, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
