"""Whether asking about the right windows saves people's work, and whether wrong labels are found, on the demo's truth.

    python benchmarks/active_learning.py            # ten fleets on which nothing was developed
    python benchmarks/active_learning.py 11 12      # the fleets that it was developed on

Active learning: one annotation is the true answer for one server-day. Chosen by the function that `crashcast annotate
export` uses, or by lot, from the same pool, beginning with the same few; the committee that learns from them then looks
for crashes on later days. Recall is the share of the true crash days that it finds while it raises a false alarm on one
healthy day in 500. How many annotations does it take until recall stays at or above 90 % of what the whole pool gives?
If the largest budget does not suffice, it counts as enough, which favours the lot. A second lot is compared with
the first in the same way.

Flips: of as many healthy server-days as crash days, 10 % of each are given the wrong label. What share of those is
among the fifth of the labels that `crashcast suspects` doubts most?
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from demo_claims import RAW, ROOT, TRUE_INCIDENTS, stage, true_incidents
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from crashcast import tables
from crashcast.annotation.committee import Floats, fit, votes, votes_out_of_fold
from crashcast.annotation.selection import select
from crashcast.annotation.suspects import quality
from crashcast.annotation.windows import Windows, read
from crashcast.canonical import write_json
from crashcast.paths import COVERAGE_PATH
from crashcast.sources.demo import simulator

SEEDS = tuple(range(201, 211))
POOL, TEST, START, BATCH = 2000, 10_000, 50, 50
BUDGET = 600  # annotations at most
FIRST_CRASHES = 2  # in the start: a committee needs both kinds
LATER = 0.7  # of the days come before those of the test
FALSE_ALARM_SHARE = 0.002  # of healthy windows
REACHED = 0.9  # of the whole pool's recall
FLIPPED, DOUBTED, CANDIDATES = 0.1, 0.2, 750  # of each class
DAY = timedelta(days=1)


def main() -> None:
    """Run the fleets named on the command line."""
    seeds = [int(word) for word in sys.argv[1:]] or list(SEEDS)
    found = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            windows = true_windows(seed)
            os.chdir(ROOT)
        found[str(seed)] = {"active_learning": active_learning(windows, seed), "flips": flips(windows, seed)}
        print(seed, found[str(seed)], file=sys.stderr)
    result = {"fleets": found, "all": together(found)}
    if seeds == list(SEEDS):
        write_json(ROOT / "benchmarks" / "results" / "active_learning.json", result)
    report(result)


def true_windows(seed: int, **smaller: Any) -> Windows:
    """Simulate a fleet in the current folder and return its server-days, labelled by what really happened."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["demo"] |= {"seed": seed, **smaller}
    yaml.dump(params, Path("params.yaml"))
    simulator.write()
    validated = Path("data/validated.json")  # the simulated dirt is the tests' business
    write_json(validated, {"success": True})
    stage("clean", RAW, validated, "data/clean", "metrics/clean.json")
    tables.write(TRUE_INCIDENTS, true_incidents())
    return read(Path("data/clean"), TRUE_INCIDENTS, COVERAGE_PATH, DAY)


def active_learning(windows: Windows, seed: int, pool_size: int = POOL, test_size: int = TEST) -> dict[str, Any]:
    """Count the annotations that each way of asking needs (see the top of this file)."""
    draw = np.random.default_rng(seed)
    days = windows.frame["started_at"]
    border = days.unique().sort()[int(LATER * days.n_unique())]
    early, late = (np.flatnonzero(mask) for mask in ((days < border).to_numpy(), (days >= border).to_numpy()))
    pool = windows.take(np.sort(draw.choice(early, pool_size, replace=False)))
    test = windows.take(np.sort(draw.choice(late, min(test_size, len(late)), replace=False)))
    whole = recall(pool, np.arange(pool_size), test, seed)
    start = np.concatenate(
        [
            draw.choice(np.flatnonzero(pool.crash), FIRST_CRASHES, replace=False),
            draw.choice(np.flatnonzero(~pool.crash), START - FIRST_CRASHES, replace=False),
        ]
    )
    curves = {
        "selected": curve(pool, test, start, seed, None),
        "by lot": curve(pool, test, start, seed, np.random.default_rng([seed, 1])),
        "by another lot": curve(pool, test, start, seed, np.random.default_rng([seed, 2])),
    }
    needed = {name: annotations_needed(points, REACHED * whole) for name, points in curves.items()}
    return {
        "pool_crashes": int(pool.crash.sum()),
        "test_crashes": int(test.crash.sum()),
        "recall_of_whole_pool": whole,
        "annotations_needed": needed,
        "ratio": needed["selected"] / needed["by lot"],
        "ratio_of_lots": needed["by another lot"] / needed["by lot"],
        "curves": curves,
    }


