"""Records of ticket systems in files: exports (CSV, Parquet) and saved answers of an API (JSON)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from crashcast.errors import UserError
from crashcast.params.tickets import TicketSource
from crashcast.sources.importing.table_file import DELIMITERS, read_sheet
from crashcast.sources.tickets.fields import Record
from crashcast.sources.tickets.systems import SYSTEMS

LIST_KEYS = tuple(dict.fromkeys(system.list_key for system in SYSTEMS.values()))


def records(name: str, source: TicketSource) -> Iterator[Record]:
    """Read the records of a source's files.

    Parameters
    ----------
    name : str
        The source's name.
    source : TicketSource
        With `files`.

    Raises
    ------
    UserError
        If a path leads to no file, or a file is damaged or of an unknown kind.
    """
    for path in _paths(name, source.files):
        read = source.system.read or {".json": _json, ".csv": _csv}.get(path.suffix.lower(), _sheet)
        yield from read(path)


def _paths(name: str, patterns: Iterable[str]) -> list[Path]:
    found: set[Path] = set()
    for pattern in patterns:
        root = Path(pattern).anchor or "."
        matches = {path for path in Path(root).glob(str(Path(pattern).relative_to(root))) if path.is_file()}
        if not matches:
            raise UserError(f"{name}: there is no file {pattern}; correct tickets.sources.{name}.files in params.yaml")
        found |= matches
    return sorted(found)


def _json(path: Path) -> Iterator[Record]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}; export it again") from None
    if isinstance(content, dict):
        content = next((content[key] for key in LIST_KEYS if isinstance(content.get(key), dict | list)), None)
    if isinstance(content, dict):  # the answer to a question about one record
        content = [content]
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        raise UserError(f"{path} holds no list of records, by itself or under {', '.join(LIST_KEYS)}")
    yield from content


def _csv(path: Path) -> Iterator[Record]:
    # unlike `read_sheet`, it keeps all columns of one name: some systems repeat the column of labels
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = max(DELIMITERS, key=file.readline().count)
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            header = [column.strip() for column in next(rows, [])]
            if not any(header):
                raise UserError(f"{path}, row 1: no header; add a row that names the columns")
            for number, row in enumerate(rows, start=2):
                if len(row) not in (0, len(header)):
                    raise UserError(
                        f"{path}, row {number}: {len(row)} values for {len(header)} columns; export it again"
                    )
                record: dict[str, list[str]] = {}
                for column, value in zip(header, row, strict=False):
                    record.setdefault(column, []).append(value)
                if record:
                    yield dict(record)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV ({error}); export it again") from None


def _sheet(path: Path) -> Iterator[Record]:
    try:
        yield from read_sheet(path).frame.iter_rows(named=True)
    except (ValueError, OverflowError) as error:  # of moments within lists and groups of columns
        raise UserError(f"{path} holds a value that cannot be read ({error}); export it again") from None
