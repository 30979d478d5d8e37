"""What it costs to train on a sample: every design against the fit on all training rows, by PR-AUC on the test part.

    python benchmarks/sampling.py                   # simulates 1,900 servers x 36 months and runs the stages on them
    python benchmarks/sampling.py --project FOLDER  # what an earlier run prepared there with --keep

A design is a number of negatives per crash row and a limit of rows, beyond which both kinds are thinned alike. Each is
drawn several times. Every fifth server trains (ten million rows, of which seven are the train part), so that the exact
fit is possible (9 GiB); the test part holds all servers, for five times the rows make an interval narrow enough to see
5 % in. Differences are paired and two-way resampled (servers, days), relative to the exact fit; a design passes if
the 90 % interval lies within 5 % for every draw.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from project import DATA_STAGES, ROOT, command_of, copy_to, run, simulate
from rich.console import Console
from rich.table import Table

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.modeling import row_metrics
from crashcast.modeling.algorithms import DUMMY, ONE_RULE, candidates
from crashcast.modeling.bootstrap import TwoWayDraws, percentile_interval, pr_auc_replicates
from crashcast.modeling.model import fit, matrix
from crashcast.modeling.row_metrics import steps_of
from crashcast.modeling.sampling import draw_sample, feature_names
from crashcast.modeling.split_rule import HAS_LABEL, period, read_part, read_rule
from crashcast.params.evaluate import Evaluate
from crashcast.params.train import Train

FEATURES, LABELS, SPLIT = Path("data/features"), Path("data/labels"), Path("data/split.json")
ALL = 10**12
EXACT = (float(ALL), ALL)
DESIGNS = ((10.0, ALL), (10.0, 100_000), (30.0, ALL))
SEEDS = (1, 2)
SERVERS, EVERY = 1900, 5  # that are judged; of which every fifth trains
MARGIN = 0.05


def main() -> None:
    """Prepare the data if none are named, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, help="a folder that holds params.yaml, data/features and so on")
    parser.add_argument("--keep", type=Path, help="prepare the data in this folder and leave it there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.project is None:
            prepare(arguments.keep or Path(folder))
        os.chdir(arguments.project or arguments.keep or folder)
        figures, cpu_s = compare()
        os.chdir(ROOT)
    write_json(ROOT / "benchmarks" / "results" / "sampling.json", {"figures": figures, "cpu_s": cpu_s})
    report(figures)


def prepare(project: Path) -> None:
    """Simulate a fleet, run the stages up to the split, and take most servers' labels out of what comes before test."""
    copy_to(project, servers=SERVERS, start="2023-01-01", months=36)
    simulate(project)
    for stage in (*DATA_STAGES, "split"):
        run(project, *command_of(project, stage))
    labels = project / LABELS
    start, _ = tables.utc(*period(read_rule(project / SPLIT), "test"))
    for partition in tables.partitions(labels):
        rows = tables.read(path := partition.path(labels))
        trains = pl.col("server_id").is_in(rows["server_id"].unique().sort().gather_every(EVERY).implode())
        label = pl.when((pl.col("timestamp") >= start) | trains).then("label")
        tables.write(path, rows.with_columns(label=label))


def compare() -> tuple[dict[str, Any], dict[str, float]]:
    """Fit every design and score the test part.

    Returns
    -------
    dict
        The figures.
    dict
        The CPU seconds of fits, by design and algorithm.
    """
    rules, settings, rule = Train.read(), Evaluate.read(), read_rule(SPLIT)
    columns = feature_names(FEATURES)
    parts = [rows.filter(HAS_LABEL) for _, rows in read_part(FEATURES, LABELS, rule, "test", columns)]
    test = pl.concat(rows.select("timestamp", "server_id", "label") for rows in parts)
    values = np.concatenate([matrix(rows, columns) for rows in parts])
    del parts
    target = test["label"].to_numpy()
    draws = TwoWayDraws.draw(
        test["server_id"], period(rule, "test"), settings.block, settings.replicates, settings.seed
    )
    cells = draws.cells(test["server_id"], test["timestamp"])
    competing = candidates(rules.candidates, rules.seed, columns)
    last = {one.algorithm: one for one in competing if one.algorithm not in (DUMMY, ONE_RULE)}  # of each grid
    exact: dict[str, np.ndarray] = {}
    found: list[dict[str, Any]] = []
    cpu_s: dict[str, float] = {}
    for per_positive, max_rows in (EXACT, *DESIGNS):
        for seed in SEEDS[: 1 if (per_positive, max_rows) == EXACT else None]:
            design = {"negatives_per_positive": per_positive, "max_rows": max_rows, "seed": seed}
            sampled = rules.model_copy(update=design)
            sample = draw_sample(FEATURES, LABELS, rule, columns, sampled)
            for candidate in last.values():
                name, before = candidate.algorithm, cpu()
                model = fit(candidate, columns, sample.values, sample.crash, sample.share)
                cpu_s[f"{name}, {len(sample.crash)} rows"] = cpu() - before
                score = np.concatenate([model.log_odds(some) for some in np.array_split(values, 20)])
                replicates = pr_auc_replicates(target, steps_of(target, score), cells, draws)
                reference = exact.setdefault(name, replicates)
                limits = percentile_interval((replicates - reference) / reference, settings.confidence)
                found.append(
                    {
                        "algorithm": candidate.name,
                        "negatives_per_positive": None if per_positive == ALL else per_positive,
                        "max_rows": None if max_rows == ALL else max_rows,
                        "seed": seed,
                        "rows": len(sample.crash),
                        "crash_rows": int(sample.crash.sum()),
                        "pr_auc": row_metrics.pr_auc(target, score),
                        "difference_low": limits.low,
                        "difference_high": limits.high,
                    }
                )
                print(json.dumps(found[-1]), file=sys.stderr)
    test_part = {"rows": len(target), "crash_rows": int(target.sum()), "servers": draws.shape[0]}
    return {"test": test_part, "margin": MARGIN, "fits": found}, cpu_s


def cpu() -> float:
    """Return the CPU seconds that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def report(figures: dict[str, Any]) -> None:
    """Print a line for each design and algorithm, its draws together."""
    title = "PR-AUC on the test part, and its difference from the exact fit's (90 % intervals of all draws)"
    table = Table("algorithm", "negatives per crash row", "rows", "crash rows", "PR-AUC", "difference", "", title=title)
    rows = pl.DataFrame(figures["fits"])
    designs = ["algorithm", "negatives_per_positive", "max_rows"]
    for (algorithm, per_positive, _), draws in rows.group_by(designs, maintain_order=True):
        low, high = draws["difference_low"].min(), draws["difference_high"].max()
        size, crashes, areas = (draws[name] for name in ("rows", "crash_rows", "pr_auc"))
        table.add_row(
            str(algorithm),
            "all" if per_positive is None else f"{per_positive:g}",
            f"{size.mean():,.0f}",
            f"{crashes.mean():,.0f}",
            " ".join(f"{area:.4f}" for area in areas),
            f"{low:+.1%} to {high:+.1%}",
            "exact" if low == high else f"within {MARGIN:.0%}" if low >= -MARGIN and high <= MARGIN else "not within",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
