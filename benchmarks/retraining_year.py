"""A year of `crashcast retrain`, beside a model that is never trained again.

    python benchmarks/retraining_year.py           # a quarter of an hour
    python benchmarks/retraining_year.py --report  # what the results say

A model is trained on eight months of a simulated fleet and registered. Then twelve months pass; after the second, the
kinds of trouble that end in a crash are others. At the end of each month `crashcast retrain` runs, with a real git
remote, a real S3 server and a server that answers as GitHub does. A person merges what `crashcast review` accepts,
registers it and puts it into stage prod, and closes other pull requests. Each month's rows are scored with the model
that was in stage prod when the month began, and with the first one. Intervals are those of the two-way bootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
from project import ROOT, copy_to, edit, environment, run

from crashcast import registry, tables
from crashcast.canonical import write_json
from crashcast.modeling.bootstrap import TwoWayDraws, percentile_interval, pr_auc_replicates
from crashcast.modeling.row_metrics import pr_auc, steps_of
from crashcast.modeling.split_rule import read_labels
from crashcast.operate.deployment import Deployment
from crashcast.params.demo import Demo
from crashcast.sources.demo import simulator
from crashcast.sources.demo.mechanisms import Fleet
from crashcast.versioning import local_s3
from crashcast.versioning.revision import Revision
from crashcast.versioning.tracked_data import track
from crashcast.watch import retrain as retraining

sys.path.insert(0, str(ROOT / "tests" / "support"))
from changing_fleet import changed_events
from code_sites import PROJECT, TOKEN, CodeSite, serving

OUT = ROOT / "benchmarks" / "results" / "retraining_year.json"
SEED, SERVERS, MONTHS_BEFORE, MONTHS = 31, 120, 8, 12
CHANGED_AFTER = 2  # months of the year
BLOCK, REPLICATES, CONFIDENCE = timedelta(days=1), 1000, 0.90
PORT = 23_900  # of the S3 server, and the four after it
VERDICTS = {0: "ACCEPT", 1: "REJECT", 3: "INCONCLUSIVE"}


def main() -> None:
    """Let the year pass, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true")
    if not parser.parse_args().report:
        with tempfile.TemporaryDirectory() as folder, local_s3.serving(Path(folder) / "s3", PORT) as variables:
            own = {"RETRAIN_TOKEN": TOKEN, "GITHUB_REPOSITORY": PROJECT}
            with patch.dict(os.environ, variables | own | {"PYTHONPATH": str(ROOT / "src")}):
                write_json(OUT, year(Path(folder), variables["AWS_ENDPOINT_URL"]))
    print(json.dumps(json.loads(OUT.read_text()), indent=1))


def year(folder: Path, endpoint: str) -> dict[str, Any]:
    """Return what happened in each month, and the figures of the models."""
    clone = copy_to(folder / "clone", seed=SEED, servers=SERVERS, months=MONTHS_BEFORE)
    edit(clone, "retrain", min_interval="0h")  # all months pass on one day
    run(clone, "git", "add", "-A")
    run(clone, "git", "commit", "-q", "-m", "code")
    with chdir(clone), patch.object(simulator, "simulate_events", events_of):
        bring(MONTHS_BEFORE)
        run(clone, "dvc", "repro")
        run(clone, "dvc", "remote", "modify", "s3", "endpointurl", endpoint)
        run(folder, "git", "clone", "-q", "--bare", "clone", "remote.git")
        run(clone, "git", "remote", "add", "origin", "../remote.git")
        run(clone, "git", "add", "-A")
        run(clone, "git", "commit", "-q", "-m", "model")
        run(clone, "dvc", "push")
        run(clone, "git", "push", "-q", "origin", "main")
        run(folder, "git", "clone", "-q", "remote.git", "team")
        with serving(folder / "remote.git") as site:
            months = list(pass_months(folder, site, register(folder / "team")))
        run(clone, "dvc", "repro", "label", "featurize")
        run(clone, "git", "fetch", "-q", "--tags", "origin")
        return {"months": months} | figures(months)


