"""`crashcast import` against files that are wrong: status 2, what and where, and nothing changed."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import hypothesis
import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from crashcast import cli, tables
from crashcast.errors import UserError
from crashcast.paths import TABLES
from crashcast.sources.importing import run_import, transaction

ROOT = Path(__file__).parents[2]
TELEMETRY, INCIDENTS, COVERAGE = Path("in/telemetry.csv"), Path("in/incidents.csv"), Path("in/coverage.csv")
FLAGS = ["--telemetry", TELEMETRY, "--incidents", INCIDENTS, "--coverage", COVERAGE]
GOOD = {
    TELEMETRY: """time,host,cpu_pct,latency_ms,note
2026-01-31 22:00:00,007,10.5,20,fine
2026-01-31 23:00:00,007,11.5,21,fine
2026-02-01 00:00:00,007,12.5,22,slow
2026-01-31 22:00:00,db-1,50,200,fine
2026-01-31 23:00:00,db-1,51,,fine
2026-02-01 00:00:00,db-1,52,220,fine
""",
    INCIDENTS: """id,host,kind,start,end
A-1,007,crash,2026-01-31T23:10:00Z,2026-01-31T23:40:00Z
A-2,db-1,planned,2026-02-01T00:00:00Z,
""",
    COVERAGE: """host,from,to,role
