"""The container to work in: its commands, as far as they run without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from crashcast.params.serve import Serve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    return dict(json.loads((ROOT / ".devcontainer/devcontainer.json").read_text()))


def test_its_python_can_make_the_environment(container: dict[str, Any]) -> None:
    name, _, version = container["image"].partition(":")
    declared = (ROOT / "pyproject.toml").read_text().partition('requires-python = "')[2].partition('"')[0]
    assert name == "python"
    assert version.partition("-")[0] in SpecifierSet(declared)


def test_missing_programs_are_installed(container: dict[str, Any], tmp_path: Path) -> None:
    for name in ("sh", "python3"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    scripts = {"apt-get": f'echo "$*" >> {tmp_path}/log', "id": "echo $USER_ID"}
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    def run(user: int) -> str:
        command = [shutil.which("sh") or "sh", ROOT / container["onCreateCommand"]]
        environment = {"PATH": str(tmp_path), "USER_ID": str(user)}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stderr

    assert "skipped: chromium git make" in run(1000)
    assert not (tmp_path / "log").exists()
    assert run(0) == ""
    update, install = (tmp_path / "log").read_text().splitlines()
    assert update == "update -q"
    assert {"chromium", "bubblewrap", "prometheus"} <= {*install.split()}


def test_it_is_ready_after_its_last_command(
    container: dict[str, Any], tmp_path: Path, copy_project: Callable[[Path], Path]
) -> None:
    """The environment is there: `make` is told not to set it up, and could only clear a folder of links."""
    here = copy_project(tmp_path / "project")
    params = (here / "params.yaml").read_text()
    small = params.replace("servers: 300", "servers: 20").replace("months: 8", "months: 1")
    (here / "params.yaml").write_text(small)
    (here / ".venv/bin").mkdir(parents=True)
    for name in ("lib", "pyvenv.cfg", *(f"bin/{path.name}" for path in Path(sys.prefix, "bin").iterdir())):
        (here / ".venv" / name).symlink_to(Path(sys.prefix, name))
    (tmp_path / "bin").mkdir()
    make = tmp_path / "bin/make"
    make.write_text(f'#!/bin/sh\nexec {shutil.which("make")} --old-file=dev --old-file=env "$@"\n')
    make.chmod(0o755)
    subprocess.run("git init -q && git add -A && git commit -q -m code", shell=True, cwd=here, check=True)
    environment = os.environ | {"PATH": f"{make.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        container["postCreateCommand"], shell=True, cwd=here, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (here / "data/raw/telemetry").is_dir()
    assert (here / ".git/hooks/pre-push").is_file()
    assert (here / ".git/hooks/pre-commit").is_file()


def test_the_ports_are_those_of_what_listens(container: dict[str, Any]) -> None:
    assert int(Serve.read().listen.rpartition(":")[2]) in container["forwardPorts"]
    assert "2718" in container["portsAttributes"]  # marimo's own default
