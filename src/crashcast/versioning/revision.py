"""A commit as the review sees it: its files as git has them, and whether its dvc.lock belongs to them.

Everything fails closed: what is missing, in conflict, edited by hand or not pushed is an error that says so, never a
pass. A lock that belongs to its commit says by hash which data, code and parameters made which model and figures.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import PurePosixPath
from typing import Any, Self, TypeVar

import yaml
from pydantic import ValidationError

from crashcast import strict_yaml
from crashcast.errors import UserError
from crashcast.params.base import Section
from crashcast.paths import TABLES
from crashcast.versioning import dvc_files, git, remote
from crashcast.versioning.dvc_files import LOCK, Locked, one_line

PIPELINE, PARAMS = "dvc.yaml", "params.yaml"
TELEMETRY, INCIDENTS, COVERAGE, TICKET_SOURCES = RAW = tuple(path.as_posix() for path in TABLES)  # as DVC names them
MODELS = "models"  # the output of `train`
REGISTERED = "crash-model"  # what the registry calls it: a version's git tag is crash-model@v1.0.0
OPTIONAL_FIGURE = re.compile(r"slices\..+")  # of too few crashes to say anything
SHOWN_DIGITS = 8

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Revision:
    """A commit.

    Attributes
    ----------
    sha : str
        Its full name.
    """

    sha: str

    @classmethod
    def find(cls, name: str) -> Self:
        """Return the commit that `name` (a branch, a tag, a hash, HEAD~1, a registered version as v1.0.0) means.

        Raises
        ------
        UserError
            Where git knows none, as in a clone that was not fetched whole.
        """
        for meant in (name, f"{REGISTERED}@{name}"):
            if sha := git.commit(meant):
                return cls(sha)
        raise UserError(
            f"git knows no commit '{name}' here: `git fetch` brings it, `git fetch --unshallow` a shallow clone's"
        )

    @property
    def name(self) -> str:
        """The start of its name, for people."""
        return self.sha[:SHOWN_DIGITS]

    def find_file(self, path: str) -> bytes | None:
        """Return a file of this commit, its path relative to the project's root; None where it has none."""
        return _file(self.sha, path)

    def file(self, path: str) -> bytes:
        """Return a file of this commit.

        Raises
        ------
        UserError
            Where it has none.
        """
        content = self.find_file(path)
        if content is None:
            raise UserError(f"commit {self.name} has no {path}")
        return content

    @cached_property
    def params(self) -> dict[str, Any]:
        """What its params.yaml holds.

        Raises
        ------
        UserError
            Where there is none, it is no YAML, or a number in it is not finite.
        """
        params = self._yaml(PARAMS)
        for name, value in flatten(params):
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{PARAMS} of commit {self.name}: {name} is {value}: write a finite number")
        return params

    def section(self, kind: type[S]) -> S:
        """Return a section of its params.yaml.

        Raises
        ------
        UserError
            Where the section is missing or wrong.
        """
        name = kind.__name__.lower()
        try:
            return kind.model_validate(self.params[name])
        except KeyError:
            raise UserError(f"{PARAMS} of commit {self.name}: section '{name}' is missing") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (name, *first["loc"])))
            raise UserError(f"{PARAMS} of commit {self.name}: {where}: {first['msg']}") from None

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages of its dvc.yaml."""
        try:
            return {name: Stage.of(content) for name, content in self._yaml(PIPELINE)["stages"].items()}
        except (KeyError, TypeError, AttributeError):
            raise UserError(
                f"{PIPELINE} of commit {self.name} cannot be read: every stage is to have its name and its own `cmd` "
                "(no `foreach` or `matrix`)"
            ) from None

    @cached_property
    def lock(self) -> dict[str, Locked]:
        """What its dvc.lock records of each stage; what else it lists, DVC passes over too.

        Raises
        ------
        UserError
            Where there is none, it holds a merge conflict, or cannot be read.
        """
        content = self.find_file(LOCK)
        if content is None:
            raise UserError(f"commit {self.name} has no {LOCK}: run `dvc repro` there and commit what it writes")
        locked = dvc_files.parse(content, f"{LOCK} of commit {self.name}")
        return {name: entry for name, entry in locked.items() if name in self.stages}

    @cached_property
    def raw(self) -> dict[str, str]:
        """The hash of each of `raw_paths`, from its .dvc file."""
        return {path: self._pointer(path) for path in self.raw_paths}

    @property
    def raw_paths(self) -> list[str]:
        """The pieces of raw data that its stages read."""
        read = {path for stage in self.stages.values() for path in stage.deps}
        return [path for path in RAW if path in read]

    @cached_property
    def outs(self) -> dict[str, str]:
        """The hash of everything that its stages wrote."""
        return dvc_files.outs_of(self.lock)

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The figures of each metrics file, by their names.

        Raises
        ------
        UserError
            Where a file is missing or no JSON, or a figure is null or not finite.
        """
        files = sorted(path for stage in self.stages.values() for path in stage.metrics)
        return {path: self._figures(path) for path in files}

    def _figures(self, path: str) -> dict[str, Any]:
        where = f"{path} of commit {self.name}"
        content = self.find_file(path)
        if content is None:
            raise UserError(f"{where} is missing: commit what `dvc repro` writes")
        try:
            figures = dict(flatten(json.loads(content)))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is no JSON ({error}): `dvc repro` writes it anew") from None
        for name, value in figures.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{where}: {name} is {value}: a figure that is no number cannot be compared")
            if value is None and not OPTIONAL_FIGURE.fullmatch(name):
                raise UserError(f"{where}: {name} is null: a figure that is missing cannot be compared")
        return figures

    def _pointer(self, path: str) -> str:
        try:
            return str(self._yaml(f"{path}.dvc")["outs"][0]["md5"])
        except (KeyError, TypeError, IndexError):
            raise UserError(f"{path}.dvc of commit {self.name} records no hash: `dvc add {path}`") from None

    def _yaml(self, path: str) -> dict[str, Any]:
        try:
            content = strict_yaml.parse(self.file(path))
        except yaml.YAMLError as error:
            raise UserError(f"{path} of commit {self.name} is no YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} of commit {self.name} holds a {type(content).__name__}, not named sections")
        return content


