"""The tasks of a part of the split: one for each partition that has rows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crashcast.execution.task import File, Task
from crashcast.modeling.split_rule import Rule, partitions_of, period


def part_tasks(features: Path, labels: Path, rule: Rule, part: str, **inputs: Any) -> list[Task]:
    """Return a task for each partition that the period of a part touches, in order of time.

    Parameters
    ----------
    features, labels : Path
        The tables; a task is handed its files of them.
    rule, part
        See `read_pieces`; a task is handed the rule.
    **inputs
        What else every task is handed.
    """
    return [
        Task(
            partition,
            {
                "features": File(partition.path(features)),
                "labels": File(partition.path(labels)),
                "rule": rule,
                **inputs,
            },
        )
        for partition in partitions_of(labels, period(rule, part))
    ]
