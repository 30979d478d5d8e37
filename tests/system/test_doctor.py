"""What DVC does not notice, the doctor finds and mends: a real git and DVC project, a real S3 server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from botocore.config import Config
from botocore.session import Session

from crashcast import files, run_record
from crashcast.doctor import bucket as bucket_checks
from crashcast.doctor import examine, garbage, repair
from crashcast.doctor.findings import SOUND, UNKNOWN, WRONG, Finding, exit_status
from crashcast.errors import UserError
from crashcast.versioning import bucket as buckets
from crashcast.versioning import cache, dvc_command
from crashcast.versioning.cache import cached
from crashcast.versioning.outputs import Output

ONE, TWO, FOLDER = Path("data/raw/one"), Path("data/raw/two"), Path("data/raw")
FILES = {"one": "1" * 100, "two": "2" * 200, "three": "3" * 300}
MD5 = {name: hashlib.md5(text.encode()).hexdigest() for name, text in FILES.items()}
JOINED = hashlib.md5((FILES["one"] + FILES["two"]).encode()).hexdigest()
DATA = ("remote", "cache")
PIPELINE = """stages:
  join:
    cmd: cat data/raw/one data/raw/two > joined
    deps: [data/raw]
    outs: [joined]
"""
numbers = count()


def sh(command: str, cwd: Path | str = ".", check: bool = True) -> str:
    done = subprocess.run(command, shell=True, cwd=cwd, text=True, capture_output=True)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def dvc(*arguments: str) -> None:
    """Run a dvc command in this process, which has imported DVC already."""
    from dvc.cli import main

    assert main([*arguments, "-q"]) == 0


@pytest.fixture(scope="module")
def client(s3: dict[str, str]) -> Any:
    """Return a client of the S3 server, with a bucket that keeps versions and one that does not."""
    made = Session().create_client(
        "s3",
        region_name=s3["AWS_DEFAULT_REGION"],
        endpoint_url=s3["AWS_ENDPOINT_URL"],
        aws_access_key_id=s3["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 3}),
    )
    for name in ("doctor", "versions"):
        made.create_bucket(Bucket=name)
    made.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    return made


@pytest.fixture(scope="module", autouse=True)
def _environment(s3: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, client: Any, s3: dict[str, str]) -> Path:
    """Return a project with a folder of three files and a stage, run, committed and pushed."""
    here = tmp_path_factory.mktemp("template")
    (here / FOLDER).mkdir(parents=True)
    for name, text in FILES.items():
        (here / FOLDER / name).write_text(text)
    (here / "dvc.yaml").write_text(PIPELINE)
    sh("git init -q -b main", here)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        dvc("init")
        remote_to(here, "doctor", "template", s3)
        dvc("add", str(FOLDER))
        dvc("repro")
        dvc("push")
    sh("git add -A && git commit -q -m one", here)
    return here


def remote_to(project: Path, bucket: str, prefix: str, s3: dict[str, str]) -> None:
    (project / ".dvc/config").write_text(
        '[core]\nremote = s3\nanalytics = false\n[cache]\ntype = "hardlink,copy"\n[\'remote "s3"\']\n'
        f"url = s3://{bucket}/{prefix}\nendpointurl = {s3['AWS_ENDPOINT_URL']}\nverify = true\n"
    )


@pytest.fixture(params=["doctor"])
def project(
    request: pytest.FixtureRequest,
    template: Path,
    tmp_path: Path,
    client: Any,
    s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Return a copy of that project with its links, a remote of its own beside it, in the working directory."""
    here, prefix = tmp_path / "project", f"p{next(numbers)}"
    sh(f"cp -a {template} {here}")  # links stay links
    for entry in client.list_objects_v2(Bucket="doctor", Prefix="template/")["Contents"]:
        key = entry["Key"].replace("template", prefix, 1)
        body = client.get_object(Bucket="doctor", Key=entry["Key"])["Body"].read()
        client.put_object(Bucket=request.param, Key=key, Body=body)
    remote_to(here, request.param, prefix, s3)
    sh("git commit -q -a -m remote", here)
    monkeypatch.chdir(here)
    return here


with_versions = pytest.mark.parametrize("project", ["versions"], indirect=True)


