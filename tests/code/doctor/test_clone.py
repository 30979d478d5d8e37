"""The doctor's checks of the clone itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from crashcast.doctor import clone
from crashcast.errors import UserError
from crashcast.run_record import FOLDER


def test_our_side_of_a_conflict_is_taken_and_the_file_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lock = Path("dvc.lock")
    ours, base, theirs = (f"stages: {{a: {number}}}\n" for number in (1, 0, 2))
    text = f"schema: '2.0'\n<<<<<<< HEAD\n{ours}||||||| base\n{base}=======\n{theirs}>>>>>>> b\n"
    lock.write_text(text)

    clone._take_ours(lock)

    assert lock.read_text() == "schema: '2.0'\nstages: {a: 1}\n"
    assert (FOLDER / "dvc.lock.1").read_text() == text


def test_a_conflict_whose_our_side_is_no_yaml_is_left(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text("<<<<<<< HEAD\nstages: [\n=======\nstages: {}\n>>>>>>> b\n")

    with pytest.raises(UserError, match=r"our side of .* is unreadable"):
        clone._take_ours(lock)

    assert lock.read_text().startswith("<<<<<<<")


def test_an_environment_that_is_not_the_locked_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = ".".join(map(str, sys.version_info[:3]))
    Path("requirements.txt").write_text("pyyaml>=1 \\\n    --hash=sha256:00\nrich==0.0.1\nno-such-package==1.0\n")
    Path("pyproject.toml").write_text(f'[project]\nrequires-python = "=={here}"\n')

    [lock] = clone.environment()
    assert (lock.severity, lock.where) == ("error", "requirements.txt")
    assert "rich==0.0.1 (here " in lock.what
    assert "no-such-package==1.0 (here missing)" in lock.what
    assert "pyyaml" not in lock.what

    Path("pyproject.toml").write_text('[project]\nrequires-python = "<3"\n')
    assert next(clone.environment()).what == f"{here} runs, the project wants <3"
