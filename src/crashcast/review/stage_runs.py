"""The hashes of the outputs that a commit's code makes of given raw data.

If a dvc.lock records such a run, its hashes are taken. Otherwise the commit's own stages run in the sandbox, and DVC's
cache keeps their outputs: the second time they are only looked up.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from crashcast import canonical
from crashcast.errors import UserError
from crashcast.files import sha256_of_json
from crashcast.text import some_of
from crashcast.versioning import cache, git, sandbox
from crashcast.versioning.revision import CODE, RAW, Revision
from crashcast.versioning.sandbox import Room

MAX_ROWS = 50_000_000  # of one file: a month of 10,000 servers at hourly samples has 7 million

Runs = Mapping[str, Mapping[str, str]]  # what stages wrote, by the key of all that they depend on


def recorded(*revisions: Revision) -> dict[str, dict[str, str]]:
    """Return every run that the dvc.lock of these commits records; if two differ, that of the first commit."""
    return {
        key_of(entry.command, entry.params, entry.deps): entry.outs
        for revision in reversed(revisions)
        for entry in revision.lock.values()
    }


def compute(revision: Revision, raw: Mapping[str, str], wanted: Collection[str], known: Runs) -> dict[str, str]:
    """Return the hashes of what a commit's code and parameters make of raw data.

    Parameters
    ----------
    revision : Revision
        Whose code and parameters.
    raw : mapping of str to str
        The hash of each piece of raw data.
    wanted : collection of str
        Which outputs, such as data/labels.
    known : mapping
        Runs that other commits record (`recorded`). They go before what its own dvc.lock says of the same run: it can
        name any hashes.

    Returns
    -------
    dict
        The hash of each output that is wanted.

    Raises
    ------
    UserError
        If the commit's environment cannot be set up, or a stage of it fails or refuses the data.
    """
    stages, known = revision.upstream(wanted), {**recorded(revision), **known}
    found, missing = _recall(revision, stages, raw, known)
    if missing:
        _run(revision, missing, found)
        found, missing = _recall(revision, stages, raw, known)
        if missing:
            raise UserError(f"what commit {revision.name} computed was removed meanwhile; run the review again")
    return {path: found[path] for path in wanted}


def recipe(revision: Revision, path: str) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Return by which commands, parameters and code a commit makes an output, whatever the data."""
    made = {*RAW, *revision.outs}
    entries = [revision.lock[name] for name in revision.upstream([path])]
    return [
        (entry.command, entry.params, {name: digest for name, digest in entry.deps.items() if name not in made})
        for entry in entries
    ]


def _recall(
    revision: Revision, stages: list[str], raw: Mapping[str, str], known: Runs
) -> tuple[dict[str, str], list[str]]:
    """Return the hashes of raw data and of what is known to come of it, and the stages that have to run."""
    found, missing, unknown = dict(raw), [], set[str]()
    for name in stages:
        locked, outs = revision.lock[name], None
        if not unknown & locked.deps.keys():
            deps = {path: found.get(path, digest) for path, digest in locked.deps.items()}
            key = key_of(locked.command, locked.params, deps)
            outs = known.get(key) or kept(revision, key)
        if outs is None:
            missing.append(name)
            unknown |= revision.stages[name].outs
        else:
            found |= outs
    return found, missing


def key_of(command: str, params: Mapping[str, Any], deps: Mapping[str, str]) -> str:
    """Return the name of a run by all that its stage depends on."""
    content = {"command": command, "params": params, "deps": deps}
    return sha256_of_json(content)


def kept(revision: Revision, key: str) -> dict[str, str] | None:
    """Return the outputs of a run that the review made; None if DVC's cache no longer has them all."""
    try:
        outs: dict[str, str] = json.loads(_record(revision, key).read_text(encoding="utf-8"))
        return outs if all(cache.is_held(digest) for digest in outs.values()) else None
    except (OSError, ValueError):
        return None


def keep(revision: Revision, key: str, outs: Mapping[str, str]) -> None:
    """Keep what a run of a commit's code gave, by hash."""
    canonical.write_json(_record(revision, key), outs)


