"""The retraining as an Airflow DAG; to set it up, see docs/retraining.md.

Each task is a step of `crashcast retrain`, run by the clone's own environment: nothing of the project is imported here.
A step can be killed and run again at any moment, so every task is retried. The command that a killed task has left
behind holds a lock; the retry fails until it ends, and then goes on from there.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, dag, task, task_group

CLONE = Path(os.environ.get("CRASHCAST_CLONE", "/srv/crashcast"))  # with its .venv
API = os.environ.get("CRASHCAST_API", "")  # of GitHub or GitLab, if the git remote's URL does not tell
COLLECTS = os.environ.get("CRASHCAST_COLLECT", "yes") == "yes"  # no: others bring data into the clone's work tree
PROGRAM = CLONE / ".venv/bin/crashcast"
BRANCH, MAIN = "crashcast/retrain", os.environ.get("CRASHCAST_MAIN", "origin/main")
OPEN, NOT_DUE, NOTHING_NEW = 0, 1, 4  # exit statuses of `crashcast retrain`
VERDICTS = {0: "ACCEPT", 1: "REJECT", 3: "INCONCLUSIVE"}
HOUR = timedelta(hours=1)


def call(*command: str | Path, expected: tuple[int, ...] = (0,)) -> int:
    """Run a program in the clone, write what it says to the task's log, and return its exit status."""
    done = SubprocessHook().run_command([*map(str, command)], cwd=str(CLONE))
    if done.exit_code not in expected:
        raise RuntimeError(f"exit status {done.exit_code}: {done.output}")
    return int(done.exit_code)


def step(name: str, *options: str, expected: tuple[int, ...] = (0,)) -> int:
    """Do a step of the retraining."""
    return call(PROGRAM, "retrain", "--only", name, *options, *(("--api", API) if API else ()), expected=expected)


@dag(
    schedule="0 5 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=24 * HOUR,
    default_args={"retries": 5, "execution_timeout": 2 * HOUR},
    params={
        "collect": Param(COLLECTS, type="boolean", description="Else the raw data of the clone's work tree is taken."),
        "reason": Param("", type="string", description="Train for this reason, whatever `crashcast due` says."),
    },
    tags=["crashcast"],
    doc_md=__doc__,
)
def crashcast_retrain() -> None:
    """Collect, compute features, store the data, train if it is due, open a pull request and review it."""

    @task_group
    def extract() -> None:
        @task
        def collect(params: dict[str, object]) -> None:
            step("collect", *(() if params["collect"] else ("--no-collect",)))

        @task
        def incidents(params: dict[str, object]) -> None:
            if params["collect"]:
                step("incidents")

        collect() >> incidents()

    @task_group
    def transform() -> None:
        @task(execution_timeout=6 * HOUR)
        def features() -> None:
            step("features")

        features()

    @task_group
    def load() -> None:
        @task
        def push() -> None:
            step("push")

        push()

    @task.branch
    def due(params: dict[str, object]) -> str:
        if params["reason"] or step("due", expected=(0, NOT_DUE)) != NOT_DUE:
            return "train.train"
        return "not_due"

    @task_group(group_id="train")
    def training() -> None:
        @task(execution_timeout=12 * HOUR)
        def train(params: dict[str, object]) -> None:
            step("train", *(("--reason", str(params["reason"])) if params["reason"] else ()))

        train()

    @task_group(group_id="review")
    def reviewing() -> None:
        @task.short_circuit
        def request() -> bool:
            return step("request", expected=(OPEN, NOTHING_NEW)) == OPEN

        @task(execution_timeout=6 * HOUR)
        def review() -> str:
            command = (PROGRAM, "review", "--base", MAIN, "--head", BRANCH)
            return VERDICTS[call(*command, expected=tuple(VERDICTS))]

        request() >> review()

    decided = due()
    extract() >> transform() >> load() >> decided >> training() >> reviewing()
    decided >> EmptyOperator(task_id="not_due")


crashcast_retrain()
