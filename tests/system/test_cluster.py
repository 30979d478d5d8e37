"""Partitions computed by a real scheduler and workers over TLS, started as docs/cluster.md says, in folders apart."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path

import polars as pl
import psutil
import pytest
import yaml

from crashcast import tables
from crashcast.errors import UserError
from crashcast.execution import code_hash, memo, runner
from crashcast.execution.cluster import client
from crashcast.execution.cluster.client import Dispatcher
from crashcast.execution.cluster.storage import Storage
from crashcast.execution.task import File, Period, Task
from crashcast.files import md5, sha256
from crashcast.params.clean import Clean
from crashcast.tables import partition_at
from crashcast.versioning import cache, local_s3

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
import dask  # noqa: E402

pytestmark = pytest.mark.ci
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
CERTIFICATES, SETTINGS, SCHEDULER, WORKER = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
DAY = timedelta(days=1)
MONTHS = [partition_at(datetime(2024, month, 1), "month") for month in range(1, 7)]

TASKS = """
import os
import time
from pathlib import Path

import polars as pl

from crashcast.errors import UserError


def note(partition, notes):
    with open(notes, "a") as file:
        file.write(f"{partition.name} {os.getpid()} {os.getcwd()}\\n")
    while Path(f"{notes}.hold").exists():
        time.sleep(0.02)


def scaled(partition, rows, servers, file, rules, reach, factor, notes):
    note(partition, notes)
    rows = rows.join(servers, on="server_id").with_columns(pl.col("value") * factor)
    bytes_ = len(file.read_bytes())
    return rows, {"rows": rows.height, "bytes": bytes_, "reach": str(reach), "fill": str(rules.fill_limit)}


def one_missing(partition, rows, notes):
    return rows.clear() if partition.start.month == 3 else rows, {"rows": rows.height}


def bad_input(partition, rows, notes):
    raise UserError(f"{partition.name} is bad")


def reads_a_broken_file(partition, file, notes):
    from crashcast import tables

    return tables.read(file), {}


def ends_its_worker(partition, rows, notes):
    note(partition, notes)
    os._exit(1)
"""


class Machines:
    """A scheduler, workers and their folders."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder = folder
        self.environment = environment
        self.address = f"127.0.0.1:{free_port()}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.certificates = folder / "certificates"
        self.certificates.mkdir()
        subprocess.run(["bash", "-ec", CERTIFICATES], cwd=self.certificates, check=True, capture_output=True)

    def start(self, command: str, folder: Path, address: str = "") -> subprocess.Popen[bytes]:
        settings = SETTINGS.replace("scheduler.example.com:8786", address or self.address)
        script = f"cd {self.certificates}\n{settings}\ncd {folder}\nexec env {command}"
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-ec", script],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_scheduler(self, address: str) -> subprocess.Popen[bytes]:
        folder = self.folder / address
        folder.mkdir()
        return self.start(SCHEDULER, folder, address)

    def start_worker(self, name: str, tasks: str = TASKS, inside: str = "") -> subprocess.Popen[bytes]:
        clone = self.folder / name
        shutil.copytree(ROOT / "src", clone / "src", ignore=shutil.ignore_patterns("__pycache__"))
        (clone / "src" / "cluster_tasks.py").write_text(tasks)
        return self.start(f"{inside} env {WORKER}" if inside else WORKER, clone)

    @property
    def driver_settings(self) -> dict[str, str]:
        script = f"{SETTINGS}\nenv -0"
        told = subprocess.run(
            ["bash", "-ec", script], cwd=self.certificates, check=True, capture_output=True, text=True
        )
        entries = dict(entry.split("=", 1) for entry in told.stdout.split("\0") if entry)
        return {name: value for name, value in entries.items() if name.startswith("DASK_")}

    def client(self) -> distributed.Client:
        return distributed.Client(f"tls://{self.address}", set_as_default=False)

    def stop(self) -> None:
        for process in self.processes:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        for member in [process, *psutil.Process(process.pid).children(recursive=True)]:  # the first restarts the others
            with suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def machines(tmp_path_factory, s3):
    """Start a scheduler and two workers, each in a folder of its own."""
    started = Machines(tmp_path_factory.mktemp("machines"), s3)
    with pytest.MonkeyPatch.context() as patch:
        try:
            started.start_scheduler(started.address)
            for name in ("one", "two"):
                started.start_worker(name)
            for name, value in started.driver_settings.items():
                patch.setenv(name, value)
            dask.config.refresh()
            with started.client() as client:
                client.wait_for_workers(2, timeout=60)
            yield started
        finally:
            started.stop()
    dask.config.refresh()


