"""Does the alarm budget hold after the weeks on which the threshold was set, and which rule keeps closest to it?

    python benchmarks/alarm_budget.py                                  # eight fleets like the demo's
    python benchmarks/alarm_budget.py --project smd=FOLDER             # a project on which `dvc repro train` ran

Within train and validation the chosen candidate is trained on one block of time, its threshold is set on the next, and
its false alarms are counted on the one after. This is repeated with later blocks. Three rules compete: the lowest
threshold at which the budget holds on the block itself, and those at which it holds in half, and in four fifths, of the
block's resamples. The test part is looked at with simulated fleets alone, with the threshold as `train` sets it. Fleets
that have results already are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import chdir
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from demo_claims import BELIEVED, FEATURES, LABELS, MODELS, SPLIT, label_featurize_split
from project import clean_demo

from crashcast.canonical import write_json
from crashcast.incidents import read_covered_crashes
from crashcast.modeling.alarms import AlarmWindow, choose_threshold, judge
from crashcast.modeling.algorithms import candidates
from crashcast.modeling.model import load
from crashcast.modeling.sampling import draw_sample, feature_names
from crashcast.modeling.split_rule import labelled, period, read_part, read_rule
from crashcast.modeling.validation_scores import score_validation
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train
from crashcast.paths import COVERAGE_PATH
from stages import train

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "alarm_budget.json"
SEEDS = tuple(range(701, 709))
FOLDS = ((0.4, 0.6, 0.8), (0.5, 0.7, 0.9), (0.6, 0.8, 1.0))  # where the three blocks end, as shares of labelled rows
KEPT = (0.5, 1.5)  # times the budget: what counts as kept
RULES = {"on the block itself": None, "in half of its resamples": 0.5, "in four fifths": 0.8}
CANDIDATES = Path("metrics/candidates.json")


def main() -> None:
    """Run what has no results yet, write them, and print what they add up to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--project", action="append", default=[], metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    found: dict[str, Any] = json.loads(OUT.read_text())["sets"] if OUT.exists() else {}
    for name, folder in (one.split("=", 1) for one in arguments.project):
        with chdir(folder):
            found[name] = {"blocks": chained()}
        record(found, name)
    for seed in arguments.seeds if not arguments.project else ():
        name = f"demo {seed}"
        if name not in found:
            with tempfile.TemporaryDirectory() as folder, chdir(folder):
                found[name] = one_fleet(seed)
            record(found, name)
    print(json.dumps(summary(found), indent=1))


def record(found: dict[str, Any], name: str) -> None:
    """Write the results so far."""
    print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
    write_json(OUT, {"sets": found, "summary": summary(found)})


def one_fleet(seed: int) -> dict[str, Any]:
    """Simulate a fleet in the current folder, train, and count false alarms on later blocks and on test."""
    cleaned = clean_demo(demo={"seed": seed})
    label_featurize_split(cleaned)
    figures = Path("metrics/train.json")
    train.main(FEATURES, LABELS, SPLIT, BELIEVED, COVERAGE_PATH, MODELS, CANDIDATES, figures)
    on_validation, model, rule = json.loads(figures.read_text()), load(MODELS), read_rule(SPLIT)
    pieces = (rows for _, rows in read_part(FEATURES, LABELS, rule, "test", model.features))
    scored = pl.concat(
        rows.select("timestamp", "server_id", "label", "observed").with_columns(score=model.predict(rows))
        for rows in pieces
    )
    crashes = read_covered_crashes(BELIEVED, COVERAGE_PATH, Incidents.read())
    window = AlarmWindow.of(Label.read(), Telemetry.read().interval)
    found = judge(scored, crashes, model.threshold, window, period(rule, "test")).metrics
    spent = (found.false_alarms_per_server_day or 0.0) / Alarms.read().false_alarms_per_server_day
    interval = {side: on_validation[f"false_alarms_over_budget_{side}"] for side in ("low", "high")}
    return {"blocks": chained(), "test": {"spent": spent, "event_recall": found.event_recall, **interval}}


def chained() -> list[dict[str, Any]]:
    """Return for each fold and rule what was spent of the budget on the last block, and the recall there."""
    rules, window, limits = Train.read(), AlarmWindow.of(Label.read(), Telemetry.read().interval), Alarms.read()
    rule, columns = read_rule(SPLIT), feature_names(FEATURES)
    crashes = read_covered_crashes(BELIEVED, COVERAGE_PATH, Incidents.read())
    chosen = json.loads(CANDIDATES.read_text())["chosen"]
    candidate = next(one for one in candidates(rules.candidates, rules.seed, columns) if one.name == chosen)
    moments = pl.concat(rows.select("timestamp") for _, rows in labelled(LABELS)).to_series().dt.replace_time_zone(None)
    moments = moments.filter(moments < period(rule, "validation")[1]).sort()
    embargo = Label.read().reach + Label.read().recovery
    found = []
    for shares in FOLDS:
        fit_until, set_until, counted_until = (moments[int(share * (len(moments) - 1))] for share in shares)
        blocks = {
            "train": (period(rule, "train")[0], fit_until),
            "validation": (fit_until + embargo, set_until),
            "test": (set_until + embargo, counted_until),
        }
        model = train.fit_to(draw_sample(FEATURES, LABELS, by_time(blocks), columns, rules), candidate, columns)

        def on(block: str, model=model, blocks=blocks) -> Any:
            as_validation = by_time({**blocks, "validation": blocks[block]})
            of_block = (FEATURES, LABELS, as_validation, columns, [model.log_odds], crashes)
            return score_validation(*of_block, limits, window, Evaluate.read())

        earlier, later = on("validation"), on("test")
        spent = earlier.spent(earlier.scores(0))
        fold = {}
        for name, confidence in RULES.items():
            if confidence is None:
                threshold = choose_threshold(spent.rows, spent.crashes, spent.budget, window).threshold
            else:
                threshold = spent.threshold(confidence)
            judged = later.judge(later.scores(0), threshold).metrics
            over = (judged.false_alarms_per_server_day or 0.0) / limits.false_alarms_per_server_day
            low, high = np.quantile(spent.replicates(threshold), [0.05, 0.95])
            fold[name] = {"spent": over, "event_recall": judged.event_recall, "low": float(low), "high": float(high)}
        found.append(fold)
    return found


def by_time(blocks: dict[str, tuple[datetime, datetime]]) -> dict[str, Any]:
    """Return the rule of a split into these periods."""
    spans = {part: {"from": start.isoformat(), "to": end.isoformat()} for part, (start, end) in blocks.items()}
    return {"method": "time", "periods": spans}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Count the blocks and test parts on which the budget was kept, of simulated fleets together and of other sets."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for name, one in found.items():
        kinds.setdefault(name.split(" ")[0], []).append(one)
    return {
        kind: {
            **{name: kept([block[name] for one in of_kind for block in one["blocks"]]) for name in RULES},
            **({"test": kept([one["test"] for one in of_kind])} if "test" in of_kind[0] else {}),
        }
        for kind, of_kind in kinds.items()
    }


def kept(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Count."""
    spent = np.array([one["spent"] for one in found])
    return {
        "counted": len(found),
        "kept": int(((spent >= KEPT[0]) & (spent <= KEPT[1])).sum()),
        "median_spent": float(np.median(spent)),
        "lowest": float(spent.min()),
        "highest": float(spent.max()),
        "event_recall": float(np.mean([one["event_recall"] or 0.0 for one in found])),
        "within_the_interval": int(sum(one["low"] <= one["spent"] <= one["high"] for one in found)),
    }


if __name__ == "__main__":
    main()