@pytest.fixture
def bucket(project: Path) -> buckets.Bucket:
    return buckets.connect()


def put(bucket: buckets.Bucket, client: Any, md5: str, content: bytes) -> None:
    client.put_object(Bucket=bucket.name, Key=bucket.object_key(md5), Body=content)


def get(bucket: buckets.Bucket, client: Any, md5: str) -> bytes:
    return client.get_object(Bucket=bucket.name, Key=bucket.object_key(md5))["Body"].read()


def remove(bucket: buckets.Bucket, client: Any, md5: str) -> None:
    client.delete_object(Bucket=bucket.name, Key=bucket.object_key(md5))


def put_in_pieces(bucket: buckets.Bucket, client: Any, md5: str, content: bytes) -> None:
    """Upload so that the server's checksum is no MD5 of the content."""
    where = {"Bucket": bucket.name, "Key": bucket.object_key(md5)}
    upload = client.create_multipart_upload(**where)["UploadId"]
    part = client.upload_part(**where, UploadId=upload, PartNumber=1, Body=content)["ETag"]
    client.complete_multipart_upload(
        **where, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]}
    )


def problems(found: list[Finding]) -> list[tuple[str, str]]:
    """Return what is more than a note: how bad, and what with where."""
    return [(finding.severity, f"{finding.where}: {finding.what}") for finding in found if finding.severity != "note"]


def only(found: list[Finding], severity: str, *words: str) -> Finding:
    """Return the one finding that is more than a note, of that severity, with these words."""
    [finding] = [finding for finding in found if finding.severity != "note"]
    assert finding.severity == severity, finding
    for word in words:
        assert word in f"{finding.where}: {finding.what}"
    return finding


def copy_of(path: Path) -> bytes:
    """Return a file as the cache holds it."""
    return cached(files.md5(path)).read_bytes()


def edit_in_place(path: Path, text: str) -> None:
    """Write into a file that is write-protected, and protect it again: DVC believes in the protection."""
    path.chmod(0o644)
    with path.open("a") as file:
        file.write(text)
    path.chmod(0o444)


def lose_data_here() -> None:
    shutil.rmtree(".dvc/cache")
    shutil.rmtree(FOLDER)
    Path("joined").unlink()


def test_a_sound_project_is_called_that(project: Path) -> None:
    found = examine(deep=True, parts=("project", "bucket", *DATA))

    assert problems(found) == []
    assert exit_status(found) == SOUND
    told = [finding.what for finding in found if finding.where in DATA]
    assert told == ["of 5 objects that are needed, 5 have the right hash"] * 2  # three files, their list, the output
    assert sh("git status --porcelain") == ""


@pytest.mark.parametrize("content", [b"1" * 99, b"x" * 100], ids=["truncated", "other bytes"])
def test_a_damaged_object_on_the_remote_is_found_and_replaced_from_the_cache(
    project: Path, bucket: buckets.Bucket, client: Any, content: bytes
) -> None:
    put(bucket, client, MD5["one"], content)

    found = examine(parts=["remote"])
    assert exit_status(found) == WRONG
    assert only(found, "error", "data/raw of", "damaged on the remote: 1 of 3 files (data/raw/one)").todo

    mended = examine(parts=["remote"], mend=True)
    only(mended, "repaired")
    assert exit_status(mended) == SOUND
    assert get(bucket, client, MD5["one"]) == FILES["one"].encode()
    [kept] = client.list_objects_v2(Bucket=bucket.name, Prefix=bucket.key("crashcast-damaged", MD5["one"]))["Contents"]
    assert client.get_object(Bucket=bucket.name, Key=kept["Key"])["Body"].read() == content


def test_dvc_alone_takes_a_truncated_object_for_the_data(
    project: Path, bucket: buckets.Bucket, client: Any, tmp_path: Path
) -> None:
    put(bucket, client, MD5["one"], b"1" * 99)
    sh(f"git clone -q {project} {tmp_path / 'clone'}")
    os.chdir(tmp_path / "clone")
    dvc("remote", "modify", "s3", "verify", "false")
    dvc("pull")
    assert ONE.read_text() == "1" * 99
    assert "up to date" in sh("dvc status")

    found = examine(parts=DATA)

    told = [what for _, what in problems(found)]
    assert any("damaged in the cache: 1 of 3 files (data/raw/one)" in what for what in told)
    assert any("damaged on the remote, nor whole in the cache: 1 of 3 files" in what for what in told)
    os.chdir(project)
    assert exit_status(examine(parts=DATA, mend=True)) == SOUND
    os.chdir(tmp_path / "clone")
    assert exit_status(examine(parts=DATA, mend=True)) == SOUND
    assert (tmp_path / "clone" / ONE).read_text() == FILES["one"]


