"""What the demo fleet can teach: the pipeline against chance, one rule, a model without the interaction, and an oracle.

    python benchmarks/demo_claims.py            # the default seed and five that nothing was developed on
    python benchmarks/demo_claims.py 7          # one seed

Each fleet is simulated anew and goes through the stages as they are. Models learn from what the label stage believes,
as a team's would; they are judged by the true crashes, which the simulator wrote aside. Every threshold is set on
validation to spend the alarm budget. Intervals are two-way (servers, days) and paired.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from project import ANNOTATIONS, edit, no_annotations
from ruamel.yaml import YAML

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import alarms, row_metrics
from crashcast.modeling.algorithms import candidates
from crashcast.modeling.bootstrap import (
    TwoWayDraws,
    percentile_interval,
    pr_auc_replicates,
    ratio_replicates,
    total_replicates,
)
from crashcast.modeling.model import fit, load, matrix
from crashcast.modeling.sampling import draw_sample
from crashcast.modeling.split_rule import HAS_LABEL, period, read_part, read_rule
from crashcast.params.alarms import Alarms
from crashcast.params.demo import Demo
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TABLES
from crashcast.paths import TELEMETRY_PATH as RAW
from crashcast.sources.demo import simulator
from crashcast.sources.demo.truth import oracle_scores
from stages import featurize, label, split

ROOT = Path(__file__).resolve().parents[1]
UNSEEN_SEEDS = (101, 102, 103, 104, 105)
KNOWN = (*TABLES[TABLES.index(COVERAGE_PATH) :], Path(ANNOTATIONS))  # what `label` reads of crashes beside incidents
BELIEVED, VOTES = Path("data/incidents.parquet"), Path("data/votes.parquet")
FEATURES, LABELS, SPLIT, MODELS = Path("data/features"), Path("data/labels"), Path("data/split.json"), Path("models")
TRUE_INCIDENTS, TRUE_LABELS = Path("data/true_incidents.parquet"), Path("data/true_labels")
Gains = dict[str, dict[str, np.ndarray]]
# the claim: the first scores better than the second
CLAIMS = (
    ("model", "dummy"),
    ("model", "recency"),
    ("logistic with interaction", "logistic without"),
)


def main() -> None:
    """Run the seeds named on the command line."""
    seeds = [int(word) for word in sys.argv[1:]] or [Demo.read(ROOT / "params.yaml").seed, *UNSEEN_SEEDS]
    results, gains = {}, {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            results[str(seed)], gains[seed] = one_fleet(seed)
            os.chdir(ROOT)
        print(f"seed {seed}: done", file=sys.stderr)
    pooled = {
        name: {
            # fleets are independent: their mean gain, replicate by replicate
            figure: percentile_interval(
                np.mean([gains[seed][name][figure] for seed in seeds], axis=0), Evaluate.read().confidence
            )[:2]
            for figure in ("pr_auc", "event_recall")
        }
        for name in gains[seeds[0]]
    }
    write_json(ROOT / "benchmarks" / "results" / "demo_claims.json", {"fleets": results, "pooled_gains": pooled})
    report(results, pooled)


def one_fleet(seed: int) -> tuple[dict[str, Any], Gains]:
    """Simulate a fleet, run the stages in the current folder, and judge by the truth (see `judge`)."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["demo"]["seed"] = seed
    yaml.dump(params, Path("params.yaml"))
    simulator.write()
    validated = Path("data/validated.json")  # the simulated dirt is the tests' business
    write_json(validated, {"success": True})
    stage("clean", RAW, validated, "data/clean", "metrics/clean.json")
    no_annotations(Path.cwd())
    stage("label", "data/clean", RAW, INCIDENTS_PATH, *KNOWN, LABELS, BELIEVED, VOTES, "metrics/label.json")
    stage("featurize", "data/clean", INCIDENTS_PATH, COVERAGE_PATH, FEATURES)
    stage("split", LABELS, COVERAGE_PATH, SPLIT, "metrics/split.json")
    stage(
        "train",
        FEATURES,
        LABELS,
        SPLIT,
        BELIEVED,
        COVERAGE_PATH,
        MODELS,
        "metrics/candidates.json",
        "metrics/train.json",
    )
    label_truth()
    return judge()


