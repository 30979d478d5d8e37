import subprocess
from dataclasses import replace
from datetime import date, datetime, timedelta
from hashlib import md5
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from crashcast import tables
from crashcast.cli import app
from crashcast.errors import UserError
from crashcast.params.demo import Demo
from crashcast.paths import ACTIONS_PATH, ALARMS_PATH, TABLES
from crashcast.sources.demo import simulator
from crashcast.sources.demo.mechanisms import (
    JITTER_MINUTES,
    PRECURSORS,
    REBOOT,
    TROUBLES,
    Fleet,
    minutes_of,
    repeat_factor,
    simulate_events,
)
from crashcast.sources.demo.telemetry import DECIMALS, DECOYS, render
from crashcast.sources.demo.truth import oracle_scores, truth
from crashcast.tables import CRASH, MAINTENANCE, Partition, partition_at
from crashcast.versioning.tracked_data import track

PARAMS = Path(__file__).parents[4] / "params.yaml"
HOUR = timedelta(hours=1)


def described(**changes):
    small = {"seed": 7, "servers": 20, "start": date(2025, 1, 1), "months": 2, "interval": "1h"}
    return Demo(**(small | changes))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that writes params.yaml into an empty folder, with sections changed."""
    monkeypatch.chdir(tmp_path)

    def write(**sections):
        content = yaml.safe_load(PARAMS.read_text())
        content["demo"] |= {"servers": 20, "months": 1}
        for name, changes in sections.items():
            content[name] |= changes
        Path("params.yaml").write_text(yaml.safe_dump(content))

    write()
    return write


def hashes(*folders):
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.parquet"))]
    return {str(file): md5(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def fleet():
    """Return sixty servers over two months with what happened to them and what their sensors showed."""
    fleet = Fleet.of(described(servers=60))
    events = simulate_events(fleet)
    frames = [render(task.partition, **task.inputs)[0] for task in simulator.rendering_tasks(fleet, events, "month")]
    return fleet, events, pl.concat(frames)


# determinism


def test_the_same_parameters_write_the_same_bytes(project):
    first = str(simulator.write())
    written = hashes("data")
    assert str(simulator.write()) == first
    assert hashes("data") == written
    project(demo={"seed": 8})
    simulator.write()
    assert not set(hashes("data/raw/telemetry").values()) & set(written.values())


@pytest.mark.parametrize("unit", ["month", "week", "day"])
def test_more_months_leave_earlier_partitions_as_they_were(project, unit):
    project(telemetry={"partition": unit})
    simulator.write()
    short, tickets_then = hashes("data/raw/telemetry"), tables.read(simulator.INCIDENTS_PATH)
    project(demo={"months": 2}, telemetry={"partition": unit})
    simulator.write()
    long = hashes("data/raw/telemetry")
    assert len(long) > len(short)
    whole = set(short) - {"data/raw/telemetry/week=2025-W05/part-0.parquet"}  # which February goes on with
    assert {name: long[name] for name in whole} == {name: short[name] for name in whole}
    closed = tickets_then.filter(pl.col("resolved_at").is_not_null())
    assert len(closed) > 10
    assert closed.join(
        tables.read(simulator.INCIDENTS_PATH), on=closed.columns, how="anti", nulls_equal=True
    ).is_empty()


@given(day=st.integers(1, 30))
@settings(max_examples=8, deadline=None)
def test_telemetry_does_not_depend_on_how_time_is_cut(fleet, day):
    fleet, events, telemetry = fleet
    cut = fleet.start + timedelta(days=day)
    one = render(Partition(cut, cut + timedelta(days=1), "day"), fleet, events, _booted_at(fleet, events, cut))[0]
    start, end = tables.utc(cut, cut + timedelta(days=1))
    assert one.equals(telemetry.filter(pl.col("timestamp").is_between(start, end, closed="left")))


def _booted_at(fleet, events, moment):
    return next(
        task.inputs["booted_at"]
        for task in simulator.rendering_tasks(fleet, events, "day")
        if task.partition.start == moment
    )


# what happens


def test_the_documented_strengths_are_the_simulated_ones():
    page = (PARAMS.parent / "docs" / "demo-fleet.md").read_text(encoding="utf-8")
    for kind, trouble in TROUBLES.items():
        hours = f"{trouble.shortest_h}–{trouble.longest_h}"  # noqa: RUF001
        assert (
            f"| {kind} | {trouble.crashes_per_1000_server_days} | {trouble.crash_probability:.2f} | {hours} |" in page
        )


@pytest.mark.parametrize("seed", [7, 1, 2, 3, 4, 5])
def test_the_default_fleet_is_worth_learning_from(seed):
    fleet = Fleet.of(described(seed=seed, servers=300, months=8))
    crashes, episodes, _ = truth(fleet, simulate_events(fleet))
    days = (fleet.end - fleet.start) / timedelta(days=1)
    assert 0.018 < len(crashes) / 300 / days < 0.027  # a day and server; times 6 h of horizon: base rate below 1 %
    assert 0.30 < 1 - crashes["has_precursor"].mean() < 0.45
    with_precursor = crashes.filter("has_precursor")
    assert 0.35 < (with_precursor["kind"] == "overload").mean() < 0.5
    assert set(with_precursor["kind"]) == set(PRECURSORS) == set(episodes["kind"])

    test_start = fleet.start + timedelta(days=0.85 * days)
    test = crashes.filter(pl.col("crashed_at").dt.replace_time_zone(None) >= test_start)
    assert len(test) >= 200
    assert test["server_id"].n_unique() >= 110

    hours = (episodes["ended_at"] - episodes["onset_at"]).dt.total_hours()
    overload_share = hours.filter(episodes["kind"] == "overload").sum() / (300 * 24 * days)
    decoys = [DECOYS[kind] for kind in ("batch", "slow")]
    decoy_share = sum(share * (shortest_h + longest_h) / 2 / 12 for share, shortest_h, longest_h in decoys)
    assert 10 < decoy_share / overload_share < 30


def test_a_server_has_one_event_at_a_time(fleet):
    _, events, _ = fleet
    ordered = events.sort("server", "onset")
    same = ordered["server"].to_numpy()[1:] == ordered["server"].to_numpy()[:-1]
    assert (ordered["onset"].to_numpy()[1:] > ordered["up_again"].to_numpy()[:-1])[same].all()
    assert (events["ended"] >= events["onset"]).all()
    assert (events["up_again"] - events["ended"]).filter(~events["crashed"] & (events["kind"] != REBOOT)).sum() == 0


def test_some_servers_are_chronic_and_crashes_repeat():
    fleet = Fleet.of(described(servers=300, months=8))
    crashes, _, servers = truth(fleet, simulate_events(fleet))
    per_server = crashes.group_by("server_id").len()["len"].sort(descending=True)
    assert per_server[:30].sum() > 0.25 * len(crashes)  # a tenth of the servers
    assert servers["frailty"].max() > 3
    assert repeat_factor(np.array([0.0, np.inf])).tolist() == [2.5, 1.0]


def test_a_rack_goes_down_at_once():
    fleet = Fleet.of(described(servers=300, months=8))
    outages = simulate_events(fleet).filter(kind="rack").group_by("onset").agg("server")
    assert outages["server"].list.len().max() > 3
    racks = fleet.trait("rack")
    assert all(len(set(racks[servers.to_numpy()])) == 1 for servers in outages["server"])


# what sensors show


def test_telemetry_is_typed_sorted_and_rounded(fleet):
    _, _, telemetry = fleet
    assert telemetry.schema == {**tables.KEYS, **dict.fromkeys(DECIMALS, pl.Float32)}
    assert telemetry.equals(telemetry.sort(telemetry.columns))
    for metric, decimals in DECIMALS.items():
        values = telemetry[metric].cast(pl.Float64)
        assert ((values - values.round(decimals)).abs() < 1e-3).all()


def test_dirt_is_there_and_bearable(fleet):
    fleet, _, telemetry = fleet
    rows, cells = len(telemetry), len(fleet) * (fleet.end - fleet.start) // HOUR
    keys = telemetry.select("timestamp", "server_id")
    repeated = rows - keys.n_unique()
    assert 0.002 < repeated / rows < 0.01
    assert 0 < rows - telemetry.n_unique() < repeated  # most say the same twice, some contradict themselves
    late = telemetry.filter(pl.col("timestamp") != pl.col("timestamp").dt.truncate("1h"))
    assert 0.001 < len(late) / rows < 0.01
    assert late["timestamp"].dt.hour().max() == 22  # resampled, it stays in its day
    impossible = telemetry.filter((pl.col("cpu_pct") == 400) | (pl.col("latency_ms") == -1))
    assert 0.0001 < len(impossible) / rows < 0.002
    assert 0.005 < 1 - keys.n_unique() / cells < 0.05


def test_a_stuck_sensor_shows_the_same_for_a_day_or_more(fleet):
    _, _, telemetry = fleet
    for metric in ("cpu_pct", "memory_pct", "latency_ms"):
        runs = (
            telemetry.filter(pl.col(metric).is_between(0, 399))
            .sort("server_id", "timestamp")
            .group_by("server_id", pl.col(metric).rle_id().alias("run"))
            .agg(duration=pl.col("timestamp").max() - pl.col("timestamp").min())
        )
        assert runs["duration"].max() > 22 * HOUR


def test_an_outage_leaves_a_gap_and_resets_uptime(fleet):
    fleet, events, telemetry = fleet
    names = fleet.servers["server_id"]
    end = minutes_of(fleet.end)
    for kind in ("hardware", REBOOT):
        long = events.filter((pl.col("kind") == kind) & (pl.col("up_again") - pl.col("ended") > 60))
        event = long.filter(pl.col("up_again") < end - 24 * 60).row(-1, named=True)
        minutes = (pl.col("timestamp").dt.epoch("s") // 60) + minutes_of(datetime(1970, 1, 1))
        mine = telemetry.filter(server_id=names[event["server"]]).with_columns(minutes.alias("minute"))
        during = mine.filter(pl.col("minute").is_between(event["ended"] + 60, event["up_again"], closed="left"))
        assert during.is_empty()
        after = mine.filter(pl.col("minute") >= event["up_again"]).row(0, named=True)
        assert after["uptime_h"] == pytest.approx((after["minute"] - event["up_again"]) / 60, abs=0.35)
        before = mine.filter(pl.col("minute") < event["ended"]).row(-1, named=True)
        assert before["uptime_h"] > 5


def test_only_overload_raises_cpu_and_latency_together():
    fleet = Fleet.of(described(servers=20, months=1))
    quiet = pl.DataFrame(
        {
            "kind": ["overload"], "server": [3], "onset": [0], "planned": [0], "ended": [0], "up_again": [0],
            "crashed": [True], "strength": [0.5], "shape": [0.5], "last_words": [1.0],
        }
    )  # fmt: skip
    noon = minutes_of(datetime(2025, 1, 10, 12))
    loud = quiet.with_columns(
        onset=pl.lit(noon), planned=pl.lit(noon + 480), ended=pl.lit(noon + 480), up_again=pl.lit(noon + 480)
    )
    booted_at = np.zeros(20)
    partition = partition_at(fleet.start, "month")
    without, with_it = (render(partition, fleet, events, booted_at)[0] for events in (quiet, loud))
    start, end = tables.utc(datetime(2025, 1, 10, 17), datetime(2025, 1, 10, 20))
    name = fleet.servers["server_id"][3]
    near_its_end = pl.col("timestamp").is_between(start, end, closed="left") & (pl.col("server_id") == name)
    means = [frame.filter(near_its_end).select("cpu_pct", "latency_ms").mean().row(0) for frame in (without, with_it)]
    assert means[1][0] > 60 > means[0][0]
    assert means[1][1] > 3 * means[0][1]
    others = [frame.filter(pl.col("server_id") != name) for frame in (without, with_it)]
    assert others[0].equals(others[1])


def test_a_finer_interval_gives_more_rows():
    fleet = Fleet.of(described(months=1))
    fine = replace(fleet, interval=timedelta(minutes=15))
    counts = []
    for each in (fleet, fine):
        (task,) = simulator.rendering_tasks(each, simulate_events(each), "month")
        counts.append(render(task.partition, **task.inputs)[1]["rows"])
    assert counts[1] == pytest.approx(4 * counts[0], rel=0.02)


# tickets


@pytest.fixture(scope="module")
def recorded():
    fleet = Fleet.of(described(servers=300, months=8))
    events = simulate_events(fleet)
    return fleet, truth(fleet, events)[0], simulator.tickets(fleet, events)


def test_tickets_have_the_mistakes_people_make(recorded):
    _, crashes, tickets = recorded
    assert tickets.schema == tables.INCIDENTS
    assert tickets.equals(tickets.sort("started_at", "server_id", "incident_id"))
    assert tickets["incident_id"].is_unique().all()
    assert set(tickets["source"]) == {"pagerduty", "on-call", "post-mortem"}
    mine = tickets.filter(kind=CRASH)
    assert 0.90 < len(mine) / len(crashes) < 0.97
    right = mine.join(crashes, left_on=["server_id", "started_at"], right_on=["server_id", "crashed_at"], how="semi")
    nearest = mine.sort("started_at").join_asof(
        crashes.sort("crashed_at"), left_on="started_at", right_on="crashed_at", by="server_id", strategy="backward",
        check_sortedness=False,
    )  # fmt: skip
    late_by = nearest["started_at"] - nearest["crashed_at"]
    assert 0.85 < len(right) / len(mine) < 0.92
    assert 0.07 < late_by.is_between(timedelta(0), 2 * HOUR, closed="right").mean() < 0.14
    assert 0.01 < late_by.fill_null(99 * HOUR).gt(2 * HOUR).mean() < 0.04  # the wrong host
    assert 0.005 < tickets["resolved_at"].is_null().mean() < 0.03
    assert 0.02 < tickets["reported_at"].is_null().mean() < 0.08
    assert (tickets["resolved_at"] > tickets["started_at"]).all()  # where closed
    assert (tickets["reported_at"] >= tickets["started_at"]).all()


def test_records_hold_only_what_was_known_when_they_end(recorded):
    fleet, _, tickets = recorded
    _, end = tables.utc(fleet.start, fleet.end)
    assert tickets.filter((pl.col("started_at") >= end) | (pl.col("reported_at") >= end)).is_empty()
    assert tickets.filter(pl.col("resolved_at") >= end).is_empty()


def test_planned_reboots_are_maintenance_and_some_go_unrecorded(fleet):
    fleet, events, _ = fleet
    tickets = simulator.tickets(fleet, events).filter(kind=MAINTENANCE)
    reboots = events.filter(kind=REBOOT)
    assert 0.75 < len(tickets) / len(reboots) < 0.95
    assert set(tickets["summary"]) == {"planned reboot for patches"}


def test_coverage_is_the_whole_period_of_every_server(fleet):
    fleet, _, _ = fleet
    coverage = simulator.coverage(fleet)
    assert coverage.schema == tables.COVERAGE
    assert len(coverage) == 60
    assert set(coverage["group"]) <= {"app", "cache", "db", "web", "worker"}


# the oracle


def test_the_oracle_weighs_the_planned_end_by_its_jitter(tmp_path):
    noon = pl.Series([datetime(2025, 1, 1, 12)]).dt.replace_time_zone("UTC").cast(tables.TIMESTAMP)
    episode = {
        "server_id": ["a"], "kind": ["leak"], "onset_at": noon, "planned_at": noon + 10 * HOUR,
        "ended_at": noon + 11 * HOUR, "crash_probability": [0.6], "crashed": [True],
    }  # fmt: skip
    tables.write(tmp_path / "episodes.parquet", pl.DataFrame(episode))
    crash = {"server_id": ["b"], "resolved_at": noon}
    tables.write(tmp_path / "truth.parquet", pl.DataFrame(crash))
    tables.write(tmp_path / "servers.parquet", pl.DataFrame({"server_id": ["a", "b"], "frailty": [1.0, 2.0]}))

    def score(hours_past_noon, server="a"):
        keys = pl.DataFrame({"timestamp": noon + hours_past_noon * HOUR, "server_id": [server]})
        return oracle_scores(keys, HOUR, 6 * HOUR, tmp_path)["score"].item()

    assert JITTER_MINUTES == 90  # so it ends between 20:30 and 23:30
    assert score(1) == 0  # the window closes at 20:00
    assert score(3) == pytest.approx(0.6 * 1.5 / 3)  # at 22:00, half way
    assert score(5) == pytest.approx(0.6)  # all of it lies in (18:00, 24:00]
    # at 21:30 it has not ended, two thirds of the jitter remain: one within the lead, one in the window
    assert score(9.5) == pytest.approx(0.6 * (1 / 3) / (2 / 3 - 0.6 / 3))
    quiet = TROUBLES["hardware"].crashes_per_1000_server_days / 1000 / 4
    assert score(-1) == pytest.approx(quiet, rel=0.3)
    assert score(12) == score(-1)
    assert score(1, "b") > 1.5 * score(-1, "b") > score(-1)  # frail, and it has just crashed


def test_the_oracle_keeps_the_order_of_rows_and_is_calibrated(tmp_path):
    fleet = Fleet.of(described(servers=200, months=3))
    events = simulate_events(fleet)
    crashes, episodes, servers = truth(fleet, events)
    for name, frame in (("truth", crashes), ("episodes", episodes), ("servers", servers)):
        tables.write(tmp_path / f"{name}.parquet", frame)
    times = pl.datetime_range(datetime(2025, 1, 5), datetime(2025, 3, 25), "3h", time_zone="UTC", eager=True)
    keys = pl.DataFrame({"timestamp": times.cast(tables.TIMESTAMP)}).join(servers.select("server_id"), how="cross")
    keys = keys.sample(fraction=1, shuffle=True, seed=1)
    scored = oracle_scores(keys, HOUR, 6 * HOUR, tmp_path)
    assert scored.select(keys.columns).equals(keys)
    coming = scored.sort("timestamp").join_asof(
        crashes.sort("crashed_at"), left_on="timestamp", right_on="crashed_at", by="server_id", strategy="forward",
        check_sortedness=False,
    )  # fmt: skip
    wait = coming["crashed_at"] - coming["timestamp"]
    known = ~wait.is_between(timedelta(0), HOUR).fill_null(False)
    label = wait.is_between(HOUR, 7 * HOUR, closed="right").fill_null(False)
    sure = known & (coming["score"] > 0.5)
    assert sure.sum() > 200
    assert label.filter(sure).mean() == pytest.approx(coming["score"].filter(sure).mean(), abs=0.08)
    rest = known & (coming["score"] < 0.02)
    assert label.filter(rest).mean() == pytest.approx(coming["score"].filter(rest).mean(), rel=0.3)


# refusals


def test_imported_data_is_never_replaced(project):
    project(data={"source": "import"})
    with pytest.raises(UserError, match=r"params\.yaml says data\.source: import"):
        simulator.write()
    project()
    theirs = simulator.TELEMETRY_PATH / "month=2025-01" / "part-0.parquet"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("ours")
    with pytest.raises(UserError, match="data/raw/telemetry was not written by the demo"):
        simulator.write()
    assert theirs.read_text() == "ours"


def test_the_telemetry_section_must_fit(project):
    metrics = yaml.safe_load(PARAMS.read_text())["telemetry"]["metrics"]
    other = {"gpu_pct" if name == "cpu_pct" else name: rule for name, rule in metrics.items()}
    project(telemetry={"metrics": other})
    with pytest.raises(UserError, match="cpu_pct must be added; gpu_pct must go"):
        simulator.write()
    project(demo={"interval": "2h"})
    with pytest.raises(UserError, match=r"telemetry.interval \(1h\) must be a multiple of demo.interval \(2h\)"):
        simulator.write()
    assert not Path("data").exists()


def test_nothing_is_left_half_written(project, monkeypatch):
    simulator.write()
    before = hashes("data")
    project(demo={"seed": 8, "months": 2})

    def interrupted(partition, **inputs):
        if partition.start.month == 2:
            raise KeyboardInterrupt
        return render(partition, **inputs)

    monkeypatch.setattr(simulator, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulator.write()
    assert hashes("data") == before


# tracking


@pytest.fixture
def repository(project):
    """Return git, in a folder that git and DVC track."""

    def git(*arguments):
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout

    from dvc.repo import Repo

    git("init", "-q")
    Repo.init().close()
    git("add", "-A")
    git("commit", "-q", "-m", "empty")
    return git


def test_the_command_tracks_what_it_wrote_and_a_second_run_changes_nothing(repository):
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 0, result.output
    assert "20 servers" in result.stdout
    tracked = {str(path) for path in Path("data").rglob("*.dvc")}
    assert tracked == {"data/demo.dvc", *(f"{path}.dvc" for path in TABLES)}
    for path in (ALARMS_PATH, ACTIONS_PATH):
        assert tables.read(path).is_empty()
    repository("add", "-A")
    repository("commit", "-q", "-m", "demo")
    CliRunner().invoke(app, ["demo"])
    assert repository("status", "--porcelain") == ""


def test_what_cannot_be_tracked_says_why(project, repository):
    with pytest.raises(UserError, match=r"data/nothing could not be tracked by DVC: .*does not exist"):
        track([Path("data/nothing")])
