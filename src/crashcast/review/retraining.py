"""Train the challenger's model again, in the sandbox, on what its train and validation parts hold.

A model that was also fitted on test rows scores well on them, and no comparison shows it. So the challenger's own
`train` runs again: its features and labels end with the validation part, and its crashes where the test part begins. It
must make the model that dvc.lock names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.modeling import split_rule
from crashcast.review import stage_runs
from crashcast.review.data_changes import partition_of
from crashcast.review.test_set import CONSENSUS, SPLIT, Rule
from crashcast.versioning import cache, committed_model, sandbox
from crashcast.versioning.revision import COVERAGE, INCIDENTS, MODELS, RAW, Revision

CRASHES = (CONSENSUS, INCIDENTS)
AS_THEY_ARE = (SPLIT, COVERAGE)


class _Shown(NamedTuple):
    """Which rows of tables, and which crashes, hold nothing of the test part; `end` is none of a split by server."""

    rows: pl.Expr
    crashes: pl.Expr
    end: datetime | None

    @classmethod
    def of(cls, rule: Rule) -> _Shown:
        if rule["method"] == "server":
            shown = pl.col("server_id").is_in([*rule["servers"]["train"], *rule["servers"]["validation"]])
            return cls(shown, shown, None)
        begin = split_rule.period(rule, "test")[0]
        end = min(split_rule.period(rule, "validation")[1], begin)
        return cls(_before("timestamp", end), _before("started_at", begin), end)


def train(revision: Revision, rule: Rule, inputs: Mapping[str, str] | None = None) -> str:
    """Return the hash of the model that a commit's `train` makes without the test part; each is made once.

    Parameters
    ----------
    revision : Revision
        It has passed `lock_checks.check`.
    rule : dict
        Its split.
    inputs : mapping of str to str, optional
        The hashes of inputs that are taken instead of those which its dvc.lock names.

    Raises
    ------
    UserError
        If its `train` fails, or reads data whose test part is not known.
    """
    name = revision.upstream([MODELS])[-1]
    locked, made = revision.lock[name], {**revision.raw, **revision.outs}
    read = {path: (inputs or {}).get(path, digest) for path, digest in locked.deps.items()}
    deps = {path: digest for path, digest in read.items() if path in made or path in RAW}
    key = stage_runs.key_of(locked.command, {"until": "validation", **locked.params}, read)
    if kept := stage_runs.kept(revision, key):
        return kept[MODELS]
    print(f"review: commit {revision.name} trains its model again, without the test part", file=sys.stderr)
    shown = _Shown.of(rule)
    with sandbox.room(revision) as room:
        for path, digest in deps.items():
            _lay_out(digest, room.input(path), path, shown, f"{path} of commit {revision.name}")
        stage_runs.run_stage(revision, name, room, deps)
        model = stage_runs.hold(MODELS, room.written(MODELS))
    stage_runs.keep(revision, key, {MODELS: model})
    return model


def is_same(revision: Revision, model: str) -> bool:
    """Tell whether a model, and what it is to beat, has the bytes of a commit's; its card names the data by hash."""
    files = committed_model.files_of(revision, model), committed_model.files_of(revision)
    one, other = ({name: md5 for name, md5 in found.items() if name != committed_model.CARD} for found in files)
    return one == other


def _lay_out(digest: str, target: Path, path: str, shown: _Shown, what: str) -> None:
    """Lay out data of which the test part is empty: rows stay where a partition has them, without their values."""
    if not digest.endswith(".dir"):
        cache.lay_out(digest, target, what)
        if path in CRASHES:
            tables.write(target, tables.read(target, where=shown.crashes))
        elif path not in AS_THEY_ARE:
            raise UserError(f"the model cannot be trained again: which rows of {what} belong to the test part?")
        return
    end = shown.end
    cache.lay_out(digest, target, what, lambda file: end is None or partition_of(file).start < end)
    for partition in tables.partitions(target):
        if end is None or partition.end > end:
            rows, values = tables.read(partition.path(target)), pl.exclude(*tables.KEYS)
            tables.write(partition.path(target), rows.with_columns(pl.when(shown.rows).then(values)))


def _before(column: str, end: datetime) -> pl.Expr:
    return pl.col(column) < tables.utc(end, end)[0]
