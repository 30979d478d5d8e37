"""The review: whether a retrained model is accepted, on evidence."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crashcast.errors import UserError
from crashcast.versioning.lock_checks import check, check_pushed, check_work_tree
from crashcast.versioning.revision import MODELS, Revision, default_base

if TYPE_CHECKING:
    from crashcast.params.acceptance import Acceptance
    from crashcast.review.policy import Facts
    from crashcast.review.report.schema import Record
    from crashcast.review.rescoring import Rescored, Rescoring

__all__ = ["EXIT_STATUS", "Review", "default_base", "review"]

EXIT_STATUS = {"ACCEPT": 0, "REJECT": 1, "INCONCLUSIVE": 3}  # 2: an error
THE_BASES = "the base's rules"
VALIDATION = "metrics/validate.json"
MB = 1_000_000


@dataclass(frozen=True)
class Review:
    """A decision record (schema.py), and what its page draws (pictures.py)."""

    record: Record
    pictures: dict[str, Any]


def review(base: str | None, head: str = "HEAD", *, reserve: bool = True, pushed: bool = True) -> Review | None:
    """Decide whether the model of one commit may replace that of another, by the latter's policy.

    Parameters
    ----------
    base : str or None
        The champion's commit; None for the first model, which is judged against baselines.
    head : str
        The challenger's.
    reserve : bool
        Whether to write the look down in the ledger: False for who may not push, as in a fork.
    pushed : bool
        Whether everything of the work tree's commit must be on DVC's remote.

    Returns
    -------
    Review or None
        None where both commits have the same model, so that there is nothing to judge.

    Raises
    ------
    UserError
        Where anything is missing, does not fit together or cannot be had: never a pass.
    """
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
        from crashcast.review.data_changes import is_another_fleet
        from crashcast.versioning import committed_model

        if answer:
            answer.result()
    if champion is None:
        return _first(challenger, reserve)
    if is_another_fleet(champion, challenger):
        raise UserError(
            f"commits {champion.name} and {challenger.name} have no server in common: another fleet's first model has "
            "no champion, and is judged against baselines: --first"
        )
    if committed_model.is_same(champion, challenger):
        return None
    return _against(champion, challenger, reserve)


def _against(base: Revision, head: Revision, reserve: bool) -> Review:
    from crashcast.params.acceptance import Acceptance
    from crashcast.review import commit_changes

    acceptance, (anchor, no_anchor) = base.section(Acceptance), _anchor(base)
    changed = commit_changes.between(base, head)
    policy_changes = changed.pop("policy")

    def judge(number: Callable[[str], int]) -> dict[str, Any]:
        from crashcast.review.policy import Both, Facts
        from crashcast.review.rescoring import CHALLENGER, CHAMPION, rescore

        rescoring = rescore(base, head, anchor)
        ends = rescoring.ends
        facts = Facts(
            look=number(rescoring.rows_hash),
            rows_kind=rescoring.kind,
            is_stale=ends[CHALLENGER] - ends[CHAMPION] > acceptance.stale_after,
            has_anchor=anchor is not None,
            no_anchor=no_anchor,
            latency=Both(rescoring.latency_ms[CHAMPION], rescoring.latency_ms[CHALLENGER]),
            size=Both(rescoring.size_bytes[CHAMPION] / MB, rescoring.size_bytes[CHALLENGER] / MB),
            denominators={
                name: Both(sides["expected"], sides["found"]) for name, sides in rescoring.denominators.items()
            },
            budget=Both(_budget(base), _budget(head)),
            policy_changes=tuple((row["name"], row["base"], row["challenger"]) for row in policy_changes),
        )
        rescored = {THE_BASES: rescoring.forward, **rescoring.definitions}
        history = {"counts": rescoring.history.counts, "listed": rescoring.history.listed}
        return {
            "rows_hash": rescoring.rows_hash,
            "history": history if rescoring.history.is_corrected else {"counts": {}, "listed": []},
            **_judged(rescored, acceptance, facts, _budget(base)),
            "reverse": _reversed(rescoring, acceptance, _budget(base)),
            "excluded": rescoring.excluded,
            "kind": rescoring.kind,
        }

    return _conclude(base, head, anchor, acceptance, judge, changed, policy_changes, reserve, no_anchor)


def _first(head: Revision, reserve: bool) -> Review:
    from crashcast.params.acceptance import Acceptance
    from crashcast.review import commit_changes

    acceptance = head.section(Acceptance)
    changed = commit_changes.between(head, head)
    changed.pop("policy")

    def judge(number: Callable[[str], int]) -> dict[str, Any]:
        from crashcast.review.policy import Facts
        from crashcast.review.rescoring import rescore_first

        rescorings = rescore_first(head)
        rows_hash = next(iter(rescorings.values())).rows_hash
        facts = Facts(look=number(rows_hash), rows_kind="own", is_first=True)
        rescored = {name: rescoring.forward for name, rescoring in rescorings.items()}
        return {
            "rows_hash": rows_hash,
            "history": {"counts": {}, "listed": []},
            **_judged(rescored, acceptance, facts, _budget(head)),
            "reverse": {"not_judged": "there is no champion"},
            "excluded": {},
            "kind": "own",
        }

    return _conclude(None, head, None, acceptance, judge, changed, [], reserve)


def _anchor(base: Revision) -> tuple[Revision | None, str | None]:
    """Return the commit of the last model accepted as an improvement, where that is not the base's own model.

    Where that model cannot score the base's data any more, there is none, and it is said why.
    """
    from crashcast import registry
    from crashcast.params.telemetry import Telemetry
    from crashcast.review.data_changes import is_another_fleet

    found = registry.anchor()
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


def _budget(revision: Revision) -> float:
    from crashcast.params.alarms import Alarms

    return revision.section(Alarms).false_alarms_per_server_day


def _judged(rescored: dict[str, Rescored], acceptance: Acceptance, facts: Facts, budget: float) -> dict[str, Any]:
    """Gather the evidence under every definition, or against every baseline, and decide."""
    from crashcast.review.comparison import gather
    from crashcast.review.policy import POWER, decide, difference_rows, slice_rows
    from crashcast.review.report import plot_data

    evidence = {name: gather(one, acceptance, budget) for name, one in rescored.items()}
    decision = decide(evidence, acceptance, facts)
    rows = {
        name: difference_rows(found, acceptance, decision.form, decision.error, facts.is_first)
        for name, found in evidence.items()
    }
    # of several baselines, the hardest to beat
    shown = min(rows, key=lambda name: rows[name][0]["difference"]) if facts.is_first else next(iter(rows))
    found, one = evidence[shown], rescored[shown]
    start, end = (moment.isoformat() for moment in one.period)
    return {
        "decision": {
            "verdict": decision.verdict,
            "form": decision.form,
            "headline": decision.headline,
            "reasons": [reason._asdict() for reason in decision.reasons],
        },
        "rows": {
            "from": start,
            "to": end,
            "rows": found.rows,
            "servers": found.servers,
            "server_days": found.server_days,
            "crashes": found.crashes,
            "groups": found.groups,
            "blocks": found.blocks,
        },
        "differences": rows.pop(shown),
        "definitions": rows,
        "slices": slice_rows(found, acceptance, facts),
        "detectable": None if decision.detectable is None else {"difference": decision.detectable, "power": POWER},
        "pictures": plot_data.draw(one),
    }


def _reversed(rescoring: Rescoring, acceptance: Acceptance, budget: float) -> dict[str, Any]:
    """Compare on what remains of the champion's test period: told, and never decides."""
    from crashcast.params.acceptance import ERROR
    from crashcast.review.comparison import gather
    from crashcast.review.policy import difference_rows

    if isinstance(rescoring.reverse, str):
        return {"not_judged": rescoring.reverse}
    try:
        found = gather(rescoring.reverse, acceptance, budget)
    except UserError as error:
        return {"not_judged": str(error)}
    if found.groups < acceptance.min_groups or found.servers_with_crashes < acceptance.min_servers:
        return {"not_judged": f"{found.groups} groups of crashes on {found.servers_with_crashes} servers are too few"}
    rows = difference_rows(found, acceptance, None, ERROR)
    return {"differences": [row | {"role": "shown", "margin": None} for row in rows]}


