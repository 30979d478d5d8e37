"""Where people are named in the data, and how a name is taken out (docs/privacy.md).

Names stand in tables that people or their systems write: tickets, actions and annotations, and the log of `serve`. From
there stages copy texts of incidents and the names of annotators. Telemetry, features and models hold none.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from crashcast import tables
from crashcast.annotation.answers import PATH as ANNOTATIONS_PATH
from crashcast.errors import UserError
from crashcast.history.files import Files, UnreadError
from crashcast.operate.served_log import ServedLog
from crashcast.params.serve import Serve
from crashcast.paths import ACTIONS_PATH, INCIDENTS_PATH, TICKETS_PATH
from crashcast.versioning import cache, dvc_files, git
from crashcast.versioning.bucket import connect
from crashcast.versioning.revision import Revision
from crashcast.versioning.tracked_data import track

TRACKED = (INCIDENTS_PATH, TICKETS_PATH, ACTIONS_PATH)  # by DVC; annotations are in git
MADE = (Path("data/incidents.parquet"), Path("data/votes.parquet"))  # by stages
LOGGED = "actions"  # the table of serve's log


class Found(NamedTuple):
    """How many cells of a column name somebody."""

    place: str
    column: str
    cells: int


def find(names: Sequence[str]) -> list[Found]:
    """Return where the data of this work tree, and the log of `serve`, name somebody.

    Parameters
    ----------
    names : sequence of str
        All that they are called: name, login, address. Case does not count; a part of a longer word is none.
    """
    pattern, found = _pattern(names), list[Found]()
    for path in (*TRACKED, ANNOTATIONS_PATH, *MADE):
        if path.exists():
            found += _named(tables.read(path), str(path), pattern)
    for name, frame in _logged():
        found += _named(frame, name, pattern)
    return found


def remove(names: Sequence[str]) -> list[str]:
    """Replace the names by a text that says nothing of them, and return what was changed.

    Raw data is tracked anew. What stages made is theirs to make again.
    """
    pattern, changed = _pattern(names), list[str]()
    frames = {path: tables.read(path) for path in (*TRACKED, ANNOTATIONS_PATH) if path.exists()}
    logged = dict(_logged())
    instead = _unused([*frames.values(), *logged.values()])
    for name, frame in logged.items():
        if _named(frame, name, pattern):
            content = io.BytesIO()
            _without(frame, pattern, instead).write_parquet(content)
            _log().place.replace(name, content.getvalue())
            changed.append(name)
    for path, frame in frames.items():
        if _named(frame, str(path), pattern):
            tables.write(path, _without(frame, pattern, instead))
            changed.append(str(path))
    if tracked := [path for path in TRACKED if str(path) in changed]:
        track(tracked)
    return changed


def old_versions(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the objects that other commits name, in DVC's cache or on its remote, and that name somebody.

    Returns
    -------
    dict of str to list of str
        By object: the files that it is, and one of the commits.

    Raises
    ------
    UserError
        If git's history or the remote cannot be read.
    """
    if git.run("rev-parse", "--is-shallow-repository").text == "true":
        raise UserError("this clone is shallow and does not know all commits: git fetch --unshallow")
    pattern, files, found = _pattern(names), Files(connect()), dict[str, list[str]]()
    for md5, known in _versions().items():
        try:
            with files.whole(md5) as path:
                if _named(pl.read_parquet(path), "", pattern):
                    found[md5] = known
        except UnreadError:  # it is nowhere, or damaged: the doctor tells
            continue
    return found


def delete(objects: Collection[str]) -> None:
    """Delete objects from DVC's cache and its remote. The commits that name them can no longer be pulled whole.

    Raises
    ------
    UserError
        If the work tree needs one of them, or the remote does not delete.
    """
    needed = {
        dvc_files.tracked_hash(dvc_files.pointer(path).read_bytes(), path, "") for path in TRACKED if path.exists()
    }
    if needed & set(objects):
        raise UserError("the data of this work tree names them still: run it with --now first, and commit that")
    connect().delete(objects)
    for md5 in objects:
        cache.cached(md5).unlink(missing_ok=True)


def _versions() -> dict[str, list[str]]:
    """Return every version of the tables in question: the file, and the newest commit that has it."""
    pointers = [str(dvc_files.pointer(path)) for path in TRACKED]
    found: dict[str, list[str]] = {}
    for sha in git.run("rev-list", "--all", "--reflog", "--", *pointers, dvc_files.LOCK).text.split():
        revision = Revision(sha)
        made = revision.outs if revision.find_file(dvc_files.LOCK) is not None else {}
        hashes = {str(path): made[str(path)] for path in MADE if str(path) in made}
        for path in TRACKED:
            if content := revision.find_file(str(dvc_files.pointer(path))):
                hashes[str(path)] = dvc_files.tracked_hash(content, path, f"of commit {revision.name}")
        for name, md5 in hashes.items():
            found.setdefault(md5, [name, revision.name])
    return found


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    if not all(name.strip() for name in names):
        raise UserError("a name is empty")
    return re.compile("|".join(rf"(?<!\w){re.escape(name.strip())}(?!\w)" for name in names), re.IGNORECASE)


def _named(frame: pl.DataFrame, place: str, pattern: re.Pattern[str]) -> list[Found]:
    counts = {
        column: sum(number for text, number in frame[column].drop_nulls().value_counts().rows() if pattern.search(text))
        for column, kind in frame.schema.items()
        if kind == pl.String
    }
    return [Found(place, column, number) for column, number in counts.items() if number]


def _without(frame: pl.DataFrame, pattern: re.Pattern[str], instead: str) -> pl.DataFrame:
    texts = [column for column, kind in frame.schema.items() if kind == pl.String]
    replaced = {
        column: {text: pattern.sub(lambda _: instead, text) for text in frame[column].drop_nulls().unique()}
        for column in texts
    }
    return frame.with_columns(pl.col(column).replace(changes) for column, changes in replaced.items() if changes)


def _unused(frames: Sequence[pl.DataFrame]) -> str:
    """Return a text that stands in no frame: two people who are taken out stay two."""
    texts = [column.drop_nulls() for frame in frames for column in frame if column.dtype == pl.String]
    known = {
        number for texts_of in texts for text in texts_of.unique() for number in re.findall(r"\[removed (\d+)\]", text)
    }
    return f"[removed {max(map(int, known), default=0) + 1}]"


def _log() -> ServedLog:
    return ServedLog(Serve.read().log)


def _logged() -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the files of actions in the log of `serve`."""
    place = _log().place
    for day in place.names(LOGGED):
        for name in place.names(f"{LOGGED}/{day}"):
            yield f"{LOGGED}/{day}/{name}", pl.read_parquet(io.BytesIO(place.read(f"{LOGGED}/{day}/{name}")))
