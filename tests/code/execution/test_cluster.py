"""What needs no cluster; tests/system/test_cluster.py has a real one."""

from __future__ import annotations

import errno
import json
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from crashcast import tables
from crashcast.errors import UserError
from crashcast.execution.cluster import packing, worker
from crashcast.execution.cluster.client import Dispatcher
from crashcast.execution.cluster.storage import Storage, StorageError
from crashcast.execution.cluster.worker import Inputs
from crashcast.execution.memo import Memo
from crashcast.execution.task import File, Folder, Period, Task, fingerprint
from crashcast.files import sha256
from crashcast.params.execution import Execution
from crashcast.params.features import Features
from crashcast.tables import partition_at

ROOT = Path(__file__).parents[3]
HOUR = timedelta(hours=1)
JANUARY, FEBRUARY = (partition_at(datetime(2024, month, 1), "month") for month in (1, 2))


def compute(partition, **inputs):
    raise NotImplementedError


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "shared").mkdir()
    return Storage(str(tmp_path / "shared"))


@pytest.mark.parametrize(
    ("workers", "shared", "message"),
    [
        ("host:8786", None, "must be the address of a scheduler, such as tls://host:8786"),
        ("tcp://host:8786", None, "tcp:// asks nobody who they are"),
        ("tcp://127.0.0.1.evil.example:1", None, "tcp:// asks nobody who they are"),
        ("tcp://localhost@evil.example:1", None, "tcp:// asks nobody who they are"),
        ("tls://host", None, "must be the address of a scheduler, such as tls://host:8786"),
        (
            "tls://host:8786",
            None,
            "workers: tls://host:8786 needs `shared`: a folder that this machine and the workers",
        ),
        ("tls://host:8786", "mnt/shared", "must be null, an absolute folder or s3://bucket/prefix"),
        ("tls://host:8786", "gs://bucket", "must be null, an absolute folder or s3://bucket/prefix"),
    ],
)
def test_where_to_compute_is_checked(tmp_path, workers, shared, message):
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({"execution": {"workers": workers, "shared": shared, "memo_gb": 1}}))
    with pytest.raises(UserError) as refusal:
        Execution.read(path)
    assert message in str(refusal.value)


def test_a_clone_may_have_a_cluster_of_its_own(tmp_path, monkeypatch):
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({"execution": {"workers": "auto", "shared": None, "memo_gb": 1}}))
    monkeypatch.setenv("CRASHCAST_WORKERS", "tls://host:8786")
    with pytest.raises(UserError, match=r"^CRASHCAST_WORKERS: workers: tls://host:8786 needs `shared`"):
        Execution.read(path)
    monkeypatch.setenv("CRASHCAST_SHARED", "s3://bucket/prefix/")
    found = Execution.read(path)
    assert (found.scheduler, found.shared, found.memo_gb) == ("tls://host:8786", "s3://bucket/prefix", 1)
    monkeypatch.setenv("CRASHCAST_WORKERS", "3")
    assert Execution.read(path).workers == 3
    monkeypatch.setenv("CRASHCAST_WORKERS", "many")
    with pytest.raises(UserError, match=r"^CRASHCAST_WORKERS, CRASHCAST_SHARED: .*"):
        Execution.read(path)


def test_a_full_storage_holds_no_half_file(shared, monkeypatch):
    def half(path, content):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared._files, "pipe_file", half)
    with pytest.raises(StorageError, match=r"cannot be used from .*No space left on device"):
        shared.put(b"content", "memo/name")
    assert [path for path in Path(shared.url).rglob("*") if path.is_file()] == []


def test_a_storage_is_used_if_it_holds_what_the_client_wrote(shared):
    shared.put(b"", "probes/marker")
    shared.check("probes/marker")
    assert [path.name for path in Path(shared.url).rglob("*") if path.is_file()] == ["marker"]
    with pytest.raises(StorageError, match="is not the storage that the client uses"):
        shared.check("probes/other")


@pytest.mark.parametrize("shared", ["/mnt/shared", "s3://bucket", "s3://bucket/a/b/"])
@pytest.mark.parametrize("workers", ["tls://host:8786", "tcp://127.0.0.1:1", "tcp://localhost:1", "auto", 3])
def test_a_cluster_is_told_from_this_machine(workers, shared):
    rules = Execution(workers=workers, shared=shared, memo_gb=1)
    assert rules.scheduler == (workers if "://" in str(workers) else None)
    assert rules.shared == shared.rstrip("/")


