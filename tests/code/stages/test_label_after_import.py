"""Servers that fall silent for good: their files through the import, `clean` and `label`."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml

from crashcast import tables
from crashcast.errors import UserError
from crashcast.incidents import read_covered_crashes
from crashcast.labelling.candidate_events import ANNOTATIONS
from crashcast.params.incidents import Incidents
from crashcast.paths import COVERAGE_PATH, TABLES, TELEMETRY_PATH
from crashcast.sources.importing import run_import
from stages import clean, label

START, HOUR = datetime(2026, 3, 1), timedelta(hours=1)
DAYS, SERVERS = 20, 60
CRASHES = {server: random.Random(server).randrange(3 * 24, (DAYS - 3) * 24) for server in range(0, SERVERS, 2)}
NEVER = DAYS * 24


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty project the current one; DVC is left out."""
    params = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())
    params["execution"]["workers"] = 1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_import, "track", lambda paths: None)
    return tmp_path


def telemetry(silent: dict[int, range], hours: range = range(DAYS * 24)) -> pl.DataFrame:
    """Return hourly samples; a server sends nothing in its silent hours, and has booted in the last of them."""
    draw = random.Random(11)
    rows = [
        (START + h * HOUR, f"node-{s:02}", draw.uniform(5, 60), float(h + 500 if h < gap.stop else h - gap.stop + 1))
        for h in hours
        for s in range(SERVERS)
        if h not in (gap := silent.get(s, range(NEVER, NEVER)))
    ]
    return pl.DataFrame(rows, schema=["timestamp", "server_id", "cpu_pct", "uptime_h"], orient="row")


def incidents(crashes: dict[int, int]) -> pl.DataFrame:
    """Return a crash 20 minutes after a server's hour, reported after five more and resolved after 90."""
    rows = [(s, START + h * HOUR + timedelta(minutes=20)) for s, h in crashes.items()]
    started = pl.col("started_at")
    return pl.DataFrame(rows, schema=["number", "started_at"], orient="row").select(
        pl.format("T{}", "number").alias("incident_id"),
        pl.format("node-{}", pl.col("number").cast(pl.String).str.zfill(2)).alias("server_id"),
        "started_at",
        resolved_at=started + timedelta(minutes=90),
        reported_at=started + timedelta(minutes=5),
        kind=pl.lit("crash"),
    )


def bring(samples: pl.DataFrame, crashes: pl.DataFrame | None = None, coverage: pl.DataFrame | None = None) -> None:
    """Import frames."""
    paths = []
    for name, frame in (("samples", samples), ("incidents", crashes), ("coverage", coverage)):
        paths.append(None if frame is None else Path(f"{name}.csv"))
        if frame is not None:
            frame.write_csv(f"{name}.csv")
    run_import.import_files([paths[0]], *paths[1:])


def labelled() -> pl.DataFrame:
    """Run `clean` and `label`, and return the rows."""
    Path("validated.json").write_text('{"success": true}')
    tables.write(Path("annotations"), pl.DataFrame(schema=ANNOTATIONS))
    clean.main(TELEMETRY_PATH, Path("validated.json"), Path("clean"), Path("clean.json"))
    outputs = (Path("labels"), Path("confirmed"), Path("votes"), Path("label.json"))
    label.main(Path("clean"), *TABLES, Path("annotations"), *outputs)
    return pl.concat(tables.read(part.path(Path("labels"))) for part in tables.partitions(Path("labels")))


@pytest.mark.parametrize("silence", [2, NEVER], ids=["returns", "gone"])
def test_a_crash_has_its_rows_whether_or_not_the_server_returns(project: Path, silence: int) -> None:
    silent = {server: range(hour + 1, hour + 1 + silence) for server, hour in CRASHES.items()}
    bring(telemetry(silent), incidents(CRASHES))
    rows = labelled()
    assert rows.filter(pl.col("label") == 1).height == 180
    assert json.loads(Path("label.json").read_text())["evidence"]["believed"] == 30
    # these are the crashes that models are trained for and judged by
    assert read_covered_crashes(Path("confirmed"), COVERAGE_PATH, Incidents.read()).height == 30


def test_imports_that_follow_each_other_label_a_gone_servers_crash_as_one_import_does(project: Path) -> None:
    samples = telemetry({server: range(hour + 1, NEVER) for server, hour in CRASHES.items()})
    border = START + DAYS // 2 * 24 * HOUR
    bring(samples.filter(pl.col("timestamp") < border), incidents(CRASHES))
    bring(samples.filter(pl.col("timestamp") >= border))
    assert labelled().filter(pl.col("label") == 1).height == 180


def test_a_retired_servers_rows_are_labelled_to_its_end_and_there_are_none_after(project: Path) -> None:
    retired = 100
    bring(telemetry({1: range(retired, NEVER)}), incidents(CRASHES))
    rows = labelled().filter(pl.col("server_id") == "node-01")
    assert rows["label"].unique().to_list() == [0]
    filled = 2  # clean.fill_limit: nobody knew yet
    assert rows["timestamp"].max() == (START + (retired - 1 + filled) * HOUR).replace(tzinfo=UTC)


def covered_until(hours_after_crash: int) -> pl.DataFrame:
    """Cover each server until some hours after its crash, the others all the time."""
    return pl.DataFrame(
        {
            "server_id": [f"node-{server:02}" for server in range(SERVERS)],
            "covered_from": [START] * SERVERS,
            "covered_to": [START + (CRASHES.get(s, NEVER) + hours_after_crash) * HOUR for s in range(SERVERS)],
        }
    )


def test_crashes_without_a_row_are_an_error_that_says_why(project: Path) -> None:
    bring(telemetry({}), incidents(CRASHES), covered_until(1))
    with pytest.raises(UserError) as caught:
        labelled()
    assert str(caught.value) == (
        "no row is labelled 1, but crashes are known: 30; 180 rows before them unknown (records_end): "
        "if incidents were recorded for longer, say so (`crashcast import --coverage`), or import more"
    )


def test_crashes_in_a_silence_are_an_error_that_says_so(project: Path) -> None:
    silent = {server: range(hour - 12, hour + 3) for server, hour in CRASHES.items()}
    bring(telemetry(silent), incidents(CRASHES))
    with pytest.raises(UserError, match=r"known: 30; 30 without a row from 7h to 1h before them: is telemetry silent"):
        labelled()


def test_crashes_that_can_have_no_row_are_no_error(project: Path) -> None:
    bring(telemetry({}), incidents({2: 0, 4: 0}))  # with the first samples
    assert labelled().filter(pl.col("label") == 1).is_empty()
    bring(telemetry({}), incidents(CRASHES), covered_until(-24))  # nobody says that these were recorded
    tables.write(COVERAGE_PATH, covered_until(-24).with_columns(group=None).cast(tables.COVERAGE))
    assert labelled().filter(pl.col("label") == 1).is_empty()
