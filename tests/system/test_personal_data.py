"""A person's name is taken out of the data, its log and its older versions; a real S3 server holds them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from crashcast import cli, tables
from crashcast.annotation.answers import PATH as ANNOTATIONS_PATH
from crashcast.operate import served_log
from crashcast.operate.served_log import ServedLog
from crashcast.params.serve import Serve
from crashcast.paths import ACTIONS_PATH, INCIDENTS_PATH

pytestmark = pytest.mark.ci

NOON = datetime(2026, 2, 2, 12, tzinfo=UTC)
TEXTS = ["Ada Lovelace restarted db-1", "adamant ADA LOVELACE, ada@example.com", "Adalbert looked", None]
NAMES = ("Ada Lovelace", "ada@example.com")


def sh(command: str) -> str:
    done = subprocess.run(command, shell=True, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(
    tmp_path: Path, copy_project: Callable[[Path], Path], s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Work in a project whose data names somebody, committed and pushed."""
    folder = copy_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    sh(f"git init -q -b main && dvc remote add -q -d -f s3 s3://crashcast/{tmp_path.name}")
    sh(f"dvc remote modify -q s3 endpointurl {s3['AWS_ENDPOINT_URL']}")
    records = {name: [None] * 4 for name in tables.INCIDENTS} | {"summary": TEXTS, "server_id": ["db-1"] * 4}
    tables.write(INCIDENTS_PATH, pl.DataFrame(records, tables.INCIDENTS))
    acted = [("db-1", "restart", NOON, "Ada Lovelace", "cli", NOON), ("db-2", "drain", NOON, "Grace", "cli", NOON)]
    tables.write(ACTIONS_PATH, pl.DataFrame(acted, tables.ACTIONS, orient="row"))
    answers = tables.read(ANNOTATIONS_PATH)
    answer = dict.fromkeys(answers.columns) | {"server_id": "db-1", "annotator": "ada lovelace"}
    tables.write(ANNOTATIONS_PATH, pl.DataFrame([answer], answers.schema))
    logged = [(NOON, "db-1", "restart", NOON, "Ada Lovelace", "cli")]
    ServedLog(Serve.read().log).write(
        "actions", NOON.replace(tzinfo=None), pl.DataFrame(logged, served_log.ACTIONS, orient="row")
    )
    sh(
        f"dvc add -q {INCIDENTS_PATH} {ACTIONS_PATH} && git add -A . ':!data/served' && "
        "git commit -q -m data && dvc push -q"
    )
    return folder


@pytest.fixture
def crashcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command in this process; return what it printed."""

    def run(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["crashcast", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert int(ended.value.code or 0) == status, printed.err
        return printed.out + printed.err

    return run


def test_a_name_is_listed_replaced_and_its_older_versions_deleted(
    project: Path, crashcast: Callable[..., str], s3: dict[str, str]
) -> None:
    assert set(crashcast("forget", *NAMES).splitlines()) == {
        "data/raw/incidents.parquet, summary: 2 cells",
        "data/raw/actions.parquet, who: 1 cells",
        "data/raw/annotations.parquet, annotator: 1 cells",
        "actions/day=2026-02-02/2026-02-02T120000Z.parquet, who: 1 cells",
    }
    old = {path: path.with_name(f"{path.name}.dvc").read_text() for path in (INCIDENTS_PATH, ACTIONS_PATH)}
    said = crashcast("forget", *NAMES, "--old-versions", "--yes", status=2)
    assert "the data of this work tree names them still" in said

    crashcast("forget", *NAMES, "--now")

    assert tables.read(INCIDENTS_PATH)["summary"].to_list() == [
        "[removed 1] restarted db-1", "adamant [removed 1], [removed 1]", "Adalbert looked", None,
    ]  # fmt: skip
    assert tables.read(ACTIONS_PATH)["who"].to_list() == ["[removed 1]", "Grace"]
    assert tables.read(ANNOTATIONS_PATH)["annotator"].to_list() == ["[removed 1]"]
    log = ServedLog(Serve.read().log)
    assert log.read("actions", log.moments("actions"))["who"].to_list() == ["[removed 1]"]
    assert crashcast("forget", *NAMES) == ""
    crashcast("forget", "grace", "--now")
    assert tables.read(ACTIONS_PATH)["who"].to_list() == ["[removed 1]", "[removed 2]"]

    sh("git add data/raw && git commit -q -m without && dvc push -q")
    assert "nobody can be asked here" in crashcast("forget", *NAMES, "--old-versions", status=2)
    assert crashcast("forget", *NAMES, "--old-versions", "--yes").endswith("2 objects deleted\n")
    assert "No version" in crashcast("forget", *NAMES, "--old-versions")
    for path, pointer in old.items():
        path.with_name(f"{path.name}.dvc").write_text(pointer)
        assert subprocess.run(["dvc", "pull", "-q", str(path)], capture_output=True).returncode != 0
    sh("git checkout -q -- data/raw && rm -rf .dvc/cache && dvc pull -q data/raw/*.dvc")
    assert tables.read(ACTIONS_PATH)["who"].to_list() == ["[removed 1]", "[removed 2]"]


def test_an_empty_name_is_refused(project: Path, crashcast: Callable[..., str]) -> None:
    assert "a name is empty" in crashcast("forget", " ", "--now", status=2)
