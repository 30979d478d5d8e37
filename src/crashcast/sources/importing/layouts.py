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
from typing import NamedTuple

import polars as pl

from crashcast.sources.importing.table_file import SUFFIXES, Sheet, plain_name
from crashcast.text import some_of

IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
SEPARATORS, BRACKETS = r"[\s,;|&]+(?:and\s+)?", "[](){}\"'"
DATED = r"[-_.]?20\d{2}[-_]?(?:0[1-9]|1[0-2])(?:[-_]?[0-3]\d)?(?:[T_-]?\d{4,6}Z?)?$"  # at the end of a file's name
TOTALS = ("total", "sum", "average", "avg", "mean", "min", "max", "count")  # columns of spreadsheets beside the servers
NOTHING = "no such column"
LABEL = r'\b(?:instance|host|hostname|server|server_id|node|machine)="([^"]+)"'  # in a header, as Prometheus writes it
NO_NAME = rf'{LABEL},?\s*|\bjob="[^"]*",?\s*'  # labels that do not tell metrics apart


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
    beside_server : (str, str), optional
        What stands before and after the server in names of files that have no column of servers.
    is_named_by_metric : bool
        Files with a column `value`, and none of metrics, are named after their metric.
    """

    servers: Collection[str] = ()
    new_names: Mapping[str, str] = field(default_factory=dict)
    metric: str | None = None
    rates: Collection[str] = ()
    beside_server: tuple[str, str] | None = None
    is_named_by_metric: bool = False


def stem(path: Path) -> str:
    """Return a file's name without its suffix."""
    suffixes = [suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)]
    return path.name[: -len(max(suffixes, key=len))] if suffixes else path.name


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

    Raises
    ------
    UserError
        If two columns are of one metric and server.
    """
    values = [column for column in sheet.frame.columns if column not in roles.values() and column.strip()]
    headers = read_headers(values, layout.servers)
    if (in_path := _server_of_path(sheet.path, server_names)) is not None:
        return _named(sheet, in_path), "server_id from each file's folder"
    if values and (layout.metric is not None or any(header.names_server for header in headers.values())):
        return _stacked(sheet, roles["timestamp"], headers, layout)
    if (named := _server_in(sheet.path, layout)) is not None:
        return _named(sheet, named), "server_id from each file's name, or its folder's"
    return sheet, ""


class Header(NamedTuple):
    """What the name of a column says: whose values it holds, and of which metric, if it says so."""

    server: str
    metric: str = ""
    names_server: bool = False


def read_headers(columns: Collection[str], servers: Collection[str]) -> dict[str, Header]:
    """Read names of columns; a server that is not known stands where known ones stand."""
    headers = {column: read_header(column, servers) for column in columns}
    known = [
        (column.strip().partition(header.server), header) for column, header in headers.items() if header.names_server
    ]
    places = {(before, after): header.metric for (before, _, after), header in known}
    for column, header in headers.items():
        if not header.names_server:
            fitting = [beside for beside in places if server_between(column.strip(), beside)]
            beside = max(fitting, key=lambda beside: len("".join(beside)), default=("", ""))
            server = server_between(column.strip(), beside)
            headers[column] = Header(without_port(server, servers), places.get(beside, ""))
    return headers


def server_between(text: str, beside: tuple[str, str]) -> str:
    """Return what stands between two texts; empty if they do not enclose it."""
    before, after = beside
    return text[len(before) : len(text) - len(after)] if text.startswith(before) and text.endswith(after) else ""


def read_header(column: str, servers: Collection[str]) -> Header:
    """Find the server in a column's name: in labels, as Prometheus writes them, or as one of `servers`."""
    text = column.strip()
    if label := re.search(LABEL, text):
        return Header(without_port(label[1], servers), re.sub(r"\{\W*\}", "", re.sub(NO_NAME, "", text)).strip(), True)
    if (host := without_port(text, servers)) in servers:
        return Header(host, "", True)
    words = [word.strip(BRACKETS) for word in re.split(r"[\s:,;|/()]+", text)]
    if len(found := [word for word in words if word in servers]) == 1:
        rest = text.replace(found[0], " ").strip(" :,;|/()-.")
        return Header(found[0], re.sub(r"\s+", " ", rest) if re.search("[A-Za-z]", rest) else "", True)
    return Header(text)


def without_port(server: str, servers: Collection[str]) -> str:
    """Return the name of a target of Prometheus, `web-01:9100`, without the port, unless it is known by it."""
    host = re.fullmatch(r"([^:\[\]]+):\d{1,5}", server)
    return host[1] if host and server not in servers else server


def _stacked(sheet: Sheet, timestamp: str, headers: Mapping[str, Header], layout: Layout) -> tuple[Sheet, str]:
    # the rows of one server below those of another
    usual = layout.metric or metric_of(sheet.path)
    totals = [column for column, header in headers.items() if header.server.lower() in TOTALS and not header.metric]
    columns: dict[str, dict[str, str]] = {}
    for column, header in headers.items():
        if column not in totals:
            of_server = columns.setdefault(header.server, {})
            if (other := of_server.setdefault(header.metric or usual, column)) != column:
                message = f"'{other}' and '{column}' are both {header.metric or usual} of {header.server}"
                raise sheet.error(f"{message}; keep one, or give them different names")
    metrics = list(dict.fromkeys(name for of_server in columns.values() for name in of_server))
    frame = sheet.frame.with_columns(pl.lit(None, pl.String).alias(NOTHING))
    stacked = pl.concat(
        frame.select(
            pl.col(timestamp),
            pl.lit(server).alias("server_id"),
            *(pl.col(of_server.get(metric, NOTHING)).alias(metric) for metric in metrics),
        )
        for server, of_server in columns.items()
    )
    names = f"server_id from the names of {len(headers) - len(totals)} columns ({some_of(list(columns))})"
    source = "" if layout.metric or usual not in metrics else ", the file's name: --metric says otherwise"
    left = f"; left out: {some_of(totals)}" if totals else ""
    noun = "the metric" if len(metrics) == 1 else "the metrics"
    return replace(sheet, frame=stacked), f"{names}, all of {noun} {some_of(metrics)}{source}{left}"


def metric_of(path: Path) -> str:
    """Return the metric that a file is named after, without a date at the end."""
    return identifier(_undated(path))


def beside_servers(paths: Collection[Path], servers: Collection[str]) -> tuple[str, str] | None:
    """Return what stands before and after servers in the names of files; None if no name has a known server."""
    for path in paths:
        for name in (stem(path), _undated(path)):
            if found := max(
                (word for word in (name, *re.split(r"[_\s]+", name)) if word in servers), key=len, default=None
            ):
                before, _, after = name.partition(found)
                return before, after
    return None


def _undated(path: Path) -> str:
    return re.sub(DATED, "", stem(path)) or stem(path)


def _server_in(path: Path, layout: Layout) -> str | None:
    folder = next((part for part in reversed(path.parts[:-1]) if part in layout.servers), None)
    if layout.beside_server is None or folder:
        return folder
    names = (stem(path), _undated(path))
    found = [server for name in names if (server := server_between(name, layout.beside_server))]
    return next((server for server in found if server in layout.servers), found[-1] if found else None)


def _named(sheet: Sheet, server: str) -> Sheet:
    return replace(sheet, frame=sheet.frame.with_columns(server_id=pl.lit(server)))


def _server_of_path(path: Path, server_names: Collection[str]) -> str | None:
    folders = (part.partition("=") for part in path.parts[:-1])
    return next((value for name, sign, value in folders if sign and value and plain_name(name) in server_names), None)
