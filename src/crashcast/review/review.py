"""The review: whether a retrained model may replace the one in use.

`review` is a straight line: find the commits, rescore their models on shared rows, take the attempt's number, compare,
decide, record. What is drawn from the record is in `report`.

In CI, three jobs with different rights share the work: `fetch` may read the bucket, `run` may do nothing and runs the
challenger's code, and `review` judges its answers.
"""

from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crashcast.errors import UserError
from crashcast.files import sha256_of_json
from crashcast.progress import MB
from crashcast.versioning import cache, committed_model, git
from crashcast.versioning.lock_checks import check, check_pushed, check_work_tree
from crashcast.versioning.revision import MODELS, VALIDATION, Revision, default_base

if TYPE_CHECKING:
    from crashcast.params.acceptance import Acceptance
    from crashcast.review.ledger import Look
    from crashcast.review.policy import Facts
    from crashcast.review.report.schema import Record, Run
    from crashcast.review.rescoring import Rescoring, ScoredRows

__all__ = ["EXIT_STATUS", "Review", "UntrustedCodeError", "default_base", "fetch", "review", "run"]

EXIT_STATUS = {"ACCEPT": 0, "REJECT": 1, "INCONCLUSIVE": 3}  # 2: an error
COUNTED = ("rows", "servers", "server_days", "crashes", "groups", "blocks")


class UntrustedCodeError(UserError):
    """A challenger whose code would have to run where it could do harm: INCONCLUSIVE."""


def fetch(base: str, head: str) -> None:
    """Bring all data that a review of two commits can need into DVC's cache; no code of either runs.

    Raises
    ------
    UserError
        As `review` does; or naming what is not on DVC's remote.
    """
    champion, challenger = _find_commits(base, head, pushed=False)
    anchor, _ = _find_anchor(champion, asks_remote=False) if champion else (None, None)
    cache.fetch_whole(
        {
            f"{path} of commit {revision.name}": digest
            for revision in filter(None, (champion, challenger, anchor))
            for path, digest in {**revision.raw, **revision.data}.items()
        }
    )


def run(base: str, head: str, folder: Path) -> None:
    """Run the challenger's code as a review of these commits does, and keep its answers; nothing is judged.

    Parameters
    ----------
    base, head : str
    folder : Path
        For `crashcast.versioning.sandbox_answers.given`; what it holds is removed.

    Raises
    ------
    UserError
        As `review` does.
    """
    from crashcast.params.acceptance import Acceptance
    from crashcast.review.rescoring import rescore
    from crashcast.versioning import sandbox, sandbox_answers

    champion, challenger = _find_commits(base, head, pushed=False)
    with sandbox_answers.keeping(folder, challenger.sha, sandbox.missing()):
        if champion and committed_model.is_same(champion, challenger):
            return
        try:
            _way_to_run(champion, challenger, trust_authors=False)
        except UntrustedCodeError as error:  # the judge says so
            print(f"review: {error}", file=sys.stderr)
            return
        anchor, _ = _find_anchor(champion, asks_remote=False) if champion else (None, None)
        acceptance = (champion or challenger).section(Acceptance)
        rescore(champion, challenger, anchor, acceptance.windows)


@dataclass(frozen=True)
class Review:
    """A decision record (report/schema.py), and what its page draws (report/plot_data.py)."""

    record: Record
    plot_data: dict[str, Any]


