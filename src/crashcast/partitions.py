"""The partition runner: a stage as independent tasks, one per partition, written whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from crashcast import tables
from crashcast.canonical import replacing_folder
from crashcast.errors import UserError
from crashcast.params import Execution
from crashcast.tables import Partition

SMALL_BYTES = 200_000_000  # below this a second process costs more than it saves


@dataclass(frozen=True)
class Period:
    """Rows of a table that a task is handed: start <= timestamp < end."""

    table: Path
    start: datetime
    end: datetime
    columns: tuple[str, ...] | None = None

    def read(self) -> pl.DataFrame:
        """Read them."""
        return tables.read_period(self.table, self.start, self.end, self.columns)

    @property
    def size_bytes(self) -> int:
        """The size of the files they lie in."""
        return sum(
            partition.path(self.table).stat().st_size
            for partition in tables.partitions(self.table)
            if partition.start < self.end and self.start < partition.end
        )


@dataclass(frozen=True)
class Task:
    """One partition and everything its result depends on.

    Attributes
    ----------
    partition : Partition
        What is to be computed.
    inputs : mapping of str to Period, DataFrame or parameters
        Keyword arguments of the stage's function; a Period is read where the task runs.
    """

    partition: Partition
    inputs: Mapping[str, Any] = field(default_factory=dict)


Compute = Callable[..., tuple[pl.DataFrame, dict[str, Any]]]


def run(stage: str, compute: Compute, tasks: list[Task], out: Path) -> list[dict[str, Any]]:
    """Compute every task and replace the folder `out` by the results.

    Parameters
    ----------
    stage : str
        Named in the progress display.
    compute : function
        `compute(partition, **inputs)` returns the partition's frame, in total order, and its counts. Pure, and
        importable by name, for it may run in another process.
    tasks : list of Task
        One per partition, in order of time.
    out : Path
        The output table. Untouched unless every task succeeds; an empty frame leaves no file.

    Returns
    -------
    list of dict
        The counts of each task, in the order of `tasks`.

    Raises
    ------
    UserError
        Where a worker process is killed.
    """
    size = sum(item.size_bytes for task in tasks for item in task.inputs.values() if isinstance(item, Period))
    with replacing_folder(out) as aside, _progress(stage, len(tasks)) as advance:
        workers = min(_workers(size), len(tasks))
        if workers <= 1:
            return [_timed(advance, compute, task, aside) for task in tasks]
        # spawn, not fork: polars holds threads and locks that a fork would break
        os.environ.setdefault("POLARS_MAX_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(_execute, compute, task, aside): index for index, task in enumerate(tasks)}
            counts: dict[int, dict[str, Any]] = {}
            try:
                for future in as_completed(futures):
                    counts[futures[future]] = future.result()
                    advance()
            except BrokenProcessPool:
                raise UserError(
                    "a worker was killed, most likely for want of memory: lower `workers` in params.yaml, section "
                    "execution, or choose a shorter `partition`, section telemetry"
                ) from None
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            return [counts[index] for index in range(len(tasks))]


def _workers(size_bytes: int) -> int:
    wanted = Execution.read().workers
    if wanted == "auto":
        return 1 if size_bytes < SMALL_BYTES else os.cpu_count() or 1
    return wanted


def _timed(advance: Callable[[], None], compute: Compute, task: Task, out: Path) -> dict[str, Any]:
    counts = _execute(compute, task, out)
    advance()
    return counts


def _execute(compute: Compute, task: Task, out: Path) -> dict[str, Any]:
    inputs = {name: item.read() if isinstance(item, Period) else item for name, item in task.inputs.items()}
    frame, counts = compute(task.partition, **inputs)
    if frame.height:
        tables.write(task.partition.path(out), frame)
    return counts


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
