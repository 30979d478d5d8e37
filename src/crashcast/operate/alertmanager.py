"""Alarms pushed to Alertmanager's v2 API, for teams whose Prometheus does not scrape `crashcast serve`.

An alert is known by its labels, so they are the same at each push: two instances and a renewal extend one alert, and
only a new label makes a new page. Everything that changes is an annotation. Alertmanager keeps alerts in memory alone
and expects its clients to repeat them, more often than a fleet is scored.

Source: https://prometheus.io/docs/alerting/latest/clients/
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import requests

from crashcast.operate.page import MOST_REASONS, moment, percent
from crashcast.operate.score_output import rfc3339
from crashcast.operate.state import Alarm, State
from crashcast.params.serve import Serve
from crashcast.sources.http import in_short, words_of
from crashcast.sources.tickets.own_alarms import ALERT, MARK

REPEAT_S = 60.0
CONNECT_S, READ_S = 5, 15
BATCH = 500  # alerts of a request
PROBLEM = "alertmanager"


class Alertmanager:
    """Pushes the alarms of the last state, again and again; a context manager that stops at the end of its block.

    Parameters
    ----------
    serve : Serve
        The section of params.yaml. Nothing is pushed if its `alertmanager` is null.
    show : callable, optional
        Takes the state with what became of each push.
    """

    def __init__(self, serve: Serve, show: Callable[[State], object] = lambda _: None) -> None:
        self._serve, self._show = serve, show
        self._state: State | None = None
        self._errors = 0
        self._pushing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="alertmanager")

    def __enter__(self) -> Self:
        """Begin to repeat what is pushed."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End after the push under way."""
        self._ended.set()
        self._thread.join()

    def push(self, state: State) -> State:
        """Push every open alarm, and return the state with the problem and the count of errors as they are then."""
        with self._pushing:
            self._state = self._pushed(state)
            self._show(self._state)
            return self._state

    def _repeat(self) -> None:
        while not self._ended.wait(REPEAT_S):
            with self._pushing:
                if self._state is not None:
                    self._state = self._pushed(self._state)
                    self._show(self._state)

    def _pushed(self, state: State) -> State:
        if self._serve.alertmanager is None:
            return state
        version = "unknown" if state.scores is None else state.scores.deployment.name
        problem = _post(self._serve.alertmanager, [alert(one, version, self._serve) for one in state.alarms])
        self._errors += problem is not None
        if problem != state.problems.get(PROBLEM):
            print(f"serve: {PROBLEM}: {problem or 'passed'}", file=sys.stderr, flush=True)
        problems = {name: words for name, words in state.problems.items() if name != PROBLEM}
        if problem is not None:
            problems[PROBLEM] = problem
        return replace(state, problems=problems, delivery_errors=self._errors)


def alert(alarm: Alarm, version: str, serve: Serve) -> dict[str, Any]:
    """Return an alarm as Alertmanager's API takes it.

    Parameters
    ----------
    alarm : Alarm
    version : str
        Of the model.
    serve : Serve
        For the links, and how much later than its row a score is known.
    """
    summary = f"{alarm.server_id} is likely to crash before {moment(alarm.ends_at)}: risk {percent(alarm.risk)}"
    annotations = {
        "summary": f"{summary} {MARK}",
        "reasons": "\n".join(map(str, alarm.reasons[:MOST_REASONS])),
        "model": version,
        "runbook": serve.runbook or "",
        "page": serve.page or "",
    }
    labels = {
        "alertname": ALERT,
        "server": alarm.server_id,
        "group": alarm.group or "",
        "severity": "warning",
    }
    found = {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {name: value for name, value in annotations.items() if value},
        "startsAt": rfc3339(alarm.opened_at),
        # a renewal at its end is known only then, and is the same page
        "endsAt": rfc3339(alarm.ends_at + serve.delay + timedelta(seconds=REPEAT_S)),
    }
    return found | ({"generatorURL": serve.page} if serve.page else {})


def _post(url: str, alerts: Sequence[dict[str, Any]]) -> str | None:
    """Post alerts, and return what went wrong."""
    for first in range(0, max(len(alerts), 1), BATCH):  # without alerts, too: it shows whether there is a way
        try:
            answer = requests.post(
                f"{url}/api/v2/alerts",
                json=alerts[first : first + BATCH],
                timeout=(CONNECT_S, READ_S),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return f"{url} gives no answer: {in_short(error)}"
        if answer.status_code != 200:
            return f"{url} refuses alerts: {words_of(answer)}"
    return None
