"""A real Airflow, with its scheduler, on the DAG of deploy/airflow; no other machine reaches it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from alerting import free_port
from code_sites import PROJECT, TOKEN, CodeSite

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".venv-airflow/bin"
DAG = "crashcast_retrain"
LONGEST_S = 1200  # of one wait, on a busy machine


@dataclass(frozen=True)
class Airflow:
    """It, while it runs: its processes, and its folder."""

    process: psutil.Process
    home: Path

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """Ask its database; nothing if it is not there yet."""
        try:
            with closing(sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True)) as database:
                return database.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []

    def wait(self, answer: Callable[[], object], what: str) -> None:
        """Wait until something is the case."""
        until = time.monotonic() + LONGEST_S
        while not answer():
            if time.monotonic() > until:
                states = self.ask("select task_id, state, try_number from task_instance")
                pytest.fail(f"{what} did not come: {states}\n{(self.home / 'log').read_text()[-5000:]}")
            time.sleep(0.5)

    def wait_for_end(self) -> None:
        """Wait until a run of the DAG ended, which must be well."""
        finished = "select state from dag_run where state in ('success', 'failed')"
        self.wait(lambda: self.ask(finished), "the end")
        assert self.ask(finished) == [("success",)], (self.home / "log").read_text()[-5000:]

    def returned(self, task: str) -> str:
        """Return what a task returned, as JSON."""
        ((value,),) = self.ask(f"select value from xcom where task_id = '{task}' and key = 'return_value'")
        return str(value)

    def said(self, task: str) -> str:
        """Return the log of a task's last try."""
        last = max(self.home.glob(f"logs/*/*/task_id={task}/*.log"))
        return "\n".join(str(json.loads(line).get("event")) for line in last.read_text().splitlines())


def give_environment(clone: Path) -> None:
    """Let a clone's `.venv/bin/crashcast` be this environment's, with the code that is tested."""
    program = clone / ".venv/bin/crashcast"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}/src" exec "{sys.executable}" -m crashcast "$@"\n')
    program.chmod(0o755)


@contextmanager
def running(home: Path, clone: Path, site: CodeSite, variables: dict[str, str]) -> Iterator[Airflow]:
    """Run it in a new folder, on a clone and the site of its pull requests."""
    port = free_port()
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
    own = {
        "AIRFLOW_HOME": str(home),
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",  # standalone calls `airflow`
        "CRASHCAST_CLONE": str(clone),
        "CRASHCAST_API": site.api,
        "RETRAIN_TOKEN": TOKEN,
        "GITHUB_REPOSITORY": PROJECT,
    }
    environment = variables | own | {f"AIRFLOW__{key}": str(value) for key, value in settings.items()}
    command = [PROGRAMS / "airflow", "standalone"]
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as started,
    ):
        try:
            yield Airflow(psutil.Process(started.pid), home)
        finally:
            for process in [*psutil.Process(started.pid).children(recursive=True), started]:
                process.send_signal(signal.SIGKILL)
