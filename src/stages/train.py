"""Fit the candidates, choose one on validation, and decide when it raises an alarm.

In: features, labels, the split's rule, the incidents and their coverage. Out: `models/` (the model, its card, and the
baselines that it must beat: `evaluate` compares it with them), `metrics/candidates.json` (the evidence for the choice)
and `metrics/train.json` (the chosen model on validation).

Crashes are rare, so the model is fitted to a sample that is rich in crash rows (`modeling/sampling.py`). Validation
keeps every row. The test part is not looked at here. If no candidate is shown to rank better than chance there, the
dummy is chosen, and no alarm opens. With `train.self_training` the chosen candidate is fitted again, with rows that no
incident records cover.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crashcast import run_record
from crashcast.canonical import write_json, write_text
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import baselines, row_metrics
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.algorithms import DUMMY, ONE_RULE, Candidate, candidates
from crashcast.modeling.algorithms.base import Floats
from crashcast.modeling.baselines import choose_rules
from crashcast.modeling.bootstrap import percentile_interval
from crashcast.modeling.card import model_card
from crashcast.modeling.model import Model, calibration, fit, save
from crashcast.modeling.sampling import (
    Sample,
    confidence_weights,
    draw_sample,
    feature_names,
    with_pseudo_labels,
)
from crashcast.modeling.skill import lower_bounds
from crashcast.modeling.split_rule import read_rule
from crashcast.modeling.validation_scores import Validation, score_validation
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train


def main(
    features: Path,
    labels: Path,
    split: Path,
    incidents: Path,
    coverage: Path,
    models: Path,
    candidates_metrics: Path,
    train_metrics: Path,
) -> None:
    """Fit, choose, calibrate, set the threshold, and write the model and its figures."""
    train, label, telemetry = Train.read(), Label.read(), Telemetry.read()
    rule, columns = read_rule(split), feature_names(features)
    score = partial(
        score_validation,
        features,
        labels,
        rule,
        columns,
        crashes=read_covered_crashes(incidents, coverage, Incidents.read()),
        limits=Alarms.read(),
        window=AlarmWindow.of(label, telemetry.interval),
        resampling=Evaluate.read(),
    )

    sample = draw_sample(features, labels, rule, columns, train)
    if train.weigh_by_confidence:
        sample = replace(sample, weight=confidence_weights(sample, incidents, label.lead))
    competing = list(candidates(train.candidates, train.seed, columns))
    with run_record.step("fit", len(sample.crash)):
        fitted = [fit_to(sample, candidate, columns) for candidate in competing]
    of_sample = sample.figures()
    named = {name: sign for one in competing if one.algorithm == ONE_RULE for name, sign in one.hyperparameters.items()}
    rules_to_beat = choose_rules(columns, sample.values, sample.crash, sample.share, named)
    if not train.self_training:
        del sample  # the validation part needs the memory

    validation = score([model.log_odds for model in fitted])
    evidence = {one.name: evidence_for(validation, validation.scores(n)) for n, one in enumerate(competing)}
    best, skill = shown_skill(validation, evidence, train.skill_confidence)
    write_json(candidates_metrics, {"chosen": competing[best].name, "candidates": evidence, "skill": skill})
    reason = why_the_dummy(skill)
    if reason:
        print(f"train: {reason}", file=sys.stderr)

    raw = validation.scores(best)
    model = calibrated(fitted[best], raw, validation)
    if train.self_training and not reason:
        sample = with_pseudo_labels(features, labels, rule, model, sample, train)
        model = fit_to(sample, competing[best], columns)
        validation = score([model.log_odds])
        raw = validation.scores(0)
        model = calibrated(model, raw, validation)

    model, figures = with_threshold(model, raw, validation)
    figures |= of_sample
    write_json(train_metrics, figures)
    save(model, models)
    write_json(models / baselines.FILE, rules_to_beat)
    inputs = {"features": features, "labels": labels, "split": split, "incidents": incidents, "coverage": coverage}
    write_text(models / "card.md", model_card(model, inputs, rule, figures, evidence, reason))


def fit_to(sample: Sample, candidate: Candidate, columns: list[str]) -> Model:
    """Fit a candidate to the sample, and say so on stderr."""
    print(f"train: fitting {candidate.name} on {len(sample.crash)} rows", file=sys.stderr)
    return fit(candidate, columns, sample.values, sample.crash, sample.share, sample.weight)


def evidence_for(validation: Validation, raw: Floats) -> dict[str, Any]:
    """Return how well log-odds rank the validation rows, and the share of crashes that their alarms catch."""
    _, judgement = validation.at_budget(raw)
    return row_metrics.ranking(validation.labels, raw[validation.known]) | {
        "event_recall": judgement.metrics.event_recall
    }


def shown_skill(
    validation: Validation, evidence: dict[str, dict[str, Any]], confidence: float
) -> tuple[int, dict[str, Any]]:
    """Choose the best candidate, if it is shown to rank better than chance, else the dummy.

    Parameters
    ----------
    validation : Validation
        Scored by all candidates.
    evidence : dict of str to dict
        See `evidence_for`, of all candidates, the simplest first.
    confidence : float
        Of the bound of the best one's lift.

    Returns
    -------
    int
        The chosen one's place.
    dict
        `best` (the candidate; empty if only the dummy competes), its `lift` and `lift_low`, and `confidence`.
    """
    names = list(evidence)
    rivals = [number for number, name in enumerate(names) if name != DUMMY]
    if not rivals:
        return names.index(DUMMY), {"best": "", "confidence": confidence}
    low = lower_bounds(
        validation.labels,
        (validation.scores(number)[validation.known] for number in rivals),
        validation.cells,
        validation.draws,
        confidence,
    )
    place = int(np.argmax([evidence[names[number]]["pr_auc"] for number in rivals]))  # the simplest of equals
    best = rivals[place]
    lift = {"lift": evidence[names[best]]["lift"], "lift_low": float(low[place])}
    figures = {"best": names[best], **lift, "confidence": confidence}
    return best if lift["lift_low"] > 1 else names.index(DUMMY), figures


def why_the_dummy(skill: dict[str, Any]) -> str:
    """Say why the dummy was chosen; empty if it was not, or if nothing else competed."""
    if skill.get("lift_low", np.inf) > 1:
        return ""
    return (
        "no candidate is shown to rank better than chance, so the dummy is chosen, which opens no alarm; the best, "
        f"{skill['best']}, has a lift of {skill['lift']:.3g} on validation, with a lower bound of "
        f"{skill['lift_low']:.2g} ({skill['confidence']:.0%} confidence), which must be above 1"
    )


def calibrated(model: Model, raw: Floats, validation: Validation) -> Model:
    """Return the model with the slope and intercept that fit its log-odds on validation."""
    slope, intercept = calibration(raw[validation.known], validation.labels == 1)
    return replace(model, slope=slope, intercept=intercept)


def with_threshold(model: Model, raw: Floats, validation: Validation) -> tuple[Model, dict[str, Any]]:
    """Return the model with the threshold that keeps to the alarm budget, and its figures on validation."""
    probability = model.probability(raw)
    spent = validation.spent(probability)
    # the dummy opens no alarm, even if the budget allows one at all times
    threshold = 1.0 if model.algorithm == DUMMY else spent.threshold(validation.limits.confidence)
    metrics = validation.judge(probability, threshold).metrics
    figures = row_metrics.row_metrics(validation.labels, probability[validation.known], threshold) | metrics.as_dict()
    interval = percentile_interval(spent.replicates(threshold), validation.resampling.confidence)
    figures |= {"false_alarms_over_budget_low": interval.low, "false_alarms_over_budget_high": interval.high}
    return replace(model, threshold=threshold), figures
