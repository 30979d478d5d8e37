"""The DAG of deploy/airflow in a real Airflow: its scheduler runs it from extract to review, and a task is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import airflow_server
import psutil
import pytest
from airflow_server import DAG, Airflow
from code_sites import serving
from retraining_fleet import BRANCH, branches, make

pytestmark = pytest.mark.airflow


@pytest.fixture
def fleet(tmp_path: Path, small_fleet: Callable[[Path], Path], s3: dict[str, str]) -> Path:
    """Return a clone with an environment, and a month that its model does not know."""
    (tmp_path / "dag").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.items():
            patch.setenv(name, value)
        folder = make(tmp_path / "dag", small_fleet, s3)
    airflow_server.give_environment(folder)
    return folder


@pytest.fixture
def airflow(tmp_path: Path, fleet: Path, s3: dict[str, str]) -> Iterator[Airflow]:
    """Run Airflow on this clone; others bring its data."""
    with (
        serving(fleet.parent / "remote.git") as site,
        airflow_server.running(tmp_path / "airflow", fleet, site, s3 | {"CRASHCAST_COLLECT": "no"}) as running,
    ):
        yield running


def test_it_runs_from_extract_to_review_and_a_killed_task_is_retried(airflow: Airflow, fleet: Path) -> None:
    def kill_training() -> bool:
        for process in airflow.process.children(recursive=True):
            try:
                command, task = process.cmdline(), process.parent()
            except psutil.NoSuchProcess:
                continue
            if task and "retrain" in command and command[command.index("--only") + 1] == "train":
                task.kill()
                process.kill()
                return True
        return False

    airflow.wait(lambda: airflow.ask(f"select 1 from serialized_dag where dag_id = '{DAG}'"), "the DAG")
    airflow.wait(kill_training, "a training")
    airflow.wait_for_end()

    found = airflow.ask("select task_id, state, try_number from task_instance")
    assert {str(name): state for name, state, _ in found} == {
        **dict.fromkeys(("extract.collect", "extract.incidents", "transform.features", "load.push"), "success"),
        **dict.fromkeys(("due", "train.train", "review.request", "review.review"), "success"),
        "not_due": "skipped",
    }
    assert {str(name): tries for name, _, tries in found}["train.train"] == 2
    assert json.loads(airflow.returned("review.review")) in ("ACCEPT", "REJECT", "INCONCLUSIVE")
    assert branches(fleet).keys() == {"main", BRANCH}
