"""What `crashcast serve` knows after a tick: the one thing that its page, its metrics and its alerts are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import polars as pl

from crashcast.operate.reasons import Reason
from crashcast.operate.score import Scores

OF_DELIVERY = frozenset({"alertmanager"})  # problems that leave the scores right


@dataclass(frozen=True)
class Alarm:
    """An alarm that stands. All moments are naive, meaning UTC.

    Attributes
    ----------
    server_id : str
    group : str or None
        The server's group, if telemetry has groups.
    opened_at : datetime
        Time of the row that opened it: the moment of the page.
    renewed_at : datetime
        Time of the row that renewed it last; `opened_at` if none did.
    ends_at : datetime
        renewed_at + lead + horizon.
    risk : float
        At `renewed_at`.
    reasons : sequence of Reason
        What raised the risk at `renewed_at`, the strongest first.
    """

    server_id: str
    group: str | None
    opened_at: datetime
    renewed_at: datetime
    ends_at: datetime
    risk: float
    reasons: Sequence[Reason] = ()


@dataclass(frozen=True)
class EndedAlarm:
    """An alarm of the last day that has ended. All moments are naive, meaning UTC.

    Attributes
    ----------
    server_id : str
    opened_at, ends_at : datetime
        `ends_at` is that of the last renewal.
    risk : float
        At the last renewal.
    is_delivered : bool
        False if it was held back: only now that it has ended may it be shown.
    crashed_at : datetime or None
        The first crash that was recorded while it stood.
    """

    server_id: str
    opened_at: datetime
    ends_at: datetime
    risk: float
    is_delivered: bool
    crashed_at: datetime | None


@dataclass(frozen=True)
class State:
    """The fleet after a tick, whether the tick succeeded or not.

    Attributes
    ----------
    ticked_at : datetime
        When the tick began.
    duration : timedelta
        How long it took.
    scores : Scores or None
        Of the last tick that scored; None if none did yet.
    alarms : sequence of Alarm
        Those that stand and were delivered, the highest risk first.
    ended : sequence of EndedAlarm
        Those that ended in the last day, the latest first.
    problems : mapping of str to str
        Why the state is degraded: a short constant name for metrics (such as `prometheus`), and words for people.
    newest_sample, newest_ticket : datetime or None
        How far telemetry and the records of incidents reach.
    late_revisions : int
        Scores issued since the start whose inputs changed afterwards.
    groups : mapping of str to str
        The group of each server, if telemetry has groups.
    delivery_errors : int
        Pushes to Alertmanager since the start that failed.
    recent : DataFrame or None
        `timestamp`, `server_id` and the metrics: the clean rows of the last day of the servers with an alarm, sorted.
    """

    ticked_at: datetime
    duration: timedelta
    scores: Scores | None
    alarms: Sequence[Alarm] = ()
    ended: Sequence[EndedAlarm] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    newest_sample: datetime | None = None
    newest_ticket: datetime | None = None
    late_revisions: int = 0
    groups: Mapping[str, str] = field(default_factory=dict)
    delivery_errors: int = 0
    recent: pl.DataFrame | None = None


def utc_now() -> datetime:
    """Return the time, naive, in UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


def doubts(state: State | None, now: datetime, interval: timedelta) -> dict[str, str]:
    """Return the problems because of which the scores are not to be trusted now: no recent tick is one, too.

    Parameters
    ----------
    state : State or None
        None before the first tick has ended.
    now : datetime
        Naive, meaning UTC.
    interval : timedelta
        Between two ticks.
    """
    if state is None:
        return {"tick": "the fleet has not been scored since the start"}
    found = {name: words for name, words in state.problems.items() if name not in OF_DELIVERY}
    if now - state.ticked_at > 2 * interval:
        found["tick"] = f"the fleet was last scored at {state.ticked_at:%Y-%m-%d %H:%M} UTC"
    return found
