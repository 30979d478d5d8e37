"""The DAG of deploy/airflow in a real Airflow: its scheduler runs it from extract to review, and a task is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from code_sites import PROJECT, TOKEN, serving
from retraining_fleet import BRANCH, branches, make

pytestmark = pytest.mark.airflow
ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".venv-airflow/bin"
DAG = "crashcast_retrain"
LONGEST_S = 600  # of one wait, on a busy machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def airflow(tmp_path: Path) -> dict[str, str]:
    """Return the environment of an Airflow of its own that no other machine reaches."""
    home, port = tmp_path / "airflow", free_port()
    home.mkdir()
    settings = {
        "CORE__DAGS_FOLDER": ROOT / "deploy/airflow",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
        "CORE__PARALLELISM": 2,
        "CORE__DEFAULT_TASK_RETRY_DELAY": 1,
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "API__HOST": "127.0.0.1",
        "API__PORT": port,
        "API__WORKERS": 1,
        "LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
        "LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
    }
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"  # standalone calls `airflow`
    return {"AIRFLOW_HOME": str(home), "PATH": path} | {f"AIRFLOW__{key}": str(to) for key, to in settings.items()}


@pytest.fixture
def fleet(tmp_path: Path, small_fleet: Callable[[Path], Path], s3: dict[str, str]) -> Path:
    """Return a clone with an environment, and a month that its model does not know."""
    (tmp_path / "dag").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.items():
            patch.setenv(name, value)
        folder = make(tmp_path / "dag", small_fleet, s3)
    program = folder / ".venv/bin/crashcast"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}/src" exec "{sys.executable}" -m crashcast "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.fixture
def standalone(airflow: dict[str, str], fleet: Path, s3: dict[str, str], tmp_path: Path) -> Iterator[psutil.Process]:
    """Run Airflow, with its scheduler, on this clone and a site of its pull requests."""
    with serving(fleet.parent / "remote.git") as site, (tmp_path / "airflow.log").open("w") as log:
        own = {"CRASHCAST_CLONE": str(fleet), "CRASHCAST_API": site.api, "CRASHCAST_COLLECT": "no"}
        secrets = {"RETRAIN_TOKEN": TOKEN, "GITHUB_REPOSITORY": PROJECT}
        airflow |= s3 | own | secrets | airflow  # the last: its own PATH
        command = [PROGRAMS / "airflow", "standalone"]
        with subprocess.Popen(command, env=airflow, stdout=log, stderr=log, start_new_session=True) as running:
            try:
                yield psutil.Process(running.pid)
            finally:
                for process in [*psutil.Process(running.pid).children(recursive=True), running]:
                    process.send_signal(signal.SIGKILL)


def asked(airflow: dict[str, str], query: str) -> list[tuple[object, ...]]:
    """Ask Airflow's database; nothing if it is not there yet."""
    try:
        with closing(sqlite3.connect(f"file:{airflow['AIRFLOW_HOME']}/airflow.db?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []


def wait_for(answer: Callable[[], object], what: str, airflow: dict[str, str], tmp_path: Path) -> None:
    until = time.monotonic() + LONGEST_S
    while not answer():
        if time.monotonic() > until:
            states = asked(airflow, "select task_id, state, try_number from task_instance")
            pytest.fail(f"{what} did not come: {states}\n{(tmp_path / 'airflow.log').read_text()[-5000:]}")
        time.sleep(0.5)


def test_it_runs_from_extract_to_review_and_a_killed_task_is_retried(
    standalone: psutil.Process, airflow: dict[str, str], fleet: Path, tmp_path: Path
) -> None:
    def wait(answer: Callable[[], object], what: str) -> None:
        wait_for(answer, what, airflow, tmp_path)

    def kill_training() -> bool:
        for process in standalone.children(recursive=True):
            try:
                command, task = process.cmdline(), process.parent()
            except psutil.NoSuchProcess:
                continue
            if task and "retrain" in command and command[command.index("--only") + 1] == "train":
                task.kill()
                process.kill()
                return True
        return False

    wait(lambda: asked(airflow, f"select 1 from serialized_dag where dag_id = '{DAG}'"), "the DAG")
    wait(kill_training, "a training")
    finished = "select state from dag_run where state in ('success', 'failed')"
    wait(lambda: asked(airflow, finished), "the end")

    assert asked(airflow, finished) == [("success",)]
    found = asked(airflow, "select task_id, state, try_number from task_instance")
    assert {str(name): state for name, state, _ in found} == {
        **dict.fromkeys(("extract.collect", "extract.incidents", "transform.features", "load.push"), "success"),
        **dict.fromkeys(("due", "train.train", "review.request", "review.review"), "success"),
        "not_due": "skipped",
    }
    assert {str(name): tries for name, _, tries in found}["train.train"] == 2
    (verdict,) = asked(airflow, "select value from xcom where task_id = 'review.review' and key = 'return_value'")
    assert json.loads(str(verdict[0])) in ("ACCEPT", "REJECT", "INCONCLUSIVE")
    assert branches(fleet).keys() == {"main", BRANCH}
