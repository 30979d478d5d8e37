"""`crashcast serve` over a real Prometheus: the pipeline's bits, late samples, kills, and every kind of bad input."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import fsspec
import polars as pl
import pytest
from prometheus_server import Disturbing, Prometheus, disturbed, needs_prometheus, servers
from replayed_fleet import (
    HOUR,
    KEYS,
    QUARTER,
    as_series,
    configure,
    new_service,
    newest_row,
    pipelines_scores,
    samples,
    table,
    ticks,
)

from crashcast import tables
from crashcast.cli import main as crashcast
from crashcast.errors import UserError
from crashcast.modeling.alarms import AlarmWindow, open_alarms
from crashcast.operate import exposition, page, served_log
from crashcast.operate.deployment import Deployment
from crashcast.operate.score import samples_needed
from crashcast.operate.served_log import ServedLog
from crashcast.operate.serving import ModelInUse, run
from crashcast.operate.state import State
from crashcast.params.base import DAY
from crashcast.params.serve import Serve
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH

Shell = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = needs_prometheus
START = datetime(2025, 3, 19)  # in the small fleet's test period, before a day with several alarms
BEFORE = timedelta(days=5)  # more than the features look back
PREDICTIONS = Path("data/predictions")
SUPPORT = Path(__file__).parents[1] / "support"
INSTANT = timedelta(microseconds=1)
REGISTER = "git tag -a crash-model@v1.0.0 -m first && git tag -a 'crash-model#prod#1' -m prod"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path]) -> Path:
    """Return a repository of this project with a small fleet, run once, its model in stage prod."""
    folder = small_fleet(tmp_path_factory.mktemp("serve") / "project")
    subprocess.run(REGISTER, shell=True, cwd=folder, check=True)
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in the project, in which nothing was served."""
    monkeypatch.chdir(project)
    yield project
    reset()
    subprocess.run(["git", "checkout", "--quiet", "."], check=True)


def reset() -> None:
    """Forget what was served."""
    for folder in (Path(".dvc/tmp/crashcast"), Path("data/served")):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def used(project: Path) -> Deployment:
    """Return the model in stage prod."""
    with chdir(project):
        return ModelInUse().find()


@pytest.fixture(scope="module")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Prometheus]]:
    """Make servers that end with the tests."""
    with servers(tmp_path_factory.mktemp) as make:
        yield make


@pytest.fixture(scope="module")
def prometheus(project: Path, new_server: Callable[[], Prometheus]) -> Prometheus:
    """Return a server with the fleet's samples of some days."""
    server = new_server()
    with chdir(project):
        server.fill(as_series(samples(START - BEFORE, START + timedelta(days=3))))
    server.start()
    return server


def log() -> ServedLog:
    return ServedLog("data/served")


def issued(name: str = "scores") -> pl.DataFrame:
    return log().read(name, log().moments(name))


def test_scores_and_alarms_are_the_pipelines(
    here: Path, used: Deployment, prometheus: Prometheus, tmp_path: Path
) -> None:
    configure(prometheus.url)
    states = ticks(used, START, 31)
    assert [dict(state.problems) for state in states] == [{}] * 31
    found = issued()
    expected = pipelines_scores(used, START - DAY, START + 30 * HOUR, tmp_path)
    both = found.join(expected, on=KEYS)
    assert both.height == found.height > 1500
    assert both["score"].equals(both["later"].alias("score"))
    since = pl.col("timestamp") >= pl.lit(START, tables.TIMESTAMP)  # the first tick may score older rows
    rows = expected.filter(since)
    assert found.filter(since).select(KEYS).sort(KEYS).equals(rows.filter("observed").select(KEYS))
    raw = found.join(table(PREDICTIONS), on=KEYS, suffix=" of the pipeline")
    assert raw["score"].equals(raw["score of the pipeline"].alias("score"))  # not aggregated by Prometheus
    assert raw.height > 1400
    assert issued("revisions").is_empty()

    window = AlarmWindow.of(used.label, HOUR)
    opened = open_alarms(rows.with_columns(score="later", label=None), used.model.threshold, window)
    alarms = issued("alarms")
    assert alarms.select(KEYS).sort(KEYS).equals(opened.select(KEYS))
    assert alarms["reasons"].list.len().min() > 0
    assert alarms.height == opened.height == 6
    # 18:00 of the first day, renewed a horizon later; 04:00 of the second day
    midnight, four = START + 24 * HOUR, START + 28 * HOUR
    assert {(one.opened_at, one.renewed_at, one.ends_at) for one in states[-1].alarms} == {
        (midnight - used.label.horizon, midnight, midnight + used.label.reach),
        (four, four, four + used.label.reach),
    }
    assert all(one.reasons for one in states[-1].alarms)


