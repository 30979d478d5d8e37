from __future__ import annotations

import pytest

from crashcast.review.comparison import Difference
from crashcast.review.policy import Both, Limit, Loss, Reason
from crashcast.review.report.reasons import in_words


def difference(title, unit, champion, challenger, better="higher", error=0.02):
    return Difference("", title, unit, better, champion, challenger, challenger - champion, error, 100)


RECALL, LEAD = ("Event recall at the alarm budget", "share"), ("Mean lead of caught crashes", "h")


@pytest.mark.parametrize(
    ("figure", "margin", "expected"),
    [
        (
            difference(*RECALL, 0.5, 0.455),
            0.05,
            "Event recall at the alarm budget 50.0% with the champion, 45.5% with the challenger: "
            "a loss of 4.5 points, more than chance explains; up to 5.0 points is tolerated",
        ),
        (
            difference(*LEAD, 4.0, 3.75, error=0.2),
            0.5,
            "Mean lead of caught crashes 4 h with the champion, 3.75 h with the challenger: "
            "a loss of 0.25 h, chance may explain it; up to 0.5 h is tolerated",
        ),
        (
            difference("Brier score", "", 0.004, 0.005, "lower", error=0.0001),
            0.0002,
            "Brier score 0.004 with the champion, 0.005 with the challenger: "
            "a loss of 0.001, more than chance explains; up to 0.0002 is tolerated",
        ),
        (
            difference("Brier score", "", 0.005, 0.004, "lower"),
            0.0002,
            "Brier score 0.005 with the champion, 0.004 with the challenger: no loss",
        ),
        (
            Difference("", *LEAD, "higher", 4.0, None, None),
            0.5,
            "Mean lead of caught crashes could not be measured for both models",
        ),
    ],
)
def test_a_loss_is_told_in_its_unit(figure, margin, expected):
    assert in_words(Reason("guardrail", "pass", Loss(figure, margin))) == expected


def test_a_slice_names_itself_and_its_crashes_if_they_are_too_few():
    figure = difference(*RECALL, 0.5, 0.75)
    assert in_words(Reason("slice", "pass", Loss(figure, 0.1, "fresh_crashes", 50))) == (
        "fresh crashes: Event recall at the alarm budget 50.0% with the champion, 75.0% with the challenger: no loss"
    )
    few = Reason("slice", "shown", Loss(figure, 0.1, "fresh_crashes", 3), "the base's rules")
    assert in_words(few) == "fresh crashes: 3 crashes (the base's rules); shown, not judged"


def test_a_limit_names_its_unit():
    assert in_words(Reason("size", "fail", Limit(Both(1, 60.25), 50))) == "size 1 before, 60.2 now; 50 MB is the limit"
    assert in_words(Reason("latency", "open", Limit(None, 50))) == "the models' latency was not measured"
