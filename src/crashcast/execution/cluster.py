"""Partitions on a `dask.distributed` cluster: descriptions, hashes and counts pass its scheduler, rows never do.

The driver, which is a stage on the machine where `dvc repro` was typed, puts a task's inputs into shared storage, by
hash, and submits a description. A worker that runs the same code on the same library versions fetches them, computes,
puts the result and its record there, and answers with hash and counts; the driver fetches the result. Shared storage
holds nothing that could not be uploaded or computed again:

    inputs/SHA256                       files, and frames in Arrow's format
    memo/KEY.parquet, memo/KEY.json     results, as in the memo
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl

from crashcast.errors import UserError
from crashcast.execution import code_hash, memo
from crashcast.execution.task import Compute, Counts, File, Period, Results, Task, execute, frame_bytes, frame_digest
from crashcast.files import Signature, link, sha256, signature
from crashcast.params.base import Section
from crashcast.params.every_section import section as section_called
from crashcast.tables import Partition, partition_at

if TYPE_CHECKING:
    from distributed import Client, Future

# as text: a scheduler unpickles what it passes on, and so needs none of this project's code
CALL = "__import__('crashcast.execution.cluster').cluster.work(description)"
CONNECT_S = 10.0
PATIENCE_S = 60.0  # without any worker: one that was lost may be on its way back
POLL_S = 1.0
MANUAL = "docs/cluster.md"
TRANSFERS = 4  # uploads side by side
KEPT_BYTES = 20_000_000_000  # of inputs, by a worker for its next tasks


@dataclass(frozen=True)
class Shared:
    """Storage that the driver and every worker reach: a mounted folder or an S3 prefix.

    What is put there appears whole. S3's address and keys come from the environment (AWS_ENDPOINT_URL and so on).

    Attributes
    ----------
    url : str
        `/mount/point` or `s3://bucket/prefix`.
    """

    url: str

    def put(self, source: Path | bytes, name: str) -> None:
        """Write a file or bytes under a name."""
        target = f"{self.url}/{name}"
        aside = f"{target}.{uuid4().hex}" if self._is_folder else target  # S3 shows no half-written object
        with self._telling():
            if isinstance(source, bytes):
                self._files.pipe_file(aside, source)
            else:
                self._files.put_file(str(source), aside)
            if aside != target:
                os.replace(aside, target)

    def get(self, name: str, path: Path) -> bool:
        """Copy what has a name to a new file; return False where there is none."""
        with self._telling():
            try:
                self._files.get_file(f"{self.url}/{name}", str(path))
            except FileNotFoundError:
                return False
        return True

    def has(self, name: str) -> bool:
        """Tell whether there is something of that name."""
        with self._telling():
            try:
                self._files.info(f"{self.url}/{name}")
            except FileNotFoundError:
                return False
        return True

    def remove(self, name: str) -> None:
        """Remove what has a name."""
        with self._telling(), suppress(FileNotFoundError):
            self._files.rm_file(f"{self.url}/{name}")

    @property
    def _is_folder(self) -> bool:
        return self.url.startswith("/")

    @cached_property
    def _files(self) -> Any:
        import fsspec

        if not self._is_folder:
            patience = {"connect_timeout": CONNECT_S, "retries": {"total_max_attempts": 3}}
            return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=patience)
        if not Path(self.url).is_dir():
            raise UserError(f"{self.url}, which params.yaml names as execution.shared, is no folder on {_host()}")
        return fsspec.filesystem("file", auto_mkdir=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (OSError, BotoCoreError, ClientError) as error:
            raise UserError(f"{self.url} cannot be used from {_host()}: {error}") from None


@dataclass(frozen=True)
class Cluster:
    """A scheduler and the storage that its workers share with this machine.

    Attributes
    ----------
    scheduler : str
        Its address, `tls://host:port`.
    shared : str
        See `Shared`.
    recalls : bool
        Whether results may be taken from the shared memo.
    """

    scheduler: str
    shared: str
    recalls: bool = True

    @cached_property
    def _store(self) -> Shared:
        return Shared(self.shared)

    def recall(self, key: str, path: Path) -> Counts | None:
        """Put the result of a task, from the shared memo, at `path` and return its counts; None where there is none."""
        if not self.recalls:
            return None
        with TemporaryDirectory() as folder:
            record = Path(folder, "record")
            content = memo.read(record) if self._store.get(f"memo/{key}.json", record) else None
        if content is None or not self._fetch(key, content["sha256"], path):
            return None
        counts: Counts = content["counts"]
        return counts

    def compute_all(self, stage: str, compute: Compute, tasks: list[Task], keys: list[str], out: Path) -> Results:
        """Have workers compute tasks; put each result into the folder `out` and yield its position and counts.

        Raises
        ------
        UserError
            Where the scheduler cannot be reached or goes away, every worker is refused or lost, a task kills its
            workers, or shared storage fails.
        """
        packed = [pack(stage, compute, task, key, self.shared) for task, key in zip(tasks, keys, strict=True)]
        with _connected(self.scheduler) as client, ThreadPoolExecutor(TRANSFERS) as pool:
            sources = {digest: source for _, inputs in packed for digest, source in inputs.items()}
            uploads = {digest: pool.submit(self._upload, digest, source) for digest, source in sources.items()}
            crew = _Crew(client, self.scheduler, stage, compute, [description for description, _ in packed])
            try:
                for position, (_, inputs) in enumerate(packed):
                    for digest in inputs:
                        uploads[digest].result()
                    crew.submit(position)
                for position, result in crew.results():
                    partition = tasks[position].partition
                    if not self._fetch(keys[position], result["sha256"], partition.path(out)):
                        raise UserError(f"{self.shared}: the new {partition.name} is damaged: run `dvc repro` again")
                    yield position, result["counts"]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _upload(self, digest: str, source: Path | pl.DataFrame) -> None:
        if not self._store.has(name := f"inputs/{digest}"):
            self._store.put(source if isinstance(source, Path) else frame_bytes(source), name)

    def _fetch(self, key: str, digest: str | None, path: Path) -> bool:
        """Put a result at `path`; return False where it is missing or damaged."""
        if digest is None:  # empty
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._store.get(f"memo/{key}.parquet", path) and sha256(path) == digest:
            return True
        path.unlink(missing_ok=True)
        return False


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    try:
        from distributed import Client, Security
    except ModuleNotFoundError:
        raise UserError(
            f"params.yaml: execution.workers: {scheduler} needs dask.distributed: pip install -e '.[cluster]'"
        ) from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what goes wrong is told here, once
    try:
        security = Security()
        is_certified = security.get_connection_args("client").get("ssl_context") is not None
        if scheduler.startswith("tls:") and not is_certified:
            raise OSError("no certificate is set")
        if not scheduler.startswith("tls:") and security.require_encryption:
            raise OSError("the settings require encryption, which is tls://")
        client = Client(scheduler, timeout=CONNECT_S, security=security, name="crashcast", set_as_default=False)
    except OSError as error:
        raise UserError(
            f"the scheduler {scheduler}, which params.yaml names in execution.workers, cannot be reached: "
            f"{str(error.__cause__ or '') or error}; is it running, and are its certificates set here ({MANUAL})?"
        ) from None
    try:
        yield client
    finally:
        client.close()


class _Crew:
    """The workers of a cluster, and the tasks that they have yet to do."""

    def __init__(
        self, client: Client, scheduler: str, stage: str, compute: Compute, descriptions: Sequence[str]
    ) -> None:
        self.client = client
        self.scheduler = scheduler
        self.stage = stage
        self.contents = code_hash.contents(compute.__module__, with_carriers=True)
        self.descriptions = descriptions
        self.running: dict[Future, tuple[int, set[str]]] = {}  # the task, and the workers for it; none: any
        self.done: SimpleQueue[Future] = SimpleQueue()
        self.refused: dict[str, str] = {}  # why, by the worker's address
        self.present_s = time.monotonic()  # when there last was a worker

    def submit(self, position: int) -> None:
        """Let some worker do a task, none of the refused."""
        fit: set[str] = set()
        if self.refused and (workers := self._workers()):
            fit = workers - self.refused.keys()
            if not fit:
                raise UserError(f"{self.scheduler} has no other worker: {next(iter(self.refused.values()))}")
        future = self.client.submit(
            eval,
            CALL,
            {"description": self.descriptions[position]},
            key=f"{self.stage}-{uuid4().hex}",
            workers=sorted(fit) or None,
            pure=False,
        )
        self.running[future] = position, fit
        future.add_done_callback(self.done.put)

    def results(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the position of a task and what its worker answered, as they are done."""
        while self.running:
            try:
                future = self.done.get(timeout=POLL_S)
            except Empty:
                self._look_after_workers()
                continue
            self.present_s = time.monotonic()
            if future in self.running:
                position, _ = self.running.pop(future)
                answer = self._answer(future)
                if "refuses" in answer:
                    self._refuse(answer)
                    self.submit(position)
                else:
                    yield position, answer

    def _answer(self, future: Future) -> dict[str, Any]:
        from distributed import KilledWorker

        with self._noticing_the_end():
            if future.status != "error":
                answer: dict[str, Any] = future.result()
                return answer
            error = future.exception()
        if isinstance(error, KilledWorker):
            raise UserError(
                "a task's workers were killed one after the other, most likely for want of memory: give them more "
                "(`dask worker --memory-limit`), or choose a shorter `partition` in params.yaml, section telemetry"
            )
        if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("crashcast"):
            raise UserError(
                f"a worker of {self.scheduler} does not find this project's code: start it as {MANUAL} says"
            )
        raise error.with_traceback(future.traceback())

    def _refuse(self, answer: dict[str, Any]) -> None:
        worker = answer["worker"]
        reasons = answer["refuses"] or code_hash.differences(self.contents, answer["contents"])
        if worker not in self.refused:
            self.refused[worker] = f"worker {worker} ({answer['place']}) is refused: {'; '.join(reasons)}; see {MANUAL}"
            print(f"{self.stage}: {self.refused[worker]}", file=sys.stderr)

    def _look_after_workers(self) -> None:
        workers = self._workers()
        if workers:
            self.present_s = time.monotonic()
        elif time.monotonic() - self.present_s > PATIENCE_S:
            raise UserError(f"{self.scheduler} has had no worker for {PATIENCE_S:g} s: start some as {MANUAL} says")
        for future, (position, fit) in list(self.running.items()):
            if fit and not fit & workers:  # all that it could be done by are gone
                del self.running[future]
                self.submit(position)

    def _workers(self) -> set[str]:
        with self._noticing_the_end():
            return set(self.client.nthreads())

    @contextmanager
    def _noticing_the_end(self) -> Iterator[None]:
        try:
            yield
        except (OSError, CancelledError):
            raise UserError(
                f"the scheduler {self.scheduler} went away: start it and run again; what was done is not done again"
            ) from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of an input file."""
    return _sha256(path, signature(path))


@cache
def _sha256(path: Path, _: Signature) -> str:  # a file is a task's own and the next one's tail
    return sha256(path)


def pack(stage: str, compute: Compute, task: Task, key: str, shared: str) -> tuple[str, dict[str, Path | pl.DataFrame]]:
    """Return what a worker must know of a task, as text, and the inputs that it will fetch, by hash."""
    inputs: dict[str, Path | pl.DataFrame] = {}

    def held(source: Path | pl.DataFrame) -> str:
        digest = file_digest(source) if isinstance(source, Path) else frame_digest(source)
        inputs[digest] = source
        return digest

    def packed(item: Any) -> list[Any]:
        if isinstance(item, Period):
            files = [
                [_pack_partition(partition), held(path)]
                for partition, path in zip(item.among or (), item.files, strict=True)
            ]
            return ["period", str(item.table), item.start.isoformat(), item.end.isoformat(), item.columns, files]
        if isinstance(item, File):
            return ["file", str(item.path), held(item.path)]
        if isinstance(item, pl.DataFrame):
            return ["frame", held(item)]
        if isinstance(item, Section):
            return ["section", type(item).__name__.lower(), item.model_dump(mode="json")]
        if isinstance(item, timedelta):
            return ["timedelta", item.days, item.seconds, item.microseconds]
        return ["value", item]

    content = {
        "stage": stage,
        "function": [compute.__module__, compute.__qualname__],
        "code": code_hash.digest(compute.__module__, with_carriers=True),
        "key": key,
        "shared": shared,
        "partition": _pack_partition(task.partition),
        "inputs": {name: packed(item) for name, item in task.inputs.items()},
    }
    return json.dumps(content), inputs


def _pack_partition(partition: Partition) -> list[str]:
    return [partition.start.isoformat(), partition.unit]


def _unpack_partition(start: str, unit: str) -> Partition:
    return partition_at(datetime.fromisoformat(start), unit)


def work(description: str) -> dict[str, Any]:
    """Compute the task that a text describes; what a worker does.

    Returns
    -------
    dict
        `sha256` and `counts` of the result, which lies in shared storage then; or, where this worker must not compute
        it, the `worker`, its `place`, and why it `refuses`: for reasons named or for its code's `contents`.
    """
    from distributed import get_worker

    worker = get_worker()
    content = json.loads(description)
    if refusal := _refusal(content, worker.state.nthreads):
        return {"worker": worker.address, "place": f"{_host()}, {code_hash.SRC.parent}", **refusal}
    module, function = content["function"]
    key, shared = content["key"], Shared(content["shared"])
    inputs = _Inputs(Path(worker.local_directory, "crashcast-inputs"), shared)
    with TemporaryDirectory(dir=worker.local_directory) as folder:
        names = {str(Path(folder, name)): packed[1] for name, packed in content["inputs"].items()}
        task = Task(
            _unpack_partition(*content["partition"]),
            {name: _unpack(inputs, Path(folder, name), *packed) for name, packed in content["inputs"].items()},
        )
        try:
            counts = execute(getattr(importlib.import_module(module), function), task, Path(folder, ".out"))
        except UserError as error:
            raise UserError(_named(str(error), names)) from None
        digest = None
        if (path := task.partition.path(Path(folder, ".out"))).exists():
            digest = sha256(path)
            shared.put(path, f"memo/{key}.parquet")
        record = Path(folder, ".record")
        memo.write(record, content["stage"], task.partition.name, digest, counts)
        shared.put(record, f"memo/{key}.json")  # last: it says that the result is whole
    inputs.trim()
    return {"sha256": digest, "counts": counts}


def _refusal(content: dict[str, Any], threads: int) -> dict[str, Any] | None:
    if threads > 1:  # memory is reckoned by the process, and not all libraries bear threads
        return {"refuses": [f"it does {threads} tasks at a time in one process: start it with --nthreads 1"]}
    module = content["function"][0]
    try:
        if code_hash.digest(module, with_carriers=True) == content["code"]:
            return None
        return {"refuses": [], "contents": code_hash.contents(module, with_carriers=True)}
    except ModuleNotFoundError as error:
        return {"refuses": [f"{error} there"]}


def _named(message: str, names: dict[str, Any]) -> str:
    """Return a message in which paths are the driver's."""
    for path, name in names.items():
        message = message.replace(path, str(name))
    return message


