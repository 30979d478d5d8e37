from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashcast.modeling import alarms

HOUR = timedelta(hours=1)
START = datetime(2025, 3, 3)
UTC = pl.Datetime("us", "UTC")
LEAD, HORIZON = 1 * HOUR, 6 * HOUR
WINDOW = alarms.AlarmWindow(LEAD, HORIZON, HOUR)


def table(time, *rows):
    """Rows of (server, hour, ...) as a frame; hours count from START."""
    servers, hours, *scores = zip(*rows, strict=True) if rows else ((), ())
    moments = pl.Series([START + hour * HOUR for hour in hours], dtype=pl.Datetime("us"))
    columns = {"server_id": pl.Series(servers, dtype=pl.String), time: moments.dt.replace_time_zone("UTC")}
    if time == "timestamp":
        columns["score"] = pl.Series(scores[0] if scores else [], dtype=pl.Float64)
    return pl.DataFrame(columns)


def rows_of(*rows):
    return table("timestamp", *rows)


def crashes_of(*crashes):
    return table("started_at", *crashes)


def hours(series):
    return [None if moment is None else (moment.replace(tzinfo=None) - START) / HOUR for moment in series]


def always_high(server, n_hours, start=0):
    return [(server, hour, 1.0) for hour in range(start, start + n_hours)]


def judge(rows, crashes, threshold=0.5, lead=LEAD, horizon=HORIZON, *, n_hours=48):
    period = (START, START + n_hours * HOUR)
    return alarms.judge(rows, crashes, threshold, alarms.AlarmWindow(lead, horizon, HOUR), period)


def test_an_alarm_lasts_and_opens_again_if_still_high():
    rows = rows_of(("b", 0, 0.5), ("b", 1, 0.6), ("b", 7, 0.4), *always_high("a", 15))
    raised = alarms.open_alarms(rows, 0.5, LEAD + HORIZON)
    opened = list(zip(raised["server_id"], hours(raised["timestamp"]), strict=True))
    assert opened == [("a", 0), ("b", 0), ("a", 7), ("a", 14)]


def test_after_an_alarm_the_first_known_high_row_opens_the_next():
    high = rows_of(("a", 0, 0.9), ("a", 5, 0.9), ("a", 8, 0.1), ("a", 9, 0.9), ("a", 20, 0.9))
    assert hours(alarms.open_alarms(high, 0.5, 7 * HOUR)["timestamp"]) == [0, 9, 20]


def test_nothing_high_opens_nothing():
    assert alarms.open_alarms(rows_of(("a", 0, 0.1)), 0.5, HOUR).is_empty()
    assert alarms.open_alarms(rows_of(), 0.5, HOUR).is_empty()


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_scores_that_are_no_numbers_are_refused(score):
    with pytest.raises(ValueError, match="finite"):
        alarms.open_alarms(rows_of(("a", 0, 0.1), ("a", 1, score)), 0.5, HOUR)


@pytest.mark.parametrize(
    ("crash", "outcome", "started"),
    [
        (10, "false", None),  # as it opens
        (10.5, "late", 10.5),
        (11, "late", 11),  # t + lead
        (11.5, "true", 11.5),
        (17, "true", 17),  # t + lead + horizon
        (17.5, "false", None),
    ],
)
def test_the_outcome_depends_on_when_the_crash_comes(crash, outcome, started):
    judged = alarms.judge_alarms(rows_of(("a", 10, 1.0)), crashes_of(("a", crash), ("b", 12)), WINDOW)
    assert judged["outcome"].to_list() == [outcome]
    assert hours(judged["started_at"]) == [started]


def test_a_crash_in_time_counts_before_one_too_soon():
    judged = alarms.judge_alarms(rows_of(("a", 10, 1.0)), crashes_of(("a", 10.5), ("a", 14), ("a", 16)), WINDOW)
    assert judged["outcome"].to_list() == ["true"]
    assert hours(judged["started_at"]) == [14]


