from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crashcast.modeling import alarms

HOUR = timedelta(hours=1)
START = datetime(2025, 3, 3)
UTC = pl.Datetime("us", "UTC")
LEAD, HORIZON = 1 * HOUR, 6 * HOUR
WINDOW = alarms.AlarmWindow(LEAD, HORIZON, HOUR)


KNOWN, UNKNOWN, FILLED = "known", "unknown", "filled"  # observed but for the last; the label is unknown of the second


def table(time, rows):
    """Rows of (server, hour, ...) as a frame; hours count from START."""
    moments = pl.Series([START + row[1] * HOUR for row in rows], dtype=pl.Datetime("us"))
    return pl.DataFrame(
        {"server_id": pl.Series([row[0] for row in rows], dtype=pl.String), time: moments.dt.replace_time_zone("UTC")}
    )


def rows_of(*rows):
    """Rows of (server, hour, score) or (server, hour, score, kind)."""
    kinds = [row[3] if len(row) > 3 else KNOWN for row in rows]
    return table("timestamp", rows).with_columns(
        label=pl.Series([None if kind == UNKNOWN else 0 for kind in kinds], dtype=pl.Int8),
        observed=pl.Series([kind != FILLED for kind in kinds], dtype=pl.Boolean),
        score=pl.Series([row[2] for row in rows], dtype=pl.Float64),
    )


def crashes_of(*crashes):
    return table("started_at", crashes)


def opened_at(hour, is_known=True):
    """An alarm of server a."""
    return table("timestamp", [("a", hour)]).with_columns(is_known=pl.lit(is_known))


def hours(series):
    return [None if moment is None else (moment.replace(tzinfo=None) - START) / HOUR for moment in series]


def always_high(server, n_hours, start=0):
    return [(server, hour, 1.0) for hour in range(start, start + n_hours)]


def judge(rows, crashes, threshold=0.5, lead=LEAD, horizon=HORIZON, *, n_hours=48):
    period = (START, START + n_hours * HOUR)
    return alarms.judge(rows, crashes, threshold, alarms.AlarmWindow(lead, horizon, HOUR), period)


def test_an_alarm_opens_again_after_the_horizon_if_still_high():
    rows = rows_of(("b", 0, 0.5), ("b", 1, 0.6), ("b", 7, 0.4), *always_high("a", 15))
    raised = alarms.open_alarms(rows, 0.5, WINDOW)
    opened = list(zip(raised["server_id"], hours(raised["timestamp"]), strict=True))
    assert opened == [("a", 0), ("b", 0), ("a", 6), ("a", 12)]


def test_after_the_horizon_the_first_high_row_opens_the_next():
    high = rows_of(("a", 0, 0.9), ("a", 5, 0.9), ("a", 8, 0.1), ("a", 9, 0.9), ("a", 20, 0.9))
    assert hours(alarms.open_alarms(high, 0.5, WINDOW)["timestamp"]) == [0, 9, 20]


def test_an_alarm_that_renews_one_is_no_page():
    # the alarm of 0 stands until 7, that of 7 until 14
    high = rows_of(("a", 0, 0.9), ("a", 7, 0.9), ("a", 14.5, 0.9), ("b", 1, 0.9))
    raised = alarms.open_alarms(high, 0.5, WINDOW)
    assert list(zip(hours(raised["timestamp"]), raised["is_page"], strict=True)) == [
        (0, True), (1, True), (7, False), (14.5, True)
    ]  # fmt: skip


def test_no_crash_falls_between_an_alarm_and_its_renewal():
    for crash in (7, 7.5, 8, 13):
        metrics = judge(rows_of(*always_high("a", 8)), crashes_of(("a", crash))).metrics
        assert (metrics.crashes_caught, metrics.alarms) == (1, 2), crash


def test_an_alarm_opens_on_an_observed_row_whatever_its_label():
    high = rows_of(("a", 0, 0.9, FILLED), ("a", 1, 0.9, UNKNOWN), ("a", 2, 0.9), ("a", 8, 0.9))
    raised = alarms.open_alarms(high, 0.5, WINDOW)
    assert list(zip(hours(raised["timestamp"]), raised["is_known"], strict=True)) == [(1, False), (8, True)]


def test_nothing_high_opens_nothing():
    assert alarms.open_alarms(rows_of(("a", 0, 0.1)), 0.5, WINDOW).is_empty()
    assert alarms.open_alarms(rows_of(), 0.5, WINDOW).is_empty()


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_scores_that_are_no_numbers_are_refused(score):
    with pytest.raises(ValueError, match="finite"):
        alarms.open_alarms(rows_of(("a", 0, 0.1), ("a", 1, score)), 0.5, WINDOW)


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
    judged = alarms.judge_alarms(opened_at(10), crashes_of(("a", crash), ("b", 12)), WINDOW)
    assert judged["outcome"].to_list() == [outcome]
    assert hours(judged["started_at"]) == [started]