007,2026-01-31,2026-02-01,web
db-1,2026-01-31,2026-02-01,db
""",
}

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy it, make it the current folder and put good files into `in/`."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    for path, text in GOOD.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def crashcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return its exit status and all that it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crashcast", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capsys.readouterr()
        return int(exit_.value.code or 0), printed.out + printed.err

    return run


def state() -> dict[str, str]:
    """Return the hash of every file of the project but git's and DVC's own."""
    own = {".git", ".dvc"}
    members = [path for path in Path().rglob("*") if path.is_file() and path.parts[0] not in own]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in members}


def edit(path: Path, old: str, new: str) -> Callable[[], None]:
    """Return what replaces `old` in one of the good files."""

    def apply() -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return apply


def put(path: Path, content: str | bytes) -> Callable[[], None]:
    """Return what writes a file as a whole."""

    def apply() -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return apply


def put_parquet(path: Path, **columns: object) -> Callable[[], None]:
    """Return what writes a Parquet file."""
    return lambda: pl.DataFrame(columns, strict=False).write_parquet(path)


def put_truncated(path: Path) -> Callable[[], None]:
    """Return what writes half a Parquet file."""

    def apply() -> None:
        pl.DataFrame({"time": range(1000)}).write_parquet(path)
        path.write_bytes(path.read_bytes()[:500])

    return apply


def nothing() -> None:
    """Leave the files good."""


PARQUET = Path("in/telemetry.parquet")
MOMENT = datetime(2026, 1, 31)
FUTURE = (datetime.now() + timedelta(days=30)).strftime("%Y-%m-%d %H:%M:%S")
BAD = {
    "no such file": (nothing, {"--telemetry": "in/telemetri.csv"}, ["in/telemetri.csv is missing"]),
    "a folder for a file": (nothing, {"--incidents": "in"}, ["in is a folder"]),
    "an empty folder": (Path("empty").mkdir, {"--telemetry": "empty"}, ["empty holds no telemetry"]),
    "empty": (put(TELEMETRY, ""), {}, ["in/telemetry.csv is empty"]),
    "unknown kind": (put(Path("in/t.xlsx"), "x"), {"--telemetry": "in/t.xlsx"}, ["in/t.xlsx", "unknown kind", ".csv"]),
    "truncated Parquet": (put_truncated(PARQUET), {"--telemetry": PARQUET}, ["in/telemetry.parquet is not a readable"]),
    "text as Parquet": (put(PARQUET, "a,b\n1,2\n"), {"--telemetry": PARQUET}, ["telemetry.parquet is not a readable"]),
    "Parquet as text": (put(TELEMETRY, b"PAR1abc\n"), {}, ["in/telemetry.csv is a Parquet file; name it .parquet"]),
    "truncated gzip": (
        put(Path("in/t.csv.gz"), gzip.compress(GOOD[TELEMETRY].encode() * 99)[:-20]),
        {"--telemetry": "in/t.csv.gz"},
        ["in/t.csv.gz"],
    ),
    "not UTF-8": (
        put(TELEMETRY, "time,host\n2026-01-31,sérveur\n".encode("latin-1")),
        {},
        ["telemetry.csv is not UTF-8"],
    ),
    "UTF-16": (put(TELEMETRY, GOOD[TELEMETRY].encode("utf-16")), {}, ["telemetry.csv is not UTF-8"]),
    "no header": (edit(TELEMETRY, "time,host,cpu_pct,latency_ms,note\n", ""), {}, ["row 1", "is no header"]),
    "only a header": (put(TELEMETRY, "time,host,cpu_pct\n"), {}, ["in/telemetry.csv: no rows"]),
    "short row": (edit(TELEMETRY, "12.5,22,slow", "12.5"), {}, ["telemetry.csv, row 4", "Expected 5 columns, got 3"]),
    "long row": (edit(TELEMETRY, "12.5,22", "12,5,22"), {}, ["telemetry.csv, row 4", "Expected 5 columns, got 6"]),
    "column twice": (
        edit(TELEMETRY, "latency_ms", "cpu_pct"),
        {},
        ["in/telemetry.csv: column 'cpu_pct' is there twice"],
    ),
    "column twice but for case": (
        edit(TELEMETRY, "latency_ms", "CPU_pct"),
        {},
        ["'cpu_pct' and 'CPU_pct' have the same"],
    ),
    "no timestamp": (edit(TELEMETRY, "time", "moment"), {}, ["no column for timestamp", "there are moment, host"]),
    "no server": (edit(TELEMETRY, "host", "name"), {}, ["in/telemetry.csv: no column for server_id"]),
    "two timestamps": (
        put(TELEMETRY, GOOD[TELEMETRY].replace("note", "ts").replace("fine", "2026-01-31 22:00")),
        {},
        ["'time' and 'ts' could each be timestamp"],
    ),
    "two servers": (edit(TELEMETRY, "note", "node"), {}, ["'host' and 'node' could each be server_id"]),
    "unreadable time": (
        edit(TELEMETRY, "2026-01-31 23", "31/01/2026 23"),
        {},
        ["telemetry.csv, column 'time', row 3: '31/01/2026 23:00:00' is not a time"],
    ),
    "no such day": (
        edit(TELEMETRY, "2026-01-31 23", "2026-02-30 23"),
        {},
        ["row 3: '2026-02-30 23:00:00' is not a time"],
    ),
    "empty time": (edit(TELEMETRY, "2026-01-31 23:00:00", ""), {}, ["column 'time', row 3: the time is empty"]),
    "mixed zones": (
        edit(TELEMETRY, "2026-01-31 23:00:00", "2026-01-31 23:00:00+01:00"),
        {},
        ["column 'time', row 2: '2026-01-31 22:00:00' has no time zone, while row 3 ('2026-01-31 23:00:00+01:00')"],
    ),
    "future": (
        edit(TELEMETRY, "2026-01-31 23:00:00", FUTURE),
        {},
        ["column 'time', row 3", FUTURE, "is in the future"],
    ),
    "before 1990": (
        edit(TELEMETRY, "2026-01-31 23", "1970-01-01 23"),
        {},
        ["row 3: 1970-01-01 23:00:00 UTC is before"],
    ),
    "small epoch": (
        put_parquet(PARQUET, time=[20260131, 20260132], host=["a", "a"], cpu_pct=[1.0, 2.0]),
        {"--telemetry": PARQUET},
        ["column 'time', row 1: 1970-08-23", "a wrong unit"],
    ),
    "infinite time": (
        put_parquet(PARQUET, time=[1769867100.0, float("inf")], host=["a", "a"], cpu_pct=[1.0, 2.0]),
        {"--telemetry": PARQUET},
        ["column 'time', row 2: inf is not a time"],
    ),
    "boolean times": (
        put_parquet(PARQUET, time=[True], host=["a"], cpu_pct=[1.0]),
        {"--telemetry": PARQUET},
        ["no column for timestamp: 'time' holds Boolean, so it is none"],
    ),
    "empty id": (edit(TELEMETRY, "23:00:00,007", "23:00:00, "), {}, ["column 'host', row 3: the id is empty"]),
    "NaN id": (
        put_parquet(PARQUET, time=[MOMENT] * 2, host=[7.0, float("nan")], cpu_pct=[1.0, 2.0]),
        {"--telemetry": PARQUET},
        ["telemetry.parquet, column 'host', row 2: the id is empty"],
    ),
    "id with decimals": (
        put_parquet(PARQUET, time=[MOMENT] * 2, host=[7.0, 7.5], cpu_pct=[1.0, 2.0]),
        {"--telemetry": PARQUET},
        ["column 'host', row 2: 7.5 is no id"],
    ),
    "no metrics": (put(TELEMETRY, "time,host,note\n2026-01-31,007,fine\n"), {}, ["telemetry.csv: no numeric column"]),
    "infinite": (edit(TELEMETRY, "12.5", "inf"), {}, ["column 'cpu_pct', row 4: inf is not a finite"]),
    "too large": (edit(TELEMETRY, "12.5", "1e39"), {}, ["column 'cpu_pct', row 4: 1e+39 is not a finite"]),
    "text among numbers": (
        edit(TELEMETRY, "12.5", "fast"),
        {},
        ["telemetry.csv, column 'cpu_pct', row 4: 'fast' is not a number"],
    ),
    "units among plain numbers": (
        edit(TELEMETRY, "12.5", "12 %"),
        {},
        ["column 'cpu_pct', row 4: '12 %': numbers are written in several forms (some values have a unit (%), some no"],
    ),
    "an ambiguous comma": (
        put(TELEMETRY, "time;host;io\n2026-01-31;007;1,234\n2026-02-01;007;12\n"),
        {},
        ["column 'io', row 2", "1,234 could be a thousand and more, or have a decimal comma"],
    ),
    "points of thousands beside decimal commas": (
        put(TELEMETRY, "time;host;io;cpu\n2026-01-31;007;1.234;6,9\n2026-02-01;007;12;7,1\n"),
        {},
        ["column 'io': 1.234 could be a thousand and more, because column 'cpu' has decimal commas"],
    ),
    "another unit in another file": (
        put(Path("in/more.csv"), "time,host,cpu_pct,latency_ms\n2026-01-31,007,1 %,2\n2026-02-01,007,1 %,2\n"),
        {"--telemetry": "in/telemetry.csv", "--telemetry ": "in/more.csv"},
        ["in/more.csv: column 'cpu_pct' has %, but no unit in in/telemetry.csv"],
    ),
    "most columns of numbers lost": (
        put(TELEMETRY, "time,host,up,io,net\n2026-01-31,007,1,3 foo,4 foo\n2026-02-01,007,1,5 foo,6 foo\n"),
        {},
        ["2 of 3 columns look like numbers, but cannot be read", "column 'io': text, such as '3 foo'", "12 ms"],
    ),
    "unusable name": (
        edit(TELEMETRY, "cpu_pct", "\u6e29\u5ea6"),
        {},
        ["column '\u6e29\u5ea6': a metric's name takes letters", "--map"],
    ),
    "reserved name": (edit(TELEMETRY, "cpu_pct", "label"), {}, ["column 'label': the pipeline uses this name itself"]),
    "name of a feature": (
        edit(TELEMETRY, "latency_ms", "cpu_pct_mean_6h"),
        {},
        ["'cpu_pct_mean_6h': the pipeline uses"],
    ),
    "files that differ": (
        put(Path("in/more.csv"), "time,host,cpu_pct\n2026-01-31,007,1\n"),
        {"--telemetry": "in/telemetry.csv", "--telemetry ": "in/more.csv"},
        ["in/more.csv: no column 'latency_ms', unlike in/telemetry.csv"],
    ),
    "numbers here, text there": (
        put(Path("in/more.csv"), "time,host,cpu_pct,latency_ms\n2026-01-31,007,1,fast\n2026-02-01,007,1,slow\n"),
        {"--telemetry": "in/telemetry.csv", "--telemetry ": "in/more.csv"},
        ["in/more.csv: column 'latency_ms' holds text, such as 'fast', but numbers in in/telemetry.csv"],
    ),
    "a row per device": (
        put(
            TELEMETRY,
            "time,host,disk,io\n2026-01-31,007,sda,1\n2026-01-31,007,sdb,2\n2026-02-01,007,sda,1\n2026-02-01,db-1,sda,1\n",
        ),
        {},
        ["25% of rows have the server and time of another row", "007 at 2026-01-31 00:00:00 UTC"],
    ),
    "one sample a server": (
        put(TELEMETRY, "time,host,cpu_pct\n2026-01-31,007,1\n2026-01-31,db-1,2\n"),
        {},
        ["no server has two samples", "--interval 5m"],
    ),
    "no incidents": (put(INCIDENTS, "host,start\n"), {}, ["in/incidents.csv: no incidents"]),
    "incident without a start": (
        edit(INCIDENTS, "2026-01-31T23:10:00Z", ""),
        {},
        ["incidents.csv, column 'start', row 2: the time is empty"],
    ),
    "no column of starts": (edit(INCIDENTS, "start", "noticed"), {}, ["incidents.csv: no column for started_at"]),
    "resolved before started": (
        edit(INCIDENTS, "2026-01-31T23:40", "2026-01-31T23:00"),
        {},
        ["column 'end', row 2: incident 'A-1': resolved at 2026-01-31 23:00:00 UTC, but started at 2026-01-31 23:10"],
    ),
    "crash to come": (
        edit(INCIDENTS, "2026-01-31T23:10:00Z,2026-01-31T23:40:00Z", FUTURE.replace(" ", "T") + "Z,"),
        {},
        ["column 'start', row 2: incident 'A-1'", "is in the future"],
    ),
    "dates without a time": (
        put(INCIDENTS, "host,start,end\n007,2026-01-31,2026-02-01\ndb-1,2026-01-31,2026-02-01\n"),
        {},
        ["incidents.csv, column 'start', row 2: 2026-01-31 is a whole day", "write the time of day", "--coverage"],
    ),
    "a date among times": (
        edit(INCIDENTS, "2026-01-31T23:40:00Z", "2026-01-31Z"),
        {},
        ["incidents.csv, column 'end', row 2: 2026-01-31Z is a whole day"],
    ),
    "id twice": (
        edit(INCIDENTS, "A-2", "A-1"),
        {},
        ["column 'id', row 3: incident 'A-1' is also in row 2, with another server_id, kind, started_at, resolved_at"],
    ),
    "same crash twice": (
        put(
            INCIDENTS, "host,start,end\n007,2026-01-31 01:00,2026-02-01 00:00\n007,2026-01-31 01:00,2026-02-02 00:00\n"
        ),
        {},
        ["row 3: incident '007 2026-01-31T01:00:00Z crash' is also in row 2, with another resolved_at"],
    ),
    "unknown kind of incident": (edit(INCIDENTS, "planned", "fire"), {}, ["column 'kind', row 3: 'fire' is neither"]),
    "incidents of another fleet": (
        put(INCIDENTS, "host,start\nweb-7.example.com,2026-01-31 01:00\n"),
        {},
        ["no incident is on a server that has telemetry: incidents name web-7.example.com; telemetry has 007, db-1"],
    ),
    "covered backwards": (
        edit(COVERAGE, "2026-01-31,2026-02-01,db", "2026-02-02,2026-02-01,db"),
        {},
        ["coverage.csv, column 'to', row 3: covered until 2026-02-01 00:00:00 UTC, but from 2026-02-02"],
    ),
    "covering a stranger": (edit(COVERAGE, "007", "7"), {}, ["in/coverage.csv, row 2: server '7' has no telemetry"]),
    "covering too few": (
        edit(COVERAGE, "007,2026-01-31,2026-02-01,web\n", ""),
        {},
        ["in/coverage.csv: 007 has telemetry"],
    ),
    "no coverage periods": (put(COVERAGE, "host,role\n007,web\n"), {}, ["coverage.csv: no column for covered_from"]),
    "odd interval": (nothing, {"--interval": "7m"}, ["--interval 7m does not divide a day"]),
    "no interval": (nothing, {"--interval": "often"}, ["--interval often: write a duration"]),
    "bad params.yaml": (
        edit(Path("params.yaml"), "horizon:", "horison:"),
        {},
        ["params.yaml", "did you mean 'horizon'"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_changes(case: str, project: Path, crashcast: Run) -> None:
    spoil, given, fragments = BAD[case]
    spoil()
    before = state()
    flags = {"--telemetry": TELEMETRY, "--incidents": INCIDENTS, "--coverage": COVERAGE, **given}
    status, printed = crashcast("import", *(word for flag, value in flags.items() for word in (flag.strip(), value)))
    assert status == 2
    assert "crashcast: " in printed
    for fragment in fragments:
        assert fragment in printed
    assert len(printed) < 1000  # one screen
    assert state() == before


NASTY = [
    "",
    "nan",
    "inf",
    "1e400",
    "9" * 20,
    "-1",
    "true",
    "2026-13-01",
    "9999-12-31",
    "1767225600",
    "a,b",
    '"',
    "time",
]
CELL = st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@pytest.mark.ci  # fuzzing
@hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(list(GOOD)), row=st.integers(0, 6), column=st.integers(0, 4), cell=CELL)
def test_any_cell_is_taken_or_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, path: Path, row: int, column: int, cell: str
) -> None:
    monkeypatch.setattr(run_import, "track", lambda paths: None)
    for name, text in GOOD.items():
        name.write_text(text)
    rows = [line.split(",") for line in GOOD[path].splitlines()]
    cells = rows[row % len(rows)]
    cells[column % len(cells)] = cell
    path.write_text("\n".join(",".join(line) for line in rows), encoding="utf-8")
    before = state()
    try:
        run_import.import_files([TELEMETRY], INCIDENTS, COVERAGE, replace=True)
    except UserError:
        assert state() == before


@pytest.fixture
def imported(project: Path) -> Path:
    """Import the good files."""
    run_import.import_files([TELEMETRY], INCIDENTS, COVERAGE)
    return project


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("cpu_pct,latency_ms,gpu_pct", "1,2,3", "in/new.csv: column 'gpu_pct' is new"),
        ("cpu_pct", "1", "in/new.csv: no column 'latency_ms', unlike earlier imports"),
        ("cpu_pct,latency_ms", "1,fast", "in/new.csv, column 'latency_ms', row 2: 'fast' is not a number"),
    ],
)
def test_a_merge_must_fit_what_is_there(imported: Path, crashcast: Run, header: str, row: str, message: str) -> None:
    Path("in/new.csv").write_text(f"time,host,{header}\n2026-02-02,007,{row}\n")
    before = state()
    status, printed = crashcast("import", "--telemetry", "in/new.csv", "--incidents", INCIDENTS)
    assert status == 2
    assert message in printed
    assert state() == before


@pytest.mark.parametrize("name", ["telemetry", "ticket_sources.parquet", "actions.parquet"])
def test_a_merge_into_data_that_was_not_pulled_is_refused(imported: Path, crashcast: Run, name: str) -> None:
    Path("data/raw", name).rename("gone")
    before = state()
    status, printed = crashcast("import", *FLAGS)
    assert status == 2
    assert "`dvc pull`" in printed
    assert state() == before


def test_a_merge_into_other_partitions_is_refused(imported: Path, crashcast: Run) -> None:
    edit(Path("params.yaml"), "partition: month", "partition: week")()
    before = state()
    status, printed = crashcast("import", *FLAGS)
    assert status == 2
    assert "telemetry.partition is week, but data/raw/telemetry has one file per month" in printed
    assert state() == before


def test_what_cannot_be_tracked_is_put_back(imported: Path, crashcast: Run) -> None:
    """The last step fails after new telemetry, incidents and params.yaml have been moved into place."""
    Path("in/new.csv").write_text("time,host,cpu_pct,latency_ms\n2026-03-01,007,1,2\n2026-03-01 01:00,007,1,2\n")
    shutil.move(".dvc", ".no-dvc")
    before = state()
    status, printed = crashcast("import", "--replace", "--telemetry", "in/new.csv", "--incidents", INCIDENTS)
    assert status == 2
    assert "could not be tracked by DVC" in printed
    assert state() == before


def test_a_server_id_is_no_part_of_a_path(project: Path, crashcast: Run) -> None:
    """Nor is one of an incident or of people's answers."""
    names = ["../../canary", "/canary", "..\\canary", "canary\x00", "~/canary", "$(canary)"]
    for path, text in GOOD.items():
        rows = [line.replace("007", name) for name in names for line in text.splitlines()[1:] if "007" in line]
        rows = [line.replace("A-1", f"../{number}") for number, line in enumerate(rows)]
        path.write_text("\n".join([text.splitlines()[0], *rows, ""]))
    assert crashcast("import", *FLAGS)[0] == 0
    tables_ = {path.name for path in TABLES if path.suffix}
    parts = {f"telemetry/month=2026-0{month}/part-0.parquet" for month in (1, 2)}
    pointers = {f"{name}.dvc" for name in (*tables_, "telemetry")}
    raw = Path("data/raw")
    assert {str(path.relative_to(raw)) for path in raw.rglob("*") if path.is_file()} == {
        *tables_, *parts, *pointers, ".gitignore"
    }  # fmt: skip
    assert set(tables.read(raw / "coverage.parquet")["server_id"]) == set(names)
    moment = "2026-01-31T22:00:00Z"
    task = {
        "id": 1,
        "data": {"server_id": names[0], "started_at": moment, "ended_at": "2026-01-31T23:00:00Z"},
        "annotations": [
            {"id": 1, "created_at": moment, "completed_by": {"id": 1, "email": names[1]}, "result": [
                {"from_name": "verdict", "value": {"choices": ["no crash"]}}
            ]}
        ],
    }  # fmt: skip
    Path("in/export.json").write_text(json.dumps([task]))
    before = set(project.parent.rglob("*"))
    assert crashcast("annotate", "import", "in/export.json")[0] == 0
    assert set(project.parent.rglob("*")) - before == {project / "data/raw/annotations.parquet"}