def _conclude(
    base: Revision | None,
    head: Revision,
    anchor: Revision | None,
    acceptance: Acceptance,
    judge: Callable[[Callable[[str], int]], dict[str, Any]],
    changed: dict[str, Any],
    policy_changes: list[dict[str, Any]],
    reserve: bool,
    no_anchor: str | None = None,
) -> Review:
    """Take a look, judge unless that was done before, note the verdict in the ledger, and put the record together."""
    from crashcast.canonical import json_text
    from crashcast.review import ledger
    from crashcast.review.report import schema

    own = _side(head)
    sides = {"base": base and _side(base), "challenger": own, "anchor": anchor and _side(anchor)}
    challenger = ledger.identity(own["model"], own["data"], own["params"])
    policy = acceptance.model_dump(mode="json")
    looks: list[ledger.Look] = []

    def number(rows_hash: str) -> int:
        looks.append(ledger.look(rows_hash, challenger, _hash(policy), reserve))
        return looks[-1].number

    key = _key(sides, policy, no_anchor)
    found = _recall(key)
    if found is None or number(found["rows_hash"]) != found["look"]:
        looks.clear()
        found = judge(number)
        found["look"] = looks[-1].number
        found = _keep(key, found)
    look = looks[-1]
    if look.note:
        print(f"review: {look.note}", file=sys.stderr)
    if reserve:
        ledger.record(found["rows_hash"], challenger, found["decision"]["verdict"])
    record = {
        "schema": schema.SCHEMA,
        **found["decision"],
        **sides,
        "policy": policy,
        "policy_changes": policy_changes,
        "look": {
            "number": look.number,
            "error": look.error,
            "rows": found["rows_hash"],
            "previous": list(look.previous),
        },
        "rows": {**found["rows"], "kind": found["kind"], "excluded": found["excluded"]},
        **{name: found[name] for name in ("differences", "detectable", "definitions", "reverse", "slices")},
        "changes": {**changed, "history": found["history"]},
        "validation": head.metrics[VALIDATION],
    }
    return Review(schema.check(json.loads(json_text(record)), "the decision record"), found["pictures"])


