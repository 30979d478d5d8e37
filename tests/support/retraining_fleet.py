"""A small fleet with a git remote, its data on S3, and a month that its model does not know."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from crashcast.versioning import local_s3

BRANCH = "crashcast/retrain"
POLICY = {"max_age": "20d", "min_crashes": "1", "min_interval": "0h"}  # a month more is reason enough


def run(command: str, folder: Path) -> str:
    """Run a command line, and return what it printed."""
    done = subprocess.run(command, shell=True, cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def write_policy(params: Path, policy: dict[str, str]) -> None:
    """Set keys of `retrain` in params.yaml."""
    text = params.read_text()
    for name, value in policy.items():
        text, number = re.subn(rf"(?m)^  {name}: \S+", f"  {name}: {value}", text)
        assert number == 1
    params.write_text(text)


def make(folder: Path, small_fleet: Callable[[Path], Path], s3: dict[str, str]) -> Path:
    """Make `fleet` and `remote.git` in a folder, and return the fleet.

    Its work tree has a fourth month, tracked and not committed.
    """
    fleet, remote = small_fleet(folder / "fleet"), f"s3://crashcast/{folder.name}"
    config, params = fleet / ".dvc/config", fleet / "params.yaml"
    text = config.read_text().replace("s3://crashcast/dvc", remote)
    config.write_text(text.replace(local_s3.endpoint(), s3["AWS_ENDPOINT_URL"]))
    write_policy(params, POLICY)
    run("git commit -q -a -m policy && dvc push -q && git clone -q --bare . ../remote.git", fleet)
    run("git remote add origin ../remote.git && git fetch -q", fleet)
    params.write_text(params.read_text().replace("months: 3", "months: 4"))
    run("crashcast demo && git restore --staged --worktree data/demo.dvc && dvc checkout -q data/demo.dvc", fleet)
    return fleet


def branches(fleet: Path) -> dict[str, str]:
    """Return the branches of the git remote, and their commits."""
    listed = run("git for-each-ref --format='%(refname:short) %(objectname)' refs/heads", fleet.parent / "remote.git")
    return dict(line.split() for line in listed.splitlines())
