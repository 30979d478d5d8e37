"""Servers in records: by a name without the domain, or somewhere in the text of a ticket."""

from __future__ import annotations

import re
from collections.abc import Collection

import polars as pl

from crashcast.sources.importing.columns import texts
from crashcast.sources.importing.table_file import Sheet

WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"  # a name in a sentence, without its full stop or port


def short_name(server: str) -> str:
    """Return a host's name without domain and port, in lower case; an IP address stays."""
    host = re.sub(r":\d{1,5}$", "", server.lower()) if server.count(":") == 1 else server.lower()
    return host if re.fullmatch(r"[\d.]+", host) or ":" in host else host.partition(".")[0]


def by_short_name(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    """Return the known server of each name, if exactly one has the same short name."""
    owners: dict[str, list[str]] = {}
    for server in known:
        owners.setdefault(short_name(server), []).append(server)
    matches = {name: owners.get(short_name(name), []) for name in names}
    return {name: servers[0] for name, servers in sorted(matches.items()) if len(servers) == 1}


def find_servers(sheet: Sheet, known: Collection[str], is_short: bool) -> tuple[pl.Series, list[str]]:
    """Find known servers in the texts of a table; the column that names most decides first.

    Returns
    -------
    Series of str
        For each row the servers, separated by commas; null if no text names one.
    list of str
        The columns, those with most names first.
    """
    kinds = (pl.String, pl.Categorical, pl.Enum)
    found: dict[str, pl.Series] = {}
    for column in sheet.frame.columns:
        if sheet.frame[column].dtype in kinds:
            words = texts(sheet, column).str.extract_all(WORD)
            names = {word: word for word in words.explode().unique().drop_nulls()}
            full = by_short_name(names, known) if is_short else {}
            servers = {word: word if word in known else full[word] for word in names if word in known or word in full}
            listed = words.list.eval(
                pl.element().replace_strict(servers, default=None, return_dtype=pl.String).drop_nulls()
            )
            joined = listed.list.unique(maintain_order=True).list.join(", ")
            found[column] = joined.set(joined == "", None)
    most = sorted((column for column in found if found[column].count()), key=lambda column: -found[column].count())
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, sheet.frame.height)
    return pl.select(pl.coalesce(nothing, *(found[column] for column in most))).to_series(), most
