"""What the same rows say of champion and challenger: paired differences, and how sure they are.

Every figure is measured on the scored rows, for all models alike. Standard errors (standard_error.py) and replicates
(modeling/bootstrap.py) are two-way, by servers and by blocks of time, and paired: the same draws for all models. Event
recall and lead are taken where a model spends exactly the alarm budget, on a curve of thresholds around it
(alarm_curve.py), anew in every replicate: a stored threshold that spends more would buy recall with false alarms.
If recipes are judged, standard errors are larger, for other training rows (windows.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from crashcast.crash_groups import incident_groups
from crashcast.errors import UserError
from crashcast.modeling import alarms
from crashcast.modeling.bootstrap import TwoWayDraws, pr_auc_replicates, ratio_replicates
from crashcast.modeling.row_metrics import chunks, steps_of
from crashcast.modeling.slices import crash_kinds
from crashcast.modeling.split_rule import HAS_LABEL
from crashcast.params.base import DAY, format_duration
from crashcast.review.alarm_curve import AlarmCurve, PerPoint, between, false_alarms, place_of
from crashcast.review.standard_error import pr_auc_influence, spread, total_influence

if TYPE_CHECKING:
    from crashcast.params.acceptance import Acceptance
    from crashcast.review.rescoring import ScoredRows

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

ANCHOR, ALL, LEAD = "pr_auc_against_anchor", "all_crashes", "lead_h"
SLOPE_WITHIN = 2  # times the budget, and the budget divided by it: where the curve's slope is taken


@dataclass(frozen=True, eq=False)
class Difference:
    """One figure of both models, and how far their difference may be off.

    Attributes
    ----------
    name, title, unit : str
        Unit is "share" for what is read in percent, empty for areas.
    better : {"higher", "lower"}
    champion, challenger, difference : float or None
        None if there was nothing to measure; the difference is challenger - champion.
    standard_error, degrees_of_freedom : float
    deviations : array of shape (replicates,)
        How far the difference lies from its mean in each replicate, brought to the standard error.
    """

    name: str
    title: str
    unit: str
    better: str
    champion: float | None
    challenger: float | None
    difference: float | None
    standard_error: float = 0.0
    degrees_of_freedom: float = 1.0
    deviations: Floats = field(default_factory=lambda: np.zeros(0), repr=False)

    def reach(self, error: float) -> float:
        """Return how far a one-sided bound of this error lies from the difference."""
        return -float(stdtrit(self.degrees_of_freedom, error)) * self.standard_error  # Student's t

    @property
    def gain(self) -> float | None:
        """The difference, positive if the challenger is better."""
        return self.difference if self.difference is None or self.better == "higher" else -self.difference

    @property
    def gain_deviations(self) -> Floats:
        """The deviations of `gain`."""
        return self.deviations if self.better == "higher" else -self.deviations


@dataclass(frozen=True, eq=False)
class Slice:
    """A part of the fleet, or a kind of crash, by itself."""

    name: str
    rows: int
    crashes: int
    difference: Difference


@dataclass(frozen=True, eq=False)
class Comparison:
    """What the rescored rows show.

    Attributes
    ----------
    rows, positives, crashes : int
    server_days : float
    servers : int
    servers_with_crashes, groups : int
        Crashes within one block length of the first of them are one incident group.
    blocks : int
        Blocks of time that hold rows.
    differences : mapping of str to Difference
        `pr_auc`, `event_recall`, `lead_h`, `brier`, and `pr_auc_against_anchor` if there is an anchor.
    false_alarms_over_budget : mapping of str to float
        At each model's stored threshold.
    slices : mapping of str to Slice
    """

    rows: int
    positives: int
    crashes: int
    server_days: float
    servers: int
    servers_with_crashes: int
    groups: int
    blocks: int
    differences: Mapping[str, Difference]
    false_alarms_over_budget: Mapping[str, float]
    slices: Mapping[str, Slice]


def check_block(acceptance: Acceptance, touched: timedelta) -> None:
    """Refuse blocks that are shorter than what one crash touches.

    Raises
    ------
    UserError
        Naming both.
    """
    if acceptance.block < touched:
        raise UserError(
            f"params.yaml: acceptance.block ({format_duration(acceptance.block)}) must be at least lead + horizon "
            f"({format_duration(touched)}): what one crash touches must not count as several blocks"
        )


def compare(scored: ScoredRows, acceptance: Acceptance, budget: float) -> Comparison:
    """Measure both models on the same rows.

    Parameters
    ----------
    scored : ScoredRows
        The rows with every model's probabilities, at least one before a crash and one not.
    acceptance : Acceptance
        How to resample: `block`, `replicates`, `seed`.
    budget : float
        False alarms per server-day that on-call can bear.

    Raises
    ------
    UserError
        If a block is too short for one label, or no row precedes a crash, or all do.
    """
    window, rows = scored.window, scored.rows.filter(HAS_LABEL)
    check_block(acceptance, window.duration)
    labels = rows["label"].to_numpy()
    positives = int(np.count_nonzero(labels))
    if positives in (0, rows.height):
        raise UserError(
            f"{positives} of the {rows.height} rescored rows precede a crash, so no ranking can be judged: review "
            "against a test period with crashes (params.yaml: split)"
        )
    crashes = alarms.crashes_of(scored.crashes, scored.period, window.lead)
    fleet = pl.concat([rows["server_id"].unique().cast(pl.String), crashes["server_id"].cast(pl.String)])
    draws = TwoWayDraws.draw(fleet, scored.period, acceptance.block, acceptance.replicates, acceptance.seed)
    paired = _Paired(draws, labels, draws.cells(rows["server_id"], rows["timestamp"]), scored.variance_factor)

    models: list[str] = [name for name in ("champion", "challenger", "anchor") if name in rows.columns]
    scores = {name: rows[name].to_numpy() for name in models}
    rankings = {name: paired.rank(score, scored.slices) for name, score in scores.items()}
    whole = {name: ranking.whole for name, ranking in rankings.items()}
    differences = {PR_AUC.name: paired.difference(PR_AUC, whole["champion"], whole["challenger"])}
    if "anchor" in whole:
        differences[ANCHOR] = paired.difference(PR_AUC_AGAINST_ANCHOR, whole["anchor"], whole["challenger"])
    differences["brier"] = paired.brier(scores)
    kinds = {ALL: np.ones(crashes.height, dtype=bool), **crash_kinds(crashes, scored.crashes)}
    curves = {name: AlarmCurve.of(scored, name, crashes, budget) for name in ("champion", "challenger")}
    recalls, lead = paired.alarms(curves, crashes, kinds, budget, window.interval)
    differences |= {"event_recall": recalls.pop(ALL), LEAD: lead}

    slices = {}
    for name, part in rankings["challenger"].parts.items():
        difference = paired.difference(PR_AUC, rankings["champion"].parts[name], part)
        inside = crashes["server_id"].cast(pl.String).is_in(sorted(scored.slices[name]))
        slices[name] = Slice(name, part.rows, int(inside.sum()), difference)
    for name, difference in recalls.items():
        slices[name] = Slice(name, rows.height, int(kinds[name].sum()), difference)
    server_days = rows.height * (window.interval / DAY)
    return Comparison(
        rows=rows.height,
        positives=positives,
        crashes=crashes.height,
        server_days=server_days,
        servers=draws.shape[0],
        servers_with_crashes=crashes["server_id"].n_unique(),
        groups=incident_groups(crashes["started_at"], acceptance.block),
        blocks=int(paired.rows.reshape(draws.shape).any(axis=0).sum()),
        differences=differences,
        false_alarms_over_budget={
            name: false_alarms(scored, name) / server_days / budget for name in ("champion", "challenger")
        },
        slices=slices,
    )


class _Total(NamedTuple):
    """A sum by cell, and in every replicate."""

    cells: Floats
    replicates: Floats


class _Figure(NamedTuple):
    """One figure of one model, what each cell adds to its error and to its denominator, and its replicates."""

    value: float
    influence: Floats
    weight: Floats
    replicates: Floats
    rows: int = 0


class _Ranking(NamedTuple):
    """A model's PR-AUC, and that of each slice of servers in which it is defined."""

    whole: _Figure
    parts: dict[str, _Figure]


