"""The hashes of the outputs that a commit's code makes of given raw data.

If a dvc.lock records such a run, its hashes are taken. Otherwise the commit's own stages run in a temporary worktree,
and DVC's cache keeps their outputs: the second time they are only looked up.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crashcast import canonical
from crashcast.errors import UserError
from crashcast.versioning import cache, commit_limits, dvc_files, environment, git
from crashcast.versioning.revision import RAW, Revision

TAIL_LINES = 30  # of what a failed run said
SAME_DATA = ", on the data that both models are to be judged on"

Runs = Mapping[str, Mapping[str, str]]  # what stages wrote, by the key of all that they depend on


def recorded(*revisions: Revision) -> dict[str, dict[str, str]]:
    """Return every run that the dvc.lock of these commits records; if two differ, that of the first commit."""
    return {
        _key(entry.command, entry.params, entry.deps): entry.outs
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
        Runs that other commits record (`recorded`); what its own dvc.lock says goes first.

    Returns
    -------
    dict
        The hash of each output that is wanted.

    Raises
    ------
    UserError
        If the commit's environment cannot be set up, or a stage of it fails or refuses the data.
    """
    stages, known = upstream(revision, wanted), {**known, **recorded(revision)}
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
    entries = [revision.lock[name] for name in upstream(revision, [path])]
    return [
        (entry.command, entry.params, {name: digest for name, digest in entry.deps.items() if name not in made})
        for entry in entries
    ]


def upstream(revision: Revision, wanted: Collection[str]) -> list[str]:
    """Return the stages that make `wanted`, each after those that it needs."""
    maker = {path: name for name, stage in revision.stages.items() for path in stage.outs}
    if unknown := sorted(path for path in wanted if path not in maker):
        raise UserError(f"no stage of commit {revision.name} writes {', '.join(unknown)}: it cannot be compared")
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        for path in sorted(revision.stages[name].deps):
            if path in maker and maker[path] not in order:
                visit(maker[path])
        order[name] = None

    for path in sorted(wanted):
        visit(maker[path])
    return list(order)


def _recall(
    revision: Revision, stages: list[str], raw: Mapping[str, str], known: Runs
) -> tuple[dict[str, str], list[str]]:
    """Return the hashes of raw data and of what is known to come of it, and the stages that have to run."""
    found, missing, unknown = dict(raw), [], set[str]()
    for name in stages:
        locked, outs = revision.lock[name], None
        if not unknown & locked.deps.keys():
            deps = {path: found.get(path, digest) for path, digest in locked.deps.items()}
            key = _key(locked.command, locked.params, deps)
            outs = known.get(key) or _kept(key)
        if outs is None:
            missing.append(name)
            unknown |= revision.stages[name].outs
        else:
            found |= outs
    return found, missing


def _key(command: str, params: Mapping[str, Any], deps: Mapping[str, str]) -> str:
    content = {"command": command, "params": params, "deps": deps}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _kept(key: str) -> dict[str, str] | None:
    """Return the outputs of a run that the review made; None if DVC's cache no longer has them all."""
    try:
        outs: dict[str, str] = json.loads(_record(key).read_text(encoding="utf-8"))
        return outs if all(cache.is_held(digest) for digest in outs.values()) else None
    except (OSError, ValueError):
        return None


def _run(revision: Revision, stages: list[str], inputs: Mapping[str, str]) -> None:
    """Run stages of a commit on raw data and what came of it, in a worktree of its own, and keep what they write."""
    python = environment.interpreter(revision, cache.review_folder())
    print(f"commit {revision.name} computes {', '.join(stages)} in a temporary worktree", file=sys.stderr)
    needed = {path for name in stages for path in revision.lock[name].deps}
    with worktree(revision) as project:
        local = project / ".dvc" / "config.local"
        local.write_text(f"[cache]\n    dir = {cache.root()}\n", encoding="utf-8")
        for path in sorted(needed & inputs.keys()):
            cache.put(inputs[path], project / path, f"{path} of the review")
        if raw := [path for path in RAW if path in needed]:
            run_dvc(python, project, "add", "--quiet", *raw)
            git.run("add", *(f"{path}.dvc" for path in raw), folder=project)  # `validate` accepts data in git's index
        # not DVC's run cache: it also holds what somebody recorded by `dvc commit`, without a run
        run_dvc(python, project, "repro", "--quiet", "--no-run-cache", "--single-item", *stages)
        written = dvc_files.read_lock(project / dvc_files.LOCK)
        for name in stages:
            entry = written[name]
            outs = {path: digest for path, digest in entry.outs.items() if path not in revision.stages[name].metrics}
            canonical.write_json(_record(_key(entry.command, entry.params, entry.deps)), outs)


def run_dvc(python: Path, project: Path, *arguments: str, why: str = SAME_DATA, **variables: str) -> None:
    """Run DVC with the code and environment of another commit, and pass on its messages.

    Parameters
    ----------
    python : Path
        The environment's.
    project : Path
        That commit's worktree.
    why : str
        Ends the sentence that its failure is told in.
    **variables
        Of its environment.

    Raises
    ------
    UserError
        If it fails.
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


def run_script(script: str, arguments: Sequence[Path], project: Path, python: Path, failure: str) -> str:
    """Run a script of this project with the code and environment of another commit, and return what it prints.

    Parameters
    ----------
    script : str
        Its file.
    arguments : sequence of Path
    project : Path
        That commit's worktree.
    python : Path
        The environment's.
    failure : str
        Begins the sentence that its failure is told in.

    Raises
    ------
    UserError
        If it fails, with the last line of what it said.
    """
    variables = {"PYTHONPATH": str(project / "src"), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        # -P: the script's folder is part of another version of the project
        [python, "-P", script, *arguments], cwd=project, text=True, capture_output=True, check=False,
        env=environment.variables(python) | variables,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{failure}: {reason}")
    return done.stdout


@contextmanager
def worktree(revision: Revision) -> Iterator[Path]:
    """Give the project as a commit has it, in a worktree without data, for as long as needed.

    Raises
    ------
    UserError
        If the commit has files where the worktree gets its own, such as a link .dvc/config.local.
    """
    commit_limits.check_places(revision)
    prefix = git.prefix()
    with cache.temporary() as folder:
        git.run("worktree", "prune")  # forgets those that killed reviews left
        place = folder / "worktree"
        git.run("worktree", "add", "--quiet", "--detach", str(place), revision.sha)
        try:
            yield place / prefix
        finally:
            git.run("worktree", "remove", "--force", "--force", str(place), expected=git.ANY_STATUS)


def _record(key: str) -> Path:
    return cache.review_folder() / "runs" / key[:2] / f"{key}.json"
