"""Fit the candidates, choose one, and decide when it raises an alarm.

In: features, labels, the split's rule, the incidents and their coverage. Out: `models/` (the model, its card, and the
baselines that it must beat: `evaluate` compares it with them), `metrics/candidates.json` (the evidence for the choice)
and `metrics/train.json` (the chosen model on validation).

Crashes are rare, so the model is fitted to a sample that is rich in crash rows (`modeling/sampling.py`). Candidates are
compared on forward-chained folds of train and validation (`modeling/folds.py`); the last fold's validation part is the
split's, and the chosen one gets its calibration and threshold there. The test part is not looked at here. If no
candidate is shown to rank better than chance, the dummy is chosen, and no alarm opens. With `train.self_training` the
chosen candidate is fitted again, with rows that no incident records cover. With `train.local` each server's log-odds
are corrected by its own crashes, if that ranks better on the folds (`modeling/local.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from crashcast import run_record, tables
from crashcast.canonical import write_json, write_text
from crashcast.execution import memo, runner
from crashcast.execution.task import File, Folder, Task
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import baselines, local, row_metrics
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.algorithms import DUMMY, ONE_RULE, Candidate, candidates
from crashcast.modeling.algorithms.base import Floats
from crashcast.modeling.baselines import choose_rules
from crashcast.modeling.bootstrap import TwoWayDraws, percentile_interval
from crashcast.modeling.card import model_card
from crashcast.modeling.choice import Choice, choose
from crashcast.modeling.compared_servers import draw_servers
from crashcast.modeling.folds import draw_folds, forward_chained, measure
from crashcast.modeling.model import Model, calibration, fit, loaded, save, side_by_side
from crashcast.modeling.row_counts import count_rows
from crashcast.modeling.sampling import (
    Drawn,
    Sample,
    confidence_weights,
    draw_into,
    feature_names,
    with_pseudo_labels,
)
from crashcast.modeling.split_rule import Rule, period, read_rule
from crashcast.modeling.validation_scores import Validation, score_by_tasks
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train
from crashcast.tables import Partition


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
    train, label, telemetry, evaluate = Train.read(), Label.read(), Telemetry.read(), Evaluate.read()
    rule, columns = read_rule(split), feature_names(features)
    score = partial(
        score_by_tasks,
        features,
        labels,
        crashes=read_covered_crashes(incidents, coverage, Incidents.read()),
        limits=Alarms.read(),
        window=AlarmWindow.of(label, telemetry.interval),
        resampling=evaluate,
    )

    confidences = incidents if train.weigh_by_confidence else None
    counted = count_rows(labels, rule)
    competing = list(candidates(train.candidates, train.seed, columns))
    folds = forward_chained(rule, train.folds, label.reach + label.recovery)
    compared = draw_servers(rule, counted, train.max_compared_rows, label.horizon / telemetry.interval, train.seed)
    with memo.temporary() as folder:
        drawn = draw_into(folder / "sample", features, labels, rule, columns, train, counted)
        with run_record.step("fit", drawn.rows):
            folds, fitted = fit_on_folds(folds, drawn, confidences, train, label.lead, folder)
        score = partial(score, servers=compared.drawn)
        draws = draw_folds(folds, compared.servers, evaluate)
        with run_record.step("compare", compared.rows * len(folds)):
            choice, evidence, validation = compare(competing, folds, fitted, score, draws, train.skill_confidence)
        chosen, reason = competing[choice.place], choice.why_the_dummy
        found: dict[str, Any] = {
            "chosen": chosen.name,
            "candidates": evidence,
            "skill": choice.skill,
            "expected": choice.expected,
            "folds": len(folds),
            "servers": len(compared.servers),
        }
        if reason:
            print(f"train: {reason}", file=sys.stderr)

        sample = weighted(drawn.read(), confidences, label.lead)
        of_sample = sample.figures()
        named = {
            name: sign for one in competing if one.algorithm == ONE_RULE for name, sign in one.hyperparameters.items()
        }
        rules_to_beat = choose_rules(columns, sample.values, sample.crash, sample.share, named)
        raw = validation.scores(choice.place)
        model = calibrated(loaded(fitted[-1][choice.place]), raw, validation)
        if train.self_training and not reason:
            sample = with_pseudo_labels(features, labels, rule, model, sample, train)
            model = fit_to(sample, chosen, columns)
            save(model, again := folder / "self_training")
            validation = score(rule, models=[again])
            raw = validation.scores(0)
            model = calibrated(model, raw, validation)
        if train.local and not reason and model.algorithm != DUMMY:
            of_folds = [models[choice.place] for models in fitted]
            strength, found["local"] = local.choose_strength(folds, of_folds, score, sample)
            model = replace(model, local=local.corrections(local.evidence(model, sample, validation.window), strength))

    write_json(candidates_metrics, found)
    model, figures = with_threshold(model, raw, validation)
    figures |= of_sample
    write_json(train_metrics, figures)
    save(model, models)
    write_json(models / baselines.FILE, rules_to_beat)
    inputs = {"features": features, "labels": labels, "split": split, "incidents": incidents, "coverage": coverage}
    write_text(models / "card.md", model_card(model, inputs, rule, figures, evidence, choice.expected, reason))


def weighted(sample: Sample, confidences: Path | None, lead: timedelta) -> Sample:
    """Return the sample weighted by the confidence of these incidents; as it is without any."""
    return sample if confidences is None else replace(sample, weight=confidence_weights(sample, confidences, lead))


def fit_on_folds(
    folds: list[Rule], drawn: Drawn, confidences: Path | None, train: Train, lead: timedelta, place: Path
) -> tuple[list[Rule], list[list[Path]]]:
    """Fit every candidate to the rows before each fold, by a task for each fold.

    Returns
    -------
    list of dict
        The folds, without those that have no rows of both classes before them.
    list of list of Path
        The folders of each fold's models, in `place`, in the order of the candidates.
    """
    tasks = [
        Task(
            Partition(*period(fold, "validation"), "fold"),
            {
                "sample": Folder(drawn.folder),
                "columns": drawn.columns,
                "shares": list(drawn.shares),
                "rows": drawn.rows,
                "until": period(fold, "train")[1].isoformat(),
                "confidences": None if confidences is None else File(confidences),
                "train": train,
                "lead": lead,
            },
        )
        for fold in folds
    ]
    by_name = {task.partition.name: fold for task, fold in zip(tasks, folds, strict=True)}
    learnable, fitted = [], []
    for file in runner.files("fit", fit_candidates, tasks):
        learnable.append(by_name[name := file.parent.name])
        models: dict[str, Path] = {}
        for number, written, content in tables.read(file).iter_rows():
            models[number] = place / name / number
            models[number].mkdir(parents=True, exist_ok=True)
            (models[number] / written).write_bytes(content)
        fitted.append([*models.values()])
    return learnable, fitted


def fit_candidates(
    partition: Partition,
    sample: Path,
    columns: list[str],
    shares: list[float],
    rows: int,
    until: str,
    confidences: Path | None,
    train: Train,
    lead: timedelta,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Fit every candidate to the rows of a sample before a moment.

    Returns
    -------
    DataFrame
        `candidate` (its number, as text), `file`, `content`: the models' files; empty without rows of both classes.
    dict
        `rows`: those before the moment.
    """
    drawn = Drawn(sample, columns, (shares[0], shares[1]), rows)
    earlier = weighted(drawn.read().before(datetime.fromisoformat(until)), confidences, lead)
    written: list[tuple[str, str, bytes]] = []
    if 0 < earlier.crash.sum() < len(earlier.crash):
        competing = [*candidates(train.candidates, train.seed, columns)]
        for number, model in enumerate(side_by_side(partial(fit_to, earlier, columns=columns), competing)):
            with TemporaryDirectory() as folder:
                save(model, Path(folder))
                written += [(f"{number:06}", file.name, file.read_bytes()) for file in sorted(Path(folder).iterdir())]
    schema = {"candidate": pl.String, "file": pl.String, "content": pl.Binary}
    return pl.DataFrame(written, schema, orient="row"), {"rows": len(earlier.crash)}


