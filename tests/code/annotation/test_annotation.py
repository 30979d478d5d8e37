"""What telemetry says of server-windows, which labels to doubt, whom to ask about what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from crashcast import tables
from crashcast.annotation import answers as people
from crashcast.annotation.committee import FOLDS, votes_out_of_fold
from crashcast.annotation.selection import informativeness, select
from crashcast.annotation.suspects import quality, suspects
from crashcast.annotation.windows import Windows, evidence, measured, read
from crashcast.errors import UserError
from crashcast.params.telemetry import Metric, Telemetry

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2025, 3, 1, tzinfo=UTC)
METRICS = {"cpu_pct": Metric(min=0, max=100), "uptime_h": Metric(min=0, max=1e5)}
TELEMETRY = Telemetry(interval=HOUR, partition="month", metrics=METRICS)
MARCH = tables.partition_at(datetime(2025, 3, 1), "month")


def clean_rows(**servers: dict[int, tuple[float, float]]) -> pl.DataFrame:
    """Return rows of servers: cpu and uptime by hours since `START`."""
    rows = [
        (START + hour * HOUR, name, float(cpu), float(uptime))
        for name, hours in servers.items()
        for hour, (cpu, uptime) in hours.items()
    ]
    schema = {**tables.KEYS, "cpu_pct": pl.Float32, "uptime_h": pl.Float32}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("timestamp", "server_id")


def healthy(hours: range) -> dict[int, tuple[float, float]]:
    return {hour: (20 + hour % 5, 100 + hour) for hour in hours}


def test_a_row_that_repeats_the_one_before_it_was_filled() -> None:
    rows = clean_rows(a={0: (5, 1), 1: (5, 1), 2: (5, 3), 3: (6, 3)}, b={0: (5, 3), 1: (5, 3)})
    kept = measured(rows, list(METRICS)).select("server_id", pl.col("timestamp").dt.hour())
    assert kept.rows() == [("a", 0), ("a", 2), ("a", 3), ("b", 0)]


def test_evidence_of_a_crash_is_the_silence_and_what_started_anew() -> None:
    crashed = healthy(range(48)) | {hour: (10, hour - 14) for hour in range(15, 48)}
    del crashed[11], crashed[12], crashed[13], crashed[14]
    found = evidence(clean_rows(crashed=crashed, well=healthy(range(48))), MARCH, DAY, TELEMETRY)
    first = {row["server_id"]: row for row in found.filter(started_at=START).iter_rows(named=True)}

    # its last row before is that of 10:00, the next that of 15:00: nothing came at four moments
    assert first["crashed"]["gap_h"] == 4
    assert first["crashed"]["gap_hour"] == 10
    assert first["crashed"]["gap_company"] == 0.5  # at 10:00 one of two servers fell silent
    assert first["crashed"]["uptime_h_fall"] == 1 - 110
    assert first["crashed"]["uptime_h_fall_hour"] == 10
    assert first["well"]["gap_h"] == 0
    assert first["well"]["gap_hour"] is None
    assert first["well"]["uptime_h_fall"] == 1  # it only grew
    assert first["well"]["cpu_pct_max"] == 24


def test_a_window_sees_signs_from_six_hours_before_it_and_no_later_crash() -> None:
    rows = healthy(range(48)) | {19: (99, 119)}  # what came from 18:00 to 19:00
    found = evidence(clean_rows(a=rows), MARCH, DAY, TELEMETRY).sort("started_at")
    assert found["cpu_pct_max"].to_list() == [99, 99]
    rows = healthy(range(48)) | {18: (99, 118)}
    found = evidence(clean_rows(a=rows), MARCH, DAY, TELEMETRY).sort("started_at")
    assert found["cpu_pct_max"].to_list() == [99, 24]


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Write three days of two servers in a project of their own; a crashed on the second day, b was worked on."""
    monkeypatch.chdir(tmp_path)
    rows = clean_rows(a=healthy(range(80)), b=healthy(range(80)))
    tables.write(MARCH.path(tmp_path / "clean"), rows)
    tickets = [("1", "a", "crash", 30.5, 31.5), ("2", "b", "maintenance", 2, 3), ("3", "a", "crash", 40, 41)]
    records = pl.DataFrame(
        [(key, server, kind, START + on * HOUR, START + off * HOUR) for key, server, kind, on, off in tickets],
        schema=["incident_id", "server_id", "kind", "started_at", "resolved_at"],
        orient="row",
    )
    missing = {name: kind for name, kind in tables.INCIDENTS.items() if name not in records.columns}
    records = records.with_columns(pl.lit(None, kind).alias(name) for name, kind in missing.items())
    tables.write(tmp_path / "incidents.parquet", records.select(*tables.INCIDENTS).cast(tables.INCIDENTS))
    covered = [("a", START, START + 3 * DAY + 4 * HOUR, None), ("b", START, START + 2 * DAY + 3 * HOUR, None)]
    frame = pl.DataFrame(covered, schema=dict.fromkeys(tables.COVERAGE), orient="row").cast(tables.COVERAGE)
    tables.write(tmp_path / "coverage.parquet", frame)
    metrics = {name: {"min": metric.min, "max": metric.max} for name, metric in METRICS.items()}
    import yaml

    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(
            {
                "telemetry": {"interval": "1h", "partition": "month", "metrics": metrics},
                "incidents": {"reporting_delay": "4h", "unresolved_outage": "1d"},
            }
        )
    )
    return [tmp_path / name for name in ("clean", "incidents.parquet", "coverage.parquet")]