def test_what_the_servers_checksum_does_not_show_is_seen_by_size_or_by_reading_it(
    project: Path, bucket: buckets.Bucket, client: Any
) -> None:
    put_in_pieces(bucket, client, MD5["one"], FILES["one"].encode())
    put_in_pieces(bucket, client, MD5["two"], b"x" * 200)

    assert problems(examine(parts=["remote"])) == []
    only(examine(parts=["remote"], deep=True), "error", "1 of 3 files (data/raw/two)")

    put_in_pieces(bucket, client, MD5["two"], b"2" * 199)
    only(examine(parts=["remote"]), "error", "1 of 3 files (data/raw/two)")
    lose_data_here()  # no copy to compare with: the folder's size tells
    only(examine(parts=["remote"]), "error", "1 of 3 files (data/raw/two)")


def test_a_missing_file_of_a_pushed_folder_is_found_though_dvc_says_in_sync(
    project: Path, bucket: buckets.Bucket, client: Any
) -> None:
    remove(bucket, client, MD5["two"])
    assert "in sync" in sh("dvc status -c")
    assert "Everything is up to date" in sh("dvc push")

    assert only(examine(parts=["remote"]), "error", "not on the remote: 1 of 3 files (data/raw/two)").todo == (
        "crashcast doctor --repair"
    )
    assert exit_status(examine(parts=["remote"], mend=True)) == SOUND
    assert get(bucket, client, MD5["two"]) == FILES["two"].encode()


def test_a_forgotten_push_is_found_and_made_good(project: Path, bucket: buckets.Bucket) -> None:
    (FOLDER / "four").write_text("4")
    dvc("add", str(FOLDER))
    sh("git commit -q -a -m four")

    forgotten = only(examine(parts=["remote"]), "error", "not on the remote: 1 of 4 files (data/raw/four)")
    assert "and the list of its files" in forgotten.what
    assert forgotten.todo == "make push"
    assert problems(examine(["HEAD~1"], parts=["remote"])) == []

    assert exit_status(examine(parts=["remote"], mend=True)) == SOUND
    assert bucket.hash_of(files.md5(FOLDER)) == files.md5(FOLDER).removesuffix(".dir")


def test_a_large_remote_is_listed_by_folders_and_pages(
    bucket: buckets.Bucket, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = {f"ab{digit * 30}" for digit in "012"}
    for md5 in alike:
        put(bucket, client, md5, b"")
    listed = bucket.stored()
    assert listed.keys() > alike
    call = buckets.Bucket.call
    monkeypatch.setattr(buckets.Bucket, "call", lambda *args, **options: call(*args, **options, MaxKeys=1))

    for hashes in (None, listed, alike):
        pages = bucket.stored(hashes)
        assert pages.keys() == set(hashes or listed)
        assert all(told[:2] == listed[md5][:2] for md5, told in pages.items())


def test_the_data_of_every_commit_is_looked_at(project: Path, bucket: buckets.Bucket, client: Any) -> None:
    earlier = files.md5(FOLDER)
    ONE.unlink()
    new_data(bucket, "4")
    sh("git commit -q -a -m four")
    remove(bucket, client, MD5["one"])

    assert problems(examine(parts=["remote"])) == []
    only(examine(all_commits=True, parts=["remote"]), "error", "(data/raw/one)")
    assert exit_status(examine(all_commits=True, parts=["remote"], mend=True)) == SOUND
    assert MD5["one"] in bucket.stored()
    assert earlier in bucket.stored()


def test_a_damaged_cache_object_is_found_and_brought_back_from_the_remote(project: Path) -> None:
    Path("joined").unlink()  # the cache's copy is then the only one here
    path = cached(JOINED)
    edit_in_place(path, "damage")

    only(examine(parts=["cache"]), "error", "joined of", "damaged in the cache: the file")
    only(examine(parts=DATA, mend=True), "repaired", "the damaged files are kept: .dvc/cache/crashcast-damaged/")

    assert path.read_text() == FILES["one"] + FILES["two"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    [kept] = Path(".dvc/cache/crashcast-damaged").iterdir()
    assert kept.read_text().endswith("damage")


def test_damage_that_leaves_size_and_time_is_seen_with_deep(project: Path) -> None:
    path = cached(JOINED)
    assert problems(examine(parts=["cache"])) == []
    told = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"x" * told.st_size)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))

    assert problems(examine(parts=["cache"])) == []
    only(examine(parts=["cache"], deep=True), "error", "damaged in the cache")


