"""Asking about the right windows saves answers, and wrong labels are found: what the benchmark claims, in small."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from crashcast.annotation.suspects import suspects
from crashcast.annotation.windows import Windows

pytestmark = pytest.mark.ci

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEED = 11  # one that the benchmark was developed on


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("active_learning")


@pytest.fixture(scope="module")
def both(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Windows, Windows]:
    """Return the server-days of a small fleet by what happened, and by what tickets say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fleet"))
        by_truth = benchmark.true_windows(SEED, servers=60, months=3)
        tickets = Path("data/raw/incidents.parquet")
        return by_truth, benchmark.read(Path("data/clean"), tickets, benchmark.COVERAGE_PATH, benchmark.DAY)


@pytest.fixture(scope="module")
def windows(both: tuple[Windows, Windows]) -> Windows:
    return both[0]


def test_the_first_suspects_are_wrong_tickets(both: tuple[Windows, Windows]) -> None:
    by_truth, by_tickets = both
    wrong = by_tickets.frame.filter(pl.Series(by_truth.crash != by_tickets.crash))
    first = suspects(by_tickets, SEED).head(wrong.height)
    found = first.join(wrong, on=["server_id", "started_at"], how="semi").height
    assert wrong.height >= 5
    assert found >= 0.6 * wrong.height


def test_chosen_windows_need_half_the_answers_of_a_lot(benchmark: ModuleType, windows: Windows) -> None:
    found = benchmark.active_learning(windows, SEED, pool_size=1000)
    assert found["ratio"] <= 0.5
    by_lot, chosen = (found["curves"][name][2] for name in ("by lot", "selected"))
    assert by_lot["annotations"] == chosen["annotations"] == 150
    assert chosen["crashes"] > 2 * by_lot["crashes"]


def test_half_of_the_flipped_labels_are_in_the_most_doubted_fifth(benchmark: ModuleType, windows: Windows) -> None:
    found = benchmark.flips(windows, SEED)
    assert min(found.values()) >= 0.5


def test_recall_must_stay_at_the_target(benchmark: ModuleType) -> None:
    points = [{"annotations": 50 * k, "recall": value} for k, value in enumerate((0.2, 0.9, 0.5, 0.8, 0.9), start=1)]
    assert benchmark.annotations_needed(points, 0.8) == 200  # not 100: it fell again
    assert benchmark.annotations_needed(points, 0.95) == benchmark.BUDGET
