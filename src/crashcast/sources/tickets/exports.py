"""Tickets in files: a system's export or saved answers as JSON, CSV or Parquet, and notes that people write.

A note is a Markdown file that begins with a small front matter, between two lines of `---`:

    ---
    server_ids: [web-4, web-5]
    started_at: 2026-03-02 09:40 +01:00
    resolved_at: 2026-03-02 10:15 +01:00
    reported_at: 2026-03-02 09:55 +01:00
    kind: crash
    severity: high
    ---
    # The load balancer ran out of memory
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from crashcast.errors import UserError
from crashcast.params.tickets import TicketSource
from crashcast.sources.importing.columns import DELIMITERS, read_sheet
from crashcast.sources.tickets.tickets import Record

LISTS = ("incidents", "data", "result", "records", "issues")  # under which a system's answer has its records
FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?\n|)---[ \t]*\r?\n?(.*)\Z", re.DOTALL)


def records(name: str, source: TicketSource) -> Iterator[Record]:
    """Read the records of a source's files.

    Parameters
    ----------
    name : str
        The source's name.
    source : TicketSource
        Which names files.

    Raises
    ------
    UserError
        Where a path leads to no file, or a file is damaged or of an unknown kind.
    """
    for path in _paths(name, source.files):
        if source.type == "notes":
            yield from _note(path)
            continue
        read = {".json": _json, ".csv": _csv}.get(path.suffix.lower(), _sheet)
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}; export it again") from None
    if isinstance(content, dict):
        content = next((content[key] for key in LISTS if isinstance(content.get(key), list)), content)
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        raise UserError(f"{path} holds no list of records, by itself or under {', '.join(LISTS)}")
    yield from content


def _csv(path: Path) -> Iterator[Record]:
    # unlike `read_sheet`, with every column that has the same name: Jira repeats `Labels`
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
    yield from read_sheet(path).frame.iter_rows(named=True)


def _note(path: Path) -> Iterator[Record]:
    # a text without front matter is no ticket, and a front matter that is no YAML a bad one
    try:
        match = FRONT_MATTER.match(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    if match is None:
        return
    try:
        matter: Any = yaml.load(match[1], Loader=yaml.BaseLoader)  # texts alone: times keep their zone
    except yaml.YAMLError:
        matter = None
    heading = next((line.lstrip("# ") for line in match[2].splitlines() if line.strip()), None)
    known = {"summary": heading, **matter} if isinstance(matter, dict) else {}
    yield {**known, "file": path.as_posix()}
