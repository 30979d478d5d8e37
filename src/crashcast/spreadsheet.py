"""CSV that people open: a spreadsheet runs a text as a formula if it begins with certain signs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

FORMULA = r"^[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"  # the last four are wide forms


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame whose texts are no formulas: an apostrophe, as a person would type it, precedes those signs."""
    texts = cs.string() | cs.categorical() | cs.enum()
    return frame.with_columns(texts.cast(pl.String).str.replace(FORMULA, "'$0"))


def write_csv(frame: pl.DataFrame, path: Path | None = None, **options: Any) -> str:
    """Write a frame as CSV for people, to a file or to the text that is returned.

    Parameters
    ----------
    frame : DataFrame
    path : Path, optional
    **options
        Those of polars.
    """
    return as_text(frame).write_csv(path, **options) or ""
