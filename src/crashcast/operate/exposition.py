"""What `crashcast serve` tells Prometheus: the gauges of the scores (see `score_output`), and those of its own work."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from crashcast.operate import score_output
from crashcast.operate.optional_packages import needed_by
from crashcast.operate.state import State
from crashcast.operate.textfile import Families, Sample

if TYPE_CHECKING:
    from prometheus_client import Metric

BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Exposition:
    """The metrics of one process: those of its last state, and the durations of all its ticks.

    Parameters
    ----------
    interval : timedelta
        Between two ticks.

    Raises
    ------
    UserError
        If the package prometheus-client is not installed.
    """

    def __init__(self, interval: timedelta) -> None:
        with needed_by("crashcast serve"):
            from prometheus_client import CONTENT_TYPE_LATEST, Histogram
        self.content_type = CONTENT_TYPE_LATEST
        self._interval = interval
        self._state: State | None = None
        self._durations = Histogram(
            "crashcast_tick_duration_seconds", "Duration of a tick.", buckets=BUCKETS_S, registry=None
        )

    def show(self, state: State) -> None:
        """Take the state after a tick, or the same one with what became of its delivery."""
        if self._state is None or state.ticked_at != self._state.ticked_at:
            self._durations.observe(state.duration.total_seconds())
        self._state = state

    def text(self) -> bytes:
        """Return what a scrape gets."""
        from prometheus_client import generate_latest

        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, for prometheus-client."""
        yield from Families(
            [Sample("crashcast_interval_seconds", "Time between ticks.", self._interval.total_seconds(), {})]
        ).collect()
        yield from self._durations.collect()
        if self._state is not None:
            yield from Families(samples(self._state)).collect()


def samples(state: State) -> Iterator[Sample]:
    """Yield the gauges and counters of a state."""
    if state.scores is not None:
        yield from score_output.samples(state.scores)
    scored = [] if state.scores is None else state.scores.rows["server_id"].to_list()
    groups = {**state.groups, **{alarm.server_id: alarm.group or "" for alarm in state.alarms}}
    opened = {alarm.server_id for alarm in state.alarms}
    for server in sorted({*scored, *opened}):
        labels = {"server": server, "group": groups.get(server, "")}
        yield Sample("crashcast_alarm", "Whether an alarm of the server is open.", server in opened, labels)
    yield _moment("crashcast_last_tick_timestamp_seconds", "When the last tick began.", state.ticked_at)
    if state.newest_sample is not None:
        yield _moment("crashcast_newest_sample_timestamp_seconds", "Time of the newest sample.", state.newest_sample)
    if state.newest_ticket is not None:
        yield _moment(
            "crashcast_newest_ticket_timestamp_seconds", "Up to when incidents are known.", state.newest_ticket
        )
    revisions = "Scores whose input changed after they were issued."
    yield Sample("crashcast_late_revisions_total", revisions, state.late_revisions, {})
    yield Sample("crashcast_delivery_errors_total", "Pushes to Alertmanager that failed.", state.delivery_errors, {})
    for problem in sorted(state.problems):
        yield Sample("crashcast_degraded", "Why this state is degraded; absent if it is not.", 1, {"problem": problem})


def _moment(name: str, meaning: str, moment: datetime) -> Sample:
    return Sample(name, meaning, moment.replace(tzinfo=UTC).timestamp(), {})
