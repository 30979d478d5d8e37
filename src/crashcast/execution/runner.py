"""The partition runner: a stage as independent tasks, one per partition, each written whole or not at all.

If the same bytes, parameters and code were computed before, the result comes from the memo. The rest is computed,
several partitions at a time: in this process, in others, or by the machines of a cluster.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from crashcast import run_record
from crashcast.errors import UserError
from crashcast.execution import memo
from crashcast.execution.memo import Memo
from crashcast.execution.task import Compute, Counts, Results, Task, execute
from crashcast.files import replacing_folder, signature
from crashcast.params.execution import Execution
from crashcast.progress import progress
from crashcast.tables import Partition

if TYPE_CHECKING:
    from crashcast.execution.cluster.client import Cluster

SMALL_BYTES = 50_000_000  # below this a second process costs more than it saves
SMALL_TO_SCORE_BYTES = 1_000_000_000  # also if rows are only read and scored: a scorer has threads of its own
GB = 1_000_000_000


def run(
    stage: str,
    compute: Compute,
    tasks: list[Task],
    out: Path,
    remember: bool = True,
    small_bytes: int = SMALL_BYTES,
) -> list[Counts]:
    """Compute every task that the memo does not hold and replace the folder `out`, a table, by the results.

    Parameters
    ----------
    stage : str
        Named in the progress display.
    compute : function
        `compute(partition, **inputs)` returns the partition's frame, in total order, and its counts, which JSON
        can hold. Pure, and importable by name, because it may run in another process.
    tasks : list of Task
        One per partition, in order of time.
    out : Path
        The output table. Untouched unless every task succeeds; an empty frame leaves no file.
    remember : bool
        Whether to use the memo, for which inputs must have a fingerprint.
    small_bytes : int
        Inputs of less are handled by this process alone, if `execution.workers` is auto.

    Returns
    -------
    list of dict
        The counts of each task, in the order of `tasks`.

    Raises
    ------
    UserError
        If a worker process is killed, an input changes while it is read, or a cluster cannot be used.
    """
    done, remembered, workers = _run(stage, compute, tasks, out, remember, small_bytes)
    rows = sum(counts.get("rows", 0) for counts in done)
    run_record.count_partitions(stage, len(tasks), remembered, rows, workers)
    return done


def files(step: str, compute: Compute, tasks: list[Task], small_bytes: int = SMALL_BYTES) -> Iterator[Path]:
    """Compute every task as `run` does, and yield the files of the results, which are gone when the iterator ends.

    Parameters
    ----------
    step : str
        Named in the progress display.
    compute, tasks, small_bytes
        See `run`; the files come in the order of `tasks`, without those of empty results.
    """
    with memo.temporary() as folder:
        out = folder / step
        _, remembered, workers = _run(step, compute, tasks, out, True, small_bytes)
        run_record.count_partitions(step, len(tasks), remembered, workers=workers)
        yield from filter(Path.exists, (task.partition.path(out) for task in tasks))


def _run(
    stage: str, compute: Compute, tasks: list[Task], out: Path, remember: bool, small_bytes: int
) -> tuple[list[Counts], int, int | None]:
    """Return the counts of each task, how many the memo held, and the processes (see `count_partitions`)."""
    paths = [task.files for task in tasks]
    try:
        signatures = {path: signature(path) for of_task in paths for path in of_task}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: `dvc pull` or `dvc repro` brings it") from None
    execution, store = Execution.read(), memo.find() if remember else None
    cluster = _cluster(execution, store) if remember else None
    with replacing_folder(out) as aside:
        keys = [task.key(compute, store) if store else "" for task in tasks]
        found: list[Counts | None] = [None] * len(tasks)
        if store:
            found = _recall_all(store, cluster, keys, stage, tasks, aside)
        missing = [index for index, counts in enumerate(found) if counts is None]
        waiting = [tasks[index] for index in missing]
        workers: int | None = None
        if cluster and missing:
            results = cluster.compute_all(stage, compute, waiting, [keys[index] for index in missing], aside)
        else:
            size = sum(signatures[path].size_bytes for path in {path for index in missing for path in paths[index]})
            workers = max(1, min(_workers(execution, size, small_bytes), len(missing)))
            results = _compute_all(compute, waiting, aside, workers)
        noun = "fold" if tasks[:1] and tasks[0].partition.unit == "fold" else "partition"
        with progress(stage, len(missing), noun) as advance, closing(results):
            for position, counts in results:
                index = missing[position]
                for path in paths[index]:
                    if signature(path) != signatures[path]:
                        raise UserError(f"{path} changed while {stage} was reading it: run `dvc repro` again")
                found[index] = counts
                if store:
                    partition = tasks[index].partition
                    store.keep(keys[index], stage, partition.name, partition.path(aside), counts)
                    if index == missing[0]:
                        _warn_of_small_memo(stage, partition.path(aside), len(tasks), execution)
                advance()
    if store:
        store.trim(execution.memo_gb * GB)
        store.digests.save()
    print(
        f"{stage}: {len(tasks)} {noun}s, {len(missing)} computed, {len(tasks) - len(missing)} from the memo",
        file=sys.stderr,
    )
    return [counts for counts in found if counts is not None], len(tasks) - len(missing), workers


def _warn_of_small_memo(stage: str, first: Path, partitions: int, execution: Execution) -> None:
    """Say at the first result if all of the stage's will not fit: the next run would compute what is forgotten."""
    limit, needed = execution.memo_gb, first.stat().st_size * partitions / GB if first.exists() else 0.0
    if 0 < limit < needed:
        print(
            f"{stage}: its {partitions} results take about {needed:.2g} GB, and execution.memo_gb is {limit:g}: the "
            "oldest will be forgotten, and the next run computes them again; raise it if the disk allows",
            file=sys.stderr,
        )


