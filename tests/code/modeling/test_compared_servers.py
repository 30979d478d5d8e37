"""Servers that stand for all, drawn by lot."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from spans import DAY, JANUARY, by_time, span

from crashcast import tables
from crashcast.modeling.compared_servers import MIN_CRASHES, Compared, draw_servers, rows_to_compare
from crashcast.modeling.row_counts import count_rows


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write ten servers' labels of 100 days in January's partition and the next ones, a row a day, half of them 1."""
    days = pl.datetime_range(JANUARY, JANUARY + 99 * DAY, "1d", time_unit="us", time_zone="UTC", eager=True)
    servers = pl.DataFrame({"server_id": [f"s{number}" for number in range(10)]})
    rows = days.alias("timestamp").to_frame().join(servers, how="cross")
    day = (pl.col("timestamp") - pl.lit(JANUARY).dt.replace_time_zone("UTC")).dt.total_days()
    rows = rows.with_columns(
        label=(day % 2).cast(pl.Int8), observed=True, month=pl.col("timestamp").dt.strftime("%Y-%m")
    )
    for (month,), some in rows.partition_by("month", as_dict=True, include_key=False).items():
        tables.write(tmp_path / "labels" / f"month={month}" / "part-0.parquet", some.sort(*tables.KEYS))
    (tmp_path / "params.yaml").write_text("execution: {workers: 1, memo_gb: 1}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "labels"


def draw(rule: dict, labels: Path, max_rows: int, seed: int) -> Compared:
    """Draw servers as if ten crashes, of a row each, were enough."""
    return draw_servers(rule, count_rows(labels, rule), max_rows, 1 / 30, seed)


def test_servers_are_drawn_by_lot_if_there_are_too_many_rows(labels: Path) -> None:
    split = by_time((0, 70), (72, 88))
    everyone = draw(split, labels, 160, 1)
    assert everyone == Compared([f"s{number}" for number in range(10)], True, 160)
    for rows, count in ((159, 10), (64, 4), (65, 5), (20, 2)):
        some = draw(split, labels, rows, 1)
        assert len(some.servers) == count
        assert not some.are_all
        assert some.rows == rows
        assert some.servers == sorted(some.servers)
        assert set(draw(split, labels, 30, 1).servers) <= set(draw(split, labels, 60, 1).servers)
    assert len({tuple(draw(split, labels, 30, seed).servers) for seed in range(20)}) > 10


def test_so_many_servers_are_drawn_that_enough_of_them_crash(labels: Path) -> None:
    split = by_time((0, 70), (72, 88))
    counted = count_rows(labels, split)
    for crash_rows, count in ((7, 1), (9, 2), (39, 5), (41, 6), (72, 9), (79.9, 10)):
        some = draw_servers(split, counted, 1, crash_rows / MIN_CRASHES, 1)
        assert len(some.servers) == count
        assert some.rows == round(2 * crash_rows)
        assert not some.are_all
    assert draw_servers(split, counted, 1, 80.1 / MIN_CRASHES, 1).are_all


def test_rare_crashes_need_more_rows() -> None:
    assert rows_to_compare(2_000_000, 0.005, 6) == 2_000_000
    assert rows_to_compare(2_000_000, 0.00001, 6) == pytest.approx(180_000_000)
    assert rows_to_compare(2_000_000, 0.0, 6) == float("inf")


def test_all_servers_are_compared_on_if_none_of_them_crashes(labels: Path) -> None:
    split = by_time((0, 70), (70, 71))  # of an even number of days, on which all labels are 0
    assert draw_servers(split, count_rows(labels, split), 1, 1.0, 1).are_all


def test_under_a_split_by_server_only_those_of_the_validation_part_are_compared_on(labels: Path) -> None:
    all_days = dict.fromkeys(("train", "validation", "test"), span(0, 100))
    parts = {"train": [f"s{number}" for number in range(6)], "validation": ["s6", "s7", "s8"], "test": ["s9"]}
    split = {"method": "server", "periods": all_days, "servers": parts}
    assert draw(split, labels, 300, 1) == Compared(["s6", "s7", "s8"], True, 300)
    for seed in range(20):
        some = draw(split, labels, 101, seed)
        assert len(some.servers) == 2
        assert set(some.servers) < {"s6", "s7", "s8"}
