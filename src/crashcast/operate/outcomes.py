"""What came of the alarms, and what acting on them was worth (docs/outcomes.md).

A crash that was prevented is never seen, so alarms that somebody acted on cannot be judged. Alarms that were held back
can: chance alone chose them. The share of them that a crash followed is the live precision, and the difference to the
same share of delivered alarms is the effect of warning people. Whether anybody acted plays no part in that comparison,
since people act on the alarms that look worse.

An alarm counts by the window of its opening alone, (opened_at + lead, opened_at + lead + horizon]: whether it is
renewed already depends on what was done.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.special import betaincinv, ndtri, stdtrit

from crashcast import tables
from crashcast.dates import MONTH
from crashcast.incidents import read_covered_crashes
from crashcast.modeling.alarms import INSTANT
from crashcast.modeling.bootstrap import MONDAY
from crashcast.operate.issued_alarms import ALARM, by_opening, with_crash
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.serve import Serve
from crashcast.paths import ACTIONS_PATH, ALARMS_PATH, CONFIRMED_PATH, COVERAGE_PATH, LABELS_PATH
from crashcast.review.standard_error import Spread, spread, total_influence
from crashcast.sources.raw_table import read_or_empty

DELIVERED, HELD_BACK = "delivered", "held_back"
JEFFREYS = 0.5  # a crash and an alarm without one, half of each, are what a share of few alarms begins with


class Counts(NamedTuple):
    """Alarms, by what followed in the window of the opening."""

    alarms: int
    crash: int
    no_crash: int
    not_known_yet: int


class Estimate(NamedTuple):
    """A figure with its interval; without a control group `value` is None, and the limits are bounds."""

    value: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Outcomes:
    """What came of the alarms of a period.

    Attributes
    ----------
    since, until : datetime or None
        The first and the last opening; naive, meaning UTC. None if there are no alarms.
    counts : dict of (str, bool) to Counts
        By group (`delivered` or `held_back`) and whether somebody acted before any crash.
    confidence : float
        The level of the intervals.
    compared : dict of str to int
        Alarms of each group that the estimates come from. Without alarms that were held back: none of those, and every
        delivered alarm whose outcome is known.
    live_precision : Estimate or None
        Share of alarms that a crash would follow if nobody was warned; None if no outcome is known.
    prevented_per_month : Estimate or None
        Crashes that the delivered alarms among the compared ones prevented.
    price_per_month : Estimate or None
        Crashes that would have been prevented if the alarms had not been held back; None without a control group.
    """

    since: datetime | None
    until: datetime | None
    counts: dict[tuple[str, bool], Counts]
    confidence: float
    compared: dict[str, int]
    live_precision: Estimate | None
    prevented_per_month: Estimate | None
    price_per_month: Estimate | None


def read(since: datetime | None = None, until: datetime | None = None) -> Outcomes:
    """Return what came of the alarms in data/raw that opened in [since, until), by the crashes that `label` confirmed.

    Raises
    ------
    UserError
        If the labels are missing.
    """
    issued, actions = read_or_empty(ALARMS_PATH, tables.ALARMS), read_or_empty(ACTIONS_PATH, tables.ACTIONS)
    inside = pl.lit(value=True)
    if since is not None:
        inside &= pl.col("opened_at") >= since.replace(tzinfo=UTC)
    if until is not None:
        inside &= pl.col("opened_at") < until.replace(tzinfo=UTC)
    label, incidents, serve, evaluate = Label.read(), Incidents.read(), Serve.read(), Evaluate.read()
    alarms = by_opening(issued).filter(inside)
    if alarms.is_empty():
        return figures(follow(alarms, actions, *_nothing(), label, incidents), serve.never_hold_back, evaluate)
    newest = tables.partitions(LABELS_PATH)[-1].path(LABELS_PATH)
    end = tables.read(newest, ["timestamp"])["timestamp"].max()
    assert isinstance(end, datetime)
    covered = tables.read(COVERAGE_PATH, ["server_id", "covered_from", "covered_to"])
    covered = covered.with_columns(pl.min_horizontal("covered_to", pl.lit(end + INSTANT)))
    crashes = read_covered_crashes(CONFIRMED_PATH, COVERAGE_PATH, incidents)
    return figures(follow(alarms, actions, crashes, covered, label, incidents), serve.never_hold_back, evaluate)


def _nothing() -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.DataFrame(schema=tables.INCIDENTS), pl.DataFrame(schema=tables.COVERAGE)  # type: ignore[arg-type]


def follow(
    alarms: pl.DataFrame,
    actions: pl.DataFrame,
    crashes: pl.DataFrame,
    covered: pl.DataFrame,
    label: Label,
    incidents: Incidents,
) -> pl.DataFrame:
    """Say of each alarm whether somebody acted, and whether a crash followed.

    Parameters
    ----------
    alarms : DataFrame
        Of `by_opening`.
    actions : DataFrame
        `server_id` and `at`.
    crashes : DataFrame
        `server_id` and `started_at`: covered crashes.
    covered : DataFrame
        `server_id`, `covered_from`, `covered_to`: when crashes of a server are known.
    label : Label
        For the lead.
    incidents : Incidents
        For the delay of reports.

    Returns
    -------
    DataFrame
        The alarms with `is_acted_on` (an action lies in [opened_at, window_to], before any crash), `is_known` (crashes
        of the whole window are recorded) and `is_crash` (one started in the window).
    """
    found = with_crash(alarms, crashes, label.lead, "window_to").rename({"crashed_at": "in_window"})
    found = with_crash(found, crashes, timedelta(0), "window_to")
    before_crash = (pl.col("at") < pl.col("crashed_at")).fill_null(True)
    acted = actions.select("server_id", "at")
    found = _mark("is_acted_on", found, acted, pl.col("at").is_between("opened_at", "window_to"), before_crash)
    # as the label of the row that opened it is known: the same for a crash as for none
    known_to = pl.col("window_to") + incidents.reporting_delay
    covered = covered.select("server_id", "covered_from", "covered_to")
    found = _mark(
        "is_known", found, covered, pl.col("covered_from") <= pl.col("opened_at"), known_to < pl.col("covered_to")
    )
    return found.with_columns(is_crash=pl.col("in_window").is_not_null()).drop("in_window", "crashed_at")


def _mark(name: str, alarms: pl.DataFrame, rows: pl.DataFrame, *conditions: pl.Expr) -> pl.DataFrame:
    """Say in a column whether any row of an alarm's server meets the conditions."""
    found = alarms.join(rows, on="server_id").filter(*conditions).select(ALARM).unique()
    found = found.with_columns(pl.lit(value=True).alias(name))
    return alarms.join(found, on=ALARM, how="left", maintain_order="left").with_columns(pl.col(name).fill_null(False))


