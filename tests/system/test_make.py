"""The Makefile: what it says, what it does twice, and what it does when something is wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Shell = Callable[..., subprocess.CompletedProcess[str]]

# Stands in for Python: `-m venv` puts a copy of it into .venv, and everything it is asked to do goes to a log.
FAKE_PYTHON = """#!/bin/sh
echo "$PYTHONDONTWRITEBYTECODE$PYTHONPATH$*" >> log
case "$*" in
    "-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with what `make env` reads, and a Python that only notes what it is asked."""
    for name in ("Makefile", "requirements-build.txt", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(FAKE_PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def asked(project: Path) -> list[str]:
    """Return what Python was asked since the last time, without the question for its version."""
    log = project / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line for line in lines if not line.startswith(("-c", "--version"))]


def test_every_public_target_is_in_the_help(shell: Shell) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    described = re.findall(r"^([a-z0-9-]+) +\w", shell("make help", cwd=ROOT).stdout, flags=re.MULTILINE)

    assert set(targets) - set(described) == {"publish"}  # a step of `all`


def test_set_up_installs_the_lock_by_its_hashes_once(project: Path, shell: Shell) -> None:
    shell("make env PYTHON=./python")
    first = asked(project)
    shell("make env PYTHON=./python")

    assert first == [
        "-m venv --clear .venv",
        "-m pip install --quiet --no-compile --require-hashes -r requirements-build.txt",
        "-m pip install --quiet --no-compile --require-hashes --no-build-isolation -r requirements.txt",
        "-m compileall -qq -j 0 .venv/lib",
        "-m pip install --quiet --no-deps --no-build-isolation --editable .",
    ]
    assert asked(project) == []


def test_a_changed_lock_makes_a_new_environment(project: Path, shell: Shell) -> None:
    shell("make dev PYTHON=./python")
    asked(project)

    shell("touch requirements.txt && make dev PYTHON=./python")

    again = asked(project)
    assert again[0] == "-m venv --clear .venv"
    assert "-m pip install --quiet --no-compile --no-deps --require-hashes -r requirements-dev.txt" in again


def test_a_users_python_settings_do_not_reach_it(project: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")

    shell("make env PYTHON=./python")

    assert asked(project)[0] == "-m venv --clear .venv"


def test_without_a_python_that_fits_it_says_which_ones_do(project: Path, shell: Shell) -> None:
    done = shell("make env PYTHON=false", check=False)

    assert done.returncode == 2
    assert "No Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (project / ".venv").exists()


def test_an_interrupted_set_up_is_done_again(project: Path, shell: Shell) -> None:
    (project / "python").write_text(FAKE_PYTHON + 'case "$*" in *requirements.txt) exit 1 ;; esac\n')
    assert shell("make env PYTHON=./python", check=False).returncode != 0
    (project / "python").write_text(FAKE_PYTHON)
    asked(project)

    shell("make env PYTHON=./python")

    assert "-m pip install --quiet --no-compile --require-hashes --no-build-isolation -r requirements.txt" in asked(
        project
    )


def test_after_the_verdict_it_says_whether_the_run_was_reproduced(project: Path, shell: Shell) -> None:
    commands = shell("make --dry-run --old-file=env verdict").stdout.split("\n")
    assert [command.split("/")[-1] for command in commands if command] == ["crashcast verdict", "crashcast reproduced"]


def test_the_pipeline_runs_without_advice_to_accept_raw_data(project: Path, shell: Shell) -> None:
    (project / ".venv").symlink_to(sys.prefix)
    shell("git init -q && dvc init -q")
    (project / "dvc.yaml").write_text("stages: {one: {cmd: echo 1 > one, outs: [one]}}\n")
    assert "\tgit add " in shell("dvc repro --force").stdout

    (project / "dvc.lock").unlink()
    said = shell("make --old-file=env pipeline").stdout

    assert said.startswith("dvc repro\nRunning stage 'one':")
    assert "git add" not in said
    assert "autostage" not in said


def test_bad_parameters_stop_it_with_a_message(project: Path, shell: Shell) -> None:
    (project / ".venv").symlink_to(sys.prefix)
    (project / "params.yaml").write_text("dater: {source: import}\n")

    done = shell("make --old-file=env data pipeline", check=False)

    assert done.returncode == 2
    assert "params.yaml: unknown section 'dater'; did you mean 'data'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert "dvc repro" not in done.stdout
