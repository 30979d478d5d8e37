"""Tables of the work tree or of any revision as frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from crashcast import tables
from crashcast.dates import read_moment
from crashcast.errors import UserError
from crashcast.review.data_changes import partition_of
from crashcast.review.test_set import Period, touches
from crashcast.text import all_of
from crashcast.versioning import cache
from crashcast.versioning.outputs import Output, outputs_of
from crashcast.versioning.revision import Revision

if TYPE_CHECKING:
    import pandas as pd

Moment = str | date | None
PLACES = ("data/{}", "data/{}.parquet", "data/raw/{}", "data/raw/{}.parquet")  # of a table, the first one wins
ON_THE_GRID = ("clean", "features")
JOINED: dict[str, dict[str, Any]] = {  # of the same rows
    "labels": {"label": pl.Int8, "reason": pl.String},
    "predictions": {"score": pl.Float64},
}
TIMES = ("timestamp", "started_at", "at")  # the column that a period is about


def load(
    table: str,
    rev: str | None = None,
    servers: Sequence[str] | None = None,
    since: Moment = None,
    until: Moment = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read a table as a frame of pandas, of the work tree or of any revision.

    Parameters
    ----------
    table : str
        `features`, `clean`, `labels`, `predictions`, `telemetry`, `incidents` (as confirmed; `raw/incidents` as
        recorded), `coverage`, `votes`, or any other table below data/.
    rev : str, optional
        A branch, a tag, a commit or a registered version such as v1.0.0. What DVC's cache lacks of it is fetched from
        DVC's remote, and only the partitions of the period. By default, the work tree's files are read.
    servers : sequence of str, optional
        Whose rows; all by default. A large fleet fits into memory only in part: name servers, a period or columns.
    since, until : str, date or datetime, optional
        The period [since, until), such as "2026-01-31" or "2026-01-31T12:00"; UTC unless they name another zone.
    columns : sequence of str, optional
        Which columns, besides those of keys and those that are joined; all by default.

    Returns
    -------
    pandas.DataFrame
        In the order of the table. `features` and `clean` are joined with `label` (1: its server crashes soon, 0: it
        does not, NaN: not known), `reason` (why it is not known) and `score` (the model's; NaN outside of the test
        part).

    Raises
    ------
    UserError
        If there is no such table, revision or column, a moment cannot be read, or data cannot be had.
    """
    return read(table, rev, servers, since, until, columns).to_pandas()


def read(
    table: str,
    rev: str | None = None,
    servers: Sequence[str] | None = None,
    since: Moment = None,
    until: Moment = None,
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Read a table as a frame of polars: see `load`."""
    period = (
        datetime.min if since is None else read_moment(since, "since"),
        datetime.max if until is None else read_moment(until, "until"),
    )
    with _places(rev, period) as (where, places):

        def rows(name: str, wanted: Sequence[str] | None) -> pl.DataFrame | None:
            found = next((place for form in PLACES if (place := form.format(name)) in places), None)
            return None if found is None else _rows(places[found](), servers, period, wanted)

        frame = rows(table, columns)
        if frame is None:
            known = sorted(place.removeprefix("data/").removesuffix(".parquet") for place in places)
            raise UserError(f"{where} has no table '{table}'; it has {all_of(known) or 'none'}")
        if table not in ON_THE_GRID:
            return frame
        for other, wanted in JOINED.items():
            joined = rows(other, list(wanted))
            if joined is None:  # the pipeline did not come so far
                empty: dict[str, Any] = {**tables.KEYS, **wanted}
                joined = pl.DataFrame(schema=empty)
            frame = frame.join(joined, on=list(tables.KEYS), how="left", suffix=f"_of_{other}", maintain_order="left")
        return frame


@contextmanager
def _places(rev: str | None, period: Period) -> Iterator[tuple[str, dict[str, Callable[[], Path]]]]:
    """Give what is searched, and what brings the file or the folder of each table in it.

    The folder of a revision has the partitions of the period alone.
    """
    if rev is None:
        listed = [path for folder in ("data", "data/raw") for path in sorted(Path(folder).glob("*"))]
        found = [path for path in listed if path.suffix == ".parquet" or any(path.glob("*=*"))]
        yield "the work tree", {path.as_posix(): partial(Path, path) for path in found}
        return
    revision = Revision.find(rev)
    with cache.temporary() as place:

        def lay_out(output: Output) -> Path:
            what = f"{output.path} of commit {revision.name}"
            return cache.lay_out(
                output.md5, place / output.path, what, lambda path: touches(partition_of(path), period)
            )

        outputs = {out.path: out for out in outputs_of([revision])[0] if out.path.startswith("data/")}
        yield f"commit {revision.name}", {path: partial(lay_out, output) for path, output in outputs.items()}


def _rows(path: Path, servers: Sequence[str] | None, period: Period, columns: Sequence[str] | None) -> pl.DataFrame:
    """Read the rows of some servers and a period, partition by partition."""
    files = [path]
    if path.is_dir():
        listed = tables.partitions(path)
        chosen = [one for one in listed if touches(one, period)]
        files = [one.path(path) for one in chosen or listed[:1]]  # without one in the period: its columns, no row
    names = tables.read(files[0], where=pl.lit(False)).columns
    where = pl.lit(True)
    if servers is not None:
        _need("server_id", names, path, "servers")
        where &= pl.col("server_id").is_in(list(servers))
    if period != (datetime.min, datetime.max):
        time = next((name for name in TIMES if name in names), TIMES[0])
        _need(time, names, path, "since and until")
        where &= pl.col(time).is_between(*tables.utc(*period), closed="left")
    keys = [name for name in tables.KEYS if name in names]
    wanted = None if columns is None else list(dict.fromkeys([*keys, *columns]))
    # a source may have changed the width of a column, or have brought a new one
    return pl.concat((tables.read(file, wanted, where) for file in files), how="diagonal_relaxed", rechunk=True)


def _need(column: str, names: Sequence[str], path: Path, option: str) -> None:
    if column not in names:
        raise UserError(f"{path.name} has no column {column}: leave out {option}")