def test_a_window_is_labelled_where_its_crashes_must_be_on_record(raw) -> None:
    found = read(*raw, DAY)
    days = found.frame.with_columns(pl.col("started_at").dt.day())
    # a's third day ends four hours before its records do, as long as a report may take; b's second only three
    assert days.select("started_at", "server_id").rows() == [(1, "a"), (1, "b"), (2, "a"), (3, "a")]
    assert found.frame["crash_at"].to_list() == [None, None, START + 30.5 * HOUR, None]
    assert found.evidence[:, found.names.index("planned")].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("length", [timedelta(minutes=30), 5 * HOUR, 36 * HOUR])
def test_a_window_that_fits_no_day_is_refused(raw, length) -> None:
    with pytest.raises(UserError, match="divide a day"):
        read(*raw, length)


def labelled_windows(n: int = 400, seed: int = 1) -> Windows:
    """Return windows of 20 servers, one in four with a crash, which the first column shows."""
    draw = np.random.default_rng(seed)
    crash = draw.random(n) < 0.25
    values = np.column_stack([crash + 0.2 * draw.standard_normal(n), draw.standard_normal(n)]).astype(np.float32)
    started = pl.Series([START + number // 20 * DAY for number in range(n)], dtype=tables.TIMESTAMP)
    frame = pl.DataFrame({"server_id": [f"s{number % 20:02}" for number in range(n)], "started_at": started})
    frame = frame.with_columns(ended_at=started + DAY, crash_at=pl.when(pl.Series(crash)).then(started + HOUR))
    return Windows(frame, np.column_stack([values, values]), ["gap_h", "noise", "gap_company", "more"])


def test_no_label_is_judged_by_what_its_own_server_taught() -> None:
    windows = labelled_windows()
    servers, crash = windows.frame["server_id"].to_numpy(), windows.crash
    before = votes_out_of_fold(windows.evidence, crash, servers, seed=3)
    own = servers == "s07"
    after = votes_out_of_fold(windows.evidence, crash ^ own, servers, seed=3)
    assert np.array_equal(before[own], after[own])
    assert not np.array_equal(before[~own], after[~own])
    assert before.shape == (400, 10)
    assert ((before >= 0) & (before <= 1)).all()


def test_too_few_servers_for_a_judgement_are_told() -> None:
    windows = labelled_windows()
    with pytest.raises(UserError, match=f"at least {FOLDS} servers"):
        votes_out_of_fold(windows.evidence, windows.crash, np.full(400, "one"), seed=1)
    with pytest.raises(UserError, match="0 of 400 windows"):
        votes_out_of_fold(windows.evidence, np.zeros(400, bool), windows.frame["server_id"].to_numpy(), seed=1)


def test_flipped_labels_are_the_first_suspects() -> None:
    windows = labelled_windows()
    flipped = np.zeros(400, bool)
    flipped[np.flatnonzero(windows.crash)[:10]] = flipped[np.flatnonzero(~windows.crash)[:30]] = True
    said = pl.Series(windows.crash ^ flipped)
    frame = windows.frame.with_columns(crash_at=pl.when(said).then(pl.col("started_at") + HOUR))
    ranked = suspects(Windows(frame, windows.evidence, windows.names), seed=1)
    wrong = windows.frame.filter(pl.Series(flipped)).select("server_id", "started_at")
    found = ranked.head(40).join(wrong, on=["server_id", "started_at"], how="semi")
    assert found.height >= 36
    assert ranked["quality"].is_sorted()
    assert ranked.head(20)["is_issue"].all()


def test_the_less_telemetry_supports_a_label_the_lower_its_quality() -> None:
    crash, probability = np.array([True, True, False, False]), np.array([0.9, 0.1, 0.1, 0.9])
    found = quality(crash, probability)
    assert found[1] < found[0]
    assert found[3] < found[2]


def test_informativeness_counts_uncertainty_and_disagreement() -> None:
    votes = np.array([[0.0, 0.0], [0.5, 0.5], [0.0, 1.0], [1.0, 1.0]])
    # nobody doubts; all doubt alike: one bit; each is sure of another: one bit, all of it disagreement
    assert informativeness(votes) == pytest.approx([0, 1, 2, 0])


@settings(max_examples=40)
@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.lists(st.floats(0, 1), min_size=n, max_size=n), st.integers(1, 80), st.integers(0, 9))
    )
)
def test_each_window_is_chosen_at_most_once_and_as_many_as_asked_for(drawn) -> None:
    probabilities, budget, seed = drawn
    votes = np.column_stack([probabilities, probabilities[::-1]])
    points = np.round(votes, 1).astype(np.float32)
    chosen = select(votes, points, budget, seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(budget, len(votes))
    assert np.array_equal(chosen, select(votes, points, budget, seed))


def test_of_equally_uncertain_windows_different_ones_are_chosen() -> None:
    votes = np.full((30, 2), 0.5)
    places = np.repeat([[0.0, 0.0], [0.0, 1.0], [1.0, np.nan]], [20, 5, 5], axis=0).astype(np.float32)
    chosen = select(votes, places, 3, seed=1)
    assert sorted(np.searchsorted([20, 25], chosen, side="right")) == [0, 1, 2]


def test_what_nobody_doubts_is_asked_only_by_lot() -> None:
    votes = np.repeat([[0.01, 0.01], [0.4, 0.6]], [900, 100], axis=0)
    places = np.random.default_rng(1).random((1000, 3)).astype(np.float32)
    chosen = select(votes, places, 20, seed=1)
    assert (chosen[:18] >= 900).all()
    assert (select(votes, places, 20, seed=2)[:18] == chosen[:18]).all()
    assert (select(votes, places, 20, seed=2)[18:] != chosen[18:]).any()


def answers(*rows: tuple[str, int, str, int | None, str, int]) -> pl.DataFrame:
    """Return annotations of (server, day, verdict, hour of crash, annotator, hour of the annotation)."""
    return pl.DataFrame(
        [
            (
                server,
                START + day * DAY,
                START + (day + 1) * DAY,
                verdict,
                None if hour is None else START + day * DAY + hour * HOUR,
                who,
                START + when * HOUR,
            )
            for server, day, verdict, hour, who, when in rows
        ],
        schema=people.ANNOTATIONS,
        orient="row",
    )


def test_of_what_one_annotator_says_of_one_window_the_last_word_counts() -> None:
    first = answers(("a", 0, "unsure", None, "eva", 1), ("a", 0, "crash", 3, "tom", 2))
    second = answers(("a", 0, "crash", 5, "eva", 9), ("a", 0, "no crash", None, "tom", 1))
    merged = people.merge(first, second)
    assert merged.select("annotator", "verdict").rows() == [("eva", "crash"), ("tom", "crash")]
    assert people.merge(merged, second).equals(merged)
    assert people.merge(second, first).equals(merged)


def test_annotators_agree_by_the_majority_of_the_sure() -> None:
    found = people.consensus(
        answers(
            *(("a", 0, "crash", hour, who, 1) for hour, who in ((3, "eva"), (5, "tom"))),
            *(("a", 1, verdict, None, who, 1) for verdict, who in (("no crash", "eva"), ("unsure", "tom"))),
            *(("b", 0, verdict, None, who, 1) for verdict, who in (("no crash", "eva"), ("crash", "tom"))),
        )
    )
    assert found["is_crash"].to_list() == [True, False, None]
    assert found["crash_at"].to_list() == [START + 4 * HOUR, None, None]


def test_alpha_is_that_of_the_published_example() -> None:
    # Krippendorff, Computing Krippendorff's alpha-reliability, 2011, section C: 0.743
    said = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
    counts = np.array([[sum(row[unit] == value for row in said) for value in range(1, 6)] for unit in range(12)])
    assert people.krippendorff_alpha(counts) == pytest.approx(0.743, abs=0.0005)
    assert people.krippendorff_alpha(np.array([[2, 0], [2, 0]])) is None
    assert people.krippendorff_alpha(np.array([[2, 0], [0, 2]])) == 1


def test_agreement_is_told_for_all_and_for_each_two() -> None:
    verdicts = ["crash", "crash", "no crash", "no crash", "unsure", "crash"]
    others = ["crash", "no crash", "no crash", "no crash", "unsure", "crash"]
    rows = [("a", day, said, None, "eva", 1) for day, said in enumerate(verdicts)]
    rows += [("a", day, said, None, "tom", 1) for day, said in enumerate(others)]
    first, second = people.agreement(answers(*rows, ("b", 0, "crash", None, "ida", 1)))
    assert first.startswith("6 windows have answers of several annotators")
    assert second == f"eva and tom: 83% of 6 windows alike, Cohen's kappa {cohen_kappa_score(verdicts, others):.2f}"
    assert "not known" in people.agreement(answers(("a", 0, "crash", None, "eva", 1)))[0]
