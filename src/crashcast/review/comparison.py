"""What the same rows say of champion and challenger: paired differences, and how sure they are.

Every figure is measured on the rescored rows for all models alike. Errors and replicates are two-way (two_way.py) and
paired: the same draws for all models. Event recall and lead are taken where a model spends exactly the alarm budget, on
a curve of thresholds around it, anew in every replicate: a stored threshold that spends more would buy recall with
false alarms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from crashcast.errors import UserError
from crashcast.modeling import alarms
from crashcast.modeling.bootstrap import TwoWayDraws, ratio_replicates
from crashcast.params.base import DAY, format_duration
from crashcast.review.two_way import Replicator, chunks, pr_auc_influence, spread, steps_of, total_influence

if TYPE_CHECKING:
    from crashcast.params.acceptance import Acceptance
    from crashcast.review.rescoring import Rescored

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

FRESH_AFTER = timedelta(days=30)  # as in the evaluation: a crash within it after another of its server is a repeat
ANCHOR, ALL, LEAD = "pr_auc_against_anchor", "all_crashes", "lead_h"
CURVE = (1 / 4, 4)  # thresholds are tried from a quarter of the alarm budget to four times it
CURVE_POINTS = 32
SEARCHED, SAMPLED_ROWS = 32, 1_000_000  # times as many rows as at first, found among so many
SLOPE_WITHIN = 1.3  # times the budget, and the budget divided by it: where the curve's slope is taken


@dataclass(frozen=True, eq=False)
class Difference:
    """One figure of both models, and how far their difference may be off.

    Attributes
    ----------
    name, title, unit : str
        Unit is "share" for what is read in percent, empty for areas.
    better : {"higher", "lower"}
    champion, challenger, difference : float or None
        None where there was nothing to measure; the difference is challenger - champion.
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
        """The difference, positive where the challenger is better."""
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
class Evidence:
    """What the rescored rows say.

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
        `pr_auc`, `event_recall`, `lead_h`, `brier`, and `pr_auc_against_anchor` where there is an anchor.
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


def gather(rescored: Rescored, acceptance: Acceptance, budget: float) -> Evidence:
    """Measure both models on the same rows.

    Parameters
    ----------
    rescored : Rescored
        The rows with every model's probabilities, at least one before a crash and one not.
    acceptance : Acceptance
        How to resample: `block`, `replicates`, `seed`.
    budget : float
        False alarms per server-day that on-call can bear.

    Raises
    ------
    UserError
        Where a block is too short for one label, or no row precedes a crash, or all do.
    """
    timing, rows = rescored.timing, rescored.rows
    reach = timing["lead"] + timing["horizon"]
    if acceptance.block < reach:
        raise UserError(
            f"params.yaml: acceptance.block ({format_duration(acceptance.block)}) must be at least lead + horizon "
            f"({format_duration(reach)}): what one crash touches must not count as several blocks"
        )
    labels = rows["label"].to_numpy()
    positives = int(np.count_nonzero(labels))
    if positives in (0, rows.height):
        raise UserError(
            f"{positives} of the {rows.height} rescored rows precede a crash, so no ranking can be judged: review "
            "against a test period with crashes (params.yaml: split)"
        )
    crashes = alarms.crashes_of(rescored.crashes, rescored.period, timing["lead"])
    fleet = pl.concat([rows["server_id"].unique().cast(pl.String), crashes["server_id"].cast(pl.String)])
    draws = TwoWayDraws.draw(fleet, rescored.period, acceptance.block, acceptance.replicates, acceptance.seed)
    # 8 bytes to count how often a server was drawn are 7 too many
    draws = replace(draws, of_servers=draws.of_servers.astype(np.int16), of_blocks=draws.of_blocks.astype(np.int16))
    comparison = _Comparison(draws, labels, draws.cells(rows["server_id"], rows["timestamp"]))

    models: list[str] = [name for name in ("champion", "challenger", "anchor") if name in rows.columns]
    scores = {name: rows[name].to_numpy() for name in models}
    rankings = {name: comparison.rank(score, rescored.groups) for name, score in scores.items()}
    differences = comparison.ranked(rankings)
    differences["brier"] = comparison.brier(scores)
    kinds = _kinds(crashes, rescored.crashes)
    curves = {name: _AlarmCurve.of(rescored, name, crashes, budget) for name in ("champion", "challenger")}
    recalls, lead = comparison.alarms(curves, crashes, kinds, budget, timing["interval"])
    differences |= {"event_recall": recalls.pop(ALL), LEAD: lead}

    slices = {}
    for name, part in rankings["challenger"].parts.items():
        difference = comparison.difference(PR_AUC, rankings["champion"].parts[name], part)
        inside = crashes["server_id"].cast(pl.String).is_in(sorted(rescored.groups[name]))
        slices[name] = Slice(name, part.rows, int(inside.sum()), difference)
    for name, difference in recalls.items():
        slices[name] = Slice(name, rows.height, int(kinds[name].sum()), difference)
    server_days = rows.height * (timing["interval"] / DAY)
    return Evidence(
        rows=rows.height,
        positives=positives,
        crashes=crashes.height,
        server_days=server_days,
        servers=draws.shape[0],
        servers_with_crashes=crashes["server_id"].n_unique(),
        groups=incident_groups(crashes["started_at"], acceptance.block),
        blocks=int(comparison.rows.reshape(draws.shape).any(axis=0).sum()),
        differences=differences,
        false_alarms_over_budget={
            name: _false_alarms(rescored, name) / server_days / budget for name in ("champion", "challenger")
        },
        slices=slices,
    )


def incident_groups(started_at: pl.Series, block: timedelta) -> int:
    """Count groups of crashes: one takes in all that start within a block's length after its first, on any server."""
    groups, ends = 0, None
    for moment in started_at.sort():
        if ends is None or moment >= ends:
            groups, ends = groups + 1, moment + block
    return groups