def events_of(fleet: Fleet) -> pl.DataFrame:
    """Simulate the fleet's events, which change with the year's months."""
    demo = Demo.read()
    months = demo.start.month - 1 + MONTHS_BEFORE + CHANGED_AFTER
    return changed_events(fleet, datetime(demo.start.year + months // 12, months % 12 + 1, 1))


def bring(months: int) -> None:
    """Let raw data have so many months."""
    edit(Path.cwd(), "demo", months=months)
    simulator.write()
    track(simulator.OUTPUTS)


def register(team: Path) -> str:
    """Register the main branch's model, put it into stage prod, and return its version."""
    run(team, "crashcast", "accept")
    with chdir(team):
        version = registry.models()[-1].version
    run(team, "crashcast", "stage", version, "prod")
    run(team, "git", "push", "-q", "--tags", "origin")
    return version


def pass_months(folder: Path, site: CodeSite, in_use: str) -> Iterator[dict[str, Any]]:
    """Yield what happened at the end of each month."""
    team = folder / "team"
    for month in range(1, MONTHS + 1):
        bring(MONTHS_BEFORE + month)
        before = len(site.requests)
        outcome = retraining.retrain(None, collects=False, api=site.api)
        found = {"month": month, "in_use": in_use, "status": outcome.status, "requests": len(site.requests) - before}
        if outcome.status == retraining.OPEN:
            run(team, "git", "fetch", "-q", "origin")
            reviewed = ("crashcast", "review", "--base", "origin/main", "--head", f"origin/{retraining.BRANCH}")
            found["verdict"] = VERDICTS[subprocess.run(reviewed, cwd=team, env=environment(team)).returncode]
            if found["verdict"] == "ACCEPT":
                run(team, "git", "pull", "-q", "origin", "main")
                run(team, "git", "merge", "-q", "--no-ff", "-m", "merged", f"origin/{retraining.BRANCH}")
                run(team, "git", "push", "-q", "origin", "main")
                in_use = register(team)
            site.close(len(site.requests))
        print(found, file=sys.stderr, flush=True)
        yield found


def figures(months: list[dict[str, Any]]) -> dict[str, Any]:
    """Give each month the PR-AUC of the first model and of the one in use; return both of all months, and the gain."""
    first = months[0]["in_use"]
    models = {
        name: Deployment.of(name, Revision.find(name)).model for name in dict.fromkeys(m["in_use"] for m in months)
    }
    parts = tables.partitions(Path("data/features"))[-MONTHS:]
    frames = []
    for month, part in zip(months, parts, strict=True):
        labels = read_labels(part.path(Path("data/labels"))).filter(pl.col("label").is_not_null())
        rows = tables.read(part.path(Path("data/features"))).join(labels, on=list(tables.KEYS), maintain_order="left")
        scores = {"first": first, "in use": month["in_use"]}
        columns = {kind: pl.Series(models[name].predict(rows)) for kind, name in scores.items()}
        frames.append(rows.select(*tables.KEYS, "label", **columns))
        month |= {
            kind: round(pr_auc(frames[-1]["label"].to_numpy(), frames[-1][kind].to_numpy()), 4) for kind in scores
        }
    return {"all months": compared(pl.concat(frames)), "after the change": compared(pl.concat(frames[CHANGED_AFTER:]))}


def compared(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the PR-AUC of both, and the difference with its interval."""
    moments = rows["timestamp"].dt.replace_time_zone(None)
    period = (moments.min(), moments.max() + timedelta(hours=1))
    draws = TwoWayDraws.draw(rows["server_id"], period, BLOCK, REPLICATES, SEED)
    cells, labels = draws.cells(rows["server_id"], rows["timestamp"]), rows["label"].to_numpy()
    kinds = ("first", "in use")
    scores = {kind: rows[kind].to_numpy() for kind in kinds}
    first, used = (pr_auc_replicates(labels, steps_of(labels, scores[kind]), cells, draws) for kind in kinds)
    gain = percentile_interval(used - first, CONFIDENCE)
    found = {kind: round(pr_auc(labels, scores[kind]), 4) for kind in kinds}
    return found | {"gain": [round(limit, 4) for limit in (gain.low, gain.high)], "crash rows": int(np.sum(labels))}


if __name__ == "__main__":
    main()
