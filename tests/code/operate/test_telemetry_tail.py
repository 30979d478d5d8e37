"""The newest days of telemetry on disk: what is asked for, merged, digested and removed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crashcast import tables
from crashcast.errors import UserError
from crashcast.operate import telemetry_tail
from crashcast.operate.telemetry_tail import Tail, prune, read, update
from crashcast.params.collect import Collect
from crashcast.params.telemetry import Telemetry
from crashcast.sources.prometheus.chunks import Chunk

HOUR = timedelta(hours=1)
START = datetime(2026, 1, 5)
TELEMETRY = Telemetry.model_validate(
    {"interval": "1h", "partition": "month", "metrics": {name: {"min": 0, "max": 100} for name in ("cpu", "load")}}
)
COLLECT = Collect.model_validate(
    {
        "url": "http://localhost:9090", "server_label": "instance", "server_pattern": "(.+)", "late_window": "1d",
        "chunk": "1d", "parallel": 1, "queries": {"cpu": {"last": "cpu"}, "load": {"last": "load"}},
    }
)  # fmt: skip


@dataclass
class Source:
    """Answers as the client of a Prometheus does, with 10 x server + hour, unless something else is said."""

    changed: dict[tuple[str, str, datetime], float | None] = field(default_factory=dict)
    asked: list[tuple[datetime, datetime]] = field(default_factory=list)

    @property
    def span(self) -> tuple[datetime, datetime]:
        """The first and the last row that was asked for."""
        return min(self.asked)[0], max(last for _, last in self.asked)

    def is_left_open(self, _: datetime) -> bool:
        return True

    def end(self) -> None: ...

    def read(self, chunk: Chunk) -> list[dict[str, Any]]:
        self.asked.append((chunk.first.replace(tzinfo=None), chunk.last.replace(tzinfo=None)))
        found = []
        for server in "ab":
            values, moment = [], chunk.first
            while moment <= chunk.last:
                plain = 10.0 * (server == "b") + moment.hour
                value = self.changed.get((chunk.metric, server, moment.replace(tzinfo=None)), plain)
                if value is not None:
                    values.append((moment.timestamp(), str(value)))
                moment += chunk.step
            found.append({"metric": {"instance": server}, "values": values})
        return found


Ask = Callable[..., Tail]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def ask(source: Source, tmp_path: Path) -> Ask:
    """Return what brings the tail up to an hour, as the tick of that hour does, which needs so many hours before."""

    def ask(hour: int, needed: int = 30) -> Tail:
        source.asked.clear()
        tail = read(tmp_path / "tail", COLLECT, TELEMETRY)
        until = START + hour * HOUR
        server: Any = source
        return update(tail, server, COLLECT, TELEMETRY, until - needed * HOUR, until, 2 * HOUR)[0]

    return ask


def content(tail: Tail) -> pl.DataFrame:
    return pl.concat(telemetry_tail.read_files(tail.folder, datetime.min, datetime.max))


def test_it_asks_for_all_once_and_then_for_what_is_new_or_may_be_late(source: Source, ask: Ask) -> None:
    first = ask(0)
    assert source.span == (START - 30 * HOUR, START)
    assert set(content(first)["timestamp"]) == {(START - hour * HOUR).replace(tzinfo=UTC) for hour in range(31)}
    assert content(first).schema == {**tables.KEYS, "cpu": pl.Float32, "load": pl.Float32}
    ask(1)
    assert source.span == (START - 2 * HOUR, START + HOUR)
    assert len(source.asked) == 2 * 2  # for each metric and day
    ask(20)  # after a gap
    assert source.span == (START - HOUR, START + 20 * HOUR)
    later = ask(80)  # after one that is longer than what is needed
    assert source.span == (START + 50 * HOUR, START + 80 * HOUR)
    assert later.asked_from == START + 50 * HOUR
    assert later.newest == START + 80 * HOUR


def test_at_a_short_interval_late_rows_are_asked_for_a_few_times_each(source: Source, tmp_path: Path) -> None:
    minutes = timedelta(minutes=1)
    server: Any = source
    telemetry = TELEMETRY.model_copy(update={"interval": 5 * minutes})
    asked = []
    for tick in range(1, 37):
        source.asked.clear()
        tail, until = read(tmp_path / "tail", COLLECT, telemetry), START + 5 * tick * minutes
        update(tail, server, COLLECT, telemetry, until - 30 * HOUR, until, 2 * HOUR)
        asked.append([(until - moment) // minutes for moment in source.span])
    # the last row may have come late, the others are asked for each half an hour, and once after two hours
    assert asked[1:13] == [[5, 0]] * 5 + [[150, 0]] + [[5, 0]] * 5 + [[150, 0]]
    assert asked[12:] == 4 * ([[150, 0]] + [[5, 0]] * 5)


def test_other_queries_start_over(source: Source, ask: Ask, tmp_path: Path) -> None:
    ask(0)
    other = COLLECT.model_copy(update={"queries": {"cpu": {"max": "cpu"}, "load": {"last": "load"}}})
    assert read(tmp_path / "tail", other, TELEMETRY) == Tail(tmp_path / "tail")
    for damage in ("{}", "no JSON", '{"key": 1}'):
        (tmp_path / "tail" / telemetry_tail.NOTES).write_text(damage)
        assert read(tmp_path / "tail", COLLECT, TELEMETRY) == Tail(tmp_path / "tail")


def test_a_digest_changes_with_every_bit_and_with_nothing_else(source: Source, ask: Ask, tmp_path: Path) -> None:
    first = ask(0)
    again = ask(1)
    period = START - 20 * HOUR, START + HOUR
    assert first.digest(*period) == again.digest(*period)
    source.changed["load", "b", START] = 10.000001  # the next float32
    changed = ask(2)
    assert changed.digest(*period) != first.digest(*period)
    assert changed.digest(START - 20 * HOUR, START) == first.digest(START - 20 * HOUR, START)
    source.changed["load", "b", START] = None  # a sample that a server no longer has stays, as it does for collect
    source.changed["cpu", "b", START] = None
    assert ask(3).digests.items() >= changed.digests.items()
    shutil.rmtree(tmp_path / "tail")
    source.changed = {("load", "b", START): 10.000001}
    assert ask(1).digest(*period) == changed.digest(*period)


def test_a_row_is_replaced_and_its_file_stays_sorted(source: Source, ask: Ask) -> None:
    source.changed["cpu", "a", START] = None
    source.changed["load", "a", START] = None
    assert content(ask(0)).filter(server_id="a")["timestamp"].max() == (START - HOUR).replace(tzinfo=UTC)
    source.changed.clear()
    rows = content(ask(1))
    assert rows.equals(rows.sort(*tables.KEYS))
    assert rows.filter(server_id="a", timestamp=START.replace(tzinfo=UTC))["cpu"].to_list() == [0]


def test_it_is_whole_if_the_server_had_samples_that_long_ago(source: Source, ask: Ask) -> None:
    for metric in ("cpu", "load"):
        for server in "ab":
            source.changed |= {(metric, server, START - hour * HOUR): None for hour in range(25, 31)}
    tail = ask(0)
    assert tail.first == START - 24 * HOUR
    assert [tail.is_whole(START - hour * HOUR, HOUR) for hour in (24, 25, 26)] == [True, True, False]
    assert not Tail(tail.folder).is_whole(START, HOUR)


def files_of(tail: Tail) -> list[str]:
    return sorted(path.name for path in tail.folder.iterdir() if path.name != telemetry_tail.NOTES)


def test_old_files_are_removed(source: Source, ask: Ask) -> None:
    tail = prune(ask(0), START - 20 * HOUR, COLLECT, TELEMETRY)
    assert files_of(tail) == ["2026-01-04T000000Z.parquet", "2026-01-05T000000Z.parquet"]
    assert (tail.asked_from, min(tail.digests), tail.first) == (START - 24 * HOUR, START - 24 * HOUR, START - 30 * HOUR)
    assert read(tail.folder, COLLECT, TELEMETRY) == tail
    ask(1, 20)
    assert source.span == (START - 2 * HOUR, START + HOUR)
    assert files_of(tail) == ["2026-01-04T000000Z.parquet", "2026-01-05T000000Z.parquet"]


def test_a_file_holds_24_rows_of_a_server(source: Source, tmp_path: Path) -> None:
    minutes, server = timedelta(minutes=1), source
    telemetry = TELEMETRY.model_copy(update={"interval": 5 * minutes})
    tail, found = update(Tail(tmp_path), server, COLLECT, telemetry, START - HOUR, START + 3 * HOUR, HOUR)  # type: ignore[arg-type]
    assert files_of(tail) == [
        "2026-01-04T220000Z.parquet", "2026-01-05T000000Z.parquet", "2026-01-05T020000Z.parquet"
    ]  # fmt: skip
    assert [rows.height for rows in telemetry_tail.read_files(tmp_path, datetime.min, datetime.max)] == [24, 48, 26]
    assert found["timestamp"].min() == (START + 2 * HOUR).replace(tzinfo=UTC)
    some = pl.concat(telemetry_tail.read_files(tmp_path, START + 115 * minutes, START + 125 * minutes))
    assert some["timestamp"].unique().to_list() == [
        (START + moment * minutes).replace(tzinfo=UTC) for moment in (115, 120)
    ]


def test_what_another_version_left_is_removed(source: Source, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "tail" / "day=2026-01-04").mkdir(parents=True)
    assert files_of(ask(0)) == [
        "2026-01-03T000000Z.parquet", "2026-01-04T000000Z.parquet", "2026-01-05T000000Z.parquet"
    ]  # fmt: skip


def test_an_update_that_was_killed_is_done_again(
    source: Source, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask(0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(telemetry_tail, "_write_notes", killed)
        with pytest.raises(KeyboardInterrupt):
            ask(3)
    tail = ask(3)
    assert source.span == (START - 2 * HOUR, START + 3 * HOUR)
    source.changed.clear()
    shutil.copytree(tmp_path / "tail", tmp_path / "killed")
    shutil.rmtree(tmp_path / "tail")
    ask(0)
    assert ask(3).digests == tail.digests
    assert content(tail).equals(content(Tail(tmp_path / "killed")))


def test_a_wrong_answer_leaves_the_tail_as_it_was(source: Source, ask: Ask, tmp_path: Path) -> None:
    ask(0)
    before = {path: path.read_bytes() for path in (tmp_path / "tail").rglob("*") if path.is_file()}
    source.changed["load", "a", START] = "many"  # type: ignore[assignment]
    with pytest.raises(UserError, match="not as Prometheus's API has them"):
        ask(1)
    assert {path: path.read_bytes() for path in before} == before


def test_groups_are_those_of_the_newest_rows_that_may_be_scored(tmp_path: Path) -> None:
    def store(day: int, *rows: tuple[int, str, str | None]) -> None:
        hours, servers, groups = zip(*rows, strict=True)
        first = START + timedelta(days=day)
        times = [first + hour * HOUR for hour in hours]
        frame = pl.DataFrame({"timestamp": times, "server_id": servers, "group": groups})
        frame = frame.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
        tables.write(tmp_path / first.strftime(telemetry_tail.NAME), frame)

    store(0, (5, "gone", "web"), (21, "a", "old"), (22, "a", "web"), (22, "b", "web"), (23, "c", "db"))
    store(1, (0, "b", "mail"), (0, "c", None), (1, "b", "db"))
    assert telemetry_tail.newest_groups(tmp_path, START + 22 * HOUR) == {"a": "web", "b": "db", "c": "db"}
    assert telemetry_tail.newest_groups(tmp_path, START + 25 * HOUR) == {"b": "db"}
    assert telemetry_tail.newest_groups(tmp_path / "none", START) == {}