def _kinds(crashes: pl.DataFrame, history: pl.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Return which crashes are of each kind."""
    of_server = history.sort("started_at").with_columns(since=pl.col("started_at").diff().over("server_id"))
    repeats = of_server.filter(pl.col("since") <= FRESH_AFTER).select("server_id", "started_at", repeat=True).unique()
    joined = crashes.join(repeats, on=["server_id", "started_at"], how="left", maintain_order="left")
    repeat = joined["repeat"].fill_null(False).to_numpy()
    return {ALL: np.ones(crashes.height, dtype=bool), "fresh_crashes": ~repeat, "repeated_crashes": repeat}


def _scored(rescored: Rescored, model: str) -> pl.DataFrame:
    return rescored.rows.select("timestamp", "server_id", score=model)


def _false_alarms(rescored: Rescored, model: str) -> int:
    """Count false alarms at the model's stored threshold."""
    timing, threshold = rescored.timing, rescored.thresholds[model]
    high = _scored(rescored, model).filter(pl.col("score") >= threshold)
    opened = alarms.open_alarms(high, threshold, timing["lead"] + timing["horizon"])
    return len(_false(opened, rescored))


def _false(opened: pl.DataFrame, rescored: Rescored) -> pl.DataFrame:
    lead, horizon = rescored.timing["lead"], rescored.timing["horizon"]
    return alarms.judge_alarms(opened, rescored.crashes, lead, horizon).filter(outcome=alarms.FALSE)


class _AlarmCurve(NamedTuple):
    """Alarms at falling thresholds: what each false one and each caught crash belongs to.

    Attributes
    ----------
    points : int
        Thresholds.
    false : DataFrame
        `point`, `server_id`, `timestamp` of each false alarm.
    caught : DataFrame
        `point`, `crash` (its number) and `lead_h` of each caught crash.
    """

    points: int
    false: pl.DataFrame
    caught: pl.DataFrame

    @classmethod
    def of(cls, rescored: Rescored, model: str, crashes: pl.DataFrame, budget: float) -> _AlarmCurve:
        """Try thresholds until false alarms exceed the budget several times over."""
        timing, rows = rescored.timing, _scored(rescored, model)
        lead, horizon = timing["lead"], timing["horizon"]
        allowed = budget * rows.height * (timing["interval"] / DAY)
        scores = rows["score"].to_numpy()
        # r rows raise at most r alarms
        first = min(max(int(CURVE[0] * allowed), 1), rows.height)
        every = -(-rows.height // SAMPLED_ROWS)
        falling, last = np.sort(scores[::every])[::-1], SEARCHED * first
        while last < rows.height:
            score = float(falling[min(last // every, len(falling) - 1)])
            high = rows.filter(pl.col("score") >= score)
            if _false(alarms.open_alarms(high, score, lead + horizon), rescored).height > CURVE[1] * allowed:
                break
            last *= 4
        else:
            high = rows
        falling = np.sort(high["score"].to_numpy())[::-1]
        ranks = np.geomspace(min(first, len(falling)), len(falling), CURVE_POINTS).astype(np.int64)

        numbered = crashes.with_row_index("crash")
        false, caught = [], []
        for point, score in enumerate(np.unique(falling[ranks - 1])[::-1]):
            some = high.filter(pl.col("score") >= score)
            opened = alarms.open_alarms(some, float(score), lead + horizon)
            false.append(_false(opened, rescored).select("server_id", "timestamp", point=pl.lit(point, pl.Int64)))
            caught.append(
                alarms.catch(numbered, opened, opened, lead, horizon)
                .filter("caught")
                .select("crash", lead_h=pl.col("lead_time") / alarms.HOUR, point=pl.lit(point, pl.Int64))
            )
            if false[-1].height > CURVE[1] * allowed:
                break
        return cls(len(false), pl.concat(false), pl.concat(caught))


class _Place(NamedTuple):
    """Where on a curve, in each replicate: between the thresholds before `point` (none before 0) and `point`."""

    point: Ints
    share: Floats  # of the way


def _place(false: Floats, allowed: Floats) -> _Place:
    """Find where false alarms first come to what is allowed, going down; the last threshold where they never do.

    Parameters
    ----------
    false : array of shape (points, replicates)
        At falling thresholds; above the first there are none.
    allowed : array of shape (replicates,)
    """
    exceeds = false > allowed
    point = np.where(exceeds.any(axis=0), exceeds.argmax(axis=0), len(false) - 1)
    at, padded = np.arange(len(point)), np.vstack([np.zeros(len(point)), false])
    before, after = padded[point, at], padded[point + 1, at]
    share = np.divide(allowed - before, after - before, out=np.ones(len(point)), where=after > before)
    return _Place(point, np.clip(share, 0, 1))


def _between(values: Floats, place: _Place) -> Floats:
    """Interpolate values of shape (points, replicates)."""
    at, padded = np.arange(values.shape[1]), np.vstack([np.zeros(values.shape[1]), values])
    between: Floats = (1 - place.share) * padded[place.point, at] + place.share * padded[place.point + 1, at]
    return between


class _PerPoint(NamedTuple):
    """Values that belong to a threshold and a cell."""

    point: Ints
    cells: Ints
    value: Floats
    points: int

    @property
    def sums(self) -> Floats:
        """Of each threshold, shape (points, 1)."""
        return np.bincount(self.point, weights=self.value, minlength=self.points)[:, None].astype(np.float64)

    def in_cells(self, place: _Place, n_cells: int) -> Floats:
        """Sum each cell's values, interpolated."""
        point, share = place.point[0], place.share[0]
        weight = np.where(self.point == point, share, np.where(self.point == point - 1, 1 - share, 0.0))
        return np.bincount(self.cells, weights=weight * self.value, minlength=n_cells).astype(np.float64)


class _Total(NamedTuple):
    """A sum by cell, and in every replicate."""

    cells: Floats
    replicates: Floats


class _Figure(NamedTuple):
    """One figure of one model, what each cell adds to its error, and the figure in every replicate."""

    value: float
    influence: Floats
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
    """Divide; None where there is nothing to divide by."""
    if not denominator.cells.sum() > 0:
        return None
    figure, influence = total_influence(numerator.cells, denominator.cells)
    return _Figure(figure, influence, ratio_replicates(numerator.replicates, denominator.replicates))


class _Comparison:
    """The figures of several models on the same rows and draws."""

    def __init__(self, draws: TwoWayDraws, labels: NDArray[np.integer], cells: Ints) -> None:
        self.draws, self.labels, self.cells = draws, labels, cells
        self.replicator = Replicator(draws)
        self.n_cells = draws.shape[0] * draws.shape[1]
        self.blocks = np.arange(draws.shape[1], dtype=np.int32)
        self.rows = np.zeros(self.n_cells)
        for some in chunks(len(cells)):
            self.rows += np.bincount(cells[some], minlength=self.n_cells)

    def difference(self, named: _Named, champion: _Figure | None, challenger: _Figure | None) -> Difference:
        """Bring the replicates of a difference to the spread of its influence."""
        if champion is None or challenger is None:
            old, new = (None if figure is None else figure.value for figure in (champion, challenger))
            return Difference(*named, champion=old, challenger=new, difference=None)
        found = spread((challenger.influence - champion.influence).reshape(-1, self.draws.shape[1]))
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
                parts[name] = _Figure(area, influence, self.replicator.total(influence, inside), len(labels))
        replicates = self.replicator.pr_auc(self.labels, steps, self.cells)
        return _Ranking(_Figure(*whole, replicates, len(steps)), parts)

    def ranked(self, rankings: Mapping[str, _Ranking]) -> dict[str, Difference]:
        """Compare PR-AUC with the champion's and, where there is one, the anchor's."""
        challenger = rankings["challenger"].whole
        found = {PR_AUC.name: self.difference(PR_AUC, rankings["champion"].whole, challenger)}
        if "anchor" in rankings:
            found[ANCHOR] = self.difference(PR_AUC_AGAINST_ANCHOR, rankings["anchor"].whole, challenger)
        return found

    def brier(self, scores: Mapping[str, Floats]) -> Difference:
        """Compare Brier scores."""
        rows = _Total(self.rows, self.replicator.total(self.rows))

        def figure(model: str) -> _Figure | None:
            errors = np.zeros(self.n_cells)
            for some in chunks(len(self.labels)):
                each = (scores[model][some] - self.labels[some]) ** 2
                errors += np.bincount(self.cells[some], weights=each, minlength=self.n_cells)
            return _ratio(_Total(errors, self.replicator.total(errors)), rows)

        return self.difference(BRIER, figure("champion"), figure("challenger"))

    def alarms(
        self,
        curves: dict[str, _AlarmCurve],
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
            known[kind] = _Total(cells, self.replicator.total(cells))
        caught = [self._at_budget(curves[name], of_crash, kinds, allowed) for name in ("champion", "challenger")]

        recalls = {
            kind: self.difference(RECALL, *(_ratio(model[kind], known[kind]) for model in caught)) for kind in kinds
        }
        return recalls, self.difference(MEAN_LEAD, *(_ratio(model[LEAD], model[ALL]) for model in caught))

    def _at_budget(
        self, curve: _AlarmCurve, of_crash: Ints, kinds: dict[str, NDArray[np.bool_]], allowed: Floats
    ) -> dict[str, _Total]:
        """Return what a model catches of each kind of crash, and the sum of leads, where it spends what is allowed."""
        point, crash = curve.caught["point"].to_numpy(), curve.caught["crash"].to_numpy()
        values = {kind: some[crash].astype(np.float64) for kind, some in kinds.items()}
        values[LEAD] = curve.caught["lead_h"].to_numpy()
        caught = {name: _PerPoint(point, of_crash[crash], value, curve.points) for name, value in values.items()}
        cells = self.draws.cells(curve.false["server_id"], curve.false["timestamp"])
        false = _PerPoint(curve.false["point"].to_numpy(), cells, np.ones(len(cells)), curve.points)

        replicated = _place(self._replicated(false), self.replicator.total(allowed))
        budget, sums = np.array([allowed.sum()]), false.sums
        place = _place(sums, budget)
        fewer, more = (_place(sums, budget * times) for times in (1 / SLOPE_WITHIN, SLOPE_WITHIN))
        step = _between(sums, more) - _between(sums, fewer)
        # a cell that spends more than its share makes the threshold rise everywhere
        spent = false.in_cells(place, self.n_cells)
        overspent = spent - allowed * (spent.sum() / budget[0])
        found = {}
        for name, value in caught.items():
            rise = _between(value.sums, more) - _between(value.sums, fewer)
            slope = float((rise / step)[0]) if sums[-1, 0] > budget[0] and step[0] > 0 else 0.0
            at = value.in_cells(place, self.n_cells) - slope * overspent
            found[name] = _Total(at, _between(self._replicated(value), replicated))
        return found

    def _replicated(self, values: _PerPoint) -> Floats:
        """Sum the values of each threshold in every replicate, by what changes from one threshold to the next."""
        has_next = values.point + 1 < values.points
        changes = self.replicator.totals(
            np.append(values.point, values.point[has_next] + 1),
            np.append(values.cells, values.cells[has_next]),
            np.append(values.value, -values.value[has_next]),
            values.points,
        )
        sums: Floats = np.cumsum(changes, axis=0)
        return sums