def test_a_task_survives_the_way_to_a_worker(tmp_path, shared):
    rows = pl.DataFrame({"timestamp": [datetime(2024, 1, 31, 23), datetime(2024, 2, 1)], "value": [1.0, 2.0]})
    rows = rows.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    for number, partition in enumerate((JANUARY, FEBRUARY)):
        tables.write(partition.path(tmp_path / "in"), rows[number : number + 1])
    (tmp_path / "file").write_text("content")
    frame = pl.DataFrame({"server_id": ["a", None], "n": [1, 2]}, schema_overrides={"n": pl.UInt8})
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (tmp_path / "folder" / name).write_text(name)
    rules = Features.read(ROOT / "params.yaml")
    period = Period.among(
        [JANUARY, FEBRUARY], tmp_path / "in", FEBRUARY.start - HOUR, FEBRUARY.end, ("timestamp", "value")
    )
    inputs = {
        "rows": period,
        "path": File(tmp_path / "file"),
        "folder": Folder(tmp_path / "folder"),
        "rule": {"method": "time", "periods": [[1, None], [0.1]]},
        "frame": frame,
        "rules": rules,
        "reach": -HOUR / 7,
        "factor": 0.1,
        "nothing": None,
    }
    task, store = Task(FEBRUARY, inputs), Memo(tmp_path / "memo")
    packed, contents = packing.pack(task, store.digests.of)
    description = json.dumps(packed)
    assert len(description) < 3000
    assert len(contents) == 6
    for digest, content in contents.items():
        shared.put(packing.bytes_of(content), f"files/{digest}")
    arrived = packing.unpack(json.loads(description), tmp_path / "task", Inputs(tmp_path / "worker", shared).fetch)
    assert arrived.partition == FEBRUARY
    for name, item in inputs.items():
        other_store = Memo(tmp_path / "memo of the worker")
        assert fingerprint(arrived.inputs[name], FEBRUARY, other_store) == fingerprint(item, FEBRUARY, store), name
    found = dict(arrived.inputs)
    assert_frame_equal(found.pop("rows").read(), rows)
    assert found.pop("path").path.read_text() == "content"
    folder = found.pop("folder")
    assert [(folder.name(file), file.read_text()) for file in folder.files] == [("a", "a"), ("deep/b", "deep/b")]
    assert_frame_equal(found.pop("frame"), frame)
    assert found == {name: inputs[name] for name in ("rule", "rules", "reach", "factor", "nothing")}


def test_what_is_put_appears_whole_and_once(tmp_path, shared):
    (source := tmp_path / "source").write_text("content")
    assert not shared.has("files/a")
    assert not shared.get("files/a", tmp_path / "copy")
    shared.put(source, "files/a")
    shared.put(b"bytes", "files/a")
    assert shared.has("files/a")
    assert shared.get("files/a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"bytes"
    assert [path.name for path in (tmp_path / "shared" / "files").iterdir()] == ["a"]
    shared.remove("files/a")
    shared.remove("files/a")
    assert not shared.has("files/a")


def test_a_worker_keeps_what_it_fetched_within_bounds(tmp_path, shared, monkeypatch):
    fetched = Inputs(tmp_path / "worker", shared)
    digests = []
    for text in (b"one", b"two", b"three"):
        (tmp_path / "file").write_bytes(text)
        digests.append(sha256(tmp_path / "file"))
        shared.put(text, f"files/{digests[-1]}")
        fetched.fetch(digests[-1])
    shared.remove(f"files/{digests[-1]}")
    (tmp_path / "worker" / digests[-1]).unlink()
    fetched.keep(tmp_path / "file", digests[-1])  # a result is fetched from nowhere
    assert fetched.fetch(digests[-1]).read_bytes() == b"three"
    monkeypatch.setattr(worker, "KEPT_BYTES", 8)
    fetched.trim()
    assert {path.name for path in (tmp_path / "worker").iterdir()} == set(digests[1:])


def test_a_worker_of_several_threads_or_without_the_code_is_refused():
    description = {"function": ["stages.unknown", "compute"], "code": ""}
    assert worker.refusal_of(description, 2) == {
        "refuses": ["it does 2 tasks at a time in one process: start it with --nthreads 1"]
    }
    assert worker.refusal_of(description, 1) == {"refuses": ["no module named stages.unknown there"]}


class Scheduler:
    """What a client shows of a scheduler."""

    def __init__(self, *workers):
        self.workers = dict.fromkeys(workers, 1)
        self.given = []

    def nthreads(self):
        return self.workers

    def submit(self, *_, workers, **__):
        self.given.append(workers)
        return Future()


class Future:
    def add_done_callback(self, call):
        pass


def test_a_task_whose_workers_are_gone_goes_to_others_but_the_refused():
    scheduler = Scheduler("stale", "good")
    dispatcher = Dispatcher(scheduler, "tls://host:8786", 60, "stage", Task, ["description"])
    dispatcher.submit(0)
    dispatcher.refuse({"worker": "stale", "place": "host", "refuses": ["it is old"]})
    dispatcher.submit(0)
    scheduler.workers = {"stale": 1, "new": 1}
    dispatcher.look_after_workers()
    assert scheduler.given == [None, ["good"], ["new"]]
    scheduler.workers = {"stale": 1}
    with pytest.raises(UserError, match=r"has no other worker: worker stale \(host\) is refused: it is old"):
        dispatcher.look_after_workers()
    scheduler.workers = {}
    dispatcher.patience_s = -1
    with pytest.raises(UserError, match="has had no worker"):
        dispatcher.look_after_workers()
