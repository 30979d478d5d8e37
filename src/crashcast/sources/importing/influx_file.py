"""InfluxDB's annotated CSV: tables below each other, each with its own header after lines that begin with `#`.

Source: InfluxDB's documentation (annotated CSV).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from crashcast.errors import UserError
from crashcast.sources.importing.json_file import as_text

ITS_OWN = ("", "result", "table", "_start", "_stop")  # columns about the query, not about the samples
DEFAULTS = "#default"


def is_annotated(start: str) -> bool:
    """Tell whether a CSV file begins with annotations."""
    return start.lstrip("\r\n").startswith(("#group", "#datatype", "#default"))


def read_annotated(path: Path, text: str) -> tuple[pl.DataFrame, list[int]]:
    """Read all tables as one.

    Returns
    -------
    DataFrame
        All text, without the columns about the query. If metrics have a measurement and a field, both make the name.
    list of int
        The line of each row.

    Raises
    ------
    UserError
        If a row has another number of values than its header.
    """
    rows, numbers = list[dict[str, str | None]](), list[int]()
    for number, row in _rows(path, text):
        if row.get("_measurement") and row.get("_field"):
            row["_field"] = f"{row.pop('_measurement')}_{row['_field']}"
        rows.append(row)
        numbers.append(number)
    return as_text(rows), numbers


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    header, defaults = list[str](), list[str]()
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for cells in reader:
            if not any(cells) or cells[0].startswith("#"):
                defaults = cells if cells and cells[0] == DEFAULTS else defaults
                header = []
            elif not header:
                header = cells
                defaults = defaults if len(defaults) == len(header) else [""] * len(header)
            elif len(cells) != len(header):
                message = f"{len(cells)} values for {len(header)} columns; export it again"
                raise UserError(f"{path}, row {reader.line_num}: {message}")
            else:
                named = zip(header, cells, defaults, strict=True)
                yield reader.line_num, {name: cell or default for name, cell, default in named if name not in ITS_OWN}
    except csv.Error as error:
        raise UserError(f"{path}, row {reader.line_num}: {error}; export it again") from None
