"""The partition runner: a stage as independent tasks, one per partition, each written whole or not at all.

What was computed before from the same bytes, parameters and code comes from the memo; the rest is computed, several
partitions at a time: in this process, in others, or by the machines of a cluster.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from crashcast import closure, memo, tables
from crashcast.canonical import replacing_folder, sha256
from crashcast.errors import UserError
from crashcast.memo import Memo
from crashcast.params import Execution, Section
from crashcast.tables import Partition

if TYPE_CHECKING:
    from crashcast.cluster import Cluster

SMALL_BYTES = 200_000_000  # below this a second process costs more than it saves
GB = 1_000_000_000

Counts = dict[str, Any]
Compute = Callable[..., tuple[pl.DataFrame, Counts]]
Results = Generator[tuple[int, Counts], None, None]  # the position of a task and its counts, as they are done
Signature = tuple[int, int, int]


@dataclass(frozen=True)
class Period:
    """Rows of a table that a task is handed: start <= timestamp < end.

    Attributes
    ----------
    among : tuple of Partition, optional
        The partitions to look in; `run` finds them.
    """

    table: Path
    start: datetime
    end: datetime
    columns: tuple[str, ...] | None = None
    among: tuple[Partition, ...] | None = None

    def read(self) -> pl.DataFrame:
        """Read them."""
        return tables.read_period(self.table, self.start, self.end, self.columns, self.among)

    def located(self, listing: list[Partition]) -> Period:
        """Return the same rows with the partitions, of those listed, that they lie in; of none, one for its columns."""
        touched = tuple(item for item in listing if item.start < self.end and self.start < item.end)
        return replace(self, among=touched or (listing[0],))

    @property
    def files(self) -> list[Path]:
        """The files of a located period, in the order of `among`."""
        return [partition.path(self.table) for partition in self.among or ()]

    def fingerprint(self, own: Partition, store: Memo) -> Any:
        """Return what says which bytes are read: hashes of the own partition's file and of slices of the others."""
        parts = [self._fingerprint_of(partition, own, store) for partition in self.among or ()]
        return [parts, self.columns, str(self.start), str(self.end)]

    def _fingerprint_of(self, partition: Partition, own: Partition, store: Memo) -> str:
        whole = file_digest(partition.path(self.table))
        if partition == own:
            return whole
        start, end = max(self.start, partition.start), min(self.end, partition.end)
        piece = replace(self, start=start, end=end, among=(partition,))
        return store.slice_digest(f"{whole} {start} {end} {self.columns}", lambda: frame_digest(piece.read()))


@dataclass(frozen=True)
class File:
    """A file that a task is handed as its path."""

    path: Path


