"""Are weighed labels better than tickets, and models that learn from them; and are the sources' estimates right?

    python benchmarks/label_evidence.py polls       # simulated votes
    python benchmarks/label_evidence.py midway      # five fleets with a ticket system adopted midway
    python benchmarks/label_evidence.py demo        # ten fleets like the demo's
    python benchmarks/label_evidence.py larger      # ten more, of twice as many servers and with a larger test part
    python benchmarks/label_evidence.py choosing    # ten more like the demo's, with all candidates
    python benchmarks/label_evidence.py demo --seeds 7 --out FILE       # other fleets

Nothing was developed on the seeds that are the default.

Fleets: each is simulated anew. Its crashes, as tickets alone, the majority and Dawid and Skene tell them, are matched
one to one with the true ones, the nearest first, if they start at most one row (an hour) apart: further off, a label
changes on rows that could have warned. Then three models are trained, alike but for the labels: on tickets alone, on
what Dawid and Skene believe, and on the truth, which says how much better labels could help at all. Each sets its
threshold on validation by its own labels, as a team would; all are judged on the same test rows by the true crashes.

Polls: simulated votes of six sources on 600 events (simulated_votes.py). Each is taken twice, with independent errors
and with two sources that share half of theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from demo_claims import (
    BELIEVED,
    FEATURES,
    KNOWN,
    LABELS,
    MODELS,
    RAW,
    SPLIT,
    TRUE_INCIDENTS,
    VOTES,
    true_incidents,
)
from project import ANNOTATIONS, edit, no_annotations
from ruamel.yaml import YAML
from scipy.stats import t as student
from simulated_votes import poll

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.incidents import read_covered_crashes
from crashcast.labelling import consensus, label_model
from crashcast.labelling.candidate_events import ANNOTATIONS as ANNOTATED
from crashcast.labelling.consensus import PRIOR
from crashcast.modeling import alarms, row_metrics
from crashcast.modeling.model import load
from crashcast.modeling.split_rule import HAS_LABEL, period, read_part, read_rule
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.paths import ACTIONS_PATH, COVERAGE_PATH, INCIDENTS_PATH, TICKET_SOURCES_PATH
from crashcast.sources.demo import simulator
from stages import clean, featurize, label, split, train

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "label_evidence.json"
POLLS = tuple(range(401, 411))
MIDWAY, ADOPTED = tuple(range(331, 336)), "pagerduty"
TOLERANCE = timedelta(hours=1)
TICKETS, MAJORITY, DAWID_SKENE = WAYS = "tickets", "majority", "dawid_skene"
TRUTH = "truth"
SHARED = (1, 4)
# the candidate that won on the default fleet when it learned from tickets
CANDIDATES = {
    "hist_gradient_boosting": {
        "learning_rate": [0.05], "max_iter": 150, "max_leaf_nodes": [7], "min_samples_leaf": 50,
        "l2_regularization": 1.0,
    }
}  # fmt: skip
CONFIDENCE = 0.95


class Look(NamedTuple):
    """Which fleets are simulated, and how their labelled period is divided."""

    seeds: tuple[int, ...]
    servers: int
    train: float
    validation: float
    test: float
    chooses: bool  # among the candidates of params.yaml, as a team does; else CANDIDATES


LOOKS = {
    "demo": Look(tuple(range(301, 311)), 300, 0.70, 0.15, 0.15, chooses=False),
    # few hundred crashes in a test part leave a difference of a few points to chance
    "larger": Look(tuple(range(311, 321)), 600, 0.40, 0.20, 0.40, chooses=False),
    "choosing": Look(tuple(range(421, 431)), 300, 0.70, 0.15, 0.15, chooses=True),
}


def main() -> None:
    """Run one experiment and add what came out to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=["polls", "midway", *LOOKS])
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--without-models", action="store_true", help="crashes and sources alone")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if of_sources := {"polls": polls, "midway": midway}.get(options.experiment):
        add(options.out, options.experiment, found := of_sources())
        print(json.dumps(found, indent=1))
        return
    look, fleets = LOOKS[options.experiment], {}
    for seed in options.seeds or look.seeds:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            fleets[str(seed)] = one_fleet(seed, look, not options.without_models)
            os.chdir(ROOT)
        print(f"seed {seed}: {json.dumps(fleets[str(seed)])}", file=sys.stderr, flush=True)
        add(options.out, options.experiment, {"fleets": fleets, "summary": summary(fleets)})
    print(json.dumps(summary(fleets), indent=1))


