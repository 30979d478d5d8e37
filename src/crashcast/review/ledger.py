"""The ledger of looks: how many challengers have been judged on one set of test rows.

Who tries often enough on the same rows wins by luck, so the k-th distinct challenger is held to a smaller error. A look
at another test part counts by the share of this one's period that it saw: after a month of new data, most rows are the
same. The count must outlive pull requests that nobody merges and branches that somebody deletes: it is kept in a git
ref of its own on the remote, one commit a change, the newest of which holds the whole ledger:

    git fetch origin refs/crashcast/looks && git log -p FETCH_HEAD

A look is written down before the challenger is judged. Two reviews at once cannot both take a number: a push names the
commit that it replaces, and whoever comes second reads again and takes the next number.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from crashcast import canonical
from crashcast.errors import UserError
from crashcast.params.acceptance import look_error
from crashcast.review.report.schema import Verdict
from crashcast.versioning import git

REF = "refs/crashcast/looks"
FILE = "looks.json"
REFUSALS = 4  # pushes that fail though nobody else pushed: the remote says no, and not because of a lock
RACES = 100  # lost to other reviews
WAIT_S = 0.2  # at most, after the first failure; then twice that, and so on up to LONGEST_WAIT_S
LONGEST_WAIT_S = 5.0
NO_VERDICT = "no verdict"

Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Look:
    """One challenger's place among those judged on the same rows.

    Attributes
    ----------
    number : float
        k: 1, and the earlier looks at the same rows, and the shares of their period that other looks saw. The same
        challenger keeps its own.
    error : float
        What the k-th challenger is held to.
    previous : tuple of str
        The verdicts on those before it, or "no verdict" if a review did not come to one.
    reserved : bool
        Whether the number is written down, so that nobody else gets it.
    note : str or None
        What a person should be told about how far the number can be trusted.
    """

    number: float
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
    windows: list[str] | None = None  # their test periods, if recipes were judged
    period: list[str] | None = None  # of the test rows, [from, to); None: it was written down before periods counted
    number: float | None = None  # as it was taken; None: its place among the looks at the same rows


Ledger = dict[Name, list[Entry]]  # rows: looks, in their order
_FORMAT = TypeAdapter(Ledger)


def identity(model: str, data: Mapping[str, str], params: str) -> str:
    """Return what makes a challenger distinct, from its hashes: of the model, of each input, of the parameters.

    No commit is part of it: a squash merge or a rebase makes no new challenger.
    """
    text = canonical.json_text({"model": model, "data": dict(data), "params": params})
    return hashlib.sha256(text.encode()).hexdigest()


def look(
    rows: str,
    challenger: str,
    policy: str | None = None,
    reserve: bool = True,
    windows: list[str] | None = None,
    period: Sequence[str] | None = None,
) -> Look:
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
    windows : list of str, optional
        The test period of each window, if recipes are judged.
    period : pair of str, optional
        The first moment of the test rows and the end, in ISO 8601. Looks at other rows of it count by their share; None
        counts looks at these very rows alone.

    Raises
    ------
    UserError
        If the remote's ledger cannot be read, is corrupt, or takes no push.
    """
    remote = git.shared_remote()
    entry = Entry(challenger, policy, windows=windows or None, period=None if period is None else list(period))
    if reserve:
        looks = _change(remote, rows, lambda ledger: _with(ledger.get(rows, []), numbered(entry, rows, ledger)))
        note = None if remote else f"No git remote: the ledger of looks ({REF}) is kept in this clone alone."
    else:
        ledger = _current(remote)[0]
        looks = _with(ledger.get(rows, []), numbered(entry, rows, ledger))
        note = "This look was not written down: another challenger may be judged under the same number."
    index = _index(looks, challenger)
    number = looks[index].number or 1 + index
    previous = tuple(entry.verdict or NO_VERDICT for entry in looks[:index])
    return Look(number, look_error(number), previous, reserve, note)


def is_begun(remote: str) -> bool:
    """Tell whether a git remote has a ledger."""
    return bool(git.run("ls-remote", remote, REF).text)


def record(rows: str, challenger: str, verdict: Verdict) -> None:
    """Write down what came of a look that was reserved.

    Raises
    ------
    UserError
        As `look` does, and if the look was never reserved.
    """

    def judged(ledger: Ledger) -> list[Entry]:
        looks = ledger.get(rows, [])
        index = _index(looks, challenger)
        return [*looks[:index], replace(looks[index], verdict=verdict), *looks[index + 1 :]]

    _change(git.shared_remote(), rows, judged)


def known_verdicts() -> dict[tuple[str, str], Verdict | None] | None:
    """Return the verdicts that this clone's copy of the ledger has, by test rows and challenger; None without a copy.

    Raises
    ------
    UserError
        If it is corrupt.
    """
    local = git.run("rev-parse", "--verify", "--quiet", REF, expected=(0, 1)).text
    if not local:
        return None
    return {(rows, entry.challenger): entry.verdict for rows, looks in _read(local).items() for entry in looks}


