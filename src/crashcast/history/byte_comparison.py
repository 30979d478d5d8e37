"""Whether a run gave the bytes that were committed, and if not, how far off its figures are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crashcast.versioning import dvc_files, git
from crashcast.versioning.dvc_files import LOCK, Locked, outs_of
from crashcast.versioning.revision import Revision, flatten

TOLERANCE = 0.01  # of a figure, between types of CPU


def compare(revision: str = "HEAD") -> list[str]:
    """Compare dvc.lock and the metrics in the work tree with those of a commit.

    Returns
    -------
    list of str
        Lines for a person; empty if every output has the same bytes.

    Raises
    ------
    UserError
        If git does not know the commit, the work tree has no dvc.lock, or one of the two cannot be read.
    """
    if git.commit("HEAD") is None:
        return ["There is no commit yet to compare with."]
    commit = Revision.find(revision)
    committed = commit.find_file(LOCK)
    if committed is None:
        return [f"{revision} has no {LOCK} to compare with: commit the one of this run."]
    stages = dvc_files.parse_lock(committed, f"{LOCK} of {revision}"), dvc_files.read_lock()
    before, now = map(outs_of, stages)
    if absent := [path for path in now if not Path(path).exists()]:
        return [f"Not in the work tree, so not compared: {', '.join(absent)}. `dvc repro` makes them."]
    changed = [path for path in before | now if before.get(path) != now.get(path)]
    if causes := _causes(*stages):
        return [f"Not a rerun of {revision}: {', '.join(causes)} changed; `dvc metrics diff` shows what came of it."]
    if not changed:
        return []
    metrics = [path for path in changed if path.startswith("metrics/")]
    far = [line for path in metrics for line in _far_apart(Path(path), commit)]
    lines = [f"This run differs from {revision} in {', '.join(changed)}."]
    return lines + (far or [f"Every figure agrees within {TOLERANCE:.0%}, as it should between types of CPU."])


def _causes(before: dict[str, Locked], now: dict[str, Locked]) -> list[str]:
    """Name what went into the run and is not what went into the committed one: raw data, code, parameters, commands."""
    made = {*outs_of(before), *outs_of(now)}
    old, new = (
        {path: digest for stage in stages.values() for path, digest in stage.deps.items()} for stages in (before, now)
    )
    files = [path for path in old | new if path not in made and old.get(path) != new.get(path)]
    rules = [
        f"{what} of {name}"
        for name in before | now
        for what, key in (("parameters", "params"), ("command", "command"))
        if getattr(before.get(name), key, None) != getattr(now.get(name), key, None)
    ]
    return files + rules


def _far_apart(path: Path, commit: Revision) -> Iterator[str]:
    before = dict(flatten(json.loads(commit.find_file(path.as_posix()) or "{}")))
    now = dict(flatten(json.loads(path.read_text(encoding="utf-8") if path.exists() else "{}")))
    for name in sorted(before | now):
        old, new = before.get(name), now.get(name)
        if old != new and not is_close(old, new):
            yield f"  {path}: {name} was {old}, is {new}"


def is_close(old: Any, new: Any) -> bool:
    """Tell whether two figures agree as far as types of CPU let them."""
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    return numbers and bool(abs(new - old) <= TOLERANCE * max(abs(old), abs(new)))
