"""Whether a model's features look ahead, and are made: at a moment they must be what data up to that moment gives.

A feature that knows the future makes a model look better than it will ever be on call, and no comparison of figures
shows it. So the judge draws moments of the test period, and the stages of the model's own commit compute the features
again from data that is cut there. Every cell of the rows at that moment must be equal. That code runs in the sandbox,
and is shown what came after a moment once it has answered for it: it cannot know more, even if it means to.

Features that no stage made would show the same gain: a dvc.lock can name any. At its last moment that code has all data
of the test period, so every partition of that must be what it wrote, and one partition of the training period too.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from crashcast import files, tables
from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.files import sha256_of_json
from crashcast.modeling.alarms import INSTANT
from crashcast.params.features import Features
from crashcast.params.incidents import Incidents
from crashcast.params.telemetry import Telemetry
from crashcast.review import stage_runs, truncated_features
from crashcast.review.data_changes import partition_of
from crashcast.review.test_set import FEATURES, Period, touches
from crashcast.tables import Partition
from crashcast.text import some_of
from crashcast.versioning import cache, sandbox
from crashcast.versioning.revision import COVERAGE, INCIDENTS, PARAMS, TELEMETRY, Revision
from crashcast.versioning.sandbox import Talk
from stages.featurize import lookback

MOMENTS = 20
MAX_SERVERS = 1_000_000
MAX_ANSWER_BYTES = 1_000_000_000  # the features of one moment: 10,000 servers have some 4 million bytes
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
    tickets = tables.read(cache.locate(raw[INCIDENTS], f"{INCIDENTS} of the review"))
    interval = revision.section(Telemetry).interval
    drawn = _moments(features, period, interval, tickets)
    trained, tested = _partitions(features, period, f"{FEATURES} of commit {revision.name}")
    moments = [*(one.end - interval for one in trained), *drawn]
    moments += [end for end in [tested[-1].end - interval] if end > drawn[-1]]
    key = _key(revision, features, raw, moments)
    passed = cache.review_folder() / "look_ahead" / f"{key}.json"
    if passed.exists():
        return
    print(
        f"review: commit {revision.name} computes its features again from data cut at {len(moments)} moments",
        file=sys.stderr,
    )
    with cache.temporary() as place:
        what, wanted = f"{FEATURES} of commit {revision.name}", [*trained, *tested]
        table = cache.lay_out(features, place / "features", what, lambda file: partition_of(file) in wanted)
        reach = lookback(revision.section(Telemetry), revision.section(Features)) + MARGIN
        windows = [(one[0].start - reach, one[-1].end) for one in (trained, tested) if one]
        for path in RAW:
            cache.lay_out(
                raw[path],
                place / "whole" / path,
                f"{path} of the review",
                lambda file: any(touches(partition_of(file), window) for window in windows),
            )
        cuts, forged = _run(revision, place / "whole", stages, moments, key, table)
        examples: dict[str, str] = {}
        for moment, cut in zip(moments, cuts, strict=True):
            whole = tables.read_period(table, moment, moment + INSTANT)
            examples = {**_differences(revision, moment, whole, cut), **examples}
    if examples:
        raise UserError(
            f"the features of commit {revision.name} look ahead: {some_of(sorted(examples))}. For example "
            f"{next(iter(examples.values()))}. Make features from what is known at their moment (docs/review.md)"
        )
    if forged:
        raise UserError(
            f"the features of commit {revision.name} are not what its stages make: {some_of(forged)}. "
            "`dvc repro --force` there, and commit what it writes"
        )
    write_json(passed, {"moments": [moment.isoformat() for moment in moments]})


def _stages(revision: Revision) -> list[list[str]] | None:
    """Return name and paths of each stage that leads to the features, in order; None if one is called otherwise."""
    found = []
    for name in revision.upstream([FEATURES]):
        words = revision.lock[name].command.split()
        if words[:2] != COMMAND or words[2:3] != [name]:
            return None
        if name != VALIDATE:
            found.append(words[2:])
    return found


def _moments(features: str, period: Period, interval: timedelta, incidents: pl.DataFrame) -> list[datetime]:
    """Draw moments of the grid by the features' hash: who wrote them did not know the moments.

    Half of them are among those at which a ticket is open: only then does a feature show that it knows the end.
    """
    steps = (period[1] - period[0]) // interval
    begin, step_us = tables.utc(period[0], period[0])[0], interval // timedelta(microseconds=1)
    bounds = [(pl.col(name) - begin).dt.total_microseconds() // step_us + 1 for name in ("started_at", "resolved_at")]
    spans = incidents.select(first=bounds[0].clip(0, steps), end=bounds[1].clip(0, steps)).drop_nulls().rows()
    is_open = np.zeros(steps, dtype=bool)
    for first, end in spans:
        is_open[first:end] = True
    seed = list(hashlib.sha256(features.encode()).digest())
    rng = np.random.default_rng(seed)
    opened = rng.permutation(np.flatnonzero(is_open))[: MOMENTS // 2]
    others = rng.permutation(np.setdiff1d(np.arange(steps), opened))[: MOMENTS - len(opened)]
    return [period[0] + int(step) * interval for step in sorted([*opened, *others])]


def _partitions(features: str, period: Period, what: str) -> tuple[list[Partition], list[Partition]]:
    """Return a partition before a period, drawn by the features' hash, if there is one, and those that it touches."""
    listed = sorted({partition_of(file) for file in cache.members(features, what)}, key=lambda one: one.start)
    before = [one for one in listed if one.end <= period[0]]
    rng = np.random.default_rng(list(hashlib.sha256(f"partition {features}".encode()).digest()))
    drawn = [before[rng.integers(len(before))]] if before else []
    return drawn, [one for one in listed if touches(one, period)]


