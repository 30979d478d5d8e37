"""Whether the newest week is like those that the model was trained on (docs/drift.md).

Each figure of the newest week is compared with its values in the weeks of the training period, by Student's prediction
interval for one more value. Distributions are compared by the logarithm of the Jensen-Shannon distance between a week
and all others. The probability of a false alarm is divided among the figures and the weeks of a year, so a fleet that
does not change raises as many as `drift.false_alarms_per_year` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import stdtr

from crashcast import tables
from crashcast.errors import UserError
from crashcast.incidents import complete_incidents, read_covered_crashes
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.model import Model
from crashcast.modeling.split_rule import period
from crashcast.operate.deployment import Deployment
from crashcast.operate.reasons import sources
from crashcast.params.drift import Drift
from crashcast.params.features import Features
from crashcast.paths import CLEAN_PATH, CONFIRMED_PATH, COVERAGE_PATH, FEATURES_PATH, LABELS_PATH
from crashcast.review.test_set import read_rule
from crashcast.versioning.revision import Revision
from crashcast.watch import reported_changes, weekly_statistics
from crashcast.watch.reported_changes import Change
from crashcast.watch.weekly_statistics import DATA, Series, Weeks

Floats = NDArray[np.float64]
WEEKS_A_YEAR = 365.25 / 7
LEAST_DISTANCE = 1e-6  # two weeks that are the same
MOVED = 0.01  # a shift of a metric that changes the mean risk by a smaller share is no alarm
ROWS = 50_000  # of a week, that an effect on the risk is measured on
SEED = 0


class Finding(NamedTuple):
    """How far a figure of the newest week lies from those of the training period.

    Attributes
    ----------
    layer, name, figure : str
        Such as `data`, `cpu_pct`, `mean`.
    value, expected : float
        Of the newest week, and the mean of the reference weeks; of a distribution the Jensen-Shannon distance.
    deviations : float
        How many standard deviations of a new value lie between them, on the figure's scale.
    p_value : float
        Probability of such a deviation, or of a larger one, if nothing has changed.
    is_shift : bool
        Whether that is below what the budget of false alarms allows.
    effect : float or None
        By what share the mean risk of the week is higher because of the shift; None if it is no shift of a metric.
    """

    layer: str
    name: str
    figure: str
    value: float
    expected: float
    deviations: float
    p_value: float
    is_shift: bool
    effect: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Its names."""
        return self.layer, self.name, self.figure

    @property
    def is_alarm(self) -> bool:
        """Whether it is a shift that matters: one that moves no score is information alone."""
        return self.is_shift and (self.effect is None or abs(self.effect) >= MOVED)


