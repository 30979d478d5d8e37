"""Is the model of a demo fleet short of data? Compared with one that was trained on five times as many servers.

    python benchmarks/more_servers.py                 # six fleets; those that have results already are left out
    python benchmarks/more_servers.py --seeds 7 8     # others

The larger fleet is simulated with a seed of its own and goes through the stages as they are, as does each fleet of the
demo's size. Both models score the test part of the small fleet. PR-AUC is compared with the oracle's, by the true
crashes, and paired over fleets (Student's t). The seeds were named before any of them was run.
"""

from __future__ import annotations

import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from demo_claims import (
    BELIEVED,
    FEATURES,
    LABELS,
    MODELS,
    SPLIT,
    TRUE_LABELS,
    label_featurize_split,
    label_truth,
)
from label_evidence import interval
from project import clean_demo, run_fleets

from crashcast.modeling import row_metrics
from crashcast.modeling.model import Model, load
from crashcast.modeling.split_rule import HAS_LABEL, read_part, read_rule
from crashcast.params.label import Label
from crashcast.paths import COVERAGE_PATH
from crashcast.sources.demo.truth import oracle_scores
from stages import train

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "more_servers.json"
SEEDS = tuple(range(841, 847))
LARGER = {"seed": 840, "servers": 1500}


def main() -> None:
    """Train on the larger fleet, run every small one that has no results yet, and print the mean gain."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        larger = trained(LARGER)

    def one_fleet(seed: int) -> dict[str, float]:
        own = trained({"seed": seed})
        label_truth()
        part = read_part(FEATURES, TRUE_LABELS, read_rule(SPLIT), "test", own.features)
        test, rules = pl.concat(rows.filter(HAS_LABEL) for _, rows in part), Label.read()
        oracle = oracle_scores(test, rules.lead, rules.horizon, Path("data/demo"))["score"].to_numpy()
        scores = {"oracle": oracle, "own": own.predict(test), "larger": larger.predict(test)}
        return {name: row_metrics.pr_auc(test["label"].to_numpy(), of) for name, of in scores.items()}

    run_fleets(__doc__.splitlines()[0], SEEDS, OUT, one_fleet, "summary", summary)


def trained(demo: dict[str, int]) -> Model:
    """Simulate a fleet in the current folder, and return the model that the stages make of it."""
    cleaned = clean_demo(demo=demo)
    label_featurize_split(cleaned)
    metrics = Path("metrics/candidates.json"), Path("metrics/train.json")
    train.main(FEATURES, LABELS, SPLIT, BELIEVED, COVERAGE_PATH, MODELS, *metrics)
    return load(MODELS)


def summary(fleets: dict[str, Any]) -> dict[str, Any]:
    """Return the mean gain of the larger fleet's model, and the mean share of the oracle's that both reach."""
    of = {name: np.array([one[name] for one in fleets.values()]) for name in ("oracle", "own", "larger")}
    shares = {f"{name}_over_oracle": float((of[name] / of["oracle"]).mean()) for name in ("own", "larger")}
    return {"gain": interval(list(of["larger"] - of["own"])), **shares}


if __name__ == "__main__":
    main()