def test_a_crash_belongs_to_the_period_of_its_last_moment_to_warn():
    crashes = crashes_of(("a", 1), ("a", 1.5), ("a", 11), ("a", 11.5))
    first, second = (START, START + 10 * HOUR), (START + 10 * HOUR, START + 20 * HOUR)
    assert hours(alarms.crashes_of(crashes, first, LEAD)["started_at"]) == [1.5, 11]
    assert hours(alarms.crashes_of(crashes, second, LEAD)["started_at"]) == [11.5]
    # the last moment to warn is the instant before started_at - lead
    at_once = crashes_of(("a", 1)).with_columns(pl.col("started_at") + timedelta(microseconds=1))
    assert hours(alarms.crashes_of(at_once, first, LEAD)["last_warning_at"]) == [0]


def test_crashes_are_caught_missed_or_out_of_sight():
    rows = rows_of(("a", 0, 0.9), ("a", 8, 0.9), ("b", 4, 0.1))
    metrics, raised, crashes = judge(rows, crashes_of(("a", 6.5), ("a", 12), ("a", 13), ("b", 9), ("c", 10), ("a", 30)))
    assert raised["outcome"].to_list() == ["true", "true"]
    assert crashes.select("server_id", "caught", "had_known_row").rows() == [
        ("a", True, True),
        ("b", False, True),  # its row was low
        ("c", False, False),
        ("a", True, True),
        ("a", True, True),  # the same alarm is true for both
        ("a", False, False),
    ]
    assert [lead and lead / HOUR for lead in crashes["lead_time"]] == [6.5, None, None, 4, 5, None]
    assert (metrics.crashes, metrics.crashes_caught, metrics.crashes_missed) == (6, 3, 3)
    assert metrics.crashes_without_known_row == 2
    assert metrics.event_recall == 3 / 6
    assert metrics.median_lead_h == 5


def test_lead_time_counts_from_the_first_true_alarm():
    # alarms of two hours each, at 4 and 6, both true for the crash at 7.5
    lead, horizon = timedelta(0), 4 * HOUR
    raised, crashes = rows_of(("a", 0, 1.0), ("a", 4, 1.0), ("a", 6, 1.0)), crashes_of(("a", 7.5))
    caught = alarms.catch(crashes, raised, raised, alarms.AlarmWindow(lead, horizon, HOUR))
    assert caught["lead_time"].to_list() == [3.5 * HOUR]


def test_the_figures_by_hand():
    rows = rows_of(*always_high("a", 24), *[("b", hour, 0.0) for hour in range(24)])
    metrics = judge(rows, crashes_of(("a", 5), ("b", 5)), n_hours=24).metrics
    assert metrics.as_dict() == {
        "threshold": 0.5,
        "server_days": 2.0,
        "crashes": 2,
        "crashes_caught": 1,
        "crashes_missed": 1,
        "crashes_without_known_row": 0,
        "alarms": 4,  # at 0, 7, 14 and 21
        "alarms_true": 1,
        "alarms_late": 0,
        "alarms_false": 3,
        "event_recall": 1 / 2,
        "alarm_precision": 1 / 4,
        "false_alarms_per_server_day": 3 / 2,
        "pages_per_day": 4.0,
        "median_lead_h": 5.0,
    }


def test_late_alarms_are_not_false_but_spoil_precision():
    metrics = judge(rows_of(("a", 4, 1.0), ("b", 0, 1.0)), crashes_of(("a", 5), ("b", 5))).metrics
    assert (metrics.alarms_true, metrics.alarms_late, metrics.alarms_false) == (1, 1, 0)
    assert metrics.alarm_precision == 1 / 2
    assert metrics.false_alarms_per_server_day == 0


def test_what_cannot_be_divided_is_none():
    metrics = judge(rows_of(), crashes_of()).metrics
    assert metrics.event_recall is None
    assert metrics.alarm_precision is None
    assert metrics.false_alarms_per_server_day is None
    assert metrics.median_lead_h is None
    assert metrics.pages_per_day == 0


@pytest.mark.parametrize("hour", [-1, 48])
def test_rows_outside_the_period_are_refused(hour):
    with pytest.raises(ValueError, match="outside the period"):
        judge(rows_of(("a", hour, 0.1)), crashes_of())


