"""Git: the only module that runs it, with the same answers in every environment.

A git hook, an alias, an editor or a user's settings can name another repository, take patterns literally, or put
colours and signatures between the lines that a program reads. So a call here passes on none of git's variables that do
so, and names every setting that its answer depends on. How to reach a remote is left to the user's settings.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from crashcast.errors import UserError

# of git's variables, those that say how to reach a remote, where settings are, and whose repositories may be read
KEPT = re.compile(
    r"GIT_(SSH|SSL_|HTTP_|PROXY_|CONFIG_|CURL_|TRACE|ASKPASS|TERMINAL_PROMPT|ALLOW_PROTOCOL|EXEC_PATH|CEILING_DIRECTORIES"
    r"|DISCOVERY_ACROSS_FILESYSTEM|TEST_ASSUME_DIFFERENT_OWNER)"
)
SETTINGS = {
    **dict.fromkeys(("color.ui", "core.fsmonitor", "core.quotePath", "diff.relative", "submodule.recurse"), "false"),
    **dict.fromkeys(("fetch.prune", "fetch.pruneTags", "fetch.recurseSubmodules"), "false"),
    **dict.fromkeys(("log.follow", "log.mailmap", "log.showSignature"), "false"),
    **dict.fromkeys(("push.followTags", "push.gpgSign"), "false"),
    "core.hooksPath": os.devnull,  # DVC's hook would check out data, and hooks that run tests are for code
    "i18n.logOutputEncoding": "UTF-8",
    "log.diffMerges": "separate",
    "push.recurseSubmodules": "no",
    "status.showUntrackedFiles": "normal",
}
ANY_STATUS = range(-64, 256)
LINK = "120000"  # the mode of a symbolic link


@dataclass(frozen=True)
class Answer:
    """What git answered.

    Attributes
    ----------
    status : int
        Its exit status.
    output : bytes
    words : str
        Its messages, without hints.
    """

    status: int
    output: bytes
    words: str

    @property
    def text(self) -> str:
        """The output without white space at its ends."""
        return os.fsdecode(self.output).strip()

    @property
    def entries(self) -> list[str]:
        """The entries of a list whose separator is NUL (option -z)."""
        return [entry for entry in os.fsdecode(self.output).split("\0") if entry]


def run(
    *arguments: str,
    given: bytes | str = b"",
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    expected: Collection[int] = (0,),
) -> Answer:
    """Run git.

    Parameters
    ----------
    *arguments : str
        The command and its options.
    given : bytes or str
        Its standard input.
    folder : Path, optional
        Where it runs; by default the working directory.
    variables : mapping, optional
        Added to its environment, such as an author.
    expected : collection of int
        Exit statuses that are answers. Many questions are answered "no" by 1; 128 is a failure.

    Raises
    ------
    UserError
        With git's own words if it ends with another status; if git is not installed.
    """
    settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    given = given.encode() if isinstance(given, str) else given
    try:
        done = subprocess.run(
            ["git", "--no-pager", *settings, *arguments], input=given, cwd=folder, capture_output=True, check=False,
            env=environment() | {"LC_ALL": "C"} | dict(variables or {}),
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError("git is not installed: commits say which data, code and model belong together") from None
    lines = [line for line in done.stderr.decode(errors="replace").splitlines() if not line.startswith("hint:")]
    words = "\n".join(filter(str.strip, lines)) or f"exit status {done.returncode}"
    if done.returncode not in expected:
        raise UserError(f"git {arguments[0]} failed: {words}")
    return Answer(done.returncode, done.stdout, words)


def environment() -> dict[str, str]:
    """Return the variables of this process without those that would lead git, here or in a program, elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or KEPT.match(name)}


def commit(name: str) -> str | None:
    """Return the full hash of the commit that a name (a branch, a tag, a hash, HEAD~1) means; None if there is none."""
    asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return run(*asked, expected=(0, 1)).text or None


def is_ancestor(older: str, newer: str) -> bool:
    """Tell whether a commit is another one, or in its history; one that this clone does not have is in no history."""
    return run("merge-base", "--is-ancestor", older, newer, expected=(0, 1, 128)).status == 0


def file(revision: str, path: str) -> bytes | None:
    """Return the content of a file of a commit, or of the index if `revision` is empty; None if there is no such file.

    Parameters
    ----------
    path : str
        Relative to the working directory.
    """
    return blob(f"{revision}:./{path}")


def blob(name: str) -> bytes | None:
    """Return the content of a file in git by its object's name; None if git does not have it."""
    # asked in a batch, since there a missing file is no failure
    header, _, content = run("cat-file", "--batch", given=os.fsencode(f"{name}\n")).output.partition(b"\n")
    found = re.fullmatch(rb"[0-9a-f]+ blob (\d+)", header)
    return content[: int(found[1])] if found else None


def tree(revision: str) -> str | None:
    """Return the hash of the working directory in a commit; None if the commit does not have this folder."""
    header = run("cat-file", "--batch-check", given=f"{revision}:./\n").text
    return header.split()[0] if re.fullmatch(r"[0-9a-f]+ tree \d+", header) else None


def modes(revision: str = "") -> dict[str, str]:
    """Return the mode of each file of a commit, or of the index if `revision` is empty.

    Returns
    -------
    dict of str to str
        By path relative to the working directory; files elsewhere are left out. A symbolic link has the mode `LINK`.
    """
    asked = ("ls-tree", "-r", "-z", "--end-of-options", revision) if revision else ("ls-files", "--stage", "-z")
    return {entry.partition("\t")[2]: entry[:6] for entry in run(*asked).entries}


def common_folder() -> Path:
    """Return git's own folder, which all work trees of a repository share and into which no commit can write."""
    return Path(os.fsdecode(run("rev-parse", "--path-format=absolute", "--git-common-dir").output.removesuffix(b"\n")))


def cut() -> set[str]:
    """Return the commits whose parents a shallow clone lacks, so that they look like first commits."""
    listed = Path(run("rev-parse", "--git-path", "shallow").text)
    return {*listed.read_text(encoding="ascii").split()} if listed.exists() else set()


def prefix() -> str:
    """Return the working directory's path below the root of its work tree: empty, or with a slash at its end."""
    return os.fsdecode(run("rev-parse", "--show-prefix").output.removesuffix(b"\n"))


def changed(*patterns: str, untracked: bool) -> list[str]:
    """Return the files that differ from HEAD, in the index or in the work tree; of a renamed file both names.

    Parameters
    ----------
    *patterns : str
        Git's pathspecs; by default everything.
    untracked : bool
        Whether files that git does not track are named too.

    Returns
    -------
    list of str
        Their paths; of those in the working directory relative to it, of others relative to the work tree's root.
    """
    which = "normal" if untracked else "no"
    asked = ("status", "--porcelain", "--no-renames", f"--untracked-files={which}", "-z", "--", *patterns)
    here = prefix()
    return sorted(entry[3:].removeprefix(here) for entry in run(*asked).entries)  # two letters and a space come first


def shared_remote() -> str | None:
    """Return the git remote that a team shares: `origin`, or the only one; None if there is none.

    Raises
    ------
    UserError
        If there are several and none is called `origin`.
    """
    names = run("remote").text.split()
    if len(names) > 1 and "origin" not in names:
        raise UserError(
            f"several git remotes, {', '.join(names)}, and none called `origin`: `git remote rename` the one that the "
            "team shares, where looks and registered models are written down"
        )
    return "origin" if "origin" in names else next(iter(names), None)
