from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashcast import tables
from crashcast.errors import UserError
from crashcast.modeling import split_rule as parts_module
from crashcast.modeling.split_rule import (
    HASH_RANGE,
    PARTS,
    assign,
    crashes_of_part,
    labelled,
    mitigated_rows,
    period,
    read_labels,
    read_part,
    read_rule,
    read_uncovered,
    row_hash,
)
from crashcast.tables import partition_at, partitions

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2024, 1, 29)


def rows_of(*rows):
    """Return a frame of (server, hour from START, label)."""
    servers, hours, labels = zip(*rows, strict=True) if rows else ((), (), ())
    moments = pl.Series([START + hour * HOUR for hour in hours], dtype=pl.Datetime("us"))
    return pl.DataFrame(
        {
            "timestamp": moments.dt.replace_time_zone("UTC"),
            "server_id": pl.Series(servers, dtype=pl.String),
            "label": pl.Series(labels, dtype=pl.Int8),
        }
    )


def span(start_h, end_h):
    return {"from": (START + start_h * HOUR).isoformat(), "to": (START + end_h * HOUR).isoformat()}


WHOLE = dict.fromkeys(PARTS, span(0, 1000))
BY_TIME = {
    "method": "time",
    "periods": {"train": span(0, 40), "validation": span(50, 70), "test": span(80, 100)},
}
BY_SERVER = {
    "method": "server",
    "servers": {"train": ["a", "b"], "validation": ["c"], "test": ["d"]},
    "periods": WHOLE,
}
AT_RANDOM = {
    "method": "random",
    "seed": 1,
    "cuts": {
        "0": [HASH_RANGE // 2, HASH_RANGE // 4 * 3, HASH_RANGE - 1],
        "1": [HASH_RANGE // 4, HASH_RANGE // 2, HASH_RANGE - 1],
    },
    "periods": WHOLE,
}
RULES = {rule["method"]: rule for rule in (BY_TIME, BY_SERVER, AT_RANDOM)}

tables_of_rows = st.lists(
    st.tuples(st.sampled_from("abcdex"), st.integers(0, 110), st.sampled_from([0, 1, None])),
    unique_by=lambda row: row[:2],
)


def parts(rule, *rows):
    return assign(rows_of(*rows), rule).to_list()


def test_by_server_a_row_outside_the_period_of_known_labels_is_in_no_part():
    """Its label is unknown; an alarm on it would be one of a time that is not judged."""
    rows = rows_of(("c", -1, None), ("c", 0, 0), ("c", 999, None), ("c", 1000, None), ("d", 1000, None))
    assert assign(rows, BY_SERVER).to_list() == [None, "validation", "validation", None, None]


def test_by_time_a_part_begins_with_its_first_moment_and_ends_before_its_last():
    hours = [0, 39, 40, 49, 50, 69, 70, 79, 80, 99, 100]
    assert parts(BY_TIME, *(("a", hour, 0) for hour in hours)) == [
        "train",
        "train",
        None,  # the embargo
        None,
        "validation",
        "validation",
        None,
        None,
        "test",
        "test",
        None,
    ]


def test_by_server_a_server_is_where_the_rule_says_and_a_new_one_nowhere():
    rows = [(server, hour, 0) for server in "abcdx" for hour in (0, 500)]
    assert parts(BY_SERVER, *rows) == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2 + [None] * 2


def test_a_row_whose_label_is_unknown_has_a_part_unless_its_label_decides():
    unknown = ("a", 0, None), ("c", 60, None), ("d", 90, None)
    assert parts(BY_TIME, *unknown) == parts(BY_SERVER, *unknown) == list(PARTS)
    assert parts(AT_RANDOM, *unknown) == [None] * 3


def test_at_random_each_label_has_cuts_of_its_own():
    for label, shares in ((0, [0.5, 0.25, 0.25]), (1, [0.25, 0.25, 0.5])):
        found = parts(AT_RANDOM, *(("a", hour, label) for hour in range(4000)))
        assert [found.count(part) / 4000 for part in PARTS] == pytest.approx(shares, abs=0.04)


@settings(deadline=None)
@given(tables_of_rows, st.sampled_from(sorted(RULES)), st.randoms(use_true_random=False))
def test_a_rows_part_depends_on_the_row_alone(rows, method, random):
    rule = json.loads(json.dumps(RULES[method]))  # as it comes back from split.json
    together = dict(zip(rows, parts(rule, *rows), strict=True))
    assert set(together.values()) <= {*PARTS, None}
    shuffled = random.sample(rows, len(rows))
    assert dict(zip(shuffled, parts(rule, *shuffled), strict=True)) == together
    for row in rows[:3]:
        assert parts(rule, row) == [together[row]]


def test_crashes_follow_their_servers():
    crashes = pl.DataFrame({"server_id": ["a", "c", "d", "x"]})
    assert crashes_of_part(crashes, BY_SERVER, "test")["server_id"].to_list() == ["d"]
    assert crashes_of_part(crashes, BY_TIME, "test")["server_id"].to_list() == ["a", "c", "d", "x"]


def test_a_period_is_read_back_as_moments():
    assert period(BY_TIME, "validation") == (START + 50 * HOUR, START + 70 * HOUR)


def test_a_missing_or_damaged_rule_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"split.json is missing or unreadable .*run `dvc repro split`"):
        read_rule(tmp_path / "split.json")
    (tmp_path / "split.json").write_text('{"method": ')
    with pytest.raises(UserError, match=r"split.json is missing or unreadable .*run `dvc repro split`"):
        read_rule(tmp_path / "split.json")


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        (BY_TIME, "periods"),
        (BY_TIME, "method"),
        (BY_SERVER, "servers"),
        (BY_SERVER, "periods"),
        (AT_RANDOM, "cuts"),
    ],
)
def test_a_rule_that_was_edited_badly_says_what_to_run(tmp_path, rule, key):
    path = tmp_path / "split.json"
    for damaged in (
        {name: rule[name] for name in rule if name != key},
        rule | {key: ["x"]},
        rule | {key: None},
        [rule],
    ):
        path.write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=r"split\.json is .*: run `dvc repro split`"):
            read_rule(path)
    path.write_text(json.dumps(rule))
    assert read_rule(path) == rule


