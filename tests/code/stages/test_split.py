from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crashcast import tables
from crashcast.errors import UserError
from crashcast.modeling.split_rule import PARTS, assign, labelled, period, read_rule
from crashcast.params.telemetry import Telemetry
from crashcast.tables import partition_at
from stages import split

ROOT = Path(__file__).parents[3]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2024, 2, 26)
SERVERS = [f"s{number:02}" for number in range(20)]
HOURLY = Telemetry(interval="1h", partition="day", metrics={"cpu_pct": {"min": 0, "max": 100}})


def label_of(server, hour):
    """Two servers in three never crash; the others do every 40 hours, 6 rows before it being 1 and then 2 unknown."""
    number = SERVERS.index(server)
    since = (hour + 7 * number) % 40
    return 0 if number % 3 or since >= 8 else (1 if since < 6 else None)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write params.yaml, groups, and ten days of labels of twenty servers, the first five and last eight hours unknown.

    s16 and s17 are old, s18 and s19 are new, and the others are of no group.
    """
    monkeypatch.chdir(tmp_path)
    set_rules()
    groups = pl.Series(["old", "old", "new", "new"]).extend_constant(None, 16)
    coverage = pl.DataFrame({"server_id": SERVERS[16:] + SERVERS[:16], "group": groups})
    tables.write(tmp_path / "coverage.parquet", coverage)
    for day in range(10):
        hours = range(24 * day, 24 * (day + 1))
        rows = [(START + hour * HOUR, server, label_of(server, hour)) for hour in hours for server in SERVERS]
        schema = {"timestamp": pl.Datetime("us"), "server_id": pl.String, "label": pl.Int8}
        frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
            pl.col("timestamp").dt.replace_time_zone("UTC")
        )
        unknown = ~pl.col("timestamp").is_between(*tables.utc(START + 5 * HOUR, START + 232 * HOUR), closed="left")
        frame = frame.with_columns(label=pl.when(~unknown).then("label"), reason=None)
        tables.write(partition_at(START + day * DAY, "day").path(tmp_path / "labels"), frame)
    return tmp_path


def set_rules(**changes):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["label"] |= {"lead": "1h", "horizon": "6h", "recovery": "2h"}
    content["split"] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(content))


def run(**changes):
    set_rules(**changes)
    split.main(*map(Path, ("labels", "coverage.parquet", "split.json", "metrics.json")))
    return read_rule(Path("split.json")), json.loads(Path("metrics.json").read_text())


def known_rows():
    return pl.concat(rows for _, rows in labelled(Path("labels")))


def test_shares_are_of_the_labelled_period_and_the_embargo_ends_the_earlier_part(project):
    rule, _ = run(method="time", train=0.5, validation=0.25, test=0.25)
    # labelled from hour 5 to 232: 227 hours, of which 0.5 are 113.5, rounded to even, and 0.75 are 170.25
    hours = {part: [(moment - START) / HOUR for moment in period(rule, part)] for part in PARTS}
    assert hours == {"train": [5, 5 + 114 - 9], "validation": [5 + 114, 5 + 170 - 9], "test": [5 + 170, 232]}


def test_no_label_reaches_from_one_part_into_the_next(project):
    rule, _ = run()
    settings = yaml.safe_load(Path("params.yaml").read_text())["label"]
    reach = timedelta(hours=sum(int(settings[key].rstrip("h")) for key in ("lead", "horizon", "recovery")))
    rows = known_rows()
    rows = rows.with_columns(part=assign(rows, rule))
    ends = {part: rows.filter(part=part)["timestamp"] for part in PARTS}
    for earlier, later in (("train", "validation"), ("validation", "test")):
        assert ends[earlier].max() + reach + HOUR == ends[later].min()  # the last reaches up to there, not into it


@given(
    st.integers(200, 5000),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 12),
)
def test_periods_are_in_order_and_apart(hours, weights, embargo_h):
    shares = [weight / sum(weights) for weight in weights]
    embargo, end = embargo_h * HOUR, START + hours * HOUR
    try:
        periods = split.by_time(START, end, shares, embargo, HOURLY.interval)
    except UserError:
        assert min(share * hours for share in shares) <= embargo_h + 1
        return
    moments = [tuple(datetime.fromisoformat(moment) for moment in periods[part].values()) for part in PARTS]
    assert moments[0][0] == START
    assert moments[2][1] == end
    for (start, stop), (following, _) in pairwise(moments):
        assert start < stop == following - embargo
    for share, (start, _), ends_at in zip(shares, moments, [moments[1][0], moments[2][0], end], strict=True):
        assert abs((ends_at - start) / HOUR - share * hours) <= 1


def test_counts_are_what_the_parts_hold(project):
    rule, counts = run()
    rows = known_rows()
    part = assign(rows, rule)
    for name in PARTS:
        members = rows.filter(part == name)
        assert counts[name]["rows"] == members.height
        assert counts[name]["crash_rows"] == members["label"].sum() > 0
        assert counts[name]["servers"] == members["server_id"].n_unique() == 20
        assert counts[name]["base_rate"] == pytest.approx(members["label"].mean(), rel=1e-5)
        assert {key: counts[name][key] for key in ("from", "to")} == rule["periods"][name]
    assert counts["embargoed"]["rows"] == part.null_count()
    assert sum(counts[name]["rows"] for name in (*PARTS, "embargoed")) == rows.height


def test_by_server_no_server_is_in_two_parts_and_those_that_crashed_are_shared_out(project):
    rule, counts = run(method="server", train=0.6, validation=0.2, test=0.2)
    servers = [set(rule["servers"][part]) for part in PARTS]
    assert set.union(*servers) == set(SERVERS)
    assert sum(map(len, servers)) == len(SERVERS)
    # 7 of 20 crash: 4.2 and 5.6 of them, 7.8 and 10.4 of the other 13, are where the parts end
    crashed = {server for number, server in enumerate(SERVERS) if number % 3 == 0}
    assert [len(part & crashed) for part in servers] == [4, 2, 1]
    assert [len(part - crashed) for part in servers] == [8, 2, 3]
    assert counts["embargoed"]["rows"] == 0
    assert [counts[part]["servers"] for part in PARTS] == [12, 4, 4]


def test_at_random_the_shares_of_crash_rows_are_exact(project):
    rule, counts = run(method="random", train=0.7, validation=0.15, test=0.15)
    rows = known_rows()
    crashes = int(rows["label"].sum())
    borders = [0, round(0.7 * crashes), round(0.85 * crashes), crashes]
    for part, (start, stop) in zip(PARTS, pairwise(borders), strict=True):
        assert counts[part]["crash_rows"] == stop - start
    assert sum(counts[part]["rows"] for part in PARTS) == rows.height
    shares = [(counts[part]["rows"] - counts[part]["crash_rows"]) / (rows.height - crashes) for part in PARTS]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.03)
    assert assign(rows, rule).null_count() == 0


def parts_of(rule, servers):
    """The hours, of these servers' known rows, at which each part begins, and ends."""
    rows = known_rows().filter(pl.col("server_id").is_in(servers))
    rows = rows.with_columns(part=assign(rows, rule), hour=(pl.col("timestamp") - tables.utc(START, START)[0]) / HOUR)
    spans = rows.drop_nulls("part").group_by("part").agg(first=pl.min("hour"), last=pl.max("hour"))
    return {part: (first, last + 1) for part, first, last in spans.iter_rows()}


