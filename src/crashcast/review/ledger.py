"""The ledger of looks: how many challengers have been judged on one set of test rows.

Who tries often enough on the same rows wins by luck, so the k-th distinct challenger is held to a smaller error. The
count must outlive pull requests that nobody merges and branches that somebody deletes: it is kept in a git ref of its
own on the remote, one commit a change, the newest of which holds the whole ledger:

    git fetch origin refs/crashcast/looks && git log -p FETCH_HEAD

A look is written down before the challenger is judged. Two reviews at once cannot both take a number: a push names the
commit that it replaces, and whoever comes second reads again and takes the next number.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from crashcast import canonical
from crashcast.errors import UserError
from crashcast.params.acceptance import look_error

REF = "refs/crashcast/looks"
FILE = "looks.json"
REFUSALS = 4  # pushes that fail though nobody else pushed: the remote says no, and not because of a lock
RACES = 100  # lost to other reviews
WAIT_S = 0.2  # at most, after the first failure; then twice that, and so on up to LONGEST_WAIT_S
LONGEST_WAIT_S = 5.0
NO_VERDICT = "no verdict"

Verdict = Literal["ACCEPT", "REJECT", "INCONCLUSIVE"]
Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Look:
    """One challenger's place among those judged on the same rows.

    Attributes
    ----------
    number : int
        k, from 1: the same challenger keeps its own.
    error : float
        What the k-th challenger is held to.
    previous : tuple of str
        The verdicts on those before it, or "no verdict" where a review did not come to one.
    reserved : bool
        Whether the number is written down, so that nobody else gets it.
    note : str or None
        What a person should be told about how far the number can be trusted.
    """

    number: int
    error: float
    previous: tuple[str, ...]
    reserved: bool = True
    note: str | None = None


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Entry:
    """A look as it is written down."""

    challenger: Name
    policy: str | None = None
    verdict: Verdict | None = None


Ledger = dict[Name, list[Entry]]  # rows: looks, in their order
_FORMAT = TypeAdapter(Ledger)


def identity(model: str, data: Mapping[str, str], params: str) -> str:
    """Return what makes a challenger distinct, from its hashes: of the model, of each input, of the parameters.

    No commit is part of it: a squash merge or a rebase makes no new challenger.
    """
    text = canonical.json_text({"model": model, "data": dict(data), "params": params})
    return hashlib.sha256(text.encode()).hexdigest()


def look(rows: str, challenger: str, policy: str | None = None, reserve: bool = True) -> Look:
    """Take the next number on these rows, or find the one that this challenger has: before it is judged.

    Parameters
    ----------
    rows : str
        Hash of the test rows.
    challenger : str
        What `identity` returns.
    policy : str or None
        Hash of the policy it is judged by; for whoever reads the ledger.
    reserve : bool
        False only reads: for who may not push, as in a fork. Another challenger may then get the same number.

    Raises
    ------
    UserError
        Where the remote's ledger cannot be read, is corrupt, or takes no push.
    """
    remote = shared_remote()
    if reserve:
        looks = _change(remote, rows, lambda looks: _with(looks, Entry(challenger, policy)))
        note = None if remote else f"No git remote: the ledger of looks ({REF}) is kept in this clone alone."
    else:
        looks = _with(_current(remote)[0].get(rows, []), Entry(challenger, policy))
        note = "This look was not written down: another challenger may be judged under the same number."
    number = 1 + _index(looks, challenger)
    previous = tuple(entry.verdict or NO_VERDICT for entry in looks[: number - 1])
    return Look(number, look_error(number), previous, reserve, note)


def record(rows: str, challenger: str, verdict: Verdict) -> None:
    """Write down what came of a look that was reserved.

    Raises
    ------
    UserError
        As `look` does, and where the look was never reserved.
    """

    def judged(looks: list[Entry]) -> list[Entry]:
        index = _index(looks, challenger)
        return [*looks[:index], replace(looks[index], verdict=verdict), *looks[index + 1 :]]

    _change(shared_remote(), rows, judged)


def git(
    *arguments: str, given: str | None = None, check: bool = True, variables: Mapping[str, str] | None = None
) -> str:
    """Run git, with `given` as its input and `variables` in its environment, and return what it printed.

    Raises
    ------
    UserError
        Where git fails, with its own words.
    """
    done = _run(arguments, given, variables)
    if check and done.returncode:
        raise UserError(f"git {arguments[0]} failed: {_last_words(done)}")
    return done.stdout.strip()


def shared_remote() -> str | None:
    """Return the git remote that a team shares: `origin`, or the only one; None where there is none.

    Raises
    ------
    UserError
        Where there are several and none is called `origin`.
    """
    names = git("remote").split()
    if len(names) > 1 and "origin" not in names:
        raise UserError(
            f"several git remotes, {', '.join(names)}, and none called `origin`: `git remote rename` the one that the "
            "team shares, where looks and registered models are written down"
        )
    return "origin" if "origin" in names else next(iter(names), None)


def _run(
    arguments: Sequence[str], given: str | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # in English, for the messages that are shown as git's
    environment = os.environ | {"LC_ALL": "C"} | dict(variables or {})
    try:
        return subprocess.run(["git", *arguments], input=given, env=environment, text=True, capture_output=True)
    except FileNotFoundError:
        raise UserError("git is not installed, and the ledger of looks is kept in git") from None


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("hint:")]
    return "\n".join(lines) or f"exit status {done.returncode}"


def _with(looks: list[Entry], entry: Entry) -> list[Entry]:
    return looks if any(known.challenger == entry.challenger for known in looks) else [*looks, entry]


def _index(looks: list[Entry], challenger: str) -> int:
    for index, entry in enumerate(looks):
        if entry.challenger == challenger:
            return index
    raise UserError(f"the ledger of looks has no look of challenger {challenger}: it is reserved before it is judged")


def _change(remote: str | None, rows: str, edit: Callable[[list[Entry]], list[Entry]]) -> list[Entry]:
    """Edit the looks at some rows, with compare-and-swap, and return them."""
    refused, wait_s = 0, WAIT_S
    for _ in range(RACES):
        ledger, parents = _current(remote)
        before = ledger.get(rows, [])
        looks = edit(before)
        if looks == before and len(parents) < 2:
            return looks
        commit = _commit(ledger | {rows: looks}, parents)
        done = _swap(remote, commit, parents)
        if done.returncode == 0:
            return looks
        refused += _current(remote)[1] == parents  # nobody else was faster
        if refused >= REFUSALS:
            where = f"git remote `{remote}`" if remote else "this repository"
            raise UserError(
                f"{where} takes no push to {REF}, the ledger of looks, without which nothing is judged:\n"
                f"{_last_words(done)}\n"
                "Ask for the right to push, or leave the look unreserved (docs/review-in-ci.md)"
            )
        time.sleep(random.uniform(0, wait_s))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
    raise UserError(f"{RACES} other reviews were faster in writing to {REF}, the ledger of looks: try again")


def _current(remote: str | None) -> tuple[Ledger, list[str]]:
    """Return the ledger and the commits that a change of it follows: the remote's first, then what it does not know."""
    local = git("rev-parse", "--verify", "--quiet", REF, check=False)
    if remote is None:
        return (_read(local), [local]) if local else ({}, [])
    # no ref is written here: processes that share this clone would fight over its lock
    shared = git("ls-remote", remote, REF).partition("\t")[0]
    if shared:
        git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", remote, REF)
    ledger = _read(shared) if shared else {}
    if not local or local == shared or (shared and _is_ancestor(local, shared)):
        return ledger, [shared] if shared else []
    # looks from a time without a remote, or that somebody removed there
    for rows, looks in _read(local).items():
        for entry in looks:
            ledger[rows] = _with(ledger.get(rows, []), entry)
    return ledger, [shared, local]


