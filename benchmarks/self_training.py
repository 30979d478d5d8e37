"""Does it help to learn from what no incident records cover, as the model itself labels it?

    python benchmarks/self_training.py                 # ten fleets like the demo's
    python benchmarks/self_training.py --seeds 7 8     # others

Each fleet is simulated anew, and its records begin so late that a third of the train part is left, or a tenth. Three
models are trained, alike but for `train.self_training`, and judged on the same test rows: by PR-AUC, and by the event
recall at the alarm budget. A fourth has all labels, and says what there was to gain. Differences are paired over fleets
(Student's t). Certainties were set beforehand.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from demo_claims import BELIEVED, FEATURES, LABELS, MODELS, SPLIT, label_featurize_split
from label_evidence import CANDIDATES, interval
from project import clean_demo, edit

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import alarms, row_metrics
from crashcast.modeling.model import load
from crashcast.modeling.split_rule import HAS_LABEL, period, read_part, read_rule
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.paths import COVERAGE_PATH
from stages import train

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "self_training.json"
SEEDS = tuple(range(501, 511))
CERTAINTIES = (0.5, 0.75)
LABELLED = {"a third": 1 / 3, "a tenth": 1 / 10}  # of the train part
FIGURES = ("pr_auc", "event_recall")
NONE, ALL = "labelled rows alone", "all labels"


def main() -> None:
    """Run every fleet, and write and print the gains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    seeds, fleets = parser.parse_args().seeds, {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            fleets[str(seed)] = one_fleet(seed)
            os.chdir(ROOT)
        print(f"seed {seed}: {json.dumps(fleets[str(seed)])}", file=sys.stderr, flush=True)
        write_json(OUT, {"fleets": fleets, "gains": gains(fleets)})
    print(json.dumps(gains(fleets), indent=1))


def one_fleet(seed: int) -> dict[str, Any]:
    """Simulate a fleet in the current folder and train on more and more of its labels."""
    by_tickets = {"aggregate": "tickets"}  # whom to believe is not the question here
    cleaned = clean_demo(demo={"seed": seed}, label=by_tickets, train={"candidates": CANDIDATES})
    prepare(cleaned)
    found: dict[str, Any] = {ALL: trained(None)}
    full = tables.read(COVERAGE_PATH)
    start, end = period(read_rule(SPLIT), "train")
    for name, share in LABELLED.items():
        begins = tables.utc(end - share * (end - start), end)[0]
        tables.write(COVERAGE_PATH, full.with_columns(covered_from=pl.max_horizontal("covered_from", begins)))
        rule = SPLIT.read_bytes()
        prepare(cleaned)
        SPLIT.write_bytes(rule)  # the parts stay where they were
        found[name] = {NONE: trained(None)}
        for certainty in CERTAINTIES:
            found[name][f"certainty {certainty}"] = trained({"certainty": certainty})
    return found


def prepare(cleaned: Path) -> None:
    """Run what depends on the records' coverage."""
    label_featurize_split(cleaned)


def trained(self_training: dict[str, float] | None) -> dict[str, float]:
    """Train a model, and judge it on the test rows."""
    edit(Path.cwd(), "train", self_training=self_training)
    figures = Path("metrics/candidates.json"), Path("metrics/train.json")
    train.main(FEATURES, LABELS, SPLIT, BELIEVED, COVERAGE_PATH, MODELS, *figures)
    rules, rule, model = Label.read(), read_rule(SPLIT), load(MODELS)
    crashes = read_covered_crashes(BELIEVED, COVERAGE_PATH, Incidents.read())
    test = pl.concat(rows.filter(HAS_LABEL) for _, rows in read_part(FEATURES, LABELS, rule, "test"))
    score = model.predict(test)
    rows = test.select("timestamp", "server_id", "label", "observed").with_columns(score=score)
    window = alarms.AlarmWindow.of(rules, Telemetry.read().interval)
    found = alarms.judge(rows, crashes, model.threshold, window, period(rule, "test")).metrics
    area = row_metrics.pr_auc(test["label"].to_numpy(), score)
    return {"pr_auc": area, "event_recall": found.event_recall or 0.0, "rows": float(test.height)}


def gains(fleets: dict[str, Any]) -> dict[str, Any]:
    """Return what self-training, and what all labels, gain over the labelled rows alone."""
    return {
        f"{name} labelled, {way}: {figure}": interval(
            [
                (fleet[ALL] if way == ALL else fleet[name][way])[figure] - fleet[name][NONE][figure]
                for fleet in fleets.values()
            ]
        )
        for name in LABELLED
        for way in (*(f"certainty {certainty}" for certainty in CERTAINTIES), ALL)
        for figure in FIGURES
    }


if __name__ == "__main__":
    main()