def test_shares_since_a_date_are_of_what_follows_and_all_before_trains(project):
    rule, counts = run(since="2024-02-29", train=0.5, validation=0.25, test=0.25)
    # from hour 72 to 232: 160 hours, of which 0.5 are 80, and 0.75 are 120; the embargo is 9 hours
    assert parts_of(rule, SERVERS) == {"train": (5, 152 - 9), "validation": (152, 192 - 9), "test": (192, 232)}
    assert rule["method"] == "time"
    assert [counts[part]["servers"] for part in PARTS] == [20, 20, 20]


def test_a_date_before_the_first_label_changes_nothing(project):
    assert run(since="2024-01-01") == run()


def began_and_ended(**hours):
    """Take the labels of some servers outside of their hours."""
    for server, (first, end) in hours.items():
        inside = pl.col("timestamp").is_between(*tables.utc(START + first * HOUR, START + end * HOUR), closed="left")
        relabel(pl.when((pl.col("server_id") != server) | inside).then("label"))


def test_a_new_site_is_in_every_part_and_nothing_is_trained_on_that_is_later_than_what_is_judged(project):
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    began_and_ended(s18=(124, 240), s19=(120, 240))
    assert parts_of(run(**shares)[0], ["s18", "s19"]).keys() == {"validation", "test"}
    rule, counts = run(since=["new"], **shares)
    # from hour 120 to 232: 112 hours, of which 0.5 are 56, and 0.75 are 84
    assert parts_of(rule, SERVERS) == {"train": (5, 176 - 9), "validation": (176, 204 - 9), "test": (204, 232)}
    assert parts_of(rule, ["s18", "s19"])["train"] == (120, 176 - 9)
    assert [counts[part]["servers"] for part in PARTS] == [20, 20, 20]


def test_of_several_groups_each_is_in_every_part(project):
    """One begins late, the other ends early: the borders lie between, the test part goes on."""
    began_and_ended(s18=(120, 240), s19=(120, 240), s16=(0, 220), s17=(0, 218))
    rule, _ = run(since=["old", "new"], train=0.5, validation=0.25, test=0.25)
    # from hour 120 to 220: 100 hours
    assert parts_of(rule, SERVERS) == {"train": (5, 170 - 9), "validation": (170, 195 - 9), "test": (195, 232)}
    for servers in (["s16", "s17"], ["s18", "s19"]):
        assert parts_of(rule, servers).keys() == set(PARTS)


