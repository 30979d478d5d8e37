"""`crashcast --help` groups commands by what their reader is about to do, and the command line starts fast."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crashcast.cli import GROUPS, app, main
from crashcast.errors import UserError
from crashcast.run_record import is_failed, runs

# what a command needs is imported when it runs
HEAVY = {"dvc", "numpy", "pandas", "polars", "rich.console", "sklearn", "crashcast.registry"}


def test_help_shows_every_group_in_order() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    titles = re.findall(r"^╭─ (.+?) ─", shown, re.MULTILINE)
    assert titles == ["Options", *GROUPS]  # no command is outside a group


def test_the_command_line_imports_nothing_heavy() -> None:
    program = f"import sys, crashcast.cli; print({HEAVY!r} & sys.modules.keys() or 'light')"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "light\n"


def test_an_environment_that_is_broken_is_no_verdict(tmp_path: Path) -> None:
    """Python ends with 1 if an import fails, which CI would read as REJECT."""
    (tmp_path / "typer.py").write_text("raise ImportError('libfoo.so.1: cannot open shared object file')")
    variables = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-m", "crashcast", "review"], env=variables, capture_output=True, text=True)
    assert done.returncode == 2
    assert "libfoo.so.1" in done.stderr
    assert done.stderr.endswith("a package is missing or broken; install them again: make env\n")


def test_a_folder_below_the_root_is_not_taken_for_a_project_that_lacks_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text("")
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "docs" / "pictures")
    monkeypatch.setattr(sys, "argv", ["crashcast", "memo"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "crashcast: run from the root of the project: cd ../..\n"


def test_a_folder_in_which_dvc_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "{clone}").mkdir()
    monkeypatch.chdir(tmp_path / "{clone}")
    monkeypatch.setattr(sys, "argv", ["crashcast", "memo"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "braces in its path: rename it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "told"), [(RuntimeError("a fault"), "RuntimeError: a fault"), (UserError("wrong"), "crashcast: wrong")]
)
def test_a_fault_is_no_verdict(
    fault: Exception,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python ends with 1 after a traceback, which means REJECT to whoever asked for a review, and to the record."""

    def fail(*arguments: object, **options: object) -> None:
        raise fault

    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crashcast.review.review.review", fail)
    monkeypatch.setattr(sys, "argv", ["crashcast", "review", "--first"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert [(run["name"], run["exit_status"], is_failed(run)) for run in runs()] == [("review", 2, True)]


@pytest.fixture
def two_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what commits DVC's configuration, then changes something by a shell command and commits that."""

    def make(change: str) -> None:
        monkeypatch.chdir(tmp_path)
        Path(".dvc").mkdir()
        Path("dvc.yaml").touch()
        Path(".dvc/config").write_text("[core]\n    remote = s3\n['remote \"s3\"']\n    url = s3://ours\n")
        save = "git add -A && git commit -q --allow-empty -m x"
        subprocess.run(f"git init -q -b main && {save} && {change} && {save}", shell=True, check=True)

    return make


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("sed -i s,ours,theirs, .dvc/config", "remote.s3.url: s3://ours -> s3://theirs"),
        ("rm .dvc/config", "core.remote: s3 -> not set"),
        ("printf 'profile = x' >> .dvc/config", "remote.s3.profile: not set -> x"),
        ("mkdir elsewhere && ln -s elsewhere reports", "reports is a symbolic link in git, to elsewhere"),
        ("mkdir -p reports && ln -s /tmp reports/review", "reports/review is a symbolic link in git, to /tmp"),
    ],
)
def test_a_review_begins_with_what_the_challenger_must_not_change(
    two_commits: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
    told: str,
) -> None:
    two_commits(change)
    monkeypatch.setattr(sys, "argv", ["crashcast", "review", "--base", "HEAD~1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_the_version_is_shown_wherever_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["crashcast", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    written = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out == f"crashcast {written}\n"