def _cluster(execution: Execution, store: Memo | None) -> Cluster | None:
    if execution.scheduler is None or execution.shared is None:
        return None
    if store is None:
        raise UserError(
            f"params.yaml: execution.workers: {execution.scheduler} passes results through the memo, which is missing: "
            f"leave {memo.SWITCH} out (`dvc repro --force` computes everything too), or set workers to auto"
        )
    from crashcast.execution.cluster.client import Cluster
    from crashcast.execution.cluster.storage import Storage

    return Cluster(execution.scheduler, Storage(execution.shared), store, execution.patience.total_seconds())


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


def _workers(execution: Execution, size_bytes: int, small_bytes: int) -> int:
    if isinstance(execution.workers, int):
        return execution.workers
    return 1 if size_bytes < small_bytes else os.cpu_count() or 1


def _compute_all(compute: Compute, tasks: list[Task], out: Path, workers: int) -> Results:
    if workers <= 1:
        for position, task in enumerate(tasks):
            yield position, execute(compute, task, out)
        return
    # spawn, not fork: polars holds threads and locks that a fork would break
    pooled = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    with _threads_of_each((os.cpu_count() or 1) // workers), pooled as pool:
        futures = {pool.submit(execute, compute, task, out): position for position, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker was killed, most likely because memory ran out: lower `workers` in params.yaml, section "
                "execution, or choose a shorter `partition`, section telemetry"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _threads_of_each(number: int) -> Iterator[None]:
    """Let processes that start meanwhile use so many threads, at least one, unless the environment says otherwise."""
    names = [name for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS") if name not in os.environ]
    os.environ |= dict.fromkeys(names, str(max(1, number)))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)


def _end_with_parent() -> None:
    """End a worker process when the stage is killed, which it would outlive otherwise."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def total(counts: list[dict[str, int]]) -> dict[str, int]:
    """Add up the counts of all tasks."""
    return {name: sum(of_task[name] for of_task in counts) for name in counts[0]}