@pytest.mark.parametrize(
    ("crashes", "outcome"),
    [([], "unknown"), ([14], "unknown"), ([10.5], "late"), ([10.5, 14], "unknown"), ([18], "unknown")],
)
def test_if_the_label_is_unknown_a_crash_tells_only_that_it_came_too_soon(crashes, outcome):
    # counted only if a crash is recorded, such alarms would all be right
    judged = alarms.judge_alarms(opened_at(10, is_known=False), crashes_of(*[("a", hour) for hour in crashes]), WINDOW)
    assert judged["outcome"].to_list() == [outcome]
    assert hours(judged["started_at"]) == ([10.5] if outcome == "late" else [None])


def test_a_crash_in_time_counts_before_one_too_soon():
    judged = alarms.judge_alarms(opened_at(10), crashes_of(("a", 10.5), ("a", 14), ("a", 16)), WINDOW)
    assert judged["outcome"].to_list() == ["true"]
    assert hours(judged["started_at"]) == [14]


def test_the_first_crash_in_time_counts_whatever_their_order():
    judged = alarms.judge_alarms(opened_at(10), crashes_of(("a", 16), ("a", 30), ("a", 14)), WINDOW)
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
    assert crashes.select("server_id", "caught", "had_observed_row").rows() == [
        ("a", True, True),
        ("b", False, True),  # its row was low
        ("c", False, False),
        ("a", True, True),
        ("a", True, True),  # the same alarm is true for both
        ("a", False, False),
    ]
    assert [lead and lead / HOUR for lead in crashes["lead_time"]] == [6.5, None, None, 4, 5, None]
    assert (metrics.crashes, metrics.crashes_caught, metrics.crashes_missed) == (6, 3, 3)
    assert metrics.crashes_without_observed_row == 2
    assert metrics.event_recall == 3 / 6
    assert metrics.median_lead_h == 5


def test_lead_time_counts_from_the_first_alarm_that_speaks_of_the_crash():
    # those of 4 and 6 do
    lead, horizon = timedelta(0), 4 * HOUR
    raised, crashes = rows_of(("a", 0, 1.0), ("a", 4, 1.0), ("a", 6, 1.0)), crashes_of(("a", 7.5))
    caught = alarms.catch(crashes, raised, raised, alarms.AlarmWindow(lead, horizon, HOUR))
    assert caught["lead_time"].to_list() == [3.5 * HOUR]


def test_the_figures_by_hand():
    high = [(server, hour, score, UNKNOWN if hour >= 18 else KNOWN) for server, hour, score in always_high("a", 24)]
    rows = rows_of(*high, *[("b", hour, 0.0) for hour in range(24)])
    metrics = judge(rows, crashes_of(("a", 5), ("b", 5)), n_hours=24).metrics
    assert metrics.as_dict() == {
        "threshold": 0.5,
        "server_days": 1.75,
        "crashes": 2,
        "crashes_caught": 1,
        "crashes_missed": 1,
        "crashes_without_observed_row": 0,
        "alarms": 4,  # at 0, 6, 12 and 18, the last three renewals
        "alarms_true": 1,
        "alarms_late": 0,
        "alarms_false": 2,
        "alarms_unknown": 1,
        "pages": 1,
        "event_recall": 1 / 2,
        "alarm_precision": 1 / 3,
        "false_alarms_per_server_day": 2 / 1.75,
        "pages_per_day": 1.0,
        "median_lead_h": 5.0,
    }


def test_alarms_on_mitigated_rows_are_counted_if_their_outcome_is_unknown():
    high = [("a", 0, 1.0, UNKNOWN), ("b", 0, 1.0, UNKNOWN), ("c", 0, 1.0, UNKNOWN), ("d", 0, 1.0), ("d", 20, 1.0)]
    raised = judge(rows_of(*high), crashes_of(("c", 0.5))).alarms
    mitigated = rows_of(*[(server, 0, 0.0) for server in "acd"], ("b", 5, 0.0))
    # b's was opened on another row, c's came too late for a crash, and d's is known
    assert alarms.on_mitigated(raised, mitigated.cast({"server_id": pl.String})) == 1


def test_a_crash_is_caught_by_an_alarm_whose_own_outcome_is_unknown():
    metrics = judge(rows_of(("a", 4, 1.0, UNKNOWN)), crashes_of(("a", 8))).metrics
    assert (metrics.crashes_caught, metrics.alarms_true, metrics.alarms_unknown) == (1, 0, 1)
    assert metrics.alarm_precision is None


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
    st.tuples(st.sampled_from("ab"), st.integers(0, 30)),
    st.tuples(st.sampled_from(SCORES), st.sampled_from([KNOWN, KNOWN, UNKNOWN, FILLED])),
    min_size=1,
    max_size=50,
).map(lambda cells: [(server, hour, *cell) for (server, hour), cell in cells.items()])
some_crashes = st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 80).map(lambda half: half / 2)), max_size=8)
thresholds = st.sampled_from(SCORES)


