"""The loop of `crashcast serve`: a tick at each interval, with the version in stage `prod`, until a signal ends it.

Each new state is handed to listeners: what answers over HTTP, and what pushes alerts. To the problems of a tick two are
added here: `model`, if the version in stage `prod` cannot be loaded, and the one before scores; and `internal`, if a
tick failed because of a bug.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from types import FrameType

from crashcast.errors import UserError
from crashcast.files import held_alone
from crashcast.operate.deployment import PROD, Deployment, check_skill, in_use
from crashcast.operate.score import last_row
from crashcast.operate.state import OF_DELIVERY, State, utc_now
from crashcast.operate.telemetry_tail import TAIL
from crashcast.operate.tick import Service, tick
from crashcast.run_record import recorded
from crashcast.versioning import commit_limits, git
from crashcast.versioning.revision import REGISTERED, Revision

LOCK = TAIL.with_name("lock")
ANOTHER = "another `crashcast serve` runs in this clone: a second one needs a clone of its own"
RETRY = timedelta(minutes=5)  # after a tick that could not score; no longer than an interval
LONGEST_WAIT_S = 10.0  # so that a clock that is set shows
RETRIED = {"prometheus", "disk", "log", "internal"}  # problems that may pass before the next interval
Listener = Callable[[State], object]
Clock = Callable[[], datetime]


class ModelInUse:
    """The registered version in stage `prod`, loaded again if another one is there."""

    def __init__(self, without_skill: bool = False) -> None:
        self._without_skill = without_skill
        self._tags = ""
        self._deployment: Deployment | None = None

    def find(self) -> Deployment:
        """Return it.

        Raises
        ------
        UserError
            If none is in stage `prod`, a decision record is of another model than its commit, the model's bytes have
            another hash, this code is not what trained it, or it is not shown to be better than chance and nobody said
            that this does not matter.
        """
        tags = git.run("for-each-ref", "--format=%(objectname) %(refname)", f"refs/tags/{REGISTERED}*").text
        if self._deployment is None or tags != self._tags:
            self._deployment, self._tags = _load(self._deployment, self._without_skill), tags
        return self._deployment

    @property
    def loaded(self) -> Deployment | None:
        """The one that was found last."""
        return self._deployment


def _load(loaded: Deployment | None, without_skill: bool) -> Deployment:
    version = in_use()
    if version is None:
        raise UserError(
            f"no registered version is in stage {PROD}, and `serve` warns of crashes with no other: `crashcast accept` "
            f"registers HEAD's model, `crashcast stage VERSION {PROD}` puts it there, `git fetch --tags` brings tags"
        )
    if loaded is not None and loaded.name == version.version:
        return loaded
    revision = Revision.find(version.revision)
    if not without_skill:
        check_skill(version.version, revision)
    return Deployment.of(version.version, revision)


def run(
    service: Service,
    models: ModelInUse,
    listeners: Sequence[Listener] = (),
    once: bool = False,
    clock: Clock = utc_now,
) -> int:
    """Tick until SIGTERM or SIGINT, or once.

    Parameters
    ----------
    service : Service
    models : ModelInUse
    listeners : sequence of callable
        Called in order with the state after each tick. What one returns, if it is a State, takes its place.
    once : bool
        End after one tick.
    clock : callable
        Returns the time, naive, in UTC.

    Returns
    -------
    int
        The exit status: 0, or 1 if it ticked once and the state is degraded.

    Raises
    ------
    UserError
        If there is no model to start with, git tracks files where this machine keeps its own, or another
        `crashcast serve` runs in this clone.
    """
    commit_limits.check_places()  # a log or a tail that a commit brought would be taken for this machine's own
    models.find()
    state: State | None = None
    with held_alone(LOCK, ANOTHER), _until_signal(service) as ended:
        while not ended.is_set():
            state = _tick(service, models, clock(), state)
            for listener in listeners:
                answer = listener(state)
                state = answer if isinstance(answer, State) else state
            if once:
                return 1 if state.problems else 0
            due = _next_tick(service, models, state)
            while state.ticked_at <= clock() < due and not ended.wait(min(LONGEST_WAIT_S, _seconds(due - clock()))):
                pass
    return 0


def _tick(service: Service, models: ModelInUse, now: datetime, before: State | None) -> State:
    """Tick with the version that is in use; if it cannot be loaded, with the one before."""
    problems = {}
    with recorded("tick"):
        try:
            models.find()
        except UserError as error:
            problems["model"] = str(error)
        deployment = models.loaded
        assert deployment is not None  # `run` begins with one
        try:
            state = tick(deployment, service, now, before)
        except Exception as error:  # the process goes on: alarms that stand are to be seen, and the reason too
            traceback.print_exc()
            problems["internal"] = (
                f"the tick failed ({type(error).__name__}: {error}): the log of the process says where"
            )
            state = before or State(now, timedelta(0), None)
            alarms = [alarm for alarm in state.alarms if alarm.ends_at > now - service.serve.delay]
            state = replace(state, ticked_at=now, alarms=alarms, problems={})
        state = replace(state, problems={**state.problems, **problems})
    _tell(state, before)
    return state


def _tell(state: State, before: State | None) -> None:
    """Print the problems that are new, and those that have passed."""
    old = {name: words for name, words in (before.problems if before else {}).items() if name not in OF_DELIVERY}
    for name, words in state.problems.items():
        if old.get(name) != words:
            print(f"serve: {name}: {words}", file=sys.stderr, flush=True)
    if passed := [name for name in old if name not in state.problems]:
        print(f"serve: {', '.join(passed)}: passed", file=sys.stderr, flush=True)


def _next_tick(service: Service, models: ModelInUse, state: State) -> datetime:
    assert models.loaded is not None
    interval, delay = models.loaded.telemetry.interval, service.serve.delay
    due = last_row(state.ticked_at - delay, interval) + interval + delay
    return min(due, state.ticked_at + min(RETRY, interval)) if RETRIED & {*state.problems} else due


def _seconds(wait: timedelta) -> float:
    return max(0.0, wait.total_seconds())


@contextmanager
def _until_signal(service: Service) -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set; the tick under way ends first, without waiting for Prometheus."""
    ended = threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        ended.set()
        service.prometheus.end()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
