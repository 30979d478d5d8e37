"""Files with a row for each metric: pivoted, or refused if leaving a column out would mix several things."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from crashcast import tables
from crashcast.errors import UserError
from crashcast.sources.importing.parsing import Samples, read_samples

LATEST, START = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 1, 1)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
SECONDS = {"cpu": 7, "memory": 19, "uptime": 41}


def number(hour: int, host: str, item: str) -> float:
    """Return the value of an item, in its own unit."""
    return {"cpu": 10.0 + hour % 7, "memory": 1e9 + 5e6 * hour, "uptime": 3600.0 * hour}[item] + (host == "b")


def history(name: str = "key", value: str = "value", seconds: bool = True) -> pl.DataFrame:
    """Return a day of two hosts as a monitoring system's history table has it."""
    rows = [
        {
            "itemid": 10 * index + offset,
            "host": host,
            name: item,
            "clock": START + hour * HOUR + seconds * SECONDS[item] * SECOND,
            value: number(hour, host, item),
        }
        for hour in range(24)
        for index, host in enumerate("ab")
        for offset, item in enumerate(SECONDS)
    ]
    return pl.DataFrame(rows).rename({"clock": "time"})


def read(frame: pl.DataFrame, folder: Path, known: tuple[str, ...] = ()) -> Samples:
    """Read a file with these rows."""
    frame.write_csv(folder / "telemetry.csv")
    return read_samples(folder / "telemetry.csv", folder / "staged.parquet", known, LATEST)


def expected(shift: timedelta) -> pl.DataFrame:
    """Return the rows that the items stand for."""
    rows = [
        ((START + hour * HOUR + shift).replace(tzinfo=UTC), host, *(number(hour, host, item) for item in SECONDS))
        for hour in range(24)
        for host in "ab"
    ]
    return pl.DataFrame(rows, {**tables.KEYS, **dict.fromkeys(SECONDS, pl.Float32)}, orient="row")


@pytest.mark.parametrize(
    ("name", "value"), [("metric", "value"), ("Item Name", "Value"), ("_field", "_value"), ("metricName", "reading")]
)
def test_known_columns_of_names_and_values_are_pivoted(tmp_path: Path, name: str, value: str) -> None:
    found = read(history(name, value, seconds=False), tmp_path)
    assert_frame_equal(found.scan().collect(), expected(0 * HOUR), check_row_order=False)
    assert (found.metrics, found.empty) == (list(SECONDS), [])
    assert found.left_out == {"itemid": "not the name or the value of a metric"}


def test_items_that_are_polled_at_different_seconds_share_a_row(tmp_path: Path) -> None:
    found = read(history(), tmp_path)
    # the sample of 10:00:07 is of (10:00, 11:00], as after cleaning
    assert_frame_equal(found.scan().collect(), expected(HOUR), check_row_order=False)
    assert "metric from 'key', value, rounded up to 1h: metrics have different times" in found.reading


def test_a_repeated_row_is_taken_once_and_a_contradicting_one_is_refused(tmp_path: Path) -> None:
    rows = history(seconds=False)
    assert read(pl.concat([rows, rows[:5]]), tmp_path).scan().collect().height == 48
    with pytest.raises(UserError, match="row 146: 'cpu' of a has another value at 2026-01-01 00:00:00 UTC"):
        read(pl.concat([rows, rows[:1].with_columns(value=pl.lit(99.0))]), tmp_path)


@pytest.mark.parametrize("name", ["timestamp", "server_id", "温度", "label"])
def test_a_name_that_is_no_metric_s_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="rename"):
        read(history().with_columns(key=pl.lit(name)), tmp_path)


def wide(**columns: Callable[[int, str], object]) -> pl.DataFrame:
    """Return 24 hours of two hosts with a metric, and columns that follow from the hour and the host."""
    rows = [
        {"time": START + hour * HOUR, "host": host, "cpu": 1.0, **{k: f(hour, host) for k, f in columns.items()}}
        for hour in range(24)
        for host in "ab"
    ]
    return pl.DataFrame(rows)


devices = pl.concat(
    wide(used=lambda hour, host: hour).with_columns(pl.col("time") + second * SECOND, device=pl.lit(disk))
    for second, disk in ((0, "sda"), (20, "sdb"))
)
MIXED = {
    "items by a name that is not known": (history("what"), "column 'what': its values (cpu, memory, uptime) are"),
    "numbers in a column of another name": (history("metric", "x"), "column 'metric': its values (cpu, memory"),
    "items by their id only": (history().drop("key"), "column 'itemid': its values (0, 1, 2) are different things"),
    "devices at different seconds": (devices, "column 'device': its values (sda, sdb) are different things of a"),
    "devices at the same second": (
        devices.with_columns(time=pl.col("time").dt.truncate("1h")),
        "column 'device': its values (sda, sdb)",
    ),
    "devices of one server of two": (
        devices.filter(host="a").vstack(devices.filter(host="b", device="sda")),
        "column 'device': its values (sda, sdb)",
    ),
    "devices with gaps and other intervals": (
        devices.filter((pl.col("device") == "sda") | (pl.col("time").dt.hour() % 2 == 0)).filter(
            pl.int_range(pl.len()) % 11 != 3
        ),
        "column 'device'",
    ),
    "devices of a metric": (
        devices.select("time", "host", "device", metric=pl.lit("used"), value="used"),
        "column 'device': its values (sda, sdb) are different things of a, and leaving it out would mix them; "
        "make it a part of the metric's name",
    ),
}


@pytest.mark.parametrize("case", MIXED)
def test_rows_of_several_things_are_never_mixed(case: str, tmp_path: Path) -> None:
    frame, message = MIXED[case]
    with pytest.raises(UserError) as caught:
        read(frame, tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "column",
    [
        lambda hour, host: f"rack {host}",
        lambda hour, host: "night" if hour < 8 else "day",
        lambda hour, host: Random(f"{hour}{host}").choice(["ok", "warn"]),
        lambda hour, host: Random(f"{hour}{host}").choice(["ok", "warn", "bad", "away"]),
        lambda hour, host: f"request {hour}",
    ],
    ids=["a rack", "a shift", "a state of two", "a state of four", "a text of each row"],
)
def test_a_column_that_tells_no_series_apart_is_left_out(column: Callable[[int, str], object], tmp_path: Path) -> None:
    found = read(wide(note=column), tmp_path)
    assert (found.metrics, list(found.left_out)) == (["cpu"], ["note"])
    assert found.scan().collect().height == 48


def test_ids_are_no_metric_unless_an_earlier_import_took_them_for_one(tmp_path: Path) -> None:
    frame = wide(rack_id=lambda hour, host: ord(host), hostid=lambda hour, host: f"h-{host}")
    assert read(frame, tmp_path).left_out == {"rack_id": "ids", "hostid": "ids"}
    assert read(frame, tmp_path, ("rack_id",)).metrics == ["cpu", "rack_id"]


def test_a_metric_called_value_stays_one(tmp_path: Path) -> None:
    frame = wide(value=lambda hour, host: hour, field=lambda hour, host: hour * 2)
    assert read(frame, tmp_path).metrics == ["cpu", "value", "field"]
    frame = wide(value=lambda hour, host: hour, field=lambda hour, host: "load")
    assert read(frame, tmp_path, ("cpu", "value")).metrics == ["cpu", "value"]
