"""The samples that scores look back to: read once, divided by servers, and read again if they changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from crashcast import tables
from crashcast.errors import UserError
from crashcast.operate import look_back, telemetry_tail
from crashcast.operate.look_back import LookBack, divide
from crashcast.operate.telemetry_tail import NAME, Tail
from crashcast.params.telemetry import Telemetry

HOUR = timedelta(hours=1)
START = datetime(2026, 1, 5)
TELEMETRY = Telemetry.model_validate(
    {"interval": "1h", "partition": "month", "metrics": {"cpu": {"min": 0, "max": 100}}}
)


def rows(hours: range, servers: str = "abcde", cpu: float = 1) -> pl.DataFrame:
    times = pl.Series("timestamp", [(START + hour * HOUR).replace(tzinfo=UTC) for hour in hours], tables.TIMESTAMP)
    names = pl.DataFrame({"server_id": list(servers)})
    return times.to_frame().join(names, how="cross").with_columns(cpu=pl.lit(cpu, pl.Float32))


def tail_of(folder: Path, *days: pl.DataFrame, mark: str = "") -> Tail:
    """Write a file a day, and return the tail; the digest of a moment is its rows and the mark."""
    digests = {}
    for number, day in enumerate(days):
        tables.write(folder / (START + number * 24 * HOUR).strftime(NAME), day)
        for (moment,), some in day.partition_by("timestamp", as_dict=True).items():
            digests[moment.replace(tzinfo=None)] = f"{some['cpu'].to_list()} {mark}"  # type: ignore[union-attr]
    return Tail(folder, digests=digests)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[datetime, datetime]]:
    """Return the periods that are read from disk, and let a piece have two servers of a day."""
    found, read_files = [], telemetry_tail.read_files

    def watched(folder: Path, start: datetime, end: datetime, columns: list[str]) -> object:
        found.append((start, end))
        return read_files(folder, start, end, columns)

    monkeypatch.setattr(telemetry_tail, "read_files", watched)
    monkeypatch.setattr(look_back, "PIECE_ROWS", 48)
    return found


def test_only_what_is_new_or_changed_is_read(tmp_path: Path, reads: list[tuple[datetime, datetime]]) -> None:
    kept = LookBack()
    first = tail_of(tmp_path, rows(range(24)))
    pieces = list(kept.read(first, START, START + 24 * HOUR, TELEMETRY))
    assert [piece["server_id"].unique().sort().to_list() for piece in pieces] == [["a", "b"], ["c", "d"], ["e"]]
    assert pl.concat(pieces).sort(*tables.KEYS).equals(rows(range(24)))

    later = tail_of(tmp_path, rows(range(24)), rows(range(24, 26)))
    moved = kept.read(later, START + 2 * HOUR, START + 26 * HOUR, TELEMETRY)
    assert pl.concat(moved).sort(*tables.KEYS).equals(rows(range(2, 26)))
    within = kept.read(later, START + 5 * HOUR, START + 6 * HOUR, TELEMETRY)
    assert pl.concat(within).sort(*tables.KEYS).equals(rows(range(5, 6)))

    changed = pl.concat([rows(range(20)), rows(range(20, 24), cpu=2)])
    again = tail_of(tmp_path, changed, rows(range(24, 26)))
    found = kept.read(again, START + 2 * HOUR, START + 26 * HOUR, TELEMETRY)
    assert pl.concat(found).sort(*tables.KEYS).equals(pl.concat([changed.slice(10), rows(range(24, 26))]))
    hours = [(since - START) // HOUR for since, _ in reads]
    assert hours == [0, 24, 20]


def test_new_servers_have_their_place_and_old_moments_come_back(
    tmp_path: Path, reads: list[tuple[datetime, datetime]]
) -> None:
    kept = LookBack()
    kept.read(tail_of(tmp_path, rows(range(24))), START, START + 24 * HOUR, TELEMETRY)
    grown = tail_of(tmp_path, rows(range(24)), rows(range(24, 26), "_abcdef"))
    found = list(kept.read(grown, START + 10 * HOUR, START + 26 * HOUR, TELEMETRY))
    assert [piece["server_id"].unique().sort().to_list() for piece in found] == [
        ["_", "a", "b"], ["c", "d"], ["e", "f"]
    ]  # fmt: skip
    older = kept.read(grown, START, START + 24 * HOUR, TELEMETRY)
    assert pl.concat(older).sort(*tables.KEYS).equals(rows(range(24)))


def test_a_damaged_file_leaves_nothing_half_read(tmp_path: Path) -> None:
    kept = LookBack()
    tail = tail_of(tmp_path, rows(range(24)), rows(range(24, 26)))
    files = sorted(tmp_path.glob("*.parquet"))
    whole = files[1].read_bytes()
    files[1].write_bytes(b"no Parquet")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        kept.read(tail, START, START + 26 * HOUR, TELEMETRY)
    files[1].write_bytes(whole)
    found = kept.read(tail, START, START + 26 * HOUR, TELEMETRY)
    assert pl.concat(found).sort(*tables.KEYS).equals(rows(range(26)))
    with pytest.raises(UserError, match="holds no telemetry"):
        LookBack().read(Tail(tmp_path / "none"), START, START + HOUR, TELEMETRY)


def test_moments_that_are_gone_leave_no_rows(tmp_path: Path) -> None:
    kept, period = LookBack(), (START, START + 24 * HOUR)
    kept.read(tail_of(tmp_path, rows(range(24))), *period, TELEMETRY)
    even = rows(range(24)).filter(pl.col("timestamp").dt.hour() % 2 == 0)
    found = kept.read(tail_of(tmp_path, even), *period, TELEMETRY)
    assert pl.concat(found).sort(*tables.KEYS).equals(even)


def test_a_metric_of_another_name_is_read_though_its_values_are_the_same(tmp_path: Path) -> None:
    kept, period = LookBack(), (START, START + 24 * HOUR)
    tail = tail_of(tmp_path, rows(range(24)))
    kept.read(tail, *period, TELEMETRY)
    renamed = Telemetry.model_validate({"interval": "1h", "partition": "month", "metrics": {"load": {}}})
    given = rows(range(24)).rename({"cpu": "load"})
    tables.write(tmp_path / START.strftime(NAME), given)
    assert pl.concat(kept.read(tail, *period, renamed)).sort(*tables.KEYS).equals(given)


@pytest.mark.usefixtures("reads")
def test_pieces_stay_small_if_the_fleet_grows_or_takes_other_names(tmp_path: Path) -> None:
    kept = LookBack()
    kept.read(tail_of(tmp_path, rows(range(24), "ab")), START, START + 24 * HOUR, TELEMETRY)
    early, late = rows(range(24), "ab"), rows(range(24, 48), "bcdefghij")
    for first, newest in ((0, rows(range(0))), (24, rows(range(48, 49), "bcdefghij"))):  # without a, which is gone
        tail = tail_of(tmp_path, early, late, newest)
        found = list(kept.read(tail, START + first * HOUR, START + 49 * HOUR, TELEMETRY))
        expected = pl.concat([early, late, newest]).filter(
            pl.col("timestamp") >= (START + first * HOUR).replace(tzinfo=UTC)
        )
        assert pl.concat(found).sort(*tables.KEYS).equals(expected)
        assert all(0 < piece.height <= 96 for piece in found)


def test_pieces_cover_all_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_back, "PIECE_ROWS", 7)
    given = rows(range(3), "abcdefg")
    pieces = divide(given)
    assert [piece["server_id"].unique().sort().to_list() for piece in pieces] == [
        ["a", "b"], ["c", "d"], ["e", "f"], ["g"]
    ]  # fmt: skip
    assert all(piece.equals(piece.sort(*tables.KEYS)) for piece in pieces)
    assert [piece.height for piece in divide(given.clear())] == [0]
