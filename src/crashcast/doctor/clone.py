"""The clone itself: its environment against the lock, its git and DVC files, what killed commands left behind."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from crashcast import files
from crashcast.doctor.findings import Finding
from crashcast.errors import UserError
from crashcast.execution import orphan_guard
from crashcast.run_record import FOLDER
from crashcast.text import some_of
from crashcast.versioning import dvc_command, dvc_files, git, tracked_data
from crashcast.versioning.dvc_command import PATH_LOCKS
from crashcast.versioning.dvc_files import LOCK, NAMING_DATA, PIPELINE
from crashcast.versioning.environment import RUN, differences
from crashcast.versioning.lock_checks import check as check_lock
from crashcast.versioning.revision import PARAMS, RAW, Revision

SHOWN = 5
UNCACHED = "not in cache"  # as DVC says of an output that is in the work tree, unchanged
OURS, BASE, THEIRS, END = "<<<<<<<", "|||||||", "=======", ">>>>>>>"


def environment() -> Iterator[Finding]:
    """Compare this Python and its packages with what the project is locked to."""
    from packaging.specifiers import SpecifierSet

    with suppress(FileNotFoundError):
        wanted = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
        here = ".".join(map(str, sys.version_info[:3]))
        if here not in SpecifierSet(wanted):
            yield Finding(
                "error", "Python", f"{here} runs, the project wants {wanted}", "make clean env PYTHON=python3.11"
            )
    with suppress(FileNotFoundError):
        if found := list(differences(Path(RUN).read_text(encoding="utf-8"))):
            shown = some_of(found, SHOWN)
            yield Finding(
                "error", RUN, f"installed packages differ, and may write other bytes: {shown}", "make clean env"
            )


def pointers() -> Iterator[Finding]:
    """Look for conflicts in the files that DVC reads, and for changes of them that are not committed."""
    readable = True
    for path in sorted({*git.run("ls-files", "-z", "--", *NAMING_DATA, PIPELINE, PARAMS).entries}):
        is_lock = Path(path).name == LOCK
        try:
            content = Path(path).read_bytes()
            if is_lock and dvc_files.is_damaged_lock(content):
                readable = False
                what, todo = "empty or cut short by a kill, so DVC refuses to run", f"git restore {path} && dvc repro"
                yield Finding("error", path, what, todo, partial(_restore, Path(path)))
                continue
            dvc_files.load(content, path)
        except FileNotFoundError:
            continue  # git says so below
        except UserError as error:
            readable = False
            again = "dvc checkout && dvc repro" if is_lock else f"dvc checkout {path.removesuffix('.dvc')}"
            yield Finding(
                "error",
                path,
                str(error),
                f"git checkout --ours {path} && {again}  (or --theirs)",
                partial(_take_ours, Path(path)) if is_lock else None,
            )
    if readable and (changed := " ".join(git.changed(*NAMING_DATA, PIPELINE, PARAMS, untracked=True))):
        yield Finding("warning", changed, "not committed, so nobody else gets it", f"git add {changed} && git commit")


def leftovers() -> Iterator[Finding]:
    """Look for locks and processes that a killed `dvc` left behind."""
    yield from _locks()
    for note in sorted(FOLDER.glob("*.json")):
        process = orphan_guard.noted(note)
        if process and not orphan_guard.dvc_above(process):
            yield Finding(
                "error",
                f"stage {note.stem}",
                f"process {process.pid} still runs it, though no dvc runs above it: it may write over later output",
                f"kill {process.pid}",
                partial(_stop, process),
            )


def commit(revision: Revision) -> Iterator[Finding]:
    """Look whether a commit's dvc.lock belongs to its code, parameters and data."""
    if revision.find_file(PIPELINE) is None:
        return
    try:
        if not all(revision.find_file(f"{path}.dvc") for path in revision.raw_paths or RAW):
            return  # it has no raw data yet, or is another project's
        check_lock(revision)
    except UserError as error:
        first, *rest = str(error).splitlines()
        told = "; ".join(line.strip() for line in rest[:SHOWN] if line.startswith(" "))
        todo = "dvc repro && git add dvc.lock metrics && git commit"
        yield Finding("warning", f"commit {revision.name}", f"{first} {told}".strip(), todo)


def work_tree() -> Iterator[Finding]:
    """Ask DVC what differs between the work tree and its files: edited data, stages that are to run again."""
    try:
        status = dvc_command.ask("status")
    except UserError as error:
        yield Finding("unknown", "dvc status", str(error))
        return
    outputs = {
        path: state
        for item in status.values()
        for change in item
        if isinstance(change, dict)
        for path, state in change.get("changed outs", {}).items()
    }
    if absent := [path for path in outputs if not Path(path).exists()]:
        yield Finding("warning", ", ".join(absent), "not in the work tree", "make pull")
    if uncached := _as_locked([path for path, state in outputs.items() if state == UNCACHED]):
        yield Finding("warning", ", ".join(uncached), "as committed, but not in the cache", "make pull")
    for name, changes in status.items():
        if name.endswith(".dvc"):
            yield from _edited(name, [path for change in changes for path in change.get("changed outs", {})])
        elif causes := [told for change in changes for told in _causes(change, [*absent, *uncached])]:
            yield Finding(
                "warning",
                LOCK,
                f"stage {name} is not what it records: {', '.join(causes)}",
                f"dvc repro  (or, if it was edited by hand: git restore {LOCK})",
                _take_committed,
            )


