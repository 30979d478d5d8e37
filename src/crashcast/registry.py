"""The registry: which models were accepted, on what evidence, and what is used where.

It is kept in annotated git tags as GTO names them, so that `gto show`, `dvc artifacts get` and other tools read them:
`crash-model@v1.2.0` registers a version, `crash-model#prod#3` puts a version into a stage. The message of a version's
tag ends with the decision record, so whoever has the tags has the evidence, without a network.

The first model is v1.0.0, that of another fleet v2.0.0; an improvement counts the second number up, a renewal the
third.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

from crashcast import canonical
from crashcast.errors import UserError
from crashcast.files import replacing
from crashcast.history.raw_data import is_another_fleet
from crashcast.review import ledger
from crashcast.versioning import commit_limits, git, remote
from crashcast.versioning.dvc_files import LOCK
from crashcast.versioning.lock_checks import check
from crashcast.versioning.revision import MODELS, PARAMS, REGISTERED, SHOWN_DIGITS, Revision, default_base

if TYPE_CHECKING:
    from rich.console import Console

FIRST = "v1.0.0"
SAME = ("model", "data", "params")  # what makes two commits the same challenger


@with_config(ConfigDict(extra="allow"))
class _Side(TypedDict):
    model: str


@with_config(ConfigDict(extra="allow"))
class _Record(TypedDict):
    verdict: str
    form: str | None
    headline: str
    challenger: _Side


class _Decision(TypedDict):
    record: _Record | None
    forced: str | None


_DECISION = TypeAdapter(_Decision)


@dataclass(frozen=True)
class Model:
    """A registered version.

    Attributes
    ----------
    version, tag, revision : str
        As in v1.2.0, its git tag, and the commit it stands on.
    model : str
        DVC's hash of models/ at that commit.
    verdict : str or None
        ACCEPT, REJECT, INCONCLUSIVE, or ERROR if it was forced past a review that failed; None if somebody
        registered it without one.
    form : str or None
        What it was accepted as: improvement, renewal or first.
    forced : str or None
        Why it was registered without ACCEPT.
    stages : tuple of str
        Where it is used.
    record : dict or None
        The decision record.
    """

    version: str
    tag: str
    revision: str
    model: str | None
    verdict: str | None
    form: str | None
    forced: str | None
    stages: tuple[str, ...]
    record: dict[str, Any] | None


class Reviewed(Protocol):
    """What a review returns, as far as it matters here."""

    @property
    def record(self) -> Mapping[str, Any]:
        """The decision record."""


def accept(
    record: Mapping[str, Any] | None = None,
    *,
    review: Callable[..., Reviewed | None],
    version: str | None = None,
    force_reason: str | None = None,
    first: bool = False,
    **options: Any,
) -> Model:
    """Register the model of HEAD, if the review accepts it against the last registered one of its fleet.

    Parameters
    ----------
    record : mapping or None
        The decision record from the pull request. A squash merge changes the commit, so it must agree with HEAD in the
        hashes of model, data and parameters, and in the policy; None relies on the new review alone.
    version : str or None
        As in v2.0.0, greater than the last; by default the next one.
    force_reason : str or None
        Registers without ACCEPT, for this reason, which is recorded.
    first : bool
        That HEAD's model is the first of another fleet, with no server of the last version's: it has no champion.
    review : callable
        `crashcast.review.review`: from base (None if nothing of this fleet is registered) and head to a review. The
        hashes being those of the pull request, it mostly finds what it computed then.
    **options
        Handed to `review`.

    Raises
    ------
    UserError
        If the tree is dirty, HEAD is not merged into the remote's main branch and no reason is given, the model is
        not on DVC's remote or already registered, the record is of another model, the fleet is another one and `first`
        does not say so, or the verdict is not ACCEPT and no reason is given.
    """
    if changes := git.run("status", "--porcelain", "--untracked-files=no").text:
        raise UserError(f"the model of a commit is registered, and these changes are not committed:\n{changes}")
    commit_limits.check_places(Revision.find("HEAD"))  # also of a version that is forced
    shared = git.shared_remote()
    _fetch(shared)
    if shared and not force_reason:
        _require_merged(shared)
    model, registered = _model_at("HEAD"), models()
    if model is None:
        raise UserError(f"HEAD has no model: its dvc.lock names no output {MODELS}")
    if same := next((known for known in registered if known.model == model), None):
        raise UserError(f"this model is registered already, as {same.tag}")
    last = registered[-1] if registered else None
    if version is not None:
        wanted = _order(version)
        if last and wanted <= _order(last.version):
            raise UserError(f"{version} does not follow {last.version}, the last registered version")
    remote.check_held(model, MODELS)
    champion = None if last is None or _starts_over(last, first) else last
    decision = _decide(record, champion, model, force_reason, review, options)
    version = version or _next(last, champion, decision)
    _push(shared, _gto("register", REGISTERED, "HEAD", version=version, message=_message(version, decision)).tag)
    return models()[-1]


def models() -> list[Model]:
    """Return the registered versions that this clone knows, the last one last. No network is used."""
    from gto.exceptions import ArtifactNotFound

    try:
        versions = _gto("show", REGISTERED, registered_only=True)
    except ArtifactNotFound:
        return []
    ordered = sorted(versions, key=lambda version: _order(version["version"]))
    # another project of the same repository may have registered a commit in which this one was not there yet
    return [_read(version) for version in ordered if Revision(version["commit_hexsha"]).find_file(LOCK) is not None]


def anchor(asks_remote: bool = True) -> Model | None:
    """Return the last version that was accepted as an improvement, or as the first model; None if none was.

    Parameters
    ----------
    asks_remote : bool
        Whether this clone must know every version that the git remote has.

    Raises
    ------
    UserError
        If this clone does not know every version that the remote has.
    """
    shared = git.shared_remote() if asks_remote else None
    pattern = f"refs/tags/{REGISTERED}@*"
    there = git.run("ls-remote", "--refs", shared, pattern).text.split()[1::2] if shared else []
    if absent := {*there}.difference(git.run("for-each-ref", "--format=%(refname)", pattern).text.split()):
        raise UserError(
            f"git remote `{shared}` has {len(absent)} registered versions that this clone lacks, and a challenger is "
            f"compared with the last improvement among them: git fetch --tags {shared}"
        )
    accepted = [known for known in models() if known.verdict == "ACCEPT" and known.form in ("improvement", "first")]
    return accepted[-1] if accepted else None


def stage(version: str, stage: str) -> str:
    """Put a registered version into a stage, such as prod, and return the tag that says so.

    Raises
    ------
    UserError
        If there is no such version, it is in that stage already, or the remote takes no push.
    """
    shared = git.shared_remote()
    _fetch(shared)
    known = [model.version for model in models()]
    if version not in known:
        raise UserError(f"{version} is not registered: {', '.join(known) or 'no version is'}")
    tag = str(_gto("assign", REGISTERED, stage, version=version).tag)
    _push(shared, tag)
    return tag


def show(models: Sequence[Model], console: Console) -> None:
    """Print versions, verdicts and stages as a table."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("version", "verdict", "stage", "model", "commit", "why", box=None, padding=(0, 2, 0, 0))
    looks = ledger.known_verdicts()
    for known in reversed(models):
        verdict = {None: "not reviewed", "ERROR": "not judged"}.get(known.verdict, known.verdict)
        if is_in_ledger(known, looks) is False:
            verdict = f"NOT IN THE LEDGER: {verdict}"
        why = f"forced: {known.forced}" if known.forced else (known.record or {}).get("headline", "")
        table.add_row(
            known.version,
            ", ".join(filter(None, (verdict, known.form, known.forced and "forced"))),
            ", ".join(known.stages),
            (known.model or "")[:SHOWN_DIGITS],
            known.revision[:SHOWN_DIGITS],
            escape(_one_line(why)),
        )
    nothing = (
        "This clone knows no registered model: `git fetch --tags` brings those of a remote, "
        "`crashcast accept` registers that of HEAD."
    )
    console.print(table if models else nothing, soft_wrap=True)
    if models and looks is None:
        fetch = f"git fetch {git.shared_remote() or 'REMOTE'} {ledger.REF}:{ledger.REF}"
        console.print(f"No verdict is compared with the ledger of looks, which is not here: {fetch}", highlight=False)