def stage(name: str, *arguments: str | Path) -> None:
    """Run one stage as dvc.yaml does."""
    command = [sys.executable, ROOT / "src" / "run.py", name, *arguments]
    subprocess.run(list(map(str, command)), check=True, stderr=subprocess.DEVNULL)


def label_featurize_split(cleaned: Path) -> None:
    """Run the stages from the clean table to the split in this process, in the current folder."""
    label.main(cleaned, RAW, INCIDENTS_PATH, *KNOWN, LABELS, BELIEVED, VOTES, Path("metrics/label.json"))
    featurize.main(cleaned, INCIDENTS_PATH, COVERAGE_PATH, FEATURES)
    split.main(LABELS, COVERAGE_PATH, SPLIT, Path("metrics/split.json"))


def label_truth() -> None:
    """Label the rows by what really happened."""
    tables.write(TRUE_INCIDENTS, true_incidents())
    edit(Path.cwd(), "label", aggregate="tickets")
    outputs = (TRUE_LABELS, "data/true_believed.parquet", "data/true_votes.parquet", "metrics/true_label.json")
    stage("label", "data/clean", RAW, TRUE_INCIDENTS, *KNOWN, *outputs)


def true_incidents() -> pl.DataFrame:
    """Return what really happened in the layout of the records: true crashes, and the planned work as recorded."""
    truth = tables.read(Path("data/demo/truth.parquet"))
    planned = tables.read(INCIDENTS_PATH).filter(pl.col("kind") == tables.MAINTENANCE)
    crashes = truth.select("server_id", started_at="crashed_at", resolved_at="resolved_at").with_columns(
        kind=pl.lit(tables.CRASH)
    )
    return pl.concat([planned, crashes], how="diagonal").select(*tables.INCIDENTS).sort("started_at", "server_id")


def judge() -> tuple[dict[str, Any], Gains]:
    """Score the test part with every contender and compare them on the true labels.

    Returns
    -------
    dict
        The figures.
    dict
        Of each claim and figure, the gain in every replicate.
    """
    rules, settings, budget = Evaluate.read(), Label.read(), Alarms.read().false_alarms_per_server_day
    window = alarms.AlarmWindow.of(settings, Telemetry.read().interval)
    rule, model = read_rule(SPLIT), load(MODELS)
    recorded = read_covered_crashes(BELIEVED, COVERAGE_PATH, Incidents.read())
    crashes = read_covered_crashes(TRUE_INCIDENTS, COVERAGE_PATH, Incidents.read())
    test = pl.concat(rows.filter(HAS_LABEL) for _, rows in read_part(FEATURES, TRUE_LABELS, rule, "test"))
    validation = pl.concat(rows.filter(HAS_LABEL) for _, rows in read_part(FEATURES, LABELS, rule, "validation"))
    target, keys = test["label"].to_numpy(), test.select("timestamp", "server_id", "label", "observed")

    without = [name for name in model.features if not name.startswith("cpu_latency_combo")]
    scores = {
        "model": (model.predict(validation), model.predict(test)),
        "dummy": (np.zeros(validation.height), np.zeros(test.height)),
        "recency": (-validation["hours_since_crash"].to_numpy(), -test["hours_since_crash"].to_numpy()),
        "logistic with interaction": logistic(rule, model.features, validation, test),
        "logistic without": logistic(rule, without, validation, test),
    }
    draws = TwoWayDraws.draw(test["server_id"], period(rule, "test"), rules.block, rules.replicates, rules.seed)
    cells = draws.cells(test["server_id"], test["timestamp"])

    found: dict[str, Any] = {}
    replicates, caught = {}, {}
    for name, (before, now) in scores.items():
        rows = validation.select("timestamp", "server_id", "label", "observed").with_columns(score=before)
        point = alarms.choose_threshold(rows, recorded, budget, window)
        judged = alarms.judge(keys.with_columns(score=now), crashes, point.threshold, window, period(rule, "test"))
        replicates[name] = pr_auc_replicates(target, row_metrics.steps_of(target, now), cells, draws)
        caught[name] = judged.crashes.sort("started_at", "server_id")
        found[name] = {
            "pr_auc": row_metrics.pr_auc(target, now),
            "event_recall": judged.metrics.event_recall,
            "false_alarms_over_budget": judged.metrics.false_alarms_per_server_day / budget,
        }
    of_crash = caught["model"]
    crash_cells = draws.cells(of_crash["server_id"], of_crash["last_warning_at"])
    all_crashes = total_replicates(np.ones(of_crash.height), crash_cells, draws)
    claims: dict[str, Any] = {}
    gains: Gains = {}
    for better, worse in CLAIMS:
        gained = caught[better]["caught"].cast(pl.Int8) - caught[worse]["caught"].cast(pl.Int8)
        recall = ratio_replicates(total_replicates(gained.to_numpy(), crash_cells, draws), all_crashes)
        gain = {"pr_auc": replicates[better] - replicates[worse], "event_recall": recall}
        gains[f"{better} > {worse}"] = gain
        claims[f"{better} > {worse}"] = {
            name: percentile_interval(values, rules.confidence)[:2] for name, values in gain.items()
        }
    oracle = oracle_scores(keys, settings.lead, settings.horizon, Path("data/demo"))["score"].to_numpy()
    truth = tables.read(Path("data/demo/truth.parquet"))
    of_test = of_crash.join(truth, left_on=["server_id", "started_at"], right_on=["server_id", "crashed_at"])
    figures = {
        "base_rate": float(target.mean()),
        "crashes": of_crash.height,
        "servers_with_crashes": of_crash["server_id"].n_unique(),
        "share_with_precursor": of_test["has_precursor"].mean(),
        "algorithm": model.algorithm,
        "mean_score_over_observed": float(model.predict(test).mean() / target.mean()),
        "oracle_pr_auc": row_metrics.pr_auc(target, oracle),
        "contenders": found,
        "claims": claims,
        "stages": {name: json.loads(Path(f"metrics/{name}.json").read_text()) for name in ("clean", "label", "split")},
    }
    return figures, gains