def test_an_alarm_near_the_end_is_true_of_a_crash_after_it():
    metrics = judge(rows_of(("a", 47, 1.0)), crashes_of(("a", 50))).metrics
    assert (metrics.alarms_true, metrics.alarms_false) == (1, 0)
    assert metrics.crashes == 0  # it could still have been caught in the next period


SCORES = [0.0, 0.25, 0.5, 0.75, 1.0]
for_all = settings(deadline=None, max_examples=50)
durations = st.tuples(st.integers(0, 3), st.integers(1, 4))
some_rows = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.integers(0, 30)), st.sampled_from(SCORES), min_size=1, max_size=50
).map(lambda cells: [(server, hour, score) for (server, hour), score in cells.items()])
some_crashes = st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 80).map(lambda half: half / 2)), max_size=8)
thresholds = st.sampled_from(SCORES)


def reference_alarms(rows, threshold, duration):
    raised = []
    for server in sorted({server for server, _, _ in rows}):
        ends = -math.inf
        for hour, score in sorted((hour, score) for name, hour, score in rows if name == server):
            if hour >= ends and score >= threshold:
                raised.append((server, hour))
                ends = hour + duration
    return raised


def reference_outcome(server, opened, crashes, lead, horizon):
    delays = [started - opened for name, started in crashes if name == server]
    if any(lead < delay <= lead + horizon for delay in delays):
        return "true"
    return "late" if any(0 < delay <= lead for delay in delays) else "false"


def reference_false_alarms(rows, crashes, threshold, lead, horizon):
    raised = reference_alarms(rows, threshold, lead + horizon)
    return sum(reference_outcome(*alarm, crashes, lead, horizon) == "false" for alarm in raised)


@for_all
@given(some_rows, some_crashes, thresholds, durations)
def test_judging_agrees_with_reading_row_by_row(rows, crashes, threshold, durations):
    lead, horizon = durations
    metrics, raised, judged = judge(
        rows_of(*rows), crashes_of(*crashes), threshold, lead * HOUR, horizon * HOUR, n_hours=31
    )

    expected = {
        (server, hour): reference_outcome(server, hour, crashes, lead, horizon)
        for server, hour in reference_alarms(rows, threshold, lead + horizon)
    }
    assert (
        dict(zip(zip(raised["server_id"], hours(raised["timestamp"]), strict=True), raised["outcome"], strict=True))
        == expected
    )
    assert metrics.alarms == len(expected) == metrics.alarms_true + metrics.alarms_late + metrics.alarms_false

    expected = {}
    for server, started in crashes:
        if 0 < started - lead <= 31:
            warnings = [
                hour
                for name, hour in reference_alarms(rows, threshold, lead + horizon)
                if name == server and lead < started - hour <= lead + horizon
            ]
            in_sight = any(name == server and lead < started - hour <= lead + horizon for name, hour, _ in rows)
            expected[server, started] = (started - min(warnings) if warnings else None, in_sight)
    found = {
        (server, started): (lead_time and lead_time / HOUR, had_known_row)
        for server, started, lead_time, had_known_row in zip(
            judged["server_id"], hours(judged["started_at"]), judged["lead_time"], judged["had_known_row"], strict=True
        )
    }
    assert found == expected
    assert metrics.crashes == len(expected)
    assert metrics.crashes_caught == judged["caught"].sum() == sum(lead is not None for lead, _ in expected.values())
    assert metrics.crashes_without_known_row == sum(not in_sight for _, in_sight in expected.values())


@for_all
@given(some_rows, some_crashes, thresholds, st.randoms())
def test_the_order_of_rows_and_crashes_does_not_matter(rows, crashes, threshold, random):
    one = judge(rows_of(*rows), crashes_of(*crashes), threshold)
    rows, crashes = list(rows), list(crashes)
    random.shuffle(rows)
    random.shuffle(crashes)
    other = judge(rows_of(*rows), crashes_of(*crashes), threshold)
    assert one.metrics == other.metrics
    assert one.alarms.equals(other.alarms)
    assert one.crashes.equals(other.crashes)


