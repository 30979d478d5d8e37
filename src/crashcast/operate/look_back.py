"""The samples that scores look back to, in memory between ticks: a tick reads only the moments that are new or changed.

They are divided by servers, so that cleaning them and making features takes little memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.operate import telemetry_tail
from crashcast.operate.telemetry_tail import Tail
from crashcast.params.telemetry import Telemetry

PIECE_ROWS = 2**18  # of a piece: with more, memory grows; with fewer, what each piece costs anyway


@dataclass
class LookBack:
    """Samples of a tail.

    Attributes
    ----------
    digests : dict of datetime to str
        Those of the tail when the rows of each moment were read; of each moment that is here.
    firsts : list of str
        The servers with which the pieces begin.
    pieces : list of DataFrame
        See `divide`; with servers as categories, which take a quarter of the memory.
    metrics : list of str
        Those that the pieces hold.
    """

    digests: dict[datetime, str] = field(default_factory=dict)
    firsts: list[str] = field(default_factory=list)
    pieces: list[pl.DataFrame] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)

    def read(self, tail: Tail, start: datetime, end: datetime, telemetry: Telemetry) -> Iterator[pl.DataFrame]:
        """Return the samples of [start, end) in a tail, divided by servers, with servers as text.

        Raises
        ------
        UserError
            If a file of the tail that must be read is damaged, or the tail holds nothing.
        """
        if self.metrics != (metrics := list(telemetry.metrics)):  # of another model: digests do not tell of names
            self.digests, self.pieces, self.metrics = {}, [], metrics
        known, wanted = (
            {moment: digest for moment, digest in digests.items() if start <= moment < end}
            for digests in (self.digests, tail.digests)
        )
        # a moment may also be gone: if a model has a longer interval, or the tail was fetched anew
        since = min((moment for moment, _ in known.items() ^ wanted.items()), default=None)
        if since is not None or not self.pieces:
            self._renew(tail, start, start if since is None else since, end, telemetry)
            self.digests = wanted
        text = pl.col("server_id").cast(pl.String)
        return (between(piece, start, end).with_columns(text) for piece in self.pieces)

    def _renew(self, tail: Tail, start: datetime, since: datetime, end: datetime, telemetry: Telemetry) -> None:
        """Keep the rows of [start, since), and read those of [since, end)."""
        parts = [[between(piece, start, since)] for piece in self.pieces]
        if not any(kept.height for (kept,) in parts):
            parts = []
        self.digests, self.pieces = {}, []
        for rows in telemetry_tail.read_files(tail.folder, since, end, [*tables.KEYS, *telemetry.metrics]):
            if not parts:
                self.firsts = _first_servers(rows, (end - start) // telemetry.interval)
                parts = [[] for _ in self.firsts]
            for some, own in zip(parts, _among(rows, self.firsts), strict=True):
                some.append(own.with_columns(pl.col("server_id").cast(pl.Categorical)))
        if not parts:  # no file
            raise UserError(f"{tail.folder} holds no telemetry: the next tick fetches it")
        firsts, self.firsts = self.firsts, []
        for first in firsts:  # one after another, to save memory
            piece = pl.concat(parts.pop(0), how="vertical_relaxed").rechunk()
            if piece.is_empty() and (parts or self.pieces):  # all its servers are gone
                continue
            begins = [first]
            if piece.height > 2 * PIECE_ROWS:  # the fleet grew, or has other names
                begins += _first_servers(piece, piece.height // piece["server_id"].n_unique())[1:]
            self.firsts += begins
            self.pieces += _among(piece, begins)


def divide(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Divide rows by servers, in the order of their names, into pieces of about `PIECE_ROWS`; one at least."""
    return _among(rows, _first_servers(rows, rows["timestamp"].n_unique()))


def _first_servers(rows: pl.DataFrame, times: int) -> list[str]:
    """Return the servers with which the pieces begin, if there are so many moments."""
    servers = rows["server_id"].unique().cast(pl.String).sort()
    return servers.gather_every(max(1, PIECE_ROWS // max(1, times))).to_list() or [""]


def _among(rows: pl.DataFrame, firsts: Sequence[str]) -> list[pl.DataFrame]:
    """Return the rows of each range of servers; the ranges begin with these servers, and cover all."""
    server = pl.col("server_id")
    if len(firsts) == 1:
        return [rows]
    within = [
        server < firsts[1],
        *((server >= first) & (server < following) for first, following in pairwise(firsts[1:])),
        server >= firsts[-1],
    ]
    return [rows.filter(inside) for inside in within]


def between(rows: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """Return the rows of [start, end) of those that are sorted by time, without a copy."""
    bounds = [moment.replace(tzinfo=UTC) for moment in (start, end)]
    first, stop = (int(rows["timestamp"].search_sorted(bound, side="left")) for bound in bounds)
    return rows.slice(first, stop - first)