def review(
    base: str | None,
    head: str = "HEAD",
    *,
    reserve: bool = True,
    pushed: bool = True,
    trust_authors: bool = False,
) -> Review | None:
    """Decide whether the model of one commit may replace that of another, by the latter's policy.

    Parameters
    ----------
    base : str or None
        The champion's commit; None for a first model, which is compared with baselines.
    head : str
        The challenger's commit.
    reserve : bool
        Whether to write the attempt down in the ledger. False for a user who may not push, as in a fork.
    pushed : bool
        Whether everything of the work tree's commit must be on DVC's remote.
    trust_authors : bool
        Whether the challenger's code may run without a sandbox, and its packages be installed; it is recorded.

    Returns
    -------
    Review or None
        None if both commits have the same model, so that there is nothing to compare.

    Raises
    ------
    UntrustedCodeError
        If there is no sandbox for code that the challenger changes, or it changes locked packages.
    UserError
        If anything is missing, does not fit together or cannot be fetched: never a pass.
    """
    from crashcast.canonical import json_text
    from crashcast.params.acceptance import Acceptance
    from crashcast.params.label import Label
    from crashcast.review import commit_changes, ledger
    from crashcast.review.comparison import check_block
    from crashcast.review.report import schema
    from crashcast.review.rescoring import rescore
    from crashcast.versioning import sandbox_answers

    champion, challenger = _find_commits(base, head, pushed)
    if champion and committed_model.is_same(champion, challenger):
        return None
    if reserve:
        _ask_before_the_first_push()
    way = _way_to_run(champion, challenger, trust_authors)
    anchor, no_anchor = _find_anchor(champion) if champion else (None, None)
    if sandbox_answers.of(challenger.sha):
        _check_history(champion, anchor)
    incumbent = champion or challenger  # whose policy and alarm budget apply
    acceptance, changes = incumbent.section(Acceptance), commit_changes.between(incumbent, challenger)
    for revision in (incumbent, challenger):  # before the models are scored, which takes minutes
        check_block(acceptance, revision.section(Label).reach)
    own = _side(challenger)
    record = {
        "schema": schema.SCHEMA,
        "base": champion and _side(champion),
        "challenger": own,
        "anchor": anchor and _side(anchor),
        "policy": acceptance.model_dump(mode="json"),
        "policy_changes": changes.pop("policy"),
        "validation": challenger.metrics[VALIDATION],
    }

    key = _key(record, no_anchor, way)
    found = _recall(key)
    rescoring = None if found else rescore(champion, challenger, anchor, acceptance.windows)
    test_rows = _name_rows(rescoring) if rescoring else found["test_rows"]
    identity = ledger.identity(own["model"], own["data"], own["params"])
    # the number is taken once the rows are scored, and before anybody sees how the models compare
    look = _take_number(test_rows, identity, record["policy"], reserve)
    if found and found["look"] != look.number:  # it was decided under another number
        rescoring = rescore(champion, challenger, anchor, acceptance.windows)
    if rescoring:
        facts = _facts(rescoring, look, acceptance, incumbent, challenger, no_anchor, record["policy_changes"])
        found = _keep(key, _decided(rescoring, acceptance, facts, _budget(incumbent), way))
    if reserve:
        ledger.record(test_rows["hash"], identity, found["decided"]["verdict"])
    record |= found["decided"] | {
        "look": {
            "number": look.number,
            "error": look.error,
            "rows": test_rows["hash"],
            "previous": list(look.previous),
        },
        "changes": {**changes, "history": found["history"]},
    }
    return Review(schema.checked(json.loads(json_text(record)), "the decision record"), found["plot_data"])


def _name_rows(rescoring: Rescoring) -> dict[str, Any]:
    """Return what the ledger calls the test rows by."""
    period = [moment.isoformat() for moment in rescoring.forward.period]
    return {"hash": rescoring.rows_hash, "windows": rescoring.windows, "period": period}


def _take_number(test_rows: dict[str, Any], challenger: str, policy: dict[str, Any], reserve: bool) -> Look:
    """Take the challenger's number on these rows from the ledger, and say where it was written down."""
    from crashcast.review import ledger

    digest, period = sha256_of_json(policy), test_rows["period"]
    look = ledger.look(test_rows["hash"], challenger, digest, reserve, test_rows["windows"], period)
    remote = git.shared_remote()
    if reserve and remote:
        print(f"review: look {look.number:g} is pushed to {ledger.REF} on git remote `{remote}`", file=sys.stderr)
    if look.note:
        print(f"review: {look.note}", file=sys.stderr)
    return look


