"""Great Expectations, a batch at a time, and the reproducible part of its results.

It copies the whole frame for each expectation, so a batch holds only the columns that its expectations are about.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from typing import Any

import polars as pl
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity
from great_expectations.validator.validator import Validator
from rich import box
from rich.console import Console
from rich.table import Table

Outcome = dict[str, Any]
CRITICAL, WARNING = FailureSeverity.CRITICAL, FailureSeverity.WARNING
EXAMPLES = 3
WITH_EXAMPLES = {"result_format": "BASIC", "include_unexpected_rows": True, "partial_unexpected_count": EXAMPLES}
CELLS_AT_ONCE = 4_000_000  # values in a batch
SHOWN_FAILURES = 8  # what fits a screen
WIDE = (120, 24)  # columns and lines, without a terminal


@dataclass(frozen=True)
class Batch:
    """Rows and what is expected of them.

    Attributes
    ----------
    table, partition, topic : str
        Name it; partition is empty for a table of one file.
    rows : DataFrame
        The columns that the expectations are about.
    keys : DataFrame
        As long as `rows`: they identify a row in examples.
    expectations : list of Expectation
        With distinct descriptions; `meta` names the figure that an expectation's failing rows add to.
    """

    table: str
    partition: str
    topic: str
    rows: pl.DataFrame
    keys: pl.DataFrame
    expectations: list[Expectation]

    @property
    def name(self) -> str:
        """Table, partition and topic."""
        return " ".join(filter(None, (self.table, self.partition, self.topic)))


def judge(batch: Batch) -> list[Outcome]:
    """Evaluate the expectations of a batch.

    This uses no data context, which would hash every frame and store every result.

    Raises
    ------
    RuntimeError
        If an expectation could not be evaluated: a fault in its definition, never a pass.
    """
    engine = PandasExecutionEngine(batch_data_dict={batch.name: batch.rows.to_pandas()})
    validator = Validator(execution_engine=engine)
    validator.metrics_calculator.show_progress_bars = False
    results = validator.graph_validate(
        [expectation.configuration for expectation in batch.expectations],
        runtime_configuration={"result_format": WITH_EXAMPLES},
    )
    outcomes = outcomes_of(batch, results)
    if batch.rows.height * batch.rows.width >= CELLS_AT_ONCE:
        del engine, validator, results
        gc.collect()  # it leaves frames behind in reference cycles
    return outcomes


def outcomes_of(batch: Batch, results: Iterable[Any]) -> list[Outcome]:
    """Return Great Expectations' results, which come in an order of its own, as plain values in the batch's order."""
    found = {result.expectation_config.description: result for result in results}
    return [_outcome(batch, expectation, found[expectation.description]) for expectation in batch.expectations]


def _outcome(batch: Batch, expectation: Expectation, result: Any) -> Outcome:
    if result.exception_info.get("raised_exception"):
        raise RuntimeError(f"{batch.table}: {expectation.description}: {result.exception_info['exception_message']}")
    outcome = {
        "table": batch.table,
        "partition": batch.partition,
        "expectation": expectation.expectation_type,
        "description": expectation.description,
        "severity": expectation.severity.value,
        "success": bool(result.success),
        "rows": batch.rows.height,
        "failing": int(result.result.get("unexpected_count", not result.success)),
        "examples": _examples(batch, expectation, result),
    }
    return outcome | (expectation.meta or {})


def _examples(batch: Batch, expectation: Expectation, result: Any) -> list[str]:
    """Name failing rows by their keys, with the values that are wrong."""
    found = result.result
    if "mismatched" in found.get("details", {}):
        mismatched = found["details"]["mismatched"]
        return [f"{kind}: {name}" for kind in ("missing", "unexpected") for name in sorted(mismatched.get(kind, []))]
    if "unexpected_rows" not in found:
        return [] if result.success else [f"found {found['observed_value']}"]
    about = [getattr(expectation, name) for name in ("column", "column_B", "column_A") if hasattr(expectation, name)]
    shown = [name for name in about if name not in batch.keys.columns and batch.rows[name].dtype != pl.Boolean]
    indices = list(found["unexpected_rows"].index)[:EXAMPLES]
    examples = [
        " ".join([*map(_text, key), *(f"{name}={_text(row[name])}" for name in shown)])
        for key, row in zip(batch.keys[indices].rows(), batch.rows[indices].rows(named=True), strict=True)
    ]
    return list(dict.fromkeys(examples))


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, float):
        return f"{value:g}"
    return "missing" if value is None else str(value)


def unreadable(table: str, partition: str) -> Outcome:
    """Return the outcome of a file that cannot be opened."""
    return {
        "table": table,
        "partition": partition,
        "expectation": "readable",
        "description": "the file is readable Parquet",
        "severity": CRITICAL.value,
        "success": False,
        "rows": 0,
        "failing": 1,
        "examples": [],
    }


def failures(outcomes: list[Outcome], severity: FailureSeverity) -> list[Outcome]:
    """Return the outcomes of this severity that failed."""
    return [outcome for outcome in outcomes if not outcome["success"] and outcome["severity"] == severity.value]


def render(failed: list[Outcome]) -> str:
    """Draw outcomes as a table that fits a screen, one line per expectation, whatever partitions it failed in."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in failed:
        groups.setdefault((outcome["table"], outcome["description"]), []).append(outcome)
    table = Table("Table", "Expectation", "Partition", "Failing", "For example", box=box.SIMPLE_HEAD)
    for (name, description), outcomes in list(groups.items())[:SHOWN_FAILURES]:
        partitions = [outcome["partition"] for outcome in outcomes]
        where = partitions[0] + (f" and {len(partitions) - 1} more" if len(partitions) > 1 else "")
        failing, rows = (sum(outcome[key] for outcome in outcomes) for key in ("failing", "rows"))
        count = f"{failing:,} of {rows:,}" if rows else str(failing)
        table.add_row(name, description, where, count, "\n".join(outcomes[0]["examples"][:2]))
    drawn = StringIO()
    width = shutil.get_terminal_size(WIDE).columns
    Console(file=drawn, width=width, markup=False, emoji=False).print(table)  # a type or an id may hold [brackets]
    hidden = len(groups) - SHOWN_FAILURES
    lines = "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()).strip("\n")
    return lines + (f"\nand {hidden} more expectations" if hidden > 0 else "")