def figures(followed: pl.DataFrame, never_hold_back: Collection[str], evaluate: Evaluate) -> Outcomes:
    """Count outcomes, and estimate what the alarms were worth.

    Parameters
    ----------
    followed : DataFrame
        Of `follow`.
    never_hold_back : collection of str
        Servers whose alarms chance did not choose: they are not compared.
    evaluate : Evaluate
        How the intervals are made.
    """
    counts = {}
    for group in (DELIVERED, HELD_BACK):
        for is_acted_on in (True, False):
            rows = followed.filter(delivered=group == DELIVERED, is_acted_on=is_acted_on)
            known = rows.filter("is_known")
            crash = known.filter("is_crash").height
            counts[group, is_acted_on] = Counts(rows.height, crash, known.height - crash, rows.height - known.height)
    known = followed.filter("is_known")
    held_back = known.filter(~pl.col("delivered"), ~pl.col("server_id").is_in(never_hold_back))
    precision = prevented = price = None
    if held_back.height:
        known = known.filter(
            ~pl.col("server_id").is_in(never_hold_back), pl.col("opened_at") >= held_back["opened_at"].min()
        )
        precision, prevented, price = _measured(known, evaluate)
    elif known.height:
        precision, prevented = _bounded(known)
    compared = {group: known.filter(delivered=group == DELIVERED).height for group in (DELIVERED, HELD_BACK)}
    opened = followed["opened_at"].dt.replace_time_zone(None)
    since, until = opened.min(), opened.max()
    assert since is None or isinstance(since, datetime)
    assert until is None or isinstance(until, datetime)
    return Outcomes(since, until, counts, evaluate.confidence, compared, precision, prevented, price)