@pytest.fixture
def project(machines, tmp_path, monkeypatch):
    """Make a project with a table of six months, and a folder to share."""
    folder = tmp_path / "driver"
    (folder / ".dvc").mkdir(parents=True)
    (folder / "cluster_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "cluster_tasks", raising=False)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cache, "root", lambda: folder / ".dvc" / "cache")
    for month in MONTHS:
        moments = pl.datetime_range(month.start, month.end, "1m", eager=True, closed="left", time_zone="UTC")
        rows = pl.DataFrame({"timestamp": moments.dt.cast_time_unit("us"), "server_id": "a"})
        tables.write(month.path(Path("in")), rows.with_columns(value=pl.int_range(pl.len()).hash().cast(pl.Float64)))
    Path("file").write_text("content")
    (tmp_path / "shared").mkdir()
    execution(f"tls://{machines.address}", tmp_path / "shared")
    return folder


def execution(workers, shared=None, patience="1m"):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["execution"] |= {
        "workers": workers,
        "shared": None if shared is None else str(shared),
        "patience": patience,
    }
    content["demo"] |= {"servers": 20, "months": 2}
    Path("params.yaml").write_text(yaml.safe_dump(content))


def tasks_of(name, months):
    notes = str(Path("..", "notes").resolve())
    if name == "reads_a_broken_file":
        return [Task(month, {"file": File(Path("file")), "notes": notes}) for month in months]
    more = {}
    if name == "scaled":
        more = {
            "servers": pl.DataFrame({"server_id": ["a"], "rack": [None]}, schema_overrides={"rack": pl.String}),
            "file": File(Path("file")),
            "rules": Clean.read(),
            "reach": DAY + timedelta(microseconds=1),
            "factor": 0.1,
        }
    return [
        Task(month, {"rows": Period.among(MONTHS, Path("in"), month.start - DAY, month.end), "notes": notes, **more})
        for month in months
    ]


def run(name, out="out", months=MONTHS):
    compute = getattr(importlib.import_module("cluster_tasks"), name)
    return runner.run("scaling", compute, tasks_of(name, months), Path(out))


def alone(name, monkeypatch):
    """Return counts and hash of the same, computed in this process."""
    before = Path("params.yaml").read_text()
    execution(1)
    with monkeypatch.context() as patch:
        patch.setenv(memo.SWITCH, "off")
        counts = run(name, "alone")
    Path("params.yaml").write_text(before)
    Path("..", "notes").unlink(missing_ok=True)
    return counts, md5(Path("alone"))


def noted():
    """Return partition, process and folder of each call."""
    return [line.split() for line in Path("..", "notes").read_text().splitlines()]


@contextmanager
def meanwhile(act):
    """Hold all tasks back until two of them run and `act(calls)` is done."""
    hold = Path("..", "notes.hold").resolve()
    hold.touch()
    notes = hold.with_name("notes")

    def watch():
        wait_for(lambda: notes.exists() and len(notes.read_text().splitlines()) == 2)
        act([line.split() for line in notes.read_text().splitlines()])
        hold.unlink()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_workers_in_folders_of_their_own_write_what_one_process_writes(project, machines, monkeypatch, capsys):
    expected = alone("scaled", monkeypatch)
    sent = []
    submit = distributed.Client.submit

    def recording(client, *args, **kwargs):
        sent.append((args, kwargs))
        return submit(client, *args, **kwargs)

    monkeypatch.setattr(distributed.Client, "submit", recording)
    capsys.readouterr()
    counts = run("scaled")
    assert (counts, md5(Path("out"))) == expected
    assert capsys.readouterr().err.splitlines() == [
        *(f"scaling: partition {number} of 6" for number in (2, 4, 6)),
        "scaling: 6 partitions, 6 computed, 0 from the memo",
    ]
    assert sorted(name for name, *_ in noted()) == [month.name for month in MONTHS]
    assert {folder for *_, folder in noted()} == {str(machines.folder / name) for name in ("one", "two")}
    # what the scheduler sees of 6 files of 350 kB
    assert len(sent) == 6
    assert max(len(pickle.dumps(item)) for item in sent) < 2000
    assert MONTHS[0].path(Path("in")).stat().st_size > 300_000

    shutil.rmtree("out")  # the local memo
    run("scaled")
    assert capsys.readouterr().err.splitlines()[-1] == "scaling: 6 partitions, 0 computed, 6 from the memo"
    memo.find().clear()  # the shared one, of which a damaged entry is none
    record = memo.read(sorted(Path("..", "shared", "memo").iterdir())[2])
    damaged = Path("..", "shared", "files", record["sha256"])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    run("scaled")
    assert capsys.readouterr().err.splitlines()[-1] == "scaling: 6 partitions, 1 computed, 5 from the memo"
    assert md5(Path("out")) == expected[1]
    assert len(noted()) == 7
    assert not [path for path in Path("..", "shared").rglob("*") if path.is_file() and "." in path.stem]


def test_a_lost_worker_costs_time_alone(project, machines, monkeypatch):
    expected = alone("scaled", monkeypatch)
    with meanwhile(lambda calls: os.kill(int(calls[0][1]), signal.SIGKILL)):
        counts = run("scaled")
    assert (counts, md5(Path("out"))) == expected
    assert len(noted()) == 7  # only what was lost was computed again
    assert {name for name, *_ in noted()} == {month.name for month in MONTHS}


def test_ctrl_c_leaves_nothing_behind(project, machines):
    before = sorted(path.name for path in project.iterdir())
    with meanwhile(lambda calls: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        run("scaled")
    assert sorted(path.name for path in project.iterdir() if path.name != "__pycache__") == before
    with machines.client() as client:
        wait_for(lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0)


def test_an_empty_result_leaves_no_file(project):
    assert [count["rows"] for count in run("one_missing")][2] > 0
    assert MONTHS[2].name not in [path.name for path in Path("out").iterdir()]
    memo.find().clear()
    run("one_missing")
    assert len(list(Path("out").iterdir())) == 5


def test_errors_are_those_of_one_process(project):
    with pytest.raises(UserError, match=r"^month=2024-0\d is bad$"):
        run("bad_input")
    with pytest.raises(UserError, match=r"^file is not a readable Parquet file"):
        run("reads_a_broken_file")
    assert not Path("out").exists()


def test_a_damaged_input_is_uploaded_again(project):
    february = MONTHS[1].path(Path("in"))
    tables.write(february, tables.read(february).with_columns(pl.col("value") + 1))  # which no worker has yet
    digest = sha256(february)
    (damaged := Path("..", "shared", "files", digest)).parent.mkdir()
    damaged.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"files/{digest} is missing or damaged: run `dvc repro` again"):
        run("one_missing")
    run("one_missing")
    assert sha256(damaged) == digest


def test_the_stages_share_a_bucket(project, machines, s3, monkeypatch, capsys):
    for name, value in s3.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", s3["NO_PROXY"])
    from crashcast.sources.demo import simulator

    small = {"demo": {"servers": 60, "months": 3}, "evaluate": {"replicates": 100}}
    boosting = {"learning_rate": [0.1], "max_iter": 5, "max_leaf_nodes": [7], "min_samples_leaf": 50}
    small["train"] = {"candidates": {"hist_gradient_boosting": {**boosting, "l2_regularization": 1.0}}}
    execution(1)
    edit(small)
    simulator.write()
    shutil.copy(ROOT / "data/raw/annotations.parquet", "data/raw")
    Path("data", "validated.json").write_text('{"success": true}')
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

    def all_stages():
        for stage in ("clean", "label", "featurize", "split", "train", "evaluate"):
            _, _, name, *paths = stages[stage]["cmd"].split()
            importlib.import_module(f"stages.{name}").main(*map(Path, paths))
        return {path: md5(path) for folder in ("data", "metrics", "models", "plots") for path in Path(folder).iterdir()}

    with monkeypatch.context() as patch:
        patch.setenv(memo.SWITCH, "off")
        expected = all_stages()
    made = [Path("data", name) for name in ("clean", "labels", "features", "predictions")]
    assert md5(made[-1]) == expected[made[-1]]
    for folder in (*made, Path("models")):
        shutil.rmtree(folder)
    execution(f"tls://{machines.address}", f"s3://{local_s3.BUCKET}/team/one")
    edit(small)
    capsys.readouterr()
    uploaded = []
    put = Storage.put
    monkeypatch.setattr(Storage, "put", lambda self, source, name: uploaded.append(name) or put(self, source, name))
    assert all_stages() == expected
    told = capsys.readouterr().err
    computed = re.findall(r"(\w+): (\d+) (?:partition|fold)s, \2 computed, 0 from the memo", told)
    steps = ["clean", "evidence", "label", "featurize", "count", "sample", "fit", "scores", "evaluate"]
    assert [step for step, _ in groupby(name for name, _ in computed)] == steps
    assert "count: 3 partitions, 0 computed, 3 from the memo" in told  # evaluate's
    # what a worker made is no upload of the next stage
    results = {f"files/{sha256(file)}" for folder in made for file in folder.rglob("*.parquet")}
    assert len(results) > 9
    assert not results & {*uploaded}


def edit(sections):
    """Change values in params.yaml."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    for name, values in sections.items():
        content[name] |= values
    Path("params.yaml").write_text(yaml.safe_dump(content))


def test_a_worker_with_other_code_is_refused_and_the_others_do_its_tasks(project, machines, monkeypatch, capsys):
    expected = alone("scaled", monkeypatch)
    other = machines.start_worker("other", TASKS.replace("* factor", "* factor * 2"))
    try:
        with machines.client() as client:
            client.wait_for_workers(3, timeout=60)
        counts = run("scaled")
    finally:
        stop(other)
    assert (counts, md5(Path("out"))) == expected
    refusals = [line for line in capsys.readouterr().err.splitlines() if "refused" in line]
    assert len(refusals) == 1
    assert re.fullmatch(
        r"scaling: worker tls://127\.0\.0\.1:\d+ \(.*, .*/other\) is refused: cluster_tasks\.py differs; see .*",
        refusals[0],
    )
    assert str(machines.folder / "other") not in {folder for *_, folder in noted()}


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ("--ro-bind {shared} {shared}", r"shared cannot be used from \S+: .*Read-only file system"),
        ("--tmpfs {shared}", r"shared on \S+ is not the storage that the client uses: mount the same there"),
        ("--tmpfs {project}", r"shared, which .* is no folder on \S+: mount it there"),
    ],
    ids=["read-only", "another", "none"],
)
def test_a_worker_that_cannot_use_the_storage_is_refused_and_the_others_do_its_tasks(
    project, machines, monkeypatch, capsys, seen, reason
):
    expected = alone("scaled", monkeypatch)
    folders = {"shared": project.parent / "shared", "project": project.parent}
    blind = machines.start_worker(
        f"blind-{len(machines.processes)}", inside=f"bwrap --dev-bind / / {seen.format(**folders)} --die-with-parent"
    )
    try:
        with machines.client() as client:
            client.wait_for_workers(3, timeout=60)
        counts = run("scaled")
    finally:
        stop(blind)
    assert (counts, md5(Path("out"))) == expected
    refusals = [line for line in capsys.readouterr().err.splitlines() if "refused" in line]
    assert len(refusals) == 1
    assert re.search(rf"^scaling: worker tls://\S+ \(.*/blind-\d+\) is refused: .*{reason}", refusals[0])
    assert not [*Path("..", "shared", "probes").iterdir()]


def test_workers_end_if_their_scheduler_does(machines, tmp_path):
    """So whoever restarts a service starts both; docs/cluster.md says it."""
    scheduler = machines.start_scheduler(address := f"127.0.0.1:{free_port()}")
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "src", clone / "src", ignore=shutil.ignore_patterns("__pycache__"))
    worker = machines.start(WORKER, clone, address)
    with distributed.Client(f"tls://{address}", set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    stop(scheduler)
    assert worker.wait(60) is not None


def test_other_library_versions_are_refused_and_named(project, monkeypatch):
    monkeypatch.setattr(code_hash, "version", lambda library: "0.1")
    code_hash.digest.cache_clear()
    try:
        with pytest.raises(UserError) as refusal:
            run("scaled")
    finally:
        code_hash.digest.cache_clear()
    assert re.search(
        r"has no other worker: worker tls://.* is refused: .*polars is 2\S* instead of 0\.1", str(refusal.value)
    )


def test_a_certificate_of_another_authority_is_refused(project, machines, tmp_path):
    subprocess.run(["bash", "-ec", CERTIFICATES], cwd=tmp_path, check=True, capture_output=True)
    foreign = {
        "distributed.comm.tls.ca-file": str(machines.certificates / "authority.pem"),
        "distributed.comm.tls.client.cert": str(tmp_path / "node.pem"),
    }
    with (
        dask.config.set(foreign),
        pytest.raises(UserError, match=r"cannot be reached: .*are its certificates set here"),
    ):
        run("scaled")
    with (
        dask.config.set({"distributed.comm.tls.client.cert": None, "distributed.comm.tls.ca-file": None}),
        pytest.raises(UserError, match=r"cannot be reached: .*are its certificates set here"),
    ):
        run("scaled")


def test_a_scheduler_that_is_not_there_is_named(project, tmp_path, monkeypatch):
    execution(address := f"tls://127.0.0.1:{free_port()}", tmp_path / "shared")
    monkeypatch.setattr(client, "CONNECT_S", 1.0)
    with pytest.raises(UserError, match=f"the scheduler {address} of execution.workers cannot be reached"):
        run("scaled")


def test_a_scheduler_without_workers_and_one_that_goes_away_end_the_run(project, machines, monkeypatch):
    alone = machines.start_scheduler(address := f"127.0.0.1:{free_port()}")
    execution(f"tls://{address}", Path("..", "shared").resolve(), patience="1s")
    with pytest.raises(UserError, match=r"has had no worker for 1 s: start some as \S+ says, or wait"):
        run("scaled")
    submit = Dispatcher.submit

    def submit_and_kill(dispatcher, position):
        submit(dispatcher, position)
        if position == 5:
            alone.kill()

    monkeypatch.setattr(Dispatcher, "submit", submit_and_kill)
    with pytest.raises(UserError, match=r"the scheduler tls://\S* went away: start it, and the workers, which"):
        run("scaled")


def test_a_task_that_kills_its_workers_ends_the_run(project):
    with pytest.raises(UserError, match=r"killed one after the other, most likely because memory ran out"):
        run("ends_its_worker", months=MONTHS[:1])
    assert len(noted()) == 4


def test_storage_that_is_not_there_is_named(project, machines, tmp_path):
    execution(f"tls://{machines.address}", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"nowhere, which .* names as execution.shared, is no folder on"):
        run("scaled")


def test_without_a_memo_there_is_no_cluster(project, monkeypatch):
    monkeypatch.setenv(memo.SWITCH, "off")
    with pytest.raises(UserError, match=r"leave CRASHCAST_MEMO out"):
        run("scaled")


def test_without_the_extra_it_is_named(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"needs dask\.distributed: make cluster-env"):
        run("scaled")
