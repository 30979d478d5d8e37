"""Forward-chained folds: how well candidates rank several later periods, each after a fit to the rows before it.

One validation part cannot rank candidates: chance decides between models that are nearly as good. So candidates are
compared by the mean logarithm of their PR-AUC over the folds: ratios depend on no base rate, and few crashes do not
make them explode. How sure they are comes from resampling servers and, independently, blocks of time. The last fold is
the split itself. A figure that was the reason for a choice flatters, and is corrected for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast.errors import UserError
from crashcast.modeling.bootstrap import Floats, TwoWayDraws, pr_auc_replicates, ratio_replicates, total_replicates
from crashcast.modeling.row_metrics import pr_auc, steps_of
from crashcast.modeling.split_rule import PARTS, Rule, period
from crashcast.modeling.validation_scores import Validation
from crashcast.params.evaluate import Evaluate


def forward_chained(rule: Rule, folds: int, embargo: timedelta) -> list[Rule]:
    """Return the rules of the folds, the earliest first; the last one is the split itself.

    The validation part of each is as long as that of the split, with the embargo around it. A fold is left out if its
    train part were shorter than its validation part. A split by server or at random has no earlier fold.

    Parameters
    ----------
    rule : dict
        What `split` wrote.
    folds : int
        How many there are, if the train part is long enough.
    embargo : timedelta
        Between two parts: as far as a label reaches.
    """
    found = [rule]
    if rule["method"] != "time":
        return found
    first, (start, end) = period(rule, "train")[0], period(rule, "validation")
    length = end - start
    for _ in range(folds - 1):
        end = start - embargo
        start = end - length
        train_end = start - embargo
        if train_end - first < length:
            break
        spans = (first, train_end), (start, end), period(rule, "test")
        periods = {
            part: {"from": span[0].isoformat(), "to": span[1].isoformat()}
            for part, span in zip(PARTS, spans, strict=True)
        }
        found.insert(0, {"method": "time", "periods": periods})
    return found


@dataclass(frozen=True)
class FoldFigures:
    """How well K candidates rank the validation rows of F folds, and that in each of R replicates.

    Attributes
    ----------
    base_rate : array of shape (F,)
    pr_auc : array of shape (F, K)
    base_rate_replicates : array of shape (F, R)
    pr_auc_replicates : array of shape (F, K, R)
        A replicate without crashes counts as one without skill (0).
    """

    base_rate: Floats
    pr_auc: Floats
    base_rate_replicates: Floats
    pr_auc_replicates: Floats

    @cached_property
    def lift(self) -> Floats:
        """The mean PR-AUC over the base rate, shape (K,)."""
        return np.asarray((self.pr_auc / self.base_rate[:, None]).mean(axis=0))

    @cached_property
    def lift_replicates(self) -> Floats:
        """The same in every replicate, shape (K, R)."""
        lifts = [
            ratio_replicates(area, base_rate)
            for base_rate, areas in zip(self.base_rate_replicates, self.pr_auc_replicates, strict=True)
            for area in areas
        ]
        return np.asarray(np.nan_to_num(lifts).reshape(self.pr_auc_replicates.shape).mean(axis=0))

    @cached_property
    def score(self) -> Floats:
        """The mean logarithm of PR-AUC over the folds, shape (K,)."""
        return np.asarray(np.log(self.pr_auc).mean(axis=0))

    @cached_property
    def score_errors(self) -> Floats:
        """By how much it differs in every replicate from its mean over them, shape (K, R)."""
        return np.asarray(_log_errors(self.pr_auc_replicates).mean(axis=0))

    @cached_property
    def standard_errors(self) -> Floats:
        """Of the difference in score of each two candidates, shape (K, K)."""
        return np.stack([(self.score_errors - one).std(axis=1) for one in self.score_errors])

    def simplest_of_the_best(self, eligible: NDArray[np.bool_], score: Floats | None = None) -> int:
        """Return the first eligible candidate whose score is within its standard error of the highest one.

        Source: the one-standard-error rule of Breiman, Friedman, Olshen, Stone, Classification and regression trees,
        1984, section 3.4.3; here the error is that of the difference, for candidates are judged on the same rows.

        Parameters
        ----------
        eligible : bool array of shape (K,)
            At least one.
        score : array of shape (K,), optional
            Of another sample than the folds.
        """
        score = self.score if score is None else score
        best = int(np.argmax(np.where(eligible, score, -np.inf)))
        return int(np.argmax(eligible & (score[best] - score <= self.standard_errors[best])))

    def expected(self, chosen: int, eligible: NDArray[np.bool_], confidence: float) -> dict[str, float]:
        """Return the PR-AUC and lift to be expected of a candidate on a new period, corrected for the choice.

        In each replicate a candidate is chosen in the same way. The mean error of its score there is the optimism of a
        choice (Efron, Tibshirani, An introduction to the bootstrap, 1993, section 17.6). The interval holds for a new
        period as long as a validation part: it has the error of the folds' mean and, from another replicate, that of a
        single period.

        Parameters
        ----------
        chosen : int
        eligible : bool array of shape (K,)
            From among which it was chosen.
        confidence : float
            Of the interval, such as 0.9.
        """
        again = [self.simplest_of_the_best(eligible, self.score + errors) for errors in self.score_errors.T]
        optimism = self.score_errors[again, np.arange(len(again))].mean()
        area, base_rate = self.pr_auc_replicates[:, chosen], self.base_rate_replicates
        found: dict[str, float] = {}
        for name, figures, errors in (
            ("pr_auc", self.pr_auc[:, chosen], _log_errors(area)),
            ("lift", self.pr_auc[:, chosen] / self.base_rate, _log_errors(area) - _log_errors(base_rate)),
        ):
            value = np.log(figures).mean() - optimism
            of_new_period = errors - np.roll(errors.mean(axis=0), 1)  # of two replicates, which are independent
            low, high = np.quantile(value + of_new_period, [(1 - confidence) / 2, (1 + confidence) / 2])
            limits = {name: value, f"{name}_low": low, f"{name}_high": high}
            found |= {limit: float(np.exp(logarithm)) for limit, logarithm in limits.items()}
        return found | {"pr_auc_high": min(found["pr_auc_high"], 1.0)}


def _log_errors(replicates: Floats) -> Floats:
    """Return the logarithms less their mean over the replicates, the last axis; of a replicate without crashes, 0."""
    logs = np.log(replicates, out=np.full(replicates.shape, np.nan), where=replicates > 0)
    return np.nan_to_num(logs - np.nanmean(logs, axis=-1, keepdims=True))


def draw_folds(folds: list[Rule], servers: Sequence[str], resampling: Evaluate) -> TwoWayDraws:
    """Resample these servers, and the blocks from the first fold's validation part to the last's."""
    names = pl.Series(servers, dtype=pl.String)
    span = period(folds[0], "validation")[0], period(folds[-1], "validation")[1]
    return TwoWayDraws.draw(names, span, resampling.block, resampling.replicates, resampling.seed)


def measure(folds: Iterable[Rule], scored: Iterable[Validation], draws: TwoWayDraws) -> tuple[Validation, FoldFigures]:
    """Measure all candidates on each fold.

    Parameters
    ----------
    folds : iterable of dict
        See `forward_chained`.
    scored : iterable of Validation
        The validation part of each, scored by all candidates; one at a time is held.
    draws : TwoWayDraws
        See `draw_folds`.

    Returns
    -------
    Validation
        Of the last fold.
    FoldFigures
        Of the folds whose validation part has rows of both classes.

    Raises
    ------
    UserError
        If the last has not.
    """
    found: list[tuple[Floats, ...]] = []
    has_both = False
    for fold, validation in zip(folds, scored, strict=True):
        labels, own = validation.labels, draws.during(period(fold, "validation"))
        has_both = 0 < labels.sum() < len(labels)
        if not has_both:
            continue
        known = validation.rows.filter(validation.known)
        cells = own.cells(known["server_id"].cast(pl.String), known["timestamp"])
        base_rate = ratio_replicates(
            total_replicates(labels, cells, own), total_replicates(np.ones(len(labels)), cells, own)
        )
        areas, replicates = [], []
        for number in range(len(validation.files)):
            scores = validation.scores(number)[validation.known]
            areas.append(pr_auc(labels, scores))
            replicates.append(pr_auc_replicates(labels, steps_of(labels, scores), cells, own))
        found.append((labels.mean(), np.array(areas), base_rate, np.nan_to_num(replicates)))
    if not has_both:  # of the last
        raise UserError(
            "candidates cannot be compared without rows of both classes in the validation part (servers compared on: "
            f"{draws.shape[0]}): raise train.max_compared_rows or split.validation"
        )
    return validation, FoldFigures(*(np.stack(figures) for figures in zip(*found, strict=True)))