def as_json(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Return versions, verdicts, stages and decision records as plain values, for programs."""
    looks = ledger.known_verdicts()
    return [asdict(known) | {"in_ledger": is_in_ledger(known, looks)} for known in models]


def write_evidence(models: Sequence[Model], path: Path) -> None:
    """Write who registered which model, when, and on what evidence, as a table for an audit."""
    import polars as pl

    from crashcast.spreadsheet import write_csv

    if not models:
        raise UserError("no model is registered here: there is nothing to write")
    looks = ledger.known_verdicts()
    try:
        rows = [_evidence(known, is_in_ledger(known, looks)) for known in models]
    except (AttributeError, KeyError, TypeError):
        raise UserError("a version's tag holds a record that no review writes: `crashcast models --json`") from None
    with replacing(path) as aside:
        write_csv(pl.DataFrame(rows, infer_schema_length=None), aside)


def _evidence(known: Model, in_ledger: bool | None) -> dict[str, Any]:
    form = "%(taggerdate:iso-strict)%00%(taggername)%00%(taggeremail)"
    at, name, email = git.run("for-each-ref", f"--format={form}", f"refs/tags/{known.tag}").text.split("\0")
    record = known.record or {}
    rows, look, base = (record.get(part) or {} for part in ("rows", "look", "base"))
    gain: dict[str, Any] = next((one for one in record.get("differences", ()) if one.get("role") == "primary"), {})
    return {
        "version": known.version, "registered_at": at, "registered_by": f"{name} {email}".strip(),
        "verdict": known.verdict, "form": known.form, "forced_because": known.forced, "in_ledger": in_ledger,
        "stages": ", ".join(known.stages), "commit": known.revision, "model": known.model,
        "base": base.get("revision"), "test_from": rows.get("from"), "test_to": rows.get("to"),
        "test_crashes": rows.get("crashes"), "look": look.get("number"), "figure": gain.get("name"),
        "gain": gain.get("difference"), "gain_low": gain.get("low"), "gain_high": gain.get("high"),
        "headline": record.get("headline"),
    }  # fmt: skip


def is_in_ledger(known: Model, looks: Mapping[tuple[str, str], str | None] | None) -> bool | None:
    """Tell whether a version's verdict was written down by a review, too: whoever may push tags can write a record.

    Parameters
    ----------
    known : Model
    looks : mapping or None
        What `ledger.known_verdicts` returns.

    Returns
    -------
    bool or None
        None if that cannot be told: there is no ledger here, or the version has no verdict on test rows.
    """
    look = (known.record or {}).get("look")
    if looks is None or known.record is None or not look:
        return None
    own = known.record["challenger"]
    try:
        identity = ledger.identity(own["model"], own["data"], own["params"])
        return looks.get((look["rows"], identity)) == known.verdict
    except (AttributeError, KeyError, TypeError, ValueError):
        return False  # no review writes such a record


def _decide(
    given: Mapping[str, Any] | None,
    champion: Model | None,
    model: str,
    force_reason: str | None,
    review: Callable[..., Reviewed | None],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a version's tag carries: the decision record, and why it was forced, if it was."""
    forced = force_reason.strip() if force_reason is not None else None
    if forced == "":
        raise UserError("forcing takes a reason, which is recorded")
    try:
        found = review(_base(champion), "HEAD", **options)
        if found is None:
            raise UserError("HEAD's model is that of the last registered version")
        record: Mapping[str, Any] = found.record
    except UserError as error:
        if forced is None:
            raise
        return {"record": None, "error": str(error), "forced": forced}
    if record["challenger"]["model"] != model:
        raise UserError(f"the review judged model {record['challenger']['model']}, and HEAD's is {model}")
    if given is not None and (differing := _differences(given, record)):
        raise UserError(
            f"the decision record is not about this commit: its {', '.join(differing)} differ. "
            "Take the record of the pull request that was merged, or none"
        )
    if record["verdict"] == "ACCEPT":
        return {"record": record, "forced": None}
    if forced is None:
        against = f"against {champion.tag}" if champion else "without a champion"
        raise UserError(
            f"{record['verdict']} {against}: {record['headline']}\n{_reasons(record)}\n"
            "Nothing was registered. To register it all the same: --force REASON"
        )
    return {"record": record, "forced": forced}


def _base(champion: Model | None) -> str | None:
    """Return the last commit before HEAD's model that had the champion: it has the policy that was in force."""
    if champion is None:
        return None
    for commit in git.run("rev-list", "--first-parent", "HEAD", "--", LOCK, PARAMS).text.split():
        with suppress(UserError):  # from before there was a pipeline, or data or parameters that were not yet run
            if _model_at(commit) == champion.model:
                check(Revision(commit))
                return commit
    if git.cut():
        raise UserError(
            f"this shallow clone lacks the commits since {champion.tag}, and the last of them that had its model says "
            "which policy is in force: git fetch --unshallow"
        )
    return champion.revision


def _differences(given: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    try:
        pairs = {key: (given["challenger"][key], record["challenger"][key]) for key in SAME}
        pairs["policy"] = given["policy"], record["policy"]
    except (KeyError, TypeError):
        raise UserError("the decision record lacks what every record has: is it the one that a review wrote?") from None
    # as text: a record that was written and read is rounded
    return [name for name, (one, other) in pairs.items() if canonical.json_text(one) != canonical.json_text(other)]


def _reasons(record: Mapping[str, Any]) -> str:
    return "\n".join(f"  {reason['text']}" for reason in record["reasons"] if reason["outcome"] in ("fail", "open"))


def _starts_over(last: Model, first: bool) -> bool:
    """Tell whether HEAD's model is another fleet's first one, as `first` has to say."""
    if not is_another_fleet(Revision.find(last.revision), Revision.find("HEAD")):
        if first:
            raise UserError(f"HEAD has servers of {last.version}'s fleet, so that is the champion: leave out --first")
        return False
    if not first:
        raise UserError(
            f"HEAD has no server in common with {last.version}, the last registered version. If the fleet is another "
            "one, its first model has no champion, and is judged against baselines: --first"
        )
    return True


def _next(last: Model | None, champion: Model | None, decision: Mapping[str, Any]) -> str:
    if last is None:
        return FIRST
    number, record = _order(last.version), decision["record"] or {}
    if champion is None:
        return str(number.bump_major().version)
    return str((number.bump_patch() if record.get("form") == "renewal" else number.bump_minor()).version)


def _order(version: str) -> Any:
    """Return a version that can be compared, as in semantic versioning."""
    from gto import versions
    from gto.exceptions import InvalidVersion

    parse: Any = versions.SemVer
    try:
        return parse(version)
    except InvalidVersion:
        raise UserError(f"{version} is no version: v2.0.0 would be one") from None


def _message(version: str, decision: Mapping[str, Any]) -> str:
    record = decision["record"] or {"verdict": "ERROR", "headline": decision["error"]}
    why = "" if decision["forced"] is None else ", forced"
    title = f"{REGISTERED} {version}: {record['verdict']}{why}"
    return f"{title}\n\n{_one_line(record['headline'])}\n\n{canonical.json_text(decision)}\n"


def _one_line(text: str) -> str:
    """Return `text` without line breaks: the third paragraph of a tag's message is the decision."""
    return " ".join(text.split())


def _read(version: Mapping[str, Any]) -> Model:
    registration, model = version["registrations"][-1], _model_at(version["commit_hexsha"])
    record: dict[str, Any] | None = None
    verdict = form = forced = None
    *_, written = registration["message"].split("\n\n", 2)  # as `_message` has it
    if written.startswith("{"):
        try:
            decision = _DECISION.validate_json(written)
            canonical.json_text(decision)  # or a number is none
            forced = decision["forced"]
            record = decision["record"]  # type: ignore[assignment]
            if record and record["challenger"]["model"] != model:
                raise UserError(
                    f"the decision record in the message of tag {registration['tag']} is about another model than its "
                    f"{LOCK} names in this folder. Unless it is another project's of this repository: "
                    f"`git tag -d {registration['tag']}`, there and on the remote"
                )
            verdict, form = (record["verdict"], record["form"]) if record else ("ERROR", None)
        except (ValueError, TypeError):
            raise UserError(
                f"the decision record in the message of tag {registration['tag']} is corrupt: "
                f"`git tag -d {registration['tag']}`, then `git fetch --tags`"
            ) from None
    return Model(
        version["version"],
        registration["tag"],
        version["commit_hexsha"],
        model,
        verdict,
        form,
        forced,
        tuple(sorted(entry["stage"] for entry in version["stages"])),
        record,
    )


def _model_at(revision: str) -> str | None:
    """Return the hash of the model that a commit's dvc.lock names."""
    return Revision.find(revision).outs.get(MODELS)


def _require_merged(shared: str) -> None:
    """Refuse a commit that the remote's main branch lacks: its pull request may yet be rejected."""
    if default_base(shared).sha != git.commit("HEAD"):
        raise UserError(
            "HEAD is not on the remote's main branch: merge and push it first; --force REASON registers it all the same"
        )


def _fetch(shared: str | None) -> None:
    if shared:
        git.run("fetch", "--quiet", "--tags", shared)


def _push(shared: str | None, tag: str) -> None:
    """Push a tag that was just made; if the remote refuses it, it is deleted again."""
    if shared is None:
        return
    try:
        git.run("push", "--quiet", "--no-verify", shared, f"refs/tags/{tag}")
    except UserError as error:
        git.run("tag", "--delete", tag)
        raise UserError(f"{tag} could not be pushed to `{shared}`, and is undone: {error}") from None


def _gto(command: str, *arguments: str, **options: Any) -> Any:
    from gto import api
    from gto.exceptions import ArtifactNotFound, GTOException
    from scmrepo.exceptions import SCMError  # such as a folder without git

    try:
        return getattr(api, command)(Path.cwd(), *arguments, **options)
    except ArtifactNotFound:
        raise
    except (GTOException, SCMError) as error:
        raise UserError(str(error)) from None