def _unpack(inputs: _Inputs, place: Path, kind: str, *content: Any) -> Any:
    if kind == "period":
        _, start, end, columns, files = content
        among = tuple(_unpack_partition(*partition) for partition, _ in files)
        for partition, (_, digest) in zip(among, files, strict=True):
            inputs.lay(digest, partition.path(place))
        columns = None if columns is None else tuple(columns)
        return Period(place, datetime.fromisoformat(start), datetime.fromisoformat(end), columns, among)
    if kind == "file":
        inputs.lay(content[1], place)
        return File(place)
    if kind == "frame":
        return pl.read_ipc(inputs.fetch(content[0]))
    if kind == "section":
        name, values = content
        return section_called(name).model_validate(values)
    return timedelta(*content) if kind == "timedelta" else content[0]


@dataclass(frozen=True)
class _Inputs:
    """What a worker has fetched, kept for its next tasks."""

    folder: Path
    shared: Shared

    def lay(self, digest: str, path: Path) -> None:
        """Put an input at a path."""
        link(self.fetch(digest), path)

    def fetch(self, digest: str) -> Path:
        """Return where an input lies on this machine.

        Raises
        ------
        UserError
            Where shared storage does not hold it, or holds other bytes.
        """
        path = self.folder / digest
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part")
            found = self.shared.get(f"inputs/{digest}", aside)
            if not found or sha256(aside) != digest:
                self.shared.remove(f"inputs/{digest}")
                raise UserError(f"{self.shared.url}/inputs/{digest} is missing or damaged: run `dvc repro` again")
            os.replace(aside, path)
        os.utime(path)
        return path

    def trim(self) -> None:
        """Remove what has been unused the longest."""
        held = 0
        for path in sorted(self.folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True):
            held += path.stat().st_size
            if held > KEPT_BYTES:
                path.unlink()


def _host() -> str:
    return socket.gethostname()