@dataclass(frozen=True)
class Stage:
    """A stage as dvc.yaml declares it; `metrics` are outputs too."""

    command: str
    deps: frozenset[str]
    params: frozenset[str]
    outs: frozenset[str]
    metrics: frozenset[str]

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """Read what dvc.yaml says of one stage."""
        deps, params, outs, metrics, plots = (
            _names(content.get(key, ())) for key in ("deps", "params", "outs", "metrics", "plots")
        )
        return cls(one_line(content["cmd"]), deps, params, outs | metrics | plots, metrics)


def default_base(git_remote: str = "origin") -> Revision:
    """Return the commit at which HEAD left the main branch of a git remote.

    Raises
    ------
    UserError
        Where there is no such branch, or nothing that both come from.
    """
    named = git.run("symbolic-ref", "--quiet", f"refs/remotes/{git_remote}/HEAD", expected=(0, 1)).text
    for branch in filter(None, (named, f"refs/remotes/{git_remote}/main", f"refs/remotes/{git_remote}/master")):
        if git.commit(branch) is None:
            continue
        left = git.run("merge-base", branch, "HEAD", expected=(0, 1)).text
        if not left:
            raise UserError(
                f"HEAD and {branch.removeprefix('refs/remotes/')} have no commit in common here: fetch the whole "
                "history (`git fetch --unshallow`), or name the commit to compare with: --base REV"
            )
        return Revision(left)
    raise UserError(
        f"git knows no main branch of a remote here ({git_remote}): `git fetch {git_remote}`, or name one: --base REV"
    )


