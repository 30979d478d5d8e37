"""What a commit's code makes of given raw data, by hash: as some dvc.lock records it, else computed, once.

Tables and models are named by their hash and read from DVC's cache, to which DVC's remote brings what is missing; every
file is checked against its hash before it is used. What no dvc.lock records, the commit's own stages compute in a
temporary worktree, and DVC's cache keeps it: the second time it is only looked up.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml

from crashcast import canonical, listing, memo, remote
from crashcast.errors import UserError
from crashcast.review import environments
from crashcast.review.revisions import LOCK, MODELS, RAW, Locked, Revision, git

FOLDER = "crashcast-review"  # in DVC's cache folder, beside the memo
CARD = "card.md"
TAIL_LINES = 30  # of what a failed run said
SAME_DATA = ", on the data that both models are to be judged on"
READ_ONLY = 0o444  # as DVC keeps its cache

Runs = Mapping[str, Mapping[str, str]]  # what stages wrote, by the key of all that they depend on


def members(digest: str, what: str) -> dict[str, str]:
    """Return the hash of each file of a folder.

    Parameters
    ----------
    digest : str
        DVC's hash of the folder; it ends with `.dir`.
    what : str
        What it is, for an error.
    """
    return listing.members(locate(digest, what).read_bytes(), what)


def locate(digest: str, what: str) -> Path:
    """Return a file of DVC's cache, fetched where need be, that has the bytes its hash says.

    Raises
    ------
    UserError
        Where neither the cache nor the remote has it, or it is damaged.
    """
    fetch([digest], what)
    path = cached(digest)
    if _md5(path, canonical.signature(path)) != digest.removesuffix(".dir"):
        raise UserError(f"{what} is damaged: {path} is not what its name says; remove it and `dvc fetch`")
    return path


def model_files(revision: Revision) -> dict[str, str]:
    """Return the hash of each file of a commit's model."""
    return members(revision.outs[MODELS], f"the model of commit {revision.name}")


def is_same_model(one: Revision, other: Revision) -> bool:
    """Tell whether two commits have the same model, whatever its card says of how it was chosen."""
    files, others = ({name: digest for name, digest in model_files(r).items() if name != CARD} for r in (one, other))
    return files == others


def describe_model(revision: Revision) -> dict[str, Any]:
    """Return what model.json says of a commit's model."""
    file = locate(model_files(revision)["model.json"], f"the model of commit {revision.name}")
    described: dict[str, Any] = json.loads(file.read_bytes())
    return described


def fetch(digests: Iterable[str], what: str) -> None:
    """Bring what DVC's cache lacks from DVC's remote.

    Raises
    ------
    UserError
        Where the remote does not answer, or lacks something.
    """
    missing = {digest for digest in digests if not cached(digest).exists()}
    if not missing:
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    remote.check()  # DVC would try for minutes
    try:
        with Repo() as repo:
            repo.cloud.pull({HashInfo("md5", digest) for digest in missing})
    except (DvcException, OSError) as error:
        raise UserError(f"{what} cannot be fetched from DVC's remote: {error}") from None
    if any(not cached(digest).exists() for digest in missing):
        raise UserError(
            f"{what} is neither in DVC's cache nor on its remote, {remote.url()}: `dvc push` where it was made"
        )


def lay_out(digest: str, target: Path, what: str, wanted: Callable[[str], bool] = lambda _: True) -> Path:
    """Make `target` a folder of links to the files of a folder that `wanted` picks by name, or a link to a file.

    They are DVC's cache itself: to be read only.
    """
    if not digest.endswith(".dir"):
        _link(locate(digest, what), target)
        return target
    picked = {path: member for path, member in members(digest, what).items() if wanted(path)}
    fetch(picked.values(), what)
    target.mkdir(parents=True, exist_ok=True)
    for path, member in picked.items():
        _link(locate(member, what), target / path)
    return target


def hold(path: Path) -> str:
    """Put a file into DVC's cache, and return its hash."""
    digest = canonical.md5(path)
    if not cached(digest).exists():
        with canonical.replacing(cached(digest)) as aside:
            shutil.copyfile(path, aside)
            aside.chmod(READ_ONLY)
    return digest


def hold_folder(files: Mapping[str, str]) -> str:
    """Put a folder of files that DVC's cache holds into it, and return the folder's hash."""
    entries = [{"md5": files[path], "relpath": path} for path in sorted(files)]
    with temporary() as folder:
        (folder / "listing").write_text(json.dumps(entries, sort_keys=True), encoding="utf-8")
        digest = canonical.md5(folder / "listing")
        if not cached(f"{digest}.dir").exists():
            with canonical.replacing(cached(f"{digest}.dir")) as aside:
                shutil.copyfile(folder / "listing", aside)
                aside.chmod(READ_ONLY)
    return f"{digest}.dir"


