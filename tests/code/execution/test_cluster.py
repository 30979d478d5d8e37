"""What needs no cluster; tests/system/test_cluster.py has a real one."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from crashcast import tables
from crashcast.errors import UserError
from crashcast.execution import cluster
from crashcast.execution.cluster import Shared
from crashcast.execution.task import File, Period, Task
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
    return Shared(str(tmp_path / "shared"))


@pytest.mark.parametrize(
    ("workers", "shared", "message"),
    [
        ("host:8786", None, "must be the address of a scheduler, such as tls://host:8786"),
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


@pytest.mark.parametrize("shared", ["/mnt/shared", "s3://bucket", "s3://bucket/a/b/"])
@pytest.mark.parametrize("workers", ["tls://host:8786", "tcp://10.0.0.1:1", "auto", 3])
def test_a_cluster_is_told_from_this_machine(workers, shared):
    rules = Execution(workers=workers, shared=shared, memo_gb=1)
    assert rules.scheduler == (workers if "://" in str(workers) else None)
    assert rules.shared == shared.rstrip("/")


def test_a_task_arrives_as_it_was_described(tmp_path, shared):
    rows = pl.DataFrame({"timestamp": [datetime(2024, 1, 31, 23), datetime(2024, 2, 1)], "value": [1.0, 2.0]})
    rows = rows.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    for number, partition in enumerate((JANUARY, FEBRUARY)):
        tables.write(partition.path(tmp_path / "in"), rows[number : number + 1])
    (tmp_path / "file").write_text("content")
    frame = pl.DataFrame({"server_id": ["a", None], "n": [1, 2]}, schema_overrides={"n": pl.UInt8})
    rules = Features.read(ROOT / "params.yaml")
    period = Period(tmp_path / "in", FEBRUARY.start - HOUR, FEBRUARY.end, ("timestamp", "value"))
    inputs = {
        "rows": period.located([JANUARY, FEBRUARY]),
        "path": File(tmp_path / "file"),
        "frame": frame,
        "rules": rules,
        "reach": -HOUR / 7,
        "factor": 0.1,
        "nothing": None,
    }
    description, sources = cluster.pack("stage", compute, Task(FEBRUARY, inputs), "key", shared.url)
    assert len(description) < 3000
    assert len(sources) == 4
    for digest, source in sources.items():
        shared.put(source if isinstance(source, Path) else cluster.frame_bytes(source), f"inputs/{digest}")
    content = json.loads(description)
    fetched = cluster._Inputs(tmp_path / "worker", shared)
    arrived = {
        name: cluster._unpack(fetched, tmp_path / "task" / name, *packed) for name, packed in content["inputs"].items()
    }
    assert cluster._unpack_partition(*content["partition"]) == FEBRUARY
    assert_frame_equal(arrived.pop("rows").read(), rows)
    assert arrived.pop("path").path.read_text() == "content"
    assert_frame_equal(arrived.pop("frame"), frame)
    assert arrived == {name: inputs[name] for name in ("rules", "reach", "factor", "nothing")}


def test_what_is_put_appears_whole_and_once(tmp_path, shared):
    (source := tmp_path / "source").write_text("content")
    assert not shared.has("inputs/a")
    assert not shared.get("inputs/a", tmp_path / "copy")
    shared.put(source, "inputs/a")
    shared.put(b"bytes", "inputs/a")
    assert shared.has("inputs/a")
    assert shared.get("inputs/a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"bytes"
    assert [path.name for path in (tmp_path / "shared" / "inputs").iterdir()] == ["a"]
    shared.remove("inputs/a")
    shared.remove("inputs/a")
    assert not shared.has("inputs/a")


def test_a_worker_keeps_what_it_fetched_within_bounds(tmp_path, shared, monkeypatch):
    fetched = cluster._Inputs(tmp_path / "worker", shared)
    digests = []
    for text in (b"one", b"two", b"three"):
        (tmp_path / "file").write_bytes(text)
        digests.append(cluster.sha256(tmp_path / "file"))
        shared.put(text, f"inputs/{digests[-1]}")
        fetched.fetch(digests[-1])
    monkeypatch.setattr(cluster, "KEPT_BYTES", 8)
    fetched.trim()
    assert {path.name for path in (tmp_path / "worker").iterdir()} == set(digests[1:])


def test_a_worker_of_several_threads_or_without_the_code_is_refused():
    description = {"function": ["stages.unknown", "compute"], "code": ""}
    assert cluster._refusal(description, 2) == {
        "refuses": ["it does 2 tasks at a time in one process: start it with --nthreads 1"]
    }
    assert cluster._refusal(description, 1) == {"refuses": ["no module named stages.unknown there"]}


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


def test_a_task_whose_workers_are_gone_goes_to_others_but_the_refused(monkeypatch):
    scheduler = Scheduler("stale", "good")
    crew = cluster._Crew(scheduler, "tls://host:8786", "stage", Task, ["description"])
    crew.submit(0)
    crew._refuse({"worker": "stale", "place": "host", "refuses": ["it is old"]})
    crew.submit(0)
    scheduler.workers = {"stale": 1, "new": 1}
    crew._look_after_workers()
    assert scheduler.given == [None, ["good"], ["new"]]
    scheduler.workers = {"stale": 1}
    with pytest.raises(UserError, match=r"has no other worker: worker stale \(host\) is refused: it is old"):
        crew._look_after_workers()
    scheduler.workers = {}
    monkeypatch.setattr(cluster, "PATIENCE_S", -1)
    with pytest.raises(UserError, match="has had no worker"):
        crew._look_after_workers()