def test_raw_data_edited_in_place_through_its_link_is_found_and_linked_anew(project: Path) -> None:
    assert ONE.stat().st_ino == cached(MD5["one"]).stat().st_ino
    edit_in_place(ONE, "edited")

    found = only(examine(parts=["cache"]), "error", "1 of 3 files (data/raw/one)", "edited in place: data/raw/one")
    assert found.todo == "crashcast doctor --repair"
    assert exit_status(examine(parts=("project", *DATA), mend=True)) == SOUND

    assert ONE.read_text() == FILES["one"]
    assert ONE.stat().st_ino == cached(MD5["one"]).stat().st_ino
    [kept] = Path(".dvc/cache/crashcast-damaged").iterdir()
    assert kept.read_text() == FILES["one"] + "edited"


def test_a_copy_in_the_work_tree_repairs_the_cache_without_the_remote(project: Path) -> None:
    text = ONE.read_bytes()
    ONE.unlink()
    ONE.write_bytes(text)
    edit_in_place(cached(MD5["one"]), "damage")

    assert exit_status(examine(parts=["cache"], mend=True)) == SOUND
    assert copy_of(ONE) == text


def test_the_last_copy_is_never_touched(project: Path, bucket: buckets.Bucket, client: Any) -> None:
    edit_in_place(ONE, "edited")
    put(bucket, client, MD5["one"], b"truncated")

    found = examine(parts=DATA, mend=True)

    assert exit_status(found) == WRONG
    assert all("not repaired" in what for _, what in problems(found))
    assert ONE.read_text() == cached(MD5["one"]).read_text() == FILES["one"] + "edited"
    assert get(bucket, client, MD5["one"]) == b"truncated"


def test_a_lost_list_of_files_is_written_anew(project: Path, bucket: buckets.Bucket, client: Any) -> None:
    listing = files.md5(FOLDER)
    before = cached(listing).read_bytes()
    cached(listing).unlink()
    remove(bucket, client, listing)

    only(examine(parts=DATA), "error", "the list of its files is lost")
    assert exit_status(examine(parts=DATA, mend=True)) == SOUND

    assert cached(listing).read_bytes() == before == get(bucket, client, listing)


@with_versions
@pytest.mark.parametrize("how", ["deleted", "overwritten"])
def test_an_object_that_was_deleted_or_overwritten_comes_back_from_its_older_version(
    project: Path, bucket: buckets.Bucket, client: Any, how: str
) -> None:
    listing = files.md5(FOLDER)
    lose_data_here()
    for md5 in (MD5["one"], listing):
        remove(bucket, client, md5) if how == "deleted" else put(bucket, client, md5, b"x")

    assert exit_status(examine(parts=["remote"])) == WRONG
    assert exit_status(examine(parts=["remote"], mend=True)) == SOUND

    dvc("pull")
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == FILES


@with_versions
def test_a_delete_marker_can_be_removed_by_hand(project: Path, bucket: buckets.Bucket, client: Any) -> None:
    """As docs/lost-data.md says."""
    remove(bucket, client, MD5["one"])
    key = bucket.object_key(MD5["one"])
    [marker] = client.list_object_versions(Bucket=bucket.name, Prefix=key)["DeleteMarkers"]
    client.delete_object(Bucket=bucket.name, Key=key, VersionId=marker["VersionId"])

    assert problems(examine(parts=["remote"])) == []


def conflict(text: str, theirs: str) -> str:
    return f"<<<<<<< HEAD\n{text}=======\n{theirs}>>>>>>> branch\n"


