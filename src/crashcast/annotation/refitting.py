"""The candidate that `train` chose, fitted again to other rows and measured on validation, as `train` measures it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crashcast.errors import UserError
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import row_metrics
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.algorithms import Candidate, candidates
from crashcast.modeling.bootstrap import Floats, pr_auc_replicates, ratio_replicates, total_replicates
from crashcast.modeling.sampling import Sample, draw_sample, feature_names
from crashcast.modeling.split_rule import read_rule
from crashcast.modeling.validation_scores import Scorer, score_validation
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train
from crashcast.paths import CONFIRMED_PATH, COVERAGE_PATH, FEATURES_PATH, LABELS_PATH, SPLIT_PATH

EVIDENCE = Path("metrics/candidates.json")
REPLICATES = 300
FIGURES = ("pr_auc", "event_recall")
Measured = dict[str, tuple[float, Floats]]


def chosen_candidate(train: Train) -> Candidate:
    """Return the candidate that `train` chose, unfitted."""
    try:
        name = json.loads(EVIDENCE.read_text(encoding="utf-8"))["chosen"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{EVIDENCE} is missing or unreadable: run `dvc repro`") from None
    competing = candidates(train.candidates, train.seed, feature_names(FEATURES_PATH))
    known = {candidate.name: candidate for candidate in competing}
    if name not in known:
        raise UserError(
            f"params.yaml: train.candidates has no {name}, which {EVIDENCE} says was chosen: run `dvc repro`"
        )
    return known[name]


def training_sample(train: Train, project: Path = Path()) -> Sample:
    """Draw the rows that `train` draws in a project."""
    features, labels, rule = project / FEATURES_PATH, project / LABELS_PATH, read_rule(project / SPLIT_PATH)
    return draw_sample(features, labels, rule, feature_names(features), train)


def measure(rule: dict[str, Any], columns: list[str], scorers: list[Scorer]) -> Iterator[Measured]:
    """Measure scores on the validation part.

    Parameters
    ----------
    rule : dict
        What `split` wrote.
    columns : list of str
        The features that scorers are given.
    scorers : list of function
        Each turns features, float32 of shape (n, k), into log-odds of shape (n,).

    Yields
    ------
    dict
        Of `pr_auc` and `event_recall` (at the alarm budget) the value and its replicates; the same draws for all.
    """
    evaluate = Evaluate.read().model_copy(update={"replicates": REPLICATES})
    window = AlarmWindow.of(Label.read(), Telemetry.read().interval)
    covered = read_covered_crashes(CONFIRMED_PATH, COVERAGE_PATH, Incidents.read())
    validation = score_validation(
        FEATURES_PATH, LABELS_PATH, rule, columns, scorers, covered, Alarms.read(), window, evaluate
    )
    draws = validation.draws
    for number in range(len(scorers)):
        scores = validation.scores(number)
        _, judgement = validation.at_budget(scores)
        crashes = judgement.crashes
        of_crash = draws.cells(crashes["server_id"], crashes["last_warning_at"])
        caught = total_replicates(crashes["caught"].to_numpy(), of_crash, draws)
        total = total_replicates(np.ones(crashes.height), of_crash, draws)
        scores = scores[validation.known]
        pr_auc, steps = row_metrics.pr_auc(validation.labels, scores), row_metrics.steps_of(validation.labels, scores)
        yield {
            "pr_auc": (pr_auc, pr_auc_replicates(validation.labels, steps, validation.cells, draws)),
            "event_recall": (judgement.metrics.event_recall or 0.0, ratio_replicates(caught, total)),
        }
