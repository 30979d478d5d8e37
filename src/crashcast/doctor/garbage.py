"""Garbage collection that keeps every commit's data.

`dvc gc` keeps what the commits of this clone name, as far as it can read them: it deletes what a branch that was not
fetched needs, and the files of a folder whose list it cannot load. Here every hash that stands in a dvc.lock or .dvc
file of any commit is kept, whether the file can be parsed or not: of branches, tags, stashes, experiments and reflogs,
of every ref of the git remotes, and of every work tree, committed or not. So is whatever is young, since its commit may
not be published yet. If anything cannot be read, nothing is deleted.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from crashcast.errors import UserError
from crashcast.progress import MB
from crashcast.text import counted, some_of
from crashcast.versioning import cache, git, remote
from crashcast.versioning.bucket import REQUESTS, Bucket, connect, read_list
from crashcast.versioning.dvc_command import kept_out
from crashcast.versioning.dvc_files import NAMING_DATA, OBJECTS, members
from crashcast.versioning.outputs import outputs_of
from crashcast.versioning.revision import Revision
from crashcast.versioning.threads import side_by_side

HASH = re.compile(rb"\b[0-9a-f]{32}(?:\.dir\b|\b)")
CHANGED_BLOBS = re.compile(rb":\d{6} \d{6} ([0-9a-f]+) ([0-9a-f]+) ")  # git diff-tree --raw
EVERYWHERE = [f":/{pattern}" for pattern in NAMING_DATA]  # also above the project's folder
DAY_S = 86_400.0
MIN_AGE_DAYS = 14.0
SHOWN = 10


@dataclass(frozen=True)
class Garbage:
    """What no commit needs in one place.

    Attributes
    ----------
    where : str
        The place, for people.
    found : dict
        By object: bytes and age in seconds.
    kept : int
        Objects that stay.
    delete : callable
        Deletes the objects that it is given.
    """

    where: str
    found: dict[str, tuple[int, float]]
    kept: int
    delete: Callable[[Iterable[str]], None]

    def lines(self, min_age_days: float) -> Iterator[str]:
        """Say what there is, the largest first."""
        total_mb = sum(size_bytes for size_bytes, _ in self.found.values()) / MB
        count = counted(len(self.found), "object") if self.found else "nothing"
        why = f"a commit here needs them, or they are younger than {min_age_days:g} days"
        yield f"{self.where}: {count} to delete, {total_mb:,.1f} MB; {counted(self.kept, 'object')} stay: {why}"
        for md5, (size_bytes, age_s) in sorted(self.found.items(), key=lambda item: (-item[1][0], item[0]))[:SHOWN]:
            yield f"  {md5}  {size_bytes / MB:,.3f} MB, {age_s / DAY_S:.0f} days old"
        if len(self.found) > SHOWN:
            yield f"  and {len(self.found) - SHOWN} more"


def collect(
    on_remote: bool = False, min_age_days: float = MIN_AGE_DAYS, dry_run: bool = False, is_sure: bool = False
) -> None:
    """Show what no commit needs, ask, and delete it.

    Parameters
    ----------
    on_remote : bool
        From DVC's remote too, which every clone shares.
    min_age_days : float
        What is younger stays.
    dry_run : bool
        Show only.
    is_sure : bool
        Do not ask.

    Raises
    ------
    UserError
        As `find` does, and if nobody can be asked.
    """
    shown = find(on_remote, min_age_days)
    print("\n".join(line for place in shown for line in place.lines(min_age_days)))
    number = sum(len(place.found) for place in shown)
    if on_remote and number:
        told = "What another project keeps there, or another clone has pushed and not committed here, looks the same."
        print(f"{remote.url()} is shared. {told}")
    if dry_run or not number:
        return
    if not is_sure and not confirmed(number):
        return
    with kept_out():
        for before, now in zip(shown, find(on_remote, min_age_days), strict=True):
            gone = before.found.keys() & now.found.keys()  # not what somebody has come to need meanwhile
            now.delete(sorted(gone, key=lambda md5: not md5.endswith(".dir")))
            print(f"{now.where}: {len(gone)} objects deleted")


def confirmed(number: int) -> bool:
    """Ask whether to delete so many objects; say so if they stay.

    Raises
    ------
    UserError
        If nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise UserError("nothing was deleted, since nobody can be asked here: --yes says that you are sure")
    if input(f"Delete them? Type their number, {number}, to go on: ").strip() == str(number):
        return True
    print("Nothing was deleted.")
    return False


