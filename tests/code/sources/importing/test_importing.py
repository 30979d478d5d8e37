"""`crashcast import` on good files: what it understands, infers, merges and writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crashcast import tables
from crashcast.files import md5
from crashcast.params import every_section
from crashcast.params.clean import Clean
from crashcast.params.data import Data
from crashcast.params.features import Features
from crashcast.params.telemetry import Metric, Telemetry
from crashcast.sources.importing import files, inference, merging, params_file
from crashcast.sources.importing.columns import Sheet, identifiers, moments, numbers, plain_name, read_sheet
from crashcast.sources.importing.records import read_coverage, read_incidents

ROOT = Path(__file__).parents[4]
DATA = ROOT.parent / "shared" / "data"
RAW = Path("data/raw")
LATEST = datetime(2026, 6, 1, tzinfo=UTC)
START = datetime(2026, 1, 1)
HOUR = timedelta(hours=1)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with params.yaml the current one; DVC is left out."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "track", lambda paths: None)
    return tmp_path


def sheet(**columns: Sequence[object] | pl.Series) -> Sheet:
    """Return a sheet whose columns are as given."""
    return Sheet(Path("t.parquet"), pl.DataFrame(columns, strict=False), 1)


def fleet(hours: range, servers: Sequence[str] = ("a", "b"), **changes: float) -> pl.DataFrame:
    """Return hourly telemetry from 2026-01-01 on."""
    rows = [
        {
            "timestamp": START + h * HOUR,
            "server_id": s,
            "cpu_pct": 10 + (7 * h + i) % 50 + 0.25,
            "latency_ms": 20.0 + h % 9,
        }
        for h in hours
        for i, s in enumerate(servers)
    ]
    return pl.DataFrame(rows).with_columns(**{name: pl.lit(value) for name, value in changes.items()})


def bring(frame: pl.DataFrame, incidents: str = "host,start\na,2026-01-01 05:30:00\n", **options: object) -> str:
    """Import a frame and return what was said."""
    frame.write_parquet("samples.parquet")
    Path("incidents.csv").write_text(incidents)
    return "\n".join(files.import_files([Path("samples.parquet")], Path("incidents.csv"), **options))


def stored(name: str = "telemetry/month=2026-01/part-0.parquet") -> pl.DataFrame:
    """Read what was written."""
    return tables.read(RAW / name)


@pytest.mark.parametrize(
    ("values", "expected", "how"),
    [
        (["2026-01-31 13:45:00"], datetime(2026, 1, 31, 13, 45), "no time zone: taken as UTC"),
        (["2026-01-31T13:45:00Z"], datetime(2026, 1, 31, 13, 45), "UTC"),
        (["2026-01-31 13:45:00 UTC"], datetime(2026, 1, 31, 13, 45), "UTC"),
        (["2026-01-31T13:45:00.123456789+00:00"], datetime(2026, 1, 31, 13, 45, 0, 123456), "UTC"),
        (["2026-01-31T13:45+0530"], datetime(2026, 1, 31, 8, 15), "converted to UTC"),
        (["2026-01-31 13:45:00-03"], datetime(2026, 1, 31, 16, 45), "converted to UTC"),
        (["2026/1/5 9:05"], datetime(2026, 1, 5, 9, 5), "no time zone: taken as UTC"),
        (["2026-01-31"], datetime(2026, 1, 31), "no time zone: taken as UTC"),
        (["1769867100"], datetime(2026, 1, 31, 13, 45), "s since 1970"),
        (["1769867100.5"], datetime(2026, 1, 31, 13, 45, 0, 500000), "s since 1970"),
        ([1769867100], datetime(2026, 1, 31, 13, 45), "s since 1970"),
        ([1769867100123], datetime(2026, 1, 31, 13, 45, 0, 123000), "ms since 1970"),
        ([1769867100123456], datetime(2026, 1, 31, 13, 45, 0, 123456), "us since 1970"),
        ([1769867100123456789], datetime(2026, 1, 31, 13, 45, 0, 123456), "ns since 1970"),
        ([1769867100.25], datetime(2026, 1, 31, 13, 45, 0, 250000), "s since 1970"),
        ([date(2026, 1, 31)], datetime(2026, 1, 31), "dates: taken as midnight UTC"),
        ([datetime(2026, 1, 31, 13, 45)], datetime(2026, 1, 31, 13, 45), "no time zone: taken as UTC"),
    ],
)
def test_a_moment_in_every_spelling(values: list[object], expected: datetime, how: str) -> None:
    times, understood = moments(sheet(time=values), "time", LATEST)
    assert times.dtype == tables.TIMESTAMP
    assert times.to_list() == [expected.replace(tzinfo=UTC)]
    assert understood == how


def test_zoned_datetimes_are_converted() -> None:
    local = pl.Series([datetime(2026, 1, 31, 13, 45)]).dt.replace_time_zone("Europe/Berlin")
    times, how = moments(sheet(time=local), "time", LATEST)
    assert times.to_list() == [datetime(2026, 1, 31, 12, 45, tzinfo=UTC)]
    assert how == "converted from Europe/Berlin"


@given(
    st.lists(
        st.datetimes(
            min_value=datetime(1991, 1, 1),
            max_value=datetime(2026, 1, 1),
            timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
        ),
        min_size=1,
    )
)
def test_what_python_writes_is_read_back(written: list[datetime]) -> None:
    times, _ = moments(sheet(time=[moment.isoformat() for moment in written]), "time", LATEST)
    assert times.to_list() == written


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["007", " 8 "], ["007", "8"]),
        ([7, 8], ["7", "8"]),
        ([7.0, 8.0], ["7", "8"]),
        (["7.0", "8.0"], ["7", "8"]),  # what pandas writes where an id is missing elsewhere
        (["7.0", "db-8"], ["7.0", "db-8"]),
    ],
)
def test_ids_are_text(values: list[object], expected: list[str]) -> None:
    assert identifiers(sheet(host=values), "host").to_list() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None], [1.0, None]),
        ([1.5, float("nan")], [1.5, None]),
        ([True, False], [1.0, 0.0]),
        ([" 1e3 ", "n/a", "-", ""], [1000.0, None, None, None]),
        (["true", "False"], [1.0, 0.0]),
        (["1", "fast", "slow"], "text, such as 'fast'"),
        ([date(2026, 1, 1)], "Date"),
        ([[1.0]], "List(Float64)"),
    ],
)
def test_numbers_or_why_not(values: list[object], expected: list[float] | str) -> None:
    found = numbers(sheet(x=values), "x", required=False)
    assert (found if isinstance(found, str) else found.to_list()) == expected


@pytest.mark.parametrize("column", ["startedAt", " Started At", "started-at", "STARTED_AT", "started.at"])
def test_names_are_compared_without_their_spelling(column: str) -> None:
    assert plain_name(column) == "started_at"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_is_read_as_text_whatever_separates_it(delimiter: str, tmp_path: Path) -> None:
    rows = [["time", "host", "note"], ["2026-01-01", "007", '"two\nlines"']]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(delimiter.join(row) for row in rows) + "\n\n")
    frame = read_sheet(tmp_path / "t.csv").frame
    assert frame.to_dicts() == [{"time": "2026-01-01", "host": "007", "note": "two\nlines"}]


def test_tickets_with_a_start_and_an_opening(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text(
        "Number,Node,Type,Opened At,Start Time,Closed At,Priority,Title\n"
        "T1,a,Outage,2026-01-01 10:00,2026-01-01 09:00,2026-01-01 12:00,P1,down\n"
        "T2,a,Reboot,2026-01-02 10:00,2026-01-02 11:00,,P4,patches\n"
        "T2,a,Reboot,2026-01-02 10:00,2026-01-02 11:00,,P4,patches\n"
    )
    records = read_incidents(path, LATEST)
    at = [datetime(2026, 1, day, hour, tzinfo=UTC) for day, hour in ((1, 9), (1, 10), (1, 12), (2, 11))]
    assert records.frame.schema == tables.INCIDENTS
    assert records.frame.rows() == [
        ("T1", "a", "crash", at[0], at[2], at[1], "P1", None, "down"),
        ("T2", "a", "maintenance", at[3], None, at[3], "P4", None, "patches"),  # not known before it began
    ]
    assert any("1 repeated incidents" in note for note in records.notes)
    assert any("1 incidents reported before they started" in note for note in records.notes)


def test_incidents_without_ids_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("host,created_at\na,2026-01-01 10:00\n")
    records = read_incidents(tmp_path / "i.csv", LATEST)
    assert not records.has_ids
    assert records.frame["incident_id"].to_list() == ["a 2026-01-01T10:00:00Z crash"]
    assert records.frame["started_at"][0] == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert records.frame["reported_at"].to_list() == [None]  # the one time it has is taken as the start


def test_planned_maintenance_may_lie_ahead(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("host,start,kind\na,2027-01-01,planned\n")
    assert read_incidents(tmp_path / "i.csv", LATEST).frame.height == 1


def test_coverage_by_other_names(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "server_id,telemetry_from,labelled_from,labelled_to\na,2026-01-01,2026-01-02,2026-01-03\n"
    )
    frame = read_coverage(tmp_path / "c.csv", LATEST).frame
    assert frame.schema == tables.COVERAGE
    assert frame.row(0) == ("a", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC), None)


def keys(*seconds: float, server: str = "a") -> pl.DataFrame:
    """Return samples at these seconds."""
    times = [START + timedelta(seconds=s) for s in seconds]
    return pl.DataFrame({"timestamp": times, "server_id": server}, schema=tables.KEYS)


@pytest.mark.parametrize("cadence", inference.CADENCES)
def test_the_cadence_of_jittered_samples_with_holes(cadence: timedelta) -> None:
    random = np.random.default_rng(0)
    step = cadence.total_seconds()
    times = np.arange(500) * step + random.uniform(-0.05, 0.05, 500) * step
    found = inference.infer_interval(keys(*times[random.random(500) > 0.1]))
    assert found is not None
    assert found[0] == cadence


def test_irregular_samples_get_a_cadence_that_most_intervals_can_fill() -> None:
    # in threes, a minute apart, every three hours: the commonest gap would leave 98 % of rows empty
    times = [3 * 3600 * i + extra for i in range(50) for extra in (60, 120, 180)]
    found = inference.infer_interval(keys(*times))
    assert found is not None
    assert found[0] == timedelta(hours=2)


def test_a_silence_of_months_is_no_cadence() -> None:
    times = [60 * i for i in range(100)] + [90 * 86400 + 60 * i for i in range(100)]
    found = inference.infer_interval(keys(*times))
    assert found is not None
    assert found[0] == timedelta(minutes=1)


def test_no_cadence_without_a_second_sample() -> None:
    assert inference.infer_interval(pl.concat([keys(0), keys(60, server="b"), keys(60, server="b")])) is None


def facts_of(*values: float | None) -> inference.Facts:
    """Describe a metric."""
    return inference.describe(pl.LazyFrame({"x": pl.Series(values, dtype=pl.Float32)}), "x")


@pytest.mark.parametrize(
    ("name", "values", "limits"),
    [
        ("cpu_pct", [3, 97], (0, 100)),
        ("cpu_percent", [3, 800], (0, 10_000)),  # of several cores
        ("cpu_pct", [50] * 2000 + [101], (0, 100)),  # one slip
        ("hit_ratio", [0.2, 0.9], (0, 1)),
        ("is_up", [0, 1], (0, 1)),
        ("errors", [0, 1], (0, 10)),  # may well be 2 tomorrow
        ("latency_ms", [20, 29_093], (0, 500_000)),
        ("latency_ms", [0.02, 0.3], (0, 5)),
        ("signal_dbm", [-90, -30], (-1000, 0)),
        ("drift", [-0.5, 4], (-5, 50)),
        ("errors", [0, 0], (0, 1_000_000)),
        ("memory", [5.0] * 200 + [-1], (0, 50)),  # -1: no value
        ("delta", [-1, 1], (-10, 10)),  # too often for a marker
        ("bytes", [5.0] * 200 + [2**32 - 1], (0, 50)),
    ],
)
def test_limits(name: str, values: list[float], limits: tuple[float, float]) -> None:
    assert inference.infer_limits(name, facts_of(*values)) == limits


@given(
    st.lists(st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100), min_size=1),
    st.sampled_from(["x", "x_pct", "is_x"]),
)
def test_limits_hold_nearly_all_that_was_seen_and_are_valid(values: list[float], name: str) -> None:
    facts = facts_of(*values)
    low, high = inference.infer_limits(name, facts)
    Metric(min=low, max=high)
    outside = [value for value in values if not low <= value <= high]
    assert len(outside) <= (1 - inference.INSIDE_SHARE) * len(values) + facts.markers


def day_of(values: Sequence[float], days: int = 15) -> pl.DataFrame:
    """Return hourly samples that repeat `values`."""
    times = [START + h * HOUR for h in range(24 * days)]
    frame = pl.DataFrame({"server_id": "a", "timestamp": times, "x": np.resize(values, len(times)).astype(np.float32)})
    return frame.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))


@pytest.mark.parametrize(
    ("frame", "aggregate", "can_stick"),
    [
        (day_of([1.25, 2.5, 1.5]), "mean", True),
        (day_of([1.25, 2.5, 1.5], days=3), "mean", False),  # too short to tell
        (day_of([1.25] * 30 + [2.5]), "mean", False),  # rests for longer than stuck_after
        (day_of([1, 2, 3, 2]), "mean", False),  # whole numbers repeat by nature
        (day_of([0, 1, 1]), "max", False),
        (day_of(np.arange(200) * 1.5), "last", False),  # a counter with a reset
    ],
)
def test_aggregate_and_sticking(frame: pl.DataFrame, aggregate: str, can_stick: bool) -> None:
    metric = inference.infer_metric("x", inference.describe(frame.lazy(), "x"), frame, timedelta(hours=12))
    assert (metric.aggregate, metric.can_stick) == (aggregate, can_stick)


@pytest.mark.parametrize(("rows", "unit"), [(7_300_000, "month"), (50_000_000, "week"), (440_000_000, "day")])
def test_dense_fleets_get_shorter_partitions(rows: int, unit: str) -> None:
    assert inference.infer_partition(rows) == unit


def test_servers_for_a_closer_look_are_spread_over_the_fleet() -> None:
    spans = pl.DataFrame({"server_id": ["d", "c", "b", "a"], "rows": [2_000_000] * 4})
    assert inference.choose_servers(spans) == ["a", "d"]


SAMPLE = pl.DataFrame({"k": [1, 2, 3], "x": [1.0, 2.0, None]})


def test_merge_counts_what_it_does() -> None:
    new = pl.DataFrame({"k": [2, 3, 4], "x": [2.5, None, 4.0]})
    merged, counts = merging.merge(SAMPLE, new, ["k"])
    assert merged.sort("k").rows() == [(1, 1.0), (2, 2.5), (3, None), (4, 4.0)]
    assert counts == {"added": 1, "corrected": 1, "unchanged": 1}


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, 1.0, 2.0]))))
def test_merging_twice_is_merging_once(rows: list[tuple[int, float | None]]) -> None:
    frame = pl.DataFrame(rows, schema=SAMPLE.schema, orient="row")
    new, repeats = merging.last_of_each(frame, ["k"])
    assert new.height + repeats.total() == frame.height
    assert dict(new.iter_rows()) == dict(rows)  # a later row holds
    once, counts = merging.merge(SAMPLE, new, ["k"])
    twice, again = merging.merge(once, new, ["k"])
    assert_frame_equal(once, twice, check_row_order=False)
    assert counts.total() == again["unchanged"] == new.height


PERIODS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(1, 9)))


@given(PERIODS, PERIODS)
def test_coverage_is_a_union(old: list[tuple[str, int, int]], new: list[tuple[str, int, int]]) -> None:
    at = [datetime(2026, 1, 1, tzinfo=UTC) + m * timedelta(minutes=1) for m in range(40)]
    rows = [(server, at[first], at[first + length], None) for server, first, length in [*old, *new]]
    merged = merging.merge_coverage(pl.DataFrame(rows, schema=tables.COVERAGE, orient="row"))
    covered = [(s, m) for s, start, end, _ in merged.iter_rows() for m in range(40) if start <= at[m] < end]
    assert len(covered) == len(set(covered))  # a server's periods do not overlap
    assert set(covered) == {(s, first + m) for s, first, length in [*old, *new] for m in range(length)}
    assert not merged.select(touch=pl.col("covered_from") == pl.col("covered_to").shift().over("server_id"))[
        "touch"
    ].any()


def test_a_servers_last_group_holds_for_all_its_periods() -> None:
    day = [datetime(2026, 1, d, tzinfo=UTC) for d in range(1, 9)]
    rows = [("a", day[0], day[1], "web"), ("a", day[4], day[5], "db"), ("a", day[6], day[7], None)]
    merged = merging.merge_coverage(pl.DataFrame(rows, schema=tables.COVERAGE, orient="row"))
    assert merged["group"].to_list() == ["db"] * 3


def test_incidents_without_ids_adopt_those_of_the_same_crash() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    columns = {name: [None] for name in tables.INCIDENTS}
    old = pl.DataFrame(
        columns | {"incident_id": ["A-1"], "server_id": ["a"], "kind": ["crash"], "started_at": [moment]}
    )
    new = old.with_columns(incident_id=pl.lit("a 2026-01-01T00:00:00Z crash"))
    assert merging.adopt_ids(old, new)["incident_id"].to_list() == ["A-1"]


def telemetry(**metrics: Metric) -> Telemetry:
    """Return a telemetry section."""
    return Telemetry(interval=timedelta(minutes=5), partition="week", metrics=metrics)


def test_params_keep_every_other_line(project: Path) -> None:
    before = Path("params.yaml").read_text().splitlines()
    section = telemetry(
        cpu_pct=Metric(min=0, max=100, can_stick=True), load=Metric(min=-0.5, max=2e15, aggregate="last")
    )
    text, changes = params_file.describe_import(Path("params.yaml"), section)
    Path("params.yaml").write_text(text)
    assert changes == ["features.interactions.cpu_latency_combo is left out: its metrics are no more"]
    assert Telemetry.read() == section
    assert Data.read().source == "import"
    every_section.check()
    after = text.splitlines()
    gone = [line.strip() for line in before if line not in after]
    ours = ["source:", "interval:", "partition:", "interactions:", "cpu_latency_combo:"]
    assert [line for line in gone if not line.startswith((*ours, *Telemetry.read(ROOT / "params.yaml").metrics))] == []
    comments = [line.partition("#")[2] for line in before if "#" in line]
    assert [line.partition("#")[2] for line in after if "#" in line] == comments


def test_params_stay_byte_for_byte_where_nothing_is_new(project: Path) -> None:
    text, changes = params_file.describe_import(Path("params.yaml"), Telemetry.read())
    assert text == Path("params.yaml").read_text().replace("source: demo  ", "source: import", 1)
    assert changes == []


@pytest.mark.parametrize(
    ("columns", "kept"), [("[cpu_pct, uptime_h]", ["cpu_pct"]), ("[uptime_h]", "all"), ("\n  - cpu_pct", ["cpu_pct"])]
)
def test_features_forget_metrics_that_are_no_more(project: Path, columns: str, kept: object) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("columns: all ", f"columns: {columns} ", 1))
    section = telemetry(cpu_pct=Metric(min=0, max=100), latency_ms=Metric(min=0, max=60_000))
    path.write_text(params_file.describe_import(path, section)[0])
    assert Features.read().columns == kept
    assert Features.read().interactions == {"cpu_latency_combo": ("cpu_pct", "latency_ms")}


def test_a_first_import(project: Path) -> None:
    said = bring(fleet(range(48)).with_columns(rack=pl.lit("r1"), note=pl.lit("fine")))
    assert Telemetry.read().model_dump(mode="json") == {
        "interval": "1h",
        "partition": "month",
        "metrics": {
            "cpu_pct": {"min": 0, "max": 100, "aggregate": "mean", "can_stick": False},
            "latency_ms": {"min": 0, "max": 500, "aggregate": "mean", "can_stick": False},
        },
    }
    frame = stored()
    assert frame.schema == tables.KEYS | {"cpu_pct": pl.Float32, "latency_ms": pl.Float32}
    assert_frame_equal(frame, frame.sort("timestamp", "server_id"))
    assert frame.height == 96
    assert stored("incidents.parquet").select("server_id", "kind").rows() == [("a", "crash")]
    first, last = (moment.replace(tzinfo=UTC) for moment in (START, START + 47 * HOUR))
    assert stored("coverage.parquet").rows() == [(s, first - HOUR, last, "r1") for s in ("a", "b")]
    for words in (
        "timestamp (no time zone: taken as UTC)",
        "group from 'rack'",
        "column 'note' left out: text, such as 'fine'",
        "interval 1h: the gap of 100% of samples",
        "cpu_pct: 0 .. 100 (seen 10.25 .. 59.25), mean",
        "--coverage says otherwise",
        "96 rows added, 0 corrected, 0 unchanged; 1 of 1 partitions written",
    ):
        assert words in said


def test_the_demo_fleet_gives_way_to_the_first_import(project: Path) -> None:
    (RAW / "telemetry" / "month=2025-01").mkdir(parents=True)
    (RAW / "telemetry" / "month=2025-01" / "part-0.parquet").touch()
    said = bring(fleet(range(48)))
    assert "the demo fleet in data/raw is replaced" in said
    assert [p.name for p in tables.partitions(RAW / "telemetry")] == ["month=2026-01"]


def test_a_merge_into_an_import_of_an_earlier_version_adds_what_that_did_not_write(project: Path) -> None:
    bring(fleet(range(48)))
    (RAW / "ticket_sources.parquet").unlink()
    bring(fleet(range(48, 50)))
    assert stored("ticket_sources.parquet").is_empty()
    day = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    kept = pl.DataFrame([("pager", *day)], schema=tables.TICKET_SOURCES, orient="row")
    tables.write(RAW / "ticket_sources.parquet", kept)
    bring(fleet(range(50, 52)))
    assert stored("ticket_sources.parquet").equals(kept)


def test_a_merge_adds_corrects_and_leaves_the_rest_alone(project: Path) -> None:
    bring(fleet(range(31 * 24 + 10)))  # January and ten hours of February
    params = Path("params.yaml").read_bytes()
    january = RAW / "telemetry/month=2026-01/part-0.parquet"
    before = (january.stat().st_ino, january.stat().st_mtime_ns)
    corrected = fleet(range(31 * 24 + 9, 31 * 24 + 10), latency_ms=99.0)
    said = bring(
        pl.concat([corrected, fleet(range(31 * 24 + 10, 31 * 24 + 12)), fleet(range(31 * 24, 31 * 24 + 1))]),
        "host,start,end\na,2026-01-01 05:30:00,2026-01-01 06:00:00\nb,2026-02-01 05:30:00,\n",
    )
    assert "4 rows added, 2 corrected, 2 unchanged; 1 of 1 partitions written" in said
    assert "1 incidents added, 1 corrected, 0 unchanged; 2 crashes on 2 servers in all" in said
    assert (january.stat().st_ino, january.stat().st_mtime_ns) == before
    february = stored("telemetry/month=2026-02/part-0.parquet")
    assert february.height == 24
    assert february.filter(pl.col("latency_ms") == 99).height == 2
    assert stored("coverage.parquet").height == 2  # the new period joins the old one
    assert Path("params.yaml").read_bytes() == params


def test_importing_again_changes_nothing(project: Path) -> None:
    bring(fleet(range(48)))
    before = md5(RAW)
    said = bring(fleet(range(48)))
    assert "0 rows added, 0 corrected, 96 unchanged; 0 of 1 partitions written" in said
    assert md5(RAW) == before


def test_month_by_month_and_in_any_order_is_the_same_as_at_once(project: Path) -> None:
    whole = fleet(range(24 * 45))
    bring(
        whole.sample(fraction=1, shuffle=True, seed=1).select("latency_ms", "server_id", "cpu_pct", "timestamp"),
        replace=True,
    )
    bring(whole, replace=True)
    at_once = md5(RAW)
    bring(whole.head(24 * 20 * 2), replace=True)
    bring(whole.tail(-24 * 20 * 2))
    assert md5(RAW) == at_once


def test_replace_starts_over(project: Path) -> None:
    bring(fleet(range(24 * 45)))
    said = bring(fleet(range(48)).rename({"latency_ms": "gpu_c"}), replace=True)
    assert "what was imported before is replaced" in said
    assert [p.name for p in tables.partitions(RAW / "telemetry")] == ["month=2026-01"]
    assert list(Telemetry.read().metrics) == ["cpu_pct", "gpu_c"]


def test_a_folder_of_files_in_several_spellings(project: Path) -> None:
    """Parquet and zipped CSV, other column orders; incidents in the same folder are no telemetry."""
    folder = Path("in")
    (folder / "2026").mkdir(parents=True)
    fleet(range(24)).write_parquet(folder / "2026" / "a.parquet")
    later = fleet(range(24, 48)).select("cpu_pct", "server_id", "timestamp", "latency_ms")
    later.write_csv(folder / "b.csv.gz", compression="gzip")
    (folder / "incidents.csv").write_text("host,start\na,2026-01-01 05:30:00\n")
    (folder / ".hidden.csv").write_text("x")
    files.import_files([folder], folder / "incidents.csv")
    assert_frame_equal(stored(), stored().sort("timestamp", "server_id"))
    assert stored().height == 96
    assert list(stored().columns) == ["timestamp", "server_id", "cpu_pct", "latency_ms"]


def test_repeated_rows_are_taken_once_and_the_last_one_holds(project: Path) -> None:
    rows = pl.concat([fleet(range(48)), fleet(range(1)), fleet(range(1, 2), ["a"], cpu_pct=1.0)])
    said = bring(rows)
    assert "2 rows repeat another, 1 conflict with a later one" in said
    assert stored().height == 96
    assert stored()["cpu_pct"][2] == 1.0


def test_what_is_doubtful_is_said(project: Path) -> None:
    hours = fleet(range(24 * 60))
    said = bring(
        hours.with_columns(cpu_pct=pl.when(pl.int_range(pl.len()) % 3 > 0).then("cpu_pct")),
        "host,start\n" + "".join(f"a,2026-01-{d:02} 05:00\n" for d in range(1, 9)) + "z,2025-01-01\n",
    )
    for words in (
        "1 incidents on servers without telemetry are kept: incidents name z; telemetry has a, b",
        "1 crashes start outside this telemetry",
        "there is no crash in the last 53 days: were incidents recorded then?",
        "cpu_pct is missing in 33% of rows, and validate.max_missing_share (0.2) refuses that",
    ):
        assert words in said
    assert stored("incidents.parquet").height == 9


def test_a_coarse_cadence_names_the_durations_it_outgrows(project: Path) -> None:
    said = bring(fleet(range(48)), interval="12h")
    assert "shorter than the interval 12h, please lengthen in params.yaml: label.horizon (6h), label.lead (1h)" in said
    assert "clean.stuck_after is now 6d: it has to be longer than the interval" in said
    assert Telemetry.read().interval == timedelta(hours=12)
    assert Clean.read().stuck_after == timedelta(days=6)


def test_another_cadence_of_new_samples_is_said_and_can_be_taken(project: Path) -> None:
    bring(fleet(range(48)))
    later = fleet(range(48, 96)).filter(pl.col("timestamp").dt.hour() % 2 == 0)
    assert "the new samples come every 2h, not 1h: --interval changes telemetry.interval" in bring(later)
    assert Telemetry.read().interval == HOUR
    bring(later, interval="2h")
    assert Telemetry.read().interval == 2 * HOUR


def test_a_merge_says_what_lies_outside_the_ranges_and_keeps_them(project: Path) -> None:
    bring(fleet(range(48)))
    said = bring(fleet(range(48, 50), latency_ms=1e6))
    assert "latency_ms: 4 of 4 new values lie outside 0 .. 500 and will be dropped" in said
    assert Telemetry.read().metrics["latency_ms"].max == 500


def test_a_merge_with_coverage_that_leaves_a_server_out(project: Path) -> None:
    bring(fleet(range(48)))
    Path("coverage.csv").write_text("host,from,to\na,2026-01-02 22:00,2026-01-05\n")
    said = bring(fleet(range(48, 96)), coverage=Path("coverage.csv"))
    assert "b is not in coverage.csv: its new rows have no labels" in said
    ends = stored("coverage.parquet").select("server_id", pl.col("covered_to").dt.to_string("%m-%d %H"))
    assert ends.rows() == [("a", "01-05 00"), ("b", "01-02 23")]


def test_a_month_without_incidents_can_be_merged(project: Path) -> None:
    bring(fleet(range(48)))
    said = bring(fleet(range(48, 96)), "host,start\n")
    assert "0 incidents added" in said


def test_it_ends_with_dvc_and_the_git_line(tmp_path: Path) -> None:
    """The whole command in a process of its own, twice, under real git and DVC."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "incidents.csv").write_text("host,start\na,2026-01-01 05:30:00\n")
    command = [sys.executable, "-c", "from crashcast.cli import main; main()", "import"]
    flags = ["--telemetry", "samples.parquet", "--incidents", "incidents.csv"]
    for hours in (range(24 * 40), range(24 * 40, 24 * 41)):
        fleet(hours).write_parquet(tmp_path / "samples.parquet")
        done = subprocess.run([*command, *flags], cwd=tmp_path, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "git add params.yaml data/raw/*.dvc data/.gitignore data/raw/.gitignore && git commit" in done.stdout
        for name in ("telemetry", "incidents.parquet", "coverage.parquet", "ticket_sources.parquet"):
            tracked = yaml.safe_load((tmp_path / RAW / f"{name}.dvc").read_text())
            assert tracked["outs"][0]["md5"] == md5(tmp_path / RAW / name)
    assert "1 of 1 partitions written" in done.stdout


@pytest.fixture
def dataset(request: pytest.FixtureRequest) -> Path:
    """Return a folder of real data, or skip."""
    folder = DATA / request.param
    if not folder.is_dir():
        pytest.skip(f"real data is not here: {request.param}")
    return folder


@pytest.mark.parametrize("dataset", ["smd"], indirect=True)
def test_server_machine_dataset(dataset: Path, project: Path) -> None:
    said = files.import_files(
        [dataset / "telemetry.parquet"], dataset / "incidents.csv", dataset / "label_coverage.csv"
    )
    section = Telemetry.read()
    assert section.interval == timedelta(minutes=1)
    assert len(section.metrics) == 38
    assert stored("coverage.parquet")["covered_from"].min() == datetime(2019, 1, 17, 10, 47, tzinfo=UTC)
    assert any("157 crashes on 13 servers" in line for line in said)
    assert sum(tables.read(p.path(RAW / "telemetry")).height for p in tables.partitions(RAW / "telemetry")) == 616_080


@pytest.mark.parametrize("dataset", ["upptime"], indirect=True)
def test_upptime(dataset: Path, project: Path) -> None:
    said = files.import_files([dataset / "telemetry.parquet"], dataset / "incidents.csv")
    section = Telemetry.read()
    assert section.interval == timedelta(days=1)
    assert list(section.metrics) == ["response_ms", "http_status", "is_down", "is_degraded", "timed_out"]
    assert stored("incidents.parquet")["resolved_at"].null_count() == 36
    assert any("1,453 crashes on 119 servers" in line for line in said)