def logistic(
    rule: dict[str, Any], columns: list[str], validation: pl.DataFrame, test: pl.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the grid of logistic regressions on some columns; return the validation's best, scored on both parts."""
    train = Train.read()
    sample = draw_sample(FEATURES, LABELS, rule, columns, train)
    target, best = validation["label"].to_numpy(), (-1.0, np.zeros(0), np.zeros(0))
    for candidate in candidates(train.candidates, train.seed, columns):
        if candidate.algorithm == "logistic_regression":
            fitted = fit(candidate, columns, sample.values, sample.crash, sample.share)
            before = fitted.log_odds(matrix(validation, columns))
            quality = row_metrics.pr_auc(target, before)
            if quality > best[0]:
                best = (quality, before, fitted.log_odds(matrix(test, columns)))
    return best[1], best[2]


def report(results: dict[str, Any], pooled: dict[str, Any]) -> None:
    """Print two Markdown tables: how each contender does, and how sure the gains are."""
    contenders = list(next(iter(results.values()))["contenders"])
    print("| seed | true crashes (servers) | with precursor | oracle | " + " | ".join(contenders) + " |")
    print("|" + "---|" * (4 + len(contenders)))
    for seed, found in results.items():
        figures = [
            f"{row['pr_auc']:.3f}, {row['event_recall']:.0%}"
            + (f" at {row['false_alarms_over_budget']:.2f}" if name == "model" else "")
            for name, row in found["contenders"].items()
        ]
        crashes = f"{found['crashes']} ({found['servers_with_crashes']})"
        head = [seed, crashes, f"{found['share_with_precursor']:.0%}", f"{found['oracle_pr_auc']:.3f}"]
        print("| " + " | ".join([*head, *figures]) + " |")
    print("\n| gain, 90 % intervals | " + " | ".join(results) + " | all |")
    print("|" + "---|" * (2 + len(results)))
    for name, figures in pooled.items():
        for figure, overall in figures.items():
            cells = [found["claims"][name][figure] for found in results.values()] + [overall]
            limits = [f"{low:+.2f} to {high:+.2f}" for low, high in cells]
            print(f"| {name}: {figure} | " + " | ".join(limits) + " |")
    scale = ", ".join(f"{found['mean_score_over_observed']:.2f}" for found in results.values())
    print(f"\nMean score over the observed rate: {scale}.")


if __name__ == "__main__":
    main()
