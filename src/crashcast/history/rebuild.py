"""Whether a commit, run anew, gives the bytes that its dvc.lock records; if not, where it first differs, and how far.

It runs from its raw data alone: in a worktree, with the environment that it locks, an empty cache and no memo.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from crashcast import files
from crashcast.errors import UserError
from crashcast.execution import memo
from crashcast.history.byte_comparison import TOLERANCE, is_close
from crashcast.history.diff import File, read_difference, show_files
from crashcast.history.log import changed_files
from crashcast.versioning import cache, dvc_files, environment, git
from crashcast.versioning.dvc_files import LOCK
from crashcast.versioning.lock_checks import check
from crashcast.versioning.outputs import outputs_of
from crashcast.versioning.revision import SHOWN_DIGITS, Revision
from crashcast.versioning.worktree import worktree

SHOWN_FIGURES = (".csv", ".md")  # made of figures that other outputs hold
TAIL_LINES = 30  # of what a failed run said
EXIT_STATUS = {"same": 0, "different": 1, "close": 3}


@dataclass(frozen=True)
class Output:
    """An output that came out otherwise.

    Attributes
    ----------
    path : str
    committed, rebuilt : str or None
        DVC's hashes; None if there is no such output.
    files : tuple of File
        Those that differ, and how: before is what was committed, after what was rebuilt.
    unread : str or None
        Why nothing but the hash is known of what was committed.
    """

    path: str
    committed: str | None
    rebuilt: str | None
    files: tuple[File, ...] = ()
    unread: str | None = None

    @property
    def is_close(self) -> bool:
        """Whether rows are the same, and values as close as types of CPU bring them."""
        return not self.unread and all(map(_is_close, self.files))


@dataclass(frozen=True)
class Rebuilt:
    """The result of running a commit anew.

    Attributes
    ----------
    sha : str
    stages : tuple of str
        All that ran.
    differing : dict
        By stage, in the order in which they run: the outputs that differ from what its dvc.lock records.
    notes : tuple of str
        Why its dvc.lock does not belong to the commit in the first place.
    """

    sha: str
    stages: tuple[str, ...]
    differing: dict[str, tuple[Output, ...]]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Literal["same", "close", "different"]:
        """Whether all bytes are the same, or else all figures within the tolerance."""
        if not self.differing:
            return "same"
        all_close = all(output.is_close for outs in self.differing.values() for output in outs)
        return "close" if all_close else "different"


def rebuild(name: str, trust_authors: bool = False) -> Rebuilt:
    """Run a commit anew and compare every output with what its dvc.lock records.

    Raw data comes from DVC's cache, or is pulled. Nothing else does: every stage computes all of its partitions. The
    worktree and what was computed are removed afterwards.

    Parameters
    ----------
    name : str
        The commit.
    trust_authors : bool
        Whether it may be one that is not in HEAD's history.

    Raises
    ------
    UserError
        If git does not know it, or it may not run here; if its files, environment or raw data cannot be had, or a
        stage fails.
    """
    revision = Revision.find(name)
    if not trust_authors and not git.is_ancestor(revision.sha, "HEAD"):
        raise UserError(
            f"commit {revision.name} is not in HEAD's history. Its code would run here with your rights: read what it "
            "changes, and if you trust its authors, add --trust-authors"
        )
    lock, notes = revision.lock, []
    try:
        check(revision)
    except UserError as error:
        notes.append(str(error))
    python = environment.interpreter(revision, cache.review_folder())
    stages = tuple(revision.upstream({path for stage in revision.stages.values() for path in stage.outs}))
    with worktree(revision) as project:
        cache_folder = project / ".dvc" / "cache"
        (project / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache_folder}\n", encoding="utf-8")
        _link_raw_data(revision, project, cache_folder)
        _run_dvc(python, project, "repro", "--force", why=f", {revision.name}", **{memo.SWITCH: "off"})
        written = dvc_files.read_lock(project / LOCK)
        differing = {}
        for stage in stages:
            before = lock[stage].outs if stage in lock else {}
            after = written[stage].outs
            changed = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
            if changed:
                differing[stage] = tuple(
                    _output(revision, project, path, before.get(path), after.get(path)) for path in changed
                )
    return Rebuilt(revision.sha, stages, differing, tuple(notes))


def _link_raw_data(revision: Revision, project: Path, cache_folder: Path) -> None:
    """Link the data that stages need and none makes into the worktree and its cache."""
    needed = {path for stage in revision.stages.values() for path in stage.deps}
    made = {path for stage in revision.stages.values() for path in stage.outs}
    kept, problems = outputs_of([revision])
    if problems:
        raise UserError(f"{problems[0].where}: {problems[0].what}")
    for output in kept:
        if output.path not in needed - made:
            continue
        what = f"{output.path} of commit {revision.name}"
        cache.lay_out(output.md5, project / output.path, what)
        for md5 in {output.md5, *(cache.members(output.md5, what).values() if output.is_folder else ())}:
            files.link(cache.locate(md5, what), cache_folder / dvc_files.object_path(md5))


def _run_dvc(python: Path, project: Path, *arguments: str, why: str, **variables: str) -> None:
    """Run DVC with the code and environment of another commit, and pass on its messages.

    Raises
    ------
    UserError
        If it fails: a sentence that ends with `why`.
    """
    said: deque[str] = deque(maxlen=TAIL_LINES)
    with subprocess.Popen(
        [python, "-m", "dvc", *arguments], cwd=project, env=environment.variables(python) | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            print(f"  {line.rstrip()}", file=sys.stderr)
    if process.returncode:
        raise UserError(
            f"`{' '.join(['dvc', *arguments])}` failed with the code of another commit{why}:\n{''.join(said).rstrip()}"
        )


def _output(revision: Revision, project: Path, path: str, committed: str | None, rebuilt: str | None) -> Output:
    """Say how an output differs."""
    if committed is None or rebuilt is None:
        return Output(path, committed, rebuilt, unread="only one of the two runs has it")
    with cache.temporary() as place:
        try:
            before = _committed_files(revision, path, committed, place)
        except UserError as error:
            return Output(path, committed, rebuilt, unread=str(error))
        after = {file.as_posix(): project / file for file in _files(project, Path(path))}
        hashes = [{name: files.md5(file) for name, file in pairs.items()} for pairs in (before, after)]
        found = [
            _changed(name, before[name], after[name]) if what == "changed" else File(name, what)
            for what, names in changed_files(*hashes).items()
            for name in names
        ]
    return Output(path, committed, rebuilt, tuple(found))


def _changed(name: str, before: Path, after: Path) -> File:
    try:
        difference, figures = read_difference(before, after, name)
    except UserError as error:
        return File(name, "changed", unread=str(error))
    rows = (difference.before, difference.after) if difference else (None, None)
    return File(name, "changed", rows, difference, figures)


def _committed_files(revision: Revision, path: str, md5: str, place: Path) -> dict[str, Path]:
    """Return the files of an output as they were committed."""
    content = revision.find_file(path)
    if content is not None:  # metrics lie in git
        (place / "metrics").write_bytes(content)
        if files.md5(place / "metrics") != md5:
            raise UserError("git has another file than the one that dvc.lock records")
        return {path: place / "metrics"}
    what = f"{path} of commit {revision.name}"
    if not md5.endswith(".dir"):
        return {path: cache.locate(md5, what)}
    members = cache.members(md5, what)
    cache.fetch(members.values(), what)
    return {f"{path}/{name}": cache.locate(member, what) for name, member in members.items()}


def _files(project: Path, path: Path) -> Iterator[Path]:
    """Yield the files of an output, relative to the project."""
    if (project / path).is_file():
        yield path
    for folder, _, names in os.walk(project / path):
        yield from (Path(folder, name).relative_to(project) for name in names)


def _is_close(file: File) -> bool:
    if file.what != "changed" or file.unread:
        return False
    if file.figures is not None:
        return all(is_close(old, new) for old, new in file.figures.values())
    if file.difference is None:
        return file.path.endswith(SHOWN_FIGURES)
    return not (file.difference.added or file.difference.removed) and all(
        not column.only and (column.shift is not None or not column.changed) and (column.shift or 0) <= TOLERANCE
        for column in file.difference.columns
    )


def as_json(found: Rebuilt) -> dict[str, Any]:
    """Return what came of it as plain values, for programs."""
    return {**asdict(found), "verdict": found.verdict, "first": next(iter(found.differing), None)}


def show(found: Rebuilt, console: Console) -> None:
    """Print what came of it for a person: of the first stage that differs, all that is known."""
    name = found.sha[:SHOWN_DIGITS]
    for note in found.notes:
        console.print(escape(note), style="yellow", highlight=False, soft_wrap=True)
    if found.verdict == "same":
        console.print(f"Commit {name} is reproduced: all {len(found.stages)} stages gave the bytes of its {LOCK}.")
        return
    (first, outs), *rest = found.differing.items()
    console.print(f"[bold]{first}[/] is the first stage that differs from {LOCK} of commit {name}:", soft_wrap=True)
    for output in outs:
        _show_output(output, console)
    for stage, others in rest:
        console.print(f"Then {stage}: {', '.join(output.path for output in others)}", soft_wrap=True)
    if found.verdict == "close":
        told = f"Rows are the same, and every figure and column agrees within {TOLERANCE:.0%}"
        console.print(f"{told}, as between types of CPU.", soft_wrap=True)
        return
    for stage, others in rest:
        for output in others:
            if not output.is_close and output.path.startswith("metrics/"):
                console.print(f"{stage}:")
                _show_output(output, console)
    console.print(f"Not reproduced: beyond the {TOLERANCE:.0%} that types of CPU may differ by.", soft_wrap=True)


def _show_output(output: Output, console: Console) -> None:
    hashes = " to ".join((md5 or "none")[:SHOWN_DIGITS] for md5 in (output.committed, output.rebuilt))
    console.print(f"  {escape(output.path)}: {hashes}", highlight=False, soft_wrap=True)
    if output.unread:
        console.print(f"    {escape(output.unread)}", highlight=False, soft_wrap=True)
    show_files(output.path, output.files, console)
