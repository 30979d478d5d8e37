"""`crashcast due` on a small fleet: nothing new, a month more, and a policy that asks for more or less."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from crashcast import cli
from crashcast.operate import deployment
from crashcast.versioning.revision import EVALUATION
from crashcast.watch import drift, due
from crashcast.watch.drift import Finding, Report
from crashcast.watch.due import Due

Edit = Callable[..., None]
NOW = datetime(2026, 6, 1)
NO_DRIFT = Report(datetime(2025, 4, 21), 12, 12, [])


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path], repro: Callable[..., None]
) -> Path:
    """Return a project with a model of three months, and a month of data that is new to it."""
    folder = small_fleet(tmp_path_factory.mktemp("due") / "project")
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("months: 3", "months: 4"))
    subprocess.run("crashcast demo && git add -A && git commit -q -m data", shell=True, cwd=folder, check=True)
    repro(folder, "label", "featurize")
    return folder


@pytest.fixture
def edit(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Work in the project, and return what changes its policy until the test ends."""
    monkeypatch.chdir(project)
    params = project / "params.yaml"
    before = params.read_text()

    def edit(**policy: object) -> None:
        text = before
        for name, value in (
            {"min_crashes": 1, "min_interval": "0h", "max_age": "900d", "new_crashes": 9} | policy
        ).items():
            text, number = re.subn(rf"(?m)^  {name}: \S+", f"  {name}: {value}", text)
            assert number == 1
        params.write_text(text)

    yield edit
    params.write_text(before)


def asked(looked_at: datetime | None = None, report: Report = NO_DRIFT) -> Due:
    """Return the answer for HEAD~1's model, whose drift is given."""
    name, commit, _ = deployment.find_revision("HEAD~1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drift, "read", lambda *_: report)
        return due.read(deployment.Deployment.of(name, commit), commit, looked_at, NOW)


def test_new_crashes_are_those_after_the_data_of_the_model(edit: Edit) -> None:
    edit()
    found = asked()
    assert found.trained_on_to.month == 3
    assert found.known_to is not None
    assert timedelta(days=28) < found.known_to - found.trained_on_to < timedelta(days=31)
    assert found.new_crashes > 5
    assert 2 < found.known_crashes / found.new_crashes < 5
    assert (found.reasons, found.against, found.is_due) == ([], [], False)


def test_age_and_new_crashes_are_reasons(edit: Edit) -> None:
    edit(max_age="20d")
    assert asked().is_due
    assert re.match(r"The model's data ended (29|30) days before the newest labels", asked().reasons[0])
    edit(new_crashes=0.1)
    assert asked().is_due
    assert asked().reasons[0].startswith(f"New crashes to learn from: {asked().new_crashes}")


def test_drift_is_a_reason_and_what_is_not_known_is_none(edit: Edit) -> None:
    edit()
    shift = Finding("data", "cpu_pct", "mean", 14, 10, 5, 1e-6, is_shift=True, effect=0.2)
    found = asked(report=Report(NO_DRIFT.week, 12, 12, [shift]))
    assert found.is_due
    assert found.reasons == [
        "Drift in the week from 2025-04-21 UTC, compared with 12 weeks of the training period: cpu_pct (mean)."
    ]
    found = asked(report=Report(NO_DRIFT.week, 9, 12, []))
    assert not found.is_due
    assert found.notes[0].startswith("Drift: Not known: ")


def test_too_few_new_crashes_speak_against_any_reason_and_say_how_many_are_missing(edit: Edit) -> None:
    edit(max_age="1d", min_crashes=10_000)
    found = asked()
    assert found.reasons
    assert not found.is_due
    assert f"{found.new_crashes:,}; {10_000 - found.new_crashes:,} are missing" in found.against[0]


def test_a_comparison_a_short_while_ago_speaks_against_it(edit: Edit) -> None:
    edit(max_age="1d", min_interval="14d")
    assert asked().is_due
    assert asked(NOW - timedelta(days=14)).is_due
    found = asked(NOW - timedelta(days=13))
    assert not found.is_due
    assert "the next is due from 2026-06-02 on" in found.against[0]


def test_a_model_that_misses_what_it_promised_to_catch_is_a_reason(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    edit()
    name, commit, _ = deployment.find_revision("HEAD~1")
    used = deployment.Deployment.of(name, commit)
    monkeypatch.setattr(drift, "read", lambda *_: NO_DRIFT)
    promised = {EVALUATION: {"event_recall": 0.99, "event_recall_low": 0.97}}
    monkeypatch.setitem(commit.__dict__, "metrics", promised)
    found = due.read(used, commit, None, NOW)
    assert found.is_due
    assert re.fullmatch(
        r"The model warned of \d+% of the new crashes; in its test it was 99% \(interval from 97%\).", found.reasons[0]
    )


def test_the_last_comparison_is_the_newest_tag_of_a_version(edit: Edit, project: Path) -> None:
    edit()
    assert due.last_look() is None
    tag = ["git", "tag", "-a", "crash-model@v1.0.0", "-m", "x"]
    dated = {"GIT_COMMITTER_DATE": "2026-05-01T00:00:00Z"}
    subprocess.run(["env", *(f"{name}={value}" for name, value in dated.items()), *tag], cwd=project, check=True)
    assert due.last_look() == datetime(2026, 5, 1)
    subprocess.run(["git", "tag", "-d", "crash-model@v1.0.0"], cwd=project, check=True, capture_output=True)


def test_the_command_says_it_and_its_exit_status_too(
    edit: Edit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crashcast", "due", "--revision", "HEAD~1", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0), capsys.readouterr().out

    edit(max_age="1d")
    status, said = run()
    assert status == 0
    assert said.startswith("A retraining is due.")
    assert "For it:\n  - The model's data ended" in said
    edit()
    status, said = run("--json")
    assert status == 1
    assert json.loads(said)["is_due"] is False