def add(out: Path, experiment: str, found: dict[str, Any]) -> None:
    """Put an experiment's results beside the others'."""
    before = json.loads(out.read_text()) if out.exists() else {}
    write_json(out, before | {experiment: found})


def polls() -> dict[str, Any]:
    """Estimate every poll's sources, with independent errors and with shared ones."""
    errors, raised, named, flagged = [], [], [], []
    for seed in POLLS:
        independent, shared = poll(seed), poll(seed, SHARED)
        estimate = label_model.dawid_skene(independent.votes, PRIOR)
        off = [estimate.sensitivity - independent.sensitivity, estimate.specificity - independent.specificity]
        errors.append(float(np.abs(off).mean()))
        sharing = [
            [item.pair for item in label_model.dependence(votes) if item.correlation > 0]
            for votes in (independent.votes, shared.votes)
        ]
        raised.append(bool(sharing[0]))
        flagged.append(bool(sharing[1]))
        named.append(sharing[1][:1] == [SHARED])
    return {
        "mean_absolute_error": float(np.mean(errors)),
        "worst_absolute_error": max(errors),
        "polls": len(POLLS),
        "called_unreliable_though_independent": sum(raised),
        "shared_pair_named": sum(named),
        "shared_called_unreliable": sum(flagged),
    }


def midway() -> dict[str, Any]:
    """Weigh fleets whose busiest ticket system was adopted midway, not knowing that, and knowing it."""
    fleets: dict[str, Any] = {}
    for seed in MIDWAY:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            truth = simulate(seed, LOOKS["demo"])
            covered = tables.read(COVERAGE_PATH)
            start, end = covered["covered_from"].min(), covered["covered_to"].max()
            began = start + (end - start) / 2
            of_system = (pl.col("source") == ADOPTED) & (pl.col("kind") == tables.CRASH)
            is_earlier = of_system & (pl.coalesce("reported_at", "started_at") < began)
            tables.write(INCIDENTS_PATH, tables.read(INCIDENTS_PATH).filter(~is_earlier))
            fleets[str(seed)] = {}
            for name, periods in (("unknown", []), ("known", [(ADOPTED, began, end)])):
                tables.write(TICKET_SOURCES_PATH, pl.DataFrame(periods, schema=tables.TICKET_SOURCES, orient="row"))
                found_crashes = find_consensus()
                tables.write(of(DAWID_SKENE, VOTES), found_crashes.votes)
                fleets[str(seed)][name] = {
                    "crashes": compare(found_crashes.incidents.filter(kind=tables.CRASH), truth),
                    "source": against_truth(found_crashes.figures["sources"], truth)[ADOPTED],
                }
            os.chdir(ROOT)
    return fleets