def check(revision: Revision) -> None:
    """Refuse a commit whose dvc.lock does not belong to its code, parameters and data, or whose figures do not.

    Raises
    ------
    UserError
        Naming everything that does not fit together.
    """
    lock = revision.lock
    made = revision.outs
    stale = [
        f"{name}: {problem}"
        for name, stage in revision.stages.items()
        for problem in (_differences(revision, stage, lock[name], made) if name in lock else ["it was never run"])
    ]
    if stale:
        listed = "\n".join(f"  {line}" for line in stale)
        raise UserError(
            f"{LOCK} of commit {revision.name} does not match the commit:\n{listed}\n"
            "Run `dvc repro` there, commit what it writes and `make push`."
        )
    edited = [path for path, digest in made.items() if _differs(revision.find_file(path), digest)]
    if edited:
        raise UserError(
            f"{', '.join(edited)} of commit {revision.name} is not what the pipeline wrote: {LOCK} records another "
            "hash. Was it edited by hand? `git restore` or `dvc repro` it, and commit that."
        )
    _ = revision.metrics  # reads every figure


def _differences(revision: Revision, stage: Stage, locked: Locked, made: dict[str, str]) -> Iterator[str]:
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
        now = _current_hash(revision, path, made)
        if now is None:
            yield f"nothing says what {path} is: neither git, nor a .dvc file, nor a stage"
        elif now != digest:
            yield f"{path} changed since it ran"
    if stage.outs != locked.outs.keys():
        yield "it writes other files than when it ran"
    for path in sorted(stage.metrics):
        if revision.find_file(path) is None:
            yield f"{path} is missing"


def _current_hash(revision: Revision, path: str, made: dict[str, str]) -> str | None:
    if path in made:
        return made[path]
    if path in RAW:
        return revision.raw.get(path)
    content = revision.find_file(path)
    return _folder_hash(revision, path) if content is None else hash_of(content)


def _folder_hash(revision: Revision, path: str) -> str | None:
    """Return the hash of a folder of this commit, as DVC records it (see `files.md5`); None if there is none."""
    listed = git.run("ls-tree", "-r", "-z", "--name-only", revision.sha, f"{path}/").entries
    found = [PurePosixPath(file).relative_to(path) for file in listed]
    names = sorted(name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts))
    files = [{"md5": hash_of(revision.file(f"{path}/{name}")), "relpath": name} for name in names]
    return f"{hash_of(json.dumps(files, sort_keys=True).encode())}.dir" if files else None


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
    files = {path for stage in head.stages.values() for path in stage.deps | stage.outs}
    concerned = changed & {*files, *(f"{path}.dvc" for path in files), PIPELINE, LOCK, PARAMS}
    concerned |= {path for path in changed if any(folder in files for folder in map(str, PurePosixPath(path).parents))}
    if found := sorted(concerned):
        raise UserError(f"{', '.join(found)}: changed and not committed, so no review would see it; commit it first")


def check_pushed() -> None:
    """Refuse outputs and data of HEAD that lie on this machine alone: nobody else could use or check the model.

    Raises
    ------
    UserError
        Naming them, or saying that the remote does not answer.
    """
    remote.check()  # to DVC a wrong bucket looks like data that nobody pushed, and its words for no answer say nothing
    command = [sys.executable, "-m", "dvc", "data", "status", "--not-in-remote", "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        status = json.loads(asked.stdout)
    except ValueError:
        said = asked.stderr.strip().splitlines() or ["it says nothing"]
        reason = next((line for line in said if line.startswith("ERROR: ")), said[-1])
        raise UserError(f"DVC cannot say what was pushed to its remote: {reason}") from None
    if missing := status.get("not_in_remote", []):
        raise UserError(f"not on DVC's remote: {', '.join(missing)}: `make push` where it was made")


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings, named `a.b.c`."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def hash_of(content: bytes) -> str:
    """Return the MD5 of a file's bytes, as DVC records it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@cache
def _file(sha: str, path: str) -> bytes | None:
    return git.file(sha, path)


def _names(items: Any) -> frozenset[str]:
    return frozenset(item if isinstance(item, str) else next(iter(item)) for item in items or ())
