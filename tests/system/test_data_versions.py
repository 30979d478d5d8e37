"""Who changed which data: a real git and DVC project of a few rows, a real S3 server."""

from __future__ import annotations

import io
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from rich.console import Console

from crashcast import files, tables
from crashcast.cli import main as crashcast
from crashcast.errors import UserError
from crashcast.history import diff, log
from crashcast.history.files import DAMAGED, NOT_HERE, NOWHERE
from crashcast.history.row_diff import KOLMOGOROV_SMIRNOV
from crashcast.versioning import bucket as buckets
from crashcast.versioning import cache

TELEMETRY, INCIDENTS, NOTE = Path("data/raw/telemetry"), Path("data/raw/incidents.parquet"), Path("data/note.json")
SOURCES = Path("data/raw/ticket_sources.parquet")  # of no server
START = {month: datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3)}
ROWS = 40_000  # of a month; enough for a file to be larger than its footer
numbers = count()


def sh(command: str, cwd: Path | str = ".") -> str:
    done = subprocess.run(command, shell=True, cwd=cwd, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def dvc(*arguments: str) -> None:
    """Run a dvc command in this process, which has imported DVC already."""
    from dvc.cli import main

    assert main([*arguments, "-q"]) == 0


def month(number: int, servers: tuple[str, ...] = ("a", "b")) -> pl.DataFrame:
    minutes = [START[number] + timedelta(minutes=i // len(servers)) for i in range(ROWS)]
    names = [servers[i % len(servers)] for i in range(ROWS)]
    values = [float((i * 7919) % 10_007) for i in range(ROWS)]
    return pl.DataFrame({"timestamp": minutes, "server_id": names, "latency_ms": values}, schema_overrides=tables.KEYS)


def write(path: Path, frame: pl.DataFrame) -> None:
    path.unlink(missing_ok=True)  # a link into DVC's cache
    tables.write(path, frame)


def part(number: int) -> Path:
    return TELEMETRY / f"month=2026-0{number}" / tables.FILE_NAME


def incidents(*started: tuple[str, int]) -> pl.DataFrame:
    rows = [{"incident_id": name, "server_id": "a", "started_at": START[1] + timedelta(hours=h)} for name, h in started]
    return pl.DataFrame(rows, schema_overrides={"started_at": tables.TIMESTAMP})


def commit(message: str) -> str:
    """Track the data, commit it, and return the commit."""
    dvc("add", str(TELEMETRY), str(INCIDENTS), str(SOURCES), str(NOTE))
    sh(f"git add -A && git commit -q -m '{message}'")
    return sh("git rev-parse HEAD")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, s3: dict[str, str]) -> Path:
    """Return a project of four commits: first data, a new month, corrections, and a change of code alone."""
    here = tmp_path_factory.mktemp("versions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for name, value in s3.items():
            patch.setenv(name, value)
        sh("git init -q -b main")
        dvc("init")
        Path(".dvc/config").write_text(
            '[core]\nremote = s3\nanalytics = false\n[cache]\ntype = "hardlink,copy"\n[\'remote "s3"\']\n'
            f"url = s3://crashcast/{here.name}\nendpointurl = {s3['AWS_ENDPOINT_URL']}\nverify = true\n"
        )
        write(part(1), month(1))
        write(INCIDENTS, incidents(("i1", 1), ("i2", 2)))
        write(SOURCES, pl.DataFrame({"source": ["pagers"]}))
        NOTE.write_text(json.dumps({"source": "demo", "ranges": {"latency_ms": [0, 1]}}))
        commit("first")
        write(part(2), month(2, ("a", "b", "c")))
        write(INCIDENTS, incidents(("i1", 1), ("i2", 3), ("i3", 4)))
        commit("february")
        slow = pl.col("timestamp") < START[1] + timedelta(minutes=100)
        write(part(1), month(1)[1:].with_columns(pl.when(slow).then(pl.col("latency_ms") + 5).otherwise("latency_ms")))
        NOTE.unlink()
        NOTE.write_text(json.dumps({"source": "import", "ranges": {"latency_ms": [0, 1, 2]}}))
        commit("corrections")
        Path("code").write_text("x")
        sh("git add code && git commit -q -m code")
        dvc("push", "--all-commits")
    return here


@pytest.fixture
def project(template: Path, tmp_path: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    sh(f"cp -a {template} {tmp_path / 'project'}")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def clone(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a fresh clone: no data, an empty cache."""
    sh(f"git clone -q {project} {tmp_path / 'clone'}")
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


def hash_at(revision: str, path: Path) -> str:
    """Return the hash that a commit's .dvc file names."""
    return yaml.safe_load(sh(f"git show {revision}:{path}.dvc"))["outs"][0]["md5"]


def told(commits: list[log.Commit]) -> dict[str, dict[str, log.Change]]:
    return {commit.subject: {change.path: change for change in commit.changes} for commit in commits}


def test_the_log_says_which_commit_did_what_to_which_dataset(project: Path) -> None:
    found = [*log.history()]

    assert [commit.subject for commit in found] == ["corrections", "february", "first"]  # not the code
    assert [sorted(by_path) for by_path in told(found).values()] == [
        [str(NOTE), str(TELEMETRY)], [str(INCIDENTS), str(TELEMETRY)],
        [str(NOTE), str(INCIDENTS), str(TELEMETRY), str(SOURCES)],
    ]  # fmt: skip
    added = told(found)["february"][str(TELEMETRY)]
    assert added.files == {"added": [str(part(2))], "removed": [], "changed": []}
    assert (added.rows, added.rows_change, added.servers) == (2 * ROWS, ROWS, 3)
    assert added.size_change_bytes == part(2).stat().st_size
    assert told(found)["february"][str(INCIDENTS)].records == {"added": 1, "removed": 0, "corrected": 1}
    corrected = told(found)["corrections"][str(TELEMETRY)]
    assert corrected.files == {"added": [], "removed": [], "changed": [str(part(1))]}
    assert (corrected.rows, corrected.rows_change) == (2 * ROWS - 1, -1)
    first = told(found)["first"][str(TELEMETRY)]
    sources = told(found)["first"][str(SOURCES)]
    assert (sources.rows, sources.servers) == (1, None)
    assert (first.what, first.before, first.rows, first.rows_change, first.servers) == ("added", None, ROWS, ROWS, 2)
    assert found[0].author == "A Tester"
    assert all(not change.unread for commit in found for change in commit.changes)


def test_the_log_can_be_narrowed(project: Path) -> None:
    assert [commit.subject for commit in log.history([str(INCIDENTS)])] == ["february", "first"]
    assert [commit.subject for commit in log.history(["data/raw/"], limit=1)] == ["corrections"]
    assert [commit.subject for commit in log.history(revision="HEAD~2")] == ["february", "first"]
    assert [*told([*log.history(["data/raw"])])["corrections"]] == [str(TELEMETRY)]
    with pytest.raises(UserError, match="no commit of HEAD has changed data/raws"):
        [*log.history(["data/raws"])]
    with pytest.raises(UserError, match="git knows no commit 'nothing'"):
        [*log.history(revision="nothing")]


def test_what_was_removed_is_told_and_a_merge_that_changes_nothing_of_its_own_is_not(project: Path) -> None:
    sh("git switch -q -c side")
    write(INCIDENTS, incidents(("i1", 1)))
    commit("side")
    sh(f"git switch -q main && git rm -q {NOTE}.dvc && git commit -q -m gone && git merge -q --no-edit side")

    found = [*log.history(limit=3)]

    assert {commit.subject for commit in found} == {"side", "gone", "corrections"}
    note, records = told(found)["gone"][str(NOTE)], told(found)["side"][str(INCIDENTS)]
    assert (note.what, note.after, note.size_bytes) == ("removed", None, 0)
    assert records.records == {"added": 0, "removed": 2, "corrected": 0}


def test_without_the_data_the_log_says_what_it_could_not_read(clone: Path) -> None:
    added = told([*log.history()])["february"][str(TELEMETRY)]

    assert (added.rows, added.servers, added.files) == (None, None, None)
    assert added.unread == {NOT_HERE: 2}  # both lists of files
    assert added.size_change_bytes  # git knows it
    assert not Path(".dvc/cache").exists()


def test_the_remote_is_read_by_ranges_and_nothing_is_kept(
    clone: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs.core import S3File

    read: list[int] = []
    fetch = S3File._fetch_range
    monkeypatch.setattr(S3File, "_fetch_range", lambda self, a, b: read.append(b - a) or fetch(self, a, b))

    found = [*log.history([str(TELEMETRY)], ask_remote=True)]

    os.chdir(project)
    assert found == [*log.history([str(TELEMETRY)])]  # what the files themselves say
    sizes = [path.stat().st_size for path in Path(".dvc/cache/files/md5").glob("??/*") if path.stat().st_size > 50_000]
    assert len(sizes) == 3
    assert 0 < sum(read) < sum(sizes) / 2
    assert not (clone / ".dvc/cache").exists()


def test_a_clone_that_pulled_opens_only_what_it_has(clone: Path) -> None:
    dvc("pull")

    found = told([*log.history()])

    assert found["corrections"][str(TELEMETRY)].unread == {NOT_HERE: 1}  # the list of the version before
    assert found["corrections"][str(TELEMETRY)].rows == 2 * ROWS - 1
    assert found["corrections"][str(TELEMETRY)].rows_change is None


@pytest.mark.parametrize(("on_remote", "reason"), [(False, NOT_HERE), (True, NOWHERE)])
def test_what_is_lost_everywhere_is_not_called_known(
    project: Path, on_remote: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [md5] = {
        md5
        for path, md5 in cache.members(log._datasets(sh("git rev-parse HEAD~3"))[0][str(TELEMETRY)].md5, "x").items()
    }
    cache.cached(md5).unlink()
    bucket = buckets.connect()
    content = bucket.content(bucket.object_key(md5))
    bucket.delete([md5])
    try:
        first = told([*log.history(ask_remote=on_remote)])["first"][str(TELEMETRY)]
    finally:
        bucket.fs.pipe_file(f"{bucket.name}/{bucket.object_key(md5)}", content)

    assert (first.rows, first.unread) == (None, {reason: 1})


def test_a_damaged_file_is_no_answer(project: Path) -> None:
    listing = hash_at("HEAD", TELEMETRY)
    for md5 in (*cache.members(listing, "x").values(), listing):
        path = cache.cached(md5)
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-5])

    found = told([*log.history()])

    assert found["corrections"][str(TELEMETRY)].unread == {DAMAGED: 2}  # its list, and February before
    assert found["february"][str(TELEMETRY)].unread == {DAMAGED: 1}  # the file of February
    assert found["february"][str(TELEMETRY)].rows is None


def test_a_lock_that_cannot_be_read_is_in_the_log(project: Path) -> None:
    Path("dvc.lock").write_text("<<<<<<< HEAD\n=======\n>>>>>>>\n")
    sh("git add dvc.lock && git commit -q -m conflict")

    [found] = log.history(limit=1)

    assert (found.subject, found.changes) == ("conflict", ())
    assert "merge conflict" in found.problems[0]


def test_the_diff_reads_only_partitions_whose_hashes_differ(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unchanged = cache.cached(files.md5(part(2)))
    unchanged.chmod(0o644)
    unchanged.write_text("never read")

    [note, telemetry] = diff.diff("HEAD~2")

    assert (telemetry.path, telemetry.same, telemetry.unread) == (str(TELEMETRY), 1, None)
    [january] = telemetry.files
    assert (january.path, january.what, january.rows) == (str(part(1)), "changed", (ROWS, ROWS - 1))
    found = january.difference
    assert found is not None
    # 100 minutes of two servers but the first row, which is gone
    assert (found.added, found.removed, found.changed) == (0, 1, 199)
    [latency] = found.columns
    assert (latency.name, latency.changed, latency.largest_change) == ("latency_ms", 199, 5.0)
    assert (latency.measure, latency.missing) == (KOLMOGOROV_SMIRNOV, (0.0, 0.0))
    assert latency.shift is not None
    assert 0 < latency.shift < 0.01
    assert note.files[0].figures == {"source": ("demo", "import"), "ranges.latency_ms[2]": (None, 2)}
    assert diff.exit_status([note, telemetry]) == 1


def test_the_same_data_is_no_difference(project: Path) -> None:
    assert diff.diff("HEAD~1") == []
    assert diff.exit_status([]) == 0
    assert [dataset.path for dataset in diff.diff("HEAD~1", "HEAD~3")] == [str(NOTE), str(INCIDENTS), str(TELEMETRY)]


def test_a_commit_is_compared_with_the_work_tree_unless_another_one_is_named(project: Path) -> None:
    before = sh("git rev-parse HEAD && git stash list && git status --short")
    write(part(1), month(1).head(ROWS - 3))
    dvc("add", str(TELEMETRY))
    assert diff.diff("HEAD", "HEAD") == []
    [telemetry] = diff.diff("HEAD")
    assert [file.rows for file in telemetry.files] == [(ROWS - 1, ROWS - 3)]
    sh("git checkout -q .")
    assert sh("git rev-parse HEAD && git stash list && git status --short") == before


def test_a_work_tree_in_the_middle_of_a_merge_is_not_compared(project: Path) -> None:
    sh("git switch -q -c theirs && printf a > code && git commit -q -am theirs")
    sh("git switch -q main && printf b > code && git commit -q -am ours")
    sh("git merge -q theirs || true")
    with pytest.raises(UserError, match="the work tree cannot be compared"):
        diff.diff("HEAD")


def test_what_came_or_went_is_told_with_its_rows(project: Path) -> None:
    [gone] = diff.diff("HEAD", "HEAD~3", [str(TELEMETRY)])

    assert [(file.what, file.rows) for file in gone.files] == [("changed", (ROWS - 1, ROWS)), ("removed", (ROWS, 0))]
    assert gone.files[0].difference is not None
    assert gone.files[0].difference.added == 1


def test_what_lies_only_on_the_remote_is_named_or_pulled_but_nothing_else(clone: Path) -> None:
    unread = diff.diff("HEAD~2", paths=["data/raw"])
    assert [(one.path, one.unread) for one in unread] == [(str(TELEMETRY), NOT_HERE)]
    assert diff.exit_status(unread) == 2

    [telemetry] = diff.diff("HEAD~2", paths=["data/raw"], pull=True)

    assert telemetry.files[0].rows == (ROWS, ROWS - 1)
    assert len([*Path(".dvc/cache/files/md5").glob("??/*")]) == 4  # two lists, January twice


def test_damage_is_not_compared(project: Path) -> None:
    path = cache.cached(files.md5(part(1)))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")

    found = diff.diff("HEAD~2", paths=[str(TELEMETRY)])

    assert [file.unread for file in found[0].files] == [DAMAGED]
    assert diff.exit_status(found) == 2


def test_what_git_does_not_know_is_an_error(project: Path) -> None:
    for names, message in ((("nothing",), "git knows no commit 'nothing'"), (("HEAD", "HEAD", ["x"]), "neither HEAD")):
        with pytest.raises(UserError, match=message):
            diff.diff(*names)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["log", "-n", "1"], 0, [f"{TELEMETRY}", "1 month (2026-01) changed", "79,999 rows (-1), 3 servers"]),
        (["log", str(INCIDENTS), "--rev", "HEAD~2"], 0, ["1 added, 1 corrected", "new"]),
        (
            ["diff", "HEAD~2"],
            1,
            ["1 month (2026-01) changed, 1 the same, not read", "latency_ms", "KS", "source: demo to"],
        ),
        (["diff", "HEAD~1"], 0, ["No data differs."]),
        (["diff", "nothing"], 2, ["git knows no commit"]),
    ],
)
def test_the_commands_print_what_a_person_reads(
    project: Path, arguments: list[str], status: int, words: list[str],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.argv", ["crashcast", "data", *arguments])
    with pytest.raises(SystemExit) as ended:
        crashcast()
    printed = capsys.readouterr()

    assert ended.value.code == status
    for word in words:
        assert word in printed.out + printed.err


def test_json_holds_everything(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*arguments: str) -> Any:
        monkeypatch.setattr("sys.argv", ["crashcast", "data", *arguments, "--json"])
        with pytest.raises(SystemExit):
            crashcast()
        return json.loads(capsys.readouterr().out)

    commits, differences = printed("log"), printed("diff", "HEAD~2")

    assert [commit["subject"] for commit in commits] == ["corrections", "february", "first"]
    assert commits[1]["changes"][1]["rows"] == 2 * ROWS
    assert differences["status"] == 1
    assert differences["datasets"][1]["files"][0]["difference"]["columns"][0]["measure"] == KOLMOGOROV_SMIRNOV


def test_a_screen_of_80_columns_loses_nothing(project: Path) -> None:
    console = Console(width=80, file=(printed := io.StringIO()))
    log.show(log.history(), console)
    diff.show(diff.diff("HEAD~2"), console)
    lines = printed.getvalue().splitlines()

    assert max(map(len, lines)) == 80
    for words in (["servers, 0.49 MB (+0.01)"], ["latency_ms", "199", "5003", "0.0%", "KS"]):
        assert any(all(word in line for word in words) for line in lines), lines
