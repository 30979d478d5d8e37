"""The record of runs as measurements that a cost model can be fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from crashcast.run_record import Run, is_failed

DATA_STAGES = ("validate", "clean", "label", "featurize")  # which work partition by partition
MODEL_STAGES = ("split", "train", "evaluate")
FIT, COMPARE = "train: fit", "train: compare"
STEPS = {FIT: "fit", COMPARE: "compare"}  # of a stage, which work on other rows than the rest of it
REVIEW, TICK = "review", "tick"
PARTS = (*DATA_STAGES, "split", "train", *STEPS, "evaluate")  # of a run of the pipeline
COUNTING = "count"  # a step that train and evaluate share: the one remembers it for the other
KNOWN = {*DATA_STAGES, *MODEL_STAGES, REVIEW, TICK}


class Measured(NamedTuple):
    """One run of a part of the pipeline.

    Attributes
    ----------
    part : str
        A stage, a step of one, `review` or `tick`. `train` is all of the stage but its steps.
    rows : float
        Rows of its table, or of the fleet's if it has none; of a step those that it works on.
    computed : float
        Those that were computed, not remembered.
    fleet : float
        Rows of the fleet's table.
    partitions : int
        Of that table.
    workers : int
        Processes at work side by side all the time: in train and evaluate others wait for one most of it.
    cpu_s, wall_s, peak_bytes : float
    written_bytes, read_bytes : float or None
        The sizes of all outputs and of all inputs.
    """

    part: str
    rows: float
    computed: float
    fleet: float
    partitions: int
    workers: int
    cpu_s: float
    wall_s: float
    peak_bytes: float
    written_bytes: float | None = None
    read_bytes: float | None = None


def measurements(runs: Iterable[Run]) -> Iterator[Measured]:
    """Yield what can be compared: runs that succeeded, on this machine, of a known number of rows.

    A stage without a table of its own, such as train, has the rows of the last run of `label` before it.
    """
    fleet: tuple[float, int] | None = None  # rows and partitions
    for run in runs:
        if is_failed(run) or run["name"] not in KNOWN or run.get("workers", 1) is None:
            continue
        part, by_step = run["name"], run.get("partitions", {})
        counts = [one for step, one in by_step.items() if step != COUNTING]
        total, remembered = (sum(one[key] for one in counts) for key in ("total", "remembered"))
        if part in DATA_STAGES:
            if not total or "workers" not in run:  # of an older version, which did not count processes
                continue
            rows, partitions = run["rows"], max(one["total"] for one in counts)
            computed = rows * (1 - remembered / total)
            if part == "label":
                fleet = rows, partitions
        elif part == TICK:
            rows, partitions, computed = 0, 0, 0
        elif fleet is None or remembered:
            continue
        else:
            (rows, partitions), computed = fleet, fleet[0]
            run = run | {"workers": 1}  # most of the time
        costs = {key: run[key] for key in ("cpu_s", "duration_s")}
        if part == "train":
            if run.get("steps", {}).keys() != {*STEPS.values()}:
                continue  # of an older version, which did not tell all steps apart
            for name, recorded_as in STEPS.items():
                step = run["steps"][recorded_as]
                costs = {key: cost - step[key] for key, cost in costs.items()}
                yield _measured(name, step["rows"], step["rows"], rows, partitions, step)
        yield _measured(part, rows, computed, rows, partitions, run | costs)


def _measured(part: str, rows: float, computed: float, fleet: float, partitions: int, run: dict[str, Any]) -> Measured:
    return Measured(
        part,
        rows,
        computed,
        fleet,
        partitions,
        run.get("workers", 1),
        run["cpu_s"],
        run["duration_s"],
        run["peak_memory_bytes"],
        run.get("written_bytes"),
        run.get("read_bytes"),
    )
