"""Which commits changed which dataset, and what they did to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crashcast import tables
from crashcast.errors import UserError
from crashcast.history.files import NOT_HERE, Files, UnreadError
from crashcast.history.row_diff import compare
from crashcast.progress import MB
from crashcast.versioning import git
from crashcast.versioning.dvc_files import NAMING_DATA
from crashcast.versioning.outputs import Output, outputs_of
from crashcast.versioning.revision import SHOWN_DIGITS, Revision

Kind = Literal["added", "removed", "changed"]
SHOWN = 3
TABLE, PART = ".parquet", f"/{tables.FILE_NAME}"
NAME_WIDTH = 30
CUT = "its parents are not in this shallow clone, so what it changed is not known: `git fetch --unshallow`"
FORM = "%H%x1f%P%x1f%as%x1f%an%x1f%s"  # the author's date: a rebase leaves it


@dataclass(frozen=True)
class Change:
    """What a commit did to a dataset; None is not known, since something could not be read.

    Attributes
    ----------
    path : str
    what : str
        added, removed or changed.
    before, after : str or None
        DVC's hashes.
    size_bytes, size_change_bytes : int or None
    files : dict or None
        Of a folder, which files were `added`, `removed` or `changed`.
    rows, rows_change, servers : int or None
        Of a table; servers if it has that column.
    records : dict or None
        Of a table in one file, such as incidents: how many are `added`, `removed` or `corrected`.
    unread : dict
        How many files could not be read, by reason.
    """

    path: str
    what: Kind
    before: str | None
    after: str | None
    size_bytes: int | None = None
    size_change_bytes: int | None = None
    files: dict[str, list[str]] | None = None
    rows: int | None = None
    rows_change: int | None = None
    servers: int | None = None
    records: dict[str, int] | None = None
    unread: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Commit:
    """A commit that changed data.

    Attributes
    ----------
    sha, date, author, subject : str
        As git has them.
    changes : tuple of Change
    problems : tuple of str
        Why not all that it changed is known, such as files of DVC's that cannot be read.
    """

    sha: str
    date: str
    author: str
    subject: str
    changes: tuple[Change, ...]
    problems: tuple[str, ...] = ()


def history(
    paths: Sequence[str] = (), revision: str = "HEAD", limit: int | None = None, ask_remote: bool = False
) -> Iterator[Commit]:
    """Yield the commits that changed data, the newest first.

    A merge is among them if its data is that of none of its parents. Of a shallow clone, the oldest commits come last,
    with the problem that what they changed is not known.

    Parameters
    ----------
    paths : sequence of str
        Datasets, or folders of them; all by default.
    revision : str
        Where to begin.
    limit : int, optional
        How many commits.
    ask_remote : bool
        Read on DVC's remote what the cache lacks: of Parquet files only footers and the column of servers, by ranges.

    Raises
    ------
    UserError
        If git does not know the revision, no commit has such a dataset, or the remote does not answer.
    """
    files, found = Files.of(ask_remote), 0
    start = Revision.find(revision).sha
    cut = git.cut().intersection(git.run("rev-list", "--max-parents=0", start).text.split())
    for sha, parents, date, author, subject in _commits("--topo-order", start, "--", *NAMING_DATA):
        if sha in cut:
            continue
        now, *before = (_datasets(one) for one in (sha, *parents.split()))
        problems = tuple(problem for _, unread in (now, *before) for problem in unread)
        changes = tuple(_changes(now[0], [known for known, _ in before] or [{}], [*map(_normal, paths)], files))
        if problems:  # what is not named there may stand in what cannot be read
            changes = tuple(change for change in changes if change.what == "changed")
        if changes or (problems and not paths):
            yield Commit(sha, date, author, subject, changes, problems)
            found += 1
            if found == limit:
                return
    for sha, _, date, author, subject in _commits("--no-walk", *sorted(cut)) if cut else ():
        yield Commit(sha, date, author, subject, (), (CUT,))
    if paths and not found and not cut:
        raise UserError(
            f"no commit of {revision} has changed {', '.join(paths)}: `crashcast data log` shows all there is"
        )


def _commits(*which: str) -> Iterator[list[str]]:
    listed = git.run("log", f"--format={FORM}", "-z", *which)
    for line in filter(None, listed.output.decode(errors="replace").split("\0")):
        yield line.split("\x1f")


@cache
def _datasets(sha: str) -> tuple[dict[str, Output], tuple[str, ...]]:
    """Return what DVC keeps for a commit, by path, and what could not be read."""
    found, problems = outputs_of([Revision(sha)])
    return {output.path: output for output in found}, tuple(f"{told.where}: {told.what}" for told in problems)


def _changes(
    now: Mapping[str, Output], parents: Sequence[Mapping[str, Output]], paths: Sequence[str], files: Files
) -> Iterator[Change]:
    for path in sorted({*now, *(path for parent in parents for path in parent)}):
        after, before = now.get(path), [parent.get(path) for parent in parents]
        is_new = all((one.md5 if one else None) != (after.md5 if after else None) for one in before)
        if is_new and is_among(path, paths):
            yield _change(path, before[0], after, files)


def is_among(path: str, paths: Sequence[str]) -> bool:
    """Tell whether a dataset is one of these, or below one of these folders; no folders mean all."""
    return not paths or any(path == one or path.startswith(f"{one}/") or one in (".", "") for one in paths)


def _normal(path: str) -> str:
    return PurePosixPath(path).as_posix()


def _change(path: str, before: Output | None, after: Output | None, files: Files) -> Change:
    what: Kind = "added" if before is None else "removed" if after is None else "changed"
    unread: dict[str, set[str]] = {}
    old, new = (_members(output, files, unread) for output in (before, after))
    was, now = (_totals(members, files, unread) for members in (old, new))
    sizes = [output.size_bytes if output else 0 for output in (before, after)]
    is_folder = any(output is not None and output.is_folder for output in (before, after))
    return Change(
        path,
        what,
        before.md5 if before else None,
        after.md5 if after else None,
        sizes[1],
        _less(sizes[1], sizes[0]),
        changed_files(old, new) if is_folder and old is not None and new is not None else None,
        now[0],
        _less(now[0], was[0]),
        now[1],
        _records(old, new, files, unread),
        {reason: len(md5s) for reason, md5s in unread.items()},
    )


def _members(output: Output | None, files: Files, unread: dict[str, set[str]]) -> dict[str, str] | None:
    """Return the files of a dataset, by path, and their hashes; None if they cannot be had."""
    if output is None:
        return {}
    try:
        return files.members_of(output)
    except UserError as error:
        unread.setdefault(str(error), set()).add(output.md5)
        return None


def changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of files that were `added`, `removed` or `changed`."""
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
    }


