"""How the data of two commits differ: by dataset, partition and column."""

from __future__ import annotations

import io
import json
import textwrap
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crashcast.doctor.findings import SOUND, UNKNOWN, WRONG
from crashcast.errors import UserError
from crashcast.history.files import NOT_HERE, Files
from crashcast.history.log import PART, TABLE, changed_files, is_among, name_files
from crashcast.history.row_diff import KOLMOGOROV_SMIRNOV, Column, Difference, compare
from crashcast.versioning import cache, git
from crashcast.versioning.outputs import Output, outputs_of
from crashcast.versioning.revision import Revision

SHOWN = 12  # columns of a partition, or figures of a file
TEXT_WIDTH = 60
MODEL = ".skops"
LEGEND = (
    "largest: the largest change of a value. shift: how far apart the distributions are, 0 the same, 1 nothing in "
    "common; KS: the Kolmogorov-Smirnov distance, TV: the total variation distance."
)
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class File:
    """A file that is not the same in both versions of a dataset.

    Attributes
    ----------
    path : str
    what : str
        added, removed or changed.
    rows : tuple of (int or None)
        Of a table, before and after.
    difference : Difference or None
        Of a table in both.
    figures : dict or None
        Of JSON or a model's file in both: what differs, by name, before and after.
    unread : str or None
        Why it could not be read.
    """

    path: str
    what: str
    rows: tuple[int | None, int | None] = (None, None)
    difference: Difference | None = None
    figures: dict[str, tuple[Any, Any]] | None = None
    unread: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset that is not the same in both commits.

    Attributes
    ----------
    path : str
    before, after : str or None
        DVC's hashes.
    size_bytes : tuple of (int or None)
        Before and after.
    same : int
        Files that are the same; they were not opened.
    files : tuple of File
        The others, in order of their names.
    unread : str or None
        Why its list of files could not be read.
    """

    path: str
    before: str | None
    after: str | None
    size_bytes: tuple[int | None, int | None]
    same: int = 0
    files: tuple[File, ...] = ()
    unread: str | None = None


def diff(base: str, head: str | None = None, paths: Sequence[str] = (), pull: bool = False) -> list[Dataset]:
    """Compare what DVC keeps for two commits.

    Parameters
    ----------
    base, head : str
        The commits; instead of the later one, the work tree by default, without files that git does not track.
    paths : sequence of str
        Datasets, or folders of them; all by default.
    pull : bool
        Bring files that differ and lie only on DVC's remote into the cache. Without it they are named as unread.

    Returns
    -------
    list of Dataset
        Those that differ.

    Raises
    ------
    UserError
        If git does not know a commit, a dvc.lock or .dvc file cannot be read, neither has such a dataset, or what
        is to be pulled cannot be had.
    """
    head = work_tree() if head is None else head
    before, after = _datasets(base), _datasets(head)
    chosen = sorted(path for path in before.keys() | after.keys() if is_among(path, paths))
    if not chosen and paths:
        raise UserError(f"neither {base} nor {head} has {', '.join(paths)}: `crashcast data log` shows all there is")
    pairs = [(before.get(path), after.get(path)) for path in chosen]
    differing = [pair for pair in pairs if _md5(pair[0]) != _md5(pair[1])]
    if pull:
        lists = {output.md5 for pair in differing for output in pair if output and output.is_folder}
        cache.fetch(lists, "a list of files")
    return [_dataset(one, other, Files(), pull) for one, other in differing]


def work_tree() -> str:
    """Return a commit of the work tree's tracked files, which no branch has; HEAD if nothing was changed."""
    owner = ("-c", "user.name=crashcast", "-c", "user.email=crashcast@localhost")  # stash needs some
    made = git.run(*owner, "stash", "create", expected=(0, 1))
    if made.status and made.words != "exit status 1":  # without a message, nothing was changed
        raise UserError(f"the work tree cannot be compared: {made.words}")
    return made.text or "HEAD"


