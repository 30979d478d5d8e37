"""A disk that takes no more: a message and status 2, nothing lost, and the same command works once there is room.

In the fast tests no file may grow beyond a limit, which libraries meet as they meet a full disk. The slow one fills a
small file system, and makes it read-only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from crashcast import cli, tables
from crashcast.review import review as reviewing

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests/review_example"
LIMITS = (0, 2_000, 20_000)  # bytes of a file: below, between and above what a command writes
TELEMETRY, INCIDENTS, LATER = Path("in/telemetry.csv"), Path("in/incidents.csv"), Path("in/later.csv")
IMPORT = ("import", "--telemetry", TELEMETRY, "--incidents", INCIDENTS)
MERGE = ("import", "--telemetry", LATER, "--incidents", INCIDENTS)
SMALL_FLEET = {"servers: 300": "servers: 20", "months: 8": "months: 2"}
DEMO_FILES = 2 + 5 + 3  # two months, the other tables, the truth

Run = Callable[..., tuple[int, str]]

pytestmark = pytest.mark.ci  # faults


def samples(month: int) -> str:
    rows = [
        f"2026-{month:02}-{day:02} {hour:02}:00:00,{host},{10 + (day * hour) % 7},{day + hour / 7:.3f}"
        for day in range(1, 29)
        for hour in range(24)
        for host in ("web-1", "web-2", "db-1")
    ]
    return "\n".join(["time,host,cpu_pct,latency_ms", *rows, ""])


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with files to import."""
    return laid_out(template, tmp_path / "project", monkeypatch)