def simulate(seed: int, look: Look) -> pl.DataFrame:
    """Simulate a fleet in the current folder; return its true crashes."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["demo"].update(seed=seed, servers=look.servers)
    params["split"].update(train=look.train, validation=look.validation, test=look.test)
    if not look.chooses:
        params["train"]["candidates"] = CANDIDATES
    params["execution"]["workers"] = 1
    yaml.dump(params, Path("params.yaml"))
    simulator.write()
    no_annotations(Path.cwd())
    return tables.read(Path("data/demo/truth.parquet")).rename({"crashed_at": "started_at"})


def one_fleet(seed: int, look: Look, with_models: bool) -> dict[str, Any]:
    """Simulate a fleet in the current folder, tell its crashes three ways, and train models."""
    truth = simulate(seed, look)
    found: dict[str, Any] = {"crashes": {}}
    for way in WAYS:
        edit(Path.cwd(), "label", aggregate=way)
        found_crashes = find_consensus()
        tables.write(of(way, BELIEVED), found_crashes.incidents)
        tables.write(of(way, VOTES), found_crashes.votes)
        found["crashes"][way] = compare(found_crashes.incidents.filter(kind=tables.CRASH), truth)
        if way == DAWID_SKENE:
            found["sources"] = against_truth(found_crashes.figures["sources"], truth)
            found["estimates_reliable"] = found_crashes.figures["estimates_reliable"]
    if with_models:
        found["models"] = models()
    return found


def find_consensus() -> consensus.Consensus:
    """Do what the label stage does before it labels rows."""
    telemetry, label_rules = Telemetry.read(), Label.read()
    return consensus.resolve(
        label.up_intervals(RAW, telemetry, label_rules),
        tables.read(INCIDENTS_PATH, tables.INCIDENTS),
        tables.read(Path(ANNOTATIONS), ANNOTATED),
        tables.read(COVERAGE_PATH, ["server_id", "covered_from", "covered_to"]),
        tables.read(TICKET_SOURCES_PATH, tables.TICKET_SOURCES),
        tables.read(ACTIONS_PATH, tables.ACTIONS),
        telemetry,
        label_rules,
        Incidents.read(),
    )


def models() -> dict[str, Any]:
    """Train a model on tickets alone, one on the confirmed crashes and one on the truth, and judge all by the truth."""
    validated, cleaned = Path("data/validated.json"), Path("data/clean")
    write_json(validated, {"success": True})
    clean.main(RAW, validated, cleaned, Path("metrics/clean.json"))
    featurize.main(cleaned, INCIDENTS_PATH, COVERAGE_PATH, FEATURES)
    figures = [Path(f"metrics/{name}.json") for name in ("label", "split", "candidates", "train")]
    tables.write(TRUE_INCIDENTS, true_incidents())
    learned = {TICKETS: INCIDENTS_PATH, DAWID_SKENE: INCIDENTS_PATH, TRUTH: TRUE_INCIDENTS}
    for way, incidents in learned.items():
        labels, believed, rule = of(way, LABELS), of(way, BELIEVED), of(way, SPLIT)
        edit(Path.cwd(), "label", aggregate=TICKETS if way == TRUTH else way)
        label.main(cleaned, RAW, incidents, *KNOWN, labels, believed, VOTES, figures[0])
        split.main(labels, COVERAGE_PATH, rule, figures[1])
        train.main(FEATURES, labels, rule, believed, COVERAGE_PATH, of(way, MODELS), figures[2], figures[3])
    return {way: judge(way) for way in learned}


def of(way: str, path: Path) -> Path:
    """Return the path of an output made from one method's labels."""
    return path.with_name(f"{way}_{path.name}")


def match(told: pl.DataFrame, truth: pl.DataFrame, tolerance: timedelta) -> pl.DataFrame:
    """Pair crashes of one server that start close to each other, each at most once, the nearest first."""
    pairs = (
        told.select("server_id", "started_at")
        .with_row_index("told")
        .join(truth.select("server_id", true_start="started_at").with_row_index("true"), on="server_id")
        .with_columns(apart=(pl.col("started_at") - pl.col("true_start")).abs())
        .filter(pl.col("apart") <= tolerance)
        .sort("apart", "told", "true")
    )
    taken: tuple[set[int], set[int]] = (set(), set())
    kept = []
    for row, (one, other) in enumerate(pairs.select("told", "true").iter_rows()):
        if one not in taken[0] and other not in taken[1]:
            taken[0].add(one)
            taken[1].add(other)
            kept.append(row)
    return pairs[kept]


def compare(told: pl.DataFrame, truth: pl.DataFrame) -> dict[str, float]:
    """Return precision and recall of crashes as they are told."""
    pairs = match(told, truth, TOLERANCE)
    return {
        "told": told.height,
        "true": truth.height,
        "precision": pairs.height / told.height,
        "recall": pairs.height / truth.height,
        "mean_error_of_start_h": float(pairs.select((pl.col("apart") / timedelta(hours=1)).mean()).item()),
    }


