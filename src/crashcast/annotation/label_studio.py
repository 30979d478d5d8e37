"""Label Studio: windows as tasks with the telemetry around them, and people's answers read back.

Tasks and answers are in the JSON format that Label Studio imports and exports; the labelling configuration goes with
the tasks. The time of a mark comes back as the time of a row.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import polars as pl
from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from crashcast import tables
from crashcast.annotation.answers import DELETED, VERDICTS
from crashcast.annotation.windows import Windows, measured
from crashcast.errors import UserError
from crashcast.labelling.candidate_events import ANNOTATIONS, NO_CRASH
from crashcast.params.base import DAY
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH

AROUND = DAY  # of telemetry before and after a window
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"  # d3's and Python's
SHOWN_TIME = "%Y-%m-%d %H:%M"
VERDICT, MARK, SERIES = "verdict", "crash_at", "telemetry"  # names in the configuration
MARKED = "crash starts"
ASKED, RECEIVED = "asked", "received"  # series beside the metrics: 1 in the window; 1 if there was a measured row
MAX_SHOWN = 10  # mistakes in a file


def configuration(telemetry: Telemetry) -> str:
    """Return the labelling configuration of a project for `tasks`, XML."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value="$question")
    choices = ElementTree.SubElement(
        view, "Choices", name=VERDICT, toName=SERIES, choice="single", required="true", showInline="true"
    )
    for number, verdict in enumerate(VERDICTS, start=1):
        ElementTree.SubElement(choices, "Choice", value=verdict, hotkey=str(number))
    labels = ElementTree.SubElement(view, "TimeSeriesLabels", name=MARK, toName=SERIES)
    ElementTree.SubElement(labels, "Label", value=MARKED, background="#d33")
    series = ElementTree.SubElement(
        view,
        "TimeSeries",
        name=SERIES,
        valueType="json",
        value=f"${SERIES}",
        timeColumn="time",
        timeFormat=TIME_FORMAT,
        timeDisplayFormat=SHOWN_TIME,
        overviewWidth="100%",
    )
    for name in (ASKED, RECEIVED, *telemetry.metrics):
        height = "40" if name in (ASKED, RECEIVED) else "100"
        ElementTree.SubElement(series, "Channel", column=name.lower(), legend=name, height=height)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")


def tasks(windows: Windows, clean: Path, telemetry: Telemetry) -> list[dict[str, Any]]:
    """Return a task for each window, with its telemetry and that of a day before and after it.

    Tasks do not show the records: a verdict must be independent evidence.

    Raises
    ------
    UserError
        If two metrics differ only in upper and lower case: to Label Studio they are one.
    """
    if len({name.lower() for name in telemetry.metrics}) < len(telemetry.metrics):
        raise UserError("params.yaml: telemetry.metrics: Label Studio ignores upper and lower case")
    keys = windows.frame.select("server_id", "started_at", "ended_at")
    rows: list[list[pl.DataFrame]] = [[] for _ in range(keys.height)]
    for partition in tables.partitions(clean):
        start, end = (moment.replace(tzinfo=UTC) for moment in (partition.start, partition.end))
        touched = [
            number
            for number, (_, started, ended) in enumerate(keys.iter_rows())
            if started - AROUND < end and start <= ended + AROUND
        ]
        if touched:
            servers = keys[touched]["server_id"].unique().to_list()
            columns = [*tables.KEYS, *telemetry.metrics]
            found = tables.read(partition.path(clean), columns, pl.col("server_id").is_in(servers))
            for number in touched:
                rows[number].append(found.filter(_around(*keys.row(number))))
    asked = zip(keys.iter_rows(), rows, strict=True)
    return [{"data": _task(window, pl.concat(parts), telemetry)} for window, parts in asked]


def _around(server: str, started: datetime, ended: datetime) -> pl.Expr:
    return (pl.col("server_id") == server) & pl.col("timestamp").is_between(started - AROUND, ended + AROUND)


def _task(window: tuple[str, datetime, datetime], rows: pl.DataFrame, telemetry: Telemetry) -> dict[str, Any]:
    server, started, ended = window
    moments = pl.datetime_range(started - AROUND, ended + AROUND, telemetry.interval, time_unit="us", eager=True)
    grid = pl.DataFrame({"timestamp": moments.dt.convert_time_zone("UTC")})
    series = grid.join(measured(rows, list(telemetry.metrics)), on="timestamp", how="left").select(
        pl.col("timestamp").dt.strftime(TIME_FORMAT).alias("time"),
        # a row at t holds the samples in (t - interval, t]
        ((pl.col("timestamp") > started) & (pl.col("timestamp") <= ended)).cast(pl.Int8).alias(ASKED),
        pl.col("server_id").is_not_null().cast(pl.Int8).alias(RECEIVED),
        *(pl.col(name).cast(pl.Float64).alias(name.lower()) for name in telemetry.metrics),
    )
    first, last = (moment.strftime(SHOWN_TIME) for moment in (started, ended))
    return {
        "server_id": server,
        "started_at": started.strftime(TIME_FORMAT),
        "ended_at": ended.strftime(TIME_FORMAT),
        "question": f"Did {server} crash between {first} and {last} UTC? Mark the moment where you can tell.",
        SERIES: series.to_dict(as_series=False),
    }


class _Result(BaseModel):
    from_name: str | None = None  # of a relation: none
    value: dict[str, Any] = {}


