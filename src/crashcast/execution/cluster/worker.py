"""The worker's side: a task from its description to its result in shared storage."""

from __future__ import annotations

import importlib
import json
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from crashcast.errors import UserError
from crashcast.execution import code_hash, memo
from crashcast.execution.cluster.packing import unpack
from crashcast.execution.cluster.storage import Storage, StorageError
from crashcast.execution.task import execute
from crashcast.files import link, replacing, sha256

KEPT_BYTES = 20_000_000_000  # of inputs, for a worker's next tasks


def work(description: str) -> dict[str, Any]:
    """Compute the task of a description.

    Returns
    -------
    dict
        `sha256` and `counts` of the result, which is in shared storage then. If this worker must not compute it: the
        `worker`, its `place`, and the reasons why it `refuses`, or the `contents` of its code.
    """
    from distributed import get_worker

    worker = get_worker()
    content = json.loads(description)
    refusal = refusal_of(content, worker.state.nthreads)
    if refusal is None:
        try:
            return _result_of(content, Path(worker.local_directory))
        except StorageError as error:  # of this machine: another may do the task
            refusal = {"refuses": [str(error)]}
    return {"worker": worker.address, "place": f"{socket.gethostname()}, {code_hash.SRC.parent}", **refusal}


def _result_of(content: dict[str, Any], place: Path) -> dict[str, Any]:
    """Compute a described task in a folder of this machine."""
    module, function = content["function"]
    key, storage = content["key"], Storage(content["shared"])
    _check_once(storage, content["marker"])
    inputs = Inputs(place / "crashcast-inputs", storage)
    with TemporaryDirectory(dir=place) as folder:
        task = unpack(content["task"], Path(folder), inputs.fetch)
        out = Path(folder, ".out")
        try:
            counts = execute(getattr(importlib.import_module(module), function), task, out)
        except UserError as error:
            raise UserError(_with_clients_paths(str(error), Path(folder), content["task"]["inputs"])) from None
        digest = None
        if (path := task.partition.path(out)).exists():
            digest = sha256(path)
            storage.put(path, f"files/{digest}")
            inputs.keep(path, digest)  # the next stage's
        record = Path(folder, ".record")
        memo.write(record, content["stage"], task.partition.name, digest, counts)
        storage.put(record, f"memo/{key}.json")  # last: it says that the result is whole
    inputs.trim()
    return {"sha256": digest, "counts": counts}


@cache
def _check_once(storage: Storage, marker: str) -> None:
    """Find out before the work whether its result could be stored."""
    storage.check(marker)


def refusal_of(content: dict[str, Any], threads: int) -> dict[str, Any] | None:
    """Return why a worker of so many threads must not compute a described task; None if it may."""
    if threads > 1:  # the memory limit is per process, and not all libraries are thread-safe
        return {"refuses": [f"it does {threads} tasks at a time in one process: start it with --nthreads 1"]}
    module = content["function"][0]
    try:
        if code_hash.digest(module, with_carriers=True) == content["code"]:
            return None
        return {"refuses": [], "contents": code_hash.contents(module, with_carriers=True)}
    except ModuleNotFoundError as error:
        return {"refuses": [f"{error} there"]}


def _with_clients_paths(message: str, folder: Path, inputs: dict[str, Any]) -> str:
    for name, (kind, *content) in inputs.items():
        if kind in ("period", "file", "folder"):
            message = message.replace(str(folder / name), content[0])
    return message


@dataclass(frozen=True)
class Inputs:
    """The inputs that a worker has fetched, kept for its next tasks."""

    folder: Path
    storage: Storage

    def fetch(self, digest: str) -> Path:
        """Return the file of an input on this machine.

        Raises
        ------
        UserError
            If shared storage does not hold it, or holds other bytes.
        """
        path = self.folder / digest
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part")
            found = self.storage.get(f"files/{digest}", aside)
            if not found or sha256(aside) != digest:
                self.storage.remove(f"files/{digest}")
                raise UserError(f"{self.storage.url}/files/{digest} is missing or damaged: run `dvc repro` again")
            os.replace(aside, path)
        os.utime(path)
        return path

    def keep(self, path: Path, digest: str) -> None:
        """Keep a result, as it may be the input of other tasks."""
        with replacing(self.folder / digest) as aside:
            link(path, aside)

    def trim(self) -> None:
        """Remove the inputs that have been unused the longest, beyond `KEPT_BYTES`."""
        held = 0
        for path in sorted(self.folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True):
            held += path.stat().st_size
            if held > KEPT_BYTES:
                path.unlink()