def runs_of(*revisions: Revision) -> dict[str, dict[str, str]]:
    """Return every run that the dvc.lock of these commits records; where two differ, as the first has it."""
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
        Runs that other commits record (`runs_of`); what its own dvc.lock says goes first.

    Returns
    -------
    dict
        The hash of each output that is wanted.

    Raises
    ------
    UserError
        Where the commit's environment cannot be set up, or a stage of it fails or refuses the data.
    """
    stages, known = upstream(revision, wanted), {**known, **runs_of(revision)}
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
    """Return what a run wrote that the review made, where DVC's cache still has it."""
    try:
        outs: dict[str, str] = json.loads(_record(key).read_text(encoding="utf-8"))
        return outs if all(is_held(digest) for digest in outs.values()) else None
    except (OSError, ValueError):
        return None


def is_held(digest: str) -> bool:
    """Tell whether DVC's cache has all of a file or folder."""
    path = cached(digest)
    if not digest.endswith(".dir"):
        return path.exists()
    return path.exists() and all(cached(entry["md5"]).exists() for entry in json.loads(path.read_bytes()))


def _run(revision: Revision, stages: list[str], inputs: Mapping[str, str]) -> None:
    """Run stages of a commit on raw data and what came of it, in a worktree of its own, and keep what they write."""
    python = environments.interpreter(revision, folder())
    print(f"review: commit {revision.name} computes {', '.join(stages)} in a temporary worktree", file=sys.stderr)
    needed = {path for name in stages for path in revision.lock[name].deps}
    with worktree(revision) as project:
        local = project / ".dvc" / "config.local"
        local.write_text(f"[cache]\n    dir = {memo.cache_folder().resolve()}\n", encoding="utf-8")
        for path in sorted(needed & inputs.keys()):
            put(inputs[path], project / path, f"{path} of the review")
        if raw := [path for path in RAW if path in needed]:
            call(python, project, "dvc", "add", "--quiet", *raw)
            # `validate` takes for accepted what git's index, here the worktree's own, holds
            call(python, project, "git", "add", *(f"{path}.dvc" for path in raw))
        call(python, project, "dvc", "repro", "--quiet", "--single-item", *stages)
        written = yaml.safe_load((project / LOCK).read_text(encoding="utf-8"))["stages"]
        for name in stages:
            entry = Locked.of(written[name])
            outs = {path: digest for path, digest in entry.outs.items() if path not in revision.stages[name].metrics}
            canonical.write_json(_record(_key(entry.command, entry.params, entry.deps)), outs)


def call(python: Path, project: Path, program: str, *arguments: str, why: str = SAME_DATA, **variables: str) -> None:
    """Run a program with the code and environment of another commit, and pass on what it says.

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
        Where it fails.
    """
    command = [*([python, "-m", program] if program == "dvc" else [program]), *arguments]
    said: deque[str] = deque(maxlen=TAIL_LINES)
    with subprocess.Popen(
        command, cwd=project, env=environments.variables(python) | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            print(f"  {line.rstrip()}", file=sys.stderr)
    if process.returncode:
        raise UserError(
            f"`{' '.join([program, *arguments])}` failed with the code of another commit{why}:\n"
            f"{''.join(said).rstrip()}"
        )


@contextmanager
def worktree(revision: Revision) -> Iterator[Path]:
    """Give the project as a commit has it, in a worktree without data, for as long as needed."""
    prefix = git("rev-parse", "--show-prefix").stdout.decode().strip()
    with temporary() as folder:
        git("worktree", "prune")  # forgets those that killed reviews left
        place = folder / "worktree"
        hooks = ("-c", f"core.hooksPath={os.devnull}")  # DVC's own would check out data
        added = git(*hooks, "worktree", "add", "--quiet", "--detach", str(place), revision.sha)
        if added.returncode:
            raise UserError(f"git cannot check out commit {revision.name}: {added.stderr.decode().strip()}")
        try:
            yield place / prefix
        finally:
            git("worktree", "remove", "--force", "--force", str(place))


@contextmanager
def temporary() -> Iterator[Path]:
    """Give an empty folder on the file system of DVC's cache, for as long as needed."""
    place = folder() / "temporary"
    place.mkdir(parents=True, exist_ok=True)
    for left in place.iterdir():  # by killed reviews
        if not psutil.pid_exists(int(left.name.partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=place, prefix=f"{os.getpid()}-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def folder() -> Path:
    """Return where the review keeps what it computed."""
    return memo.cache_folder().resolve() / FOLDER


def _record(key: str) -> Path:
    return folder() / "runs" / key[:2] / f"{key}.json"


def put(digest: str, target: Path, what: str) -> None:
    """Put a file or folder where stages can work with it: hard links, as DVC's own."""
    files = members(digest, what) if digest.endswith(".dir") else {"": digest}
    fetch(files.values(), what)
    for path, member in files.items():
        file = target / path if path else target
        file.parent.mkdir(parents=True, exist_ok=True)
        memo.link(locate(member, what), file)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def cached(digest: str) -> Path:
    """Return where DVC's cache has an object, or would have it."""
    return _cache_folder(Path.cwd()) / "files" / "md5" / digest[:2] / digest[2:]


@cache
def _cache_folder(_: Path) -> Path:
    return memo.cache_folder().resolve()


@cache
def _md5(path: Path, _: canonical.Signature) -> str:
    return canonical.md5(path)