def _with(looks: list[Entry], entry: Entry) -> list[Entry]:
    return looks if any(known.challenger == entry.challenger for known in looks) else [*looks, entry]


def numbered(entry: Entry, rows: str, ledger: Ledger) -> Entry:
    """Return a look with the number that it takes, if it has a period: rounded up, to hundredths."""
    if entry.period is None:
        return entry
    others = [known for other, looks in ledger.items() if other != rows for known in looks if known.period]
    seen = 1 + len(ledger.get(rows, [])) + sum(_share(entry.period, known.period or []) for known in others)
    return replace(entry, number=math.ceil(seen * 100 - 1e-6) / 100)


def _share(period: Sequence[str], seen: Sequence[str]) -> float:
    """Return the share of a period that lies in another one."""
    (start, end), (first, last) = (map(datetime.fromisoformat, one) for one in (period, seen))
    common = min(end, last) - max(start, first)
    return max(0.0, common / (end - start)) if start < end else 0.0


def _index(looks: list[Entry], challenger: str) -> int:
    for index, entry in enumerate(looks):
        if entry.challenger == challenger:
            return index
    raise UserError(f"the ledger of looks has no look of challenger {challenger}: it is reserved before it is judged")


def _change(remote: str | None, rows: str, edit: Callable[[Ledger], list[Entry]]) -> list[Entry]:
    """Edit the looks at some rows, with compare-and-swap, and return them."""
    refused, wait_s = 0, WAIT_S
    for _ in range(RACES):
        ledger, parents = _current(remote)
        before = ledger.get(rows, [])
        looks = edit(ledger)
        if looks == before and len(parents) < 2:
            return looks
        commit = _commit(ledger | {rows: looks}, parents)
        done = _swap(remote, commit, parents)
        if done.status == 0:
            return looks
        refused += _current(remote)[1] == parents  # nobody else was faster
        if refused >= REFUSALS:
            where = f"git remote `{remote}`" if remote else "this repository"
            raise UserError(
                f"{where} takes no push to {REF}, the ledger of looks, without which nothing is judged:\n"
                f"{done.words}\n"
                "Ask for the right to push, or leave the look unreserved (docs/review-in-ci.md)"
            )
        time.sleep(random.uniform(0, wait_s))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
    raise UserError(f"{RACES} other reviews were faster in writing to {REF}, the ledger of looks: try again")


def _current(remote: str | None) -> tuple[Ledger, list[str]]:
    """Return the ledger and the commits that a change of it follows: the remote's first, then what it does not know."""
    local = git.run("rev-parse", "--verify", "--quiet", REF, expected=(0, 1)).text
    if remote is None:
        return (_read(local), [local]) if local else ({}, [])
    # no ref is written here: processes that share this clone would fight over its lock
    shared = git.run("ls-remote", remote, REF).text.partition("\t")[0]
    if shared:
        git.run("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", remote, REF)
    ledger = _read(shared) if shared else {}
    if not local or local == shared or (shared and git.is_ancestor(local, shared)):
        return ledger, [shared] if shared else []
    # looks from a time without a remote, or that somebody removed there
    for rows, looks in _read(local).items():
        for entry in looks:
            ledger[rows] = _with(ledger.get(rows, []), entry)
    return ledger, [shared, local]


def _read(commit: str) -> Ledger:
    try:
        ledger = _FORMAT.validate_json(git.run("cat-file", "blob", f"{commit}:{FILE}").output)
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
    written = _FORMAT.dump_python(ledger)
    for entry in (entry for looks in written.values() for entry in looks):
        for name in ("windows", "period", "number"):
            if entry[name] is None:
                del entry[name]  # an older version reads no key that it does not know
    text = canonical.json_text(written) + "\n"
    blob = git.run("hash-object", "-w", "--stdin", given=text).text
    tree = git.run("mktree", given=f"100644 blob {blob}\t{FILE}\n").text
    # the same change of the same ledger is the same commit, and needs no settings of the user's
    who = {f"GIT_{role}_{what}": "crashcast" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = {f"GIT_{role}_DATE": "@0 +0000" for role in ("AUTHOR", "COMMITTER")}
    follows = [argument for parent in filter(None, parents) for argument in ("-p", parent)]
    return git.run("commit-tree", tree, *follows, "-m", "Looks at test rows", variables=who | when).text


def _swap(remote: str | None, commit: str, parents: list[str]) -> git.Answer:
    """Put `commit` in the place of the first of `parents`, if that still stands there."""
    expected = parents[0] if parents else ""
    if remote is None:
        return git.run("update-ref", REF, commit, expected or "0" * len(commit), expected=git.ANY_STATUS)
    lease = f"--force-with-lease={REF}:{expected}"
    done = git.run("push", "--quiet", "--no-verify", lease, remote, f"{commit}:{REF}", expected=git.ANY_STATUS)
    if done.status == 0:
        # a copy, for when the remote loses its own; whoever holds the ref's lock just now writes one as well
        git.run("update-ref", REF, commit, expected=git.ANY_STATUS)
    return done