def test_a_lock_in_conflict_is_found_and_our_side_taken(project: Path) -> None:
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(conflict(lock, lock.replace("size: 300", "size: 301")))

    found = examine(parts=["project"])
    assert ("error", "dvc.lock: dvc.lock holds a merge conflict") in problems(found)
    examine(parts=["project"], mend=True)

    assert Path("dvc.lock").read_text() == lock
    assert problems(examine(parts=["project"])) == []
    assert "<<<<<<<" in (dvc_command.TEMPORARY / "crashcast/dvc.lock.1").read_text()


def test_a_commit_whose_lock_cannot_be_read_is_no_pass(project: Path) -> None:
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(conflict(lock, lock))
    sh("git commit -q -a -m conflict")

    found = examine(parts=["remote"])
    only(found, "error", "dvc.lock of", "unreadable, so what it needs is not known", "merge conflict")


def test_an_output_that_left_the_cache_is_as_committed_and_to_be_pulled(project: Path) -> None:
    path = Path(".dvc/cache/files/md5", JOINED[:2], JOINED[2:])
    path.unlink()

    assert [finding.what for finding in examine(parts=["project"]) if finding.todo == "make pull"] == [
        "as committed, but not in the cache"
    ]
    assert not any("is not what it records" in what for _, what in problems(examine(parts=["project"])))


def test_raw_data_that_left_the_cache_before_any_stage_ran_is_to_be_pulled(project: Path) -> None:
    Path("dvc.lock").unlink()
    shutil.rmtree(".dvc/cache/files/md5")

    (told,) = [finding for finding in examine(parts=["project"]) if finding.todo == "make pull"]
    assert (told.where, told.what) == (str(FOLDER), "as committed, but not in the cache")


def test_a_lock_edited_by_hand_is_found_and_the_committed_one_taken(project: Path) -> None:
    lock = Path("dvc.lock").read_text()
    edited = lock.replace(JOINED, "a" * 32)
    assert edited != lock
    Path("dvc.lock").write_text(edited)

    told = [what for _, what in problems(examine(parts=["project"]))]
    assert any("dvc.lock: not committed" in what for what in told)
    assert any("stage join is not what it records: joined" in what for what in told)
    assert any(finding.severity == "repaired" for finding in examine(parts=["project"], mend=True))

    assert Path("dvc.lock").read_text() == lock
    assert (dvc_command.TEMPORARY / "crashcast/dvc.lock.1").read_text() == edited
    assert problems(examine(parts=["project"])) == []


def test_a_committed_lock_edited_by_hand_names_an_object_that_nobody_has(project: Path) -> None:
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(lock.replace(JOINED, "a" * 32))
    sh("git commit -q -a -m edited")

    only(examine(parts=DATA), "error", "joined of", "not on the remote, nor whole in the cache: the file")
    assert "not repaired" in only(examine(parts=DATA, mend=True), "error").what


def test_a_stale_lock_is_told_and_left_to_dvc(project: Path) -> None:
    Path("dvc.yaml").write_text(PIPELINE.replace("cat ", "cat -u "))
    sh("git commit -q -a -m command")
    before = Path("dvc.lock").read_text()

    stale = only(examine(parts=["project"]), "warning", "stage join is not what it records: changed command")
    assert stale.todo.startswith("dvc repro")
    assert "not repaired" in only(examine(parts=["project"], mend=True), "warning").what
    assert Path("dvc.lock").read_text() == before


def test_edited_raw_data_is_told_apart_from_data_that_is_absent(project: Path) -> None:
    ONE.unlink()  # the link, as an editor does
    ONE.write_text("other")
    Path("joined").unlink()

    told = {finding.where: finding for finding in examine(parts=["project"]) if finding.severity == "warning"}

    assert told["data/raw"].todo.startswith("git restore data/raw.dvc && dvc checkout data/raw")
    assert "not the data that git knows" in told["data/raw"].what
    assert told["joined"].todo == "make pull"


def test_an_empty_rwlock_is_found_and_removed(project: Path) -> None:
    rwlock = Path(".dvc/tmp/rwlock")
    rwlock.write_text("")
    assert "RWLock-file" in sh("dvc status", check=False) + sh("dvc repro", check=False)

    found = [finding for finding in examine(parts=["project"]) if finding.where == str(rwlock)]
    assert [(finding.severity, finding.todo) for finding in found] == [("error", "rm .dvc/tmp/rwlock")]
    examine(parts=["project"], mend=True)

    assert problems(examine(parts=["project"])) == []
    dvc("repro")


