"""Does it help to correct each server's risk by its own crashes, and to go on doing so as labels ripen?

    python benchmarks/two_tier.py                 # ten fleets; those that have results already are left out
    python benchmarks/two_tier.py --seeds 7 8     # others

Each fleet is the demo's, simulated anew and trained with `train.local: server`, and with the smaller trees as the only
candidate, which saves two thirds of the CPU. The model's scores of the test rows are
compared by PR-AUC with those that it gives without its corrections. Beside the strength that `train` chooses, two more
are compared, both of strength 3: corrections by the training rows alone, as `train` makes them, and corrections that
also count each validation and test row once its label is ripe: lead + horizon + `incidents.reporting_delay` after it.
Differences are paired over fleets (Student's t).

The rule was devised on the folds of seed 7. Four fleets (seeds 1101 to 1104) were run with another choice of the
strength: the weakest correction within the standard error of the best one, which was none on three of the four. The
choice was then changed to the best one. These seeds, the rule and the strength 3 were named before any of these fleets
was run.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from choice import known_rows
from demo_claims import BELIEVED, FEATURES, LABELS, MODELS, SPLIT, label_featurize_split
from label_evidence import interval
from numpy.typing import NDArray
from project import clean_demo, run_fleets

from crashcast.modeling import local, row_metrics
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.model import load
from crashcast.modeling.sampling import draw_sample
from crashcast.modeling.split_rule import read_rule
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train
from crashcast.paths import COVERAGE_PATH
from stages import train

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "two_tier.json"
SEEDS = tuple(range(1121, 1131))
STRENGTH = 3.0
OFF, CHOSEN, KEPT, ADAPTED = "off", "chosen strength", "strength 3", "strength 3, as labels ripen"
PAIRS = ((CHOSEN, OFF), (KEPT, OFF), (ADAPTED, OFF), (ADAPTED, KEPT))
FOUND, TRAINED = Path("metrics/candidates.json"), Path("metrics/train.json")
Floats = NDArray[np.float64]


def main() -> None:
    """Run every fleet that has no results yet, write them, and print the gains."""
    run_fleets(__doc__.splitlines()[0], SEEDS, OUT, one_fleet, "gains", gains)


def one_fleet(seed: int, **demo: Any) -> dict[str, Any]:
    """Simulate a fleet in the current folder, train, and score the test rows with and without corrections."""
    grid = Train.read(ROOT / "params.yaml").candidates.hist_gradient_boosting.model_dump() | {"max_leaf_nodes": [15]}
    only_trees = {"hist_gradient_boosting": grid}
    cleaned = clean_demo(demo={"seed": seed, **demo}, train={"local": "server", "candidates": only_trees})
    label_featurize_split(cleaned)
    train.main(FEATURES, LABELS, SPLIT, BELIEVED, COVERAGE_PATH, MODELS, FOUND, TRAINED)

    rule, model = read_rule(SPLIT), load(MODELS)
    alone = replace(model, local={})
    validation, test = known_rows(rule, "validation"), known_rows(rule, "test")
    sample = draw_sample(FEATURES, LABELS, rule, model.features, Train.read())
    window = AlarmWindow.of(Label.read(), Telemetry.read().interval)
    found = local.evidence(alone, sample, window)
    expected = {part: alone.predict(rows) for part, rows in (("validation", validation), ("test", test))}
    log_odds = np.log(expected["test"]) - np.log1p(-expected["test"])
    later = pl.concat(
        rows.select("timestamp", "server_id", observed="label", expected=pl.Series(expected[part]))
        for part, rows in (("validation", validation), ("test", test))
    )
    delay = window.duration + Incidents.read().reporting_delay
    scores = {
        OFF: log_odds,
        CHOSEN: model.predict(test),
        KEPT: replace(alone, local=local.corrections(found, STRENGTH)).predict(test),
        ADAPTED: log_odds + adapted(found, later, test, delay, window),
    }
    target = test["label"].to_numpy()
    return {
        "algorithm": model.algorithm,
        "local": json.loads(FOUND.read_text()).get("local", {"strength": None}),
        "largest_correction": max(map(abs, model.local.values()), default=0.0),
        "base_rate": float(target.mean()),
        "pr_auc": {name: row_metrics.pr_auc(target, score) for name, score in scores.items()},
    }


def adapted(
    found: pl.DataFrame, later: pl.DataFrame, rows: pl.DataFrame, delay: timedelta, window: AlarmWindow
) -> Floats:
    """Return the correction of each row by the training rows, and by later ones whose label is ripe at its time.

    Parameters
    ----------
    found : DataFrame
        `server_id`, `observed`, `expected`: of the training rows, in crashes.
    later : DataFrame
        `timestamp`, `server_id`, `observed` (the label), `expected` (the probability) of the rows after them.
    rows : DataFrame
        n rows with `timestamp` and `server_id`.
    delay : timedelta
        After which a label is ripe.
    window : AlarmWindow
        So many rows count as one crash: horizon / interval.

    Returns
    -------
    array of shape (n,)
    """
    a_crash = max(1.0, window.horizon / window.interval)
    sums = [pl.col(name).cast(pl.Float64).cum_sum().over("server_id") / a_crash for name in ("observed", "expected")]
    ripe = later.sort("timestamp").select("server_id", *sums, ripe_at=pl.col("timestamp") + delay)
    keys = rows.select("timestamp", "server_id").with_row_index("row").sort("timestamp")
    joined = keys.join_asof(
        ripe, left_on="timestamp", right_on="ripe_at", by="server_id", strategy="backward", check_sortedness=False
    ).join(found, on="server_id", how="left", suffix="_of_train")
    o, e = (
        joined.sort("row").select(pl.col(name).fill_null(0.0) + pl.col(f"{name}_of_train").fill_null(0.0)).to_series()
        for name in ("observed", "expected")
    )
    return np.log((STRENGTH + o.to_numpy()) / (STRENGTH + e.to_numpy()))


def gains(fleets: dict[str, Any]) -> dict[str, Any]:
    """Return the mean difference in PR-AUC of each pair, with its interval over fleets."""
    return {
        f"{better} against {worse}": interval(
            [fleet["pr_auc"][better] - fleet["pr_auc"][worse] for fleet in fleets.values()]
        )
        for better, worse in PAIRS
    }


if __name__ == "__main__":
    main()