def _side(revision: Revision) -> dict[str, Any]:
    """Return what a commit's model was made of."""
    from crashcast.canonical import json_text
    from crashcast.versioning import committed_model

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


def _key(sides: dict[str, Any], policy: dict[str, Any], no_anchor: str | None) -> str:
    """Return what names a judgement: everything that it depends on, commits not among it."""
    from crashcast.execution import code_hash

    without_commits = {
        name: side and {key: value for key, value in side.items() if key != "revision"} for name, side in sides.items()
    }
    return _hash([without_commits, policy, no_anchor, code_hash.digest("crashcast.review.review", with_carriers=True)])


def _keep(key: str, found: dict[str, Any]) -> dict[str, Any]:
    """Keep a judgement beside DVC's cache, and return it as it will be recalled."""
    from crashcast.canonical import json_text, write_text

    text = json_text(found)
    write_text(_path(key), f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
    kept: dict[str, Any] = json.loads(text)
    return kept


def _recall(key: str) -> dict[str, Any] | None:
    """Return a judgement that was kept, if it is whole."""
    try:
        digest, _, text = _path(key).read_text(encoding="utf-8").rstrip("\n").partition("\n")
    except OSError:
        return None
    found: dict[str, Any] | None = json.loads(text) if hashlib.sha256(text.encode()).hexdigest() == digest else None
    return found


def _path(key: str) -> Path:
    from crashcast.versioning import cache

    return cache.review_folder() / "judged" / f"{key}.json"


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
