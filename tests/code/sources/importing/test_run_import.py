"""`crashcast import` on good files: what it reads, infers, merges and writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from crashcast import tables
from crashcast.errors import UserError
from crashcast.files import md5
from crashcast.params.clean import Clean
from crashcast.params.features import Features
from crashcast.params.telemetry import Telemetry
from crashcast.paths import TABLES
from crashcast.sources.importing import run_import
from crashcast.sources.importing.layouts import Layout
from crashcast.sources.importing.writing import MAY_BE_EMPTY

ROOT = Path(__file__).parents[4]
DATA = ROOT.parent / "shared" / "data"
RAW = Path("data/raw")
START = datetime(2026, 1, 1)
HOUR = timedelta(hours=1)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with params.yaml the current one; DVC is left out."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_import, "track", lambda paths: None)
    return tmp_path


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
    return "\n".join(run_import.import_files([Path("samples.parquet")], Path("incidents.csv"), **options))


def stored(name: str = "telemetry/month=2026-01/part-0.parquet") -> pl.DataFrame:
    """Read what was written."""
    return tables.read(RAW / name)


def test_a_first_import(project: Path) -> None:
    said = bring(fleet(range(48)).with_columns(rack=pl.lit("r1"), note=pl.lit("fine")))
    assert Telemetry.read().model_dump(mode="json") == {
        "interval": "1h",
        "partition": "month",
        "metrics": {
            "cpu_pct": {"min": 0, "max": 100, "aggregate": "mean", "can_stick": False},
            "latency_ms": {"min": 0, "max": None, "aggregate": "mean", "can_stick": False},
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
    for path in MAY_BE_EMPTY:
        path.unlink()
    bring(fleet(range(48, 50)))
    for path, schema in MAY_BE_EMPTY.items():
        assert stored(path.name).equals(pl.DataFrame(schema=schema))
    day = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    kept = pl.DataFrame([("pager", *day)], schema=tables.TICKET_SOURCES, orient="row")
    tables.write(RAW / "ticket_sources.parquet", kept)
    bring(fleet(range(50, 52)))
    assert stored("ticket_sources.parquet").equals(kept)


def test_actions_come_from_a_file_and_stay(project: Path) -> None:
    def told(text: str) -> str:
        Path("actions.csv").write_text(text)
        fleet(range(48)).write_parquet("samples.parquet")
        Path("incidents.csv").write_text("host,start\na,2026-01-01 05:30:00\n")
        files = [Path("samples.parquet")], Path("incidents.csv")
        return "\n".join(run_import.import_files(*files, actions=Path("actions.csv")))

    at = datetime(2026, 1, 1, 4, 30, tzinfo=UTC)
    first = ("a", "restart", at, "ada", "csv", at)
    said = told("Host,Action,Time,User\na,restart,2026-01-01 04:30:00,ada\nwas-a,drain,2026-01-01 03:00:00,\n")
    assert "2 actions added, 0 corrected, 0 unchanged" in said
    assert "1 actions on servers without telemetry are kept: actions name was-a; telemetry has a" in said
    assert stored("actions.parquet").schema == tables.ACTIONS
    assert stored("actions.parquet").rows()[1] == first
    bring(fleet(range(48)))  # a merge without actions
    assert stored("actions.parquet").height == 2
    said = told("server_id,what,at,reported_at\na,restart,2026-01-01 04:30:00,2026-01-02 09:00:00\n")
    assert "0 actions added, 1 corrected, 0 unchanged" in said
    assert stored("actions.parquet").rows()[1] == ("a", "restart", at, None, "csv", datetime(2026, 1, 2, 9, tzinfo=UTC))


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
    run_import.import_files([folder], folder / "incidents.csv")
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
        "host,start\n" + "".join(f"a,2026-01-{d:02} 05:00\n" for d in range(1, 9)) + "z,2025-01-01 04:00\n",
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
    assert "docs/import.md" not in said


def test_weekly_checks_of_disks_by_serial_number(project: Path) -> None:
    checks = fleet(range(0, 24 * 7 * 30, 24 * 7), ["ZA1", "ZA2"]).rename(
        {"timestamp": "checked_at", "server_id": "serial_number"}
    )
    said = bring(checks, "serial_number,failed_at,replaced_at\nZA2,2026-05-01 05:30:00,2026-05-02 11:00:00\n")
    assert "features.incident_counts (1d); docs/import.md has an example for checks once a week" in said
    assert "started_at from 'failed_at'" in said
    assert "resolved_at from 'replaced_at'" in said
    assert stored("incidents.parquet")["server_id"].to_list() == ["ZA2"]
    hosts = checks.with_columns(host=pl.lit("web-") + pl.col("serial_number"))
    assert "server_id from 'host'" in bring(hosts, "host,failed_at\nweb-ZA2,2026-05-01 05:30:00\n", replace=True)


def test_times_of_failures_and_serial_numbers_beside_samples_are_no_metrics(project: Path) -> None:
    checks = fleet(range(48)).with_columns(
        failed_at=pl.when(pl.col("server_id") == "a").then(1767400000),
        serial=pl.lit(11),
        measured_at=pl.col("timestamp"),
    )
    for _ in range(2):  # again into the first one
        said = bring(checks)
        assert "column 'failed_at' left out: when servers crash, which is to be predicted" in said
        assert "column 'serial' left out: ids" in said
        assert list(Telemetry.read().metrics) == ["cpu_pct", "latency_ms"]
    said = bring(checks, replace=True, layout=Layout(new_names={"failed_at": "age_s"}))
    assert list(Telemetry.read().metrics) == ["cpu_pct", "latency_ms", "age_s"]


def test_names_of_disks_give_way_to_those_that_were_read_before(project: Path) -> None:
    checks = fleet(range(48)).with_columns(measured_at=pl.col("timestamp")).rename({"timestamp": "collected_at"})
    said = bring(
        checks,
        "host,occurred_at,failed_at,ended_at,repaired_at\n"
        "a,2026-01-01 05:30:00,2026-01-01 05:31:00,2026-01-01 06:00:00,2026-01-01 06:01:00\n",
    )
    assert "timestamp from 'collected_at'" in said
    assert "started_at from 'occurred_at'" in said
    assert "resolved_at from 'ended_at'" in said
    assert "left out failed_at, repaired_at" in said


def test_a_day_without_a_time_can_be_left_out_unless_a_crash_began_then(project: Path) -> None:
    cases = {
        "2026-01-01,": "if nobody knows it, remove the row",
        "2026-01-01 05:30:00,2026-01-02": r"'replaced_at', row 2: 2026-01-02 .* or leave the cell empty$",
    }
    for row, advice in cases.items():
        with pytest.raises(UserError, match=advice):
            bring(fleet(range(48)), f"host,failed_at,replaced_at\na,{row}\n")


def test_another_cadence_of_new_samples_is_said_and_can_be_taken(project: Path) -> None:
    bring(fleet(range(48)))
    later = fleet(range(48, 96)).filter(pl.col("timestamp").dt.hour() % 2 == 0)
    assert "the new samples come every 2h, not 1h: --interval changes telemetry.interval" in bring(later)
    assert Telemetry.read().interval == HOUR
    bring(later, interval="2h")
    assert Telemetry.read().interval == 2 * HOUR


def test_a_merge_says_what_lies_outside_the_ranges_and_keeps_them(project: Path) -> None:
    assert "latency_ms: 0 .. no limit (seen 20 .. " in bring(fleet(range(48)))
    said = bring(fleet(range(48, 50), latency_ms=-1.0, cpu_pct=1e6))
    assert "cpu_pct: 4 of 4 new values lie outside 0 .. 100 and will be dropped" in said
    assert "latency_ms: 4 of 4 new values lie outside 0 .. no limit and will be dropped" in said
    assert "max" not in yaml.safe_load(Path("params.yaml").read_text())["telemetry"]["metrics"]["latency_ms"]


def test_a_merge_with_coverage_that_leaves_a_server_out(project: Path) -> None:
    bring(fleet(range(48)))
    Path("coverage.csv").write_text("host,from,to\na,2026-01-02 22:00,2026-01-05\n")
    said = bring(fleet(range(48, 96)), coverage=Path("coverage.csv"))
    assert "b is not in coverage.csv: its new rows have no labels" in said
    ends = stored("coverage.parquet").select("server_id", pl.col("covered_to").dt.to_string("%m-%d %H"))
    assert ends.rows() == [("a", "01-05 00"), ("b", "01-02 23")]


def test_a_merge_extends_the_coverage_of_a_silent_server_unless_it_was_stated(project: Path) -> None:
    bring(fleet(range(48), ["a", "b"]))
    said = bring(fleet(range(48, 50), ["a"]))
    assert "incidents were recorded until 2026-01-03 01:00:00 UTC for servers without new samples too (b)" in said
    ends = stored("coverage.parquet").select("server_id", pl.col("covered_to").dt.to_string("%m-%d %H"))
    assert ends.rows() == [("a", "01-03 01"), ("b", "01-03 01")]

    Path("coverage.csv").write_text("host,from,to\na,2026-01-01 12:00,2026-01-03\nb,2026-01-01 12:00,2026-01-02\n")
    bring(fleet(range(48), ["a", "b"]), coverage=Path("coverage.csv"), replace=True)
    said = bring(fleet(range(10, 50), ["a"]))
    assert "servers without new samples" not in said
    assert "a has samples before its coverage, which an earlier import was given: those rows have no labels" in said
    ends = stored("coverage.parquet").select(pl.col("covered_from", "covered_to").dt.to_string("%m-%d %H"))
    assert ends.rows() == [("01-01 12", "01-03 01"), ("01-01 12", "01-02 00")]


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
        for path in TABLES:
            tracked = yaml.safe_load((tmp_path / f"{path}.dvc").read_text())
            assert tracked["outs"][0]["md5"] == md5(tmp_path / path)
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
    said = run_import.import_files(
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
    said = run_import.import_files([dataset / "telemetry.parquet"], dataset / "incidents.csv")
    section = Telemetry.read()
    assert section.interval == timedelta(days=1)
    assert list(section.metrics) == ["response_ms", "http_status", "is_down", "is_degraded", "timed_out"]
    assert stored("incidents.parquet")["resolved_at"].null_count() == 36
    assert any("1,453 crashes on 119 servers" in line for line in said)


def in_groups(hours: range, **of_server: str) -> pl.DataFrame:
    """Return a fleet whose servers are in these groups."""
    return fleet(hours, [*of_server]).with_columns(zone=pl.col("server_id").replace_strict(of_server))


def test_groups_become_features_at_the_first_import_and_later_ones_are_told(project: Path) -> None:
    groups = {f"s{n}": "east" if n < 4 else "no" for n in range(7)} | {"t": "rare"}
    said = bring(in_groups(range(48), **groups), "host,start\ns1,2026-01-01 05:30:00\n")
    assert "group from 'zone'" in said
    assert "features.categories: east, no are groups that a model can tell apart" in said
    assert "has changed" not in said
    assert Features.read().categories == {"group": ["east", "no"]}  # a word that plain YAML takes for false
    moved = groups | {"s0": "no", "u": "west", "v": "west", "w": "west"}
    said = bring(in_groups(range(48, 96), **moved), "host,start\ns1,2026-01-01 05:30:00\n")
    assert "the group of s0 has changed, and the newest is taken for all rows of a server" in said
    assert "features.categories does not list west: they look alike to a model" in said
    assert Features.read().categories == {"group": ["east", "no"]}
    assert stored("coverage.parquet").filter(server_id="s0")["group"].to_list() == ["no"]
    bring(fleet(range(48)), replace=True)
    assert Features.read().categories == {}


def test_of_a_group_that_changes_within_a_file_the_newest_holds(project: Path) -> None:
    rows = pl.concat([in_groups(range(24), a="web", b="db"), in_groups(range(24, 48), a="mail", b="db")])
    said = bring(rows.sample(fraction=1, shuffle=True, seed=1))
    assert "the group of a has changed" in said
    assert stored("coverage.parquet")["group"].to_list() == ["mail", "db"]
    said = bring(rows.with_columns(owner=pl.lit("ops")), layout=Layout(new_names={"owner": "group"}), replace=True)
    assert "'owner' is named group, as --map says" in said
    assert stored("coverage.parquet")["group"].to_list() == ["ops", "ops"]
