"""What deploy/ hands to others' programs: their own checkers accept it, and it names what exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted([*(DEPLOY / "systemd").iterdir(), *(DEPLOY / "cluster").iterdir()])
CONTAINERFILE = DEPLOY / "Containerfile"


def checked(*command: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


def test_prometheus_takes_the_example_with_its_rules() -> None:
    done = checked("promtool", "check", "config", DEPLOY / "prometheus/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def test_the_docs_say_what_to_do_about_each_alert() -> None:
    rules = (DEPLOY / "prometheus/crashcast.rules.yml").read_text()
    told = "".join((ROOT / "docs" / name).read_text() for name in ("operate.md", "scoring.md", "drift.md"))
    assert {name for name in re.findall(r"- alert: (\w+)", rules) if f"`{name}`" not in told} == set()


def test_alertmanager_takes_the_example() -> None:
    done = checked("amtool", "check-config", DEPLOY / "alertmanager/alertmanager.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=CrashPredicted server=db-1 group=db severity=warning", "phone"),
        ("alertname=TickMissing severity=warning", "phone"),
        ("alertname=DeliveryFailing severity=warning problem=alertmanager", "phone"),
        ("alertname=ServersSilent severity=info", "team"),
        ("alertname=Other severity=critical", "team"),
    ],
)
def test_what_cannot_wait_goes_to_the_phone(labels: str, receiver: str) -> None:
    config = DEPLOY / "alertmanager/alertmanager.yml"
    done = checked("amtool", "config", "routes", "test", f"--config.file={config}", *labels.split())
    assert done.stdout.split() == [receiver], done.stderr


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in ("crashcast", "dask"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/srv/crashcast/.venv/bin", str(tmp_path)))
    done = checked("systemd-analyze", "verify", "--man=no", *(tmp_path / unit.name for unit in UNITS))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_unit_may_do_little() -> None:
    done = checked(
        "systemd-analyze", "security", "--offline=yes", "--threshold=25", DEPLOY / "systemd/crashcast.service"
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_run_commands_that_exist(unit: Path) -> None:
    lines = unit.read_text().replace("\\\n", "")
    for command in re.findall(r"^ExecStart=/srv/crashcast/.venv/bin/(.*)", lines, flags=re.MULTILINE):
        name, *arguments = shlex.split(command)
        done = subprocess.run([sys.executable, "-m", name, *arguments, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def instructions() -> list[tuple[str, str]]:
    """Return each instruction of the Containerfile with its arguments."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def test_the_image_has_locked_packages_alone_and_no_root() -> None:
    found = instructions()
    installs = [part for kind, text in found if kind == "RUN" for part in text.split("&&") if "pip install" in part]
    assert len(installs) == 2
    assert all("--require-hashes" in part and "--no-cache-dir" in part for part in installs)
    last_stage = found[max(number for number, (kind, _) in enumerate(found) if kind == "FROM") :]
    assert int(dict(last_stage)["USER"]) > 0
    assert dict(last_stage)["STOPSIGNAL"] == "SIGTERM"


def test_the_image_is_made_of_files_that_exist() -> None:
    copied = [text.split()[:-1] for kind, text in instructions() if kind == "COPY" and "--from" not in text]
    assert copied
    assert all((ROOT / name).is_file() for names in copied for name in names)


def test_the_images_command_is_one() -> None:
    entry, command = (dict(instructions())[kind] for kind in ("ENTRYPOINT", "CMD"))
    assert (entry, command) == ('["python", "-m", "crashcast"]', '["serve"]')
    done = subprocess.run([sys.executable, "-m", "crashcast", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"\bserve\b", done.stdout)