class _Person(BaseModel):
    id: int | None = None
    email: str | None = None


class _Annotation(BaseModel):
    id: int | str | None = None
    result: list[_Result]
    completed_by: _Person | int | None = None
    was_cancelled: bool = False
    created_at: AwareDatetime
    updated_at: AwareDatetime | None = None
    lead_time: float | None = None  # seconds


class _Window(BaseModel):
    server_id: str
    started_at: AwareDatetime
    ended_at: AwareDatetime


class _Task(BaseModel):
    id: int | str | None = None
    data: _Window
    annotations: list[_Annotation]


class Export(NamedTuple):
    """The annotations, the number of tasks without an answer, and of annotations that their annotator skipped."""

    annotations: pl.DataFrame
    unanswered: int
    skipped: int


def read_export(path: Path, interval: timedelta) -> Export:
    """Read a project's export of the kind "JSON".

    Parameters
    ----------
    path : Path
        The file.
    interval : timedelta
        The rows' cadence: a mark just outside the window, at the last row before a silence, is taken as inside.

    Raises
    ------
    UserError
        If the file is no such export, or an answer contradicts itself; names task and annotation.
    """
    exported = _parse(path)
    rows: list[tuple[Any, ...]] = []
    problems: list[str] = []
    unanswered = skipped = 0
    for task in exported:
        valid = [annotation for annotation in task.annotations if not annotation.was_cancelled]
        skipped += len(task.annotations) - len(valid)
        unanswered += not valid
        for annotation in valid:
            try:
                verdict, crash_at = _answer(annotation, task.data, interval)
            except ValueError as error:
                problems.append(f"task {task.id}, annotation {annotation.id}: {error}")
                continue
            who, when = _annotator(annotation), annotation.updated_at or annotation.created_at
            window = (task.data.server_id, task.data.started_at, task.data.ended_at)
            rows.append((*window, verdict, crash_at, who, when))
    if problems:
        more = f"\n... and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise UserError(f"{path}: nothing was imported:\n" + "\n".join(problems[:MAX_SHOWN]) + more)
    return Export(pl.DataFrame(rows, schema=ANNOTATIONS, orient="row"), unanswered, skipped)


def lead_times_s(path: Path) -> list[float]:
    """Return how many seconds each answer of an export took, if Label Studio knows it.

    Raises
    ------
    UserError
        If the file is no such export.
    """
    answers = [one for task in _parse(path) for one in task.annotations if not one.was_cancelled]
    return [one.lead_time for one in answers if one.lead_time is not None]


def _parse(path: Path) -> list[_Task]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}): export the project as JSON again") from None
    if not isinstance(content, list) or not all(isinstance(task, dict) and "annotations" in task for task in content):
        raise UserError(f"{path} is not Label Studio's export as JSON (not JSON-MIN, CSV or a list of tasks to import)")
    try:
        return TypeAdapter(list[_Task]).validate_python(content)
    except ValidationError as error:
        shown = []
        for problem in error.errors()[:MAX_SHOWN]:
            number, *key = problem["loc"]
            task = content[int(number)].get("id")
            shown.append(f"task {task}: {'.'.join(map(str, key))}: {problem['msg']}")
        raise UserError(
            f"{path} holds tasks that `crashcast annotate export` did not write, or that were edited:\n"
            + "\n".join(shown)
        ) from None


def _answer(annotation: _Annotation, window: _Window, interval: timedelta) -> tuple[str, datetime | None]:
    """Return the verdict and the moment of the crash; a ValueError says what is wrong with the answer."""
    results = annotation.result
    chosen = [one.value.get("choices", []) for one in results if one.from_name == VERDICT]
    verdicts = [choice for some in chosen for choice in (some if isinstance(some, list) else [some])]
    if len(verdicts) != 1 or verdicts[0] not in VERDICTS:
        raise ValueError(
            f"its verdict is {' and '.join(map(str, verdicts)) or 'missing'}, not one of {', '.join(VERDICTS)}: "
            "does the project have the labelling configuration that came with the tasks?"
        )
    marks = [_moment(one.value.get("start")) for one in results if one.from_name == MARK]
    if marks and verdicts[0] == NO_CRASH:
        raise ValueError(f"it says {NO_CRASH}, but marks one at {min(marks):{SHOWN_TIME}}")
    if not marks or verdicts[0] != CRASH:
        return verdicts[0], None
    if not window.started_at - interval <= min(marks) <= window.ended_at:
        asked = f"{window.started_at:{SHOWN_TIME}} to {window.ended_at:{SHOWN_TIME}}"
        raise ValueError(f"it marks a crash at {min(marks):{SHOWN_TIME}}, but was asked about {asked}")
    return CRASH, min(max(min(marks), window.started_at), window.ended_at - timedelta(seconds=1))


def _moment(text: Any) -> datetime:
    try:
        return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    except (TypeError, ValueError):
        raise ValueError(f"it marks a crash at {text!r}, which is no time like 2026-01-31T07:00:00Z") from None


def _annotator(annotation: _Annotation) -> str:
    """Return the name of who answered; each answer of a deleted person has one of its own: they may be several."""
    who = annotation.completed_by
    number = who.id if isinstance(who, _Person) else who
    if isinstance(who, _Person) and who.email:
        return who.email
    return f"{DELETED} {annotation.id or annotation.created_at.isoformat()}" if number is None else f"user {number}"
