"""Tasks as JSON, for the way to a worker: files and frames are named by the hash of their bytes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from crashcast.execution.task import File, Folder, Period, Task, frame_bytes, frame_digest
from crashcast.files import link
from crashcast.params.base import Section
from crashcast.params.every_section import section
from crashcast.tables import Partition

Content = Path | pl.DataFrame


def pack(task: Task, digest_of: Callable[[Path], str]) -> tuple[dict[str, Any], dict[str, Content]]:
    """Return a task as JSON can hold it, and the contents of its files and frames, by their hash.

    Parameters
    ----------
    task : Task
    digest_of : function
        The SHA-256 of a file.
    """
    contents: dict[str, Content] = {}

    def hashed(content: Content) -> str:
        digest = digest_of(content) if isinstance(content, Path) else frame_digest(content)
        contents[digest] = content
        return digest

    def packed(item: Any) -> list[Any]:
        if isinstance(item, Period):
            files = [[_pack_partition(partition), hashed(partition.path(item.table))] for partition in item.partitions]
            return ["period", str(item.table), item.start.isoformat(), item.end.isoformat(), item.columns, files]
        if isinstance(item, File):
            return ["file", str(item.path), hashed(item.path)]
        if isinstance(item, Folder):
            return ["folder", str(item.path), [[item.name(file), hashed(file)] for file in item.files]]
        if isinstance(item, pl.DataFrame):
            return ["frame", hashed(item)]
        if isinstance(item, Section):
            return ["section", type(item).__name__.lower(), item.model_dump(mode="json")]
        if isinstance(item, timedelta):
            return ["timedelta", item.days, item.seconds, item.microseconds]
        return ["value", item]

    inputs = {name: packed(item) for name, item in task.inputs.items()}
    return {"partition": _pack_partition(task.partition), "inputs": inputs}, contents


def unpack(packed: dict[str, Any], folder: Path, fetch: Callable[[str], Path]) -> Task:
    """Return the task that `pack` has packed, its tables and files as links in an empty folder.

    Parameters
    ----------
    packed : dict
        From `pack`.
    folder : Path
        Input NAME of the task is linked there as NAME.
    fetch : function
        From a hash to a file of that content on this machine.
    """

    def lay(digest: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        link(fetch(digest), path)

    def unpacked(place: Path, kind: str, *content: Any) -> Any:
        if kind == "period":
            _, start, end, columns, files = content
            partitions = tuple(_unpack_partition(*partition) for partition, _ in files)
            for partition, (_, digest) in zip(partitions, files, strict=True):
                lay(digest, partition.path(place))
            columns = None if columns is None else tuple(columns)
            return Period(place, datetime.fromisoformat(start), datetime.fromisoformat(end), columns, partitions)
        if kind == "file":
            lay(content[1], place)
            return File(place)
        if kind == "folder":
            for name, digest in content[1]:
                lay(digest, place / name)
            return Folder(place)
        if kind == "frame":
            return pl.read_ipc(fetch(content[0]))
        if kind == "section":
            return section(content[0]).model_validate(content[1])
        return timedelta(*content) if kind == "timedelta" else content[0]

    inputs = {name: unpacked(folder / name, *item) for name, item in packed["inputs"].items()}
    return Task(_unpack_partition(*packed["partition"]), inputs)


def bytes_of(content: Content) -> Path | bytes:
    """Return a file, or a frame in the format that `unpack` reads."""
    return content if isinstance(content, Path) else frame_bytes(content)


def _pack_partition(partition: Partition) -> list[str]:
    return [partition.start.isoformat(), partition.end.isoformat(), partition.unit]


def _unpack_partition(start: str, end: str, unit: str) -> Partition:
    return Partition(datetime.fromisoformat(start), datetime.fromisoformat(end), unit)