def _edited(pointer: str, paths: list[str]) -> Iterator[Finding]:
    for path in filter(os.path.exists, paths):
        try:
            tracked_data.check_tracked([Path(path)])
        except UserError as error:
            yield Finding(
                "warning",
                path,
                str(error).splitlines()[0].removeprefix(f"{path} ").removeprefix(f"{path}: "),
                f"git restore {pointer} && dvc checkout {path}  (to accept it: dvc add {path} && git add {pointer})",
            )
        else:
            yield Finding("warning", path, "as committed, but not in the cache", "make pull")


def _as_locked(paths: list[str]) -> list[str]:
    """Return the outputs of stages that are in the work tree as dvc.lock has them."""
    if not Path(LOCK).exists():  # no stage has run: it is raw data
        return []
    locked = dvc_files.outs_of(dvc_files.read_lock())
    present = [path for path in paths if path in locked and Path(path).exists()]
    return [path for path in present if files.md5(Path(path)) == locked[path]]


def _causes(change: dict[str, dict[str, str]] | str, known: list[str]) -> Iterator[str]:
    if isinstance(change, str):
        yield change
        return
    for kind, items in change.items():
        yield from (f"{path} {told}" for path, told in items.items() if not (kind == "changed outs" and path in known))


def _take_committed() -> str:
    """Put HEAD's dvc.lock in place of an edited one, if the work tree fits HEAD's."""
    edited, committed = Path(LOCK).read_bytes(), git.file("HEAD", LOCK)
    if committed is None or committed == edited:
        raise UserError("it is as committed: `dvc repro` brings it up to date")
    kept = _keep(Path(LOCK))
    _write(Path(LOCK), committed)
    if any(not name.endswith(".dvc") for name in dvc_command.ask("status")):
        _write(Path(LOCK), edited)
        kept.unlink()
        raise UserError("HEAD's does not fit the work tree either: `dvc repro` brings it up to date")
    return f"HEAD's fits the work tree and is back; the edited one is {kept}"


def _restore(path: Path) -> str:
    """Put HEAD's file in place of a damaged one."""
    with dvc_command.kept_out():
        committed = git.file("HEAD", str(path))
        if committed is None:
            raise UserError("HEAD has none: remove it, and `dvc repro` writes it anew")
        kept = _keep(path)
        _write(path, committed)
    return f"HEAD's is back, `dvc repro` does the rest; the damaged one is {kept}"


def _take_ours(path: Path) -> str:
    """Put our side in place of a file in conflict."""
    lines: list[str] = []
    side = ""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        mark = line[:7]
        if mark in (OURS, BASE, THEIRS, END):
            side = "" if mark == END else mark
        elif side in ("", OURS):
            lines.append(line)
    text = "".join(lines).encode()
    dvc_files.load(text, f"our side of {path}")
    kept = _keep(path)
    _write(path, text)
    return f"our side taken, `dvc checkout && dvc repro` does the rest; the file in conflict is {kept}"


def _keep(path: Path) -> Path:
    number = 1
    while (kept := FOLDER / f"{path.name}.{number}").exists():
        number += 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(path.read_bytes())
    return kept


def _write(path: Path, content: bytes) -> None:
    with files.replacing(path) as aside:
        aside.write_bytes(content)


def _locks() -> Iterator[Finding]:
    try:
        held = dvc_command.path_lock_holders()
    except FileNotFoundError:
        return
    except ValueError:
        yield Finding(
            "error",
            str(PATH_LOCKS),
            "empty or cut short by a kill, so DVC refuses to run",
            f"rm {PATH_LOCKS}",
            _remove_lock,
        )
        return
    for pid, command in held.items():
        state = _state(pid)
        if state == "another":
            what = f"`{command}` was killed as process {pid}, which is another program now, and DVC would wait for it"
            yield Finding("error", str(PATH_LOCKS), what, f"rm {PATH_LOCKS}", _remove_lock)
        elif state == "dead":
            what = f"`{command}` was killed as process {pid}: the next dvc command sees that"
            yield Finding("note", str(PATH_LOCKS), what, "", _remove_lock)
        else:
            yield Finding("note", str(PATH_LOCKS), f"`{command}` runs as process {pid}")


def _state(pid: int) -> str:
    try:
        return "runs" if orphan_guard.is_dvc(psutil.Process(pid)) else "another"
    except psutil.NoSuchProcess:
        return "dead"
    except psutil.Error:
        return "runs"  # somebody else's: DVC waits for it


def _remove_lock() -> str:
    with dvc_command.kept_out(), suppress(FileNotFoundError):
        with suppress(ValueError):
            if any(_state(pid) == "runs" for pid in dvc_command.path_lock_holders()):
                raise UserError("a dvc command runs: wait until it ends")
        PATH_LOCKS.unlink()
    return "removed"


def _stop(process: psutil.Process) -> str:
    orphan_guard.stop(process)
    return "stopped"
