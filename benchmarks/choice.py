"""Is the model that `train` chooses better than that of an earlier recipe, and does the figure that it expects hold?

    python benchmarks/choice.py                 # twenty fleets; those that have results already are left out
    python benchmarks/choice.py --seeds 7 8     # others

Each fleet is the demo's, simulated anew. Both recipes are judged on the same test rows. The earlier one is that of the
version before folds: its features, and the tree with the highest PR-AUC on validation. The seeds were named before any
of them was run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from demo_claims import BELIEVED, FEATURES, LABELS, MODELS, SPLIT, label_featurize_split
from project import clean_demo, edit, run_fleets
from scipy import stats

from crashcast.modeling import row_metrics
from crashcast.modeling.algorithms import candidates
from crashcast.modeling.model import Model, fit, load, matrix
from crashcast.modeling.sampling import draw_sample, feature_names
from crashcast.modeling.split_rule import HAS_LABEL, read_part, read_rule
from crashcast.params.train import Candidates, Train
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH
from stages import featurize, train

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "choice.json"
SEEDS = tuple(range(811, 831))
EARLIER = {
    "learning_rate": [0.05],
    "max_iter": 150,
    "max_leaf_nodes": [7, 15],
    "min_samples_leaf": 50,
    "l2_regularization": 1.0,
}
EARLIER_NEGATIVES_PER_POSITIVE = 10
EARLIER_FEATURES = {"rolling_mean": ["6h", "1d"], "rolling_std": ["1d"], "rolling_max": [], "differences": ["1d"]}
CONFIDENCE = 0.9
FOUND, TRAINED = Path("metrics/candidates.json"), Path("metrics/train.json")


def main() -> None:
    """Run every fleet that has no results yet, write them, and print what they add up to."""
    run_fleets(__doc__.splitlines()[0], SEEDS, OUT, one_fleet, "summary", summary)


def one_fleet(seed: int) -> dict[str, Any]:
    """Simulate a fleet in the current folder, and train by the stage and with the earlier recipe."""
    cleaned = clean_demo(demo={"seed": seed})
    label_featurize_split(cleaned)
    train.main(FEATURES, LABELS, SPLIT, BELIEVED, COVERAGE_PATH, MODELS, FOUND, TRAINED)
    found, rule = json.loads(FOUND.read_text()), read_rule(SPLIT)
    test = known_rows(rule, "test")
    target = test["label"].to_numpy()
    pr_auc = row_metrics.pr_auc(target, load(MODELS).predict(test))

    edit(Path(), "features", **EARLIER_FEATURES)
    featurize.main(cleaned, INCIDENTS_PATH, COVERAGE_PATH, FEATURES)
    earlier, test = of_earlier_grid(rule), known_rows(rule, "test")
    return {
        "chosen": found["chosen"],
        "pr_auc": pr_auc,
        "pr_auc_of_earlier_recipe": row_metrics.pr_auc(target, log_odds(earlier, test)),
        "base_rate": float(target.mean()),
        "expected": found["expected"],
    }


def known_rows(rule: dict[str, Any], part: str) -> pl.DataFrame:
    """Return the rows of a part whose label is known."""
    return pl.concat(rows.filter(HAS_LABEL) for _, rows in read_part(FEATURES, LABELS, rule, part))


def of_earlier_grid(rule: dict[str, Any]) -> Model:
    """Return the model of the earlier grid that has the highest PR-AUC on validation."""
    columns = feature_names(FEATURES)
    rules = Train.read().model_copy(update={"negatives_per_positive": EARLIER_NEGATIVES_PER_POSITIVE})
    sample, validation = draw_sample(FEATURES, LABELS, rule, columns, rules), known_rows(rule, "validation")
    target = validation["label"].to_numpy()
    grid = Candidates.model_validate({"hist_gradient_boosting": EARLIER})
    models = [
        fit(candidate, columns, sample.values, sample.crash, sample.share)
        for candidate in candidates(grid, rules.seed, columns)
    ]
    return max(models, key=lambda model: row_metrics.pr_auc(target, log_odds(model, validation)))


def log_odds(model: Model, rows: pl.DataFrame) -> np.ndarray:
    """Score rows before calibration, which changes no rank."""
    return model.log_odds(matrix(rows, model.features))


def summary(fleets: dict[str, Any]) -> dict[str, Any]:
    """Return the mean gain with its interval over fleets, and in how many of them the expected figure holds."""
    gains = np.array([one["pr_auc"] - one["pr_auc_of_earlier_recipe"] for one in fleets.values()])
    error = stats.sem(gains) * stats.t.ppf((1 + CONFIDENCE) / 2, len(gains) - 1) if len(gains) > 1 else np.nan
    holds = {"pr_auc": 0, "lift": 0}
    for one in fleets.values():
        for name, figure in (("pr_auc", one["pr_auc"]), ("lift", one["pr_auc"] / one["base_rate"])):
            holds[name] += one["expected"][f"{name}_low"] <= figure <= one["expected"][f"{name}_high"]
    return {
        "fleets": len(fleets),
        "gain": float(gains.mean()),
        "gain_low": float(gains.mean() - error) if len(gains) > 1 else None,
        "gain_high": float(gains.mean() + error) if len(gains) > 1 else None,
        "expected_pr_auc_holds": holds["pr_auc"],
        "expected_lift_holds": holds["lift"],
        "mean_expected_pr_auc": float(np.mean([one["expected"]["pr_auc"] for one in fleets.values()])),
        "mean_pr_auc": float(np.mean([one["pr_auc"] for one in fleets.values()])),
    }


if __name__ == "__main__":
    main()