def _run(revision: Revision, stages: list[str], inputs: Mapping[str, str]) -> None:
    """Run stages of a commit on raw data and what came of it, and keep what they write."""
    print(f"review: commit {revision.name} computes {', '.join(stages)}", file=sys.stderr)
    found = dict(inputs)
    for name in stages:
        locked, stage = revision.lock[name], revision.stages[name]
        deps = {path: found.get(path, digest) for path, digest in locked.deps.items()}
        with sandbox.room(revision) as room:
            for path in deps.keys() & found.keys():
                cache.lay_out(deps[path], room.input(path), f"{path} of the review")
            run_stage(revision, name, room, deps)
            outs = {path: hold(path, room.written(path)) for path in sorted(stage.outs - stage.metrics)}
        keep(revision, key_of(locked.command, locked.params, deps), outs)
        found |= outs


def run_stage(revision: Revision, name: str, room: Room, deps: Mapping[str, str]) -> None:
    """Run a stage of a commit on the inputs of a room.

    Parameters
    ----------
    revision : Revision
    name : str
    room : Room
        Has all data that the stage reads.
    deps : mapping of str to str
        The hashes of that data.

    Raises
    ------
    UserError
        With the stage's own words if it fails.
    """
    if raw := [path for path in RAW if path in deps]:  # `validate` accepts data in git's index
        git.run("init", "--quiet", "--template=", folder=room.folder)
        for path in raw:
            out = {"md5": deps[path], "hash": "md5", "path": Path(path).name}
            room.write(f"{path}.dvc", json.dumps({"outs": [out]}))
        git.run("add", "--force", *(f"{path}.dvc" for path in raw), folder=room.folder)
    failure = f"stage {name} of commit {revision.name} fails in the review"
    room.run("sh", "-c", f"exec 1>&2; {revision.lock[name].command}", failure=failure)


def hold(path: str, files: Mapping[str, Path]) -> str:
    """Put what foreign code wrote into DVC's cache, if it is what a stage writes, and return its hash."""
    for name, file in files.items():
        if file.suffix == ".parquet":
            check_table(file, f"{path}/{name}".rstrip("/"))
    if "" in files:
        return cache.hold(files[""])
    return cache.hold_folder({name: cache.hold(file) for name, file in files.items()})


def check_table(file: Path | bytes, what: str, max_rows: int = MAX_ROWS) -> None:
    """Refuse a Parquet file that no stage writes.

    Parameters
    ----------
    file : Path or bytes
        The file, or its content.
    what : str
        What it is, for the error.
    max_rows : int
        A small file can hold more rows than memory does.

    Raises
    ------
    UserError
        If it is unreadable or too long, or has other than plain types, or numbers that are not finite.
    """
    try:
        if (rows := pq.read_metadata(BytesIO(file) if isinstance(file, bytes) else file).num_rows) > max_rows:
            raise UserError(f"{what} has {rows:,} rows; the review takes at most {max_rows:,}")
        table = pl.scan_parquet(file, hive_partitioning=False, glob=False)
        schema = table.collect_schema()
        numbers = [pl.col(name) for name, kind in schema.items() if kind.is_float()]
        is_finite = not numbers or all(table.select(number.is_finite().all() for number in numbers).collect().row(0))
    except (pa.ArrowException, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{what} is no readable table: {str(error).splitlines()[0]}") from None
    if nested := [name for name, kind in schema.items() if kind.is_nested() or kind == pl.Object]:
        raise UserError(f"{what} has columns that hold no plain values: {some_of(nested)}")
    if not is_finite:
        raise UserError(f"{what} has numbers that are not finite")


def _record(revision: Revision, key: str) -> Path:
    """Return where a run is kept: whoever can write a commit's code decides what its runs give, and for it alone."""
    code = git.run("ls-tree", "-z", revision.sha, *CODE).output
    name = hashlib.sha256(key.encode() + code).hexdigest()
    return cache.review_folder() / "runs" / name[:2] / f"{name}.json"
