"""A commit: its files as git has them, and what dvc.yaml, dvc.lock, params.yaml and the metrics files in it say.

A file that is missing, in conflict or damaged is an error that says so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from crashcast.errors import UserError
from crashcast.params.base import Section
from crashcast.paths import TABLES
from crashcast.versioning import dvc_files, git
from crashcast.versioning.dvc_files import LOCK, PIPELINE, Locked, Stage, pointer, tracked_hash

PARAMS = "params.yaml"
RAW = tuple(path.as_posix() for path in TABLES)  # as DVC names them
TELEMETRY, INCIDENTS, COVERAGE, TICKET_SOURCES, ALARMS, ACTIONS = RAW
MODELS = "models"  # the output of `train`
EVALUATION, VALIDATION = "metrics/evaluate.json", "metrics/validate.json"
CODE = ("src", PIPELINE, "requirements.txt")
REGISTERED = "crash-model"  # what the registry calls it: a version's git tag is crash-model@v1.0.0
# of too few crashes to say anything; of rows or alarms, and of the crashes they caught, if there were none
OPTIONAL_FIGURE = re.compile(r"slices\..+|(.+\.)?(precision|alarm_precision|median_lead_h)")
SHOWN_DIGITS = 8
REMOTES = "refs/remotes/"

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
            If git knows none, as in a clone that was not fetched whole.
        """
        for meant in (f"refs/tags/{REGISTERED}@{name}", name):  # a branch that is called as a version is none
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
        """Return a file of this commit, its path relative to the project's root; None if it has none."""
        return _file(self.sha, path)

    def file(self, path: str) -> bytes:
        """Return a file of this commit.

        Raises
        ------
        UserError
            If it has none.
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
            If it is missing or no YAML, or a number in it is not finite.
        """
        params = self._sections(PARAMS)
        for name, value in flatten(params):
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{PARAMS} of commit {self.name}: {name} is {value}: write a finite number")
        return params

    def section(self, kind: type[S]) -> S:
        """Return a section of its params.yaml.

        Raises
        ------
        UserError
            If the section is missing or wrong.
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
            return {name: Stage.of(content) for name, content in self._sections(PIPELINE)["stages"].items()}
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
            If there is none, it holds a merge conflict, or cannot be read.
        """
        content = self.find_file(LOCK)
        if content is None:
            raise UserError(f"commit {self.name} has no {LOCK}: run `dvc repro` there and commit what it writes")
        locked = dvc_files.parse_lock(content, f"{LOCK} of commit {self.name}")
        return {name: entry for name, entry in locked.items() if name in self.stages}

    @cached_property
    def raw(self) -> dict[str, str]:
        """The hash of each of `raw_paths`, from its .dvc file."""
        paths = [Path(path) for path in self.raw_paths]
        return {
            path.as_posix(): tracked_hash(self.file(pointer(path).as_posix()), path, f"of commit {self.name}")
            for path in paths
        }

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
    def data(self) -> dict[str, str]:
        """The hash of each output that DVC keeps: all but the figures, which git has."""
        figures = {path for stage in self.stages.values() for path in stage.metrics}
        return {path: digest for path, digest in self.outs.items() if path not in figures}

    def upstream(self, wanted: Collection[str]) -> list[str]:
        """Return the stages that make `wanted`, each after those that it needs."""
        maker = {path: name for name, stage in self.stages.items() for path in stage.outs}
        if unknown := sorted(path for path in wanted if path not in maker):
            raise UserError(f"no stage of commit {self.name} writes {', '.join(unknown)}: it cannot be compared")
        order: dict[str, None] = {}

        def visit(name: str) -> None:
            for path in sorted(self.stages[name].deps):
                if path in maker and maker[path] not in order:
                    visit(maker[path])
            order[name] = None

        for path in sorted(wanted):
            visit(maker[path])
        return list(order)

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The figures of each metrics file, by their names.

        Raises
        ------
        UserError
            If a file is missing or no JSON, or a figure is null or not finite.
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

    def _sections(self, path: str) -> dict[str, Any]:
        return dvc_files.load(self.file(path), f"{path} of commit {self.name}")


def default_base(git_remote: str = "origin") -> Revision:
    """Return the commit at which HEAD left the main branch of a git remote.

    Raises
    ------
    UserError
        If there is no such branch, or nothing that both come from.
    """
    branch = main_branch(git_remote)
    left = git.run("merge-base", branch, "HEAD", expected=(0, 1)).text
    # a shallow clone may lack a later commit that both come from
    if not left or git.cut().intersection(git.run("rev-list", "HEAD", branch, f"^{left}").text.split()):
        raise UserError(
            f"where HEAD left {branch.removeprefix(REMOTES)} is not known here: fetch the whole history "
            "(`git fetch --unshallow`), or name the commit to compare with: --base REV"
        )
    return Revision(left)


def main_branch(git_remote: str = "origin") -> str:
    """Return the ref of a git remote's main branch, such as refs/remotes/origin/main.

    Raises
    ------
    UserError
        If this clone knows none.
    """
    named = git.run("symbolic-ref", "--quiet", f"{REMOTES}{git_remote}/HEAD", expected=(0, 1)).text
    for branch in filter(None, (named, f"{REMOTES}{git_remote}/main", f"{REMOTES}{git_remote}/master")):
        if git.commit(branch) is not None:
            return branch
    raise UserError(
        f"git knows no main branch of a remote here ({git_remote}): `git fetch {git_remote}`, or name one: --base REV"
    )


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings, named `a.b.c`."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


@cache
def _file(sha: str, path: str) -> bytes | None:
    return git.file(sha, path)
