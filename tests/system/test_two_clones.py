"""Two people push and pull at once, to and from one remote and one git remote: nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEOPLE = ("ann", "bob")
TRIES = 5
Make = Callable[..., subprocess.CompletedProcess[str]]
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def clones(
    data_project: Path, tmp_path: Path, s3: dict[str, str], shell: Shell, make: Make, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """Return two clones of a project in which each person has a folder of data; git asks the pre-push hook."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    first = tmp_path / "first"
    shutil.copytree(data_project, first, symlinks=True)
    shell(f"dvc remote modify s3 url s3://crashcast/{tmp_path.name}", cwd=first)
    shell(f"dvc remote modify s3 endpointurl {s3['AWS_ENDPOINT_URL']}", cwd=first)
    for person in PEOPLE:
        write(first, person, 0)
    shell("git add -A && git commit -q -m one && git clone -q --bare . ../origin.git", cwd=first)
    assert make(first, "push", 0).returncode == 0
    found = {}
    for person in PEOPLE:
        here = found[person] = tmp_path / person
        shell(f"git clone -q origin.git {here}")
        (here / ".venv").symlink_to(sys.prefix)
        shutil.copy(ROOT / ".githooks/pre-push", here / ".git/hooks")
    return found


def write(project: Path, person: str, number: int) -> None:
    """Write a person's data; a part of it is the same as everybody else's of the same round."""
    folder = project / "data/raw" / person
    for name, text in {"own": f"{person} {number}", "both": f"both {number}", f"at-{number}": person}.items():
        (path := folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a link to DVC's cache
        path.write_text(text)
    subprocess.run(["dvc", "add", "-q", folder], cwd=project, check=True)


def content(project: Path, person: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in (project / "data/raw" / person).iterdir()}


def expected(person: str, number: int) -> dict[str, str]:
    """Return what a person's folder holds after a round."""
    return {"own": f"{person} {number}", "both": f"both {number}"} | {f"at-{n}": person for n in range(number + 1)}


def fetch(project: Path, make: Make, shell: Shell) -> None:
    """Bring in what others have pushed: what git has, DVC's remote must have."""
    shell("git pull -q --rebase", cwd=project)
    pulled = make(project, "pull", 0)
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr


@pytest.mark.ci
@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_nothing_is_lost_when_two_push_and_pull_at_once(
    clones: dict[str, Path], make: Make, shell: Shell, rounds: int
) -> None:
    def take_part(person: str, number: int) -> None:
        here = clones[person]
        fetch(here, make, shell)
        assert content(here, person) == expected(person, number - 1)
        other = next(name for name in PEOPLE if name != person)
        assert content(here, other) in (expected(other, number - 1), expected(other, number))
        write(here, person, number)
        shell(f"git add data && git commit -q -m '{person} {number}'", cwd=here)
        pushed = make(here, "push", 0)
        assert pushed.returncode == 0, pushed.stdout + pushed.stderr
        for _ in range(TRIES):  # the other one may be first
            shell("git pull -q --rebase", cwd=here)
            if shell("git push -q", cwd=here, check=False).returncode == 0:
                return
        raise AssertionError(f"{person} could not push in {TRIES} tries")

    for number in range(1, rounds + 1):
        with ThreadPoolExecutor(len(PEOPLE)) as both:
            for result in [both.submit(take_part, person, number) for person in PEOPLE]:
                result.result()

    for here in clones.values():
        fetch(here, make, shell)
        assert {person: content(here, person) for person in PEOPLE} == {
            person: expected(person, rounds) for person in PEOPLE
        }
    assert len({shell("git rev-parse HEAD", cwd=here).stdout for here in clones.values()}) == 1
    sound = make(clones[PEOPLE[0]], "doctor", 0, "ARGS=--all-commits --deep --only remote")  # both have the same
    assert (sound.returncode, "Nothing wrong was found" in sound.stdout) == (0, True), sound.stdout + sound.stderr
