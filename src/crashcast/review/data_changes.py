"""Where the challenger's raw data rewrites what the base had, and the data with the base's history instead.

New records are one thing: telemetry after the base's last row, incidents that nobody could have reported by then. To
change, add or remove earlier ones may well be right, as when somebody mends a ticket; but it also changes the exam. So
such corrections are counted and listed, and models are judged with the base's history too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import polars as pl

from crashcast import canonical, tables
from crashcast.history import raw_data
from crashcast.labelling import labelling_functions
from crashcast.params.incidents import Incidents
from crashcast.params.telemetry import Telemetry
from crashcast.sources.importing.merging import join_periods, merge_coverage
from crashcast.tables import KEYS, Partition
from crashcast.versioning import cache
from crashcast.versioning.revision import ACTIONS, ALARMS, COVERAGE, INCIDENTS, TELEMETRY, TICKET_SOURCES, Revision

CHANGED, ADDED, REMOVED = "changed", "added", "removed"
LISTED = 100  # corrections in full; beyond it they are counted
KNOWN_TO = "known_to"
NOTE: dict[str, Any] = {
    "what": pl.String,
    "server_id": pl.String,
    "at": tables.TIMESTAMP,
    "records": pl.Int64,
    "record": pl.String,
}
# what people were told and did: its schema, its order, and the time at which a row was known
OPERATED = (
    (ALARMS, tables.ALARMS, tables.ALARM_KEY, "timestamp"),
    (ACTIONS, tables.ACTIONS, tables.ACTION_KEY, "reported_at"),
)
NO_ROWS: dict[str, Any] = {**KEYS}
MOMENTS = ("started_at", "resolved_at", "reported_at")


@dataclass(frozen=True)
class History:
    """The raw data that models are judged on, by hash, and what the challenger's has otherwise.

    Attributes
    ----------
    base, head : dict of str to str
        The hash of each piece of raw data, with the base's history: with the columns that the base's code expects, and
        with those that the head's does.
    counts : dict
        Corrected records by table, then by what was done to them: changed, added, removed.
    listed : list of dict
        The first of them.
    """

    base: dict[str, str]
    head: dict[str, str]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    listed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_corrected(self) -> bool:
        """Whether the challenger's data has another history than the base's."""
        return bool(self.counts)

    @classmethod
    def of(cls, base: Revision, head: Revision) -> Self:
        """Compare the raw data of two commits; unchanged partitions are never opened."""
        columns = list(base.section(Telemetry).metrics), list(head.section(Telemetry).metrics)
        delay = base.section(Incidents).reporting_delay
        if base.raw == head.raw and columns[0] == columns[1]:
            return cls(dict(base.raw), dict(head.raw))
        content = json.dumps([base.raw, head.raw, columns, str(delay)], sort_keys=True)
        record = cache.review_folder() / "histories" / f"{hashlib.sha256(content.encode()).hexdigest()}.json"
        if (kept := cls._kept(record)) is not None:
            return kept
        found = cls._compare(base, head, columns, delay)
        canonical.write_json(record, asdict(found))
        return found

    @classmethod
    def _kept(cls, record: Path) -> Self | None:
        try:
            found = cls(**json.loads(record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if all(map(cache.is_held, [*found.base.values(), *found.head.values()])) else None

    @classmethod
    def _compare(cls, base: Revision, head: Revision, columns: tuple[list[str], list[str]], delay: timedelta) -> Self:
        covered = raw_data.read_both(base, head, COVERAGE, tables.COVERAGE)
        recorded = raw_data.read_both(base, head, INCIDENTS, tables.INCIDENTS)
        coverage, cover_notes, known_to = judged_coverage(*covered)
        incidents, notes = judged_incidents(*recorded, known_to, delay)
        sources, source_notes = pl.DataFrame(), pl.DataFrame(schema=NOTE)
        if TICKET_SOURCES in base.raw and TICKET_SOURCES in head.raw:
            reach = covered[0].select(pl.col("covered_from").min(), pl.col("covered_to").max()).row(0)
            named = (
                recorded[0]
                .filter(kind=tables.CRASH)
                .select(labelling_functions.systems().explode().unique())
                .to_series()
            )
            periods = raw_data.read_both(base, head, TICKET_SOURCES, tables.TICKET_SOURCES)
            sources, source_notes = judged_sources(*periods, named, reach)
        old, new = _Telemetry.of(base), _Telemetry.of(head)
        until = old.last()
        found = {
            "telemetry": _telemetry(old, new, until, columns[0]), "incidents": notes, "coverage": cover_notes,
            "ticket sources": source_notes,
        }  # fmt: skip
        judged = {"coverage": (COVERAGE, coverage), "incidents": (INCIDENTS, incidents)}
        judged["ticket sources"] = (TICKET_SOURCES, sources)
        for path, schema, key, known_at in OPERATED:
            if path in base.raw and path in head.raw:
                table, pair = Path(path).stem, raw_data.read_both(base, head, path, schema)
                frame, found[table] = judged_operation(*pair, key, known_at, known_to[KNOWN_TO].max())
                judged[table] = path, frame
        counts = {
            table: dict(rows.group_by("what").agg(pl.col("records").sum()).sort("what").iter_rows())
            for table, rows in found.items()
            if rows.height
        }
        raw = base.raw | head.raw  # a commit whose stages do not read a piece has none of it
        with cache.temporary() as place:
            for table, (path, frame) in judged.items():
                if table in counts:
                    tables.write(place / "made", frame)
                    raw[path] = cache.hold(place / "made")
        # what a commit's `validate` expects are its own columns
        for_base, for_head = (
            _compose(old, new, until, columns, wanted) if counts or wanted != columns[1] else raw[TELEMETRY]
            for wanted in columns
        )
        listed = pl.concat(rows.with_columns(table=pl.lit(table)) for table, rows in found.items()).head(LISTED)
        return cls(raw | {TELEMETRY: for_base}, raw | {TELEMETRY: for_head}, counts, [*map(_plain, listed.to_dicts())])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _notes(rows: pl.DataFrame, what: str, at: str, record: pl.Expr, records: pl.Expr | None = None) -> pl.DataFrame:
    """Describe corrections, one a row."""
    return rows.select(
        what=pl.lit(what),
        server_id="server_id",
        at=pl.col(at),
        records=pl.lit(1, dtype=pl.Int64) if records is None else records.cast(pl.Int64),
        record=record.cast(pl.String),
    )


def judged_coverage(old: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the coverage with the base's history, the corrections, and until when the base knew each server.

    A server that the base did not know is known, as having none, until the end of its last record of any.
    """
    known_to = _known_to(old, new, "server_id", old["covered_to"].max())
    later = _later(new, known_to, "server_id")
    groups = old.drop_nulls("group").group_by("server_id", maintain_order=True).agg(before=pl.col("group").last())
    judged = (
        merge_coverage(pl.concat([old, later]))
        .join(groups, on="server_id", how="left", maintain_order="left")
        .with_columns(group=pl.coalesce("before", "group"))
        .select(*tables.COVERAGE)
    )
    record = pl.format("{} to {}, group {}", "covered_from", "covered_to", pl.col("group").fill_null("none"))
    return judged, _differing(judged, merge_coverage(new), "server_id", record), known_to