def test_groups_without_a_period_in_common_are_named(project):
    began_and_ended(s18=(120, 240), s19=(120, 240), s16=(0, 120), s17=(0, 120))
    with pytest.raises(UserError, match=r"split.since: old and new have no known labels in one and the same period"):
        run(since=["old", "new"])
    began_and_ended(s18=(0, 0), s19=(0, 0))
    with pytest.raises(UserError, match=r"split.since: new have no known labels"):
        run(since=["new"])


@pytest.mark.parametrize(("method", "name"), [("server", "since"), ("random", "since"), ("time", "test_groups")])
def test_groups_are_refused_by_a_method_that_does_not_use_them(project, method, name):
    with pytest.raises(UserError, match=rf"split: {name} needs method: \w+, not {method}"):
        run(method=method, **{name: ["new"]})


@pytest.mark.parametrize("changes", [{"since": ["nwe"]}, {"method": "server", "test_groups": ["new", "nwe"]}])
def test_a_group_without_servers_is_named(project, changes):
    with pytest.raises(UserError, match=r"no server is of the group nwe; coverage.parquet has the groups: new, old$"):
        run(**changes)


def test_the_test_part_is_that_of_the_groups_named_and_the_others_are_shared_out(project):
    began_and_ended(s17=(0, 0))  # a server without known labels is in no part
    rule, counts = run(method="server", test_groups=["new", "old"], train=0.6, validation=0.3, test=0.1)
    assert rule["servers"]["test"] == ["s16", "s18", "s19"]
    servers = [set(rule["servers"][part]) for part in PARTS]
    assert set.union(*servers) == set(SERVERS) - {"s17"}
    # 6 of the other 16 crash: 4 of them train, and 6.7 of the other 10
    crashed = {server for number, server in enumerate(SERVERS) if number % 3 == 0}
    assert [len(part & crashed) for part in servers] == [4, 2, 1]
    assert [len(part - crashed) for part in servers] == [7, 3, 2]
    assert counts["embargoed"]["rows"] == 0


def test_only_the_random_split_warns(project, capsys):
    run(method="random")
    warning = capsys.readouterr()
    assert "figures from a random split flatter" in warning.err
    assert warning.out == ""
    for method in ("time", "server"):
        run(method=method)
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("method", ["server", "random"])
def test_another_seed_draws_another_split_and_the_same_seed_the_same(project, method):
    draws = {seed: run(method=method, seed=seed)[0] for seed in (1, 2)}
    assert draws[1] != draws[2]
    assert run(method=method, seed=1)[0] == draws[1]


@pytest.mark.parametrize("method", ["time", "server", "random"])
def test_the_same_input_writes_the_same_bytes(project, method):
    run(method=method)
    before = [Path(name).read_bytes() for name in ("split.json", "metrics.json")]
    run(method=method)
    assert [Path(name).read_bytes() for name in ("split.json", "metrics.json")] == before


def relabel(change):
    for partition in tables.partitions(Path("labels")):
        path = partition.path(Path("labels"))
        tables.write(path, tables.read(path).with_columns(label=change))


@pytest.mark.parametrize(
    ("method", "kept", "empty"),
    [
        ("time", [0, 60], "validation"),
        ("time", [0, 190], "test"),
        ("time", [190, 240], "train"),
        ("time", [], "train"),
        ("server", [], "train"),
        ("random", [], "train"),
        ("random", [5, 6], "train"),  # one crash row does not make three parts
    ],
)
def test_a_part_without_a_crash_is_named_and_nothing_is_written(project, method, kept, empty):
    crash_hours = [START + hour * HOUR for hour in range(*kept)] if kept else []
    in_kept = pl.col("timestamp").dt.replace_time_zone(None).is_in(crash_hours)
    relabel(pl.when(pl.col("label").is_not_null()).then((in_kept & (pl.col("label") == 1)).cast(pl.Int8)))
    problem = rf"the {empty} part of the {method} split holds no crash \(\d+ rows\): change the shares in params.yaml"
    with pytest.raises(UserError, match=problem):
        run(method=method)
    assert not Path("split.json").exists()
    assert not Path("metrics.json").exists()


def test_labels_that_are_all_unknown_are_refused(project):
    relabel(pl.lit(None, dtype=pl.Int8))
    with pytest.raises(UserError, match="labels holds no known label: do the coverage and the telemetry overlap"):
        run()


def test_a_part_as_long_as_its_embargo_holds_nothing():
    shares = [0.25, 0.25, 0.5]
    split.by_time(START, START + 40 * HOUR, shares, 9 * HOUR, HOUR)
    with pytest.raises(UserError, match="the train part is shorter than the embargo of 10h"):
        split.by_time(START, START + 40 * HOUR, shares, 10 * HOUR, HOUR)


def test_a_part_shorter_than_the_embargo_is_named(project):
    with pytest.raises(UserError, match=r"the validation part is shorter than the embargo of 9h: bring in more data"):
        run(train=0.9, validation=0.03, test=0.07)