def laid_out(template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, folder, dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    Path("in").mkdir()
    TELEMETRY.write_text(samples(1))
    LATER.write_text(samples(2))
    INCIDENTS.write_text("id,host,start,end\nA-1,web-1,2026-01-20T23:10:00Z,2026-01-20T23:40:00Z\n")
    return folder


@pytest.fixture
def crashcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return its exit status and all that it printed."""

    def run(*arguments: object, limit: int | None = None) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crashcast", *map(str, arguments)])
        with limited(limit), pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run


@contextmanager
def limited(size_bytes: int | None) -> Iterator[None]:
    """Let no file of this process become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size_bytes is None else size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def full_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what lets so many more tables be written, and of the next one only a part."""
    write, left = pq.write_table, 0

    def write_until_full(table: object, path: Path, **options: object) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            return write(table, path, **options)
        path.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_after(number: int) -> None:
        nonlocal left
        left = number

    monkeypatch.setattr(tables.pq, "write_table", write_until_full)
    return full_after


def state() -> dict[str, str]:
    """Return the hash of every file of the project but git's and DVC's own."""
    files = [path for path in Path().rglob("*") if path.is_file() and path.parts[0] not in (".git", ".dvc")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def replace(old: str, new: str) -> None:
    text = Path("params.yaml").read_text()
    assert text.count(old) == 1, old
    Path("params.yaml").write_text(text.replace(old, new))


AGAIN = ", then run the same command again"
NO_ROOM, NO_ACCESS = (f"; make room{AGAIN}", f"; check the disk{AGAIN}"), (f"; give this user access{AGAIN}",)


def check_refused(run: tuple[int, str], before: dict[str, str], todo: tuple[str, ...] = NO_ROOM) -> None:
    status, printed = run
    assert status == 2, printed
    assert "Traceback" not in printed
    assert any(words in printed for words in todo), printed
    assert state() == before
    assert not [path for path in Path().rglob(".*.[0-9]*") if path.parts[0] != ".dvc"]


@pytest.mark.parametrize("limit", LIMITS)
def test_an_import_without_room_changes_nothing(project: Path, crashcast: Run, limit: int) -> None:
    before = state()
    check_refused(crashcast(*IMPORT, limit=limit), before)
    assert crashcast(*IMPORT)[0] == 0
    before = state()
    check_refused(crashcast(*MERGE, limit=limit), before)
    assert crashcast(*MERGE)[0] == 0
    assert len(list(Path("data/raw/telemetry").iterdir())) == 2


def test_a_demo_without_room_changes_nothing(project: Path, crashcast: Run, full_after: Callable[[int], None]) -> None:
    for old, new in SMALL_FLEET.items():
        replace(old, new)
    check_refused(crashcast("demo", limit=1000), state())
    full_after(DEMO_FILES)
    assert crashcast("demo")[0] == 0
    whole = state()
    replace("seed: 7", "seed: 8")
    before = state()
    for number in range(0, DEMO_FILES, 3):
        full_after(number)
        check_refused(crashcast("demo"), before)
    replace("seed: 8", "seed: 7")
    full_after(DEMO_FILES)
    assert crashcast("demo")[0] == 0
    assert state() == whole


@pytest.mark.parametrize("limit", LIMITS)
def test_a_collection_without_room_changes_nothing(project: Path, crashcast: Run, limit: int) -> None:
    command = ("collect", TELEMETRY, "--incidents", INCIDENTS)
    before = state()
    status = crashcast(*command, limit=limit)
    Path("data/.collect/lock").unlink(missing_ok=True)
    check_refused(status, before)
    assert crashcast(*command)[0] == 0


def test_tickets_without_room_change_nothing(project: Path, crashcast: Run, full_after: Callable[[int], None]) -> None:
    full_after(99)
    assert crashcast(*IMPORT)[0] == 0
    tickets = Path("in/tickets.csv")
    tickets.write_text("incident_id,server_id,started_at\nT-1,db-1,2026-01-11T05:00:00Z\n")
    replace("  sources: {}", "  sources: {pager: {type: table, files: in/tickets.csv}}")
    assert crashcast("incidents")[0] == 0
    tickets.write_text("incident_id,server_id,started_at\nT-2,db-1,2026-01-12T05:00:00Z\n")
    before = state()
    for number in range(3):
        full_after(number)
        check_refused(crashcast("incidents"), before)
    full_after(99)
    check_refused(crashcast("incidents", limit=100), before)
    assert crashcast("incidents")[0] == 0
    assert state() != before


@pytest.mark.parametrize("limit", LIMITS[:2])
def test_a_stage_and_its_memo_without_room_keep_nothing_half_written(
    project: Path, crashcast: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    spec = spec_from_file_location("run", ROOT / "src/run.py")
    assert spec is not None
    assert spec.loader is not None
    runner = module_from_spec(spec)
    spec.loader.exec_module(runner)

    def run(limit: int | None = None) -> tuple[int, str]:
        paths = ("data/raw/telemetry", "data/validated.json", "data/clean", "metrics/clean.json")
        monkeypatch.setattr(sys, "argv", ["run.py", "clean", *paths])
        try:
            with limited(limit):
                runner.main()
        except SystemExit as ended:
            return int(ended.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    assert crashcast(*IMPORT)[0] == 0
    Path("data/validated.json").write_text('{"success": true}')
    before = state()
    check_refused(run(limit), before)
    assert "Every result has the right hash" in crashcast("memo", "--verify")[1]
    status, printed = run()
    assert (status, printed.splitlines()[-1]) == (0, "clean: 1 partitions, 1 computed, 0 from the memo")
    whole = state()
    assert set(whole) - set(before) == {"data/clean/month=2026-01/part-0.parquet", "metrics/clean.json"}
    check_refused(crashcast("memo", "--verify", limit=0), whole)
    assert run()[1].splitlines()[-1] == "clean: 1 partitions, 0 computed, 1 from the memo"
    assert state() == whole


def test_a_review_without_room_writes_all_of_its_files_or_none(
    project: Path, crashcast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, pictures = (json.loads((EXAMPLE / f"{name}.json").read_text()) for name in ("record", "pictures"))
    status = reviewing.EXIT_STATUS[record["verdict"]]
    monkeypatch.setattr(reviewing, "review", lambda *_, **__: reviewing.Review(record, pictures))
    assert crashcast("review", "--first")[0] == status
    before, record["headline"] = state(), "another"
    written = [path.stat().st_size for path in Path("reports/review").iterdir()]
    assert len(written) == 3
    for limit in (0, *(size // 2 for size in written)):
        check_refused(crashcast("review", "--first", limit=limit), before)
    assert crashcast("review", "--first")[0] == status
    assert "another" in Path("reports/review/comment.md").read_text()


@contextmanager
def as_another_user() -> Iterator[None]:
    """Be somebody who may read and not write; root may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_this_user_may_not_write_to_is_named(
    project: Path, crashcast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crashcast(*IMPORT)[0] == 0  # imports all that the next one needs
    tables.write(Path(".dvc/cache/crashcast-memo/slices/one.parquet"), tables.read(Path("data/raw/incidents.parquet")))
    before = state()
    for folder in (Path("data"), Path(".dvc/cache/crashcast-memo"), Path()):
        folder.chmod(0o555)
    for command in (MERGE, ("collect", LATER), ("memo", "--verify")):
        with as_another_user():
            found = crashcast(*command)
        check_refused(found, before, NO_ACCESS)
    assert "Permission denied" in found[1]


@pytest.fixture
def small_disk(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a project on a file system of 8 MB of its own, with DVC's notes there too."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk]).returncode:
        pytest.skip("only root can mount a file system")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(disk / "dvc"))
    yield laid_out(template, disk / "project", monkeypatch)
    monkeypatch.chdir(tmp_path)
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("merged", [False, True])
def test_a_full_disk_loses_nothing_whatever_room_is_left(small_disk: Path, crashcast: Run, merged: bool) -> None:
    command = MERGE if merged else IMPORT
    if merged:
        assert crashcast(*IMPORT)[0] == 0
    filler, before, refused = small_disk.parent / "filler", state(), 0
    for room in range(0, 2_000_000, 8192):
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler.write_bytes(bytes(max(0, free - room)))
        found = crashcast(*command)
        filler.unlink()
        if found[0] == 0:
            break
        check_refused(found, before, (*NO_ROOM, "No space left on device"))  # the latter is git's
        refused += 1
    assert refused > 2
    assert found[0] == 0
    assert crashcast(*command)[0] == 0


@pytest.mark.slow
def test_a_read_only_disk_is_told(small_disk: Path, crashcast: Run) -> None:
    assert crashcast(*IMPORT)[0] == 0
    before = state()
    subprocess.run(["mount", "-o", "remount,ro", small_disk.parent], check=True)
    for command in (MERGE, ("collect", LATER), ("memo", "--verify")):
        check_refused(crashcast(*command), before, NO_ACCESS)
