"""What Prometheus scrapes from `crashcast serve`."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from served_fleet import HOUR, NOW, alarm, scores, state

from crashcast.operate.exposition import Exposition
from crashcast.operate.state import State

MOST_OF_PLAIN = 3  # times the CPU that prometheus-client needs for the same series, ready-made


def after(*states: State) -> Exposition:
    exposition = Exposition(HOUR)
    for one in states:
        exposition.show(one)
    return exposition


def read(exposition: Exposition) -> dict[tuple[str, ...], float]:
    """Return each value by its name and its labels' values."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition.text().decode())
        for sample in family.samples
    }


def test_each_server_has_its_risk_and_whether_its_alarm_is_open() -> None:
    found = read(after(state()))
    assert found["crashcast_risk", "db-1"] > 0.9 > found["crashcast_threshold",] > found["crashcast_risk", "db-2"]
    alarms = {key[-1]: value for key, value in found.items() if key[0] == "crashcast_alarm"}
    assert alarms == {"db-1": 1, "db-2": 0, "web-1": 0, "web-2": 0}
    assert ("crashcast_alarm", "db", "db-1") in found
    assert found["crashcast_servers_scored",] == 4


def test_what_it_was_made_of_is_told() -> None:
    found = read(after(state(late_revisions=3, delivery_errors=2)))
    midnight = 1767571200  # of the day of the rows
    assert found["crashcast_model_info", "logistic_regression", "v1.0.0"] == 1
    assert found["crashcast_last_tick_timestamp_seconds",] == midnight + 12 * 3600 + 600
    assert found["crashcast_score_timestamp_seconds",] == midnight + 12 * 3600
    assert found["crashcast_newest_sample_timestamp_seconds",] == midnight + 12 * 3600
    assert found["crashcast_newest_ticket_timestamp_seconds",] == midnight + 11 * 3600
    assert (found["crashcast_late_revisions_total",], found["crashcast_delivery_errors_total",]) == (3, 2)
    assert found["crashcast_interval_seconds",] == 3600


def test_the_durations_of_all_ticks_are_counted() -> None:
    first = state(duration=timedelta(seconds=0.2))
    second = state(ticked_at=NOW + HOUR, duration=timedelta(seconds=40))
    found = read(after(first, second, replace(second, delivery_errors=1)))
    counts = {
        limit: found["crashcast_tick_duration_seconds_bucket", limit] for limit in ("0.1", "0.25", "30.0", "60.0")
    }
    assert counts == {"0.1": 0, "0.25": 1, "30.0": 1, "60.0": 2}
    assert found["crashcast_tick_duration_seconds_sum",] == pytest.approx(40.2)


def test_a_problem_is_there_while_it_lasts() -> None:
    broken = state(problems={"prometheus": "it is away: connection refused"})
    assert read(after(broken))["crashcast_degraded", "prometheus"] == 1
    assert not [key for key in read(after(broken, state())) if key[0] == "crashcast_degraded"]
    assert b"connection refused" not in after(broken).text()


def test_an_alarm_outlives_a_tick_that_scores_nothing() -> None:
    """After a restart, alarms are known from the log before anything is scored; a silent server has no score."""
    opened = alarm(scores(["db-1"]), "db-1")
    found = read(after(State(NOW, HOUR, None, [opened])))
    assert found["crashcast_alarm", "db", "db-1"] == 1
    assert not [key for key in found if key[0] in ("crashcast_risk", "crashcast_newest_sample_timestamp_seconds")]


def test_before_the_first_tick_there_is_no_score_that_could_be_taken_for_one() -> None:
    assert {key[0] for key in read(after())} >= {"crashcast_interval_seconds"}
    assert not [key for key in read(after()) if "risk" in key[0] or "timestamp" in key[0]]


def test_any_servers_name_can_be_read_again() -> None:
    names = ['a"b', "new\nline", "back\\slash", "😀", "{x}", "</script>"]
    assert {key[-1] for key in read(after(state(names))) if key[0] == "crashcast_alarm"} >= {*names}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_has_no_objection() -> None:
    text = after(state(problems={"tickets": "old"})).text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_scrape_of_a_large_fleet_is_short() -> None:
    exposition = after(state(well=[f"web-{number:05}" for number in range(10_000)]))
    families = list(exposition.collect())

    class ReadyMade(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from families

    def cpu_s(collector: Collector) -> float:
        begun = time.process_time()
        assert generate_latest(collector).count(b"\ncrashcast_risk{") == 10_001
        return time.process_time() - begun

    shares = [cpu_s(exposition) / cpu_s(ReadyMade()) for _ in range(3)]
    assert min(shares) < MOST_OF_PLAIN, shares