def _key(revision: Revision, features: str, raw: Mapping[str, str], moments: list[datetime]) -> str:
    recipe = stage_runs.recipe(revision, FEATURES)
    content = [recipe, features, {path: raw[path] for path in RAW}, [moment.isoformat() for moment in moments]]
    return sha256_of_json(content)


def _run(
    revision: Revision, whole: Path, stages: list[list[str]], moments: list[datetime], asked: str, table: Path
) -> tuple[list[pl.DataFrame], list[str]]:
    """Compute the features of each moment by a commit's stages; all raw data is laid out in `whole`.

    Parameters
    ----------
    asked : str
        Names the moments and the data: see `sandbox.Room.running`.
    table : Path
        Partitions of features that the stages have all data for at the last moment.

    Returns
    -------
    list of DataFrame
    list of str
        What is otherwise in partitions of the table than the stages write it.
    """
    delay, found = revision.section(Incidents).reporting_delay, []
    failure = f"the features of commit {revision.name} cannot be computed from data that ends at a moment"
    with sandbox.room(revision) as room:
        # a moment changes one partition, and the memo of this project has the others
        room.write(
            PARAMS, yaml.safe_dump(revision.params | {"execution": {"workers": 1, "memo_gb": 5}}, sort_keys=False)
        )
        room.write("data/validated.json", '{"success": true}')
        shutil.copy(truncated_features.__file__, room.input("truncated_features.py"))
        shown = room.input("data/raw")
        shown.mkdir()
        words = f" {truncated_features.NEXT} ".join(map(" ".join, stages)).split()
        with room.running(
            room.python, "-P", "truncated_features.py", FEATURES, *words, failure=failure, asked=asked
        ) as talk:
            for moment in moments:
                cut(whole, shown.parents[1], moment, delay)
                found.append(_ask(talk, moment))
        written = room.written(FEATURES)
        listed = [one.path(Path()).as_posix() for one in tables.partitions(table)]
        forged = [told for name in listed for told in _other_values(name, table / name, written.get(name))]
    return found, forged


def _other_values(name: str, claimed: Path, made: Path | None) -> list[str]:
    """Say which values of a partition of features are not those that the stages write."""
    if made is None:
        return [f"{name} is not written"]
    if files.md5(claimed) == files.md5(made):
        return []
    stage_runs.check_table(made, name)
    one, other = tables.read(claimed), tables.read(made)
    if one.schema != other.schema or not one.select(*tables.KEYS).equals(other.select(*tables.KEYS)):
        return [f"{name} has other rows or columns"]
    return [f"{column} in {name}" for column in one.columns if not one[column].equals(other[column])]


def cut(whole: Path, project: Path, moment: datetime, delay: timedelta) -> None:
    """Lay raw data out as it was at a moment: samples until then, incidents that were reported by then."""
    end, time = moment.replace(tzinfo=UTC), pl.col("timestamp")
    for path in sorted((whole / TELEMETRY).glob(f"*/{truncated_features.PART}")):
        first, last = tables.read(path, ["timestamp"]).select(time.min(), time.max().alias("last")).row(0)
        target = project / path.relative_to(whole)
        if first is None or first > end:
            continue
        target.unlink(missing_ok=True)
        if last <= end:
            files.link(path, target)
        else:
            tables.write(target, tables.read(path, where=time <= end))
    incidents, coverage = tables.read(whole / INCIDENTS), tables.read(whole / COVERAGE)
    is_known = pl.col("reported_at").fill_null(pl.col("started_at") + delay) <= end
    resolved = pl.when(pl.col("resolved_at") <= end).then("resolved_at").alias("resolved_at")
    tables.write(project / INCIDENTS, incidents.filter(is_known).with_columns(resolved))
    begun = coverage.filter(pl.col("covered_from") <= end)
    until = pl.min_horizontal("covered_to", pl.lit(end)).alias("covered_to")
    tables.write(project / COVERAGE, begun.with_columns(until))


def _ask(talk: Talk, moment: datetime) -> pl.DataFrame:
    """Return the features of a moment's rows, as the code of a commit answers: foreign bytes.

    Raises
    ------
    EOFError
        If it has ended.
    UserError
        If it does not answer with a table.
    """
    talk.stdin.write(f"{moment.isoformat()}\n".encode())
    talk.stdin.flush()
    size_bytes = int.from_bytes(talk.stdout.read(truncated_features.SIZE_BYTES), "big")
    answer = talk.stdout.read(min(size_bytes, MAX_ANSWER_BYTES))
    if not answer:
        raise EOFError
    stage_runs.check_table(answer, f"the features of {moment:%Y-%m-%d %H:%M} UTC", MAX_SERVERS)
    return pl.read_parquet(answer)


def _differences(revision: Revision, moment: datetime, whole: pl.DataFrame, cut: pl.DataFrame) -> dict[str, str]:
    """Return the features that are not those of the data up to the moment, each with an example."""
    before, now = dict(whole.schema), dict(cut.schema)
    if names := sorted(name for name in before | now if before.get(name) != now.get(name)):
        raise UserError(f"commit {revision.name} computes other columns if its data ends: {some_of(names)}")
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
