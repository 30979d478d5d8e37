"""Git's pre-push hook: a commit is pushed after its data.

`dvc install` brings a hook that runs `dvc push`, which pushes what the work tree names: the data of earlier commits, of
another branch or of a tag that is pushed stays behind, and the remote itself is not checked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from crashcast.console import Console
from crashcast.doctor import examine
from crashcast.doctor.findings import Finding, exit_status, show
from crashcast.versioning import git


def commits(lines: Iterable[str], name: str) -> list[str]:
    """Return the commits that a push brings to a repository and that it does not have yet.

    Parameters
    ----------
    lines : iterable of str
        Git's input of the hook, one line a ref: local ref, local hash, remote ref, remote hash.
        Source: githooks(5), "pre-push".
    name : str
        Of the repository as git remote; its URL if it has none.

    Raises
    ------
    UserError
        If git cannot list them.
    """
    found: dict[str, None] = {}
    for line in lines:
        _, local, _, theirs = line.split()
        if not local.strip("0") or git.commit(local) is None:
            continue  # a ref that is deleted, or names no commit
        known = [theirs] if theirs.strip("0") and git.commit(theirs) else []
        found |= dict.fromkeys(git.run("rev-list", local, "--not", *known, f"--remotes={name}", "--").text.split())
    return [*found]


def check(lines: Iterable[str], name: str) -> list[Finding]:
    """Return what is not right, on DVC's remote, of the data of commits that are being pushed (see `commits`)."""
    revisions = commits(lines, name)
    return examine(revisions, parts=["remote"]) if revisions else []


def main(name: str) -> int:
    """Be the hook: read the refs that git names, say what is wrong with their data, and return the exit status."""
    found = [finding for finding in check(sys.stdin, name) if finding.severity != "note"]
    if status := exit_status(found):
        print(
            "Not all data of these commits is known to be on DVC's remote, so git does not push them:", file=sys.stderr
        )
        show(found, Console(stderr=True))
        print("`git push --no-verify` pushes them all the same.", file=sys.stderr)
    return status