def _totals(members: dict[str, str] | None, files: Files, unread: dict[str, set[str]]) -> tuple[int | None, int | None]:
    """Return rows and servers of a table; None if it is none, or not all of it can be read."""
    if members is None or not all(path.endswith(TABLE) for path in members):
        return None, None
    held, lacking = [], False
    for md5 in members.values():
        try:
            held.append(files.held(md5))
        except UnreadError as error:
            unread.setdefault(str(error), set()).add(md5)
            lacking = True
    if lacking:
        return None, None
    return sum(one.rows for one in held), len(frozenset().union(*(one.servers for one in held))) or None


def _records(
    old: dict[str, str] | None, new: dict[str, str] | None, files: Files, unread: dict[str, set[str]]
) -> dict[str, int] | None:
    """Count the records that changed in a table of one file; None if they cannot be compared."""
    if not (old and new and old.keys() == new.keys() and len(new) == 1 and next(iter(new)).endswith(TABLE)):
        return None
    try:
        with ExitStack() as opened:
            found = compare(*(opened.enter_context(files.whole(md5)) for md5 in (*old.values(), *new.values())))
    except UnreadError:  # told already
        return None
    except UserError as error:
        unread.setdefault(str(error), set()).update(new.values())
        return None
    return {"added": found.added, "removed": found.removed, "corrected": found.changed}


def _less(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one - other


def as_json(commits: Iterable[Commit]) -> list[dict[str, Any]]:
    """Return commits as plain values, for programs."""
    return [asdict(commit) for commit in commits]


def show(commits: Iterable[Commit], console: Console) -> int:
    """Print commits for a person as they come, and return how many."""
    number, is_remote = 0, False
    for commit in commits:
        number += 1
        console.print(
            f"[bold]{commit.sha[:SHOWN_DIGITS]}[/] {commit.date} {escape(commit.author)}: {escape(commit.subject)}",
            highlight=False,
            soft_wrap=True,
        )
        table = Table.grid()
        rest = max(console.width - NAME_WIDTH, NAME_WIDTH)
        for width in (NAME_WIDTH, rest // 2, rest - rest // 2):  # as wide as the next commit's
            table.add_column(width=width, overflow="fold")
        for change in commit.changes:
            is_remote |= NOT_HERE in change.unread
            table.add_row(f"  {change.path}  ", f"{'; '.join(_told(change))}  ", ", ".join(_holds(change)))
        if commit.changes:
            console.print(table)
        for problem in commit.problems:
            console.print(f"  {escape(problem)}", style="red", highlight=False, soft_wrap=True)
    if not number:
        console.print("No commit has changed data yet.")
    if is_remote:
        console.print("What is not here: `crashcast data log --remote` reads on the remote what is told here.")
    return number


def _told(change: Change) -> Iterator[str]:
    if change.records:
        yield ", ".join(f"{number:,} {what}" for what, number in change.records.items() if number) or "same records"
    elif change.files and change.what == "added":
        yield f"new: {name_files(change.path, change.files['added'])}"
    elif change.files:
        listed = (f"{name_files(change.path, names)} {what}" for what, names in change.files.items() if names)
        yield ", ".join(listed)
    else:
        yield "new" if change.what == "added" else change.what
    for reason, number in change.unread.items():
        yield f"{number} file{'s' * (number != 1)} {reason}"


def name_files(path: str, names: Sequence[str]) -> str:
    """Name files of a folder for a person, partitions by their period."""
    short = [name.removeprefix(f"{path}/").removesuffix(PART) for name in names]
    units = {name.partition("=")[0] for name in short}
    unit = units.pop() if len(units) == 1 and all("=" in name for name in short) else "file"
    labels = [name.removeprefix(f"{unit}=") for name in short]
    shown = ", ".join(labels) if len(labels) <= SHOWN else f"{labels[0]} to {labels[-1]}"
    return f"{len(names)} {unit}{'s' * (len(names) != 1)} ({shown})"


def _holds(change: Change) -> Iterator[str]:
    if change.rows is not None:
        yield f"{change.rows:,} rows" + _signed(change.rows_change, change.rows, "+,")
    if change.servers is not None:
        yield f"{change.servers:,} servers"
    if change.size_bytes is not None:
        yield f"{change.size_bytes / MB:,.2f} MB" + _signed(change.size_change_bytes, change.size_bytes, "+,.2f", MB)


def _signed(change: int | None, value: int, form: str, unit: int = 1) -> str:
    """Return a change in brackets, unless there is none or it says no more than the value."""
    told = "" if change in (None, 0, value) else format((change or 0) / unit if unit > 1 else change or 0, form)
    return f" ({told})" if told.strip("+-0.") else ""