def exit_status(found: Sequence[Dataset]) -> int:
    """Return 2 if something that differs could not be read, else 1 if anything differs, else 0."""
    if any(dataset.unread or any(file.unread for file in dataset.files) for dataset in found):
        return UNKNOWN
    return WRONG if found else SOUND


def read_difference(before: Path, after: Path, name: str) -> tuple[Difference | None, dict[str, Any] | None]:
    """Return what differs between two versions of a file: rows and columns of a table, figures of JSON or a model.

    Parameters
    ----------
    name : str
        Says by its suffix which of them it is; of any other file both are None.

    Raises
    ------
    UserError
        If one cannot be read.
    """
    if name.endswith(TABLE):
        return compare(before, after), None
    if not name.endswith((".json", MODEL)):
        return None, None
    old, new = (_figures(path, name) for path in (before, after))
    names = dict.fromkeys([*old, *new])
    return None, {key: (old.get(key), new.get(key)) for key in names if old.get(key) != new.get(key)}


def _figures(path: Path, name: str) -> dict[str, Any]:
    try:
        content = _members(path) if name.endswith(MODEL) else json.loads(path.read_bytes())
        return dict(_leaves(content))
    except Exception as error:  # a damaged archive may provoke any
        raise UserError(f"unreadable: {error}") from None


def _members(path: Path) -> dict[str, Any]:
    """Return the numbers in a model's file, by its members; nothing of it is loaded as an object."""
    from crashcast.modeling.archive import check_size

    check_size(path)
    found: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".json"):
                found[name] = json.loads(content)
                continue
            array = np.load(io.BytesIO(content), allow_pickle=False)
            fields = array.dtype.names
            found[name] = {field: array[field].tolist() for field in fields} if fields else array.tolist()
    return found


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what nested mappings and lists hold, named a.b[2].c."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _leaves(item, f"{name}[{number}]")
    else:
        yield name, None if value != value else value  # NaN would differ from itself


def _datasets(name: str) -> dict[str, Output]:
    found, problems = outputs_of([Revision.find(name)])
    if problems:
        raise UserError(f"{problems[0].where}: {problems[0].what}")
    return {output.path: output for output in found}


def _md5(output: Output | None) -> str | None:
    return output.md5 if output else None


def _dataset(before: Output | None, after: Output | None, files: Files, pull: bool) -> Dataset:
    known = after or before
    assert known is not None
    about = (known.path, _md5(before), _md5(after), tuple(one.size_bytes if one else None for one in (before, after)))
    try:
        old, new = (files.members_of(output) if output else {} for output in (before, after))
    except UserError as error:
        return Dataset(*about, unread=str(error))  # type: ignore[arg-type]
    changed = changed_files(old, new)
    kinds = sorted((path, what) for what, listed in changed.items() for path in listed)
    if pull:
        cache.fetch({md5 for path, _ in kinds for md5 in (old.get(path), new.get(path)) if md5}, known.path)
    found = tuple(_file(path, what, old.get(path), new.get(path), files) for path, what in kinds)
    return Dataset(*about, same=len(old.keys() & new.keys()) - len(changed["changed"]), files=found)  # type: ignore[arg-type]


def _file(path: str, what: str, old: str | None, new: str | None, files: Files) -> File:
    try:
        if old and new:
            with files.whole(old) as before, files.whole(new) as after:
                difference, figures = read_difference(before, after, path)
            rows = (difference.before, difference.after) if difference else (None, None)
            return File(path, what, rows, difference, figures)
        known = [files.held(md5).rows if md5 else 0 for md5 in (old, new)] if path.endswith(TABLE) else [None, None]
        return File(path, what, (known[0], known[1]))
    except UserError as error:
        return File(path, what, unread=str(error))


def as_json(found: Sequence[Dataset]) -> dict[str, Any]:
    """Return differences as plain values, for programs; `status` is the exit status."""
    return {"status": exit_status(found), "datasets": [asdict(dataset) for dataset in found]}