def _is_ancestor(older: str, newer: str) -> bool:
    return _run(["merge-base", "--is-ancestor", older, newer]).returncode == 0


def _read(commit: str) -> Ledger:
    try:
        ledger = _FORMAT.validate_json(git("cat-file", "blob", f"{commit}:{FILE}"))
        for rows, looks in ledger.items():
            if len({entry.challenger for entry in looks}) < len(looks):
                raise ValueError(f"a challenger stands twice under rows {rows}")
    except (ValueError, UserError) as reason:  # pydantic's are ValueErrors
        raise UserError(
            f"the ledger of looks ({FILE} of commit {commit}, {REF}) is corrupt: {reason}\n"
            f"To go back to an earlier one: git push --force origin COMMIT:{REF}; `git log {commit}` lists them"
        ) from None
    return ledger


def _commit(ledger: Ledger, parents: list[str]) -> str:
    text = canonical.json_text(_FORMAT.dump_python(ledger)) + "\n"
    blob = git("hash-object", "-w", "--stdin", given=text)
    tree = git("mktree", given=f"100644 blob {blob}\t{FILE}\n")
    # the same change of the same ledger is the same commit, and needs no settings of the user's
    who = {f"GIT_{role}_{what}": "crashcast" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = {f"GIT_{role}_DATE": "@0 +0000" for role in ("AUTHOR", "COMMITTER")}
    follows = [argument for parent in filter(None, parents) for argument in ("-p", parent)]
    return git("commit-tree", tree, *follows, "-m", "Looks at test rows", variables=who | when)


def _swap(remote: str | None, commit: str, parents: list[str]) -> subprocess.CompletedProcess[str]:
    """Put `commit` in the place of the first of `parents`, if that still stands there."""
    expected = parents[0] if parents else ""
    if remote is None:
        return _run(["update-ref", REF, commit, expected or "0" * len(commit)])
    lease = f"--force-with-lease={REF}:{expected}"
    # no hooks: a pre-push hook that runs tests is for code
    done = _run(["push", "--quiet", "--no-verify", lease, remote, f"{commit}:{REF}"])
    if done.returncode == 0:
        _run(["update-ref", REF, commit])  # a memory for when the remote loses its own; in use elsewhere, no matter
    return done
