"""Where a telemetry file says which server and which metric a value is of, if not in columns of their own.

A file may have a column for each server, or be named after its server; the incidents tell names of servers from names
of metrics. Names of metrics become identifiers by rule.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from crashcast.sources.importing.table_file import SUFFIXES, Sheet, plain_name
from crashcast.text import some_of

IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
SEPARATORS, BRACKETS = r"[\s,;|&]+(?:and\s+)?", "[](){}\"'"
LABEL = r'\b(?:instance|host|hostname|server|server_id|node|machine)="([^"]+)"'  # in a header, as Prometheus writes it


@dataclass(frozen=True)
class Layout:
    """What is known about the files.

    Attributes
    ----------
    servers : collection of str
        Those that have incidents, or earlier telemetry.
    new_names : mapping of str to str
        Names that the user chose for columns and metrics.
    metric : str, optional
        The metric of files with a column for each server; by default, the file's name.
    rates : collection of str
        Counters to import as rates.
    is_named_by_server : bool
        Files without a column of servers are named after their server.
    """

    servers: Collection[str] = ()
    new_names: Mapping[str, str] = field(default_factory=dict)
    metric: str | None = None
    rates: Collection[str] = ()
    is_named_by_server: bool = False


def stem(path: Path) -> str:
    """Return a file's name without its suffix."""
    suffix = next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(suffix))
    return path.name[: -len(suffix)]


def identifier(name: str) -> str:
    """Return a metric's name with letters, digits and _ only; as it is if letters would be lost."""
    if re.fullmatch(IDENTIFIER, name):
        return name
    text = unicodedata.normalize("NFKD", name.replace("\u00b5", "u")).replace("%", " pct ")
    plain = re.sub(r"[^A-Za-z0-9]+", "_", "".join(c for c in text if not unicodedata.combining(c))).strip("_")
    if not plain or any(c.isalpha() and not c.isascii() for c in text if not unicodedata.combining(c)):
        return name
    return f"_{plain}" if plain[0].isdigit() else plain


def servers_of(cell: str) -> list[str]:
    """Return the servers that a cell lists."""
    return [name for part in re.split(SEPARATORS, cell) if (name := part.strip(BRACKETS))]


def with_servers(
    sheet: Sheet, roles: Mapping[str, str], layout: Layout, server_names: Collection[str]
) -> tuple[Sheet, str]:
    """Give a table without a column of servers one, and tell where it comes from.

    Parameters
    ----------
    sheet : Sheet
        The file.
    roles : mapping of str to str
        The column of each role.
    layout : Layout
    server_names : collection of str
        Names of columns of servers, which folders may have too: `host=web-01/`.

    Returns
    -------
    Sheet, str
        As it was, and an empty text, if nothing names servers.
    """
    values = [column for column in sheet.frame.columns if column not in roles.values() and column.strip()]
    labels = {column: _server(column) for column in values}
    is_wide = layout.metric is not None or any(
        server in layout.servers or server != column.strip() for column, server in labels.items()
    )
    if (in_path := _server_of_path(sheet.path, server_names)) is not None:
        return _named(sheet, in_path), f"server_id '{in_path}' from its folder's name"
    if values and is_wide:
        metric = layout.metric or identifier(stem(sheet.path))
        long = sheet.frame.select(roles["timestamp"], *values).rename(labels)
        names = list(labels.values())
        wide = long.unpivot(names, index=roles["timestamp"], variable_name="server_id", value_name=metric)
        why = "" if layout.metric else ", the file's name: --metric says otherwise"
        columns = f"server_id from the names of {len(names)} columns ({some_of(names)})"
        return replace(sheet, frame=wide, height=sheet.frame.height), f"{columns}, all of the metric {metric}{why}"
    if layout.is_named_by_server:
        return _named(sheet, stem(sheet.path)), "server_id from each file's name"
    return sheet, ""


def _named(sheet: Sheet, server: str) -> Sheet:
    return replace(sheet, frame=sheet.frame.with_columns(server_id=pl.lit(server)))


def _server(column: str) -> str:
    label = re.search(LABEL, column)
    return label[1] if label else column.strip()


def _server_of_path(path: Path, server_names: Collection[str]) -> str | None:
    folders = (part.partition("=") for part in path.parts[:-1])
    return next((value for name, sign, value in folders if sign and value and plain_name(name) in server_names), None)
