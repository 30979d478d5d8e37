"""Tasks: one partition each, with everything that its result depends on, and a hash of all that.

A task is handed rows of a period, whole files and folders, frames and parameters, and depends on nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.execution import code_hash
from crashcast.execution.memo import Memo
from crashcast.params.base import Section
from crashcast.tables import Partition

Counts = dict[str, Any]
Compute = Callable[..., tuple[pl.DataFrame, Counts]]
Results = Generator[tuple[int, Counts], None, None]  # the position of a task and its counts, as they are done


@dataclass(frozen=True)
class Period:
    """Rows of a table that a task is handed: start <= timestamp < end.

    Attributes
    ----------
    columns : tuple of str or None
        All if None.
    partitions : tuple of Partition
        Those that the period touches, in order of time; if there are none, any other: for the columns.
    """

    table: Path
    start: datetime
    end: datetime
    columns: tuple[str, ...] | None
    partitions: tuple[Partition, ...]

    @classmethod
    def among(
        cls,
        listed: list[Partition],
        table: Path,
        start: datetime,
        end: datetime,
        columns: tuple[str, ...] | None = None,
    ) -> Period:
        """Return a period of a table whose partitions are listed, at least one."""
        touched = tuple(item for item in listed if item.start < end and start < item.end)
        return cls(table, start, end, columns, touched or (listed[0],))

    def read(self) -> pl.DataFrame:
        """Read the rows."""
        return tables.read_period(self.table, self.start, self.end, self.columns, self.partitions)

    @property
    def files(self) -> list[Path]:
        """The files to read."""
        return [partition.path(self.table) for partition in self.partitions]

    def fingerprint(self, own: Partition, store: Memo) -> Any:
        """Return what identifies the rows: hashes of the own partition's file and of slices of the others."""
        hashes = [self._fingerprint_of(partition, own, store) for partition in self.partitions]
        return [hashes, self.columns, str(self.start), str(self.end)]

    def _fingerprint_of(self, partition: Partition, own: Partition, store: Memo) -> str:
        whole = store.digests.of(partition.path(self.table))
        if partition == own:
            return whole
        start, end = max(self.start, partition.start), min(self.end, partition.end)
        piece = replace(self, start=start, end=end, partitions=(partition,))
        return store.slice_digest(f"{whole} {start} {end} {self.columns}", lambda: frame_digest(piece.read()))


@dataclass(frozen=True)
class File:
    """A file that a task is handed as its path."""

    path: Path

    @property
    def files(self) -> list[Path]:
        """The file."""
        return [self.path]


@dataclass(frozen=True)
class Folder:
    """A folder that a task is handed as its path, or some files of it.

    Attributes
    ----------
    path : Path
    names : tuple of str
        Of the files; if there are none, of all in it, at any depth.
    """

    path: Path
    names: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The files, in order of their names."""
        named = [self.path / name for name in self.names]
        return sorted(named or (path for path in self.path.rglob("*") if path.is_file()))

    def name(self, file: Path) -> str:
        """Return the name of a file in it."""
        return file.relative_to(self.path).as_posix()


@dataclass(frozen=True)
class Task:
    """One partition and everything its result depends on.

    Attributes
    ----------
    partition : Partition
        What is to be computed.
    inputs : mapping of str to Period, File, Folder, DataFrame or parameters
        Keyword arguments of the stage's function; a Period is read when the task runs. Parameters are sections,
        durations, and what JSON can hold.
    """

    partition: Partition
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The files that it reads."""
        return [
            path for item in self.inputs.values() if isinstance(item, Period | File | Folder) for path in item.files
        ]

    def key(self, compute: Compute, store: Memo) -> str:
        """Return a hash of everything that the result depends on."""
        content = {
            "function": f"{compute.__module__}.{compute.__qualname__}",
            "code": code_hash.digest(compute.__module__),
            "partition": self.partition.name,
            "inputs": {name: fingerprint(item, self.partition, store) for name, item in self.inputs.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint(item: Any, own: Partition, store: Memo) -> Any:
    """Return what identifies an input, as JSON can hold it: hashes of bytes, values.

    Raises
    ------
    TypeError
        If the input is of another type than those of `Task`.
    """
    if isinstance(item, Period):
        return item.fingerprint(own, store)
    if isinstance(item, File):
        return store.digests.of(item.path)
    if isinstance(item, Folder):
        return {item.name(file): store.digests.of(file) for file in item.files}
    if isinstance(item, pl.DataFrame):
        return frame_digest(item)
    if isinstance(item, Section):
        return [type(item).__name__, item.model_dump(mode="json")]
    if isinstance(item, timedelta):
        return ["timedelta", str(item)]
    if isinstance(item, int | float | str | list | dict | None):
        return item
    raise TypeError(f"no fingerprint of {type(item).__name__}: a task's result must depend on nothing else")


def frame_digest(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of a frame's bytes in Arrow's format."""
    return hashlib.sha256(frame_bytes(frame)).hexdigest()


def frame_bytes(frame: pl.DataFrame) -> bytes:
    """Return a frame in Arrow's format."""
    buffer = io.BytesIO()
    frame.rechunk().write_ipc(buffer, compression="uncompressed")
    return buffer.getvalue()


def execute(compute: Compute, task: Task, out: Path) -> Counts:
    """Compute a task, write its result into the folder `out` and return its counts."""
    frame, counts = compute(task.partition, **{name: _hand_over(item) for name, item in task.inputs.items()})
    if frame.height:
        tables.write(task.partition.path(out), frame)
    as_in_the_memo: Counts = json.loads(json.dumps(counts))
    return as_in_the_memo


def _hand_over(item: Any) -> Any:
    if isinstance(item, Period):
        return item.read()
    return item.path if isinstance(item, File | Folder) else item
