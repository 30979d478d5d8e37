"""Whether a commit's dvc.lock belongs to the commit, and whether others can have what it names.

A lock that belongs to its commit says by hash which data, code and parameters made which model and figures. Whatever
is missing, edited by hand or not pushed is an error, never a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from crashcast import files
from crashcast.errors import UserError
from crashcast.versioning import commit_limits, dvc_command, git, remote
from crashcast.versioning.dvc_files import LOCK, PIPELINE, Locked, Stage, hash_of
from crashcast.versioning.revision import PARAMS, RAW, Revision


def check(revision: Revision) -> None:
    """Refuse a commit whose dvc.lock does not belong to its code, parameters and data, or whose figures do not.

    Raises
    ------
    UserError
        Naming everything that does not fit together.
    """
    commit_limits.check_places(revision)
    if stale := stale_stages(revision):
        listed = "\n".join(f"  {line}" for line in stale)
        raise UserError(
            f"{LOCK} of commit {revision.name} does not match the commit:\n{listed}\n"
            "Run `dvc repro` there, commit what it writes and `make push`."
        )
    edited = [path for path, digest in revision.outs.items() if _differs(revision.find_file(path), digest)]
    if edited:
        raise UserError(
            f"{', '.join(edited)} of commit {revision.name} is not what the pipeline wrote: {LOCK} records another "
            "hash. Was it edited by hand? `git restore` or `dvc repro` it, and commit that."
        )
    _ = revision.metrics  # reads every figure


def stale_stages(revision: Revision) -> list[str]:
    """Return what of a commit's dvc.lock is not of its code, parameters and data."""
    lock = revision.lock
    return [
        f"{name}: {problem}"
        for name, stage in revision.stages.items()
        for problem in (_differences(revision, stage, lock[name]) if name in lock else ["it was never run"])
    ]


def _differences(revision: Revision, stage: Stage, locked: Locked) -> Iterator[str]:
    if stage.command != locked.command:
        yield "its command changed since it ran"
    recorded = locked.params.get(PARAMS, {})
    if stage.params != recorded.keys():
        yield "it reads other parameters than when it ran"
    for name in sorted(stage.params & recorded.keys()):
        if revision.params.get(name) != recorded[name]:
            yield f"{PARAMS}: {name} changed since it ran"
    if stage.deps != locked.deps.keys():
        yield "it reads other files than when it ran"
    for path, digest in locked.deps.items():
        now = _current_hash(revision, path)
        if now is None:
            yield f"nothing says what {path} is: neither git, nor a .dvc file, nor a stage"
        elif now != digest:
            yield f"{path} changed since it ran"
    if stage.outs != locked.outs.keys():
        yield "it writes other files than when it ran"
    for path in sorted(stage.metrics):
        if revision.find_file(path) is None:
            yield f"{path} is missing"


def _current_hash(revision: Revision, path: str) -> str | None:
    if path in revision.outs:
        return revision.outs[path]
    if path in RAW:
        return revision.raw.get(path)
    content = revision.find_file(path)
    return _folder_hash(revision, path) if content is None else hash_of(content)


def _folder_hash(revision: Revision, path: str) -> str | None:
    """Return the hash of a folder of this commit, as DVC records it (see `files.md5`); None if there is none."""
    listed = git.run("ls-tree", "-r", "-z", "--name-only", revision.sha, f"{path}/").entries
    found = [PurePosixPath(file).relative_to(path) for file in listed]
    names = [name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts)]
    hashes = {name: hash_of(revision.file(f"{path}/{name}")) for name in names}
    return f"{hash_of(files.folder_list(hashes).encode())}.dir" if hashes else None


def _differs(content: bytes | None, digest: str) -> bool:
    return content is not None and hash_of(content) != digest


def check_work_tree(head: Revision) -> None:
    """Refuse changes that are not committed, in files that the pipeline reads or writes: the review would miss them.

    Raises
    ------
    UserError
        Naming the files.
    """
    if git.commit("HEAD") != head.sha:
        return
    changed = {*git.changed(untracked=False)}
    paths = {path for stage in head.stages.values() for path in stage.deps | stage.outs}
    concerned = changed & {*paths, *(f"{path}.dvc" for path in paths), PIPELINE, LOCK, PARAMS}
    concerned |= {path for path in changed if any(folder in paths for folder in map(str, PurePosixPath(path).parents))}
    if found := sorted(concerned):
        raise UserError(f"{', '.join(found)}: changed and not committed, so no review would see it; commit it first")


def check_pushed() -> None:
    """Refuse outputs and data of HEAD that lie on this machine alone: nobody else could use or check the model.

    Raises
    ------
    UserError
        Naming them, or saying that the remote does not answer.
    """
    remote.check()  # of a bucket that is not there DVC says that nothing was pushed
    if missing := dvc_command.ask("data", "status", "--not-in-remote").get("not_in_remote", []):
        raise UserError(f"not on DVC's remote: {', '.join(missing)}: `make push` where it was made")
