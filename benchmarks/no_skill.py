"""Without signal no alarm is sent, and with a weak one alarms are: is the dummy chosen when it should be?

    python benchmarks/no_skill.py                 # twenty fleets; those that have results already are left out
    python benchmarks/no_skill.py --seeds 7 8     # others

Each fleet is simulated anew. Then its tickets of crashes are given to another server, drawn at random, and moved to
another week: all of them (no signal), or four in five (a weak signal). Everything after the raw data is the pipeline's.
Alarms are counted on the test part, as are those that the best candidate would have sent: what was sent before the
dummy was chosen in its place. The kinds of fleet, their size and the confidence in params.yaml were set beforehand, on
other seeds.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from demo_claims import BELIEVED, FEATURES, LABELS, SPLIT, label_featurize_split
from project import clean_demo, run_fleets

from crashcast import tables
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import row_metrics
from crashcast.modeling.alarms import AlarmWindow, judge
from crashcast.modeling.algorithms import candidates
from crashcast.modeling.choice import choose
from crashcast.modeling.compared_servers import draw_servers
from crashcast.modeling.folds import draw_folds, forward_chained, measure
from crashcast.modeling.model import Model, loaded
from crashcast.modeling.row_counts import count_rows
from crashcast.modeling.sampling import draw_into, feature_names
from crashcast.modeling.split_rule import HAS_LABEL, period, read_part, read_rule
from crashcast.modeling.validation_scores import score_validation
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH
from stages import train

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "no_skill.json"
# with one validation part and a confidence of 0.9, two fleets of 601 to 620 sent alarms: it was raised, and none of 621
# to 640 did; these are for the choice on several periods
SEEDS = tuple(range(641, 661))
SERVERS, MONTHS = 300, 4
MOVED = {"no signal": 1.0, "weak signal": 0.8}  # share of the tickets of crashes
WEEK = timedelta(days=7)


def main() -> None:
    """Run every fleet that has no results yet, write them, and print what they add up to."""
    run_fleets(__doc__.splitlines()[0], SEEDS, OUT, one_fleet, "summary", summary)


def one_fleet(seed: int) -> dict[str, Any]:
    """Simulate a fleet in the current folder, and train on its tickets after many, or all, were moved."""
    by_tickets = {"aggregate": "tickets"}  # telemetry's evidence would find the crashes that were moved
    cleaned = clean_demo(demo={"seed": seed, "servers": SERVERS, "months": MONTHS}, label=by_tickets)
    incidents, coverage = tables.read(INCIDENTS_PATH), tables.read(COVERAGE_PATH)
    found = {}
    for kind, share in MOVED.items():
        tables.write(INCIDENTS_PATH, moved(incidents, coverage, share, np.random.default_rng(seed)))
        label_featurize_split(cleaned)
        found[kind] = trained()
    return found


def moved(incidents: pl.DataFrame, coverage: pl.DataFrame, share: float, draw: np.random.Generator) -> pl.DataFrame:
    """Give a share of the tickets of crashes to other servers, and move them by whole weeks."""
    start, end = coverage["covered_from"].min(), coverage["covered_to"].max()
    number = incidents.height
    week = (incidents["started_at"] - start).dt.total_days() // 7
    by = pl.Series(draw.integers((end - start) // WEEK, size=number)) - week
    servers = draw.choice(coverage["server_id"].unique().sort().to_numpy(), number)
    is_moved = pl.Series(draw.random(number) < share) & (incidents["kind"] == tables.CRASH)
    times = [
        pl.when(is_moved).then(pl.col(name) + pl.duration(weeks=by)).otherwise(name).alias(name)
        for name in ("started_at", "resolved_at", "reported_at")
    ]
    server_id = pl.when(is_moved).then(pl.Series(servers)).otherwise("server_id")
    return incidents.with_columns(*times, server_id=server_id).sort("started_at", "server_id", "incident_id")


def trained() -> dict[str, Any]:
    """Train as the stage does; return what it chose, and what the best candidate and the chosen one do on test rows."""
    rules, rule, columns = Train.read(), read_rule(SPLIT), feature_names(FEATURES)
    label, interval, limits = Label.read(), Telemetry.read().interval, Alarms.read()
    window = AlarmWindow.of(label, interval)
    crashes = read_covered_crashes(BELIEVED, COVERAGE_PATH, Incidents.read())
    competing = list(candidates(rules.candidates, rules.seed, columns))
    evaluate = Evaluate.read()
    folds = forward_chained(rule, rules.folds, label.reach + label.recovery)
    counted = count_rows(LABELS, rule)
    compared = draw_servers(rule, counted, rules.max_compared_rows, label.horizon / interval, rules.seed)
    with TemporaryDirectory() as folder:
        drawn = draw_into(Path(folder, "sample"), FEATURES, LABELS, rule, columns, rules, counted)
        folds, fitted = train.fit_on_folds(folds, drawn, None, rules, label.lead, Path(folder))
        models = [[loaded(one) for one in of_fold] for of_fold in fitted]
    scored = (
        score_validation(
            FEATURES, LABELS, fold, columns, [one.log_odds for one in of_fold], crashes, limits, window, evaluate
        )
        for fold, of_fold in zip(folds, models, strict=True)
    )
    validation, on_folds = measure(folds, scored, draw_folds(folds, compared.servers, evaluate))
    pr_auc = [train.evidence_for(validation, validation.scores(number))["pr_auc"] for number in range(len(competing))]
    choice = choose(competing, pr_auc, on_folds, rules.skill_confidence, evaluate.confidence)
    chosen, skill = choice.place, choice.skill
    test = pl.concat(rows for _, rows in read_part(FEATURES, LABELS, rule, "test"))

    def on_test(number: int) -> dict[str, float]:
        raw = validation.scores(number)
        model, _ = train.with_threshold(train.calibrated(models[-1][number], raw, validation), raw, validation)
        return alarms_of(model)

    def alarms_of(model: Model) -> dict[str, float]:
        scored = test.select("timestamp", "server_id", "label", "observed").with_columns(score=model.predict(test))
        figures = judge(scored, crashes, model.threshold, window, period(rule, "test")).metrics
        known = scored.filter(HAS_LABEL)
        return {
            "lift": row_metrics.ranking(known["label"].to_numpy(), known["score"].to_numpy())["lift"],
            "alarms": figures.alarms,
            "false_alarms_over_budget": (figures.false_alarms_per_server_day or 0.0)
            / limits.false_alarms_per_server_day,
        }

    best = [one.name for one in competing].index(skill["best"])
    return {
        "chosen": competing[chosen].name,
        "crashes_of_validation": validation.judge(validation.scores(0), 1.0).metrics.crashes,
        **{f"skill_{name}": value for name, value in skill.items()},
        "sent": on_test(chosen),
        "of_the_best": on_test(best),
    }


def summary(fleets: dict[str, Any]) -> dict[str, Any]:
    """Count the fleets that send alarms, with the dummy in its place and without, and average the true lift."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for fleet in fleets.values():
        for kind in MOVED:
            groups.setdefault(f"{kind}, confidence {fleet[kind]['skill_confidence']}", []).append(fleet[kind])
    found: dict[str, Any] = {}
    for group, of_kind in groups.items():
        found[group] = {
            "fleets": len(of_kind),
            "that_send_alarms": sum(one["sent"]["alarms"] > 0 for one in of_kind),
            "that_would_send_alarms": sum(one["of_the_best"]["alarms"] > 0 for one in of_kind),
            "alarms": sum(one["sent"]["alarms"] for one in of_kind),
            "alarms_of_the_best": sum(one["of_the_best"]["alarms"] for one in of_kind),
            "mean_lift_of_the_best": float(np.mean([one["of_the_best"]["lift"] for one in of_kind])),
            "mean_false_alarms_over_budget_of_the_best": float(
                np.mean([one["of_the_best"]["false_alarms_over_budget"] for one in of_kind])
            ),
        }
    return found


if __name__ == "__main__":
    main()