class _Named(NamedTuple):
    """What a difference is called."""

    name: str
    title: str
    unit: str
    better: str


PR_AUC = _Named("pr_auc", "PR-AUC", "", "higher")
PR_AUC_AGAINST_ANCHOR = _Named(ANCHOR, "PR-AUC against the last improvement", "", "higher")
RECALL = _Named("event_recall", "Event recall at the alarm budget", "share", "higher")
MEAN_LEAD = _Named(LEAD, "Mean lead of caught crashes", "h", "higher")
BRIER = _Named("brier", "Brier score", "", "lower")


def _ratio(numerator: _Total, denominator: _Total) -> _Figure | None:
    """Divide; None if there is nothing to divide by."""
    if not denominator.cells.sum() > 0:
        return None
    figure, influence = total_influence(numerator.cells, denominator.cells)
    return _Figure(figure, influence, denominator.cells, ratio_replicates(numerator.replicates, denominator.replicates))


class _Paired:
    """The figures of several models on the same rows and draws."""

    def __init__(
        self, draws: TwoWayDraws, labels: NDArray[np.integer], cells: Ints, variance_factor: float = 1.0
    ) -> None:
        self.draws, self.labels, self.cells, self.variance_factor = draws, labels, cells, variance_factor
        self.n_cells = draws.shape[0] * draws.shape[1]
        self.blocks = np.arange(draws.shape[1], dtype=np.int32)
        self.rows = np.zeros(self.n_cells)
        for some in chunks(len(cells)):
            self.rows += np.bincount(cells[some], minlength=self.n_cells)
        self.positives = np.bincount(cells[labels == 1], minlength=self.n_cells).astype(np.float64)

    def difference(self, named: _Named, champion: _Figure | None, challenger: _Figure | None) -> Difference:
        """Bring the replicates of a difference to the spread of its influence."""
        if champion is None or challenger is None:
            old, new = (None if figure is None else figure.value for figure in (champion, challenger))
            return Difference(*named, champion=old, challenger=new, difference=None)
        share = np.mean([figure.weight / figure.weight.sum() for figure in (champion, challenger)], axis=0)
        shape = -1, self.draws.shape[1]
        of_rows = spread((challenger.influence - champion.influence).reshape(shape), share.reshape(shape))
        found = of_rows._replace(standard_error=of_rows.standard_error * self.variance_factor**0.5)
        replicates = challenger.replicates - champion.replicates
        deviations = np.nan_to_num(replicates - np.nanmean(replicates))
        scale = deviations.std()
        deviations = deviations * (found.standard_error / scale) if scale > 0 else np.zeros_like(deviations)
        change = challenger.value - champion.value
        return Difference(*named, champion.value, challenger.value, change, *found, deviations=deviations)

    def rank(self, scores: Floats, groups: Mapping[str, frozenset[str]]) -> _Ranking:
        """Compute PR-AUC on all rows and on those of each group; of groups, replicates are to the first order."""
        steps = steps_of(self.labels, scores)
        whole = pr_auc_influence(self.labels, steps, self.cells, self.n_cells)
        parts = {}
        for name, members in sorted(groups.items()):
            inside = np.isin(self.draws.servers, sorted(members))
            own = np.repeat(inside, self.draws.shape[1])[self.cells]
            labels = self.labels[own]
            if 0 < np.count_nonzero(labels) < len(labels):
                renumbered = (np.cumsum(inside, dtype=np.int32) - 1).repeat(self.draws.shape[1])
                renumbered = renumbered * self.draws.shape[1] + np.tile(self.blocks, len(inside))
                n_cells = int(inside.sum()) * self.draws.shape[1]
                area, influence = pr_auc_influence(labels, steps[own], renumbered[self.cells[own]], n_cells)
                positives = self.positives.reshape(self.draws.shape)[inside].ravel()
                parts[name] = _Figure(area, influence, positives, self.draws.total(influence, inside), len(labels))
        replicates = pr_auc_replicates(self.labels, steps, self.cells, self.draws)
        return _Ranking(_Figure(*whole, self.positives, replicates, len(steps)), parts)

    def brier(self, scores: Mapping[str, Floats]) -> Difference:
        """Compare Brier scores."""
        rows = _Total(self.rows, self.draws.total(self.rows))

        def figure(model: str) -> _Figure | None:
            errors = np.zeros(self.n_cells)
            for some in chunks(len(self.labels)):
                each = (scores[model][some] - self.labels[some]) ** 2
                errors += np.bincount(self.cells[some], weights=each, minlength=self.n_cells)
            return _ratio(_Total(errors, self.draws.total(errors)), rows)

        return self.difference(BRIER, figure("champion"), figure("challenger"))

    def alarms(
        self,
        curves: dict[str, AlarmCurve],
        crashes: pl.DataFrame,
        kinds: dict[str, NDArray[np.bool_]],
        budget: float,
        interval: timedelta,
    ) -> tuple[dict[str, Difference], Difference]:
        """Compare recall and mean lead where each model spends exactly the budget.

        Returns
        -------
        dict
            The difference in recall of each kind of crash.
        Difference
            In mean lead over caught crashes, in hours.
        """
        of_crash = self.draws.cells(crashes["server_id"], crashes["last_warning_at"])
        allowed = self.rows * (budget * (interval / DAY))
        known = {}
        for kind, some in kinds.items():
            cells = np.bincount(of_crash, weights=some, minlength=self.n_cells).astype(np.float64)
            known[kind] = _Total(cells, self.draws.total(cells))
        caught = [self._at_budget(curves[name], of_crash, kinds, allowed) for name in ("champion", "challenger")]

        recalls = {
            kind: self.difference(RECALL, *(_ratio(model[kind], known[kind]) for model in caught)) for kind in kinds
        }
        return recalls, self.difference(MEAN_LEAD, *(_ratio(model[LEAD], model[ALL]) for model in caught))

    def _at_budget(
        self, curve: AlarmCurve, of_crash: Ints, kinds: dict[str, NDArray[np.bool_]], allowed: Floats
    ) -> dict[str, _Total]:
        """Return what a model catches of each kind of crash, and the sum of leads, where it spends what is allowed."""
        point, crash = curve.caught["point"].to_numpy(), curve.caught["crash"].to_numpy()
        values = {kind: some[crash].astype(np.float64) for kind, some in kinds.items()}
        values[LEAD] = curve.caught["lead_h"].to_numpy()
        caught = {name: PerPoint(point, of_crash[crash], value, curve.points) for name, value in values.items()}
        cells = self.draws.cells(curve.false["server_id"], curve.false["timestamp"])
        false = PerPoint(curve.false["point"].to_numpy(), cells, np.ones(len(cells)), curve.points)

        replicated = place_of(self._replicated(false), self.draws.total(allowed))
        budget, sums = np.array([allowed.sum()]), false.sums
        place = place_of(sums, budget)
        fewer, more = (place_of(sums, budget * times) for times in (1 / SLOPE_WITHIN, SLOPE_WITHIN))
        step = between(sums, more) - between(sums, fewer)
        # a cell that spends more than its share makes the threshold rise everywhere
        spent = false.in_cells(place, self.n_cells)
        overspent = spent - allowed * (spent.sum() / budget[0])
        found = {}
        for name, value in caught.items():
            rise = between(value.sums, more) - between(value.sums, fewer)
            slope = float((rise / step)[0]) if sums[-1, 0] > budget[0] else 0.0
            at = value.in_cells(place, self.n_cells) - slope * overspent
            found[name] = _Total(at, between(self._replicated(value), replicated))
        return found

    def _replicated(self, values: PerPoint) -> Floats:
        """Sum the values of each threshold in every replicate, by what changes from one threshold to the next."""
        has_next = values.point + 1 < values.points
        changes = self.draws.totals(
            np.append(values.point, values.point[has_next] + 1),
            np.append(values.cells, values.cells[has_next]),
            np.append(values.value, -values.value[has_next]),
            values.points,
        )
        sums: Floats = np.cumsum(changes, axis=0)
        return sums
