"""One process per stage: a process that a killed `dvc repro` left running must not overwrite newer results.

DVC lets one `dvc repro` run at a time, but a killed one leaves its stage's process behind, which would still write
its result when it is done. So a stage ends when its DVC does; if it could not (it was suspended), the next run of the
stage stops it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from crashcast.errors import UserError
from crashcast.files import replacing
from crashcast.run_record import FOLDER

STAGE_VARIABLE = "DVC_STAGE"  # DVC sets it for each command of a stage
PATIENCE_S = 10
LOOK_EVERY_S = 0.2


def take_over(stage: str) -> None:
    """Stop the process that still runs this stage, note that this one does now, and end it when its DVC ends.

    Raises
    ------
    UserError
        If the other one belongs to somebody else, or does not end; if the DVC of this one has ended already.
    """
    if not FOLDER.parents[1].is_dir():  # no DVC project, so no process that a DVC left
        return
    note = FOLDER / f"{stage}.json"
    if orphan := noted(note):
        print(f"{stage}: stopping process {orphan.pid}, which a killed run left behind", file=sys.stderr)
        stop(orphan)
    with replacing(note) as aside:
        aside.write_text(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}), encoding="utf-8")
    if dvc := dvc_above(psutil.Process()):
        threading.Thread(target=_end_with, args=(dvc,), daemon=True).start()
    elif STAGE_VARIABLE in os.environ and not _above(psutil.Process(), _is_python):
        raise UserError("its dvc was stopped before this stage began, so nothing would record its result")


def noted(note: Path) -> psutil.Process | None:
    """Return the process of a note, if it still runs: another one may have its number by now."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        process = psutil.Process(content["pid"])
        is_same = abs(process.create_time() - content["started"]) < 1
        return process if is_same and process.pid != os.getpid() else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None


def dvc_above(process: psutil.Process) -> psutil.Process | None:
    """Return the `dvc` that runs a process, if one does."""
    return _above(process, is_dvc)


def _above(process: psutil.Process, is_sought: Callable[[psutil.Process], bool]) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        for parent in process.parents():
            with suppress(psutil.Error):  # another user's
                if is_sought(parent):
                    return parent
    return None


def is_dvc(process: psutil.Process) -> bool:
    """Say whether a process is a `dvc` command."""
    return "dvc" in {Path(word).name for word in process.cmdline()[:4]}


def _is_python(process: psutil.Process) -> bool:
    """Say whether a process is a Python program: it may use DVC as a library."""
    return any("python" in Path(word).name for word in process.cmdline()[:1])


def stop(process: psutil.Process) -> None:
    """Kill a process with its workers.

    Raises
    ------
    UserError
        If it does not end.
    """
    family = [process, *process.children(recursive=True)]
    _kill(family)
    if psutil.wait_procs(family, timeout=PATIENCE_S)[1]:
        raise UserError(f"process {process.pid} still runs and does not end: stop it, then run again")


def _end_with(dvc: psutil.Process) -> None:
    with suppress(psutil.Error):
        while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
            time.sleep(LOOK_EVERY_S)
    _kill(psutil.Process().children(recursive=True))
    os._exit(1)  # without DVC nothing records its outputs


def _kill(family: list[psutil.Process]) -> None:
    for process in family:
        with suppress(psutil.Error):  # gone already, or another user's
            process.kill()