def show(found: Sequence[Dataset], console: Console) -> None:
    """Print differences for a person."""
    for dataset in found:
        console.print(f"[bold]{escape(dataset.path)}[/]: {_summary(dataset)}", highlight=False, soft_wrap=True)
        show_files(dataset.path, dataset.files, console)
    if not found:
        console.print("No data differs.")
    elif any(file.difference and file.difference.columns for dataset in found for file in dataset.files):
        console.print(LEGEND, style="dim")
    reasons = {reason for dataset in found for reason in (dataset.unread, *(file.unread for file in dataset.files))}
    if NOT_HERE in reasons:
        console.print("What is not here: `crashcast data diff --pull` fetches the files that differ from the remote.")


def _summary(dataset: Dataset) -> str:
    if dataset.unread:
        return f"differs; its list of files is not read: {escape(dataset.unread)}"
    words = []
    for what in ("added", "removed", "changed"):
        if names := [file.path for file in dataset.files if file.what == what]:
            words.append(what if names == [dataset.path] else f"{name_files(dataset.path, names)} {what}")
    if dataset.same:
        words.append(f"{dataset.same} the same, not read")
    return ", ".join(words) or "the same files"


def show_files(dataset: str, files: Sequence[File], console: Console) -> None:
    """Print what differs in the files of a dataset."""
    rows = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for title in ("", "rows", "added", "removed", "changed", ""):
        rows.add_column(title, justify="right" if title else "left")
    for file in files:
        if cells := _cells(file):
            rows.add_row(_label(dataset, file), *cells)
    if rows.row_count:
        console.print(rows)
    for file in files:
        if file.difference and file.difference.columns:
            console.print(f"  {_label(dataset, file)} by column:", style="dim", highlight=False)
            console.print(_columns(file.difference.columns))
    for file in files:
        for name, (old, new) in list((file.figures or {}).items())[:SHOWN]:
            line = f"    {_label(dataset, file)} {name}: {_arrow(_short(old), _short(new))}"
            console.print(escape(line), highlight=False, soft_wrap=True)
        if (more := len(file.figures or {}) - SHOWN) > 0:
            console.print(f"    and {more} more figures", highlight=False)


def _cells(file: File) -> list[str]:
    """Return rows, how many of them were added, removed and changed, and a remark."""
    told = [_arrow(*(f"{one:,}" for one in file.rows))] if None not in file.rows else [""]
    if file.unread:
        return ["", "", "", "", f"[magenta]{escape(file.unread)}[/]"]
    if file.difference is None:
        remark = "" if file.what != "changed" or file.figures else "other bytes"
        return [*told, "", "", "", remark] if told[0] or remark else []
    counts = (file.difference.added, file.difference.removed, file.difference.changed)
    return [*told, *(f"{one:,}" for one in counts), "other bytes alone" if file.difference.is_equal else ""]


def _label(dataset: str, file: File) -> str:
    return file.path.removeprefix(f"{dataset}/").removesuffix(PART) if file.path != dataset else ""


def _columns(columns: Sequence[Column]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("", "changed", "largest", "median", "missing", "shift"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    found = sorted(columns, key=lambda one: (one.only is None, -(one.shift or 0), -one.changed))
    for one in found[:SHOWN]:
        if one.only:
            table.add_row(f"  {one.name}", f"only {one.only}")
            continue
        median = [f"{value:.4g}" for value in one.median if value is not None]
        table.add_row(
            f"  {one.name}",
            f"{one.changed:,}",
            "" if one.largest_change is None else f"{one.largest_change:.3g}",
            _arrow(*median) if len(median) == 2 else "",
            _arrow(*(DASH if share is None else f"{share:.1%}" for share in one.missing)),
            _shift(one),
        )
    if len(found) > SHOWN:
        table.add_row(f"  and {len(found) - SHOWN} more")
    return table


def _shift(column: Column) -> str:
    if column.shift is None:
        return ""
    return f"{column.shift:.4f} {'KS' if column.measure == KOLMOGOROV_SMIRNOV else 'TV'}"


def _short(value: Any) -> str:
    return textwrap.shorten(str(value), TEXT_WIDTH, placeholder="...")


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} to {after}"