def find(on_remote: bool = False, min_age_days: float = MIN_AGE_DAYS) -> list[Garbage]:
    """Return what no commit needs in DVC's cache, and on its remote if asked to.

    Raises
    ------
    UserError
        If it cannot be known what commits need: a shallow clone, a git remote or DVC remote that does not answer, a
        damaged list of a folder's files; or if the cache may hold what other projects need.
    """
    trees = _work_trees()
    if cache.root() not in [tree / ".dvc" / "cache" for tree in _projects(trees)]:
        raise UserError(
            f"DVC's cache, {os.path.relpath(cache.root())}, may be shared with other projects: not collected"
        )
    remote.check()
    bucket = connect()
    stored = bucket.stored()
    needed = _needed(trees, bucket, stored.keys())
    held = {
        path.parent.name + path.name: path
        for path in cache.root().glob(f"{OBJECTS}/??/*")
        if HASH.fullmatch((path.parent.name + path.name).encode())
    }
    now_s = time.time()
    told = {md5: path.stat() for md5, path in held.items() if md5 not in needed}
    ages = {md5: (stat.st_size, now_s - max(stat.st_mtime, stat.st_ctime)) for md5, stat in told.items()}

    def unlink(hashes: Iterable[str]) -> None:
        for md5 in hashes:
            held[md5].unlink(missing_ok=True)

    places = [Garbage("DVC's cache", ages, len(held), unlink)]
    if on_remote:
        old = {md5: (told.size_bytes, told.age_s) for md5, told in stored.items() if md5 not in needed}
        places.append(Garbage(remote.url(), old, len(stored), lambda hashes: _delete_stored(bucket, hashes)))
    return [_without_young(place, min_age_days * DAY_S) for place in places]


def _without_young(place: Garbage, min_age_s: float) -> Garbage:
    old = {md5: (size_bytes, age_s) for md5, (size_bytes, age_s) in place.found.items() if age_s >= min_age_s}
    return replace(place, found=old, kept=place.kept - len(old))


def _delete_stored(bucket: Bucket, hashes: Iterable[str]) -> None:
    from dvc.repo import Repo
    from dvc_data.hashfile.db import get_index

    bucket.delete(hashes)
    with Repo() as repo:  # DVC remembers which folders it pushed
        get_index(repo.cloud.get_remote_odb()).clear()


def _needed(trees: list[Path], bucket: Bucket, stored: Iterable[str]) -> set[str]:
    try:
        named = _named(trees)
    except UserError as error:
        raise UserError(f"nothing was deleted, since nobody knows what commits need: {error}") from None

    def files(md5: str) -> set[str]:
        listing = read_list(md5, bucket)
        if listing is not None:
            return {*members(listing, md5).values()}
        if cache.cached(md5).exists() or md5 in stored:
            raise UserError(
                f"{md5}, a list of files that a commit names, is damaged: crashcast doctor --all-commits --repair"
            )
        return set()  # nobody has the list: nobody can tell, or get back, what was in that folder

    folders = sorted(md5 for md5 in named if md5.endswith(".dir"))
    return named.union(*side_by_side(files, folders, REQUESTS))


def _named(trees: list[Path]) -> set[str]:
    """Return every hash that stands in a file that points to data, in any commit or work tree."""
    if git.run("rev-parse", "--is-shallow-repository").text == "true":
        raise UserError("this clone is shallow: git fetch --unshallow")
    tips = "\n".join(_published())
    history = git.run(
        "log", "--all", "--reflog", "--stdin", "--full-history", "-m", "--root", "--raw", "--no-renames", "--no-abbrev",
        "--format=", "-z", "--", *EVERYWHERE, given=tips,
    ).output  # fmt: skip
    blobs = {blob.decode() for pair in CHANGED_BLOBS.findall(history) for blob in pair if blob.strip(b"0")}
    contents = b""
    for tree in trees:
        for name in git.run("ls-files", "-z", "-c", "-o", "--", *EVERYWHERE, folder=tree).entries:
            path = tree / name
            contents += path.read_bytes() if path.is_file() else b""
        staged = git.run("ls-files", "-z", "-s", "--", *EVERYWHERE, folder=tree).entries
        blobs |= {entry.split()[1] for entry in staged}
    contents += git.run("cat-file", "--batch", given="\n".join(sorted(blobs))).output
    if b" missing\n" in contents:
        raise UserError("git lacks files of some commits: git fetch --all")
    named = {found.decode() for found in HASH.findall(contents)}
    head, _ = outputs_of([Revision.find("HEAD")])  # found in another way: by HEAD's tree
    if lost := [output.path for output in head if output.md5 not in named]:
        raise UserError(f"in git's history no file names {some_of(lost)}, though HEAD has it")
    return named


def _published() -> Iterator[str]:
    """Yield the commits that the git remotes' refs name, fetched if they were not here."""
    for name in git.run("remote").text.split():
        listed = [line.split("\t") for line in git.run("ls-remote", name).text.splitlines()]
        refs = {ref: sha for sha, ref in listed if not ref.endswith("^{}") and ref != "HEAD"}
        if absent := [ref for ref, sha in refs.items() if not _is_here(sha)]:
            git.run("fetch", "--quiet", "--no-tags", "--refmap=", "--stdin", name, given="\n".join(absent))
        yield from (sha for sha in refs.values() if git.commit(sha))


def _work_trees() -> list[Path]:
    listed = git.run("worktree", "list", "--porcelain", "-z").entries
    trees = [Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")]
    return [tree for tree in trees if (tree / ".git").exists()]


def _projects(trees: list[Path]) -> Iterator[Path]:
    return (tree.resolve() / git.prefix() for tree in trees)


def _is_here(sha: str) -> bool:
    return git.run("cat-file", "-e", sha, expected=(0, 1)).status == 0