@pytest.mark.parametrize("last", ["", "\n      md"])
def test_a_dvc_lock_that_a_kill_cut_short_is_found_and_restored(project: Path, last: str) -> None:
    whole = Path("dvc.lock").read_text()
    kept = whole.index(last) + len(last)
    Path("dvc.lock").write_text(whole[:kept])
    assert subprocess.run(["dvc", "repro"], capture_output=True).returncode == 255

    [found] = [finding for finding in examine(parts=["project"]) if finding.where == "dvc.lock"]
    assert (found.severity, found.todo) == ("error", "git restore dvc.lock && dvc repro")
    assert found.what == "empty or cut short by a kill, so DVC refuses to run"
    only(examine(parts=["project"], mend=True), "repaired", "HEAD's is back")

    assert Path("dvc.lock").read_text() == whole
    assert (dvc_command.TEMPORARY / "crashcast/dvc.lock.1").read_text() == whole[:kept]
    assert problems(examine(parts=["project"])) == []
    dvc("repro")


def test_locks_of_the_dead_the_living_and_of_others(project: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()

    def told(pid: int) -> list[tuple[str, str]]:
        holder = {"pid": pid, "cmd": "dvc repro"}
        Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": {}, "read": {"data/raw": [holder]}}))
        return [(found.severity, found.what) for found in examine(parts=["project"]) if "rwlock" in found.where]

    assert told(ended.pid) == [
        ("note", f"`dvc repro` was killed as process {ended.pid}: the next dvc command sees that")
    ]
    [(severity, what)] = told(os.getpid())
    assert (severity, "another program now" in what) == ("error", True)
    with subprocess.Popen(["bash", "-c", "exec -a dvc sleep 60"]) as living:
        time.sleep(0.2)
        assert told(living.pid) == [("note", f"`dvc repro` runs as process {living.pid}")]
        living.kill()


def test_nothing_is_repaired_while_a_dvc_command_runs(project: Path) -> None:
    edit_in_place(ONE, "edited")
    with dvc_command.kept_out(), pytest.raises(UserError, match="a dvc command is running"):
        subprocess_examine()


def subprocess_examine() -> None:
    code = "from crashcast.doctor import examine; examine(parts=['cache'], mend=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr)


def test_an_orphaned_stage_is_found_and_stopped(project: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as orphan:
        run_record.FOLDER.mkdir(parents=True, exist_ok=True)
        note = {"pid": orphan.pid, "started": psutil.Process(orphan.pid).create_time()}
        (run_record.FOLDER / "join.json").write_text(json.dumps(note))

        found = only(examine(parts=["project"]), "error", "stage join", f"process {orphan.pid} still runs it")
        assert found.todo == f"kill {orphan.pid}"
        only(examine(parts=["project"], mend=True), "repaired", "stopped")
        assert not psutil.pid_exists(orphan.pid)


@pytest.mark.parametrize(("is_down", "told"), [(True, "cannot be reached"), (False, "nowhere")])
def test_a_remote_that_is_down_or_has_no_such_bucket_is_no_pass(
    project: Path, bucket: buckets.Bucket, s3: dict[str, str], is_down: bool, told: str
) -> None:
    old, new = (s3["AWS_ENDPOINT_URL"], "http://127.0.0.1:1") if is_down else (f"s3://{bucket.name}/", "s3://nowhere/")
    config = Path(".dvc/config")
    config.write_text(config.read_text().replace(old, new))

    found = examine(parts=("bucket", *DATA))

    only(found, "unknown", "the remote", told)
    assert exit_status(found) == UNKNOWN
    assert any(finding.where == "cache" for finding in found)


def test_a_remote_that_stops_answering_is_no_pass(
    project: Path, bucket: buckets.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("reset by peer")

    monkeypatch.setattr(buckets.Bucket, "stored", fail)

    found = examine(parts=DATA)
    assert exit_status(found) == UNKNOWN
    only(found, "unknown", "stopped answering")


def test_each_operation_that_fails_is_named(
    project: Path, bucket: buckets.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = buckets.Bucket.call

    def refuse(refused: str) -> list[Finding]:
        def answer(self: buckets.Bucket, method: str, **arguments: Any) -> dict[str, Any]:
            if method == refused:
                raise UserError(f"{method}: access denied")
            return call(self, method, **arguments)

        monkeypatch.setattr(buckets.Bucket, "call", answer)
        return [*bucket_checks.check(bucket)]

    only(refuse("list_objects_v2"), "unknown", "cannot be listed", "access denied")
    only(refuse("put_object"), "warning", "put fails, so you cannot push")
    only(refuse("head_object"), "error", "head of what was just put there fails")
    only(refuse("delete_object"), "warning", "delete of what was just put there fails")


def test_a_clock_that_is_off_is_named(project: Path, bucket: buckets.Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = time.time()
    monkeypatch.setattr(bucket_checks, "time", SimpleNamespace(time=lambda: now_s - 300))

    clock = only([*bucket_checks.check(bucket)], "warning", "this machine's clock: ", "s behind the server's")
    assert 295 < float(clock.what.split()[0]) < 330


def test_the_trial_leaves_nothing_behind(project: Path, bucket: buckets.Bucket, client: Any) -> None:
    assert problems([*bucket_checks.check(bucket)]) == []

    scratch = client.list_objects_v2(Bucket=bucket.name, Prefix=bucket.key(bucket_checks.SCRATCH))
    assert scratch.get("Contents", []) == []


@pytest.fixture
def origin(project: Path, tmp_path: Path) -> Path:
    """Return a bare repository that the project pushes to, through the hook."""
    hook = project / ".git/hooks/pre-push"
    code = "import sys; from crashcast.doctor.pre_push import main; sys.exit(main(sys.argv[1]))"
    hook.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    hook.chmod(0o755)
    sh(f"git init -q --bare {tmp_path / 'origin'} && git remote add origin {tmp_path / 'origin'}")
    return tmp_path / "origin"


def test_a_commit_without_its_data_is_not_pushed(project: Path, origin: Path) -> None:
    sh("git push -q origin main")

    # the data of an earlier commit, on another branch, of a tag: `dvc push` of the work tree would miss it
    sh("git switch -q -c branch")
    (FOLDER / "four").write_text("4")
    dvc("add", str(FOLDER))
    sh("git commit -q -a -m four && git tag v4 && git revert --no-edit HEAD")
    for refs in ("branch", "v4", "main branch"):
        refused = sh(f"git push origin {refs}", check=False)
        assert "not on the remote: 1 of 4 files (data/raw/four)" in refused
        assert "failed to push" in refused
    assert sh("git branch --list", origin).split() == ["main"]
    sh("git push -q origin main")  # what it has already, and other branches, are not its matter

    assert exit_status(examine(["v4"], parts=["remote"], mend=True)) == SOUND
    sh("git push -q origin branch v4")
    sh("git push -q origin --delete v4")


def test_a_push_that_cannot_be_checked_is_refused(project: Path, origin: Path, s3: dict[str, str]) -> None:
    config = Path(".dvc/config")
    config.write_text(config.read_text().replace(s3["AWS_ENDPOINT_URL"], "http://127.0.0.1:1"))

    assert "cannot be reached" in sh("git push origin main", check=False)
    assert sh("git branch --list", origin) == ""


def new_data(bucket: buckets.Bucket, text: str) -> str:
    """Put a fourth file in the folder, track and push it as DVC does, and return its hash."""
    path, pointer = FOLDER / "four", Path(f"{FOLDER}.dvc")
    path.write_text(text)
    md5, listing = files.md5(path), files.md5(FOLDER)
    cached(md5).parent.mkdir(exist_ok=True)
    shutil.copy(path, cached(md5))
    repair.rebuild_list(Output(str(FOLDER), listing, None, "here"), None)
    pointer.write_text(f"outs:\n- md5: {listing}\n  size: {600 + len(text)}\n  nfiles: 4\n  hash: md5\n  path: raw\n")
    for new in (md5, listing):
        bucket.upload(new, cached(new))
    return md5


@pytest.fixture
def kept_and_not(project: Path, bucket: buckets.Bucket) -> SimpleNamespace:
    """Return hashes of files that some ref, stash or work tree needs, and of one that nothing needs."""
    sh("git switch -q -c branch")
    on_branch = new_data(bucket, "branch")
    sh("git commit -q -a -m branch")
    tagged = new_data(bucket, "tagged")
    sh("git commit -q -a -m tagged && git tag v1 && git reset -q --hard HEAD~1")
    stashed = new_data(bucket, "stashed")
    sh("git stash -q")
    garbage = new_data(bucket, "garbage")
    uncommitted = new_data(bucket, "uncommitted")
    return SimpleNamespace(kept={on_branch, tagged, stashed, uncommitted, *MD5.values()}, garbage=garbage)


def held() -> set[str]:
    return {path.parent.name + path.name for path in Path(".dvc/cache/files/md5").glob("??/*")}


def test_gc_keeps_what_any_commit_needs(
    project: Path, bucket: buckets.Bucket, kept_and_not: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [place.found for place in garbage.find(on_remote=True)] == [{}, {}]  # too young

    garbage.collect(on_remote=True, min_age_days=0, dry_run=True)
    assert kept_and_not.garbage in held()
    printed = capsys.readouterr().out
    assert f"  {kept_and_not.garbage}  0.000 MB, 0 days old" in printed
    assert "2 objects to delete, 0.0 MB; " in printed
    assert "stay: a commit here needs them, or they are younger than 0 days" in printed
    assert "is shared. What another project keeps there, or another clone has pushed" in printed

    garbage.collect(min_age_days=0, is_sure=True)
    assert kept_and_not.garbage in bucket.stored()  # the cache alone
    assert held() >= kept_and_not.kept
    assert kept_and_not.garbage not in held()

    garbage.collect(on_remote=True, min_age_days=0, is_sure=True)
    assert bucket.stored().keys() >= kept_and_not.kept
    assert kept_and_not.garbage not in bucket.stored()
    assert problems(examine(all_commits=True, parts=DATA)) == []
    assert garbage.find(on_remote=True, min_age_days=0)[1].found == {}

    # DVC must not believe that what was deleted is still there
    (FOLDER / "four").write_text("garbage")
    dvc("add", str(FOLDER))
    dvc("push", str(FOLDER))
    assert kept_and_not.garbage in bucket.stored()


def test_gc_keeps_what_a_branch_needs_that_was_not_fetched(
    project: Path, bucket: buckets.Bucket, tmp_path: Path
) -> None:
    sh(f"git clone -q {project} {tmp_path / 'clone'}")
    theirs = new_data(bucket, "theirs")
    sh("git switch -q -c theirs && git commit -q -a -m theirs")
    os.chdir(tmp_path / "clone")

    assert theirs in bucket.stored()
    assert theirs not in garbage.find(on_remote=True, min_age_days=0)[1].found

    shutil.move(project, tmp_path / "gone")
    with pytest.raises(UserError, match=r"nothing was deleted, .*: git ls-remote failed"):
        garbage.find(on_remote=True, min_age_days=0)


def test_gc_refuses_what_it_cannot_know(
    project: Path, bucket: buckets.Bucket, client: Any, tmp_path: Path, s3: dict[str, str]
) -> None:
    sh(f"git clone -q --depth 1 file://{project} {tmp_path / 'shallow'}")
    os.chdir(tmp_path / "shallow")
    with pytest.raises(UserError, match="this clone is shallow"):
        garbage.find()

    os.chdir(project)
    listing = files.md5(FOLDER)
    cached(listing).unlink()
    put(bucket, client, listing, b"[]")
    with pytest.raises(UserError, match="is damaged"):
        garbage.find()

    (project / ".dvc/config.local").write_text(f"[cache]\ndir = {tmp_path / 'shared'}\n")
    cache._configured.cache_clear()  # a command reads it once
    with pytest.raises(UserError, match="may be shared with other projects"):
        garbage.find()


def test_gc_asks(
    kept_and_not: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="nobody can be asked"):
        garbage.collect(min_age_days=0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    for answer, is_deleted in (("yes", False), ("2", True)):  # the file and the list of its folder
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        garbage.collect(min_age_days=0)
        assert (kept_and_not.garbage not in held()) == is_deleted
    assert "Nothing was deleted." in capsys.readouterr().out
