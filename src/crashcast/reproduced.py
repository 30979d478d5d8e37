"""Whether a run gave the bytes that were committed, and if not, how far off its figures are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from crashcast.errors import UserError

LOCK = Path("dvc.lock")
TOLERANCE = 0.01  # of a figure, between types of CPU


def compare(revision: str = "HEAD") -> list[str]:
    """Compare dvc.lock and the metrics in the work tree with those of a commit.

    Returns
    -------
    list of str
        Lines for a person; empty where every output has the same bytes.

    Raises
    ------
    UserError
        Where there is no dvc.lock to compare.
    """
    committed = _committed(LOCK, revision)
    if committed is None:
        return [f"{revision} has no {LOCK} to compare with: this is the first run"]
    if not LOCK.exists():
        raise UserError(f"{LOCK} is missing: `dvc repro` writes it")
    before, now = _outputs(committed), _outputs(LOCK.read_text(encoding="utf-8"))
    changed = [path for path in before | now if before.get(path) != now.get(path)]
    if not changed:
        return []
    metrics = [path for path in changed if path.startswith("metrics/")]
    far = [line for path in metrics for line in _far_apart(Path(path), revision)]
    lines = [f"This run differs from {revision} in {', '.join(changed)}."]
    return lines + (far or [f"Every figure agrees within {TOLERANCE:.0%}, as it should between types of CPU."])


def _committed(path: Path, revision: str) -> str | None:
    shown = subprocess.run(["git", "show", f"{revision}:{path.as_posix()}"], capture_output=True, text=True)
    return shown.stdout if shown.returncode == 0 else None


def _outputs(lock: str) -> dict[str, str]:
    stages = yaml.safe_load(lock)["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}


def _far_apart(path: Path, revision: str) -> Iterator[str]:
    before = dict(_figures(json.loads(_committed(path, revision) or "{}")))
    now = dict(_figures(json.loads(path.read_text(encoding="utf-8"))))
    for name in sorted(before | now):
        old, new = before.get(name), now.get(name)
        if old != new and not _close(old, new):
            yield f"  {path}: {name} was {old}, is {new}"


def _close(old: Any, new: Any) -> bool:
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    return numbers and bool(abs(new - old) <= TOLERANCE * max(abs(old), abs(new)))


def _figures(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _figures(item, f"{name}.{key}" if name else key)
    else:
        yield name, value
