"""The loop: when it ticks next, what it tells, and that nothing ends it but a signal."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from crashcast.errors import UserError
from crashcast.operate import serving
from crashcast.operate.state import State

NOW = datetime(2026, 1, 5, 12, 20)
TICK = timedelta(minutes=1)


def state(**problems: str) -> State:
    return State(NOW, TICK, None, problems=problems)


def models(interval: timedelta = timedelta(hours=1), problem: str = "") -> Any:
    """Return what knows of one model, and of a problem with the one that is in use."""

    def find() -> None:
        if problem:
            raise UserError(problem)

    loaded = SimpleNamespace(telemetry=SimpleNamespace(interval=interval))
    return SimpleNamespace(loaded=loaded, find=find)


SERVICE: Any = SimpleNamespace(serve=SimpleNamespace(delay=timedelta(minutes=10)))


@pytest.mark.parametrize(
    ("problems", "due"),
    [
        ({}, datetime(2026, 1, 5, 13, 10)),
        ({"tickets": "are old"}, datetime(2026, 1, 5, 13, 10)),  # asking again soon would not help
        ({"prometheus": "is away"}, datetime(2026, 1, 5, 12, 25)),
        ({"disk": "is full", "tickets": "are old"}, datetime(2026, 1, 5, 12, 25)),
    ],
)
def test_the_next_tick_waits_for_the_next_interval_unless_this_one_was_not_scored(
    problems: dict[str, str], due: datetime
) -> None:
    assert serving._next_tick(SERVICE, models(), state(**problems)) == due


def test_a_tick_is_tried_again_no_later_than_the_next_one() -> None:
    found = serving._next_tick(SERVICE, models(timedelta(minutes=2)), state(prometheus="is away"))
    assert found == datetime(2026, 1, 5, 12, 22)


def test_problems_are_told_once_and_when_they_have_passed(capsys: pytest.CaptureFixture[str]) -> None:
    both = state(disk="is full", log="is away")
    steps = [state(), state(disk="is full"), state(disk="is full"), both, state(log="is away")]
    for before, after in zip([None, *steps[:-1]], steps, strict=True):
        serving._tell(after, before)
    assert capsys.readouterr().err.splitlines() == [
        "serve: disk: is full",
        "serve: log: is away",
        "serve: disk: passed",
    ]


def test_a_bug_is_told_and_the_state_before_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> State:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(serving, "tick", fail)
    before = State(NOW - timedelta(hours=1), TICK, None, late_revisions=3, problems={"disk": "is full"})
    found = serving._tick(SERVICE, models(), NOW, before)
    words = "the tick failed (ZeroDivisionError: a bug): the log of the process says where"
    assert found.problems == {"internal": words}
    assert (found.ticked_at, found.late_revisions) == (NOW, 3)
    assert "in fail" in capsys.readouterr().err
    assert serving._tick(SERVICE, models(), NOW, None).problems.keys() == {"internal"}


def test_the_model_before_scores_while_the_new_one_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[object] = []
    monkeypatch.setattr(serving, "tick", lambda deployment, *_: used.append(deployment) or state(disk="is full"))
    known = models(problem="v1.1.0 was trained by other code")
    found = serving._tick(SERVICE, known, NOW, None)
    assert found.problems == {"disk": "is full", "model": "v1.1.0 was trained by other code"}
    assert used == [known.loaded]
