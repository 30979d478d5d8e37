"""Missed crashes and false alarms of the test part, each with the reason in a sentence and what is to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.explore.plot import AFTER, BEFORE, Operation, View, medians
from crashcast.modeling import alarms as judging
from crashcast.modeling.alarms import HOUR, AlarmWindow, Judgement
from crashcast.operate.deployment import Deployment
from crashcast.operate.reasons import Reason, reasons
from crashcast.operate.score import Scores
from crashcast.params.base import format_duration

DRAWN = 8  # of the missed crashes, and of the false alarms: the newest, with pictures and reasons
LISTED = 200  # in the tables below
VS_FLEET = "_vs_fleet"  # a feature: the deviation from the fleet, in its standard deviations
FAR = 2.0  # of these, from which a metric stands out


@dataclass(frozen=True, eq=False)
class Case:
    """A crash or an alarm.

    Attributes
    ----------
    server_id : str
    at : datetime
        The crash's start, or the alarm's opening; naive, meaning UTC.
    why : str
        Why it was missed, or false.
    scored_at : datetime or None
        The row whose score counts: the highest before the crash, or that of the alarm.
    reasons : list of Reason
        What raised the risk then; only of the cases that are drawn.
    view : View or None
        The picture of those.
    """

    server_id: str
    at: datetime
    why: str
    scored_at: datetime | None
    reasons: Sequence[Reason] = ()
    view: View | None = None


def find(rows: pl.DataFrame, judged: Judgement, operation: Operation) -> tuple[list[Case], list[Case]]:
    """Return the missed crashes and the false alarms, each the newest first and at most `LISTED`, without pictures.

    Parameters
    ----------
    rows : DataFrame
        The predictions that were judged.
    judged : Judgement
    operation : Operation
        By which they were.
    """
    missed = judged.crashes.filter(~pl.col("caught")).sort("started_at", "server_id", descending=[True, False])
    false = judged.alarms.filter(outcome=judging.FALSE).sort("timestamp", "server_id", descending=[True, False])
    missed, false = missed.head(LISTED), false.head(LISTED)
    concerned = [*missed["server_id"], *false["server_id"]]
    of_server = _by_server(rows.filter("observed"), concerned, "timestamp")
    alarms = _by_server(judged.alarms, concerned, "timestamp")
    crashes = _by_server(judged.crashes, concerned, "started_at")
    return (
        [
            _missed(server, _naive(at), of_server.get(server, rows.clear()), alarms.get(server), operation)
            for server, at in missed.select("server_id", "started_at").iter_rows()
        ],
        [
            _false(server, _naive(at), crashes.get(server), operation)
            for server, at in false.select("server_id", "timestamp").iter_rows()
        ],
    )


def draw(
    found: Sequence[Case],
    what: str,
    rows: pl.DataFrame,
    judged: Judgement,
    clean: pl.DataFrame,
    features: Path,
    deployment: Deployment,
) -> list[Case]:
    """Add reasons and pictures to the first `DRAWN` cases.

    Parameters
    ----------
    found : sequence of Case
    what : str
        What they are: crash or alarm.
    rows, judged
        See `find`.
    clean : DataFrame
        The rows of `data/clean` around them.
    features : Path
        The table.
    deployment : Deployment
        The model that gave the scores.
    """
    first = found[:DRAWN]
    concerned = [case.server_id for case in first]
    of_server = _by_server(rows.filter("observed"), concerned, "timestamp")
    alarms = _by_server(judged.alarms, concerned, "timestamp")
    crashes = _by_server(judged.crashes, concerned, "started_at")
    values = _features_at((case.scored_at for case in first), features, [*tables.KEYS, *deployment.model.features])
    operation = Operation(deployment.model.threshold, AlarmWindow.of(deployment.label, deployment.telemetry.interval))

    def drawn(case: Case) -> Case:
        start, end = tables.utc(case.at - BEFORE, case.at + AFTER)
        nearby = clean.filter(pl.col("timestamp").is_between(start, end, closed="left"))
        scores = of_server.get(case.server_id, rows.clear()).select("timestamp", "score")
        own = nearby.filter(server_id=case.server_id).join(scores, on="timestamp", how="left", maintain_order="left")
        view = View(
            case.server_id,
            case.at,
            what,
            own,
            medians(nearby, list(deployment.telemetry.metrics)),
            _moments(crashes.get(case.server_id), "started_at"),
            _moments(alarms.get(case.server_id), "timestamp"),
            operation,
        )
        why, more = _reasons(case, values, scores, deployment)
        return replace(case, why=case.why + more, reasons=why, view=view if own.height else None)

    return [*map(drawn, first), *found[DRAWN:]]


def _by_server(frame: pl.DataFrame, servers: Sequence[str], time: str) -> dict[str, pl.DataFrame]:
    """Return the rows of each of these servers, in order of time."""
    own = frame.filter(pl.col("server_id").is_in(sorted({*servers}))).sort(time)
    return {str(server): some for (server,), some in own.partition_by("server_id", as_dict=True).items()}


def _moments(frame: pl.DataFrame | None, column: str) -> list[datetime]:
    return [] if frame is None else [_naive(moment) for moment in frame[column]]


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def _missed(
    server: str, started_at: datetime, rows: pl.DataFrame, alarms: pl.DataFrame | None, operation: Operation
) -> Case:
    """Say why no alarm covered a crash."""
    window, threshold = operation.window, operation.threshold
    first, last = started_at - window.duration, started_at - window.lead
    inside = rows.filter(pl.col("timestamp").is_between(*tables.utc(first, last), closed="left"))
    if inside.is_empty():
        return Case(
            server, started_at, f"No row was observed from {first:%H:%M} to {last:%H:%M}, in time to warn.", None
        )
    highest = inside.row(int(inside["score"].arg_max() or 0), named=True)
    at, score = _naive(highest["timestamp"]), highest["score"]
    opened = _moments(alarms, "timestamp")
    if score >= threshold:
        earlier = max((moment for moment in opened if moment < first), default=None)
        told = f", at {earlier:%Y-%m-%d %H:%M}," if earlier else ""
        why = f"An alarm opened too early{told} and covered only hours before the crash."
        return Case(server, started_at, why, at)
    late = next((moment for moment in opened if last <= moment < started_at), None)
    below = (
        f"From {first:%H:%M} to {last:%H:%M}, in time to warn, the score was at most {score:.2g} (at {at:%H:%M}); "
        f"{threshold:.2g} raises an alarm."
    )
    if late is not None:
        minutes, needed = (started_at - late) / timedelta(minutes=1), format_duration(window.lead)
        too_late = f"The alarm came too late: it opened {minutes:.0f} min before the crash, and {needed} are needed."
        below = f"{too_late} In time the score was at most {score:.2g}; {threshold:.2g} raises an alarm."
    return Case(server, started_at, below, at)


def _false(server: str, opened_at: datetime, crashes: pl.DataFrame | None, operation: Operation) -> Case:
    """Say how an alarm was wrong."""
    window = operation.window
    start, end = opened_at + window.lead, opened_at + window.duration
    why = f"It announced a crash from {start:%Y-%m-%d %H:%M} to {end:%H:%M}, and none came."
    later = next((crash for crash in _moments(crashes, "started_at") if crash > end), None)
    if later is not None:
        why += f" The server's next crash came {(later - opened_at) / HOUR:,.0f} h after the alarm."
    return Case(server, opened_at, why, opened_at)


def _features_at(moments: Iterable[datetime | None], features: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read the features of all servers at some moments."""
    wanted = pl.Series(sorted({one for one in moments if one}), dtype=pl.Datetime("us")).dt.replace_time_zone("UTC")
    found = []
    for partition in tables.partitions(features):
        start, end = tables.utc(partition.start, partition.end)
        inside = wanted.to_frame("at").filter(pl.col("at").is_between(start, end, closed="left"))["at"]
        if inside.len():
            found.append(tables.read(partition.path(features), columns, pl.col("timestamp").is_in(inside.implode())))
    return pl.concat(found, how="vertical_relaxed") if found else pl.DataFrame()


