"""The doctor: is everything there that commits need, and is it what it says? What is wrong, where, and what to type.

`checks` looks at the clone itself, `bucket` at DVC's remote, `cache` at DVC's cache, and `objects`
compares them with the data of commits; `repair` works from good copies. `pushed` is git's pre-push hook, and `garbage`
deletes what no commit needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from crashcast.doctor import bucket as bucket_checks
from crashcast.doctor import clone, objects
from crashcast.doctor.findings import Finding, mended
from crashcast.errors import UserError
from crashcast.versioning import git, local_s3, remote
from crashcast.versioning.bucket import Bucket, connect
from crashcast.versioning.dvc_command import kept_out
from crashcast.versioning.outputs import find_revisions, outputs_of
from crashcast.versioning.revision import Revision

PARTS = ("environment", "project", "bucket", "remote", "cache")
ROUNDS = 2  # a list of files that was repaired shows which of its files are missing


def examine(
    revisions: Sequence[str] = ("HEAD",),
    all_commits: bool = False,
    parts: Collection[str] = PARTS,
    deep: bool = False,
    mend: bool = False,
) -> list[Finding]:
    """Look at everything, or at some parts, and repair it if asked to.

    Parameters
    ----------
    revisions : sequence of str
        The commits whose data must be there.
    all_commits : bool
        Those of every branch and tag instead.
    parts : collection of str
        What to look at.
    deep : bool
        Read every byte that those commits need, in the cache and on the remote.
    mend : bool
        Repair from good copies; nothing is deleted.

    Returns
    -------
    list of Finding
        Without errors if nothing is wrong; what could not be checked is in it as unknown.

    Raises
    ------
    UserError
        If this is no project, git does not know a revision, or there is no such part.
    """
    if unknown := sorted({*parts} - {*PARTS}):
        raise UserError(f"there is no part '{unknown[0]}': {', '.join(PARTS)}")
    if not Path(".dvc").is_dir():
        raise UserError("there is no .dvc folder here: run this from the root of the project")
    commits = find_revisions(revisions, all_commits)
    found: list[Finding] = []
    if "environment" in parts:
        found += clone.environment()
    if "project" in parts:
        found += _mended([*clone.leftovers(), *clone.pointers()], mend)
    if {"remote", "cache"} & {*parts}:
        found += _data(commits, parts, deep, mend)
    elif "bucket" in parts:
        found += _bucket(parts)[1]
    if all_commits and git.cut():
        found += [
            Finding("unknown", "history", "a shallow clone: older commits were not checked", "git fetch --unshallow")
        ]
    if "project" in parts:
        if not all_commits:
            found += [finding for revision in commits for finding in clone.commit(revision)]
        # DVC deletes damaged cache files on sight, so it is asked last
        found += _mended(clone.work_tree(), mend)
    return found


def _data(commits: list[Revision], parts: Collection[str], deep: bool, mend: bool) -> list[Finding]:
    outputs, unread = outputs_of(commits)
    found = [Finding(*one) for one in unread]
    bucket, told = _bucket(parts)
    found += told
    if not outputs:
        return found
    with kept_out() if mend else nullcontext():
        try:
            for _ in range(ROUNDS if mend else 0):
                tried = _mended(objects.check(outputs, bucket, parts, deep), mend)
                found += (repaired := [finding for finding in tried if finding.severity == "repaired"])
                if not repaired:
                    return found + tried
            return [*found, *objects.check(outputs, bucket, parts, deep)]  # after repairs: look again
        except UserError as error:
            return [*found, Finding("unknown", remote.url(), f"it stopped answering: {error}", "run this again")]


def _bucket(parts: Collection[str]) -> tuple[Bucket | None, list[Finding]]:
    if not {"bucket", "remote"} & {*parts}:
        return None, []
    try:
        bucket = connect()
        remote.check()
    except UserError as error:
        return None, [Finding("unknown", "the remote", str(error), _how_to_reach_it())]
    return bucket, [*bucket_checks.check(bucket)] if "bucket" in parts else []


def _mended(findings: Iterable[Finding], mend: bool) -> list[Finding]:
    return [mended(finding) if mend else finding for finding in findings]


def _how_to_reach_it() -> str:
    with suppress(UserError):
        if remote.endpoint() == local_s3.endpoint():
            return "make doctor  (it starts the local S3 server)"
    return "check .dvc/config, the network and your keys"
