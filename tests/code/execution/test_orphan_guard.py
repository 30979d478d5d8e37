"""A stage that a killed `dvc` left behind ends, at whichever moment the kill came."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# `began` is written before the stage knows of its DVC, `guarded` after
STAGE = """
import time
from pathlib import Path
from crashcast.execution.orphan_guard import take_over
Path("began").touch()
while not Path("go").exists():
    time.sleep(0.01)
take_over("probe")
Path("guarded").touch()
time.sleep(3)
Path("result").touch()
"""
PIPELINE = "stages:\n  probe:\n    cmd: {python} stage.py\n    outs: [result]\n"


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    for command in ("git init -q", "dvc init -q"):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("moment", ["began", "guarded"])
def test_a_stage_ends_if_its_dvc_was_killed(stage: Path, moment: str) -> None:
    dvc = subprocess.Popen(["dvc", "repro"], cwd=stage)
    if moment == "guarded":
        (stage / "go").touch()
    wait_for(stage / moment)
    family = psutil.Process(dvc.pid).children(recursive=True)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    (stage / "go").touch()

    assert not psutil.wait_procs(family, timeout=20)[1]
    assert not (stage / "result").exists()


def test_a_stage_runs_under_a_program_that_uses_dvc_as_a_library(stage: Path) -> None:
    (stage / "go").touch()
    code = "from dvc.repo import Repo; Repo().reproduce()"
    subprocess.run([sys.executable, "-c", code], cwd=stage, check=True)
    assert (stage / "result").exists()


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, path.name
        time.sleep(0.01)
