"""Refusals as a user meets them: through src/run.py, `dvc repro` and `dvc exp run`, in a project of git and DVC."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import chdir
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml

from crashcast import tables
from crashcast.paths import TABLES
from crashcast.sources.importing.writing import MAY_BE_EMPTY, write_empty
from crashcast.tables import COVERAGE, INCIDENTS, TIMESTAMP

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, str(ROOT / "src" / "run.py"), "validate"]
RAW = [f"raw/{path.name}" for path in TABLES]
PATHS = [*RAW, "validated.json", "metrics.json"]
RESULT = PATHS[-2]
START, HOUR, DAY = datetime(2026, 1, 5, tzinfo=UTC), timedelta(hours=1), timedelta(days=1)
PARAMETERS = {
    "execution": {"workers": 1, "memo_gb": 1, "shared": None},
    "telemetry": {"interval": "1h", "partition": "day", "metrics": {"cpu_pct": {"min": 0, "max": 100}}},
    "validate": {
        "max_duplicate_share": 0.02,
        "max_out_of_range_share": 0.02,
        "max_missing_share": 0.2,
        "max_volume_change": 0.5,
        "max_overlapping_incident_share": 0.1,
        "max_outage": "30d",
    },
}


def run(*command, status=0):
    """Run a command, hold it to its exit status, and return what it printed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def dvc(*arguments, status=0):
    return run(sys.executable, "-m", "dvc", *arguments, status=status)


def git(*arguments):
    return run("git", *arguments)


def write_telemetry(day, server="a", hours=24):
    start = START + day * DAY
    rows = pl.DataFrame(
        {
            "timestamp": [start + hour * HOUR for hour in range(hours)],
            "server_id": [server] * hours,
            "cpu_pct": [float(hour) for hour in range(hours)],
        },
        schema={"timestamp": TIMESTAMP, "server_id": pl.String, "cpu_pct": pl.Float32},
    )
    tables.write(tables.partition_at(start, "day").path(Path(RAW[0])), rows)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Track two days of one server, its incident and its coverage with the real `dvc add`."""
    folder = tmp_path_factory.mktemp("template")
    with chdir(folder):
        track()
    return folder


def track():
    for day in range(2):
        write_telemetry(day)
    crash = {"incident_id": "I-1", "server_id": "a", "kind": "crash", "started_at": START, "resolved_at": START + HOUR}
    tables.write(Path(RAW[1]), pl.DataFrame([crash], schema=INCIDENTS))
    period = {"server_id": "a", "covered_from": START, "covered_to": START + 2 * DAY, "group": "web"}
    tables.write(Path(RAW[2]), pl.DataFrame([period], schema=COVERAGE))
    write_empty(MAY_BE_EMPTY, Path("raw"))
    Path("params.yaml").write_text(yaml.safe_dump(PARAMETERS))
    git("init", "--quiet")
    dvc("init", "--quiet")
    for name, value in {"core.autostage": "false", "cache.type": "copy"}.items():
        dvc("config", name, value)
    Path(".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    dvc("add", "--quiet", *RAW)


@pytest.fixture
def project(template, tmp_path, monkeypatch):
    """Return a copy of it, in the working directory."""
    shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("COLUMNS", "200")  # a table without line breaks
    return tmp_path / "project"


def commit():
    git("add", "--all")
    git("commit", "--quiet", "--message", "More")


def write_pipeline(command, deps):
    """Write a dvc.yaml of a stage `validate` and one that depends on its result."""
    stages = {
        "validate": {"cmd": command, "deps": deps, "params": ["validate"], "outs": [RESULT]},
        "clean": {"cmd": f"{sys.executable} -c \"open('clean', 'w')\"", "deps": [RESULT], "outs": ["clean"]},
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))


def write_check():
    """Write a pipeline with the check alone, which is what DVC could mislead; it counts the rows."""
    Path("check.py").write_text(
        "from pathlib import Path\n"
        "from crashcast import tables\n"
        "from crashcast.versioning.tracked_data import check_tracked\n"
        f"check_tracked(map(Path, {RAW}))\n"
        f"rows = [tables.read(p.path(Path('{RAW[0]}'))).height for p in tables.partitions(Path('{RAW[0]}'))]\n"
        f"Path('{RESULT}').write_text(str(sum(rows)))\n"
    )
    write_pipeline(f"{sys.executable} check.py", [*RAW, "check.py"])


@pytest.mark.ci  # whole runs
def test_bad_data_ends_in_exit_status_2_a_table_and_a_recorded_refusal(project):
    commit()
    run(*RUN, *PATHS)
    write_telemetry(day=1, server="stranger")
    dvc("add", "--quiet", RAW[0])
    git("add", f"{RAW[0]}.dvc")
    printed = run(*RUN, *PATHS, status=2)
    for part in ("server_id is one that coverage knows", "1 of 2", "2026-01-06T00:00:00Z stranger"):
        assert part in printed
    assert "Traceback" not in printed
    assert json.loads(Path(RESULT).read_text())["success"] is False
    assert json.loads(Path(PATHS[-1]).read_text())["critical_failures"] > 0


def test_repro_stops_at_edited_data_on_every_run_until_it_is_restored_or_accepted(project):
    write_check()
    commit()
    write_telemetry(day=1, hours=23)
    for _ in range(2):  # the first run has rewritten the .dvc file
        assert "raw/telemetry is not the data that git knows" in dvc("repro", status=255)
        assert not Path("clean").exists()
    # what the message says to type to restore it
    git("restore", f"{RAW[0]}.dvc")
    dvc("checkout", "--force", RAW[0])
    dvc("repro")
    assert Path("clean").exists()
    # and to accept it
    write_telemetry(day=1, hours=23)
    dvc("add", "--quiet", RAW[0])
    git("add", f"{RAW[0]}.dvc")
    dvc("repro")
    assert Path(RESULT).read_text() == "47"


def test_repro_keeps_the_refusal_and_runs_nothing_on_it(project):
    write_pipeline(" ".join([*RUN, *PATHS]), RAW)
    write_telemetry(day=1, server="stranger")
    dvc("add", "--quiet", RAW[0])
    commit()
    assert "server_id is one that coverage knows" in dvc("repro", status=255)
    assert json.loads(Path(RESULT).read_text())["success"] is False
    assert not Path("clean").exists()


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param([["run"]], id="in the workspace"),
        pytest.param([["run", "--temp"]], id="aside", marks=pytest.mark.slow),
        pytest.param([["run", "--queue"], ["run", "--run-all"]], id="queued", marks=pytest.mark.slow),
    ],
)
@pytest.mark.ci  # whole runs
def test_experiments_run_on_committed_data_and_on_no_other(project, commands):
    write_check()
    commit()

    def count_after_trying(outage):
        for number, arguments in enumerate(commands):
            setting = [] if number else ["--set-param", f"validate.max_outage={outage}"]
            subprocess.run([sys.executable, "-m", "dvc", "exp", *arguments, *setting], capture_output=True, check=False)
        return len(dvc("exp", "list", "--all-commits", "--name-only").split())

    assert count_after_trying("20d") == 1
    git("checkout", "--quiet", ".")
    write_telemetry(day=1, hours=23)
    assert count_after_trying("10d") == 1  # edited: refused
    dvc("add", "--quiet", RAW[0])
    git("add", f"{RAW[0]}.dvc")
    assert count_after_trying("10d") == 1  # staged: DVC would have staged the edit as well
    git("checkout", "--quiet", "params.yaml")
    dvc("add", "--quiet", RAW[0])
    commit()
    assert count_after_trying("10d") == 2