def _ask_before_the_first_push() -> None:
    """Ask a person at a terminal before the ledger of looks is pushed to a git remote that has none.

    Raises
    ------
    UserError
        If the answer is no.
    """
    from crashcast.review import ledger

    remote = git.shared_remote()
    if remote is None or not (sys.stdin.isatty() and sys.stderr.isatty()) or ledger.is_begun(remote):
        return
    print(
        f"review: each attempt is counted in a ledger, {ledger.REF}, which is pushed to git remote `{remote}` "
        "(docs/review-in-ci.md). It has none yet. Push it? [y/N] ",
        end="", file=sys.stderr, flush=True,
    )  # fmt: skip
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("nothing was pushed and nothing was judged; --unreserved judges without counting the attempt")


def _find_commits(base: str | None, head: str, pushed: bool) -> tuple[Revision | None, Revision]:
    """Return the commits of champion and challenger, once both are whole, pushed and of one fleet."""
    from crashcast.history.raw_data import is_another_fleet

    challenger = Revision.find(head)
    check_work_tree(challenger)
    with ThreadPoolExecutor(1) as beside:  # DVC's answer takes seconds
        answer = beside.submit(check_pushed) if pushed else None
        check(challenger)
        champion = Revision.find(base) if base is not None else None
        if champion:
            if champion == challenger:
                raise UserError(
                    f"{head} is {base}: there is nothing to compare; name the champion's commit: --base REV"
                )
            check(champion)
        if answer:
            answer.result()
    if champion and is_another_fleet(champion, challenger):
        raise UserError(
            f"commits {champion.name} and {challenger.name} have no server in common: another fleet's first model has "
            "no champion, and is judged against baselines: --first"
        )
    return champion, challenger


def _find_anchor(base: Revision, asks_remote: bool = True) -> tuple[Revision | None, str | None]:
    """Return the commit of the last model accepted as an improvement, if it is not the base's own model.

    If that model cannot score the base's data any more, there is none, and the second value says why.
    """
    from crashcast import registry
    from crashcast.history.raw_data import is_another_fleet
    from crashcast.params.telemetry import Telemetry

    found = registry.anchor(asks_remote)
    if found is None or found.model == base.outs[MODELS]:
        return None, None
    revision, who = Revision.find(found.revision), f"{found.version}, the last model accepted as an improvement,"
    if is_another_fleet(revision, base):
        return None, f"{who} is another fleet's: not compared"
    before, now = (commit.section(Telemetry).metrics for commit in (revision, base))
    if lost := [name for name in before if name not in now]:
        return None, f"{who} needs {', '.join(lost)}, which the base's telemetry has no more: not compared"
    check(revision)
    return revision, None


def _check_history(*revisions: Revision | None) -> None:
    """Refuse commits that are not in HEAD's history: a job that holds a token runs no code that nobody merged."""
    for revision in filter(None, revisions):
        if not git.is_ancestor(revision.sha, "HEAD"):
            raise UserError(
                f"commit {revision.name} is not in the history of the commit whose code judges: nobody merged it, so "
                "the job that judges does not run its code. Who pushed its tag?"
            )


def _way_to_run(base: Revision | None, head: Revision, trust_authors: bool) -> Run:
    """Return how the challenger's code runs, as the record has it.

    The first model's code is that which judges, and so is trusted.
    """
    from crashcast.review import commit_changes
    from crashcast.versioning import environment, sandbox, sandbox_answers

    given = sandbox_answers.of(head.sha)
    missing = sandbox_answers.missing_sandbox(given) if given else sandbox.missing()
    changed = commit_changes.code_between(base, head) if base else []
    packages = [
        name for name in (environment.RUN, environment.BUILD) if base and base.find_file(name) != head.find_file(name)
    ]
    trusts = trust_authors and bool(changed or packages)
    way: Run = {"sandbox": "none" if missing else sandbox.NAME, "trusts_authors": trusts}
    reason = missing if changed else None
    if packages:
        reason = f"it changes {' and '.join(packages)}, and installing packages can run any code"
    if reason and not trust_authors:
        raise UntrustedCodeError(
            f"The challenger's code was not run: {reason}. "
            f"If you trust its authors, read the change and review it with --trust-authors (docs/review.md)"
        )
    return way


