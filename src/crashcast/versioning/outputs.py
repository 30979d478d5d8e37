"""The data of commits: every output that a dvc.lock or .dvc file names by hash, as git has them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from crashcast.errors import UserError
from crashcast.versioning import git
from crashcast.versioning.dvc_files import HASH, LOCK, PIPELINE, leads_out, load
from crashcast.versioning.revision import Revision


class Object(NamedTuple):
    """A file in DVC's cache and remote, named by its hash; of a folder's list the hash ends in `.dir`."""

    md5: str
    path: str
    size_bytes: int | None


class Unread(NamedTuple):
    """A file, or a part of one, that does not say which data it needs.

    Attributes
    ----------
    severity : str
        `error`, or `unknown` if only a hash of another kind stands there.
    where, what, todo : str
        The file and commit, the reason, and what to type.
    """

    severity: Literal["error", "unknown"]
    where: str
    what: str
    todo: str


@dataclass(frozen=True)
class Output:
    """A file or folder that a commit has DVC keep.

    Attributes
    ----------
    path : str
        Relative to the project's root.
    md5 : str
        As DVC records it.
    size_bytes : int or None
        Of the file, or of all files of the folder.
    revision : str
        The commit, for people.
    is_pushed : bool
        Whether DVC's default remote should hold it.
    """

    path: str
    md5: str
    size_bytes: int | None
    revision: str
    is_pushed: bool = True

    @property
    def is_folder(self) -> bool:
        """Whether the hash is that of a list of files."""
        return self.md5.endswith(".dir")


def find_revisions(names: Sequence[str] = ("HEAD",), all_commits: bool = False) -> list[Revision]:
    """Return the commits that are named, or those of every branch and tag.

    Raises
    ------
    UserError
        If git does not know one of them, or there is no commit.
    """
    if not all_commits:
        return [Revision.find(name) for name in names]
    return [Revision(sha) for sha in git.run("rev-list", "HEAD", "--branches", "--tags", "--remotes").text.split()]


def outputs_of(revisions: Iterable[Revision]) -> tuple[list[Output], list[Unread]]:
    """Return what commits have DVC keep, each output with the first of the commits that needs it.

    Returns
    -------
    list of Output
        One of each path and hash.
    list of Unread
        What could not be read: which data it needs is not known.
    """
    outputs: dict[tuple[str, str], Output] = {}
    problems: dict[tuple[str, str], Unread] = {}
    trees: set[str] = set()
    for revision in revisions:
        tree = git.tree(revision.sha)
        if tree is None or tree in trees:  # the project was not yet in its folder, or has been read
            continue
        trees.add(tree)
        for found in _outputs(revision):
            if isinstance(found, Output):
                outputs.setdefault((found.path, found.md5), found)
            else:
                problems.setdefault((found.where.partition(" of ")[0], found.what), found)
    return list(outputs.values()), list(problems.values())


def _outputs(revision: Revision) -> Iterator[Output | Unread]:
    tree = _tree(revision.sha)
    in_git = {*tree, *(folder for path in tree for folder in _parents(path))}
    for path, blob in tree.items():
        name = posixpath.basename(path)
        if name != LOCK and not (name.endswith(".dvc") and name != ".dvc"):
            continue
        folder, where = posixpath.dirname(path), f"{path} of {revision.name}"
        try:
            held = load(_blob(blob), path)
            if name == LOCK:
                declared_in = posixpath.join(folder, PIPELINE)
                options = _options(tree[declared_in], declared_in) if declared_in in tree else {}
                stages = [(stage, options.get(key, {})) for key, stage in held.get("stages", {}).items()]
                if "schema" not in held:
                    raise UserError(f"{path} holds nothing that DVC writes")
            else:
                stages = [(held, {"": {"push": not any("repo" in dep for dep in held.get("deps", ()))}})]
            for stage, declared in stages:
                yield from _outs(stage, declared, folder, where, in_git, revision.name)
        except (UserError, KeyError, TypeError, AttributeError) as error:
            reason = str(error) if isinstance(error, UserError) else "it is not as DVC writes it"
            yield Unread(
                "error",
                where,
                f"unreadable, so what it needs is not known: {reason}",
                f"git show {revision.name}:{path}; in the newest commit, take one side, `dvc checkout`, `dvc repro`",
            )


def _outs(
    stage: dict[str, Any],
    declared: dict[str, dict[str, Any]],
    folder: str,
    where: str,
    in_git: set[str],
    revision: str,
) -> Iterator[Output | Unread]:
    for out in stage.get("outs", ()):
        options = declared.get("", {}) | declared.get(out["path"], {}) | out
        path = posixpath.normpath(posixpath.join(folder, options.get("wdir") or stage.get("wdir", ""), out["path"]))
        if path in in_git or options.get("cache") is False:
            continue
        if leads_out(path):
            yield Unread(
                "error", where, f"{path} lies outside the project, so not checked", "find out who committed it"
            )
            continue
        md5 = str(out.get("md5"))
        if not HASH.fullmatch(md5.removesuffix(".dir")) or out.get("hash") != "md5":
            yield Unread("unknown", where, f"{path}: no MD5 as DVC 3 records it, so not checked", f"dvc commit {path}")
            continue
        is_pushed = options.get("push", True) is not False and "remote" not in options
        yield Output(path, md5, out.get("size"), revision, is_pushed)


@cache
def _options(blob: str, where: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return, by stage and output, what dvc.yaml says of it beside its path; '' is the stage itself."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, stage in (load(_blob(blob), where).get("stages") or {}).items():
        if not isinstance(stage, dict):
            continue
        found[name] = {"": {"wdir": stage["wdir"]} if "wdir" in stage else {}}
        for out in [item for kind in ("outs", "metrics", "plots") for item in stage.get(kind) or ()]:
            if isinstance(out, dict):
                found[name] |= {path: options or {} for path, options in out.items()}
    return found


def _tree(sha: str) -> dict[str, str]:
    """Return the files of a commit below the project's root, and their blobs."""
    entries = (entry.split("\t", 1) for entry in git.run("ls-tree", "-r", "-z", sha).entries)
    return {path: told.split()[2] for told, path in entries if told.split()[1] == "blob"}


@cache
def _blob(sha: str) -> bytes:
    content = git.blob(sha)
    if content is None:
        raise UserError(f"git does not have the file's content, object {sha}")
    return content


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path