@dataclass(frozen=True)
class Report:
    """What `crashcast drift` says.

    Attributes
    ----------
    week : datetime or None
        Start of the newest whole week; None if there is none after the training period.
    weeks : int
        Reference weeks.
    needed : int
        How many are needed for an answer.
    findings : list of Finding
        The largest deviation first; empty if there is no answer.
    changes : list of Change
        Those of this week that the team reported.
    trained_to : datetime or None
        End of the training period, if there is an answer.
    history : dict
        By `Finding.key`, the figure of each week up to the newest one, None if it is not known; of a distribution its
        distance to the training period.
    """

    week: datetime | None
    weeks: int
    needed: int
    findings: list[Finding]
    changes: list[Change] = field(default_factory=list)
    trained_to: datetime | None = None
    history: dict[tuple[str, str, str], list[float | None]] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether there is an answer."""
        return self.week is not None and self.weeks >= self.needed

    @property
    def alarms(self) -> list[Finding]:
        """The shifts that matter."""
        return [one for one in self.findings if one.is_alarm]


def read(used: Deployment, revision: Revision) -> Report:
    """Compare the newest whole week of the pipeline's data with the training period of a model.

    Parameters
    ----------
    used : Deployment
        The model.
    revision : Revision
        Its commit.

    Raises
    ------
    UserError
        If an output of the pipeline is missing, or the commit did not split its rows by time.
    """
    telemetry, drift, incidents, model = used.telemetry, Drift.read(), used.incidents, used.model
    rule = read_rule(revision)
    if rule["method"] != "time":
        raise UserError(
            f"commit {revision.name} did not split its rows by time (params.yaml: split.method), so there are no weeks "
            "after its training period"
        )
    begun, trained_to = period(rule, "train")
    _, known_to = period(rule, "test")
    newest = tables.partitions(CLEAN_PATH)[-1].path(CLEAN_PATH)
    last = tables.read(newest, ["timestamp"])["timestamp"].max()
    if not isinstance(last, datetime):
        raise UserError(f"{newest} has no rows: run `dvc repro`")
    weeks = Weeks(*weekly_statistics.span(begun, trained_to, last.replace(tzinfo=None) + telemetry.interval))
    if weeks.number <= weeks.reference or weeks.reference < drift.min_weeks:
        week = weeks.start(weeks.number - 1) if weeks.number > weeks.reference else None
        return Report(week, weeks.reference, drift.min_weeks, [])
    covered = tables.read(COVERAGE_PATH)
    groups = dict(covered.drop_nulls("group").select("server_id", "group").iter_rows()) if "group" in covered else {}
    ends = covered["covered_to"].max()
    assert isinstance(ends, datetime)
    series = [
        *weekly_statistics.of_metrics(CLEAN_PATH, list(telemetry.metrics), weeks),
        *weekly_statistics.of_fleet(CLEAN_PATH, groups, telemetry.interval, weeks),
        *weekly_statistics.of_scores(FEATURES_PATH, model, weeks),
        *weekly_statistics.of_crashes(
            complete_incidents(tables.read(CONFIRMED_PATH), incidents),
            covered,
            ends.replace(tzinfo=None) - incidents.reporting_delay,
            weeks,
        ),
        *weekly_statistics.of_alarms(
            FEATURES_PATH,
            LABELS_PATH,
            read_covered_crashes(CONFIRMED_PATH, COVERAGE_PATH, incidents),
            model,
            AlarmWindow.of(used.label, telemetry.interval),
            weeks,
            weeks.between(trained_to, known_to),
        ),
    ]
    found = judge(series, weeks.reference, weeks.number - 1, drift)
    if any(one.is_shift and one.layer == DATA for one in found):
        found = with_effects(found, model, weeks, used.features)
    week = weeks.start(weeks.number - 1)
    reported = reported_changes.between(week, week + weekly_statistics.WEEK)
    history = {(one.layer, one.name, one.figure): week_by_week(one, weeks.reference) for one in series}
    return Report(week, weeks.reference, drift.min_weeks, found, reported, trained_to, history)


def judge(series: Sequence[Series], reference: int, week: int, drift: Drift) -> list[Finding]:
    """Compare a week with the first `reference` ones.

    Parameters
    ----------
    series : sequence of Series
    reference : int
        The weeks that it is compared with.
    week : int
        Its number, `reference` or higher.
    drift : Drift
        For the budget of false alarms.

    Returns
    -------
    list of Finding
        Those that are known, the smallest p-value first.
    """
    level = drift.false_alarms_per_year / WEEKS_A_YEAR / max(1, len(series))
    compared = ((one, compare(one, reference, week)) for one in series)
    found = [
        Finding(one.layer, one.name, one.figure, *numbers, is_shift=numbers[-1] < level)
        for one, numbers in compared
        if numbers is not None
    ]
    return sorted(found, key=lambda one: (one.p_value, -abs(one.deviations)))


def compare(series: Series, reference: int, week: int) -> tuple[float, float, float, float] | None:
    """Return a week's value, the mean of the reference weeks, the deviations between them and their p-value.

    Numbers deviate to both sides; the distance of a distribution only upwards. None if too little is known.

    Notes
    -----
    Source: the prediction interval of one more normal value, such as Hahn, Meeker, Statistical Intervals (1991), 4.2.
    """
    if series.is_distribution:
        counts = series.values[[*range(reference), week]]
        if not counts[-1].sum():
            return None
        known = counts[:-1][counts[:-1].sum(axis=1) > 0]
        total = known.sum(axis=0)
        past = np.log([distance(one, total - one) for one in known])
        new = float(np.log(distance(counts[-1], total)))
    else:
        earlier = series.values[:week][series.reference or slice(reference)]
        before = earlier[np.isfinite(earlier)]
        past, new = series.scale(before), float(series.scale(series.values[week]))
    number = len(past)
    if number < 2 or not np.isfinite(new):
        return None
    mean, deviation = float(past.mean()), max(float(past.std(ddof=1)), series.floor)
    apart = new - mean
    if not deviation:
        deviations = 0.0 if apart == 0 else float(np.copysign(np.inf, apart))
    else:
        deviations = apart / (deviation * np.sqrt(1 + 1 / number))
    if series.is_distribution:
        p_value = float(stdtr(number - 1, -deviations))
        return float(np.exp(new)), float(np.exp(mean)), deviations, p_value
    p_value = float(2 * stdtr(number - 1, -abs(deviations)))
    return float(series.values[week]), float(before.mean()), deviations, p_value


def week_by_week(series: Series, reference: int) -> list[float | None]:
    """Return the figure of each week, None if unknown; of a distribution its distance to the reference weeks."""
    values = series.values
    if series.is_distribution:
        total = values[:reference].sum(axis=0)
        others = [total - one if number < reference else total for number, one in enumerate(values)]
        pairs = zip(values, others, strict=True)
        return [distance(one, other) if one.sum() and other.sum() else None for one, other in pairs]
    return [float(value) if np.isfinite(value) else None for value in values]


def distance(one: Floats, other: Floats) -> float:
    """Return the Jensen-Shannon distance of two histograms: 0 the same, 1 nothing in common."""
    return max(float(jensenshannon(one, other, base=2)), LEAST_DISTANCE)


def with_effects(found: Sequence[Finding], model: Model, weeks: Weeks, features: Features) -> list[Finding]:
    """Say of each shift of a metric by what share it raises the week's mean risk.

    The features of that metric are replaced by those of rows drawn from the training period.
    """
    columns = [*tables.KEYS, *model.features]
    week = _drawn(columns, weeks, weeks.number - 1, weeks.number)
    past = _drawn(columns, weeks, 0, weeks.reference)
    order = np.random.default_rng(SEED).integers(past.height, size=week.height)
    past = past[order]
    of_metric, risk = sources(model.features, features), float(model.predict(week).mean())
    effects: dict[str, float] = {}
    for name in {one.name for one in found if one.is_shift and one.layer == DATA}:
        replaced = [past[feature] for feature in of_metric.get(name, [])]
        effects[name] = risk / float(model.predict(week.with_columns(replaced)).mean()) - 1
    return [one._replace(effect=effects[one.name] if one.is_shift and one.layer == DATA else None) for one in found]


def _drawn(columns: list[str], weeks: Weeks, first: int, last: int) -> pl.DataFrame:
    """Return rows of some weeks of the features, spread evenly over them, at most about `ROWS`."""
    inside = Weeks(weeks.start(first), last - first, last - first)
    pieces = list(weekly_statistics.rows_of(FEATURES_PATH, columns, inside))
    height = sum(piece.height for piece in pieces)
    return pl.concat(piece.gather_every(max(1, height // ROWS)) for piece in pieces)