def test_an_interrupted_import_leaves_nothing(imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state()

    def interrupt(paths: list[Path]) -> None:
        Path("data/raw/more.dvc").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(run_import, "track", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_import.import_files([TELEMETRY], INCIDENTS, replace=True, interval="30m")
    assert state() == before


def test_a_killed_import_is_cleared_away(imported: Path, crashcast: Run) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = Path(f"data/.import.{dead.pid}")
    (left / "telemetry").mkdir(parents=True)
    run_import.import_files([TELEMETRY], INCIDENTS)
    assert not left.exists()


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from crashcast.sources.importing import run_import

number = int(sys.argv[1])


def counted(function):
    def call(*arguments, **options):
        global number
        number -= any(".import." in str(argument) for argument in arguments)
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return call


os.replace, shutil.rmtree = counted(os.replace), counted(shutil.rmtree)
run_import.import_files([Path("in/new.csv")], Path("in/incidents.csv"), replace=True, interval="30m")
"""
WRITES, MOVES = 7, 2 * 7 + 1  # of the tables and params.yaml: aside, and into place


def killed_import(number: int) -> None:
    """Kill an import at its so many-th move of a file."""
    Path("in/new.csv").write_text("time,host,cpu_pct,latency_ms\n2026-03-01,007,1,2\n2026-03-01 01:00,007,1,2\n")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(number)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    Path("in/new.csv").unlink()


@pytest.mark.parametrize("number", range(WRITES - 1, WRITES + MOVES))
def test_what_a_killed_import_had_moved_is_put_back(imported: Path, number: int) -> None:
    before = state()
    killed_import(number)
    assert state() != before
    transaction.recover()
    assert state() == before


def test_what_a_commit_made_look_like_a_killed_import_is_not_put_back(imported: Path, crashcast: Run) -> None:
    planted = imported / "data/.import.999999/before"
    planted.mkdir(parents=True)
    (planted / "incidents.parquet").write_text("forged")
    (planted.parent / "tracking").mkdir()
    subprocess.run("git add -f data/.import.999999", shell=True, check=True)
    before = state()
    status, printed = crashcast("import", *FLAGS)
    assert status == 2
    assert "data/.import.999999/before/incidents.parquet in git's index" in printed
    assert state() == before


@pytest.mark.parametrize("link", ["data", "data/raw"])
@pytest.mark.parametrize("command", [("import", *FLAGS), ("collect", TELEMETRY)])
def test_nothing_is_imported_through_a_link_of_a_commit(
    project: Path, tmp_path: Path, crashcast: Run, link: str, command: tuple[object, ...]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".import.999999").mkdir(parents=True)
    shutil.rmtree(project / link, ignore_errors=True)
    (project / link).parent.mkdir(exist_ok=True)
    (project / link).symlink_to(elsewhere)
    subprocess.run(["git", "add", "-f", link], check=True)
    status, printed = crashcast(*command)
    assert status == 2
    assert f"{link} is a symbolic link in git, to {elsewhere}" in printed
    assert [path.name for path in elsewhere.iterdir()] == [".import.999999"]


def test_an_import_that_was_killed_when_it_was_done_stays(imported: Path) -> None:
    killed_import(WRITES + MOVES)
    assert list(Path("data").glob(".import.*"))
    transaction.recover()
    assert not list(Path("data").glob(".import.*"))
    assert tables.read(Path("data/raw/telemetry/month=2026-03/part-0.parquet")).height == 2


def test_a_second_import_at_the_same_time_is_refused(imported: Path, crashcast: Run) -> None:
    Path(f"data/.import.{os.getppid()}").mkdir()
    status, printed = crashcast("import", *FLAGS)
    assert status == 2
    assert f"another import is running (process {os.getppid()})" in printed
