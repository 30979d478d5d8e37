"""The client's side: tasks of a stage are described, submitted to workers, and their results fetched."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from crashcast.errors import UserError
from crashcast.execution import code_hash, memo
from crashcast.execution.cluster import packing
from crashcast.execution.cluster.storage import CONNECT_S, Storage
from crashcast.execution.memo import Memo
from crashcast.execution.task import Compute, Counts, Results, Task
from crashcast.files import sha256

if TYPE_CHECKING:
    from distributed import Client, Future

# as text: a scheduler unpickles what it passes on, and so needs none of this project's code
CALL = "__import__('crashcast.execution.cluster.worker', fromlist=['work']).work(description)"
POLL_S = 1.0
MANUAL = "docs/cluster.md"
TRANSFERS = 4  # uploads side by side


@dataclass(frozen=True)
class Cluster:
    """A scheduler and the storage that its workers share with this machine.

    Attributes
    ----------
    scheduler : str
        Its address, `tls://host:port`.
    storage : Storage
    store : Memo
        This machine's memo: whether results may be recalled, and the hashes of files.
    patience_s : float
        How long to wait without any worker: a lost one may come back, and new machines take minutes to start.
    """

    scheduler: str
    storage: Storage
    store: Memo
    patience_s: float

    def recall(self, key: str, path: Path) -> Counts | None:
        """Put the result of a task, from the shared memo, at `path` and return its counts; None if there is none."""
        if not self.store.recalls:
            return None
        with TemporaryDirectory() as folder:
            record = Path(folder, "record")
            content = memo.read(record) if self.storage.get(f"memo/{key}.json", record) else None
        if content is None or not self._fetch(content["sha256"], path):
            return None
        counts: Counts = content["counts"]
        return counts

    def compute_all(self, stage: str, compute: Compute, tasks: list[Task], keys: list[str], out: Path) -> Results:
        """Have workers compute tasks; put each result into the folder `out` and yield its position and counts.

        Raises
        ------
        UserError
            If the scheduler cannot be reached or goes away, every worker is refused or lost, a task kills its
            workers, or shared storage fails.
        """
        packed = [packing.pack(task, self.store.digests.of) for task in tasks]
        self.storage.put(b"", marker := f"probes/{uuid4().hex}")
        common = {
            "marker": marker,
            "stage": stage,
            "function": [compute.__module__, compute.__qualname__],
            "code": code_hash.digest(compute.__module__, with_carriers=True),
            "shared": self.storage.url,
        }
        descriptions = [
            json.dumps({**common, "key": key, "task": task}) for key, (task, _) in zip(keys, packed, strict=True)
        ]
        with _connected(self.scheduler) as client, ThreadPoolExecutor(TRANSFERS) as pool:
            contents = {digest: content for _, inputs in packed for digest, content in inputs.items()}
            uploads = {digest: pool.submit(self._upload, digest, content) for digest, content in contents.items()}
            dispatcher = Dispatcher(client, self.scheduler, self.patience_s, stage, compute, descriptions)
            try:
                for position, (_, inputs) in enumerate(packed):
                    for digest in inputs:
                        uploads[digest].result()
                    dispatcher.submit(position)
                for position, result in dispatcher.results():
                    partition = tasks[position].partition
                    if not self._fetch(result["sha256"], partition.path(out)):
                        raise UserError(
                            f"{self.storage.url}: the new {partition.name} is damaged: run `dvc repro` again"
                        )
                    yield position, result["counts"]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self.storage.remove(marker)

    def _upload(self, digest: str, content: packing.Content) -> None:
        if not self.storage.has(name := f"files/{digest}"):  # results of workers are there
            self.storage.put(packing.bytes_of(content), name)

    def _fetch(self, digest: str | None, path: Path) -> bool:
        """Put a result at `path`; return False if it is missing or damaged."""
        if digest is None:  # empty
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.storage.get(f"files/{digest}", path) and sha256(path) == digest:
            return True
        path.unlink(missing_ok=True)
        return False


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    try:
        from distributed import Client, Security
    except ModuleNotFoundError:
        raise UserError(
            f"params.yaml: execution.workers: {scheduler} needs dask.distributed: make cluster-env"
        ) from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # errors are reported here, once
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
            f"the scheduler {scheduler} of execution.workers cannot be reached: "
            f"{str(error.__cause__ or '') or error}; is it running, and are its certificates set here ({MANUAL})?"
        ) from None
    try:
        yield client
    finally:
        client.close()


class Dispatcher:
    """Described tasks on their way to the workers of a scheduler, and the workers' answers.

    Parameters
    ----------
    client : distributed.Client
    scheduler : str
        Named in messages.
    patience_s : float
        See `Cluster`.
    stage : str
        Named in messages.
    compute : function
        The stage's; workers must have the same code.
    descriptions : list of str
        By the position of a task.
    """

    def __init__(
        self,
        client: Client,
        scheduler: str,
        patience_s: float,
        stage: str,
        compute: Compute,
        descriptions: Sequence[str],
    ) -> None:
        self.client = client
        self.scheduler = scheduler
        self.patience_s = patience_s
        self.stage = stage
        self.module = compute.__module__
        self.descriptions = descriptions
        self.running: dict[Future, tuple[int, set[str]]] = {}  # a task, and the workers that may do it; none: any
        self.done: SimpleQueue[Future] = SimpleQueue()
        self.refused: dict[str, str] = {}  # the reason, by the worker's address
        self.present_s = time.monotonic()  # when there last was a worker

    @cached_property
    def contents(self) -> dict[str, str]:
        """The code that workers must have."""
        return code_hash.contents(self.module, with_carriers=True)

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
        """Yield the position of a task and its worker's answer, as they are done."""
        while self.running:
            try:
                future = self.done.get(timeout=POLL_S)
            except Empty:
                self.look_after_workers()
                continue
            self.present_s = time.monotonic()
            if future in self.running:
                position, _ = self.running.pop(future)
                answer = self._answer(future)
                if "refuses" in answer:
                    self.refuse(answer)
                    self.submit(position)
                else:
                    yield position, answer

    def refuse(self, answer: dict[str, Any]) -> None:
        """Give no more tasks to a worker that refuses, and report why, once."""
        worker = answer["worker"]
        reasons = answer["refuses"] or code_hash.differences(self.contents, answer["contents"])
        if worker not in self.refused:
            self.refused[worker] = f"worker {worker} ({answer['place']}) is refused: {'; '.join(reasons)}; see {MANUAL}"
            print(f"{self.stage}: {self.refused[worker]}", file=sys.stderr)

    def look_after_workers(self) -> None:
        """Submit the tasks of lost workers to others.

        Raises
        ------
        UserError
            If there has been no worker for `patience_s`.
        """
        workers = self._workers()
        if workers:
            self.present_s = time.monotonic()
        elif time.monotonic() - self.present_s > self.patience_s:
            raise UserError(
                f"{self.scheduler} has had no worker for {self.patience_s:g} s: start some as {MANUAL} says, or wait "
                "longer for them (params.yaml: execution.patience)"
            )
        for future, (position, fit) in list(self.running.items()):
            if fit and not fit & workers:  # all that may do it are gone
                del self.running[future]
                self.submit(position)

    def _answer(self, future: Future) -> dict[str, Any]:
        from distributed import KilledWorker

        with self._naming_the_scheduler():
            if future.status != "error":
                answer: dict[str, Any] = future.result()
                return answer
            error = future.exception()
        if isinstance(error, KilledWorker):
            raise UserError(
                "a task's workers were killed one after the other, most likely because memory ran out: give them more "
                "(`dask worker --memory-limit`), or choose a shorter `partition` in params.yaml, section telemetry"
            )
        if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("crashcast"):
            raise UserError(
                f"a worker of {self.scheduler} does not find this project's code: start it as {MANUAL} says"
            )
        raise error.with_traceback(future.traceback())

    def _workers(self) -> set[str]:
        with self._naming_the_scheduler():
            return set(self.client.nthreads())

    @contextmanager
    def _naming_the_scheduler(self) -> Iterator[None]:
        try:
            yield
        except (OSError, CancelledError):
            raise UserError(
                f"the scheduler {self.scheduler} went away: start it, and the workers, which end without it, and run "
                "again; finished partitions are kept"
            ) from None