def test_an_alarm_is_held_back_with_its_renewals_and_told_to_nobody(
    here: Path, used: Deployment, prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    evening = START + 17 * HOUR
    configure(prometheus.url)
    delivered = ticks(used, evening, 12)
    opened = issued("alarms")
    assert opened["delivered"].all()
    assert (opened["ends_at"] - opened["timestamp"]).unique().to_list() == [used.label.reach]
    first, other = opened["server_id"][0], opened.filter(pl.col("timestamp") == pl.col("opened_at"))["server_id"][-1]
    assert opened.filter(server_id=first).height == 2  # an opening and its renewal
    reset()

    configure(prometheus.url, holdback=0.999, never_hold_back=[other, "db-99999"])
    before = ticks(used, evening, 3)
    assert "never_hold_back names db-99999, and no such server was scored" in capsys.readouterr().err
    assert [one.server_id for one in before[-1].alarms] == []
    configure(prometheus.url, holdback=0, never_hold_back=[])  # the opening was drawn, and the renewal follows it
    after = ticks(used, evening + 3 * HOUR, 9, before=before[-1])
    found = issued("alarms")
    assert found.drop("delivered").equals(opened.drop("delivered"))
    assert set(found.filter(~pl.col("delivered"))["server_id"]) == {first}
    assert found.filter(server_id=first)["delivered"].to_list() == [False, False]
    assert {one.server_id for one in delivered[-1].alarms} - {one.server_id for one in after[-1].alarms} == {first}
    told = {one.labels["server"]: one.value for one in exposition.samples(after[-1]) if one.name == "crashcast_alarm"}
    assert (told[first], sum(told.values())) == (0, len(after[-1].alarms))
    assert first not in page.render(after[-1], after[-1].ticked_at, HOUR, Serve.read())


def test_an_alarm_that_ended_is_shown_with_what_came_of_it(
    here: Path, used: Deployment, prometheus: Prometheus
) -> None:
    configure(prometheus.url)
    evening, service = START + 17 * HOUR, new_service()
    before = ticks(used, evening, 2, service)[-1]
    (opened,) = {one.opened_at for one in before.alarms}
    crashed = tables.read(INCIDENTS_PATH).head(1).with_columns(
        server_id=pl.lit(before.alarms[0].server_id), kind=pl.lit(tables.CRASH),
        started_at=pl.lit((opened + 3 * HOUR).replace(tzinfo=UTC)).cast(tables.TIMESTAMP),
    )  # fmt: skip
    own = INCIDENTS_PATH.read_bytes()
    tables.write(INCIDENTS_PATH, crashed)
    try:
        after = ticks(used, evening + 30 * HOUR, 1, service, before)[-1]
    finally:
        INCIDENTS_PATH.write_bytes(own)
    found = {one.server_id: (one.opened_at, one.is_delivered, one.crashed_at) for one in after.ended}
    assert found == {
        one.server_id: (opened, True, opened + 3 * HOUR if one is before.alarms[0] else None) for one in before.alarms
    }
    assert ticks(used, evening + 60 * HOUR, 1, service, after)[-1].ended == []


def late(found: pl.DataFrame) -> pl.DataFrame:
    """Choose samples that come late: all of one server at 17:00, and some metrics of one that alarms, at 18:00."""
    rows = found.with_columns(hour=(pl.col("timestamp") - INSTANT).dt.truncate("1h") + HOUR)
    whole = rows.filter(pl.col("hour") == pl.lit(START + 17 * HOUR, tables.TIMESTAMP), server_id="cache-00016")
    some = rows.filter(pl.col("hour") == pl.lit(START + 18 * HOUR, tables.TIMESTAMP), server_id="app-00010")
    others = [name for name in found.columns[2:] if name not in ("cpu_pct", "latency_ms")]
    chosen = pl.concat([whole, some.with_columns(pl.lit(None, pl.Float32).alias(name) for name in others)])
    assert (whole.height, some.height) == (1, 1)
    return chosen.select(found.columns)


def test_late_samples_change_nothing_that_was_issued_and_are_listed(
    here: Path, used: Deployment, new_server: Callable[[], Prometheus], tmp_path: Path
) -> None:
    server, found = new_server(), samples(START - BEFORE, START + DAY)
    missing = late(found)
    in_time = found.join(missing, on=KEYS, how="left", suffix=" late").select(
        *KEYS, *(pl.when(pl.col(f"{name} late").is_null()).then(name) for name in found.columns[2:])
    )
    server.fill(as_series(in_time))
    server.start()
    configure(server.url)
    service = new_service()
    before = ticks(used, START + 12 * HOUR, 7, service)
    server.stop()
    server.fill(as_series(missing))
    server.start()
    after = ticks(used, START + 19 * HOUR, 3, service, before[-1])
    assert not any(state.problems for state in (*before, *after))

    expected = pipelines_scores(used, START + 12 * HOUR, START + 21 * HOUR, tmp_path).filter("observed")
    both = issued().join(expected, on=KEYS, how="full", coalesce=True)
    assert both["later"].null_count() == 0
    differing = both.filter(pl.col("score").ne_missing(pl.col("later"))).select(*KEYS, "score", "later").sort(KEYS)
    listed = issued("revisions")
    assert differing.rows() == listed.select(*KEYS, "issued", "later").sort(KEYS).rows()
    assert [state.late_revisions for state in after] == [listed.height] * 3
    # the one row that was never issued, and the one that would have opened an alarm an hour earlier
    assert listed.filter(pl.col("issued").is_null())["server_id"].to_list() == ["cache-00016"]
    own = listed.filter(server_id="app-00010").sort("timestamp").row(0, named=True)
    assert own["issued"] < used.model.threshold < own["later"]
    assert [one.opened_at for one in after[-1].alarms if one.server_id == "app-00010"] == [START + 19 * HOUR]
    # another process compares again, and finds nothing new
    assert ticks(used, START + 22 * HOUR, 1)[0].late_revisions == 0


def test_an_instance_that_comes_later_issues_nothing_again(
    here: Path, used: Deployment, prometheus: Prometheus, tmp_path: Path
) -> None:
    """Also if it has a tail of its own, as on another machine."""
    configure(prometheus.url)
    one, other = new_service(), replace(new_service(), tail=tmp_path / "tail")
    ticks(used, START, 3, one)
    before = contents()
    states = [ticks(used, START + 2 * HOUR, 1, service)[0] for service in (other, one)]
    assert contents() == before
    assert states[0].alarms == states[1].alarms
    assert states[0].scores is not None
    assert states[1].scores is not None
    assert states[0].scores.rows.equals(states[1].scores.rows)
    ticks(used, START + 3 * HOUR, 2, other)
    ticks(used, START + 3 * HOUR, 2, one)
    assert issued().select(KEYS).is_duplicated().sum() == 0
    assert issued("revisions").is_empty()


def test_an_instance_lists_what_another_one_issued_from_fewer_samples(
    here: Path, used: Deployment, prometheus: Prometheus, new_server: Callable[[], Prometheus], tmp_path: Path
) -> None:
    server, found = new_server(), samples(START - BEFORE, START + DAY)
    server.fill(as_series(found.join(late(found), on=KEYS, how="anti")))
    server.start()
    configure(server.url)
    one = new_service()
    configure(prometheus.url)
    other = replace(new_service(), tail=tmp_path / "tail")
    states = ticks(used, START + 17 * HOUR, 1, other)
    ticks(used, START + 18 * HOUR, 1, one)
    with pytest.MonkeyPatch.context() as patch:  # both tick at once, and one is faster
        patch.setattr(ServedLog, "last", lambda *_: START + 17 * HOUR)
        states += ticks(used, START + 18 * HOUR, 1, other, states[-1])
    assert states[-1].late_revisions == 0
    states += ticks(used, START + 19 * HOUR, 1, other, states[-1])
    listed = log().read("revisions", [START + 19 * HOUR])
    assert listed.filter(server_id="app-00010")["timestamp"].to_list() == [(START + 18 * HOUR).replace(tzinfo=UTC)]
    assert states[-1].late_revisions == listed.height


def contents() -> dict[str, bytes]:
    """Return every file of the log."""
    return {str(path): path.read_bytes() for path in Path("data/served").rglob("*") if path.is_file()}


def replay(first: datetime, until: datetime, kill_after_s: float | None = None) -> list[str]:
    """Run a process that ticks from one time to another, or is killed so long after it is ready; return its output."""
    command = [sys.executable, str(SUPPORT / "replaying_process.py"), str(first), str(until)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill_after_s is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(kill_after_s)
            process.kill()
        printed = process.stdout.read().splitlines()
    assert process.returncode == (0 if kill_after_s is None else -signal.SIGKILL) or process.returncode == 0
    return printed


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kills", "first", "hours"),
    [
        (3, START + 14 * HOUR, 10),
        pytest.param(50, START, 60, marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_goes_on_with_the_same_alarms(
    here: Path, prometheus: Prometheus, kills: int, first: datetime, hours: int
) -> None:
    configure(prometheus.url)
    until = first + hours * HOUR
    undisturbed, before = replay(first, until), contents()
    reset()
    draw, printed, whole = Random(1), list[str](), set(undisturbed)
    for _ in range(kills):
        printed += replay(first, until, draw.uniform(0.02, min(1.2, 0.05 * hours)))
        for path in contents():
            if not Path(path).name.startswith("."):
                assert before[path] == Path(path).read_bytes()
    printed += replay(first, until)
    assert {line for line in printed if json_ends(line)} == whole
    assert {path: content for path, content in contents().items() if "/." not in path} == before
    assert len({str(json.loads(line)[1]) for line in undisturbed}) > 2  # alarms open and end
    assert len(before) > hours + 3


def json_ends(line: str) -> bool:
    """Tell whether a line was printed whole."""
    return line.endswith("]]")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no server that fails."""
    monkeypatch.setattr("crashcast.operate.tick.PATIENCE_S", 0.0)


def test_a_prometheus_that_was_away_is_asked_for_all_it_missed(
    here: Path, used: Deployment, new_server: Callable[[], Prometheus], impatient: None
) -> None:
    server = new_server()
    server.fill(as_series(samples(START - BEFORE, START + DAY)))
    server.start()
    configure(server.url)
    ticks(used, START, 9)
    undisturbed = contents()
    reset()
    service = new_service()
    before = ticks(used, START, 7, service)
    server.stop()
    away = ticks(used, START + 7 * HOUR, 1, service, before[-1])[0]
    assert away.problems.keys() == {"prometheus"}
    assert "gives no answer" in away.problems["prometheus"]
    assert away.scores is before[-1].scores
    assert away.alarms == before[-1].alarms != []
    restarted = ticks(used, START + 7 * HOUR, 1)[0]
    assert (restarted.problems.keys(), restarted.scores) == ({"prometheus"}, None)
    assert [replace(one, group=None) for one in restarted.alarms] == [replace(one, group=None) for one in away.alarms]
    over = ticks(used, START + 13 * HOUR, 1, service, away)[0]
    assert over.alarms == []  # an alarm ends, whether anybody scores or not
    server.start()
    assert ticks(used, START + 8 * HOUR, 1, service, away)[0].problems == {}
    assert contents() == undisturbed


def test_after_a_long_gap_what_still_speaks_of_the_future_is_scored(
    here: Path, used: Deployment, prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(prometheus.url)
    service = new_service()
    before = ticks(used, START, 1, service)[-1]
    capsys.readouterr()
    after = ticks(used, START + 20 * HOUR, 1, service, before)[-1]
    assert log().moments("scores") == [START, *(START + hour * HOUR for hour in range(14, 21))]
    assert "13 moments from 2025-03-19 01:00 to 2025-03-19 13:00 UTC passed without scores" in capsys.readouterr().err
    assert [(one.opened_at, one.renewed_at) for one in after.alarms] == [(START + 18 * HOUR, START + 18 * HOUR)]


BAD_ANSWERS = {
    "an error": (503, b"Service Unavailable", "503"),
    "a part": (
        200, b'{"status":"success","warnings":["a store is away"],"data":{"resultType":"matrix","result":[]}}',
        "incomplete answer: a store is away",
    ),
    "half of an answer": (200, b'{"status":"success","data":{"resultType":"matrix","resu', "no answer of Prometheus's"),
    "a page": (200, b"<html>please log in</html>", "no answer of Prometheus's"),
    "a refusal": (401, b"who are you?", "refuses us"),
    "words for numbers": (
        200, b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"instance":"a:1"},"values":'
        b'[[1,"many"]]}]}}', "not as Prometheus's API has them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_bad_answer_leads_to_no_score(
    here: Path, used: Deployment, prometheus: Prometheus, impatient: None, case: str
) -> None:
    status, content, words = BAD_ANSWERS[case]
    is_bad = False

    def answer(handler: Disturbing, number: int) -> bool:
        if is_bad and handler.path.endswith("query_range") and number % 3 == 0:
            handler.answer(status, content)
            return True
        return False

    with disturbed(prometheus.url, answer) as (url, _):
        configure(url)
        service = new_service()
        before = ticks(used, START, 1, service)[-1]
        files, is_bad = contents(), True
        state = ticks(used, START + HOUR, 1, service, before)[-1]
        assert state.problems.keys() == {"prometheus"}
        assert words in state.problems["prometheus"]
        assert contents() == files
        assert state.scores is before.scores
        is_bad = False
        assert ticks(used, START + HOUR, 1, service, state)[-1].problems == {}
        assert log().last() == START + HOUR


def test_a_clock_that_is_set_back_scores_nothing(here: Path, used: Deployment, prometheus: Prometheus) -> None:
    configure(prometheus.url)
    before = ticks(used, START + 6 * HOUR, 2)
    files = contents()
    for known in (before[-1], None):  # the process goes on, or starts again
        state = ticks(used, START + HOUR, 1, before=known)[-1]
        assert state.problems.keys() == {"clock"}
        assert "the clock says 2025-03-19 01:15 UTC, but 2025-03-19 07:00 was scored already" in state.problems["clock"]
        assert [one.opened_at for one in state.alarms] == [START + 6 * HOUR]
    assert contents() == files
    assert ticks(used, START + 8 * HOUR, 1, before=before[-1])[-1].problems == {}


def test_records_of_incidents_that_end_count_as_missing(
    here: Path, used: Deployment, prometheus: Prometheus, tmp_path: Path
) -> None:
    configure(prometheus.url)
    history = [name for name in used.model.features if name == "hours_since_crash" or name.startswith("crashes_")]
    fresh = ticks(used, START, 1)[-1]
    assert fresh.newest_ticket is not None
    assert fresh.newest_ticket > START
    assert fresh.scores is not None
    assert all(fresh.scores.features[name].null_count() == 0 for name in history)
    kept = new_service().tail.parent / COVERAGE_PATH.name
    written = kept.stat().st_mtime_ns
    ticks(used, START, 1, before=fresh)
    assert kept.stat().st_mtime_ns == written  # nothing is new
    service = replace(new_service(), coverage=tmp_path / "coverage.parquet")
    ended = pl.lit(START - 2 * DAY, tables.TIMESTAMP)
    tables.write(service.coverage, tables.read(COVERAGE_PATH).with_columns(covered_to=ended))
    stale = ticks(used, START + HOUR, 1, service, fresh)[-1]
    assert stale.problems.keys() == {"tickets"}
    assert "end on 2025-03-17 00:00 UTC, longer ago than serve.max_ticket_age (1d)" in stale.problems["tickets"]
    assert stale.newest_ticket == START - 2 * DAY
    assert stale.scores is not None
    assert all(stale.scores.features[name].null_count() == stale.scores.features.height for name in history)
    assert issued()["incidents"].n_unique() == 2
    # tickets are collected more often than telemetry, with which coverage ends
    asked = {"source": ["pagerduty"], "covered_from": [START - 9 * DAY], "covered_to": [START]}
    hourly = replace(service, ticket_sources=tmp_path / "sources.parquet", tail=tmp_path / "tail")
    tables.write(
        hourly.ticket_sources, pl.DataFrame(asked).with_columns(pl.selectors.datetime().dt.replace_time_zone("UTC"))
    )
    known = ticks(used, START + HOUR, 1, hourly)[-1]
    assert (known.problems, known.newest_ticket) == ({}, START)
    assert known.scores is not None
    assert all(known.scores.features[name].null_count() == 0 for name in history)
    incidents = tables.read(INCIDENTS_PATH).with_columns(pl.col("started_at").cast(pl.String))
    other = replace(service, coverage=COVERAGE_PATH, incidents=tmp_path / "incidents.parquet")
    tables.write(other.incidents, incidents)
    assert "the records of incidents cannot be read" in ticks(used, START + HOUR, 1, other)[-1].problems["tickets"]
    tables.write(service.coverage, tables.read(COVERAGE_PATH).clear())
    nobody = ticks(used, START + HOUR, 1, service)[-1]
    assert "coverage.parquet covers no server" in nobody.problems["tickets"]
    assert nobody.newest_ticket is None
    service.coverage.write_bytes(b"no Parquet")
    unread = ticks(used, START + 2 * HOUR, 1, service, stale)[-1]
    assert "coverage.parquet is not a readable Parquet file" in unread.problems["tickets"]
    assert unread.scores is not None
    assert unread.scores.moment == START + 2 * HOUR


def test_groups_are_features_also_of_servers_that_no_record_covers(
    here: Path, used: Deployment, prometheus: Prometheus, tmp_path: Path
) -> None:
    configure(prometheus.url)
    groups = ["app", "db", "web"]
    grouped = replace(used, features=used.features.model_copy(update={"categories": {"group": groups}}))
    service = replace(new_service(), coverage=tmp_path / "coverage.parquet")
    known = tables.read(COVERAGE_PATH)
    assert {*groups} <= {*known["group"]}
    server, moved = (known.filter(group=group)["server_id"][0] for group in ("web", "app"))

    def flags(state: State) -> list[str]:
        assert state.scores is not None
        rows = state.scores.features
        assert {server, moved} <= {*rows["server_id"]}
        is_in = pl.col("server_id").str.starts_with
        for group in groups:
            assert rows.filter(pl.col(f"group_is_{group}") == 1).equals(rows.filter(is_in(f"{group}-")))
        return [name for name in rows.columns if name.startswith("group_is_")]

    group = pl.when(pl.col("server_id") != moved).then("group").otherwise(pl.lit("db"))
    some = known.filter(pl.col("server_id") != server).with_columns(group=group)
    tables.write(service.coverage, some)
    fresh = ticks(grouped, START, 1, service)[-1]
    assert fresh.problems == {}
    assert flags(fresh) == [f"group_is_{group}" for group in groups]
    tables.write(service.coverage, some.with_columns(covered_to=pl.lit(START - 2 * DAY, tables.TIMESTAMP)))
    stale = ticks(grouped, START + HOUR, 1, service, fresh)[-1]
    assert stale.problems.keys() == {"tickets"}
    assert flags(stale)


def without(found: pl.DataFrame, hour: int, metrics: list[str], servers: list[str]) -> pl.DataFrame:
    """Take metrics of some servers out of samples, from an hour on."""
    gone = (pl.col("timestamp") > pl.lit(START + (hour - 1) * HOUR, tables.TIMESTAMP)) & pl.col("server_id").is_in(
        servers
    )
    return found.with_columns(pl.when(~gone).then(name).alias(name) for name in metrics)


def test_what_the_fleet_does_not_send_is_told(
    here: Path, used: Deployment, new_server: Callable[[], Prometheus]
) -> None:
    server, found = new_server(), samples(START - BEFORE, START + DAY)
    fleet = found["server_id"].unique().sort().to_list()
    found = without(found, 2, ["latency_ms"], fleet)
    found = without(found, 4, found.columns[2:], fleet[::2])
    found = without(found, 6, found.columns[2:], fleet)
    server.fill(as_series(found))
    server.start()
    configure(server.url)
    states = ticks(used, START, 14)
    told = [set(state.problems) for state in states]
    assert told[:7] == [
        set(),
        set(),
        {"metrics"},
        {"metrics"},
        {"metrics", "silent"},
        {"metrics", "silent"},
        {"silent"},
    ]
    assert states[2].problems["metrics"].startswith("no server has latency_ms")
    assert states[4].problems["silent"].startswith("30 of 60 servers have no sample in the newest interval")
    assert told[7:] == [{"silent"}] * 7
    assert "no server has a row from" in states[12].problems["silent"]
    assert log().last() == START + 11 * HOUR  # the last at which the rows of 05:00 spoke of the future


def test_nothing_is_scored_before_the_windows_are_whole(
    here: Path, used: Deployment, new_server: Callable[[], Prometheus]
) -> None:
    server = new_server()
    needed = START - samples_needed(used, START)[0]
    server.fill(as_series(samples(START - needed + 3 * HOUR, START + DAY)))
    server.start()
    configure(server.url)
    states = ticks(used, START, 4)
    assert [set(state.problems) for state in states] == [{"history"}, {"history"}, set(), set()]
    assert "the first sample of http" in states[0].problems["history"]
    assert log().moments("scores") == [START + 2 * HOUR, START + 3 * HOUR]


def test_a_full_disk_issues_nothing(here: Path, used: Deployment, prometheus: Prometheus) -> None:
    configure(prometheus.url)
    ticks(used, START, 4)
    undisturbed = contents()
    reset()
    service = new_service()
    state = ticks(used, START, 1, service)[-1]
    with limited(100):
        for hour in (1, 2):
            state = ticks(used, START + hour * HOUR, 1, service, state)[-1]
            assert state.problems.keys() == {"disk"}
            assert "make room" in state.problems["disk"]
    assert log().last() == START
    assert ticks(used, START + 3 * HOUR, 1, service, state)[-1].problems == {}
    assert contents() == undisturbed


@contextmanager
def limited(size_bytes: int) -> Iterator[None]:
    """Let no file of this process become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_of_the_log_issues_nothing(here: Path, used: Deployment, prometheus: Prometheus) -> None:
    Path("data/served").mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "data/served"]).returncode:
        pytest.skip("only root can mount a file system")
    try:
        configure(prometheus.url)
        service = new_service()
        states = ticks(used, START, 1, service)
        free = os.statvfs("data/served").f_bavail * os.statvfs("data/served").f_frsize
        Path("data/served/filler").write_bytes(bytes(free))
        states += ticks(used, START + HOUR, 2, service, states[-1])
        assert [set(state.problems) for state in states] == [set(), {"disk"}, {"disk"}]
        assert all(state.scores is states[0].scores for state in states)  # what is not in the log was not issued
        assert log().moments("scores") == [START]
        Path("data/served/filler").unlink()
        assert ticks(used, START + 2 * HOUR, 1, service, states[-1])[-1].problems == {}
        assert log().moments("scores") == [START + hour * HOUR for hour in range(3)]
    finally:
        subprocess.run(["umount", "--lazy", "data/served"], check=True)


def test_a_damaged_tail_is_fetched_again(here: Path, used: Deployment, prometheus: Prometheus) -> None:
    configure(prometheus.url)
    ticks(used, START, 6)
    undisturbed = contents()
    reset()
    service = new_service()
    ticks(used, START, 2, service)
    files = sorted(service.tail.glob("*.parquet"))
    files[-1].write_bytes(b"no Parquet")
    assert ticks(used, START + 2 * HOUR, 1, service)[-1].problems == {}  # one that is being written
    files = sorted(service.tail.glob("*.parquet"))
    files[0].write_bytes(b"no Parquet")
    service = new_service()  # which has nothing in memory
    assert ticks(used, START + 3 * HOUR, 1, service)[-1].problems.keys() == {"disk"}  # one that is only read
    assert ticks(used, START + 4 * HOUR, 1, service)[-1].problems == {}
    (service.tail / ".notes.json").write_text("{}")
    files[1].unlink()
    assert ticks(used, START + 5 * HOUR, 1, service)[-1].problems == {}
    assert contents() == undisturbed


def register(version: str, number: int, message: str = "an accepted one") -> None:
    """Register HEAD's model and put it into stage prod, with the tags that `crashcast accept` and `stage` make."""
    date = {"GIT_COMMITTER_DATE": f"{time.time() + 60 * number:.0f} +0000"}  # the latest one counts, to the second
    for tag in (f"crash-model@{version}", f"crash-model#prod#{number}"):
        subprocess.run(["git", "tag", "-a", tag, "-m", message], check=True, env=os.environ | date)


@pytest.fixture
def restored(here: Path) -> Iterator[None]:
    """Take back commits and versions."""
    yield
    subprocess.run("git checkout -q -f main && git reset -q --hard $(git rev-list -n1 crash-model@v1.0.0)", shell=True)
    others = subprocess.run(["git", "tag"], capture_output=True, text=True, check=True).stdout.split()
    for tag in {*others} - {"crash-model@v1.0.0", "crash-model#prod#1"}:
        subprocess.run(["git", "tag", "-d", tag], check=True, capture_output=True)


def test_a_version_in_stage_prod_is_taken_up_without_a_restart_and_a_wrong_one_is_not(
    here: Path, prometheus: Prometheus, restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(prometheus.url)
    states: list[State] = []

    def look(state: State) -> None:
        states.append(state)
        if len(states) == 1:
            subprocess.run(["git", "commit", "-q", "--allow-empty", "-m", "renewed"], check=True)
            register("v1.1.0", 2)
        elif len(states) == 2:
            code = Path("src/stages/clean.py")
            code.write_text(code.read_text() + "MORE = 1\n")
            subprocess.run(["git", "commit", "-q", "-m", "other code", code], check=True)
            register("v1.2.0", 3)
        elif len(states) == 3:
            subprocess.run(
                "git reset -q --hard HEAD~1 && git commit -q --allow-empty -m forged", shell=True, check=True
            )
            record = {
                "verdict": "ACCEPT",
                "form": "renewal",
                "headline": "",
                "challenger": {"model": f"{'0' * 32}.dir"},
            }
            register("v1.3.0", 4, f"v1.3.0\n\naccepted\n\n{json.dumps({'record': record, 'forced': None})}")
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    found = run(new_service(), ModelInUse(), [look], clock=lambda: START + len(states) * HOUR + QUARTER)
    assert found == 0
    assert issued()["model"].unique(maintain_order=True).to_list() == ["v1.0.0", "v1.1.0"]
    assert [set(state.problems) for state in states] == [set(), set(), {"model"}, {"model"}]
    assert "v1.2.0 was trained by other code than runs here (src/stages/clean.py)" in states[2].problems["model"]
    assert "crash-model@v1.3.0 is about another model than its dvc.lock names" in states[3].problems["model"]
    assert log().last() == START + 3 * HOUR  # the version before scores meanwhile
    told = capsys.readouterr().err
    assert told.count("serve: model: ") == 2


@pytest.fixture
def today(here: Path, new_server: Callable[[], Prometheus]) -> Iterator[datetime]:
    """Let the fleet's days end now, in Prometheus and in the records of incidents; return the time of the last row."""
    last = newest_row(delay=timedelta(minutes=10))
    shift = last - (START + 8 * HOUR)  # at which two alarms stand
    server = new_server()
    found = samples(START - BEFORE, START + DAY)
    server.fill(as_series(found.with_columns(pl.col("timestamp") + shift)))
    server.start()
    configure(server.url, listen="127.0.0.1:0")
    kept = {path: path.read_bytes() for path in (COVERAGE_PATH, INCIDENTS_PATH)}
    for path in kept:
        frame = tables.read(path)
        path.unlink()
        tables.write(path, frame.with_columns(pl.col(pl.Datetime("us", "UTC")) + shift))
    yield last
    for path, content in kept.items():
        path.unlink()
        path.write_bytes(content)


def tick_once(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run `crashcast serve --once` in this process, and return its exit status and what it printed as an error."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["crashcast", "serve", "--once"])
        with pytest.raises(SystemExit) as ended:
            crashcast()
    return ended.value.code, capsys.readouterr().err


def test_the_command_ticks_once(
    here: Path, used: Deployment, today: datetime, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    done = shell("crashcast serve --once", cwd=here)
    assert (done.stdout, done.stderr) == ("", "")
    assert log().moments("scores") == [today]
    assert {one.server_id for one in standing(today, used)} == {"app-00004", "db-00028"}
    before = contents()
    assert tick_once(capsys) == (0, "")
    assert contents() == before
    tables.write(COVERAGE_PATH, tables.read(COVERAGE_PATH).clear())
    status, told = tick_once(capsys)
    assert status == 1
    assert told.startswith("serve: tickets: data/raw/coverage.parquet covers no server")


def standing(moment: datetime, used: Deployment) -> list[Any]:
    window = AlarmWindow.of(used.label, HOUR)
    found = served_log.standing(log().alarms(moment, window), moment, window.duration)
    return [SimpleNamespace(**row) for row in found.iter_rows(named=True)]


def test_no_model_that_is_not_registered_is_served(
    here: Path, today: datetime, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("git tag -d crash-model@v1.0.0 'crash-model#prod#1'", cwd=here)
    try:
        status, told = tick_once(capsys)
    finally:
        register("v1.0.0", 1)
    assert status == 2
    assert "no registered version is in stage prod" in told
    assert contents() == {}


def test_a_model_that_is_not_shown_to_be_better_than_chance_is_not_served_unless_told_to(
    here: Path, restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = Path("metrics/evaluate.json")
    figures = {"lift": 1.3, "lift_low": 0.9, "lift_high": 2.1}
    evaluation.write_text(json.dumps(json.loads(evaluation.read_text()) | figures))
    subprocess.run(["git", "commit", "--quiet", "--all", "--message", "No skill"], check=True)
    register("v1.1.0", 2)
    status, told = tick_once(capsys)
    assert status == 2
    assert "v1.1.0 is no better than chance, as far as is shown (a lift of 1.3, 0.9 to 2.1; chance 1)" in told
    assert contents() == {}
    assert ModelInUse(without_skill=True).find().name == "v1.1.0"


def test_a_log_that_a_commit_brings_is_refused(here: Path, used: Deployment, prometheus: Prometheus) -> None:
    configure(prometheus.url)
    ticks(used, START, 1)
    subprocess.run(["git", "add", "--force", "data/served"], check=True)
    try:
        with pytest.raises(UserError, match=r"data/served/scores/.* in git's index"):
            run(new_service(), ModelInUse(), once=True)
    finally:
        subprocess.run(["git", "rm", "-r", "-q", "--cached", "data/served"], check=True)


def test_the_loop_answers_until_it_is_told_to_end(here: Path, today: datetime, shell: Shell) -> None:
    command = ["crashcast", "serve"]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert url is not None
        deadline = time.monotonic() + 60
        while status(f"{url[0]}/-/ready") != 200:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        with urlopen(f"{url[0]}/metrics") as answer:
            metrics = answer.read().decode()
        second = shell("crashcast serve --once", cwd=here, check=False)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        took_s = time.monotonic() - begun
    assert 'crashcast_alarm{group="app",server="app-00004"} 1.0' in metrics
    assert (second.returncode, "another `crashcast serve` runs in this clone" in second.stderr) == (2, True)
    assert (process.returncode, errors) == (0, "")
    assert took_s < 10
    assert log().moments("scores") == [today]


def status(url: str) -> int:
    """Return the status of an answer; 0 if there is none."""
    try:
        with urlopen(url) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_the_log_may_lie_in_a_bucket(
    here: Path, used: Deployment, prometheus: Prometheus, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    configure(prometheus.url)
    ticks(used, START + 5 * HOUR, 3)
    expected = {name: issued(name) for name in ("scores", "alarms", "revisions")}
    configure(prometheus.url, log="s3://crashcast/served")
    shutil.rmtree(".dvc/tmp/crashcast")
    states = ticks(used, START + 5 * HOUR, 3)
    assert [set(state.problems) for state in states] == [set()] * 3
    bucket = ServedLog("s3://crashcast/served")
    for name, frame in expected.items():
        assert bucket.read(name, bucket.moments(name)).equals(frame)
    assert [one.opened_at for one in states[-1].alarms] == [START + 6 * HOUR]
    assert not bucket.write("scores", START + 5 * HOUR, expected["scores"].clear())  # what was issued stays
    assert bucket.read("scores", [START + 5 * HOUR]).height > 0
    # another process, with the bucket alone
    shutil.rmtree(".dvc/tmp/crashcast")
    assert [one.opened_at for one in ticks(used, START + 7 * HOUR, 1)[0].alarms] == [START + 6 * HOUR]
    clients = type(fsspec.filesystem("s3"))
    clients.clear_instance_cache()  # or a client with the right key would be used again
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    try:
        refused = ticks(used, START + 8 * HOUR, 1)[0]
    finally:
        clients.clear_instance_cache()
    assert refused.problems.keys() == {"log"}
    assert "serve.log: s3://crashcast/served: " in refused.problems["log"]
    assert "wrong" not in refused.problems["log"]


@pytest.mark.slow
def test_thirty_days_of_the_demo_are_the_pipelines_but_for_late_samples(
    copy_project: Callable[[Path], Path], new_server: Callable[[], Prometheus], tmp_path: Path, shell: Shell
) -> None:
    project = copy_project(tmp_path / "demo")
    shell("git init -q -b main && crashcast demo && dvc repro -q && git add -A && git commit -q -m run", cwd=project)
    subprocess.run(REGISTER, shell=True, cwd=project, check=True)
    with chdir(project):
        used, server = ModelInUse().find(), new_server()
        predicted = table(PREDICTIONS)
        end: datetime = predicted["timestamp"].max().replace(tzinfo=None)  # type: ignore[union-attr]
        start = end - 30 * DAY
        found = samples(start - BEFORE, end + HOUR)
        # every sixth day, one of ten samples of two hours comes after its tick
        row = (pl.col("timestamp") - INSTANT).dt.truncate("1h") + HOUR
        hour = (row - pl.lit(start, tables.TIMESTAMP)).dt.total_hours() % (6 * 24)
        is_late = hour.is_between(3 * 24, 3 * 24 + 1) & (pl.col("server_id").hash(1) % 10 == 0)
        late_ones = found.filter(is_late & (pl.col("timestamp") > pl.lit(start, tables.TIMESTAMP)))
        server.fill(as_series(found.join(late_ones, on=KEYS, how="anti")))
        server.start()
        configure(server.url)
        service, states = new_service(), list[State]()
        for begin in range(0, 30 * 24, 6 * 24):
            last = states[-1] if states else None
            states += ticks(used, start + begin * HOUR, 3 * 24 + 2, service, last)
            server.stop()
            now = pl.lit(states[-1].ticked_at, tables.TIMESTAMP)
            server.fill(as_series(late_ones.filter(pl.col("timestamp").is_between(now - DAY, now))))
            server.start()
            states += ticks(used, start + (begin + 3 * 24 + 2) * HOUR, 3 * 24 - 2, service, states[-1])
        assert not any(state.problems for state in states)
        expected = pipelines_scores(used, start, end - HOUR, tmp_path).filter("observed")
        since = pl.col("timestamp") >= pl.lit(start, tables.TIMESTAMP)
        both = issued().filter(since).join(expected, on=KEYS, how="full", coalesce=True).sort(KEYS)
        differing = both.filter(pl.col("score").ne_missing(pl.col("later")))
        listed = issued("revisions").sort("moment").unique(KEYS, keep="last").sort(KEYS)
        assert differing.select(*KEYS, "score", "later").rows() == listed.select(*KEYS, "issued", "later").rows()
        assert listed.height > 100
        assert listed.height < both.height / 50
        raw = both.join(listed, on=KEYS, how="anti").join(predicted.select(*KEYS, raw="score"), on=KEYS)
        assert raw.height > 200_000
        same = raw.filter(pl.col("score") == pl.col("raw")).height
        assert same > 0.999 * raw.height  # two samples in an hour are averaged by Prometheus, in another order
        window = AlarmWindow.of(used.label, HOUR)
        opened = open_alarms(issued().with_columns(label=None, observed=True), used.model.threshold, window)
        assert issued("alarms").select(KEYS).sort(KEYS).equals(opened.select(KEYS))
        assert opened.height > 40
