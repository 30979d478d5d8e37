"""What the record of runs says of each part of the pipeline."""

from __future__ import annotations

from typing import Any

import pytest

from crashcast.planning.records import COMPARE, FIT, measurements


def run(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "exit_status": 0, "cpu_s": 8.0, "duration_s": 5.0, "peak_memory_bytes": 10, **more}


def table(name: str, rows: int, total: int, remembered: int, **more: Any) -> dict[str, Any]:
    parts = {name: {"total": total, "remembered": remembered}}
    return run(name, rows=rows, partitions=parts, workers=1, **more)


STEPS = {
    "fit": {"rows": 70, "cpu_s": 4.0, "duration_s": 3.0, "peak_memory_bytes": 9},
    "compare": {"rows": 30, "cpu_s": 2.0, "duration_s": 1.0, "peak_memory_bytes": 8},
}


def test_remembered_partitions_are_no_work() -> None:
    (one,) = measurements([table("clean", rows=800, total=8, remembered=6)])
    assert (one.rows, one.computed, one.partitions) == (800, 200, 8)


def test_a_stage_without_a_table_has_the_rows_of_the_last_labels() -> None:
    runs = [table("label", 800, 8, 0), run("train", steps=STEPS), table("label", 900, 9, 8), run("evaluate")]
    _, fit, compare, train, _, evaluate = measurements(runs)
    assert (fit.part, fit.rows, fit.cpu_s, fit.peak_bytes) == (FIT, 70, 4.0, 9)
    assert (compare.part, compare.rows, compare.cpu_s, compare.peak_bytes) == (COMPARE, 30, 2.0, 8)
    assert (train.part, train.rows, train.cpu_s, train.wall_s) == ("train", 800, 2.0, 1.0)
    assert (evaluate.rows, evaluate.partitions) == (900, 9)


def test_a_run_that_recalled_a_part_of_its_work_is_no_measure_of_it() -> None:
    label = table("label", 800, 8, 0)
    counted, recalled = {"total": 8, "remembered": 8}, {"total": 2, "remembered": 1}
    whole = run("evaluate", workers=2, partitions={"count": counted, "evaluate": {"total": 2, "remembered": 0}})
    _, evaluate = measurements([label, whole])
    assert (evaluate.part, evaluate.workers) == ("evaluate", 1)  # both worked only while rows were scored
    assert len([*measurements([label, run("evaluate", partitions={"count": counted, "evaluate": recalled})])]) == 1
    assert len([*measurements([label, run("train", steps=STEPS, partitions={"sample": recalled})])]) == 1


@pytest.mark.parametrize(
    "runs",
    [
        [run("evaluate")],  # of an unknown number of rows
        [table("clean", 800, 8, 0, exit_status=2)],
        [{**table("clean", 800, 8, 0), "workers": None}],  # on a cluster
        [run("collect")],
        # by older versions
        [run("clean", rows=800, partitions={"clean": {"total": 8, "remembered": 0}})],
        [run("train", steps={"fit": STEPS["fit"]})],
    ],
)
def test_what_cannot_be_compared_is_left_out(runs: list[dict[str, Any]]) -> None:
    assert [*measurements(runs)] == []


def test_a_failed_run_gives_no_rows_to_those_after_it() -> None:
    assert [*measurements([table("label", 800, 8, 0, exit_status=1), run("evaluate")])] == []
