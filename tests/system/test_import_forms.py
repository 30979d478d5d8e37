"""Exports in the forms that tools write: imported values equal those of the canonical files, or the file is refused."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import polars as pl
import pytest
from exported_forms import FORMS, table
from polars.testing import assert_frame_equal, assert_series_equal

from crashcast import cli, tables
from crashcast.errors import UserError
from crashcast.sources.importing import run_import
from crashcast.sources.importing.layouts import Layout, identifier
from crashcast.sources.importing.local_time import Clock
from crashcast.sources.importing.report import LOST

ROOT = Path(__file__).parents[2]
CASES_OF_FORMS = ROOT.parent / "shared" / "cases" / "forms"
RAW = Path("data/raw")
SERVERS = ("db-01.example.net", "web-01.example.net", "web-02.example.net")
DAY = datetime(2026, 10, 24, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
INCIDENTS = """server_id,started_at,resolved_at
web-02.example.net,2026-10-24T14:02:00Z,2026-10-24T15:02:00Z
db-01.example.net,2026-10-26T03:01:00Z,2026-10-26T04:35:00Z
"""


def canonical() -> pl.DataFrame:
    """Return four days of three servers, across the end of summer time in Europe; one has a gap for each outage."""
    draw, start = Random(3), datetime(2026, 10, 23, tzinfo=UTC)
    gaps = {
        SERVERS[2]: (datetime(2026, 10, 24, 14, tzinfo=UTC), 4),
        SERVERS[0]: (datetime(2026, 10, 26, 3, tzinfo=UTC), 6),
    }
    rows = [
        (
            start + step * QUARTER,
            server,
            round(draw.uniform(2, 60), 2),
            round(draw.uniform(45, 55), 2),
            round(draw.uniform(20, 60), 1),
        )
        for server in SERVERS
        for step in range(4 * 96)
        if not (server in gaps and timedelta(0) < start + step * QUARTER - gaps[server][0] <= gaps[server][1] * QUARTER)
    ]
    return pl.DataFrame(rows, schema=["timestamp", "server_id", "cpu_pct", "memory_pct", "latency_ms"], orient="row")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with params.yaml and canonical incidents the current one; DVC is left out."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_import, "track", lambda paths: None)
    Path("incidents.csv").write_text(INCIDENTS)
    return tmp_path


def bring(*telemetry: str, incidents: str = "incidents.csv", **options: object) -> list[str]:
    """Import files and return what was said."""
    return run_import.import_files([Path(name) for name in telemetry], Path(incidents), **options)


def check_canonical(expected: pl.DataFrame | None = None) -> None:
    """Check what was imported: exactly the canonical samples and incidents."""
    expected = canonical() if expected is None else expected
    metrics = expected.columns[2:]
    stored = tables.read(RAW / "telemetry/month=2026-10/part-0.parquet").select(*expected.columns)
    assert [path.name for path in tables.partitions(RAW / "telemetry")] == ["month=2026-10"]
    assert_frame_equal(stored, expected.sort("timestamp", "server_id").cast(dict.fromkeys(metrics, pl.Float32)))
    crashes = tables.read(RAW / "incidents.parquet").select("server_id", "started_at", "resolved_at")
    moments = [
        pl.col(name).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC") for name in ("started_at", "resolved_at")
    ]
    assert_frame_equal(crashes, pl.read_csv(INCIDENTS.encode()).with_columns(moments))


BERLIN = Clock("Europe/Berlin")
DOTTED = {"system.cpu.user": "cpu_pct", "mem.used_percent": "memory_pct"}
CASES: dict[str, dict[str, object]] = {
    "long.csv": {},
    "units_in_values.csv": {},
    "dotted_names.csv": {"layout": Layout(new_names=DOTTED)},
    "one_file_per_metric": {},
    "server_in_file_name": {},
    "wide_one_metric.csv": {"layout": Layout(metric="cpu_pct")},
    "local_time_without_zone_across_dst.csv": {"clock": BERLIN},
    "raw_counter_with_reset.csv": {},
}


@pytest.mark.skipif(not CASES_OF_FORMS.is_dir(), reason="the cases are not here")
@pytest.mark.parametrize("case", CASES)
def test_a_case_equals_the_canonical_files(project: Path, case: str) -> None:
    run_import.import_files([CASES_OF_FORMS / case], CASES_OF_FORMS / "incidents.csv", **CASES[case])
    stored = tables.read(RAW / "telemetry/month=2026-10/part-0.parquet")
    names = [name for name in stored.columns if name != "node_network_receive_bytes_total"]
    moment = pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    expected = pl.read_csv(CASES_OF_FORMS / "canonical.csv").with_columns(moment, pl.selectors.float().cast(pl.Float32))
    assert_frame_equal(stored.select(names), expected.sort("timestamp", "server_id").select(names))
    assert {"cpu_pct"} <= set(names)


@pytest.mark.skipif(not CASES_OF_FORMS.is_dir(), reason="the cases are not here")
def test_dates_and_lists_in_the_cases_of_incidents(project: Path) -> None:
    with pytest.raises(UserError, match=r"column 'start', row 2: 2026-10-24 is a whole day"):
        run_import.import_files([CASES_OF_FORMS / "canonical.csv"], CASES_OF_FORMS / "incidents_date_only.csv")
    run_import.import_files([CASES_OF_FORMS / "canonical.csv"], CASES_OF_FORMS / "incidents_two_hosts_in_a_cell.csv")
    assert sorted(tables.read(RAW / "incidents.parquet")["server_id"]) == list(SERVERS)


def test_canonical_files(project: Path) -> None:
    canonical().write_csv("t.csv")
    bring("t.csv")
    check_canonical()


def test_units_in_values(project: Path) -> None:
    written = canonical().with_columns(
        cpu_pct=pl.format("{} %", "cpu_pct"),
        memory_pct=pl.format("{}%", pl.col("memory_pct").cast(pl.String).str.replace(".", ",", literal=True)),
        latency_ms=pl.format("{} s", pl.col("latency_ms") / 1000),
        firmware=pl.lit("12 foo"),
    )
    written.write_csv("t.csv")
    said = bring("t.csv")
    check_canonical()
    for line in (
        "  column 'cpu_pct' is text, read as numbers: unit %",
        "  column 'memory_pct' is text, read as numbers: unit %, decimal commas",
        "  column 'latency_ms' is text, read as numbers: unit s, converted to ms",
    ):
        assert line in said
    assert said[-2:] == [LOST, "  column 'firmware': text, such as '12 foo'"]


def test_a_lost_metric_is_named_after_everything_else_and_refused_if_strict(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    canonical().with_columns(io=pl.lit("12 foo")).write_csv("t.csv")
    command = ["crashcast", "import", "--telemetry", "t.csv", "--incidents", "incidents.csv"]
    monkeypatch.setattr("sys.argv", [*command, "--strict"])
    with pytest.raises(SystemExit) as status:
        cli.main()
    assert status.value.code == 2
    assert (
        "1 of 4 columns look like numbers, but cannot be read: column 'io': text, such as '12 foo'"
        in capsys.readouterr().err
    )
    assert not RAW.exists()
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as status:
        cli.main()
    assert not status.value.code
    assert capsys.readouterr().out.splitlines()[-2:] == [LOST, "  column 'io': text, such as '12 foo'"]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Europe/London"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_local_times_across_the_end_of_summer_time(project: Path, zone: str, suffix: str) -> None:
    local = pl.col("timestamp").dt.convert_time_zone(zone).dt.replace_time_zone(None)
    frame = canonical().with_columns(local)
    frame.write_csv("t.csv") if suffix == ".csv" else frame.write_parquet("t.parquet")
    day = "2026-10-25 has 25 hours: 0[12]:00 to 0[12]:45 is there twice"
    with pytest.raises(UserError, match=rf"t{suffix}, column 'timestamp': {day}, .*--time-zone Europe/"):
        bring(f"t{suffix}")
    assert not RAW.exists()
    said = bring(f"t{suffix}", clock=Clock(zone))
    check_canonical()
    assert f"  t{suffix}: timestamp (no time zone: taken as {zone}), server_id" in said


def test_local_times_of_incidents(project: Path) -> None:
    canonical().write_csv("t.csv")
    moments = pl.col("started_at", "resolved_at").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    local = pl.read_csv(INCIDENTS.encode()).with_columns(moments.dt.convert_time_zone("Europe/Berlin"))
    local.with_columns(pl.col("started_at", "resolved_at").dt.replace_time_zone(None)).write_csv("local.csv")
    bring("t.csv", incidents="local.csv", incident_clock=Clock("Europe/Berlin"))
    check_canonical()


def test_an_assumed_zone_is_named_with_what_speaks_for_and_against_it(project: Path) -> None:
    canonical().with_columns(pl.col("timestamp").dt.replace_time_zone(None)).write_csv("t.csv")
    said = bring("t.csv")
    check_canonical()
    assumed = said.index("  times of telemetry have no time zone: taken as UTC; --time-zone says otherwise")
    assert said[assumed + 1] == "    for it: 2 of 2 crashes start at a gap or restart of their server"
    hours = {"T14:": "T19:", "T15:": "T20:", "T03:": "T08:", "T04:": "T09:", "Z": ""}
    Path("local.csv").write_text(re.sub("|".join(hours), lambda match: hours[match[0]], INCIDENTS))
    said = bring("t.csv", incidents="local.csv", replace=True)
    both = "times of telemetry have no time zone: taken as UTC", "times of incidents have no time zone: taken as UTC"
    assert all(any(words in line for line in said) for words in both)
    start = "    against it: 2 of 2 crashes start at a gap or restart of their server"
    assert f"{start} if incidents are taken 5 h earlier, 0 as they are" in said
    fleet = pl.col("timestamp").dt.offset_by("-209d").dt.convert_time_zone("Europe/Berlin").dt.replace_time_zone(None)
    canonical().with_columns(fleet).write_csv("spring.csv")
    said = bring("spring.csv", replace=True)
    assert any("against it: the hour from 2026-03-29 02:00 on is missing, as in Europe/Berlin" in line for line in said)


def test_dotted_and_bracketed_names(project: Path) -> None:
    names = {"cpu_pct": "system.cpu.user", "memory_pct": "mem[used %]"}
    canonical().rename(names).write_csv("t.csv")
    said = bring("t.csv")
    check_canonical(canonical().rename({"cpu_pct": "system_cpu_user", "memory_pct": "mem_used_pct"}))
    assert "  'system.cpu.user' is named system_cpu_user; --map says otherwise" in said
    assert "  'mem[used %]' is named mem_used_pct; --map says otherwise" in said
    bring("t.csv", layout=Layout(new_names={new: old for old, new in names.items()}), replace=True)
    check_canonical()
    with pytest.raises(UserError, match=r"--map cpu=x: t.csv has no 'cpu'"):
        bring("t.csv", layout=Layout(new_names={"cpu": "x"}), replace=True)
    canonical().rename({"cpu_pct": "cpu.pct", "memory_pct": "cpu[pct]"}).write_csv("t.csv")
    with pytest.raises(UserError, match=r"'cpu.pct' and 'cpu\[pct\]' would both be cpu_pct; choose names with --map"):
        bring("t.csv", replace=True)


def test_names_of_metrics_in_long_format(project: Path) -> None:
    names = {"cpu_pct": "system.cpu.user", "memory_pct": "memory_pct", "latency_ms": "latency_ms"}
    long = canonical().unpivot(index=["timestamp", "server_id"], variable_name="metric")
    long.with_columns(pl.col("metric").replace_strict(names)).write_csv("t.csv")
    bring("t.csv", layout=Layout(new_names={"system.cpu.user": "cpu_pct"}))
    check_canonical()


def test_one_file_for_each_metric(project: Path) -> None:
    for name in ("cpu_pct", "memory_pct", "latency_ms"):
        Path("in", name).mkdir(parents=True)
        of_metric = canonical().select("timestamp", "server_id", name)
        of_metric[::2].write_csv(Path("in", name, "even.csv"))
        of_metric[1::2].write_csv(Path("in", name, "odd.csv"))
    said = bring("in")
    check_canonical()
    assert "  6 files are joined by server and time: cpu_pct, latency_ms, memory_pct" in said


def test_a_server_in_the_name_of_its_file_or_folder(project: Path) -> None:
    for (server,), rows in canonical().partition_by("server_id", as_dict=True, include_key=False).items():
        Path("hive", f"host={server}").mkdir(parents=True)
        Path("files").mkdir(exist_ok=True)
        rows.write_csv(Path("files", f"{server}.csv"))
        rows.write_parquet(Path("hive", f"host={server}", "part-0.parquet"))
    said = bring("files")
    check_canonical()
    assert (
        f"  files/{SERVERS[0]}.csv and 2 more files: timestamp (UTC), server_id from each file's name, or its folder's"
        in said
    )
    bring("hive", replace=True)
    check_canonical()
    Path("files", f"{SERVERS[0]}.csv").rename("alone.csv")
    with pytest.raises(UserError, match=r"alone\.csv: no column for server_id"):
        bring("alone.csv", replace=True)


def test_a_column_for_each_server_in_a_file_for_each_metric(project: Path) -> None:
    for name in ("cpu_pct", "memory_pct", "latency_ms"):
        wide = canonical().pivot("server_id", index="timestamp", values=name)
        wide.rename({"timestamp": "Time"}).write_csv(f"{name}.csv")
    said = bring("cpu_pct.csv", "memory_pct.csv", "latency_ms.csv")
    check_canonical()
    assert any("all of the metric cpu_pct, the file's name: --metric says otherwise" in line for line in said)
    Path("cpu_pct.csv").rename("export.csv")
    bring("export.csv", layout=Layout(metric="cpu_pct"), replace=True)
    check_canonical(canonical().select("timestamp", "server_id", "cpu_pct"))


@pytest.mark.parametrize("separator", [", ", ";", " and ", "\n", " | "])
def test_several_servers_in_a_cell_of_incidents(project: Path, separator: str) -> None:
    canonical().write_csv("t.csv")
    cell = f'"{SERVERS[1]}{separator}{SERVERS[2]}"'
    Path("several.csv").write_text(INCIDENTS.replace(SERVERS[2], cell).replace("server_id", "host", 1))
    said = bring("t.csv", incidents="several.csv")
    crashes = tables.read(RAW / "incidents.parquet").sort("server_id")
    assert crashes["server_id"].to_list() == list(SERVERS)
    assert crashes["started_at"].dt.strftime("%d %H:%M").to_list() == ["26 03:01", "24 14:02", "24 14:02"]
    assert crashes["resolved_at"].dt.strftime("%d %H:%M").to_list() == ["26 04:35", "24 15:02", "24 15:02"]
    assert crashes["incident_id"].to_list()[1] == f"{SERVERS[1]} 2026-10-24T14:02:00Z crash"
    assert any("1 incidents name several servers (such as" in line for line in said)


def test_each_of_several_servers_has_an_incident_id_of_its_own(project: Path) -> None:
    canonical().write_csv("t.csv")
    moments = "2026-10-24T14:02:00Z,2026-10-24T15:02:00Z"
    Path("i.csv").write_text(
        f'id,host,start,end\n7,"[{SERVERS[1]}, {SERVERS[2]}]",{moments}\n8,{SERVERS[0]},{moments}\n'
    )
    bring("t.csv", incidents="i.csv")
    crashes = tables.read(RAW / "incidents.parquet").sort("server_id")
    assert crashes["incident_id"].to_list() == ["8", f"7 {SERVERS[1]}", f"7 {SERVERS[2]}"]
    Path("i.csv").write_text(
        f'host,start,end\n"{SERVERS[1]}, {SERVERS[2]}",{moments}\n{SERVERS[1]},2026-10-24T14:02:00Z,\n'
    )
    with pytest.raises(UserError, match=r"i\.csv: incident .* is there twice, once with other servers"):
        bring("t.csv", incidents="i.csv", replace=True)


def test_a_raw_counter_is_recognised_and_can_be_a_rate(project: Path) -> None:
    steps = pl.col("cpu_pct").round().cast(pl.Int64) * 900
    since_reset = steps.cum_sum().over("server_id", pl.col("timestamp") < DAY)
    frame = canonical().with_columns(sent_total=since_reset + 10**12 * (pl.col("timestamp") < DAY).cast(pl.Int64))
    Path("in").mkdir()
    for day in range(23, 27):
        frame.filter(pl.col("timestamp").dt.day() == day).write_csv(Path("in", f"{day}.csv"))
    said = bring("in")
    check_canonical()
    kind = "a counter, which only grows, apart from resets: its values go in as they are"
    assert f"  sent_total is {kind}; --rate sent_total imports its rate" in said
    said = bring("in", layout=Layout(rates=["sent_total"]), replace=True)
    check_canonical()
    assert "  sent_per_s is the rate of the counter sent_total, which started again 3 times" in said
    seconds = pl.col("timestamp").diff().over("server_id").dt.total_seconds()
    expected = canonical().with_columns(sent_per_s=steps / seconds).sort("timestamp", "server_id")["sent_per_s"]
    stored = tables.read(RAW / "telemetry/month=2026-10/part-0.parquet")["sent_per_s"]
    assert_series_equal(stored, expected.cast(pl.Float32))


@pytest.mark.parametrize(
    ("name", "unit", "per_hour"),
    [("uptime_s", "s", 3600), ("sysUpTime", "hundredths of a second", 360_000), ("node.uptime_days", "days", 1 / 24)],
)
def test_an_uptime_becomes_hours(project: Path, name: str, unit: str, per_hour: float) -> None:
    hours = (pl.col("timestamp") - DAY).dt.total_minutes() / 60
    up = canonical().with_columns(uptime_h=pl.when(hours >= 0).then(hours).otherwise(hours + 900))
    up.select(pl.exclude("uptime_h"), (pl.col("uptime_h") * per_hour).alias(name)).write_csv("t.csv")
    said = bring("t.csv")
    assert f"  {identifier(name)} is an uptime in {unit}: imported as uptime_h, in hours" in said
    stored = tables.read(RAW / "telemetry/month=2026-10/part-0.parquet")["uptime_h"]
    expected = up.sort("timestamp", "server_id")["uptime_h"].cast(pl.Float32)
    assert_series_equal(stored, expected, rel_tol=1e-6)


def test_an_uptime_without_a_slope_has_the_unit_of_its_name(project: Path) -> None:
    canonical().with_columns(host_uptime_minutes=pl.lit(120)).write_csv("t.csv")
    bring("t.csv")
    assert set(tables.read(RAW / "telemetry/month=2026-10/part-0.parquet")["uptime_h"]) == {2.0}
    canonical().with_columns(host_uptime=pl.lit(120)).write_csv("t.csv")
    assert "host_uptime is an uptime in an unknown unit" in "\n".join(bring("t.csv", replace=True))
    canonical().with_columns(host_uptime=pl.lit(120), vm_uptime=pl.lit(120)).write_csv("t.csv")
    assert "host_uptime, vm_uptime may each be the uptime: --map NAME=uptime_h" in "\n".join(
        bring("t.csv", replace=True)
    )


def test_names_that_do_not_fit_their_values_are_said(project: Path) -> None:
    odd = canonical().with_columns(
        cpu_pct=pl.col("cpu_pct") / 100,
        memory_pct=pl.col("memory_pct") * 1e8,
        latency_ms=pl.col("latency_ms") / 1000,
        hit_ratio="memory_pct",
        heap_mb=pl.col("memory_pct") * 1e7,
        disk_pct="cpu_pct",
    )
    odd.write_csv("t.csv")
    said = "\n".join(bring("t.csv"))
    likely = {
        "cpu_pct": "shares of 1, not percent",
        "memory_pct": "bytes, not percent",
        "latency_ms": "seconds",
        "hit_ratio": "percent, not shares of 1",
        "heap_mb": "bytes",
    }
    for name, words in likely.items():
        assert re.search(rf"  {name} lies between .*: these are probably {words}; if so", said)
    assert "disk_pct lies" not in said
    canonical().write_csv("t.csv")
    assert "probably" not in "\n".join(bring("t.csv", replace=True))


def test_servers_named_as_missing_values_are(project: Path) -> None:
    names = {SERVERS[0]: "NA", SERVERS[1]: "null", SERVERS[2]: "nan"}
    canonical().with_columns(pl.col("server_id").replace(names)).write_csv("t.csv")
    Path("i.csv").write_text(INCIDENTS.replace(SERVERS[0], "NA").replace(SERVERS[2], "nan"))
    said = bring("t.csv", incidents="i.csv")
    assert "  NA, nan, null is taken as a server's name, not as a missing one" in said
    assert set(tables.read(RAW / "coverage.parquet")["server_id"]) == {"NA", "null", "nan"}
    Path("i.csv").write_text(INCIDENTS.replace(SERVERS[0], "N/A"))
    with pytest.raises(UserError, match=r"i\.csv, column 'server_id', row 3: the id is empty"):
        bring("t.csv", incidents="i.csv")


def test_an_empty_column_of_times_has_no_zone_to_assume(project: Path) -> None:
    canonical().write_csv("t.csv")
    Path("i.csv").write_text("server_id,started_at,resolved_at\ndb-01.example.net,2026-10-26T03:01:00Z,\n")
    said = bring("t.csv", incidents="i.csv")
    assert "  i.csv: server_id, started_at (UTC), resolved_at (empty)" in said
    assert not any("no time zone" in line for line in said)


def test_columns_that_are_named_like_ours_but_hold_something_else(project: Path) -> None:
    canonical().with_columns(time=pl.col("timestamp").dt.strftime("%H:%M")).write_csv("t.csv")
    text = INCIDENTS.replace("server_id,", "type,resolved,incident_type,server_id,").replace("\n", "\nhardware,yes,,")
    Path("i.csv").write_text(text.replace("resolved_at", "closed_at").removesuffix("hardware,yes,,"))
    Path("i.csv").write_text(Path("i.csv").read_text().replace("hardware,yes,,type,", "type,", 1))
    said = bring("t.csv", incidents="i.csv")
    check_canonical()
    assert "  i.csv: left out type, resolved, incident_type" in said
    Path("i.csv").write_text(Path("i.csv").read_text().replace("hardware", "crash", 1))
    with pytest.raises(UserError, match="'hardware' is neither a crash nor maintenance"):
        bring("t.csv", incidents="i.csv", replace=True)


def test_a_date_and_a_time_of_day_in_columns_of_their_own(project: Path) -> None:
    day, clock = (pl.col("timestamp").dt.strftime(form) for form in ("%Y/%m/%d", "%H:%M"))
    canonical().select(pl.exclude("timestamp"), Date=day, Time=clock).write_csv("t.csv")
    split = INCIDENTS.replace("T14:02:00Z", ",14:02:00").replace("T03:01:00Z", ",03:01")
    Path("i.csv").write_text(split.replace("started_at", "start date,start time"))
    said = bring("t.csv", incidents="i.csv")
    check_canonical()
    assert "  t.csv: timestamp from 'Date' and 'Time' (no time zone: taken as UTC), server_id" in said
    parts = canonical().with_columns(date=pl.col("timestamp").dt.date(), time=pl.col("timestamp").dt.time())
    parts.drop("timestamp").write_parquet("t.parquet")
    bring("t.parquet", replace=True)
    check_canonical()


@pytest.mark.parametrize("form", FORMS)
def test_a_form_holds_the_canonical_samples(project: Path, form: str) -> None:
    Path("in").mkdir()
    FORMS[form].write(canonical(), Path("in"))
    bring("in", **FORMS[form].options)
    names = sorted(tables.read(RAW / "telemetry/month=2026-10/part-0.parquet").columns[2:])
    assert names == ["cpu_pct", "latency_ms", "memory_pct"]
    check_canonical()


SHORT = INCIDENTS.replace(".example.net", "")


def test_names_without_their_domain_are_proposed_and_taken_if_the_user_says_so(project: Path) -> None:
    canonical().write_csv("t.csv")
    Path("i.csv").write_text(SHORT)
    proposal = "--short-names takes db-01 as db-01.example.net, web-02 as web-02.example.net"
    with pytest.raises(UserError, match=proposal):
        bring("t.csv", incidents="i.csv")
    said = bring("t.csv", incidents="i.csv", is_short=True)
    check_canonical()
    assert any("incidents take db-01 as db-01.example.net" in line for line in said)
    assert tables.read(RAW / "incidents.parquet")["incident_id"][0] == "web-02.example.net 2026-10-24T14:02:00Z crash"
    cell = '"DB-01:9100, web-02.other.org"'
    Path("i.csv").write_text(f"{INCIDENTS.replace('server_id', 'host', 1)}{cell},2026-10-25T12:00:00Z,\n")
    bring("t.csv", incidents="i.csv", is_short=True, replace=True)
    servers = tables.read(RAW / "incidents.parquet").filter(pl.col("started_at").dt.day() == 25)["server_id"]
    assert sorted(servers) == [SERVERS[0], SERVERS[2]]


def test_a_short_name_of_two_servers_is_none_of_them(project: Path) -> None:
    canonical().with_columns(pl.col("server_id").replace({SERVERS[1]: "web-02.other.org"})).write_csv("t.csv")
    Path("i.csv").write_text(SHORT)
    said = bring("t.csv", incidents="i.csv", is_short=True)
    assert any("1 incidents on servers without telemetry are kept: incidents name web-02;" in line for line in said)


TIMES = [("2026-10-24T14:02:00Z", "2026-10-24T15:02:00Z"), ("2026-10-26T03:01:00Z", "2026-10-26T04:35:00Z")]
AMERICAN = [[datetime.fromisoformat(time).strftime("%d/%b/%y %I:%M %p") for time in pair] for pair in TIMES]
SQL = [[time.replace("T", " ").removesuffix("Z") for time in pair] for pair in TIMES]
TICKETS = {
    "PagerDuty": "id,incident_number,description,service_name,created_on,resolved_on,urgency\n"
    f'P1,1,"Host web-02.example.net:9100, is down.",Production,{TIMES[0][0]},{TIMES[0][1]},high\n'
    f"P2,2,[db-01.example.net] not answering,Production,{TIMES[1][0]},{TIMES[1][1]},high\n",
    "Opsgenie": "AlertId,TinyId,Message,Status,Priority,CreatedAt,ClosedAt,Entity\n"
    + "\n".join(
        f"a-{n},{n},down,closed,P1,{1000 * int(datetime.fromisoformat(pair[0]).timestamp())},{pair[1]},{server}"
        for n, (pair, server) in enumerate(zip(TIMES, (SERVERS[2], SERVERS[0]), strict=True))
    ),
    "Jira": "Summary,Issue key,Issue id,Issue Type,Priority,Created,Resolved,Labels,Labels\n"
    f"Web server down,OPS-1,1,Incident,High,{AMERICAN[0][0]},{AMERICAN[0][1]},nginx,web-02.example.net\n"
    f"Database down,OPS-2,2,Incident,High,{AMERICAN[1][0]},{AMERICAN[1][1]},db-01.example.net,\n",
    "ServiceNow": "number,cmdb_ci,priority,opened_at,resolved_at,closed_at,short_description\n"
    f"INC1,web-02.example.net,1 - Critical,{SQL[0][0]},{SQL[0][1]},2026-10-27 00:00:00,down\n"
    f"INC2,db-01.example.net,1 - Critical,{SQL[1][0]},{SQL[1][1]},2026-10-27 00:00:00,down\n",
    "ServiceNow's list": "Number,Configuration item,Opened,Resolved,Short description\n"
    f"INC1,web-02.example.net,{SQL[0][0]},{SQL[0][1]},down\nINC2,db-01.example.net,{SQL[1][0]},{SQL[1][1]},down\n",
}


@pytest.mark.parametrize("system", TICKETS)
def test_exports_of_ticket_systems(project: Path, system: str) -> None:
    canonical().write_csv("t.csv")
    Path("tickets.csv").write_text(TICKETS[system])
    bring("t.csv", incidents="tickets.csv")
    check_canonical()
    first = tables.read(RAW / "incidents.parquet").row(0, named=True)
    assert first["incident_id"] in ("P1", "a-0", "OPS-1", "INC1")
    assert "own" in first["summary"]


def test_tickets_that_name_no_server_or_several_are_said(project: Path) -> None:
    canonical().write_csv("t.csv")
    rest = "x,2026-10-25T03:01:00Z,,low\n"
    more = f"P3,3,the coffee machine,{rest}P4,4,web-01.example.net and web-02.example.net,{rest}"
    Path("tickets.csv").write_text(TICKETS["PagerDuty"] + more)
    said = bring("t.csv", incidents="tickets.csv")
    assumed = said[said.index("Assumed, please check:") :]
    assert "  tickets.csv: servers are those that 'description' name" in assumed
    assert "  tickets.csv: 1 incidents name several, such as web-01.example.net, web-02.example.net" in assumed
    lost = "1 of 4 incidents are left out, such as row 4: no text names a server that has telemetry"
    assert f"  tickets.csv: {lost}" in assumed
    ids = tables.read(RAW / "incidents.parquet")["incident_id"]
    assert sorted(ids) == ["P1", "P2", "P4 web-01.example.net", "P4 web-02.example.net"]
    Path("tickets.csv").write_text("id,description,created_on\nP3,the coffee machine,2026-10-25T03:01:00Z\n")
    with pytest.raises(UserError, match=r"tickets\.csv: no column for server_id"):
        bring("t.csv", incidents="tickets.csv")


def test_short_names_in_texts_are_proposed(project: Path) -> None:
    canonical().write_csv("t.csv")
    Path("tickets.csv").write_text(TICKETS["PagerDuty"].replace(".example.net", ""))
    with pytest.raises(UserError, match="column 'description': no column for server_id; --short-names finds servers"):
        bring("t.csv", incidents="tickets.csv")
    bring("t.csv", incidents="tickets.csv", is_short=True)
    check_canonical()


def test_two_targets_of_a_host_stay_apart(project: Path) -> None:
    frame = canonical().rename({"server_id": "instance"})
    frame.with_columns(pl.col("instance") + ":9100").write_csv("t.csv")
    assert any(line.endswith("server_id without its port") for line in bring("t.csv"))
    check_canonical()
    twice = [frame.with_columns(pl.col("instance") + port) for port in (":9100", ":9256")]
    pl.concat(twice).write_csv("t.csv")
    with pytest.raises(UserError, match="no incident is on a server that has telemetry"):
        bring("t.csv", replace=True)


def test_a_unit_beside_a_server_is_no_metric(project: Path) -> None:
    wide = canonical().pivot("server_id", index="timestamp", values="cpu_pct")
    wide = wide.with_columns(Total=pl.sum_horizontal(pl.exclude("timestamp")))
    wide.rename({name: f"{name} (%)" for name in SERVERS}).write_csv("cpu_pct.csv")
    said = bring("cpu_pct.csv")
    check_canonical(canonical().select("timestamp", "server_id", "cpu_pct"))
    assert any("all of the metric cpu_pct" in line and line.endswith("; left out: Total") for line in said)


def test_telemetry_first_and_incidents_later(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canonical().write_csv("t.csv")
    with pytest.raises(UserError, match="nothing has been imported yet: give --telemetry too"):
        bring()
    said = run_import.import_files([Path("t.csv")], None)
    assert any("there are no incidents yet, and nothing to learn from" in line for line in said)
    before = {path: path.stat().st_ino for path in RAW.rglob("*") if path.is_file()}
    said = bring()
    check_canonical()
    changed = {path.name for path, inode in before.items() if path.stat().st_ino != inode}
    assert changed == {"incidents.parquet"}
    assert (
        "  data/raw/incidents.parquet: 2 incidents added, 0 corrected, 0 unchanged; 2 crashes on 2 servers in all"
        in said
    )
    Path("c.csv").write_text(f"host,from,to\n{SERVERS[0]},2026-10-20,2026-10-29\n")
    run_import.import_files([], None, Path("c.csv"))
    assert tables.read(RAW / "coverage.parquet").filter(server_id=SERVERS[0])["covered_from"].dt.day().to_list() == [20]


def test_a_dry_run_shows_the_report_and_writes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    canonical().write_csv("t.csv")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    given = ["--telemetry", "t.csv", "--incidents", "incidents.csv", "--dry-run"]
    monkeypatch.setattr("sys.argv", ["crashcast", "import", *given])
    with pytest.raises(SystemExit) as status:
        cli.main()
    assert not status.value.code
    printed = capsys.readouterr().out
    assert "To be written, without --dry-run:\n  data/raw/telemetry: 1,142 rows added" in printed
    assert "Next:" not in printed
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_the_docs_list_the_forms_that_are_tested() -> None:
    assert f"\n\n{table()}\n\n" in (ROOT / "docs/import.md").read_text()
