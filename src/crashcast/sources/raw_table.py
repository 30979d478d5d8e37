"""Tables of raw data that earlier versions of the data are without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.versioning.dvc_files import pointer


def read_or_empty(path: Path, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Return a table that DVC tracks, or one without rows if there is none.

    Raises
    ------
    UserError
        If it is tracked, and not here; if it is damaged, or lacks a column.
    """
    if path.exists():
        return tables.read(path, schema)
    if pointer(path).exists():
        raise UserError(f"{path} is missing: `dvc pull` brings it")
    return pl.DataFrame(schema=schema)