def curve(
    pool: Windows, test: Windows, start: np.ndarray, seed: int, lot: np.random.Generator | None
) -> list[dict[str, Any]]:
    """Annotate in batches until the budget is spent: by lot, or by `select` if there is no lot."""
    known, points = start, []
    while True:
        found, crashes = recall(pool, known, test, seed), int(pool.crash[known].sum())
        points.append({"annotations": len(known), "crashes": crashes, "recall": found})
        if len(known) >= BUDGET:
            return points
        rest = np.setdiff1d(np.arange(len(pool)), known)
        if lot is None:
            asked = pool.take(rest)
            said = votes(fit(pool.evidence[known], pool.crash[known], seed), asked.evidence)
            chosen = select(said, asked.evidence, BATCH, seed + len(known))
        else:
            chosen = lot.choice(len(rest), BATCH, replace=False)
        known = np.concatenate([known, rest[chosen]])


def annotations_needed(points: list[dict[str, Any]], target: float) -> int:
    """Return from how many annotations on recall stays at the target or above; the budget if it never does."""
    needed = BUDGET
    for point in reversed(points):
        if point["recall"] < target:
            break
        needed = point["annotations"]
    return needed


def recall(pool: Windows, known: np.ndarray, test: Windows, seed: int) -> float:
    """Teach a committee what is known of the pool; return the share of the test's crashes that it finds."""
    score = votes(fit(pool.evidence[known], pool.crash[known], seed), test.evidence).mean(axis=1)
    crash = test.crash[np.argsort(-score, kind="stable")]
    allowed = int(FALSE_ALARM_SHARE * np.count_nonzero(~crash))
    return float(crash[np.cumsum(~crash) <= allowed].sum() / crash.sum())


def flips(windows: Windows, seed: int, candidates: int = CANDIDATES) -> dict[str, float]:
    """Return the share of the flipped labels among those doubted most, of both kinds and of each."""
    draw = np.random.default_rng([seed, 3])
    kinds = [np.flatnonzero(windows.crash), np.flatnonzero(~windows.crash)]
    size = min(candidates, *map(len, kinds))
    chosen = np.concatenate([draw.choice(kind, size, replace=False) for kind in kinds])
    events, wrong = windows.take(chosen), np.zeros(2 * size, dtype=bool)
    for first in (0, size):
        wrong[first + draw.choice(size, round(FLIPPED * size), replace=False)] = True
    said = events.crash ^ wrong
    probability: Floats = votes_out_of_fold(events.evidence, said, events.frame["server_id"].to_numpy(), seed).mean(
        axis=1
    )
    doubted = np.argsort(quality(said, probability), kind="stable")[: round(DOUBTED * 2 * size)]
    found = np.isin(np.arange(2 * size), doubted)
    return {
        "found": float(found[wrong].mean()),
        "found_of_crashes": float(found[wrong & events.crash].mean()),
        "found_of_healthy": float(found[wrong & ~events.crash].mean()),
    }


def together(found: dict[str, Any]) -> dict[str, float]:
    """Put the fleets together as the claim is made."""
    learning = pl.DataFrame(
        [{k: v for k, v in one["active_learning"].items() if k != "curves"} for one in found.values()]
    )
    by_lot = np.array([one["active_learning"]["annotations_needed"]["by lot"] for one in found.values()])
    return {
        "median_ratio": float(learning["ratio"].median()),  # type: ignore[arg-type]
        "fleets_with_fewer": int((learning["ratio"] < 1).sum()),
        "median_ratio_of_lots": float(learning["ratio_of_lots"].median()),  # type: ignore[arg-type]
        "fleets_where_another_lot_needs_fewer": int((learning["ratio_of_lots"] < 1).sum()),
        "fewest_by_lot": int(by_lot.min()),
        "median_by_lot": float(np.median(by_lot)),
        "fleets_where_the_budget_by_lot_did_not_suffice": int((by_lot == BUDGET).sum()),
        "fewest_test_crashes": int(learning["test_crashes"].min()),  # type: ignore[arg-type]
        "mean_share_of_flips_found": float(np.mean([one["flips"]["found"] for one in found.values()])),
    }


def report(result: dict[str, Any]) -> None:
    """Print a line for each fleet."""
    table = Table(
        "fleet", "crash days: pool", "test", "recall of the pool", "selected", "by lot", "ratio", "lots", "flips"
    )
    for seed, one in result["fleets"].items():
        learning, needed = one["active_learning"], one["active_learning"]["annotations_needed"]
        table.add_row(
            seed,
            *(str(learning[name]) for name in ("pool_crashes", "test_crashes")),
            f"{learning['recall_of_whole_pool']:.2f}",
            *(str(needed[name]) for name in ("selected", "by lot")),
            *(f"{learning[name]:.2f}" for name in ("ratio", "ratio_of_lots")),
            f"{one['flips']['found']:.0%}",
        )
    Console().print(table)
    Console().print(result["all"])


if __name__ == "__main__":
    main()