def grid(servers=50, hours=400):
    return rows_of(*((f"server-{server}", hour, 0) for hour in range(hours) for server in range(servers)))


def test_hashes_are_uniform_over_rows_servers_and_moments():
    rows = grid()
    drawn = row_hash(rows, 1, "test")
    assert len(np.unique(drawn)) == rows.height
    uniform = drawn / HASH_RANGE
    counts = np.bincount((uniform * 100).astype(int), minlength=100)
    # chi-squared of 99 degrees of freedom: above 160 once in ten thousand
    assert np.sum((counts - 200) ** 2 / 200) < 160
    matrix = uniform.reshape(400, 50)
    assert np.abs(matrix.mean(axis=0) - 0.5).max() < 4.5 * np.sqrt(1 / 12 / 400)
    assert np.abs(matrix.mean(axis=1) - 0.5).max() < 4.5 * np.sqrt(1 / 12 / 50)
    for bit in range(64):
        assert abs(np.mean(drawn >> np.uint64(bit) & np.uint64(1)) - 0.5) < 4.5 * 0.5 / np.sqrt(rows.height)
    # neither the next hour nor the next server can be told from this one
    assert abs(np.corrcoef(matrix[1:].ravel(), matrix[:-1].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(matrix[:, 1:].ravel(), matrix[:, :-1].ravel())[0, 1]) < 0.03


def test_a_hash_never_changes():
    """What split.json says of a row holds in every later version; recomputed here in plain integers."""

    def split_mix(server, hour):
        digest = hashlib.blake2b(f"split/1/{server}".encode(), digest_size=8).digest()
        mixed = int.from_bytes(digest, "little") ^ (START + hour * HOUR - datetime(1970, 1, 1)) // timedelta.resolution
        mixed = (mixed + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        return mixed ^ (mixed >> 31)

    assert split_mix("a", 0) == 8185619008742986885
    rows = [("b", 1, 0), ("a", 0, 1), ("b", 0, None)]
    assert row_hash(rows_of(*rows), 1, "split").tolist() == [split_mix(server, hour) for server, hour, _ in rows]


@settings(deadline=None)
@given(tables_of_rows, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_a_hash_depends_on_key_seed_and_purpose_alone(rows, seed, random):
    def hashed(rows, purpose="test"):
        return dict(zip(rows, row_hash(rows_of(*rows), seed, purpose).tolist(), strict=True))

    whole = hashed(rows)
    assert hashed(random.sample(rows, len(rows))) == whole
    half = len(rows) // 2
    assert hashed(rows[:half]) | hashed(rows[half:]) == whole  # whatever other servers and rows are there
    relabelled = [(server, hour, 1) for server, hour, _ in rows]
    assert list(hashed(relabelled).values()) == list(whole.values())


@pytest.mark.parametrize("other", [(2, "test"), (1, "tests")])
def test_draws_of_another_seed_or_purpose_are_unrelated(other):
    rows = grid()
    one, two = row_hash(rows, 1, "test") / HASH_RANGE, row_hash(rows, *other) / HASH_RANGE
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


@pytest.fixture
def project(tmp_path):
    """Write labels and features of three servers over 110 hours, a file per day.

    Of hours 5, 85 and 86 labels are unknown, and hour 86 only fills a gap.
    """
    label_at = {5: None, 60: 1, 85: None, 86: None}
    rows = rows_of(*((server, hour, label_at.get(hour, 0)) for hour in range(110) for server in "acd"))
    features = rows.select("timestamp", "server_id", x=pl.int_range(pl.len()).cast(pl.Float32), y=pl.lit(0.5))
    is_observed = pl.col("timestamp").dt.replace_time_zone(None) != START + 86 * HOUR
    labels = rows.with_columns(observed=is_observed, reason=pl.lit("none"))
    for folder, frame in {"labels": labels, "features": features}.items():
        for (day,), of_day in frame.group_by(pl.col("timestamp").dt.truncate("1d"), maintain_order=True):
            tables.write(partition_at(day, "day").path(tmp_path / folder), of_day)
    return tmp_path


def read(project, rule, part, columns=None):
    return list(read_part(project / "features", project / "labels", rule, part, columns))


def test_labelled_rows_leave_out_the_unknown(project):
    found = pl.concat(rows for _, rows in labelled(project / "labels"))
    assert found.columns == ["timestamp", "server_id", "label"]
    assert found.height == 3 * 107
    assert found["label"].null_count() == 0


def test_a_part_is_read_a_partition_at_a_time_with_its_features(project):
    found = read(project, BY_TIME, "train")
    assert [partition.name for partition, _ in found] == ["day=2024-01-29", "day=2024-01-30"]
    rows = pl.concat(rows for _, rows in found)
    assert rows.columns == ["timestamp", "server_id", "label", "observed", "x", "y"]
    known = [hour for hour in range(40) if hour != 5]
    assert rows["x"].to_list() == [3 * hour + server for hour in known for server in range(3)]
    assert rows["server_id"].to_list() == ["a", "c", "d"] * 39
    assert rows["timestamp"].is_sorted()


def test_large_partitions_come_in_pieces_cut_between_moments(project, monkeypatch):
    whole = pl.concat(rows for _, rows in read(project, BY_TIME, "train"))
    monkeypatch.setattr(parts_module, "PIECE_ROWS", 7)
    found = read(project, BY_TIME, "train")
    assert len({partition.name for partition, _ in found}) == 2
    assert max(rows.height for _, rows in found) == 9  # three servers at three moments
    assert pl.concat(rows for _, rows in found).equals(whole)
    moments = [set(rows["timestamp"]) for _, rows in found]
    assert sum(map(len, moments)) == len(set().union(*moments))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_parts_share_out_the_known_rows(project, rule):
    keys = [
        set(rows.select("timestamp", "server_id").iter_rows())
        for part in PARTS
        for _, rows in read(project, rule, part)
    ]
    listed = pl.concat(read_labels(part.path(project / "labels")) for part in partitions(project / "labels"))
    is_judged = pl.col("label").is_not_null() | (pl.col("observed") & (pl.col("part") != "train"))
    assigned = listed.with_columns(part=assign(listed, rule)).filter(pl.col("part").is_not_null() & is_judged)
    assert sum(map(len, keys)) == len(set().union(*keys)) == assigned.height
    assert set().union(*keys) == set(assigned.select("timestamp", "server_id").iter_rows())


def test_what_is_judged_holds_the_observed_rows_of_unknown_label(project):
    rows = pl.concat(rows for _, rows in read(project, BY_TIME, "test"))
    unknown = rows.filter(pl.col("label").is_null())
    assert unknown["timestamp"].dt.replace_time_zone(None).unique().to_list() == [START + 85 * HOUR]
    assert rows.height == 3 * 19


def test_labels_of_older_commits_count_as_observed_if_they_are_known(project):
    path = partition_at(START, "day").path(project / "labels")
    tables.write(path, tables.read(path).drop("observed"))
    rows = read_labels(path)
    assert rows["observed"].equals(rows["label"].is_not_null(), check_names=False)
    assert rows["label"].null_count() == 3


def test_the_mitigated_rows_of_a_part_are_found_by_their_reason(project):
    def mitigated(rule, part):
        return [
            ((moment.replace(tzinfo=None) - START) / HOUR, server)
            for moment, server, _ in mitigated_rows(project / "labels", rule, part).iter_rows()
        ]

    for partition in partitions(project / "labels"):
        path = partition.path(project / "labels")
        rows = tables.read(path)
        acted = pl.col("label").is_null() & (pl.col("server_id") == "c")
        tables.write(path, rows.with_columns(reason=pl.when(acted).then(pl.lit("mitigated")).otherwise("reason")))
    assert mitigated(BY_TIME, "test") == [(85, "c"), (86, "c")]
    assert mitigated(BY_TIME, "train") == [(5, "c")]
    for partition in partitions(project / "labels"):  # labels of older commits
        path = partition.path(project / "labels")
        tables.write(path, tables.read(path).drop("reason"))
    assert mitigated(BY_TIME, "test") == []


def test_features_may_be_chosen(project):
    kept = ["timestamp", "server_id", "label", "observed"]
    assert read(project, BY_TIME, "test", ["y"])[0][1].columns == [*kept, "y"]
    assert read(project, BY_TIME, "test", [])[0][1].columns == kept
    with pytest.raises(UserError, match="column z is missing"):
        read(project, BY_TIME, "test", ["y", "z"])


def test_partitions_outside_a_part_are_not_opened(project):
    for folder in ("features", "labels"):
        partition_at(START, "day").path(project / folder).write_text("damaged")
    assert sum(rows.height for _, rows in read(project, BY_TIME, "test")) == 3 * 19
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read(project, BY_TIME, "train")


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows[:-1],
        lambda rows: pl.concat([rows, rows[-1:]]),
        lambda rows: rows.reverse(),
        lambda rows: rows.with_columns(server_id=pl.lit("a")),
        lambda rows: rows.with_columns(pl.col("timestamp") + HOUR),
    ],
    ids=["fewer", "more", "another order", "other servers", "other moments"],
)
@pytest.mark.parametrize("piece_rows", [7, 1_000_000])
def test_features_of_other_rows_are_refused(project, monkeypatch, damage, piece_rows):
    monkeypatch.setattr(parts_module, "PIECE_ROWS", piece_rows)
    path = partition_at(START + DAY, "day").path(project / "features")
    tables.write(path, damage(tables.read(path)))
    with pytest.raises(UserError, match=r"differ in the rows of day=2024-01-30: run `dvc repro`"):
        read(project, BY_SERVER, "train")


def test_a_partition_without_features_is_named(project):
    path = partition_at(START + DAY, "day").path(project / "features")
    path.unlink()
    with pytest.raises(UserError, match=r"features/day=2024-01-30/part-0.parquet is missing"):
        read(project, BY_TIME, "train")


def test_of_a_part_the_rows_that_are_wanted_can_be_drawn(project):
    def even(rows):
        return rows["timestamp"].dt.hour() % 2 == 0

    found = pl.concat(
        rows for _, rows in read_part(project / "features", project / "labels", BY_TIME, "train", ["x"], even)
    )
    hours = range(0, 40, 2)  # hour 5 is not known
    assert found["x"].to_list() == [3 * hour + server for hour in hours for server in range(3)]


def test_a_piece_without_a_row_of_the_part_is_neither_read_nor_handed_out(project):
    labels = partition_at(START + DAY, "day").path(project / "labels")
    tables.write(labels, tables.read(labels).with_columns(label=pl.lit(None, pl.Int8)))
    partition_at(START + DAY, "day").path(project / "features").write_text("damaged")
    assert [partition.name for partition, _ in read(project, BY_TIME, "train")] == ["day=2024-01-29"]


def test_rows_without_incident_records_are_those_before_the_end_of_the_train_part(project):
    uncovered = pl.col("timestamp").dt.hour().is_between(3, 4)
    for partition in tables.partitions(project / "labels"):
        path = partition.path(project / "labels")
        lead = pl.when(pl.col("timestamp").dt.hour() == 5).then(pl.lit("lead"))  # a label that is known has no reason
        reason = pl.when(uncovered).then(pl.lit(tables.UNCOVERED)).otherwise(lead)
        tables.write(path, tables.read(path).with_columns(reason=reason))

    def found(rule):
        rows = pl.concat(rows for _, rows in read_uncovered(project / "features", project / "labels", rule, ["x"]))
        assert rows.columns == ["timestamp", "server_id", "label", "x"]
        return rows["x"].to_list()

    assert found(BY_TIME) == [3 * hour + server for hour in (3, 4, 27, 28) for server in range(3)]  # before hour 40
    at_the_end = BY_TIME | {"periods": BY_TIME["periods"] | {"train": span(20, 28)}}
    assert found(at_the_end) == [3 * hour + server for hour in (3, 4, 27) for server in range(3)]
    every_day = [day + hour for day in range(0, 97, 24) for hour in (3, 4)]
    assert found(BY_SERVER) == [3 * hour for hour in every_day]  # a alone is of the train part
