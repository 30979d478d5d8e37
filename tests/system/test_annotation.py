"""From doubted labels to people's answers and back, by the commands, in a project under git and DVC."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import yaml

from crashcast import tables
from crashcast.annotation.answers import ANNOTATIONS
from crashcast.cli import main
from crashcast.files import md5

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2025, 3, 1, tzinfo=UTC)
DAYS, SERVERS = 20, [f"web-{number}" for number in range(12)]
ANSWERS = Path("data/raw/annotations.parquet")
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def fleet_once(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with clean telemetry of 12 servers: each was down for four hours on one day in five.

    One such outage has no ticket (web-3, day 8), and one ticket names a server that was well (web-4, day 8).
    """
    project = shutil.copytree(template, tmp_path_factory.mktemp("fleet") / "project", symlinks=True)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["telemetry"]["metrics"] = {"cpu_pct": {"min": 0, "max": 100}, "uptime_h": {"min": 0, "max": 1e5}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    draw = np.random.default_rng(1)
    rows, tickets = [], []
    for number, server in enumerate(SERVERS):
        booted = -100
        for hour in range(DAYS * 24):
            day, of_day = divmod(hour, 24)
            crashed = day % 5 == number % 5
            if crashed and of_day == 9:
                where = "web-4" if (server, day) == ("web-3", 8) else server
                tickets.append((str(len(tickets)), where, START + hour * HOUR, START + (hour + 4) * HOUR))
            if crashed and 9 < of_day <= 13:
                booted = hour
                continue
            rows.append((START + hour * HOUR, server, 20 + 10 * draw.random(), float(hour - booted)))
    schema = {**tables.KEYS, "cpu_pct": pl.Float32, "uptime_h": pl.Float32}
    clean = pl.DataFrame(rows, schema=schema, orient="row").sort("timestamp", "server_id")
    tables.write(tables.partition_at(datetime(2025, 3, 1), "month").path(project / "data/clean"), clean)
    names = ["incident_id", "server_id", "started_at", "resolved_at"]
    incidents = pl.DataFrame(tickets, schema=names, orient="row").with_columns(kind=pl.lit("crash"), reported_at=None)
    empty = [pl.lit(None).alias(name) for name in ("severity", "source", "summary")]
    incidents = incidents.with_columns(empty).select(*tables.INCIDENTS).cast(tables.INCIDENTS)
    tables.write(project / "data/raw/incidents.parquet", incidents)
    covered = pl.DataFrame({"server_id": SERVERS}).with_columns(
        covered_from=pl.lit(START), covered_to=pl.lit(START + 21 * DAY), group=None
    )
    tables.write(project / "data/raw/coverage.parquet", covered.cast(tables.COVERAGE))
    return project


class Run(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def project(fleet_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project, and make it the place to work in."""
    monkeypatch.chdir(shutil.copytree(fleet_once, tmp_path / "project", symlinks=True))
    return tmp_path / "project"


@pytest.fixture
def crashcast(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run a command of crashcast in this process: imports cost more than all it does."""

    def run(command: str, status: int = 0) -> Run:
        monkeypatch.setattr(sys, "argv", ["crashcast", *command.split()])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        found = Run(ended.value.code or 0, *capsys.readouterr())
        assert found.status == status, found
        return found

    return run


def answered(tasks: Path, truth: Callable[[str, datetime], bool]) -> str:
    """Return what Label Studio exports once two people answered: one knows, one is always unsure."""
    exported = []
    for number, task in enumerate(json.loads(tasks.read_text()), start=1):
        started = datetime.fromisoformat(task["data"]["started_at"])
        crashed = truth(task["data"]["server_id"], started)
        known = [
            {"from_name": "verdict", "type": "choices", "value": {"choices": ["crash" if crashed else "no crash"]}}
        ]
        if crashed:
            value = {"start": (started + 9 * HOUR).strftime("%Y-%m-%dT%H:%M:%SZ"), "timeserieslabels": ["crash starts"]}
            known.append({"from_name": "crash_at", "type": "timeserieslabels", "value": value})
        unsure = [{"from_name": "verdict", "type": "choices", "value": {"choices": ["unsure"]}}]
        people = [
            {"id": 10 * number + who, "completed_by": who, "result": said, "created_at": "2025-04-01T08:00:00.5Z"}
            for who, said in ((1, known), (2, unsure))
        ]
        exported.append({"id": number, "data": task["data"], "annotations": people})
    return json.dumps(exported)


def crashed(server: str, started: datetime) -> bool:
    return (started - START).days % 5 == SERVERS.index(server) % 5


def test_the_two_wrong_records_are_the_first_suspects(crashcast, project) -> None:
    told = crashcast("suspects --limit 5").stdout
    listed = pl.read_csv(project / "reports/suspects.csv")
    assert listed["rank"].to_list() == [1, 2, 3, 4, 5]
    first = listed.head(2).sort("server_id").select("server_id", "started_at", "recorded")
    assert first.rows() == [
        ("web-3", "2025-03-09 00:00:00Z", "no crash"),
        ("web-4", "2025-03-09 00:00:00Z", "crash"),
    ]
    assert "the 5 least plausible labels of 240 server-windows" in told
    crashcast("suspects --limit 5 --out again.parquet")
    assert tables.read(project / "again.parquet")["server_id"].to_list() == listed["server_id"].to_list()
    assert "must end in .csv or .parquet" in crashcast("suspects --out a.txt", status=2).stderr


def test_what_people_answer_comes_back_and_is_not_asked_again(crashcast, project, shell) -> None:
    crashcast("annotate export --budget 20")
    tasks = project / "reports/annotation/tasks.json"
    asked = {(task["data"]["server_id"], task["data"]["started_at"]) for task in json.loads(tasks.read_text())}
    assert len(asked) == 20
    assert {("web-3", "2025-03-09T00:00:00Z"), ("web-4", "2025-03-09T00:00:00Z")} < asked
    before = tasks.read_bytes()
    crashcast("annotate export --budget 20")
    assert tasks.read_bytes() == before

    (project / "export.json").write_text(answered(tasks, crashed))
    told = crashcast("annotate import export.json").stdout
    assert "40 annotations of 20 windows by 2 annotators" in told
    assert "0 annotations became 40" in told
    found = tables.read(project / ANSWERS)
    assert dict(found.schema) == ANNOTATIONS
    assert found.rows() == found.sort("started_at", "server_id", "ended_at", "annotator").rows()
    sure = found.filter(annotator="user 1")
    for server, started, verdict, crash_at in sure.select("server_id", "started_at", "verdict", "crash_at").rows():
        assert (verdict, crash_at) == (
            ("crash", started + 9 * HOUR) if crashed(server, started) else ("no crash", None)
        )
    assert not (project / f"{ANSWERS}.dvc").exists()

    digest = md5(project / ANSWERS)
    crashcast("annotate import export.json")
    assert md5(project / ANSWERS) == digest
    crashcast("annotate export --budget 300")
    again = {(task["data"]["server_id"], task["data"]["started_at"]) for task in json.loads(tasks.read_text())}
    assert len(again) == 240 - 20
    assert not asked & again
    crashcast("suspects --limit 300")
    listed = pl.read_csv(project / "reports/suspects.csv")
    assert listed.height == 220
    assert listed.head(2).filter(started_at="2025-03-09 00:00:00Z").is_empty()  # what was wrong there is settled


def test_a_wrong_file_changes_nothing(crashcast, project) -> None:
    crashcast("annotate export --budget 2")
    text = answered(project / "reports/annotation/tasks.json", crashed)
    (project / "export.json").write_text(text)
    crashcast("annotate import export.json")
    digest = md5(project / ANSWERS)
    (project / "wrong.json").write_text(text.replace('"unsure"', '"maybe"', 1))
    failed = crashcast("annotate import wrong.json", status=2)
    assert "task 1, annotation 12: its verdict is maybe" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert md5(project / ANSWERS) == digest
    crashcast("annotate export --window 5h", status=2)
    crashcast("annotate export --window often", status=2)