@dataclass(frozen=True)
class Task:
    """One partition and everything its result depends on.

    Attributes
    ----------
    partition : Partition
        What is to be computed.
    inputs : mapping of str to Period, File, DataFrame or parameters
        Keyword arguments of the stage's function; a Period is read where the task runs.
    """

    partition: Partition
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The files that it reads."""
        periods = [item.files for item in self.inputs.values() if isinstance(item, Period)]
        return sum(periods, [item.path for item in self.inputs.values() if isinstance(item, File)])


def run(stage: str, compute: Compute, tasks: list[Task], out: Path, remember: bool = True) -> list[Counts]:
    """Compute every task that the memo does not hold and replace the folder `out` by the results.

    Parameters
    ----------
    stage : str
        Named in the progress display.
    compute : function
        `compute(partition, **inputs)` returns the partition's frame, in total order, and its counts: what JSON can
        hold. Pure, and importable by name, for it may run in another process.
    tasks : list of Task
        One per partition, in order of time.
    out : Path
        The output table. Untouched unless every task succeeds; an empty frame leaves no file.
    remember : bool
        Whether to use the memo, for which inputs must have a fingerprint.

    Returns
    -------
    list of dict
        The counts of each task, in the order of `tasks`.

    Raises
    ------
    UserError
        Where a worker process is killed, an input changes while it is read, or a cluster cannot be used.
    """
    listing = cache(tables.partitions)
    tasks = [
        replace(task, inputs={name: _located(item, listing) for name, item in task.inputs.items()}) for task in tasks
    ]
    signatures = {path: _signature(path) for task in tasks for path in task.files}
    rules, store = Execution.read(), memo.find() if remember else None
    cluster = _cluster(rules, store) if remember else None
    with replacing_folder(out) as aside:
        keys = [_key(compute, task, store) if store else "" for task in tasks]
        found: list[Counts | None] = [None] * len(tasks)
        if store:
            found = _recall_all(store, cluster, keys, stage, tasks, aside)
        missing = [index for index, counts in enumerate(found) if counts is None]
        waiting = [tasks[index] for index in missing]
        if cluster and missing:
            results = cluster.compute_all(stage, compute, waiting, [keys[index] for index in missing], aside)
        else:
            size = sum(signatures[path][-1] for path in {path for task in waiting for path in task.files})
            results = _compute_all(compute, waiting, aside, min(_workers(rules, size), len(missing)))
        with _progress(stage, len(missing)) as advance, closing(results):
            for position, counts in results:
                index = missing[position]
                for path in tasks[index].files:
                    if _signature(path) != signatures[path]:
                        raise UserError(f"{path} changed while {stage} was reading it: run `dvc repro` again")
                found[index] = counts
                if store:
                    partition = tasks[index].partition
                    store.keep(keys[index], stage, partition.name, partition.path(aside), counts)
                advance()
    if store:
        store.trim(rules.memo_gb * GB)
    print(
        f"{stage}: {len(tasks)} partitions, {len(missing)} computed, {len(tasks) - len(missing)} from the memo",
        file=sys.stderr,
    )
    return [counts for counts in found if counts is not None]


def _located(item: Any, listing: Callable[[Path], list[Partition]]) -> Any:
    return item.located(listing(item.table)) if isinstance(item, Period) else item


def _signature(path: Path) -> Signature:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def file_digest(path: Path) -> str:
    """Return the SHA-256 of an input file."""
    return _sha256(path, _signature(path))


@cache
def _sha256(path: Path, signature: Signature) -> str:  # a file is a task's own and the next one's tail
    return sha256(path)


def _key(compute: Compute, task: Task, store: Memo) -> str:
    """Return a hash of everything that a task's result depends on."""
    content = {
        "function": f"{compute.__module__}.{compute.__qualname__}",
        "code": closure.digest(compute.__module__),
        "partition": task.partition.name,
        "inputs": {name: _fingerprint(item, task.partition, store) for name, item in task.inputs.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fingerprint(item: Any, own: Partition, store: Memo) -> Any:
    if isinstance(item, Period):
        return item.fingerprint(own, store)
    if isinstance(item, File):
        return file_digest(item.path)
    if isinstance(item, pl.DataFrame):
        return frame_digest(item)
    if isinstance(item, Section):
        return [type(item).__name__, item.model_dump(mode="json")]
    if isinstance(item, timedelta):
        return ["timedelta", str(item)]
    if isinstance(item, int | float | str | None):
        return item
    raise TypeError(f"no fingerprint of {type(item).__name__}: a task's inputs must say all that its result depends on")


def frame_digest(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of a frame's bytes in Arrow's format."""
    return hashlib.sha256(frame_bytes(frame)).hexdigest()


def frame_bytes(frame: pl.DataFrame) -> bytes:
    """Return a frame in Arrow's format."""
    buffer = io.BytesIO()
    frame.rechunk().write_ipc(buffer, compression="uncompressed")
    return buffer.getvalue()


def _cluster(rules: Execution, store: Memo | None) -> Cluster | None:
    if rules.scheduler is None or rules.shared is None:
        return None
    if store is None:
        raise UserError(
            f"params.yaml: execution.workers: {rules.scheduler} gives results by way of the memo, and there is none: "
            f"leave {memo.SWITCH} out (`dvc repro --force` computes everything too), or set workers to auto"
        )
    from crashcast.cluster import Cluster

    return Cluster(rules.scheduler, rules.shared, store.recalls)


def _recall_all(
    store: Memo, cluster: Cluster | None, keys: list[str], stage: str, tasks: list[Task], out: Path
) -> list[Counts | None]:
    def recall(key: str, partition: Partition) -> Counts | None:
        counts = store.recall(key, path := partition.path(out))
        if counts is None and cluster and (counts := cluster.recall(key, path)) is not None:
            store.keep(key, stage, partition.name, path, counts)
        return counts

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # reading and hashing leave Python free
        return list(pool.map(recall, keys, [task.partition for task in tasks]))


def _workers(rules: Execution, size_bytes: int) -> int:
    if isinstance(rules.workers, int):
        return rules.workers
    return 1 if size_bytes < SMALL_BYTES else os.cpu_count() or 1


def _compute_all(compute: Compute, tasks: list[Task], out: Path, workers: int) -> Results:
    if workers <= 1:
        for position, task in enumerate(tasks):
            yield position, execute(compute, task, out)
        return
    # spawn, not fork: polars holds threads and locks that a fork would break
    os.environ.setdefault("POLARS_MAX_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        futures = {pool.submit(execute, compute, task, out): position for position, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker was killed, most likely for want of memory: lower `workers` in params.yaml, section "
                "execution, or choose a shorter `partition`, section telemetry"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Let a worker end when the stage is killed: nobody else would tell it."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def execute(compute: Compute, task: Task, out: Path) -> Counts:
    """Compute a task, write its result into the folder `out` and return its counts."""
    frame, counts = compute(task.partition, **{name: _hand_over(item) for name, item in task.inputs.items()})
    if frame.height:
        tables.write(task.partition.path(out), frame)
    as_recalled: Counts = json.loads(json.dumps(counts))
    return as_recalled


def _hand_over(item: Any) -> Any:
    if isinstance(item, Period):
        return item.read()
    return item.path if isinstance(item, File) else item


@contextmanager
def _progress(stage: str, total: int) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        done = iter(range(1, total + 1))
        yield lambda: print(f"{stage}: partition {next(done)} of {total}", file=sys.stderr)
        return
    columns = (TextColumn(stage), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task(stage, total=total)
        yield lambda: progress.advance(bar)


def total(counts: list[dict[str, int]]) -> dict[str, int]:
    """Add up the counts of all tasks."""
    return {name: sum(part[name] for part in counts) for name in counts[0]}