def _bounded(known: pl.DataFrame) -> tuple[Estimate, Estimate]:
    """Return bounds: of the alarms that were acted on and no crash followed, none or all were right."""
    crash = known.filter("is_crash").height
    mitigated = known.filter("is_acted_on", ~pl.col("is_crash")).height
    precision = Estimate(None, crash / known.height, (crash + mitigated) / known.height)
    return precision, Estimate(None, 0.0, mitigated / _months(known))


def _months(known: pl.DataFrame) -> float:
    span: timedelta = known.select(pl.col("window_to").max() - pl.col("opened_at").min()).item()
    return span / MONTH


def _measured(known: pl.DataFrame, evaluate: Evaluate) -> tuple[Estimate, Estimate, Estimate]:
    """Compare what followed alarms that chance held back with what followed the delivered ones."""
    silent, warned = (_share(known.filter(delivered=delivered), evaluate) for delivered in (False, True))
    delivered = int(known["delivered"].sum())
    per_month = [number / _months(known) for number in (delivered, known.height - delivered)]
    prevented, price = (_difference(silent, warned, rate) for rate in per_month)
    return silent, prevented, price


def _share(alarms: pl.DataFrame, evaluate: Evaluate) -> Estimate:
    """Return the share of alarms that a crash followed, with Jeffreys' interval of as many independent alarms.

    Alarms of one server, and of one time, depend on each other. So they count as so many independent ones as would give
    the share the same standard error (Korn and Graubard, Survey Methodology 24(2), 1998; Brown, Cai, DasGupta,
    Statistical Science 16(2), 2001, for few alarms).
    """
    number, crashes = alarms.height, int(alarms["is_crash"].sum())
    if not number:
        return Estimate(0.0, 0.0, 1.0)
    share = crashes / number
    tail = (1 - evaluate.confidence) / 2
    independent = float(number)
    if 0 < crashes < number:
        found = _spread(alarms, evaluate)
        standard_error = found.standard_error * stdtrit(found.degrees_of_freedom, tail) / ndtri(tail)
        # a share that is the same in every server and block has no standard error
        counted = share * (1 - share) / standard_error**2 if standard_error else float(alarms["server_id"].n_unique())
        independent = min(number, counted)
    shape = independent * share + JEFFREYS, independent * (1 - share) + JEFFREYS
    low = betaincinv(*shape, tail) if crashes else 0.0
    high = betaincinv(*shape, 1 - tail) if crashes < number else 1.0
    return Estimate(share, float(low), float(high))


def _spread(alarms: pl.DataFrame, evaluate: Evaluate) -> Spread:
    """Return the standard error of the share, with servers and blocks of time as units."""
    server = alarms["server_id"].rank("dense").to_numpy() - 1
    since = alarms["opened_at"].dt.replace_time_zone(None) - MONDAY
    block = (since.dt.total_microseconds() // (evaluate.block // INSTANT)).to_numpy()
    block = block - block.min()
    shape = int(server.max()) + 1, int(block.max()) + 1
    cells = server.astype(np.int64) * shape[1] + block
    number = np.bincount(cells, minlength=shape[0] * shape[1]).astype(np.float64)
    crashes = np.bincount(cells[alarms["is_crash"].to_numpy()], minlength=len(number)).astype(np.float64)
    _, influence = total_influence(crashes, number)
    return spread(influence.reshape(shape), (number / len(cells)).reshape(shape))


def _difference(one: Estimate, other: Estimate, scale: float) -> Estimate:
    """Return a multiple of the difference of two shares, with an interval made of theirs.

    Source: Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine
    17(8), 1998.
    """
    assert one.value is not None
    assert other.value is not None
    value = one.value - other.value
    low = value - np.hypot(one.value - one.low, other.high - other.value)
    high = value + np.hypot(one.high - one.value, other.value - other.low)
    return Estimate(scale * value, scale * float(low), scale * float(high))
