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
    stages = _stages(committed, revision), _stages(LOCK.read_text(encoding="utf-8"), "the work tree")
    before, now = (_hashes(lock, "outs") for lock in stages)
    changed = [path for path in before | now if before.get(path) != now.get(path)]
    if causes := _causes(*stages):
        return [f"Not a rerun of {revision}: {', '.join(causes)} changed; `dvc metrics diff` shows what came of it."]
    if not changed:
        return []
    metrics = [path for path in changed if path.startswith("metrics/")]
    far = [line for path in metrics for line in _far_apart(Path(path), revision)]
    lines = [f"This run differs from {revision} in {', '.join(changed)}."]
    return lines + (far or [f"Every figure agrees within {TOLERANCE:.0%}, as it should between types of CPU."])


def _committed(path: Path, revision: str) -> str | None:
    shown = subprocess.run(["git", "show", f"{revision}:{path.as_posix()}"], capture_output=True, text=True)
    return shown.stdout if shown.returncode == 0 else None


def _stages(lock: str, where: str) -> dict[str, Any]:
    try:
        stages: dict[str, Any] = yaml.safe_load(lock)["stages"]
    except (yaml.YAMLError, TypeError, KeyError):
        raise UserError(f"{LOCK} of {where} is unreadable (a merge conflict?): `dvc repro` writes it anew") from None
    return stages


def _hashes(stages: dict[str, Any], kind: str) -> dict[str, str]:
    return {entry["path"]: entry["md5"] for stage in stages.values() for entry in stage.get(kind, ())}


def _causes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name what went into the run and is not what went into the committed one: raw data, code, parameters, commands."""
    made = _hashes(before, "outs") | _hashes(now, "outs")
    old, new = _hashes(before, "deps"), _hashes(now, "deps")
    files = [path for path in old | new if path not in made and old.get(path) != new.get(path)]
    rules = [
        f"{what} of {name}"
        for name in before | now
        for what, key in (("parameters", "params"), ("command", "cmd"))
        if before.get(name, {}).get(key) != now.get(name, {}).get(key)
    ]
    return files + rules


def _far_apart(path: Path, revision: str) -> Iterator[str]:
    before = dict(_figures(json.loads(_committed(path, revision) or "{}")))
    now = dict(_figures(json.loads(path.read_text(encoding="utf-8") if path.exists() else "{}")))
    for name in sorted(before | now):
        old, new = before.get(name), now.get(name)
        if old != new and not is_close(old, new):
            yield f"  {path}: {name} was {old}, is {new}"


def is_close(old: Any, new: Any) -> bool:
    """Tell whether two figures agree as far as types of CPU let them."""
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    return numbers and bool(abs(new - old) <= TOLERANCE * max(abs(old), abs(new)))


def _figures(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _figures(item, f"{name}.{key}" if name else key)
    else:
        yield name, value
