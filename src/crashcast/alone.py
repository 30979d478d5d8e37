"""One process per stage: what a killed `dvc repro` left running must not write over what a newer one wrote.

DVC lets one `dvc repro` run at a time, but a killed one leaves its stage's process behind, which would still put its
result in place when it is done. So a stage that starts stops the one that runs.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from crashcast.canonical import replacing
from crashcast.errors import UserError

NOTES = Path(".dvc", "tmp", "crashcast")
PATIENCE_S = 10


def take_over(stage: str) -> None:
    """Stop the process, with its workers, that still runs this stage, and note that this one does now.

    Raises
    ------
    UserError
        Where it belongs to somebody else, or does not end.
    """
    if not NOTES.parents[1].is_dir():  # nobody's project: nothing that DVC could have left
        return
    note = NOTES / f"{stage}.json"
    if orphan := _noted(note):
        family = [orphan, *orphan.children(recursive=True)]
        print(f"{stage}: stopping process {orphan.pid}, which a killed run left behind", file=sys.stderr)
        for process in family:
            with suppress(psutil.Error):  # gone already, or another user's
                process.kill()
        if psutil.wait_procs(family, timeout=PATIENCE_S)[1]:
            raise UserError(f"process {orphan.pid} still runs this stage and does not end: stop it, then run again")
    with replacing(note) as aside:
        aside.write_text(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}), encoding="utf-8")


def _noted(note: Path) -> psutil.Process | None:
    """Return the process of a note, if it still runs: another one may have its number by now."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        process = psutil.Process(content["pid"])
        is_same = abs(process.create_time() - content["started"]) < 1
        return process if is_same and process.pid != os.getpid() else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
