from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from crashcast import tables
from crashcast.modeling.slices import beginnings, crash_kinds, in_first_week, server_groups, server_slices

START = datetime(2025, 1, 1)


def crashes(*rows):
    return pl.DataFrame(
        {"server_id": [row[0] for row in rows], "started_at": [START + timedelta(days=row[1]) for row in rows]},
        schema={"server_id": pl.String, "started_at": tables.TIMESTAMP},
    )


def test_a_crash_within_30_days_of_another_of_its_server_is_a_repeat():
    history = crashes(("a", 0), ("a", 40), ("a", 70), ("b", 41))
    kinds = crash_kinds(history[1:], history.reverse())
    assert kinds["fresh_crashes"].tolist() == [True, False, True]
    assert kinds["repeated_crashes"].tolist() == [False, True, False]


def test_the_thirty_days_are_whole_and_crashes_at_once_are_one():
    instant = 1 / 86_400_000_000
    history = crashes(("a", 0), ("a", 30), ("b", 0), ("b", 30 + instant), ("c", 0), ("c", 1), ("c", 1))
    found = crash_kinds(history, history)["repeated_crashes"]
    assert found.tolist() == [False, True, False, False, False, True, True]


def test_a_server_of_two_groups_counts_in_the_last(tmp_path):
    coverage = pl.DataFrame({"server_id": ["b", "a", "a", "c"], "group": ["web", "web", "database", None]})
    tables.write(tmp_path / "coverage.parquet", coverage)
    assert server_groups(tmp_path / "coverage.parquet") == {"group_web": {"a", "b"}}


@pytest.fixture
def labels(tmp_path):
    """Lay out two months of labels: a and b have known rows in January, c an unknown one, d a row in February."""
    (tmp_path / "labels").mkdir()
    tables.write(tmp_path / "coverage.parquet", pl.DataFrame({"server_id": ["a"], "group": ["web"]}))
    for month, rows in ((1, [("a", 0), ("b", 1), ("c", None)]), (2, [("d", 0), ("a", 0)])):
        frame = pl.DataFrame(
            {
                "timestamp": pl.Series([datetime(2025, month, 5)] * len(rows)).dt.replace_time_zone("UTC"),
                "server_id": [row[0] for row in rows],
                "label": pl.Series([row[1] for row in rows], dtype=pl.Int8),
            }
        )
        tables.write(tmp_path / "labels" / f"month=2025-{month:02}" / tables.FILE_NAME, frame)
    return tmp_path / "labels"


def test_a_server_was_added_if_its_first_row_is_a_week_later_than_the_first_of_all(labels):
    """Others may be older than the data; of d, the row of unknown label is the first."""
    february = labels / "month=2025-02" / tables.FILE_NAME
    later = tables.read(february).with_columns(label=pl.lit(None, pl.Int8))
    moments = {"d": datetime(2025, 2, 5), "e": datetime(2025, 1, 12), "f": datetime(2025, 1, 11, 23)}
    for server in "ef":
        moment = pl.lit(moments[server]).dt.cast_time_unit("us").dt.replace_time_zone("UTC")
        later = pl.concat([later, later[:1].with_columns(timestamp=moment, server_id=pl.lit(server))])
    tables.write(february, later)
    assert beginnings(labels) == {server: moments[server].replace(tzinfo=UTC) for server in "de"}


def test_the_first_week_ends_after_seven_days():
    begun = {"d": datetime(2025, 1, 3, tzinfo=UTC), "e": datetime(2025, 1, 1, tzinfo=UTC)}
    days = {"d": (1.9, 2, 8.9, 9), "e": (-0.1, 0, 7), "old": (3,)}
    rows = crashes(*((server, day) for server, moments in days.items() for day in moments))
    found = rows.select(in_first_week("started_at", begun)).to_series()
    assert found.to_list() == [False, True, True, False, False, True, False, False]


def divided(labels, rule, servers="abcd"):
    read = []

    def path_of(partition):
        read.append(partition.name)
        return partition.path(labels)

    coverage = labels.parent / "coverage.parquet"
    found = server_slices(frozenset(servers), coverage, rule, tables.partitions(labels), path_of)
    return {name: "".join(sorted(members)) for name, members in found.items()}, read


def periods(end):
    span = {"from": START.isoformat(), "to": end.isoformat()}
    return {"method": "time", "periods": dict.fromkeys(("train", "validation", "test"), span)}


def test_servers_with_known_rows_in_the_train_part_were_seen(labels):
    found, read = divided(labels, periods(datetime(2025, 2, 1)))
    assert found == {"seen_servers": "ab", "unseen_servers": "cd", "group_web": "a"}
    assert read == ["month=2025-01"]


def test_rows_after_the_train_part_show_no_server_as_seen(labels):
    assert divided(labels, periods(datetime(2025, 1, 5)))[0]["seen_servers"] == ""
    assert divided(labels, periods(datetime(2025, 1, 6)))[0]["seen_servers"] == "ab"


def test_reading_ends_once_every_server_was_found(labels):
    found, read = divided(labels, periods(datetime(2025, 3, 1)), "ad")
    assert found["seen_servers"] == "ad"
    assert read == ["month=2025-02"]


def test_a_month_that_ends_as_the_train_part_begins_is_not_read(labels):
    rule = periods(datetime(2025, 3, 1))
    rule["periods"]["train"]["from"] = datetime(2025, 2, 1).isoformat()
    assert divided(labels, rule) == (
        {"seen_servers": "ad", "unseen_servers": "bc", "group_web": "a"},
        ["month=2025-02"],
    )


def test_a_split_by_server_says_itself_which_were_seen(labels):
    rule = {"method": "server", "servers": {"train": ["a", "gone"], "validation": ["b"], "test": ["c", "d"]}}
    assert divided(labels, rule) == ({"seen_servers": "a", "unseen_servers": "bcd", "group_web": "a"}, [])
