"""Whether a model's features look ahead: at a moment they must be what data up to that moment gives.

A feature that knows the future makes a model look better than it will ever be on call, and no comparison of figures
shows it. So the judge draws moments of the test period, and the stages of the model's own commit compute the features
again from data that is cut there. Every cell of the rows at that moment must be equal.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.modeling.alarms import INSTANT
from crashcast.params.base import DAY
from crashcast.params.features import Features
from crashcast.params.incidents import Incidents
from crashcast.params.telemetry import Telemetry
from crashcast.review import cut_runs
from crashcast.review.test_set import FEATURES, Period, lay_out
from crashcast.text import some_of
from crashcast.versioning import cache, environment, worktree_runs
from crashcast.versioning.revision import COVERAGE, INCIDENTS, PARAMS, TELEMETRY, Revision
from stages.featurize import lookback

MOMENTS = 20
MARGIN = timedelta(days=31)  # of telemetry, beyond the longest window
COMMAND = ["python", "src/run.py"]  # of a stage, then its name and paths
VALIDATE = "validate"
RAW = (TELEMETRY, INCIDENTS, COVERAGE)


def check(
    revision: Revision, features: str, raw: Mapping[str, str], period: Period, was_accepted: bool = False
) -> None:
    """Refuse a commit whose features at a moment depend on what came later.

    Parameters
    ----------
    revision : Revision
        Whose stages make the features.
    features : str
        The hash of the features that its model scored.
    raw : mapping of str to str
        The hash of each piece of raw data that they were made from.
    period : pair of datetime
        The moments are drawn in it.
    was_accepted : bool
        Whether a commit whose stages are called in another way is only told of: it may be older than this check.

    Raises
    ------
    UserError
        Naming the features that differ, and where; or if they cannot be computed again.
    """
    stages = _stages(revision)
    if stages is None:
        told = f"the stages of commit {revision.name} are called in a way that cannot be run on data cut at a moment"
        if not was_accepted:
            raise UserError(f"{told}: whether its features look ahead is not known")
        print(f"review: {told}: whether its features look ahead was not checked", file=sys.stderr)
        return
    moments = _moments(features, period, revision.section(Telemetry).interval)
    passed = cache.review_folder() / "look_ahead" / f"{_key(revision, features, raw, moments)}.json"
    if passed.exists():
        return
    print(
        f"review: commit {revision.name} computes its features again from data cut at {len(moments)} moments",
        file=sys.stderr,
    )
    with cache.temporary() as place, worktree_runs.worktree(revision) as project:
        found = _run(revision, project, place, stages, raw, moments)
        span = moments[0], moments[-1] + INSTANT
        table = lay_out(features, span, place / "features", f"{FEATURES} of commit {revision.name}")
        examples: dict[str, str] = {}
        for number, moment in enumerate(moments):
            whole, cut = tables.read_period(table, moment, moment + INSTANT), tables.read(found / f"{number}.parquet")
            examples = {**_differences(revision, moment, whole, cut), **examples}
    if examples:
        raise UserError(
            f"the features of commit {revision.name} look ahead: {some_of(sorted(examples))}. For example "
            f"{next(iter(examples.values()))}. Make features from what is known at their moment (docs/review.md)"
        )
    write_json(passed, {"moments": [moment.isoformat() for moment in moments]})


def _stages(revision: Revision) -> list[list[str]] | None:
    """Return name and paths of each stage that leads to the features, in order; None if one is called otherwise."""
    found = []
    for name in worktree_runs.upstream(revision, [FEATURES]):
        words = revision.lock[name].command.split()
        if words[:2] != COMMAND or words[2:3] != [name]:
            return None
        if name != VALIDATE:
            found.append(words[2:])
    return found


def _moments(features: str, period: Period, interval: timedelta) -> list[datetime]:
    """Draw moments of the grid by the features' hash: who wrote them did not know the moments."""
    steps = (period[1] - period[0]) // interval
    seed = list(hashlib.sha256(features.encode()).digest())
    drawn = np.random.default_rng(seed).choice(steps, min(MOMENTS, steps), replace=False)
    return [period[0] + int(step) * interval for step in sorted(drawn)]


def _key(revision: Revision, features: str, raw: Mapping[str, str], moments: list[datetime]) -> str:
    recipe = worktree_runs.recipe(revision, FEATURES)
    content = [recipe, features, {path: raw[path] for path in RAW}, [moment.isoformat() for moment in moments]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _run(
    revision: Revision,
    project: Path,
    place: Path,
    stages: list[list[str]],
    raw: Mapping[str, str],
    moments: list[datetime],
) -> Path:
    """Compute the features of each moment in a commit's work tree; return the folder N.parquet for moment number N."""
    reach = lookback(revision.section(Telemetry), revision.section(Features)) + MARGIN
    for path in RAW:
        if path == TELEMETRY:
            lay_out(raw[path], (moments[0] - reach, moments[-1] + DAY), place / "whole" / path, f"{path} of the review")
        else:
            cache.lay_out(raw[path], place / "whole" / path, f"{path} of the review")
    params: dict[str, Any] = yaml.safe_load((project / PARAMS).read_text(encoding="utf-8"))
    # a moment changes one partition, and the memo of this work tree has the others
    (project / PARAMS).write_text(yaml.safe_dump(params | {"execution": {"workers": 1, "memo_gb": 5}}), "utf-8")
    (project / "data" / "validated.json").write_text('{"success": true}', encoding="utf-8")
    out, plan = place / "cut", place / "plan.json"
    out.mkdir()
    write_json(
        plan,
        {
            "moments": [moment.isoformat() for moment in moments],
            "whole": str(place / "whole"),
            "stages": stages,
            "reporting_delay_s": revision.section(Incidents).reporting_delay.total_seconds(),
            "out": str(out),
        },
    )
    python = environment.interpreter(revision, cache.review_folder())
    failure = f"the features of commit {revision.name} cannot be computed from data that ends at a moment"
    worktree_runs.run_script(cut_runs.__file__, [plan], project, python, failure)
    return out


def _differences(revision: Revision, moment: datetime, whole: pl.DataFrame, cut: pl.DataFrame) -> dict[str, str]:
    """Return the features that are not those of the data up to the moment, each with an example."""
    if not whole.select(*tables.KEYS).equals(cut.select(*tables.KEYS)):
        raise UserError(
            f"commit {revision.name} has other rows at {moment:%Y-%m-%d %H:%M} UTC if its data ends then "
            f"({cut.height} instead of {whole.height}): its rows depend on what came later"
        )
    found = {}
    for name in whole.columns:
        if (differs := whole[name].ne_missing(cut[name])).any():
            row = int(differs.arg_true()[0])
            found[name] = (
                f"{name} of {whole['server_id'][row]} at {moment:%Y-%m-%d %H:%M} UTC is {whole[name][row]}, "
                f"and {cut[name][row]} if the data ends then"
            )
    return found
