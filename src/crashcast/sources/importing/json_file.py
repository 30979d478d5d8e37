"""JSON as a table of text: records, one a line or in a list, and series as Prometheus and VictoriaMetrics give them.

Of series, each sample is a row: `timestamp`, `value`, the labels, and the name as `metric`.
"""

from __future__ import annotations

import io
import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from crashcast.errors import UserError

Record = dict[str, Any]
Cells = dict[str, str | None]
LINES = re.compile(r"\.(jsonl|ndjson)\b")
NAME_LABEL = "__name__"
ROWS_AT_ONCE = 1 << 16  # as Python's objects, which need ten times the memory
DEEPEST = 8  # groups within groups


def read_json(path: Path, content: bytes) -> tuple[pl.DataFrame, Sequence[int]]:
    """Read JSON, all values as they are written.

    Parameters
    ----------
    path : Path
        The file, for errors, and for whether each line is a record.
    content : bytes
        Its text, in UTF-8.

    Returns
    -------
    DataFrame
        All text. Groups of values become columns such as `labels.host`.
    sequence of int
        The number of each row's record, or its line.

    Raises
    ------
    UserError
        If it is not JSON, or holds no records.
    """
    frames, rows, numbers = list[pl.DataFrame](), list[Cells](), array("q")

    def flush() -> None:
        try:
            frames.append(as_text(rows))
        except UnicodeEncodeError:
            raise UserError(
                f"{path} up to row {numbers[-1]}: half of a character, such as \\ud800; export it again"
            ) from None
        rows.clear()

    for number, record in _records(path, content.decode("utf-8-sig")):
        try:
            found = list(_samples(record)) if _is_series(record) else [_flat(record)]
        except (TypeError, ValueError):
            raise UserError(
                f"{path}, row {number}: samples are no pairs of a time and a value; export it again"
            ) from None
        rows += found
        numbers.extend([number] * len(found))
        if len(rows) >= ROWS_AT_ONCE:
            flush()
    flush()
    return pl.concat(frames, how="diagonal"), numbers


def as_text(rows: Sequence[Cells]) -> pl.DataFrame:
    """Return rows as a table of text; a row may lack columns."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame({name: pl.Series([row.get(name) for row in rows], dtype=pl.String) for name in columns})


def _records(path: Path, text: str) -> Iterator[tuple[int, Record]]:
    number = 0
    try:
        for number, record in _numbered(text, bool(LINES.search(path.name.lower()))):
            if not isinstance(record, dict):
                raise UserError(f"{path}, row {number}: no JSON object; write one for each row")
            yield number, record
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}; export it again") from None
    if not number:
        raise UserError(f"{path} holds no list of records; write one JSON object a line, or a list of them")


def _numbered(text: str, is_by_line: bool) -> Iterable[tuple[int, Any]]:
    def parse(part: str) -> Any:
        return json.loads(part, parse_float=str, parse_int=str, parse_constant=str)

    if is_by_line:
        lines = io.StringIO(text, newline="\n")
        return ((number, parse(line)) for number, line in enumerate(lines, 1) if line.strip())
    return enumerate(_list_in(parse(text)), 1)


def _list_in(content: Any) -> list[Any]:
    # itself, or the only list of objects below it, such as data.result
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        return []
    if _is_series(content):
        return [content]
    lists = [one for one in content.values() if isinstance(one, list) and one and isinstance(one[0], dict)]
    groups = [one for one in content.values() if isinstance(one, dict)]
    if lists or not groups:
        return lists[0] if len(lists) == 1 else []
    return _list_in(content.get("data", groups[0]))


def _is_series(record: Record) -> bool:
    return isinstance(record.get("metric"), dict) and bool({"value", "values"} & record.keys())


def _samples(series: Record) -> Iterator[Cells]:
    labels = _flat(series["metric"])
    if NAME_LABEL in labels:
        labels = {"metric": labels.pop(NAME_LABEL), **labels}
    values = series["values"] if "values" in series else [series["value"]]
    pairs = zip(series["timestamps"], values, strict=True) if "timestamps" in series else values
    for moment, value in pairs:
        yield {"timestamp": _text(moment), **labels, "value": _text(value)}


def _flat(record: Record, prefix: str = "", depth: int = 0) -> Cells:
    cells = Cells()
    for name, value in record.items():
        if isinstance(value, dict) and depth < DEEPEST:
            cells |= _flat(value, f"{prefix}{name}.", depth + 1)
        else:
            cells[f"{prefix}{name}"] = _text(value)
    return cells


def _text(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if value is None or isinstance(value, str) else json.dumps(value)
