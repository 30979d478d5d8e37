"""DVC's commands: run here or asked for JSON, and the locks by which they keep out of each other's way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crashcast.errors import UserError
from crashcast.versioning import git

TEMPORARY = Path(".dvc", "tmp")
PATH_LOCKS = TEMPORARY / "rwlock"  # which process reads or writes which path


def ask(*arguments: str) -> dict[str, Any]:
    """Return the answer of a command that takes --json.

    Raises
    ------
    UserError
        With DVC's own words if it gives none.
    """
    command = [sys.executable, "-m", "dvc", *arguments, "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, env=git.environment())
    try:
        answer: dict[str, Any] = json.loads(asked.stdout)
    except ValueError:
        lines = asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        raise UserError(f"`dvc {' '.join(arguments)}` failed: {reason.removeprefix('ERROR: ')}") from None
    return answer


def run(*arguments: str) -> int:
    """Run a command in this process, which has imported DVC for other questions; return its exit status."""
    from dvc.cli import main

    return int(main([*arguments]))


def forget_files() -> None:
    """Delete DVC's list of the files to transfer: a `dvc` that was killed leaves a part, which is taken for all."""
    from dvc.repo import Repo

    with Repo() as repo:
        repo.drop_data_index()


@contextmanager
def kept_out() -> Iterator[None]:
    """Keep DVC's commands out while data is repaired or deleted.

    Raises
    ------
    UserError
        If one runs.
    """
    from dvc.config import Config
    from dvc.lock import LockError, make_lock

    TEMPORARY.mkdir(parents=True, exist_ok=True)
    uses_links = Config.from_cwd()["core"].get("hardlink_lock", False)
    lock = make_lock(str(TEMPORARY / "lock"), tmp_dir=str(TEMPORARY), hardlink_lock=uses_links)
    try:
        lock.lock()
    except LockError:
        raise UserError("a dvc command is running: wait until it ends, then run this again") from None
    try:
        yield
    finally:
        lock.unlock()


def path_lock_holders() -> dict[int, str]:
    """Return the processes that hold locks of paths, and their commands.

    Raises
    ------
    FileNotFoundError
        If there are no locks.
    ValueError
        If the file was cut short by a kill: DVC refuses to run.
    """
    content = json.loads(PATH_LOCKS.read_text(encoding="utf-8"))
    try:
        readers = [info for infos in content.get("read", {}).values() for info in infos]
        return {int(info["pid"]): str(info["cmd"]) for info in [*readers, *content.get("write", {}).values()]}
    except (AttributeError, KeyError, TypeError):
        raise ValueError from None