def _reasons(
    case: Case, features: pl.DataFrame, scores: pl.DataFrame, deployment: Deployment
) -> tuple[list[Reason], str]:
    """Return what raised a risk, and of a crash that was missed which metrics stood out."""
    if case.scored_at is None or features.is_empty():
        return [], ""
    at = pl.lit(case.scored_at).dt.replace_time_zone("UTC")
    fleet, score = features.filter(pl.col("timestamp") == at), scores.filter(pl.col("timestamp") == at)["score"]
    own = fleet.filter(server_id=case.server_id)
    if own.is_empty() or not score.len():
        return [], ""
    row = own.select(*tables.KEYS).with_columns(risk=pl.lit(score[0]))
    found = reasons(Scores(deployment, case.scored_at, row, [], [], fleet), case.server_id)
    if score[0] >= deployment.model.threshold:
        return found, ""
    return found, _standing_out(own.row(0, named=True))


def _standing_out(values: dict[str, Any]) -> str:
    """Say which metric is farthest from the fleet's mean."""
    far = {
        name.removesuffix(VS_FLEET): value
        for name, value in values.items()
        if name.endswith(VS_FLEET) and value is not None
    }
    if not far:
        return ""
    name = max(far, key=lambda one: abs(far[one]))
    told = f"{name} was farthest from the fleet's mean, by {far[name]:+.1f} standard deviations"
    return f" {told}." if abs(far[name]) >= FAR else f" No metric stood out then: {told}."
