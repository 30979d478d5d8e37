"""`make push` and `make pull`, killed at random moments: the next one makes good what they left.

The remote is the local S3 server, which the killed command may have started. `dvc repro` is killed in
test_whole_pipeline.py.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from crashcast.versioning import local_s3

pytestmark = pytest.mark.ci
DATA = "data/raw/telemetry"
FILES, FILE_BYTES = 40, 100_000
ABOUT_S = 3.0  # of a push or a pull; many kills measure it
Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(data_project: Path, tmp_path: Path, port: int, shell: Callable[..., object]) -> Path:
    """Return a project, committed; its remote is a local S3 server of its own."""
    here = tmp_path / "project"
    shutil.copytree(data_project, here, symlinks=True)
    config = here / ".dvc/config"
    config.write_text(config.read_text().replace(local_s3.endpoint(), local_s3.endpoint(port)))
    shell("git add -A && git commit -q -m one", cwd=here)
    return here


@pytest.fixture
def clone(project: Path, tmp_path: Path, shell: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a second clone, without data."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))  # of the local server
    shell("git clone -q project clone")
    return tmp_path / "clone"


def killed(project: Path, target: str, port: int, after_s: float, draw: random.Random) -> bool:
    """Run a target and kill it: all its processes, or the last one that was started; return whether there was time."""
    command = ["make", "--old-file=env", f"S3_PORT={port}", target]
    with subprocess.Popen(
        command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as running:
        try:
            running.wait(after_s)
        except subprocess.TimeoutExpired:
            family = psutil.Process(running.pid).children(recursive=True)
            if draw.random() < 0.5 or not family:
                os.killpg(running.pid, signal.SIGKILL)
            else:
                family[-1].kill()
            return True
    return False


def took_s(project: Path, make: Make, target: str, port: int) -> float:
    """Return how long an undisturbed run takes."""
    began = time.monotonic()
    done = make(project, target, port)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - began


def write(project: Path, draw: random.Random) -> None:
    """Write new data, track and commit it."""
    shutil.rmtree(project / DATA)
    for number in range(FILES):
        path = project / DATA / f"month={number % 4}/part-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw.randbytes(FILE_BYTES))
    subprocess.run(f"dvc add -q {DATA} && git commit -q -a -m more", shell=True, cwd=project, check=True)


def content(project: Path) -> dict[str, bytes]:
    folder = project / "data"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lose_data(project: Path) -> None:
    shutil.rmtree(project / ".dvc/cache", ignore_errors=True)
    shutil.rmtree(project / DATA, ignore_errors=True)


def check(project: Path, make: Make, port: int, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    sound = make(project, "doctor", port, "ARGS=--deep --only project --only remote --only cache")
    assert (sound.returncode, "Nothing wrong was found" in sound.stdout) == (0, True), sound.stdout + sound.stderr
    assert not subprocess.run(["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True).stdout


DIES_WHILE_IT_COLLECTS = """
import os, signal, sys
from dvc.cli import main
from dvc_data.index import DataIndex

add = DataIndex.__setitem__
def add_some(index, key, entry):
    if key[:1] == ("fetch",) and key[-1].endswith("7"):
        os.kill(os.getpid(), signal.SIGKILL)
    add(index, key, entry)
DataIndex.__setitem__ = add_some
sys.exit(main(["fetch"]))
"""


def test_a_pull_that_is_killed_before_it_transfers_is_made_good_by_the_next(
    project: Path, clone: Path, make: Make, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC keeps what it had collected until then, and takes it for all there is."""
    (clone / ".venv").symlink_to(sys.prefix)
    write(project, random.Random(1))
    assert make(project, "push", port).returncode == 0
    subprocess.run(["git", "pull", "-q"], cwd=clone, check=True)
    command = ["crashcast", "s3", f"--port={port}", "--elsewhere=run", "--", sys.executable, "-c"]
    died = subprocess.run([*command, DIES_WHILE_IT_COLLECTS], cwd=clone, capture_output=True, text=True)
    assert died.returncode, died.stdout + died.stderr

    check(clone, make, port, make(clone, "pull", port))
    assert content(clone) == content(project)


@pytest.mark.parametrize(
    ("kills", "seed"),
    [
        (2, 5),  # the last process of a push, all of a pull
        pytest.param(66, 66, marks=pytest.mark.slow),
    ],
)
def test_a_killed_push_or_pull_is_made_good_by_the_next(
    project: Path, clone: Path, make: Make, port: int, shell: Callable[..., object], kills: int, seed: int
) -> None:
    (clone / ".venv").symlink_to(sys.prefix)
    draw = random.Random(seed)
    times_s = {"push": ABOUT_S, "pull": ABOUT_S}
    if kills > 10:
        times_s = {"push": took_s(project, make, "push", port), "pull": took_s(clone, make, "pull", port)}
    done = 0
    while done < kills:
        write(project, draw)
        shell("git pull -q", cwd=clone)
        lose_data(clone)
        for here, target in ((project, "push"), (clone, "pull")):
            began = time.monotonic()
            if killed(here, target, port, draw.uniform(0, times_s[target]), draw):
                done += 1
            else:
                times_s[target] = time.monotonic() - began  # it was over before it could be killed
            check(here, make, port, make(here, target, port))
        assert content(clone) == content(project)