@for_all
@given(some_rows, some_crashes, thresholds, st.integers(1, 20))
def test_servers_may_be_categories_and_taken_some_at_a_time(rows, crashes, threshold, batch_rows):
    rows, crashes = rows_of(*rows), crashes_of(*crashes)
    whole, chosen = judge(rows, crashes, threshold), choose_of(rows, crashes, budget=2)
    categories = rows.with_columns(pl.col("server_id").cast(pl.Categorical))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alarms, "BATCH_ROWS", batch_rows)
        apart = judge(categories, crashes, threshold)
        assert choose_of(categories, crashes, budget=2) == chosen
    assert apart.metrics == whole.metrics
    assert apart.alarms.equals(whole.alarms)
    assert apart.crashes.equals(whole.crashes)


@for_all
@given(some_rows, thresholds, durations)
def test_alarms_of_a_server_keep_their_distance(rows, threshold, durations):
    duration = sum(durations)
    raised = alarms.open_alarms(rows_of(*rows), threshold, duration * HOUR)
    gaps = raised.sort("server_id", "timestamp").select(pl.col("timestamp").diff().over("server_id")).to_series()
    assert all(gap >= duration * HOUR for gap in gaps.drop_nulls())


@for_all
@given(some_rows, durations)
def test_a_lower_threshold_never_opens_fewer_alarms(rows, durations):
    counts = [alarms.open_alarms(rows_of(*rows), threshold, sum(durations) * HOUR).height for threshold in SCORES]
    assert counts == sorted(counts, reverse=True)


@for_all
@given(st.integers(1, 60), durations)
def test_always_on_pays_one_alarm_per_lead_and_horizon(n_hours, durations):
    raised = alarms.open_alarms(rows_of(*always_high("a", n_hours)), 0.5, sum(durations) * HOUR)
    assert raised.height == math.ceil(n_hours / sum(durations))


@for_all
@given(some_rows, some_crashes.filter(len), thresholds, durations, st.data())
def test_without_its_rows_a_crash_counts_as_missed(rows, crashes, threshold, durations, data):
    lead, horizon = durations
    server, started = data.draw(st.sampled_from(sorted(crashes)))
    kept = [row for row in rows if not (row[0] == server and lead < started - row[1] <= lead + horizon)]
    before = judge(rows_of(*rows), crashes_of(*crashes), threshold, lead * HOUR, horizon * HOUR)
    after = judge(rows_of(*kept), crashes_of(*crashes), threshold, lead * HOUR, horizon * HOUR)
    assert after.metrics.crashes == before.metrics.crashes
    itself = after.crashes.join(crashes_of((server, started)), on=["server_id", "started_at"])
    assert itself.height == (started > lead)  # else it belongs to the period before
    assert not itself["caught"].any()
    assert not itself["had_known_row"].any()


def test_an_alarm_opened_too_early_hides_the_rows_inside_it():
    # the price of the rule: rows at 1 to 6 would have caught the crash at 7.5, but the alarm of 0 is still open
    crash = crashes_of(("a", 7.5))
    assert judge(rows_of(*always_high("a", 7)), crash).metrics.event_recall == 0
    assert judge(rows_of(*always_high("a", 6, start=1)), crash).metrics.event_recall == 1


def choose_of(rows, crashes, budget, lead=1, horizon=6):
    return alarms.choose_threshold(rows, crashes, budget, alarms.AlarmWindow(lead * HOUR, horizon * HOUR, HOUR))


def choose(rows, crashes, *arguments, **named):
    return choose_of(rows_of(*rows), crashes_of(*crashes), *arguments, **named)