def against_truth(sources: dict[str, dict[str, float]], truth: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Put each source's estimated reliability beside its true one over the candidate events."""
    votes = tables.read(of(DAWID_SKENE, VOTES))
    happened = (
        votes.select("server_id", "started_at")
        .unique()
        .sort("server_id", "started_at")
        .pipe(lambda rows: rows.join(match(rows, truth, 3 * TOLERANCE), on=["server_id", "started_at"], how="left"))
        .select("server_id", "started_at", crash=pl.col("true").is_not_null())
    )
    said = votes.join(happened, on=["server_id", "started_at"]).with_columns(yes=pl.col("vote") == tables.CRASH)
    found = {}
    for (source,), rows in said.sort("source").group_by("source", maintain_order=True):
        found[str(source)] = {
            "estimated_sensitivity": sources[str(source)]["sensitivity"],
            "true_sensitivity": float(rows.filter("crash")["yes"].cast(pl.Float64).to_numpy().mean()),
            "estimated_specificity": sources[str(source)]["specificity"],
            "true_specificity": 1 - float(rows.filter(~pl.col("crash"))["yes"].cast(pl.Float64).to_numpy().mean()),
        }
    return found


def judge(way: str) -> dict[str, float]:
    """Judge one model by the true crashes, on the test rows of the tickets' split."""
    rules, rule, model = Label.read(), read_rule(of(TICKETS, SPLIT)), load(of(way, MODELS))
    window = alarms.AlarmWindow.of(rules, Telemetry.read().interval)
    crashes = read_covered_crashes(TRUE_INCIDENTS, COVERAGE_PATH, Incidents.read())
    test = pl.concat(rows.filter(HAS_LABEL) for _, rows in read_part(FEATURES, of(TRUTH, LABELS), rule, "test"))
    score = model.predict(test)
    rows = test.select("timestamp", "server_id", "label", "observed").with_columns(score=score)
    found = alarms.judge(rows, crashes, model.threshold, window, period(rule, "test")).metrics
    return {
        "event_recall": found.event_recall or 0.0,
        "false_alarms_per_server_day": found.false_alarms_per_server_day or 0.0,
        "pr_auc": row_metrics.pr_auc(test["label"].to_numpy(), score),
        "crashes": found.crashes,
    }


def summary(fleets: dict[str, Any]) -> dict[str, Any]:
    """Return means over the fleets, and gains over tickets with their intervals (Student's t, paired)."""
    told = {
        way: {
            name: float(np.mean([fleet["crashes"][way][name] for fleet in fleets.values()]))
            for name in ("precision", "recall", "mean_error_of_start_h")
        }
        for way in WAYS
    }
    pairs = {f"{way}: {name}": ("crashes", way, name) for way in WAYS[1:] for name in ("precision", "recall")}
    if all("models" in fleet for fleet in fleets.values()):
        judged = ("event_recall", "pr_auc", "false_alarms_per_server_day")
        pairs |= {f"model of {way}: {name}": ("models", way, name) for way in (DAWID_SKENE, TRUTH) for name in judged}
    gains = {
        name: interval([fleet[kind][way][figure] - fleet[kind][TICKETS][figure] for fleet in fleets.values()])
        for name, (kind, way, figure) in pairs.items()
    }
    errors = [
        abs(row[f"estimated_{figure}"] - row[f"true_{figure}"])
        for fleet in fleets.values()
        for row in fleet["sources"].values()
        for figure in ("sensitivity", "specificity")
    ]
    return {"crashes": told, "gains_over_tickets": gains, "mean_absolute_error_of_estimates": float(np.mean(errors))}


def interval(values: list[float]) -> dict[str, float]:
    """Return the mean and its interval."""
    mean, number = float(np.mean(values)), len(values)
    half = 0.0
    if number > 1:
        half = float(student.ppf((1 + CONFIDENCE) / 2, number - 1) * np.std(values, ddof=1) / np.sqrt(number))
    return {"mean": mean, "low": mean - half, "high": mean + half, "fleets": number}


if __name__ == "__main__":
    main()