def judged_sources(
    old: pl.DataFrame, new: pl.DataFrame, named: Collection[str], covered: tuple[datetime, datetime]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return when each ticket system recorded, with the base's history, and the corrections.

    Parameters
    ----------
    old, new : DataFrame
        tables.TICKET_SOURCES, of the base and of the challenger.
    named : collection of str
        Systems that the base's incidents name: those without periods recorded all the time. The base knew the others,
        as recording nothing, until its coverage ended.
    covered : pair of datetime
        From when to when the base's coverage reaches.
    """
    start, end = covered
    first = new.join(old, on="source", how="anti").group_by("source").agg(pl.col("covered_from").min())
    all_the_time = first.filter(pl.col("source").is_in(list(named))).with_columns(
        pl.min_horizontal("covered_from", pl.lit(start, tables.TIMESTAMP)).alias("covered_from"),
        covered_to=pl.lit(end, tables.TIMESTAMP),
    )
    before = pl.concat([old, all_the_time])
    later = _later(new, _known_to(before, new, "source", end), "source")
    judged, theirs = (join_periods(rows, "source") for rows in (pl.concat([before, later]), new))
    return judged, _differing(judged, theirs, "source", pl.format("{} to {}", "covered_from", "covered_to"))


def _known_to(old: pl.DataFrame, new: pl.DataFrame, of: str, end: Any) -> pl.DataFrame:
    """Return until when the base knew each server, or whatever `of` names: until `end` if it had no period of it."""
    ends = old.group_by(of).agg(known_to=pl.col("covered_to").max())
    names = pl.concat([old[of], new[of]]).unique().sort().to_frame()
    return names.join(ends, on=of, how="left").with_columns(pl.col(KNOWN_TO).fill_null(end))


def _later(new: pl.DataFrame, known_to: pl.DataFrame, of: str) -> pl.DataFrame:
    """Return the periods, and of those that the base knew in part the rest."""
    return (
        new.join(known_to, on=of)
        .with_columns(pl.max_horizontal("covered_from", KNOWN_TO).alias("covered_from"))
        .filter(pl.col("covered_from") < pl.col("covered_to"))
        .select(new.columns)
    )


def _differing(judged: pl.DataFrame, theirs: pl.DataFrame, of: str, record: pl.Expr) -> pl.DataFrame:
    """Describe the periods that the challenger has otherwise, by whose they are."""
    columns = judged.columns
    here, there = (
        frame.join(other, on=columns, how="anti", nulls_equal=True)
        for frame, other in ((judged, theirs), (theirs, judged))
    )
    what = {
        CHANGED: there.join(here, on=of, how="semi"),
        ADDED: there.join(here, on=of, how="anti"),
        REMOVED: here.join(there, on=of, how="anti"),
    }
    notes = [
        _notes(rows.sort(of, "covered_from").with_columns(server_id=of), kind, "covered_from", record)
        for kind, rows in what.items()
    ]
    return pl.concat(notes)


def judged_incidents(
    old: pl.DataFrame, new: pl.DataFrame, known_to: pl.DataFrame, delay: timedelta
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the incidents with the base's history, and the corrections.

    A ticket that was open may be closed, one that was planned may be moved or dropped, and one that had not been
    reported may turn up. What the base already knew otherwise is a correction.
    """
    end = known_to[KNOWN_TO].max()

    def with_end(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.join(known_to, on="server_id", how="left", maintain_order="left").with_columns(
            pl.col(KNOWN_TO).fill_null(end)
        )

    known = pl.col(KNOWN_TO)
    pairs = with_end(old).join(new, on="incident_id", suffix=" new")
    is_ahead = (pl.col("started_at") >= known) & (pl.col("started_at new") >= known)
    is_wrong, values = [], {}
    for name in ("server_id", "kind", *MOMENTS):
        before, now = pl.col(name), pl.col(f"{name} new")
        may_change = is_ahead
        if name in MOMENTS:
            may_change |= ((now >= known) & (before.is_null() | (before >= known))).fill_null(False)
        is_wrong.append(before.ne_missing(now) & ~may_change)
        values[name] = pl.when(may_change).then(now).otherwise(before)
    texts = {name: f"{name} new" for name in tables.INCIDENTS if name not in (*values, "incident_id")}
    changed = pairs.filter(pl.any_horizontal(is_wrong))
    kept = pairs.with_columns(**values, **texts)

    gone = with_end(old).join(new, on="incident_id", how="anti").filter(pl.col("started_at") < known)
    found = with_end(new).join(old, on="incident_id", how="anti")
    reported = pl.col("reported_at").fill_null(pl.col("started_at") + delay)
    is_new = (reported >= known) | (pl.col("started_at") >= known)

    columns = list(tables.INCIDENTS)
    judged = pl.concat([rows.select(columns) for rows in (kept, gone, found.filter(is_new))])
    notes = [
        _notes(rows.sort("started_at", "server_id"), what, "started_at", pl.col("incident_id"))
        for what, rows in ((CHANGED, changed), (ADDED, found.filter(~is_new)), (REMOVED, gone))
    ]
    return judged.sort("started_at", "server_id", "incident_id"), pl.concat(notes)


def judged_operation(
    old: pl.DataFrame, new: pl.DataFrame, key: Sequence[str], known_at: str, end: Any
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return alarms or actions with the base's history, and the corrections.

    Parameters
    ----------
    old, new : DataFrame
        Of the base and of the challenger.
    key : sequence of str
        The order of rows.
    known_at : str
        The column that says when a row was known.
    end : datetime
        Until when the base knew all of them.
    """
    columns = old.columns
    added, gone = (
        one.join(other, on=columns, how="anti", nulls_equal=True).sort(key) for one, other in ((new, old), (old, new))
    )
    is_new = pl.col(known_at) >= end
    judged = pl.concat([old, added.filter(is_new)]).sort(key)
    record = pl.col("what" if "what" in columns else "model")
    notes = [_notes(rows, what, key[0], record) for what, rows in ((ADDED, added.filter(~is_new)), (REMOVED, gone))]
    return judged, pl.concat(notes)


@dataclass(frozen=True)
class _Telemetry:
    """The telemetry of a commit: the hash of each file."""

    files: dict[str, str]
    name: str

    @classmethod
    def of(cls, revision: Revision) -> Self:
        name = f"{TELEMETRY} of commit {revision.name}"
        return cls(cache.members(revision.raw[TELEMETRY], name), name)

    def rows(self, partition: Partition) -> pl.DataFrame:
        """Return the rows of a period, whatever the length of this table's own partitions."""
        inside = pl.col("timestamp").is_between(*tables.utc(partition.start, partition.end), closed="left")
        touched = [self.files[path] for path in sorted(self.files) if _overlap(partition_of(path), partition)]
        read = [tables.read(cache.locate(digest, self.name), where=inside) for digest in touched]
        return pl.concat(read, how="diagonal_relaxed") if read else pl.DataFrame(schema=NO_ROWS)

    def last(self) -> datetime:
        """Return the moment of the last row, naive UTC."""
        path = max(self.files, key=lambda path: partition_of(path).start)
        moments = tables.read(cache.locate(self.files[path], self.name), ["timestamp"])["timestamp"]
        moment: Any = moments.max()
        return moment.replace(tzinfo=None)


def _partitions(old: _Telemetry, new: _Telemetry) -> dict[str, Partition]:
    """Return the partitions of the new table, and those of the old one in whose period the new one has none."""
    theirs = {path: partition_of(path) for path in new.files}
    lost = {path: partition_of(path) for path in old.files}
    lost = {path: mine for path, mine in lost.items() if not any(_overlap(mine, other) for other in theirs.values())}
    return dict(sorted((theirs | lost).items(), key=lambda item: item[1].start))


def _telemetry(old: _Telemetry, new: _Telemetry, until: datetime, columns: list[str]) -> pl.DataFrame:
    """Describe the corrections in the base's columns up to its last row; unchanged files are not opened."""
    known = pl.col("timestamp") <= tables.utc(until, until)[0]
    notes = []
    for path, partition in _partitions(old, new).items():
        if old.files.get(path) == new.files.get(path) or partition.start > until:
            continue
        # a source may have widened a column meanwhile
        before, now = (
            _with(table.rows(partition), columns).with_columns(pl.col(columns).cast(pl.Float32)).filter(known)
            for table in (old, new)
        )
        if before.equals(now):
            continue
        gone, come = (
            rows.filter(~rows.hash_rows().is_in(others.hash_rows().implode()))
            for rows, others in ((before, now), (now, before))
        )
        for what, rows in (
            (CHANGED, come.join(gone, on=list(KEYS), how="semi")),
            (ADDED, come.join(before, on=list(KEYS), how="anti")),
            (REMOVED, gone.join(now, on=list(KEYS), how="anti")),
        ):
            per_server = rows.group_by("server_id").agg(pl.len(), at=pl.col("timestamp").min()).sort("server_id")
            notes.append(_notes(per_server, what, "at", pl.lit(partition.name), pl.col("len")))
    return pl.concat([pl.DataFrame(schema=NOTE), *notes])


def _compose(
    old: _Telemetry, new: _Telemetry, until: datetime, columns: tuple[list[str], list[str]], wanted: list[str]
) -> str:
    """Return the hash of the telemetry with the base's rows up to its last one, and the `wanted` columns.

    `columns` are those of either table; a file that has the wanted ones and lies on one side is taken as it is.
    """
    known = pl.col("timestamp") <= tables.utc(until, until)[0]
    touched: dict[str, str] = {}
    with cache.temporary() as place:
        for path, partition in _partitions(old, new).items():
            if path in old.files and columns[0] == wanted and partition.end <= until:
                touched[path] = old.files[path]
            elif path in new.files and columns[1] == wanted and _is_shared(path, old, new, partition, until):
                touched[path] = new.files[path]
            else:
                before, now = old.rows(partition), new.rows(partition)
                only_new = [name for name in wanted if name in now.columns and name not in before.columns]
                if only_new:
                    values = now.select(*KEYS, *only_new).unique(list(KEYS), keep="first", maintain_order=True)
                    before = before.join(values, on=list(KEYS), how="left", maintain_order="left")
                parts = [_with(before, wanted), _with(now.filter(~known), wanted)]
                rows = pl.concat(parts, how="vertical_relaxed").sort(*KEYS, maintain_order=True)
                if rows.height:
                    tables.write(place / "made", rows)
                    touched[path] = cache.hold(place / "made")
    return cache.hold_folder(touched)


def _is_shared(path: str, old: _Telemetry, new: _Telemetry, partition: Partition, until: datetime) -> bool:
    return partition.start > until or old.files.get(path) == new.files[path]


def _with(rows: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Return the keys and these columns, null if there is none."""
    empty = {name: pl.lit(None, dtype=pl.Float32) for name in columns if name not in rows.columns}
    return rows.with_columns(**empty).select(*KEYS, *columns)


def partition_of(path: str) -> Partition:
    """Return the partition that a file of a table, such as month=2026-01/part-0.parquet, belongs to."""
    unit, _, name = Path(path).parts[0].partition("=")
    form, text = {"month": ("%Y-%m", name), "week": ("%G-W%V-%u", f"{name}-1"), "day": ("%Y-%m-%d", name)}[unit]
    return tables.partition_at(datetime.strptime(text, form), unit)


def _overlap(one: Partition, other: Partition) -> bool:
    return one.start < other.end and other.start < one.end