def _budget(revision: Revision) -> float:
    from crashcast.params.alarms import Alarms

    return revision.section(Alarms).false_alarms_per_server_day


def _facts(
    rescoring: Rescoring,
    look: Look,
    acceptance: Acceptance,
    base: Revision,
    head: Revision,
    no_anchor: str | None,
    policy_changes: list[dict[str, Any]],
) -> Facts:
    """Return what the decision needs beside the comparison."""
    from crashcast.review.policy import Both, Facts
    from crashcast.review.rescoring import ANCHOR, CHALLENGER, CHAMPION

    if CHAMPION not in rescoring.ends:
        return Facts(look.number, rescoring.kind, n_windows=len(rescoring.forward.by_model), is_first=True)

    def both(values: dict[str, Any], unit: float = 1) -> Both:
        return Both(values[CHAMPION] / unit, values[CHALLENGER] / unit)

    return Facts(
        look=look.number,
        rows_kind=rescoring.kind,
        n_windows=len(rescoring.forward.by_model),
        is_stale=not rescoring.forward.windows
        and rescoring.ends[CHALLENGER] - rescoring.ends[CHAMPION] > acceptance.stale_after,
        has_anchor=ANCHOR in rescoring.ends,
        no_anchor=no_anchor,
        latency=both((rescoring.models or rescoring.forward).latency_ms),
        size=both(rescoring.size_bytes, MB),
        denominators={name: Both(rescoring.expected[name], rescoring.found[name]) for name in rescoring.expected},
        budget=Both(_budget(base), _budget(head)),
        policy_changes=tuple((row["name"], row["base"], row["challenger"]) for row in policy_changes),
    )


def _decided(rescoring: Rescoring, acceptance: Acceptance, facts: Facts, budget: float, run: Run) -> dict[str, Any]:
    """Compare the models by every definition, or with every baseline, decide, and put it as the record has it."""
    from crashcast.review.comparison import compare
    from crashcast.review.policy import POWER, decide, difference_rows, slice_rows
    from crashcast.review.report import plot_data, reasons

    comparisons = {name: compare(rows, acceptance, budget) for name, rows in rescoring.by_definition.items()}
    if rescoring.models:
        facts = replace(facts, models=compare(rescoring.models, acceptance, budget))
    decision = decide(comparisons, acceptance, facts)
    rows = {
        name: difference_rows(found, acceptance, decision.form, decision.error, facts.is_first)
        for name, found in comparisons.items()
    }
    # of several baselines, the hardest to beat
    shown = min(rows, key=lambda name: rows[name][0]["difference"]) if facts.is_first else next(iter(rows))
    found, scored = comparisons[shown], rescoring.by_definition[shown]
    start, end = (moment.isoformat() for moment in scored.period)
    return {
        "look": facts.look,
        "test_rows": _name_rows(rescoring),
        "decided": {
            "verdict": decision.verdict,
            "form": decision.form,
            "headline": reasons.headline(decision, facts.n_windows),
            "reasons": [
                {"check": reason.check, "outcome": reason.outcome, "text": reasons.in_words(reason)}
                for reason in decision.reasons
            ],
            "rows": {
                "from": start,
                "to": end,
                **{name: getattr(found, name) for name in COUNTED},
                "kind": rescoring.kind,
                "excluded": scored.excluded,
                **_mitigated(scored),
            },
            **({"windows": [_window(one) for one in scored.windows]} if scored.windows else {}),
            "differences": rows.pop(shown),
            "definitions": rows,
            "reverse": _reversed(rescoring, acceptance, budget),
            "run": {**run, "trained_again": rescoring.trained_again},
            "slices": slice_rows(found, acceptance, facts),
            "detectable": None if decision.detectable is None else {"difference": decision.detectable, "power": POWER},
        },
        "history": {"counts": rescoring.history.counts, "listed": rescoring.history.listed},
        "plot_data": plot_data.draw(scored),
    }


