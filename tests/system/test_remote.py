"""Data that travels through DVC's remote, by the Makefile's targets: a git and DVC project of one folder, cloned."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crashcast.cli import storage
from crashcast.versioning import local_s3

ROOT = Path(__file__).parents[2]
DATA = "data/raw/telemetry"
NOT_REACHED, NOT_PUSHED = "cannot be reached", "never pushed"
Make = Callable[..., subprocess.CompletedProcess[str]]


def remote_of(project: Path, url: str, endpoint: str) -> None:
    """Point the project's remote elsewhere, for this clone alone: what `dvc remote modify --local` writes."""
    (project / ".dvc/config.local").write_text(f"['remote \"s3\"']\nurl = {url}\nendpointurl = {endpoint}\n")


@pytest.fixture
def project(data_project: Path, tmp_path: Path, port: int, shell: Callable[..., object]) -> Path:
    """Return that project, committed; its remote is a local S3 server of its own."""
    here = tmp_path / "project"
    shutil.copytree(data_project, here, symlinks=True)
    config = here / ".dvc/config"
    config.write_text(config.read_text().replace(local_s3.endpoint(), local_s3.endpoint(port)))
    shell("git add Makefile params.yaml .dvc data && git commit -q -m one", cwd=here)
    return here


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that holds the local server's store once there is one."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def clone(project: Path, tmp_path: Path, shell: Callable[..., object]) -> Path:
    """Return a second clone, without data."""
    shell("git clone -q project clone")
    (tmp_path / "clone/.venv").symlink_to(sys.prefix)
    return tmp_path / "clone"


def test_a_second_clone_pulls_what_the_first_pushed(make: Make, project: Path, clone: Path, port: int) -> None:
    pushed = make(project, "push", port)
    pulled = make(clone, "pull", port)

    assert (pushed.returncode, pulled.returncode) == (0, 0), pushed.stderr + pulled.stderr
    assert "3 files pushed" in pushed.stdout  # two, and the folder's list
    assert (clone / DATA / "two").read_text() == "2"
    status = subprocess.run(["dvc", "status"], cwd=clone, capture_output=True, text=True)
    assert status.stdout == "Data and pipelines are up to date.\n"


def test_data_that_was_not_pushed_is_called_that(make: Make, clone: Path, port: int) -> None:
    done = make(clone, "pull", port)

    assert done.returncode != 0
    assert NOT_PUSHED in done.stderr
    assert NOT_REACHED not in done.stderr


def test_imported_data_is_pulled_once_and_never_simulated(
    make: Make, project: Path, clone: Path, home: Path, port: int
) -> None:
    params = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(re.sub(r"source: \w+", "source: import", params))
    assert make(project, "push", port).returncode == 0

    pulled = make(clone, "data", port)
    again = make(clone, "data", port, XDG_DATA_HOME=str(home / "unused"))

    assert (pulled.returncode, again.returncode) == (0, 0), pulled.stderr + again.stderr
    assert (clone / DATA / "one").read_text() == "1"
    assert again.stdout + again.stderr == ""
    assert not (home / "unused").exists()


def test_a_list_that_leads_out_of_the_project_is_not_followed(
    make: Make, project: Path, clone: Path, port: int, tmp_path: Path, shell: Callable[..., object]
) -> None:
    """Its hash is right: only whoever committed the .dvc file knew what is in it. `dvc pull` writes the file."""
    pointer = project / f"{DATA}.dvc"
    before = re.findall(r"md5: (\w+)\.dir", pointer.read_text())[0]
    listing = project / f".dvc/cache/files/md5/{before[:2]}/{before[2:]}.dir"
    entries = json.loads(listing.read_text())
    text = json.dumps([*entries, entries[0] | {"relpath": "../../../../canary"}])
    digest = hashlib.md5(text.encode()).hexdigest()
    other = project / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}.dir"
    other.parent.mkdir(exist_ok=True)
    other.write_text(text)
    pointer.write_text(pointer.read_text().replace(before, digest))
    shell("git commit -q -a -m two", cwd=project)
    assert make(project, "push", port).returncode != 0  # the doctor refuses the list, after DVC has pushed it
    shell("git pull -q", cwd=clone)

    done = make(clone, "pull", port)

    assert done.returncode != 0
    assert f"{DATA} is refused: the list of its files names '../../../../canary'" in done.stderr
    assert not (tmp_path / "canary").exists()
    assert not (clone / DATA).exists()


@pytest.mark.parametrize("target", ["pull", "push"])
def test_a_server_that_does_not_answer_is_called_that(
    make: Make, clone: Path, port: int, s3: dict[str, str], target: str
) -> None:
    remote_of(clone, "s3://ours/dvc", "http://127.0.0.1:1")

    done = make(clone, target, port, **s3)

    assert done.returncode != 0
    assert f"remote s3://ours/dvc at http://127.0.0.1:1 {NOT_REACHED}" in done.stderr
    assert NOT_PUSHED not in done.stderr


@pytest.mark.parametrize(
    ("url", "environment", "reason"),
    [
        ("s3://missing/dvc", {}, "bucket does not exist"),
        ("s3://crashcast/dvc", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "signature"),
    ],
)
def test_a_missing_bucket_and_wrong_keys_are_not_mistaken_for_data_that_was_not_pushed(
    make: Make, clone: Path, port: int, s3: dict[str, str], url: str, environment: dict[str, str], reason: str
) -> None:
    remote_of(clone, url, s3["AWS_ENDPOINT_URL"])

    done = make(clone, "pull", port, **(s3 | environment))

    assert done.returncode != 0
    assert f"{NOT_REACHED}: " in done.stderr
    assert reason in done.stderr
    assert NOT_PUSHED not in done.stderr


def test_a_bucket_of_ones_own_gets_ones_own_keys_and_no_local_server(
    make: Make, project: Path, clone: Path, home: Path, port: int, s3: dict[str, str]
) -> None:
    for folder in (project, clone):
        remote_of(folder, "s3://crashcast/ours", s3["AWS_ENDPOINT_URL"])

    pushed = make(project, "push", port, **s3)
    pulled = make(clone, "pull", port, **s3)

    assert (pushed.returncode, pulled.returncode) == (0, 0), pushed.stderr + pulled.stderr
    assert (clone / DATA / "one").read_text() == "1"
    assert not home.exists()


def test_make_itself_pushes_to_the_local_server_alone(make: Make, project: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        remote_of(project, "s3://ours/dvc", f"http://127.0.0.1:{elsewhere.getsockname()[1]}")
        done = make(project, "publish", port)
        elsewhere.settimeout(0.2)
        with pytest.raises(TimeoutError):
            elsewhere.accept()

    assert done.returncode == 0
    assert "skipped" in done.stdout
    assert "s3://ours/dvc" in done.stdout


def test_the_committed_remote_is_the_local_server() -> None:
    config = (ROOT / ".dvc/config").read_text()

    assert f"url = s3://{local_s3.BUCKET}/dvc\n" in config
    assert f"endpointurl = {local_s3.endpoint()}\n" in config
    assert inspect.signature(storage.s3).parameters["port"].default == local_s3.PORT
