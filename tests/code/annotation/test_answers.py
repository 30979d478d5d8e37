"""Answers of annotators, and how far they agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import cohen_kappa_score

from crashcast.annotation import answers as people

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2025, 3, 1, tzinfo=UTC)


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


def test_answers_of_deleted_people_count_each_and_once() -> None:
    said = [("crash", 3), ("crash", 5), ("no crash", None)]
    named = answers(*(("a", 0, verdict, hour, f"user {n}", n) for n, (verdict, hour) in enumerate(said)))
    deleted = answers(*(("a", 0, verdict, hour, f"{people.DELETED} 1{n}", n) for n, (verdict, hour) in enumerate(said)))
    found = people.merge(people.read(Path("none")), deleted)
    assert people.consensus(found)["is_crash"].to_list() == [True]  # two of three
    assert people.merge(found, deleted).equals(found)
    # the first of them was not deleted yet in another export
    for merged in (people.merge(named[:1], deleted), people.merge(deleted, named[:1])):
        assert merged["annotator"].to_list() == [f"{people.DELETED} 11", f"{people.DELETED} 12", "user 0"]


def test_agreement_of_deleted_people_is_told_for_all_but_not_for_each_two() -> None:
    rows = [("a", day, "crash", None, f"{people.DELETED} {day}", 1) for day in range(3)]
    rows += [("a", day, "crash", None, "eva", 1) for day in range(3)]
    [line] = people.agreement(answers(*rows))
    assert line.startswith("3 windows have answers of several annotators: all answers are the same")


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
