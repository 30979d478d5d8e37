"""Windows as Label Studio's tasks, and its export read back: as a real server wrote it, and with mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from crashcast import tables
from crashcast.annotation.label_studio import configuration, read_export, tasks
from crashcast.annotation.windows import Windows
from crashcast.errors import UserError
from crashcast.params.telemetry import Metric, Telemetry

RECORDED = Path(__file__).parents[2] / "data/label_studio"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2025, 3, 1, tzinfo=UTC)
METRICS = {"cpu_pct": Metric(min=0, max=100), "Uptime_h": Metric(min=0, max=1e5)}
TELEMETRY = Telemetry(interval=HOUR, partition="day", metrics=METRICS)


def fleet(folder: Path) -> tuple[Windows, Path]:
    """Write four days of two servers, of which web-1 was silent from 10:00 to 14:00 on the second, a window each."""
    hours = [(hour, server) for hour in range(96) for server in ("web-1", "web-2")]
    hours = [(hour, server) for hour, server in hours if server == "web-2" or not 34 < hour < 39]
    rows = pl.DataFrame(
        [
            (START + hour * HOUR, server, 20.5 + hour % 5, float(hour if hour < 39 else hour - 38))
            for hour, server in hours
        ],
        schema={**tables.KEYS, "cpu_pct": pl.Float32, "Uptime_h": pl.Float32},
        orient="row",
    )
    for day in range(4):
        partition = tables.partition_at((START + day * DAY).replace(tzinfo=None), "day")
        inside = pl.col("timestamp").is_between(START + day * DAY, START + (day + 1) * DAY, closed="left")
        tables.write(partition.path(folder), rows.filter(inside))
    asked = pl.DataFrame(
        [(server, START + DAY, START + 2 * DAY, None) for server in ("web-1", "web-2")]
        + [("web-2", START + 2 * DAY, START + 3 * DAY, None)],
        schema={"server_id": pl.String, **dict.fromkeys(("started_at", "ended_at", "crash_at"), tables.TIMESTAMP)},
        orient="row",
    )
    return Windows(asked, np.zeros((3, 1), np.float32), ["nothing"]), folder


@pytest.fixture
def asked(tmp_path: Path) -> list[dict[str, Any]]:
    return tasks(*fleet(tmp_path), TELEMETRY)


def test_a_task_shows_the_telemetry_of_a_day_before_and_after(asked) -> None:
    data = asked[0]["data"]
    series = data["telemetry"]
    assert list(data) == ["server_id", "started_at", "ended_at", "question", "telemetry"]
    assert (data["server_id"], data["started_at"]) == ("web-1", "2025-03-02T00:00:00Z")
    assert list(series) == ["time", "asked", "received", "cpu_pct", "uptime_h"]  # Label Studio looks for small letters
    assert {len(values) for values in series.values()} == {73}
    assert (series["time"][0], series["time"][-1]) == ("2025-03-01T00:00:00Z", "2025-03-04T00:00:00Z")
    assert series["received"] == [int(not 34 < hour < 39) for hour in range(73)]
    assert series["asked"] == [int(24 < hour <= 48) for hour in range(73)]
    assert series["cpu_pct"][33:40] == [23.5, 24.5, None, None, None, None, 24.5]


def test_nobody_is_told_what_the_records_say(asked) -> None:
    assert "crash_at" not in json.dumps(asked)


def test_the_configuration_names_what_the_tasks_hold(asked) -> None:
    view = ElementTree.fromstring(configuration(TELEMETRY))
    assert view.find("Header").get("value") == "$question"
    series = view.find("TimeSeries")
    assert series.get("value") == "$telemetry"
    columns = [channel.get("column") for channel in series.iter("Channel")]
    assert [series.get("timeColumn"), *columns] == list(asked[0]["data"]["telemetry"])
    assert [choice.get("value") for choice in view.iter("Choice")] == ["crash", "no crash", "unsure"]
    assert {control.get("toName") for control in (view.find("Choices"), view.find("TimeSeriesLabels"))} == {"telemetry"}


def test_metrics_that_label_studio_cannot_tell_apart_are_refused(tmp_path) -> None:
    twins = TELEMETRY.model_copy(update={"metrics": {"cpu": METRICS["cpu_pct"], "CPU": METRICS["cpu_pct"]}})
    with pytest.raises(UserError, match="ignores upper and lower case"):
        tasks(*fleet(tmp_path), twins)


def exported() -> list[dict[str, Any]]:
    return json.loads((RECORDED / "export.json").read_text())


def test_what_a_real_server_exports_holds_our_tasks_as_they_were(asked) -> None:
    assert [task["data"] for task in exported()] == [task["data"] for task in asked]


def test_what_a_real_server_exports_is_read() -> None:
    found = read_export(RECORDED / "export.json", HOUR)
    rows = found.annotations.select("server_id", "started_at", "verdict", "crash_at", "annotator").rows()
    second, third = START + DAY, START + 2 * DAY
    assert rows == [
        ("web-1", second, "crash", START + 34 * HOUR, "user 1"),
        ("web-1", second, "crash", None, "user 2"),
        ("web-2", second, "no crash", None, "user 1"),
        ("web-2", second, "unsure", None, "user 2"),
        ("web-2", third, "no crash", None, "user 1"),
    ]
    assert (found.unanswered, found.skipped) == (0, 1)
    assert found.annotations["annotated_at"].null_count() == 0
    assert found.annotations["ended_at"].to_list() == [START + 2 * DAY] * 4 + [START + 3 * DAY]


@pytest.mark.parametrize("nobody", [None, {}, {"id": None, "email": None}, {"email": ""}])
def test_several_deleted_people_are_not_one(tmp_path, nobody: Any) -> None:
    content = exported()
    answer = content[0]["annotations"][0]
    content[0]["annotations"] = [answer | {"id": number, "completed_by": nobody} for number in (12, 15, 17)]
    content[1]["annotations"][0].pop("completed_by")
    content[1]["annotations"][0]["id"] = None
    (tmp_path / "export.json").write_text(json.dumps(content))
    rows = read_export(tmp_path / "export.json", HOUR).annotations
    names = [f"deleted user, annotation {number}" for number in (12, 15, 17)]
    assert rows["annotator"][:3].to_list() == names
    assert rows["annotator"][3].startswith("deleted user, annotation 20")  # its time


Change = Callable[[list[dict[str, Any]]], Any]


def choose(*verdicts: str) -> Change:
    def change(tasks: list[dict[str, Any]]) -> None:
        [one] = [one for one in tasks[0]["annotations"][0]["result"] if one["from_name"] == "verdict"]
        one["value"]["choices"] = list(verdicts)

    return change


def mark(text: object) -> Change:
    def change(tasks: list[dict[str, Any]]) -> None:
        [one] = [one for one in tasks[0]["annotations"][0]["result"] if one["from_name"] == "crash_at"]
        one["value"]["start"] = text

    return change


WRONG: dict[str, tuple[Change, str]] = {
    "no verdict": (lambda tasks: tasks[0]["annotations"][0].update(result=[]), "verdict is missing"),
    "two verdicts": (choose("crash", "unsure"), "verdict is crash and unsure"),
    "another project's verdict": (choose("Airplane"), "verdict is Airplane.*labelling configuration"),
    "a verdict that is a number": (
        lambda tasks: [one["value"].update(choices=7) for one in tasks[0]["annotations"][0]["result"]],
        "verdict is 7, not one of",
    ),
    "no crash, yet one marked": (choose("no crash"), "says no crash, but marks one at 2025-03-02 10:00"),
    "a mark outside the window": (mark("2025-03-01T22:00:00Z"), "asked about 2025-03-02 00:00 to 2025-03-03 00:00"),
    "a mark that is a number": (mark(12.5), "12.5, which is no time"),
    "another project's task": (
        lambda tasks: tasks[0]["data"].pop("server_id"),
        "task 1: data.server_id: Field required",
    ),
    "no zone": (
        lambda tasks: tasks[1]["data"].update(ended_at="2025-03-03T00:00:00"),
        "task 2: data.ended_at: .*timezone",
    ),
    "no times": (lambda tasks: tasks[1]["data"].update(ended_at="soon"), "task 2: data.ended_at"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_named_and_nothing_is_taken(case: str, tmp_path) -> None:
    change, told = WRONG[case]
    content = deepcopy(exported())
    change(content)
    (tmp_path / "export.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"(?s)export.json.*{told}"):
        read_export(tmp_path / "export.json", HOUR)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no JSON"),
        ("[{", "no JSON"),
        ('{"a": 1}', "not Label Studio's export"),
        ('[{"data": {}}]', "not Label Studio's export"),  # tasks to import
        ('[{"id": 1, "verdict": "crash", "annotator": 1, "annotation_id": 1}]', "not JSON-MIN"),
        ('[{"id": 1, "data": {}, "annotations": 3}]', "task 1"),
        ("[1]", "not Label Studio's export"),
    ],
)
def test_a_file_that_is_no_export_is_refused(text: str, told: str, tmp_path) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError, match=told):
        read_export(tmp_path / "file.json", HOUR)
    with pytest.raises(UserError, match="missing"):
        read_export(tmp_path / "none.json", HOUR)


def test_a_mark_at_the_last_row_before_the_silence_is_inside_the_window(tmp_path) -> None:
    for moment, taken in (
        ("2025-03-01T23:00:00Z", START + DAY),
        ("2025-03-03T00:00:00Z", START + 2 * DAY - timedelta(seconds=1)),
    ):
        content = exported()
        mark(moment)(content)
        (tmp_path / "export.json").write_text(json.dumps(content))
        assert read_export(tmp_path / "export.json", HOUR).annotations["crash_at"][0] == taken
