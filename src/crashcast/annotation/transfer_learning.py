"""Whether another fleet's model and labels help this one, with all of its labels and with few: measured on validation.

Source: Daume, Frustratingly easy domain adaptation, ACL 2007: the other model as it is (SrcOnly), both fleets' rows
together (All), and the other model's score as one more feature (Pred), against this fleet alone (TgtOnly).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from crashcast.annotation.learning_curve import LABELLED, Size, part_of
from crashcast.annotation.refitting import FIGURES, chosen_candidate, measure, training_sample
from crashcast.errors import UserError
from crashcast.modeling.algorithms import Candidate
from crashcast.modeling.algorithms.base import Matrix
from crashcast.modeling.bootstrap import percentile_interval
from crashcast.modeling.model import Model, fit, load
from crashcast.modeling.sampling import Sample, feature_names
from crashcast.modeling.split_rule import read_rule
from crashcast.modeling.validation_scores import Scorer
from crashcast.params.evaluate import Evaluate
from crashcast.params.label import Label
from crashcast.params.train import Train
from crashcast.paths import FEATURES_PATH, SPLIT_PATH

SHARES = (1 / 16, 1.0)  # of this fleet's labels
OWN, AS_IT_IS, TOGETHER, ON_TOP = (
    "this fleet alone",
    "their model as it is",
    "both fleets' rows",
    "on top of their model",
)


def transfer(other: Path) -> pl.DataFrame:
    """Compare ways of using another project's model and labels with doing without.

    Parameters
    ----------
    other : Path
        A project with data/features, data/labels, data/split.json and models.

    Returns
    -------
    DataFrame
        By `share` of this fleet's labels and `way`: `pr_auc` and `event_recall` (at the alarm budget), and of each the
        `_gain` over this fleet alone, with `_gain_low` and `_gain_high`: two-way (servers, blocks of time) and paired.

    Raises
    ------
    UserError
        If labels or features have another meaning there.
    """
    columns, train, rule = feature_names(FEATURES_PATH), Train.read(), read_rule(SPLIT_PATH)
    theirs = _comparable(other, columns)
    candidate, sample, there = chosen_candidate(train), training_sample(train), training_sample(train, other)
    scorers: dict[tuple[float, str], Scorer] = {}
    for share in SHARES:
        rows = part_of(sample, Size(LABELLED, share, 0), rule)
        if sample.crash[rows].sum() > 1:
            own = Sample(sample.keys.filter(pl.Series(rows)), sample.values[rows], sample.crash[rows], sample.shares)
            for way, scorer in _ways(candidate, own, there, theirs, train.seed).items():
                scorers[share, way] = scorer
    measured = dict(zip(scorers, measure(rule, columns, list(scorers.values())), strict=True))
    confidence = Evaluate.read().confidence
    found: list[dict[str, Any]] = []
    for (share, way), figures in measured.items():
        row: dict[str, Any] = {"share": share, "way": way}
        for figure in FIGURES:
            (value, replicates), (before, others) = figures[figure], measured[share, OWN][figure]
            low, high, _ = percentile_interval(replicates - others, confidence)
            gain = {"gain": value - before, "gain_low": low, "gain_high": high}
            row |= {figure: value, **{f"{figure}_{name}": one for name, one in gain.items()}}
        found.append(row)
    return pl.DataFrame(found)


def _comparable(other: Path, columns: list[str]) -> Model:
    """Load the other project's model; refuse one with another meaning of labels or features."""
    label, their_label = Label.read(), Label.read(other / "params.yaml")
    if (label.lead, label.horizon) != (their_label.lead, their_label.horizon):
        raise UserError(
            f"{other} predicts with another lead or horizon (params.yaml: label): its labels have another meaning"
        )
    theirs = load(other / "models")
    names = feature_names(other / FEATURES_PATH)
    if names != columns or theirs.features != columns:
        odd = sorted(set(columns) ^ set(names) | set(columns) ^ set(theirs.features)) or ["another order"]
        raise UserError(f"{other} has other features than this project: {', '.join(odd)}; compute the same in both")
    return theirs


def _ways(candidate: Candidate, own: Sample, there: Sample, theirs: Model, seed: int) -> dict[str, Scorer]:
    def with_their_score(values: Matrix) -> Matrix:
        return np.column_stack([values, theirs.log_odds(values)]).astype(np.float32)

    # both at the share of negatives of the sample that has fewer
    share, columns = min(own.share, there.share), theirs.features
    thinned = [_thin(sample, share, seed) for sample in (own, there)]
    values, crash = (np.concatenate(parts) for parts in zip(*thinned, strict=True))
    on_top = fit(candidate, [*columns, "their score"], with_their_score(own.values), own.crash, own.share)
    return {
        OWN: fit(candidate, columns, own.values, own.crash, own.share).log_odds,
        AS_IT_IS: theirs.log_odds,
        TOGETHER: fit(candidate, columns, values, crash, share).log_odds,
        ON_TOP: lambda values: on_top.log_odds(with_their_score(values)),
    }


def _thin(sample: Sample, share: float, seed: int) -> tuple[Matrix, np.ndarray]:
    drawn = np.random.default_rng(seed).random(len(sample.crash)) < share / sample.share
    rows = sample.crash | drawn
    return sample.values[rows], sample.crash[rows]


def show(found: pl.DataFrame, console: Console) -> None:
    """Print the comparison for people, with what it shows."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("this fleet's labels", "fitted to", "PR-AUC", "gain", "event recall", "gain", ""):
        table.add_column(column)
    for row in found.iter_rows(named=True):
        low, high = row["pr_auc_gain_low"], row["pr_auc_gain_high"]
        table.add_row(
            "all" if row["share"] == 1 else f"{row['share']:.1%}",
            row["way"],
            f"{row['pr_auc']:.3f}",
            "" if row["way"] == OWN else f"{low:+.3f} to {high:+.3f}",
            f"{row['event_recall']:.0%}",
            "" if row["way"] == OWN else f"{row['event_recall_gain_low']:+.2f} to {row['event_recall_gain_high']:+.2f}",
            "" if row["way"] == OWN else "helps" if low > 0 else "harms" if high < 0 else "not shown to help",
        )
    console.print(table)
    console.print("Measured on validation, by PR-AUC.", highlight=False)
