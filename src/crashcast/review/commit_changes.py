"""What changed between two commits: parameters, code, data, features, candidates and every figure.

`dvc metrics diff` passes over what is missing, null or no number; here each of those is an error, unless the figure is
one that comes and goes with the fleet or the parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.review.data_changes import partition_of
from crashcast.review.test_set import CONSENSUS, LABELS, SPLIT
from crashcast.versioning import cache, committed_model, git
from crashcast.versioning.revision import (
    ACTIONS,
    ALARMS,
    CODE,
    COVERAGE,
    INCIDENTS,
    TELEMETRY,
    TICKET_SOURCES,
    VALIDATION,
    Revision,
    flatten,
)

POLICY = "acceptance"
CANDIDATES = "metrics/candidates.json"
RULES, RULES_PARAMS = (LABELS, SPLIT, CONSENSUS, COVERAGE), (f"{POLICY}.", "alarms.")
# figures of a server group, a baseline, a metric or a candidate, which one commit may have and the other not
COMES_AND_GOES = {
    "metrics/evaluate.json": r"slices\..+|baselines\.(?!random\.).+",
    CANDIDATES: r"candidates\..+|skill\.(best|lift|lift_low)|expected(\..+)?",  # of the dummy nothing is expected
    "metrics/clean.json": r"(out_of_range|stuck)_.+",
    "metrics/label.json": r"evidence\.(dependence|sources)\..+",
}


def between(base: Revision, head: Revision) -> dict[str, Any]:
    """Return what changed, as the decision record has it.

    Returns
    -------
    dict
        `parameters` and `policy` (the section `acceptance`): what differs, with its value at either commit, null if
        there is none. `code`: paths. `data`: what each piece of raw data holds at either commit, of those that differ.
        `features`: `added` and `removed`. `candidates`: the PR-AUC of each on validation, and the chosen one.
        `metrics`: every figure of either commit, differing or not.

    Raises
    ------
    UserError
        If a figure is missing, null, no number or unreadable, or data that differs cannot be had.
    """
    parameters = _parameters_between(base, head)
    of_policy = [row for row in parameters if row["name"].startswith(f"{POLICY}.")]
    before, now = (committed_model.describe(revision)["features"] for revision in (base, head))
    return {
        "parameters": [row for row in parameters if row not in of_policy],
        "policy": of_policy,
        "code": code_between(base, head),
        "data": [
            {"path": path, "base": _described(base, path), "challenger": _described(head, path)}
            for path in base.raw | head.raw
            if base.raw.get(path) != head.raw.get(path)
        ],
        "features": {
            "added": [name for name in now if name not in before],
            "removed": [name for name in before if name not in now],
        },
        "candidates": candidates_between(base, head),
        "metrics": metrics_between(base, head),
    }


def of_the_rules(base: Revision, head: Revision) -> list[str]:
    """List, a line each, changes of what later models will be judged by: policy, alarms, labels, crashes, split."""
    lines = [
        f"{row['name']} changes from {row['base']} to {row['challenger']}"
        for row in _parameters_between(base, head)
        if row["name"].startswith(RULES_PARAMS)
    ]
    before, now = ({**revision.outs, **revision.raw} for revision in (base, head))
    return lines + [f"{path} has other content" for path in RULES if before.get(path) != now.get(path)]


def metrics_between(base: Revision, head: Revision) -> list[dict[str, Any]]:
    """Return every figure of two commits: `file`, `name`, `base`, `challenger`.

    Raises
    ------
    UserError
        If a file or a figure of the base is gone, or either's cannot be read (`Revision.metrics`).
    """
    before, now = base.metrics, head.metrics
    if lost := sorted(before.keys() - now.keys()):
        raise UserError(f"{', '.join(lost)}: commit {base.name} has these figures, commit {head.name} does not")
    rows = []
    for file in sorted(now):
        old, new = before.get(file, {}), now[file]
        may_go = re.compile(COMES_AND_GOES.get(file, r"(?!)"))
        if lost := [name for name in old if name not in new and not may_go.fullmatch(name)]:
            raise UserError(
                f"{file} of commit {head.name} lacks {', '.join(lost)}, which commit {base.name} has: what is missing "
                "cannot be compared"
            )
        rows += [
            {"file": file, "name": name, "base": old.get(name), "challenger": new.get(name)}
            for name in _names(old, new)
        ]
    return rows


def code_between(base: Revision, head: Revision) -> list[str]:
    """Return the files of code that differ, the pipeline and its locked environment among them."""
    asked = ("diff", "--name-only", "--no-renames", "--relative", "-z", base.sha, head.sha, "--", *CODE)
    return sorted(git.run(*asked).entries)


def candidates_between(base: Revision, head: Revision) -> list[dict[str, Any]]:
    """Return the PR-AUC on validation of every candidate of either commit, and which it chose."""
    figures = [revision.metrics.get(CANDIDATES, {}) for revision in (base, head)]
    before, now = (
        {name.removeprefix("candidates.").removesuffix(".pr_auc"): value for name, value in found.items()
         if name.endswith(".pr_auc")}
        for found in figures
    )  # fmt: skip
    rows = [{"name": name, "base": before.get(name), "challenger": now.get(name)} for name in _names(before, now)]
    return [{"name": "chosen", "base": figures[0].get("chosen"), "challenger": figures[1].get("chosen")}, *rows]


def _described(revision: Revision, path: str) -> dict[str, Any] | None:
    """Say what a piece of raw data holds, from the figures of `validate` if those say it; None if it has none."""
    if path not in revision.raw:
        return None
    figures, digest = revision.metrics.get(VALIDATION, {}), revision.raw[path]
    what = f"{path} of commit {revision.name}"
    if path == TELEMETRY:
        names = sorted(partition_of(file).name for file in cache.members(digest, what))
        counts = {name: figures.get(name) for name in ("rows", "servers", "partitions")}
        return {"md5": digest, **counts, "first": names[0], "last": names[-1]}
    if path == INCIDENTS:
        return {"md5": digest, **{name: figures.get(name) for name in ("incidents", "crashes")}}
    rows = tables.read(cache.locate(digest, what))
    if path in (ALARMS, ACTIONS):
        return {"md5": digest, "rows": rows.height, "servers": rows["server_id"].n_unique()}
    name, who = {COVERAGE: ("server_id", "server"), TICKET_SOURCES: ("source", "source")}[path]
    return {
        "md5": digest,
        f"{who}s": rows[name].n_unique(),
        f"{who}_days": rows.select((pl.col("covered_to") - pl.col("covered_from")).sum().dt.total_hours()).item() / 24,
    }


def _parameters_between(base: Revision, head: Revision) -> list[dict[str, Any]]:
    return _differing(*(dict(flatten(revision.params)) for revision in (base, head)))


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "base": before.get(name), "challenger": now.get(name)}
        for name in _names(before, now)
        if before.get(name) != now.get(name) or (name in before) != (name in now)
    ]


def _names(before: Iterable[str], now: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*before, *now]))
