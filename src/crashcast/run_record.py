"""What runs cost: time, CPU, memory, bytes and rows, one line of JSON for each run of a stage or a command.

The record is local: neither git nor DVC tracks it, and no output of a stage contains any of it. A line is appended by
one write, so a killed run leaves no half of one. The file is bounded: the older half is dropped if it grows too large,
apart from the last run and the last success of each name.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from crashcast.errors import UserError
from crashcast.files import refuse_committed_links, replacing
from crashcast.versioning.dvc_files import PIPELINE, Stage, load

FOLDER = Path(".dvc", "tmp", "crashcast")
FILE = FOLDER / "runs.jsonl"
MAX_BYTES = 4_000_000  # some ten thousand runs
LOOK_EVERY_S = 0.25
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024

Run = dict[str, Any]
_counted: Run = {}  # of the run that is under way


@contextmanager
def recorded(name: str) -> Iterator[None]:
    """Record what the block costs, however it ends.

    Parameters
    ----------
    name : str
        A stage of dvc.yaml, whose dependencies and outputs are measured too, or a command.
    """
    if not FOLDER.parent.is_dir():  # no project of DVC
        yield
        return
    _counted.clear()
    begun, clock_s, cpu_s, peak, status = datetime.now(UTC), time.monotonic(), _cpu_s(), _PeakMemory(), 0
    try:
        with peak:
            yield
    except BaseException as error:
        status = _exit_status(error)
        raise
    finally:
        run = {
            "name": name,
            "begun": begun.isoformat(timespec="seconds"),
            "duration_s": round(time.monotonic() - clock_s, 3),
            "cpu_s": round(_cpu_s() - cpu_s, 3),
            "peak_memory_bytes": peak.size_bytes,
            "exit_status": status,
            **_bytes_of(name),
            **_counted,
        }
        with suppress(OSError):  # a full disk is no reason to fail a run that has ended
            _append(json.dumps(run))


def count_partitions(name: str, total: int, remembered: int, rows: int | None = None, workers: int | None = 1) -> None:
    """Note how many tasks a step of a run has, and how many of them came from the memo; of a repeated step, the sum.

    Parameters
    ----------
    name : str
        Of the step.
    total, remembered : int
    rows : int, optional
        Of the run's table, if the step makes it.
    workers : int or None
        The number of processes that computed the rest; None: the machines of a cluster, whose cost is not measured
        here.
    """
    counts = _counted.setdefault("partitions", {}).setdefault(name, {"total": 0, "remembered": 0})
    counts["total"] += total
    counts["remembered"] += remembered
    if rows is not None:
        _counted["rows"] = rows
    before = _counted.get("workers", 1)
    _counted["workers"] = None if workers is None or before is None else max(workers, before)


@contextmanager
def step(name: str, rows: int) -> Iterator[None]:
    """Note what the block costs, a part of a run that works on other rows than the rest of it."""
    clock_s, cpu_s = time.monotonic(), _cpu_s()
    yield
    _counted.setdefault("steps", {})[name] = {
        "rows": rows,
        "duration_s": round(time.monotonic() - clock_s, 3),
        "cpu_s": round(_cpu_s() - cpu_s, 3),
        "peak_memory_bytes": _own_peak_bytes(),
    }


def runs(project: Path = Path()) -> list[Run]:
    """Return the recorded runs of a project, the oldest first."""
    try:
        lines = (project / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError):  # of a disk that was full
            found.append(json.loads(line))
    return found


def last_of_each() -> list[Run]:
    """Return the last run of each name, with `succeeded`: the end of the last one that did not fail, or None."""
    last: dict[str, Run] = {}
    succeeded: dict[str, float] = {}
    for run in runs():
        last[run["name"]] = run
        if not is_failed(run):
            succeeded[run["name"]] = ended_s(run)
    return [{**run, "succeeded": succeeded.get(name)} for name, run in last.items()]


def is_failed(run: Run) -> bool:
    """Say whether a run failed: 1 and 3 are verdicts of a review, not failures."""
    return run["exit_status"] != 0 and not (run["name"] == "review" and run["exit_status"] in (1, 3))


def ended_s(run: Run) -> float:
    """Return when a run ended, in seconds since 1970."""
    return datetime.fromisoformat(run["begun"]).timestamp() + float(run["duration_s"])


def _append(line: str) -> None:
    refuse_committed_links(FILE)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "runs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if FILE.exists() and FILE.stat().st_size > MAX_BYTES:
            kept = _shortened(FILE.read_bytes().splitlines(keepends=True))
            with replacing(FILE) as aside:
                aside.write_bytes(b"".join(kept))
        descriptor = os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)


def _shortened(lines: list[bytes]) -> list[bytes]:
    """Return the newer half, and of the older one what `last_of_each` may need: stages run less often than commands."""
    older, newer = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    last: dict[tuple[str, bool], bytes] = {}
    for line in older:
        with suppress(ValueError):
            run = json.loads(line)
            last[run["name"], is_failed(run)] = line
    needed = {*last.values()}
    return [line for line in older if line in needed] + newer


def _cpu_s() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _own_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


def _exit_status(error: BaseException) -> int:
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    return 1  # Python's own status of an exception and of a message


def _bytes_of(stage: str) -> Run:
    """Return the sizes of what dvc.yaml declares for a stage; empty for a command, and if they cannot be had."""
    try:
        declared = Stage.of(load(Path(PIPELINE).read_bytes(), PIPELINE)["stages"][stage])
        return {"read_bytes": _size_bytes(declared.deps), "written_bytes": _size_bytes(declared.outs)}
    except (OSError, UserError, KeyError, TypeError, AttributeError):  # its sizes are no reason to fail a run either
        return {}


def _size_bytes(paths: Iterable[str]) -> int:
    files = (file for path in map(Path, paths) for file in (path.rglob("*") if path.is_dir() else [path]))
    return sum(file.stat().st_size for file in files if file.is_file())


class _PeakMemory:
    """The largest resident memory of this process and its children together, looked at several times a second."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.size_bytes = max(self.size_bytes, _own_peak_bytes())

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(LOOK_EVERY_S):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                with suppress(psutil.Error):  # it has ended meanwhile
                    total += process.memory_info().rss
            self.size_bytes = max(self.size_bytes, total)