def test_the_lowest_threshold_within_the_budget_by_hand():
    quiet = [("b", hour, 0.0) for hour in range(20)]
    rows = [("a", 0, 0.9), ("a", 10, 0.8), ("a", 20, 0.6), ("a", 30, 0.2), *quiet]  # one server-day
    crashes = [("a", 12)]  # the alarm at 10 is true
    assert choose(rows, crashes, 1) == (pytest.approx((0.8 + 0.6) / 2), 1)
    assert choose(rows, crashes, 2.9) == (pytest.approx((0.6 + 0.2) / 2), 2)
    assert choose(rows, crashes, 10) == (0, 6)  # within the budget at every threshold: b pays 0, 7 and 14


def test_nothing_is_alarmed_where_the_top_score_exceeds_the_budget():
    rows = [("a", 0, 0.9), ("b", 0, 0.9), *[("c", hour, 0.1) for hour in range(22)]]
    threshold, rate = choose(rows, [], 1)
    assert threshold == np.nextafter(0.9, 1)
    assert rate == 0
    assert alarms.open_alarms(rows_of(*rows), threshold, HOUR).is_empty()


def test_neighbouring_scores_are_told_apart():
    high, low = np.nextafter(0.5, 1), 0.5
    rows = [("a", 0, high), ("b", 0, low), *[("c", hour, 0.1) for hour in range(22)]]
    assert choose(rows, [], 1) == (high, 1)


def test_a_threshold_that_fits_again_further_down_is_not_taken():
    # at 0.7 alarms open at 10 and 20, false; at 0.6 one opens at 4, true, and hides the one at 10
    rows = [("a", 20, 0.9), ("a", 10, 0.7), ("a", 4, 0.6), *[("b", hour, 0.1) for hour in range(21)]]
    crashes = [("a", 9)]
    counts = [reference_false_alarms(rows, crashes, threshold, 1, 6) for threshold in (0.9, 0.7, 0.6)]
    assert counts == [1, 2, 1]
    assert choose(rows, crashes, 1) == (pytest.approx(0.8), 1)


def test_no_rows_choose_no_threshold():
    with pytest.raises(ValueError, match="no known rows"):
        choose([], [], budget=1)


@pytest.mark.parametrize("first_rows", [1, 3, 10_000])
def test_the_threshold_agrees_with_trying_every_score(monkeypatch, first_rows):
    monkeypatch.setattr(alarms, "FIRST_ROWS", first_rows)

    @for_all
    @given(some_rows, some_crashes, durations, st.sampled_from([0.5, 1, 2, 3, 5]))
    def agrees(rows, crashes, durations, allowed):
        server_days = len(rows) / 24
        budget = allowed / server_days
        scores = sorted({score for *_, score in rows}, reverse=True)
        fitting, beyond, rate = None, None, 0
        for score in scores:
            attempt = reference_false_alarms(rows, crashes, score, *durations) / server_days
            if attempt > budget:
                beyond = score
                break
            fitting, rate = score, attempt

        chosen = choose(rows, crashes, budget, *durations)
        assert chosen.false_alarms_per_server_day == rate
        if fitting is None:
            assert chosen.threshold == np.nextafter(scores[0], np.inf)
        else:
            assert chosen.threshold == (fitting if beyond is None else (fitting + beyond) / 2)

    agrees()


def test_many_rows_are_searched_as_if_one_by_one(monkeypatch):
    # long chains of alarms, where a row that is added shifts all after it
    rng = np.random.default_rng(5)
    rows = [(server, hour, float(score)) for server in "ab" for hour, score in enumerate(rng.random(300).round(3))]
    crashes = [("a", 40.5), ("b", 100), ("b", 250)]
    scores = sorted({score for *_, score in rows}, reverse=True)
    for budget in (0.2, 0.9, 1.7):
        monkeypatch.setattr(alarms, "FIRST_ROWS", 8)
        chosen = choose(rows, crashes, budget, lead=1, horizon=6)
        rates = [reference_false_alarms(rows, crashes, score, 1, 6) / 25 for score in scores]
        first_beyond = next(i for i, rate in enumerate(rates) if rate > budget)
        assert chosen.threshold == pytest.approx((scores[first_beyond - 1] + scores[first_beyond]) / 2)
        assert chosen.false_alarms_per_server_day == rates[first_beyond - 1]
