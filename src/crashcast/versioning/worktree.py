"""A temporary work tree of git, with the project as a commit has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crashcast.versioning import cache, commit_limits, git
from crashcast.versioning.revision import Revision


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
