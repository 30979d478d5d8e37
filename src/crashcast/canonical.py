"""Text and JSON whose bytes depend on their content alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from crashcast.files import replacing

SIGNIFICANT_DIGITS = 6  # enough for a reader; later digits differ between CPU types


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with a final newline, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text.rstrip("\n") + "\n", encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, digits: int = SIGNIFICANT_DIGITS) -> None:
    """Write JSON with sorted keys and finite numbers of `digits` significant digits; 17 digits keep every bit.

    Raises
    ------
    ValueError
        If a number is NaN or infinite, because `dvc metrics diff` would ignore it.
    """
    write_text(path, json_text(value, digits))


def json_text(value: Any, digits: int = SIGNIFICANT_DIGITS) -> str:
    """Return `value` as canonical JSON (see `write_json`)."""
    return json.dumps(_canonical(value, digits, "$"), sort_keys=True, indent=2, ensure_ascii=False)


def _canonical(value: Any, digits: int, where: str) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item, digits, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, digits, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "item"):  # numpy scalars
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: only finite numbers can be compared between commits")
        return float(f"{value:.{digits}g}")
    return value