def reference_alarms(rows, threshold, horizon):
    """Return (server, hour, kind) of each alarm."""
    raised = []
    for server in sorted({row[0] for row in rows}):
        reopens = -math.inf
        for _, hour, score, *kind in sorted(row for row in rows if row[0] == server):
            if hour >= reopens and score >= threshold and kind != [FILLED]:
                raised.append((server, hour, *(kind or [KNOWN])))
                reopens = hour + horizon
    return raised


def reference_outcome(server, opened, kind, crashes, lead, horizon):
    delays = [started - opened for name, started in crashes if name == server]
    is_in_window = any(lead < delay <= lead + horizon for delay in delays)
    if not is_in_window and any(0 < delay <= lead for delay in delays):
        return "late"
    return "unknown" if kind == UNKNOWN else "true" if is_in_window else "false"


def reference_false_alarms(rows, crashes, threshold, lead, horizon):
    raised = reference_alarms(rows, threshold, horizon)
    return sum(reference_outcome(*alarm, crashes, lead, horizon) == "false" for alarm in raised)


@for_all
@given(some_rows, some_crashes, thresholds, durations)
def test_judging_agrees_with_reading_row_by_row(rows, crashes, threshold, durations):
    lead, horizon = durations
    metrics, raised, judged = judge(
        rows_of(*rows), crashes_of(*crashes), threshold, lead * HOUR, horizon * HOUR, n_hours=31
    )

    opened = reference_alarms(rows, threshold, horizon)
    expected = {alarm[:2]: reference_outcome(*alarm, crashes, lead, horizon) for alarm in opened}
    assert (
        dict(zip(zip(raised["server_id"], hours(raised["timestamp"]), strict=True), raised["outcome"], strict=True))
        == expected
    )
    by_outcome = (metrics.alarms_true, metrics.alarms_late, metrics.alarms_false, metrics.alarms_unknown)
    assert metrics.alarms == len(expected) == sum(by_outcome)
    assert metrics.pages == sum(
        not any(name == server and 0 < hour - before <= lead + horizon for name, before, _ in opened)
        for server, hour, _ in opened
    )

    expected = {}
    for server, started in crashes:
        if 0 < started - lead <= 31:
            warnings = [hour for name, hour, _ in opened if name == server and lead < started - hour <= lead + horizon]
            in_sight = any(
                name == server and lead < started - hour <= lead + horizon and kind != FILLED
                for name, hour, _, kind in rows
            )
            expected[server, started] = (started - min(warnings) if warnings else None, in_sight)
    found = {
        (server, started): (lead_time and lead_time / HOUR, had_observed_row)
        for server, started, lead_time, had_observed_row in zip(
            judged["server_id"],
            hours(judged["started_at"]),
            judged["lead_time"],
            judged["had_observed_row"],
            strict=True,
        )
    }
    assert found == expected
    assert metrics.crashes == len(expected)
    assert metrics.crashes_caught == judged["caught"].sum() == sum(lead is not None for lead, _ in expected.values())
    assert metrics.crashes_without_observed_row == sum(not in_sight for _, in_sight in expected.values())


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
    whole, chosen = judge(rows, crashes, threshold), choose_or_refuse(rows, crashes)
    categories = rows.with_columns(pl.col("server_id").cast(pl.Categorical))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alarms, "BATCH_ROWS", batch_rows)
        apart = judge(categories, crashes, threshold)
        assert choose_or_refuse(categories, crashes) == chosen
    assert apart.metrics == whole.metrics
    assert apart.alarms.equals(whole.alarms)
    assert apart.crashes.equals(whole.crashes)


@for_all
@given(some_rows, thresholds, durations)
def test_alarms_of_a_server_keep_their_distance(rows, threshold, durations):
    window = window_of(*durations)
    raised = alarms.open_alarms(rows_of(*rows), threshold, window)
    gaps = raised.sort("server_id", "timestamp").select(pl.col("timestamp").diff().over("server_id")).to_series()
    assert all(gap >= window.horizon for gap in gaps.drop_nulls())


@for_all
@given(some_rows, durations)
def test_a_lower_threshold_never_opens_fewer_alarms(rows, durations):
    window = window_of(*durations)
    counts = [alarms.open_alarms(rows_of(*rows), threshold, window).height for threshold in SCORES]
    assert counts == sorted(counts, reverse=True)


