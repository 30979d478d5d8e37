"""Alarms and crashes: what on-call gets from scores at a threshold.

An alarm opens at a server's first observed row at or above the threshold. It speaks of crashes that start in
(t + lead, t + lead + horizon], and stands until the end of that window. Rows in [t, t + horizon) open no other. If a
row at t + horizon or later is high, the next alarm opens there, so that no crash falls between two; if the one before
still stands, this renews it, and on-call gets no new page. An alarm that opened at t is

- late if a crash of its server starts in (t, t + lead] and none in its window;
- unknown if the label of its row is unknown otherwise: the records cannot tell whether it was right;
- true if a crash starts in its window;
- false otherwise.

Which rows have a known label is not known live, so alarms open on all observed rows; a row that only fills a gap opens
none. One alarm may warn of several crashes, and one crash may be caught by several alarms. Rows have `timestamp`,
`server_id`, `label` (null: unknown), `observed` and `score`; crashes are one row each, with `server_id` and
`started_at`, covered by incident records. Frames may come in any order, with servers as text or as categories; they
leave sorted by (time, server_id), with servers as text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.params.base import DAY
from crashcast.params.label import Label

TRUE, LATE, FALSE, UNKNOWN = "true", "late", "false", "unknown"  # outcomes of an alarm
HOUR = timedelta(hours=1)
INSTANT = timedelta(microseconds=1)  # the resolution of timestamps
BATCH_ROWS = 4_000_000  # looked at together: alarms are a server's own, so servers can be taken some at a time
FIRST_ROWS = 10_000  # a threshold is sought among so many of the highest rows, then among twice as many, ...


@dataclass(frozen=True)
class AlarmWindow:
    """Of which crashes an alarm speaks (see the module's docstring), and the cadence of the rows that raise it."""

    lead: timedelta
    horizon: timedelta
    interval: timedelta

    @classmethod
    def of(cls, label: Label, interval: timedelta) -> Self:
        """Return the window of what the label means."""
        return cls(label.lead, label.horizon, interval)

    @property
    def duration(self) -> timedelta:
        """How long an alarm stands."""
        return self.lead + self.horizon


class OperatingPoint(NamedTuple):
    """A threshold and the false alarms per server-day that it caused on the rows it was chosen on."""

    threshold: float
    false_alarms_per_server_day: float


@dataclass(frozen=True)
class EventMetrics:
    """What a threshold meant for on-call in one period; None if there was nothing to divide by.

    Attributes
    ----------
    threshold : float
        Rows at or above it raise alarms.
    server_days : float
        Rows of known label x interval.
    crashes, crashes_caught, crashes_missed : int
        Covered crashes of the period; an alarm spoke of the caught ones, all others are missed.
    crashes_without_observed_row : int
        Those of the missed that no row could have warned of.
    alarms, alarms_true, alarms_late, alarms_false, alarms_unknown : int
        Alarms opened, and how they ended.
    pages : int
        Alarms that renewed none.
    event_recall : float or None
        crashes_caught / crashes.
    alarm_precision : float or None
        alarms_true / (alarms - alarms_unknown): a late alarm is not false, but no use either.
    false_alarms_per_server_day : float or None
        alarms_false / server_days.
    pages_per_day : float
        pages / days of the period, for the whole fleet.
    median_lead_h : float or None
        From the first alarm that spoke of a caught crash to its start, in hours; the median over caught crashes.
    """

    threshold: float
    server_days: float
    crashes: int
    crashes_caught: int
    crashes_missed: int
    crashes_without_observed_row: int
    alarms: int
    alarms_true: int
    alarms_late: int
    alarms_false: int
    alarms_unknown: int
    pages: int
    event_recall: float | None
    alarm_precision: float | None
    false_alarms_per_server_day: float | None
    pages_per_day: float
    median_lead_h: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


class Judgement(NamedTuple):
    """Figures, and the alarms (see `judge_alarms`) and crashes (see `catch`) that they count."""

    metrics: EventMetrics
    alarms: pl.DataFrame
    crashes: pl.DataFrame


def judge(
    rows: pl.DataFrame,
    crashes: pl.DataFrame,
    threshold: float,
    window: AlarmWindow,
    period: tuple[datetime, datetime],
) -> Judgement:
    """Judge scores at a threshold by the alarms they raise and the crashes those catch.

    Parameters
    ----------
    rows : DataFrame
        Of the period, those of known label and all observed ones.
    crashes : DataFrame
        Covered crashes of the servers in question, also those just outside the period: alarms near its end may be true
        of them. The period's own, which recall counts, are those whose last moment to warn lies in it (`crashes_of`).
    threshold : float
        Rows at or above it raise alarms.
    window : AlarmWindow
        When an alarm counts as true.
    period : pair of datetime
        From (included) and to (excluded); naive, meaning UTC.
    """
    start, end = tables.utc(*period)
    if rows.select((~pl.col("timestamp").is_between(start, end, closed="left")).any()).item():
        raise ValueError(f"rows outside the period from {period[0]} to {period[1]}")
    alarms = judge_alarms(open_alarms(rows, threshold, window), crashes, window)
    crashes = catch(crashes_of(crashes, period, window.lead), alarms, rows, window)

    outcomes = {outcome: alarms.filter(outcome=outcome).height for outcome in (TRUE, LATE, FALSE, UNKNOWN)}
    caught = crashes.filter("caught")
    judged, pages = alarms.height - outcomes[UNKNOWN], int(alarms["is_page"].sum())
    server_days = known_rows(rows) * window.interval / DAY
    metrics = EventMetrics(
        threshold=threshold,
        server_days=server_days,
        crashes=crashes.height,
        crashes_caught=caught.height,
        crashes_missed=crashes.height - caught.height,
        crashes_without_observed_row=crashes.filter(~pl.col("had_observed_row")).height,
        alarms=alarms.height,
        alarms_true=outcomes[TRUE],
        alarms_late=outcomes[LATE],
        alarms_false=outcomes[FALSE],
        alarms_unknown=outcomes[UNKNOWN],
        pages=pages,
        event_recall=caught.height / crashes.height if crashes.height else None,
        alarm_precision=outcomes[TRUE] / judged if judged else None,
        false_alarms_per_server_day=outcomes[FALSE] / server_days if server_days else None,
        pages_per_day=pages / ((period[1] - period[0]) / DAY),
        median_lead_h=caught.select((pl.col("lead_time") / HOUR).median()).item(),
    )
    return Judgement(metrics, alarms, crashes)


def on_mitigated(alarms: pl.DataFrame, mitigated: pl.DataFrame) -> int:
    """Count the judged alarms of which nobody knows the outcome because somebody acted.

    Parameters
    ----------
    alarms : DataFrame
        See `judge_alarms`.
    mitigated : DataFrame
        `timestamp`, `server_id` of rows.
    """
    return alarms.filter(outcome=UNKNOWN).join(mitigated, on=["timestamp", "server_id"], how="semi").height


def known_rows(rows: pl.DataFrame) -> int:
    """Count the rows of known label."""
    return rows.height - rows["label"].null_count()


def open_alarms(rows: pl.DataFrame, threshold: float, window: AlarmWindow) -> pl.DataFrame:
    """Find when alarms open: per server the first high row, then the first at least `horizon` after each.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id`, `is_known` (whether the row's label is) and `is_page` (whether it renews none).
    """
    is_high = (_scores(rows) >= threshold) & rows["observed"]
    high = rows.select("timestamp", "server_id", is_known=pl.col("label").is_not_null()).filter(is_high)
    alarms = pl.concat(_open_alarms(some, window.horizon) for some in _by_servers(high))
    alarms = alarms.with_columns(pl.col("server_id").cast(pl.String)).sort("timestamp", "server_id")
    since = pl.col("timestamp") - pl.col("timestamp").shift().over("server_id")
    return alarms.with_columns(is_page=(since > window.duration).fill_null(True))


def _open_alarms(high: pl.DataFrame, horizon: timedelta) -> pl.DataFrame:
    high = high.sort("timestamp")
    reopens = _reopens(high, horizon)
    opened = np.zeros(high.height, dtype=bool)
    # the k-th alarm of every server at once, for k = 1, 2, ...
    current = np.flatnonzero(high["server_id"].is_first_distinct().to_numpy())
    while current.size:
        opened[current] = True
        current = reopens[current]
        current = current[current < high.height]
    return high.filter(pl.Series(opened))


def _by_servers(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows of some servers after those of others, about `BATCH_ROWS` at a time."""
    if rows.height <= BATCH_ROWS:
        yield rows
        return
    servers = rows["server_id"].unique().cast(pl.String).sort()
    for some in np.array_split(servers.to_numpy(), -(-rows.height // BATCH_ROWS)):
        yield rows.filter(pl.col("server_id").is_in(some.tolist()))


def judge_alarms(alarms: pl.DataFrame, crashes: pl.DataFrame, window: AlarmWindow) -> pl.DataFrame:
    """Say how each alarm ended.

    Returns
    -------
    DataFrame
        The alarms with `outcome` (true, late, false or unknown) and `started_at`, the first crash that a true alarm
        warned of or that a late alarm came too late for; null for others.
    """
    alarms, crashes = alarms.sort("timestamp", "server_id"), crashes.sort("started_at", "server_id")
    opened = pl.col("timestamp")
    return (
        alarms.with_columns(
            in_time=_next(alarms, opened + window.lead, crashes, "started_at", exact=False),
            soonest=_next(alarms, opened, crashes, "started_at", exact=False),
        )
        .with_columns(
            in_window=(pl.col("in_time") <= opened + window.duration).fill_null(False),
            too_soon=(pl.col("soonest") <= opened + window.lead).fill_null(False),
        )
        .with_columns(
            outcome=pl.when(pl.col("too_soon") & ~pl.col("in_window"))
            .then(pl.lit(LATE))
            .when(~pl.col("is_known"))
            .then(pl.lit(UNKNOWN))
            .when("in_window")
            .then(pl.lit(TRUE))
            .otherwise(pl.lit(FALSE)),
        )
        .with_columns(
            started_at=pl.when(outcome=TRUE).then("in_time").when(outcome=LATE).then("soonest"),
        )
        .drop("in_time", "soonest", "in_window", "too_soon")
    )


def crashes_of(crashes: pl.DataFrame, period: tuple[datetime, datetime], lead: timedelta) -> pl.DataFrame:
    """Return the crashes that belong to a period: those whose last moment to warn lies in it.

    An alarm warns of a crash only if it opens before started_at - lead. So every crash belongs to one of two adjoining
    periods, the one in which it could last be caught, and none to a period that ends before it could be.

    Returns
    -------
    DataFrame
        The crashes with `last_warning_at`, the last moment at which an alarm counts.
    """
    return crashes.with_columns(last_warning_at=pl.col("started_at") - lead - INSTANT).filter(
        pl.col("last_warning_at").is_between(*tables.utc(*period), closed="left")
    )


def catch(crashes: pl.DataFrame, alarms: pl.DataFrame, rows: pl.DataFrame, window: AlarmWindow) -> pl.DataFrame:
    """Say of which crashes an alarm spoke, how early, and which ones no row could have warned of.

    Returns
    -------
    DataFrame
        The crashes with `caught`, `lead_time` (from the opening of the first alarm that spoke of it to the crash, null
        if missed) and `had_observed_row` (an alarm that opened there would have spoken of it).
    """
    crashes, alarms = crashes.sort("started_at", "server_id"), alarms.sort("timestamp", "server_id")
    latest = pl.col("started_at") - window.lead
    earliest = latest - window.horizon
    first_rows = [
        _next(crashes, earliest, batch.sort("timestamp"), "timestamp")
        for batch in _by_servers(rows.filter("observed").select("timestamp", "server_id"))
    ]
    return (
        crashes.with_columns(
            alarm=_next(crashes, earliest, alarms, "timestamp"),
            row=pl.coalesce(first_rows),
        )
        .with_columns(
            caught=(pl.col("alarm") < latest).fill_null(False),
            had_observed_row=(pl.col("row") < latest).fill_null(False),
        )
        .with_columns(lead_time=pl.when("caught").then(pl.col("started_at") - pl.col("alarm")))
        .drop("alarm", "row")
    )


def choose_threshold(rows: pl.DataFrame, crashes: pl.DataFrame, budget: float, window: AlarmWindow) -> OperatingPoint:
    """Choose the lowest threshold down to which false alarms stay within a budget.

    Going down through the distinct scores, the last one before the budget is first exceeded. (False alarms do not
    always grow on the way down: an alarm may open earlier and become true. A lower threshold that happens to fit again
    is not taken.) The threshold lies halfway to the next score, so that a difference in a score's last digit raises no
    other alarms; just above the highest score if already that one exceeds the budget; at the lowest if none does.

    Parameters
    ----------
    rows : DataFrame
        Rows of known label and all observed ones, at least one of each.
    crashes : DataFrame
        Covered crashes of these servers.
    budget : float
        False alarms per server-day.
    window : AlarmWindow
        When an alarm counts as true.
    """
    server_days = known_rows(rows) * window.interval / DAY
    rows = rows.select("timestamp", "server_id", "label", "observed", score=_scores(rows)).filter("observed")
    if not server_days or rows.is_empty():
        raise ValueError("no rows to choose a threshold on")
    scores = rows["score"].to_numpy()
    # somewhere the budget is exceeded for certain; what lies above it is gone through score by score
    exceeding, rank = -np.inf, FIRST_ROWS
    while np.isneginf(exceeding) and rank <= rows.height:
        score = float(np.partition(scores, -rank)[-rank])
        alarms = open_alarms(rows, score, window)
        if judge_alarms(alarms, crashes, window).filter(outcome=FALSE).height / server_days > budget:
            exceeding = score
        rank *= 2

    fitting = OperatingPoint(float(np.nextafter(scores.max(), np.inf)), 0.0)
    candidates = rows.filter(pl.col("score") > exceeding).with_columns(is_known=pl.col("label").is_not_null())
    for score, false_alarms in _false_alarms_by_threshold(candidates, crashes, window):
        rate = false_alarms / server_days
        if rate > budget:
            exceeding = score
            break
        fitting = OperatingPoint(score, rate)
    if np.isneginf(exceeding):
        return fitting
    return fitting._replace(threshold=halfway(fitting.threshold, exceeding))


def halfway(high: float, low: float) -> float:
    """Return the middle of two scores; the higher one if nothing lies between them."""
    middle = low + (high - low) / 2
    return middle if middle > low else high


def _false_alarms_by_threshold(
    rows: pl.DataFrame, crashes: pl.DataFrame, window: AlarmWindow
) -> Iterator[tuple[float, int]]:
    """Yield each distinct score, falling, with the number of false alarms at it as the threshold.

    Rows are added from the highest score down, and each changes its own server's alarms alone: nothing if it falls
    within `horizon` after an alarm's opening, else from there on until an alarm opens where one did before.
    """
    rows = judge_alarms(rows, crashes, window)  # an alarm's outcome depends on when it opens alone
    is_false = rows.select(pl.col("outcome") == FALSE).to_series().to_list()
    reopens = _reopens(rows, window.horizon).tolist()
    servers, scores = rows["server_id"].to_list(), rows["score"].to_numpy()
    order = np.argsort(-scores, kind="stable")
    falls = np.diff(scores[order], append=-np.inf) < 0

    added: defaultdict[str, list[int]] = defaultdict(list)  # per server, rows in order of time
    opened: defaultdict[str, list[int]] = defaultdict(list)
    false_alarms = 0
    for row, is_last_of_tie in zip(order.tolist(), falls.tolist(), strict=True):
        high, alarms = added[servers[row]], opened[servers[row]]
        insort(high, row)
        first = bisect_right(alarms, row)
        if first == 0 or row >= reopens[alarms[first - 1]]:
            new = [row]
            while (at := bisect_left(high, reopens[new[-1]])) < len(high):
                last = bisect_left(alarms, high[at], first)
                if alarms[last : last + 1] == [high[at]]:
                    break
                new.append(high[at])
            else:
                last = len(alarms)
            false_alarms += sum(is_false[i] for i in new) - sum(is_false[i] for i in alarms[first:last])
            alarms[first:last] = new
        if is_last_of_tie:
            yield float(scores[row]), false_alarms


def _reopens(rows: pl.DataFrame, horizon: timedelta) -> NDArray[np.int64]:
    """Index of the server's first row at or after each row's time + horizon, len(rows) if there is none.

    Rows are sorted by time.
    """
    numbered = rows.select("timestamp", "server_id").with_row_index("index")
    after = _next(rows, pl.col("timestamp") + horizon, numbered, "timestamp", value="index")
    return after.cast(pl.Int64).fill_null(rows.height).to_numpy()


def _next(
    frame: pl.DataFrame,
    moment: pl.Expr,
    table: pl.DataFrame,
    time: str,
    *,
    value: str | None = None,
    exact: bool = True,
) -> pl.Series:
    """Look up `value` (the time itself by default) in a server's first row of `table` at or after `moment`.

    Both frames are sorted by time; null if there is no such row. Not exact: after `moment`, not at it.
    """
    server = pl.col("server_id").cast(pl.Categorical)
    wanted = frame.select(server, _moment=moment)
    found = table.select(server, _time=time, _value=value or time)
    return wanted.join_asof(
        found,
        left_on="_moment",
        right_on="_time",
        by="server_id",
        strategy="forward",
        allow_exact_matches=exact,
        check_sortedness=False,  # polars cannot check within servers
    )["_value"]


def _scores(rows: pl.DataFrame) -> pl.Series:
    scores = rows["score"].cast(pl.Float64)
    if not scores.is_finite().all() or scores.has_nulls():
        raise ValueError("scores must be finite numbers")  # NaN counts as the highest of all in a comparison
    return scores