def _window(scored: ScoredRows) -> dict[str, Any]:
    """Return a window as the record lists it, with the PR-AUC of each model that was trained before it."""
    from crashcast.modeling import alarms, row_metrics, split_rule

    known = scored.rows.filter(split_rule.HAS_LABEL)
    labels = known["label"].to_numpy()
    is_ranked = 0 < labels.sum() < len(labels)
    models = ("champion", "challenger")
    start, end = (moment.isoformat() for moment in split_rule.period(scored.rule, "test"))
    return {
        "from": start,
        "to": end,
        "trained_to": split_rule.period(scored.rule, "train")[1].isoformat(),
        "rows": known.height,
        "crashes": alarms.crashes_of(scored.crashes, scored.period, scored.window.lead).height,
        **{name: row_metrics.pr_auc(labels, known[name].to_numpy()) if is_ranked else None for name in models},
    }


def _mitigated(scored: ScoredRows) -> dict[str, Any]:
    """Count the rows and alarms of which nobody knows the outcome because somebody acted; nothing if there are none."""
    from crashcast.review.alarm_curve import mitigated_alarms

    if scored.mitigated.is_empty():
        return {}
    alarms = {name: mitigated_alarms(scored, name) for name in ("champion", "challenger")}
    return {"mitigated": {"rows": scored.mitigated.height, "alarms": alarms}}


def _reversed(rescoring: Rescoring, acceptance: Acceptance, budget: float) -> dict[str, Any]:
    """Compare on what remains of the champion's test period: shown, and never decides."""
    from crashcast.params.acceptance import ERROR
    from crashcast.review.comparison import compare
    from crashcast.review.policy import difference_rows

    if isinstance(rescoring.reverse, str):
        return {"not_judged": rescoring.reverse}
    try:
        found = compare(rescoring.reverse, acceptance, budget)
    except UserError as error:
        return {"not_judged": str(error)}
    if found.groups < acceptance.min_groups or found.servers_with_crashes < acceptance.min_servers:
        return {"not_judged": f"{found.groups} groups of crashes on {found.servers_with_crashes} servers are too few"}
    rows = difference_rows(found, acceptance, None, ERROR)
    return {"differences": [row | {"role": "shown", "margin": None} for row in rows]}


def _side(revision: Revision) -> dict[str, Any]:
    """Return what a commit's model was made of."""
    from crashcast.canonical import json_text

    described = committed_model.describe(revision)
    return {
        "revision": revision.sha,
        "dvc_lock": hashlib.sha256(revision.file("dvc.lock")).hexdigest(),
        "model": revision.outs[MODELS],
        "data": revision.raw,
        "params": hashlib.sha256(json_text(revision.params).encode()).hexdigest(),
        "algorithm": described["algorithm"],
        "features": len(described["features"]),
    }


def _key(record: dict[str, Any], no_anchor: str | None, run: Run) -> str:
    """Return the name of a decision: a hash of everything that it depends on. Commits are not part of it."""
    from crashcast.execution import code_hash

    sides = [
        side and {name: value for name, value in side.items() if name != "revision"}
        for side in (record["base"], record["challenger"], record["anchor"])
    ]
    code = code_hash.digest("crashcast.review.review", with_carriers=True)
    return sha256_of_json([sides, record["policy"], no_anchor, run, code])


def _keep(key: str, found: dict[str, Any]) -> dict[str, Any]:
    """Keep a decision beside DVC's cache, and return it as it will be recalled."""
    from crashcast.canonical import json_text, write_text

    text = json_text(found)
    write_text(_path(key), f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
    kept: dict[str, Any] = json.loads(text)
    return kept


def _recall(key: str) -> dict[str, Any]:
    """Return a decision that was kept, if it is whole; empty if there is none."""
    try:
        digest, _, text = _path(key).read_text(encoding="utf-8").rstrip("\n").partition("\n")
    except OSError:
        return {}
    found: dict[str, Any] = json.loads(text) if hashlib.sha256(text.encode()).hexdigest() == digest else {}
    return found


def _path(key: str) -> Path:
    return cache.review_folder() / "judged" / f"{key}.json"