@for_all
@given(st.integers(1, 60), durations)
def test_always_on_pays_one_alarm_per_horizon_and_one_page(n_hours, durations):
    raised = alarms.open_alarms(rows_of(*always_high("a", n_hours)), 0.5, window_of(*durations))
    assert raised.height == math.ceil(n_hours / durations[1])
    assert raised["is_page"].sum() == 1


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
    assert not itself["had_observed_row"].any()


def test_an_alarm_opened_too_early_hides_the_rows_within_its_horizon():
    # the price of the rule: rows at 1 to 5 would have caught the crash at 7.5, but the alarm of 0 came first
    crash = crashes_of(("a", 7.5))
    assert judge(rows_of(*always_high("a", 6)), crash).metrics.event_recall == 0
    assert judge(rows_of(*always_high("a", 5, start=1)), crash).metrics.event_recall == 1


def window_of(lead, horizon):
    return alarms.AlarmWindow(lead * HOUR, horizon * HOUR, HOUR)


def choose_of(rows, crashes, budget, lead=1, horizon=6):
    return alarms.choose_threshold(rows, crashes, budget, window_of(lead, horizon))


def choose_or_refuse(rows, crashes):
    try:
        return choose_of(rows, crashes, budget=2)
    except ValueError as error:
        return str(error)


def choose(rows, crashes, *arguments, **named):
    return choose_of(rows_of(*rows), crashes_of(*crashes), *arguments, **named)


def test_the_lowest_threshold_within_the_budget_by_hand():
    quiet = [("b", hour, 0.0) for hour in range(20)]
    rows = [("a", 0, 0.9), ("a", 10, 0.8), ("a", 20, 0.6), ("a", 30, 0.2), *quiet]  # one server-day
    crashes = [("a", 12)]  # the alarm at 10 is true
    assert choose(rows, crashes, 1) == (pytest.approx((0.8 + 0.6) / 2), 1)
    assert choose(rows, crashes, 2.9) == (pytest.approx((0.6 + 0.2) / 2), 2)
    assert choose(rows, crashes, 10) == (0, 7)  # within the budget at every threshold: b pays 0, 6, 12 and 18


def test_the_budget_is_that_of_rows_of_known_label_and_observed_rows_spend_it():
    quiet = [("b", hour, 0.0) for hour in range(20)]
    rows = [("a", 0, 0.9, FILLED), ("a", 10, 0.8, UNKNOWN), ("a", 20, 0.6), ("a", 30, 0.2), ("c", 0, 0.1), *quiet]
    # 24 rows of known label; those of 0.9 and 0.8 raise no false alarm
    assert choose(rows, [], 1) == (pytest.approx((0.6 + 0.2) / 2), 1)


def test_nothing_is_alarmed_where_the_top_score_exceeds_the_budget():
    rows = [("a", 0, 0.9), ("b", 0, 0.9), *[("c", hour, 0.1) for hour in range(22)]]
    threshold, rate = choose(rows, [], 1)
    assert threshold == np.nextafter(0.9, 1)
    assert rate == 0
    assert alarms.open_alarms(rows_of(*rows), threshold, WINDOW).is_empty()


def test_neighbouring_scores_are_told_apart():
    high, low = np.nextafter(0.5, 1), 0.5
    rows = [("a", 0, high), ("b", 0, low), *[("c", hour, 0.1) for hour in range(22)]]
    assert choose(rows, [], 1) == (high, 1)


def test_a_threshold_that_fits_again_further_down_is_not_taken():
    # at 0.7 alarms open at 10 and 20, false; at 0.6 one opens at 5, true, and hides the one at 10
    rows = [("a", 20, 0.9), ("a", 10, 0.7), ("a", 5, 0.6), *[("b", hour, 0.1) for hour in range(21)]]
    crashes = [("a", 9)]
    counts = [reference_false_alarms(rows, crashes, threshold, 1, 6) for threshold in (0.9, 0.7, 0.6)]
    assert counts == [1, 2, 1]
    assert choose(rows, crashes, 1) == (pytest.approx(0.8), 1)


@pytest.mark.parametrize("rows", [[], [("a", 0, 0.5, UNKNOWN)], [("a", 0, 0.5, FILLED)]])
def test_no_rows_choose_no_threshold(rows):
    with pytest.raises(ValueError, match="no rows to choose"):
        choose(rows, [], budget=1)


@pytest.mark.parametrize("first_rows", [1, 3, 10_000])
def test_the_threshold_agrees_with_trying_every_score(monkeypatch, first_rows):
    monkeypatch.setattr(alarms, "FIRST_ROWS", first_rows)

    @for_all
    @given(some_rows, some_crashes, durations, st.sampled_from([0.5, 1, 2, 3, 5]))
    def agrees(rows, crashes, durations, allowed):
        server_days = sum(kind != UNKNOWN for *_, kind in rows) / 24
        scores = sorted({score for *_, score, kind in rows if kind != FILLED}, reverse=True)
        assume(server_days and scores)
        budget = allowed / server_days
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