def fit_to(sample: Sample, candidate: Candidate, columns: list[str]) -> Model:
    """Fit a candidate to the sample, and say so on stderr."""
    sys.stderr.write(f"train: fitting {candidate.name} on {len(sample.crash)} rows\n")  # at once: others fit beside it
    return fit(candidate, columns, sample.values, sample.crash, sample.share, sample.weight)


def compare(
    competing: list[Candidate],
    folds: list[Rule],
    fitted: list[list[Path]],
    score: Callable[..., Validation],
    draws: TwoWayDraws,
    skill: float,
) -> tuple[Choice, dict[str, dict[str, Any]], Validation]:
    """Score each fold with the models of all candidates, and choose one.

    Parameters
    ----------
    competing : list of Candidate
    folds, fitted : list
        See `fit_on_folds`.
    score : function
        `score_by_tasks`, given a rule and `models`.
    draws : TwoWayDraws
        See `draw_folds`.
    skill : float
        `train.skill_confidence`.

    Returns
    -------
    Choice
    dict
        The figures of each candidate.
    Validation
        The validation part, scored by all candidates' models, in their order.
    """
    scored = (score(fold, models=models) for fold, models in zip(folds, fitted, strict=True))
    validation, on_folds = measure(folds, scored, draws)
    evidence = {
        one.name: evidence_for(validation, validation.scores(n)) | {"fold_lift": float(on_folds.lift[n])}
        for n, one in enumerate(competing)
    }
    pr_auc = [row["pr_auc"] for row in evidence.values()]
    return choose(competing, pr_auc, on_folds, skill, validation.resampling.confidence), evidence, validation


def evidence_for(validation: Validation, raw: Floats) -> dict[str, Any]:
    """Return how well log-odds rank the validation rows, and the share of crashes that their alarms catch."""
    _, judgement = validation.at_budget(raw)
    return row_metrics.ranking(validation.labels, raw[validation.known]) | {
        "event_recall": judgement.metrics.event_recall
    }


def calibrated(model: Model, raw: Floats, validation: Validation) -> Model:
    """Return the model with the slope and intercept that fit its log-odds on validation."""
    slope, intercept = calibration(raw[validation.known], validation.labels == 1)
    return replace(model, slope=slope, intercept=intercept)


def with_threshold(model: Model, raw: Floats, validation: Validation) -> tuple[Model, dict[str, Any]]:
    """Return the model with the threshold that keeps to the alarm budget, and its figures on validation."""
    probability = model.probability(raw, validation.rows["server_id"])
    spent = validation.spent(probability)
    # the dummy opens no alarm, even if the budget allows one at all times
    threshold = 1.0 if model.algorithm == DUMMY else spent.threshold(validation.limits.confidence)
    metrics = validation.judge(probability, threshold).metrics
    figures = row_metrics.row_metrics(validation.labels, probability[validation.known], threshold) | metrics.as_dict()
    interval = percentile_interval(spent.replicates(threshold), validation.resampling.confidence)
    figures |= {"false_alarms_over_budget_low": interval.low, "false_alarms_over_budget_high": interval.high}
    return replace(model, threshold=threshold), figures
