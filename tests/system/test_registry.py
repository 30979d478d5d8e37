"""The registry: real git tags in a real remote, models on a real S3 server; the review's verdict is given."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import yaml
from botocore.session import Session
from rich.console import Console

from crashcast import registry, tables
from crashcast.canonical import json_text
from crashcast.errors import UserError
from crashcast.review import ledger
from crashcast.versioning import revision
from crashcast.versioning.revision import Revision

ROOT = Path(__file__).parents[2]
Shell = Callable[..., subprocess.CompletedProcess[str]]
Train = Callable[..., None]


class Judge:
    """Stands in for the review: its verdict is set, what it was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str]] = []
        self.says: dict[str, Any] = {}

    def __call__(self, base: str | None, head: str) -> SimpleNamespace:
        self.asked.append((base, head))
        found = {"verdict": "ACCEPT", "form": "improvement" if base else "first"} | self.says
        return SimpleNamespace(record=record_of(head) | found)


def record_of(revision: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "verdict": "ACCEPT",
        "form": "improvement",
        "headline": "{0.02\n{ better in PR-AUC.",  # braces, that must not be taken for the record's
        "reasons": [
            {"check": "primary", "outcome": "fail", "text": "The gain may be nothing."},
            {"check": "slice", "outcome": "pass", "text": "No slice lost."},
        ],
        "challenger": {
            "revision": revision,
            "model": Revision.find(revision).outs["models"],
            "data": {"x": "1"},
            "params": "p",
        },
        "policy": {"min_gain": 0.005},
        "differences": [{"name": "pr_auc", "difference": 0.02}],
    }


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture(autouse=True)
def _work_there(trained: Path) -> None:
    pass


def tags(shell: Shell, where: Path) -> list[str]:
    return shell("git tag", cwd=where).stdout.split()


def refuse_pushes(trained: Path) -> None:
    hook = trained.parent / "remote.git/hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho 'not you' >&2\nexit 1\n")
    hook.chmod(0o755)


def test_the_first_model_is_judged_without_a_champion_and_registered_on_its_commit(
    trained: Path, judge: Judge, shell: Shell
) -> None:
    model = registry.accept(review=judge)

    assert judge.asked == [(None, "HEAD")]
    assert (model.version, model.verdict, model.form, model.forced) == ("v1.0.0", "ACCEPT", "first", None)
    assert model.revision == shell("git rev-parse HEAD", cwd=trained).stdout.strip()
    assert registry.models() == [model]
    assert tags(shell, trained.parent / "remote.git") == ["crash-model@v1.0.0"]
    assert shell("git cat-file -t crash-model@v1.0.0", cwd=trained).stdout == "tag\n"


def test_a_clone_without_a_network_has_the_evidence(
    trained: Path, judge: Judge, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge.says = {"slices": [{"name": f"slice {index}", "text": "x" * 1000} for index in range(300)]}  # no small record
    accepted = registry.accept(review=judge)
    shell(
        "git init -q --bare -b main mirror.git && cd trained && "
        "git push -q ../mirror.git main && git push -q --tags ../mirror.git"
    )
    shell("git clone -q mirror.git reader && git -C reader remote set-url origin nowhere")
    monkeypatch.chdir(tmp_path / "reader")

    assert registry.models() == [accepted]
    assert accepted.record is not None
    assert len(accepted.record["slices"]) == 300
    assert accepted.record["headline"] == record_of("HEAD")["headline"]


def test_a_commit_that_is_not_merged_is_refused(trained: Path, judge: Judge, shell: Shell) -> None:
    shell("git switch -q -c attempt && git commit -q --allow-empty -m attempt && git push -q origin HEAD", cwd=trained)
    with pytest.raises(UserError, match="HEAD is not on the remote's main branch: merge and push it first"):
        registry.accept(review=judge)
    assert judge.asked == []
    assert registry.accept(review=judge, force_reason="main is frozen").version == "v1.0.0"


def test_the_only_git_remote_may_have_any_name(trained: Path, judge: Judge, shell: Shell) -> None:
    shell("git remote rename origin upstream", cwd=trained)
    assert registry.accept(review=judge).version == "v1.0.0"


def test_other_tools_read_the_tags(trained: Path, judge: Judge, shell: Shell, tmp_path: Path) -> None:
    product = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    with (trained / "dvc.yaml").open("a") as file:
        yaml.safe_dump({"artifacts": product["artifacts"]}, file)
    shell("git commit -q -am artifacts && git push -q origin main", cwd=trained)
    registry.accept(review=judge)
    registry.stage("v1.0.0", "prod")

    shown = json.loads(shell("gto show crash-model --json", cwd=trained).stdout)
    assert [(row["version"], [stage["stage"] for stage in row["stages"]]) for row in shown] == [("v1.0.0", ["prod"])]
    shell("dvc artifacts get . crash-model --rev v1.0.0 --out got", cwd=trained)
    assert (trained / "got/model").read_text() == "one"


def test_an_improvement_counts_the_second_number_up_and_a_renewal_the_third(judge: Judge, train: Train) -> None:
    first = registry.accept(review=judge)
    judge.says = {"form": "renewal"}
    train("two")
    renewal = registry.accept(review=judge)
    judge.says = {}
    train("three")
    improvement = registry.accept(review=judge)

    assert [renewal.version, improvement.version] == ["v1.0.1", "v1.1.0"]
    assert [base for base, _ in judge.asked] == [None, first.revision, renewal.revision]
    assert registry.models() == [first, renewal, improvement]


def test_the_policy_in_force_before_the_merge_counts_not_that_of_the_registration(
    trained: Path, judge: Judge, train: Train, shell: Shell
) -> None:
    registry.accept(review=judge)
    (trained / "params.yaml").write_text("acceptance: {min_gain: 0.01}")
    shell("git add params.yaml && git commit -q -m stricter && git push -q origin main", cwd=trained)
    stricter = shell("git rev-parse HEAD", cwd=trained).stdout.strip()
    (trained / "params.yaml").write_text("acceptance: {min_gain: 0}")  # with the model, in one squashed commit
    train("two")
    shell("git commit -q --allow-empty -m later && git push -q origin main", cwd=trained)

    registry.accept(review=judge)

    assert judge.asked[-1] == (stricter, "HEAD")


def test_a_commit_whose_lock_is_behind_its_data_is_no_base(
    trained: Path, judge: Judge, train: Train, shell: Shell
) -> None:
    first = registry.accept(review=judge)
    (trained / "params.yaml").write_text("data: {source: import}")
    (trained / "recipe").write_text("imported, and not yet run")
    shell("git add params.yaml && git commit -q -am import && git push -q origin main", cwd=trained)
    train("two")

    registry.accept(review=judge)

    assert judge.asked[-1] == (first.revision, "HEAD")


def test_the_first_model_of_another_fleet_has_no_champion(
    trained: Path, judge: Judge, train: Train, shell: Shell
) -> None:
    def train_on(*servers: str) -> None:
        path = trained / "data/raw/coverage.parquet"
        path.unlink(missing_ok=True)
        tables.write(path, pl.DataFrame({"server_id": servers}))
        shell("dvc add -q data/raw/coverage.parquet && git add data/raw", cwd=trained)
        train("of " + " ".join(servers))

    pipeline = trained / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("[recipe]", "[recipe, data/raw/coverage.parquet]"))
    train_on("a", "b")
    first = registry.accept(review=judge)
    train_on("b", "c")
    assert registry.accept(review=judge).version == "v1.1.0"
    train_on("d")
    with pytest.raises(UserError, match=r"no server in common with v1\.1\.0(.|\n)*--first"):
        registry.accept(review=judge)
    other = registry.accept(review=judge, first=True)
    train("of d again")
    with pytest.raises(UserError, match=r"servers of v2\.0\.0's fleet"):
        registry.accept(review=judge, first=True)

    assert [base for base, _ in judge.asked] == [None, first.revision, None]
    assert (other.version, other.form) == ("v2.0.0", "first")
    assert registry.anchor() == other


def test_the_anchor_is_the_last_version_accepted_as_an_improvement(judge: Judge, train: Train) -> None:
    assert registry.anchor() is None
    first = registry.accept(review=judge)
    judge.says = {"form": "renewal"}
    train("two")
    registry.accept(review=judge)
    assert registry.anchor() == first

    judge.says = {"verdict": "INCONCLUSIVE", "form": "improvement"}
    train("three")
    registry.accept(review=judge, force_reason="the fleet doubled")
    assert registry.anchor() == first


@pytest.mark.parametrize("verdict", ["REJECT", "INCONCLUSIVE"])
def test_without_accept_nothing_is_registered_and_the_reasons_are_told(
    trained: Path, judge: Judge, shell: Shell, verdict: str
) -> None:
    judge.says = {"verdict": verdict, "form": None}

    with pytest.raises(
        UserError, match=rf"{verdict} without a champion: .*0\.02(.|\n)*The gain may be nothing"
    ) as refused:
        registry.accept(review=judge)

    assert "No slice lost" not in str(refused.value)
    assert tags(shell, trained) == []


def test_forcing_takes_a_reason_which_is_recorded(judge: Judge) -> None:
    judge.says = {"verdict": "REJECT", "form": None}
    with pytest.raises(UserError, match="forcing takes a reason"):
        registry.accept(review=judge, force_reason=" ")

    forced = registry.accept(review=judge, force_reason="the old one\n{ is no longer legal")

    assert (forced.verdict, forced.forced) == ("REJECT", "the old one\n{ is no longer legal")
    assert registry.models() == [forced]


def test_a_review_that_fails_registers_nothing_unless_forced(trained: Path, shell: Shell) -> None:
    def fails(base: str | None, head: str) -> SimpleNamespace:
        raise UserError("the champion's environment cannot be built")

    with pytest.raises(UserError, match="cannot be built"):
        registry.accept(review=fails)
    assert tags(shell, trained) == []

    forced = registry.accept(review=fails, force_reason="its wheels are gone")
    assert (forced.verdict, forced.record, forced.forced) == ("ERROR", None, "its wheels are gone")


def test_a_commit_with_this_machines_own_files_is_not_even_forced(trained: Path, shell: Shell, judge: Judge) -> None:
    kept = trained / ".dvc/cache/crashcast-review/judged/0.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    shell("git add -f .dvc/cache/crashcast-review && git commit -q -m attack && git push -q origin HEAD", cwd=trained)
    with pytest.raises(UserError, match=r"^\.dvc/cache/crashcast-review/judged/0\.json in commit"):
        registry.accept(review=judge, force_reason="it is urgent")
    assert judge.asked == []
    assert tags(shell, trained) == []


def test_an_accepted_model_is_not_marked_as_forced(judge: Judge) -> None:
    assert registry.accept(review=judge, force_reason="to be sure").forced is None


def test_a_dirty_tree_is_refused(trained: Path, judge: Judge) -> None:
    (trained / "recipe").write_text("edited")
    with pytest.raises(UserError, match=r"not committed:\nM recipe"):
        registry.accept(review=judge)


def test_a_model_that_was_not_pushed_is_refused(judge: Judge, train: Train) -> None:
    train("unpushed", push=False)
    with pytest.raises(UserError, match=r"models is not whole on s3://.*: `make push`"):
        registry.accept(review=judge)
    assert judge.asked == []


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_model_of_which_the_remote_has_only_a_part_is_refused(
    trained: Path, judge: Judge, train: Train, s3: dict[str, str], damage: str
) -> None:
    train(f"damaged-{damage}")
    client = Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=s3["AWS_ENDPOINT_URL"],
        aws_access_key_id=s3["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3["AWS_SECRET_ACCESS_KEY"],
    )
    objects = client.list_objects_v2(Bucket="crashcast", Prefix=config_prefix(trained))["Contents"]
    size = len(f"damaged-{damage}")
    (member,) = [found["Key"] for found in objects if found["Size"] == size]
    if damage == "missing":
        client.delete_object(Bucket="crashcast", Key=member)
    else:
        client.put_object(Bucket="crashcast", Key=member, Body=b"dam")

    with pytest.raises(UserError, match="models is not whole on"):
        registry.accept(review=judge)


def config_prefix(project: Path) -> str:
    (url,) = [line for line in (project / ".dvc/config").read_text().splitlines() if "url = s3://" in line]
    return url.partition("s3://crashcast/")[2]


def test_a_model_that_is_registered_already_is_refused_on_any_commit(trained: Path, judge: Judge, shell: Shell) -> None:
    registry.accept(review=judge)
    shell("git commit -q --allow-empty -m another && git push -q origin main", cwd=trained)
    with pytest.raises(UserError, match=r"registered already, as crash-model@v1\.0\.0"):
        registry.accept(review=judge, force_reason="again")


def test_the_record_of_a_squashed_pull_request_matches_by_its_hashes(
    trained: Path, judge: Judge, train: Train, shell: Shell
) -> None:
    registry.accept(review=judge)
    shell("git switch -q -c attempt", cwd=trained)
    train("two")
    reviewed = record_of(shell("git rev-parse HEAD", cwd=trained).stdout.strip())
    shell(
        "git switch -q main && git merge -q --squash attempt && git commit -q -m squashed && git push -q origin main",
        cwd=trained,
    )

    accepted = registry.accept(json.loads(json.dumps(reviewed)), review=judge)

    assert accepted.version == "v1.1.0"
    assert accepted.revision != reviewed["challenger"]["revision"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"challenger": {"model": "m", "data": {"x": "1"}, "params": "p"}}, "its model differ"),
        ({"challenger": {"data": {"x": "2"}, "params": "q"}}, "its data, params differ"),
        ({"policy": {"min_gain": 0.0}}, "its policy differ"),
    ],
)
def test_a_record_of_something_else_is_refused(
    trained: Path, judge: Judge, shell: Shell, change: dict[str, Any], named: str
) -> None:
    given = record_of("HEAD")
    for key, value in change.items():
        given[key] |= value
    with pytest.raises(UserError, match=named):
        registry.accept(given, review=judge)
    with pytest.raises(UserError, match="lacks what every record has"):
        registry.accept({"verdict": "ACCEPT"}, review=judge)
    assert tags(shell, trained) == []


def test_a_review_of_another_model_is_refused(judge: Judge) -> None:
    judge.says = {"challenger": {"model": "other"}}
    with pytest.raises(UserError, match="the review judged model other, and HEAD's is"):
        registry.accept(review=judge)


def test_a_version_may_be_named_if_it_follows_the_last(judge: Judge, train: Train) -> None:
    with pytest.raises(UserError, match="no version"):
        registry.accept(review=judge, version="two")
    assert registry.accept(review=judge, version="v2.0.0").version == "v2.0.0"
    train("two")
    for wanted, reason in (("v1.9.0", "does not follow v2.0.0"), ("2.1", "no version"), ("v2.0.0", "does not follow")):
        with pytest.raises(UserError, match=reason):
            registry.accept(review=judge, version=wanted)


def test_a_remote_that_takes_no_push_leaves_no_tag(trained: Path, judge: Judge, shell: Shell) -> None:
    accepted = registry.accept(review=judge)
    refuse_pushes(trained)
    with pytest.raises(UserError, match=r"crash-model#prod#1 could not be pushed to `origin`(.|\n)*not you"):
        registry.stage(accepted.version, "prod")
    assert tags(shell, trained) == ["crash-model@v1.0.0"]


def test_what_a_teammate_registered_meanwhile_is_the_champion(
    trained: Path, judge: Judge, train: Train, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("git clone -q remote.git teammate")
    monkeypatch.chdir(tmp_path / "teammate")
    theirs = registry.accept(review=judge)
    monkeypatch.chdir(trained)
    train("two")

    assert registry.accept(review=judge).version == "v1.1.0"
    assert judge.asked[-1] == (theirs.revision, "HEAD")


def test_without_a_git_remote_it_is_registered_here(trained: Path, judge: Judge, shell: Shell) -> None:
    shell("git remote remove origin", cwd=trained)
    assert registry.accept(review=judge).version == "v1.0.0"


def test_stages_move_with_what_was_assigned_last(judge: Judge, train: Train) -> None:
    registry.accept(review=judge)
    train("two")
    registry.accept(review=judge)

    assert registry.stage("v1.0.0", "prod") == "crash-model#prod#1"
    registry.stage("v1.1.0", "staging")
    assert [model.stages for model in registry.models()] == [("prod",), ("staging",)]
    time.sleep(1)  # GTO tells assignments apart by the seconds of their tags
    registry.stage("v1.1.0", "prod")
    assert [model.stages for model in registry.models()] == [(), ("prod", "staging")]


def test_only_a_registered_version_enters_a_stage_and_only_once(judge: Judge) -> None:
    with pytest.raises(UserError, match=r"v1\.0\.0 is not registered: no version is"):
        registry.stage("v1.0.0", "prod")
    registry.accept(review=judge)
    registry.stage("v1.0.0", "prod")
    for version, stage, reason in (
        ("v1.0.0", "prod", "already in stage"),
        ("v9.0.0", "prod", r"v9\.0\.0 is not registered: v1\.0\.0"),
        ("v1.0.0", "not a name", "Invalid value"),
    ):
        with pytest.raises(UserError, match=reason):
            registry.stage(version, stage)


def test_a_version_registered_by_hand_is_shown_as_not_reviewed(trained: Path, shell: Shell) -> None:
    shell("gto register crash-model", cwd=trained)

    (model,) = registry.models()
    assert (model.version, model.verdict, model.record) == ("v0.0.1", None, None)
    assert registry.anchor() is None


def test_a_corrupt_record_is_named(trained: Path, shell: Shell) -> None:
    shell("git tag -a crash-model@v1.0.0 -m 'accepted\n\nBetter.\n\n{\"record\": {'", cwd=trained)
    with pytest.raises(UserError, match=r"message of tag crash-model@v1\.0\.0 is corrupt"):
        registry.models()


def test_the_list_shows_versions_verdicts_and_stages(judge: Judge, train: Train) -> None:
    registry.accept(review=judge)
    judge.says = {"verdict": "REJECT", "form": None}
    train("two")
    registry.accept(review=judge, force_reason="urgent [/]")
    registry.stage("v1.1.0", "prod")
    out = io.StringIO()

    registry.show(registry.models(), Console(file=out, width=200))

    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["version", "v1.1.0", "v1.0.0"]
    assert lines[3].endswith(f"which is not here: git fetch origin {ledger.REF}:{ledger.REF}")
    assert "REJECT" in lines[1]
    assert "prod" in lines[1]
    assert "forced: urgent [/]" in lines[1]
    assert "ACCEPT, first" in lines[2]
    listed = json.loads(json_text(registry.as_json(registry.models())))
    assert [(row["version"], row["verdict"], row["stages"]) for row in listed] == [
        ("v1.0.0", "ACCEPT", []),
        ("v1.1.0", "REJECT", ["prod"]),
    ]


def test_a_verdict_that_no_review_wrote_down_is_told(judge: Judge, train: Train) -> None:
    """Whoever may push tags can write a record; the ledger is written by the reviews."""
    own = record_of("HEAD")["challenger"]
    identity = ledger.identity(own["model"], own["data"], own["params"])
    judge.says = {"look": {"number": 1, "error": 0.05, "rows": "rows", "previous": []}}
    registry.accept(review=judge)
    ledger.look("others", identity)
    ledger.record("others", identity, "ACCEPT")  # of other test rows
    assert registry.as_json(registry.models())[0]["in_ledger"] is False
    ledger.look("rows", identity)
    assert registry.as_json(registry.models())[0]["in_ledger"] is False  # no verdict yet
    ledger.record("rows", identity, "REJECT")
    out = io.StringIO()
    registry.show(registry.models(), Console(file=out, width=200))
    assert "NOT IN THE LEDGER: ACCEPT, first" in out.getvalue()

    ledger.record("rows", identity, "ACCEPT")
    assert registry.as_json(registry.models())[0]["in_ledger"] is True
    out = io.StringIO()
    registry.show(registry.models(), Console(file=out, width=200))
    assert "LEDGER" not in out.getvalue()


def test_who_registered_what_on_which_evidence_is_one_table(
    trained: Path, judge: Judge, train: Train, tmp_path: Path, shell: Shell
) -> None:
    gain = {"name": "pr_auc", "role": "primary", "difference": 0.02, "low": 0.01, "high": 0.03}
    judge.says = {
        "headline": "=1+1", "rows": {"from": "2025-01-01", "to": "2025-02-01", "crashes": 300}, "differences": [gain],
        "look": {"number": 2, "error": 0.05, "rows": "rows", "previous": []},
    }  # fmt: skip
    first = registry.accept(review=judge)
    judge.says = {"verdict": "REJECT", "form": None}
    train("two")
    registry.accept(review=judge, force_reason="urgent")
    registry.stage("v1.1.0", "prod")

    registry.write_evidence(registry.models(), tmp_path / "models.csv")

    table = pl.read_csv(tmp_path / "models.csv").to_dicts()
    assert [row["version"] for row in table] == ["v1.0.0", "v1.1.0"]
    assert table[0] | {
        "registered_by": "A Tester <tester@example.com>", "verdict": "ACCEPT", "form": "first",
        "commit": first.revision, "model": first.model, "test_from": "2025-01-01", "test_crashes": 300, "look": 2,
        "figure": "pr_auc", "gain": 0.02, "gain_low": 0.01, "headline": "'=1+1", "stages": "",
    } == table[0]  # fmt: skip
    assert table[0]["registered_at"].startswith("20")
    assert (table[1]["verdict"], table[1]["forced_because"], table[1]["stages"]) == ("REJECT", "urgent", "prod")


def test_a_branch_that_is_called_as_a_version_is_none(trained: Path, judge: Judge, shell: Shell) -> None:
    registered = registry.accept(review=judge).revision
    shell("git commit -q --allow-empty -m later && git branch v1.0.0 && git branch crash-model@v1.0.0", cwd=trained)
    assert Revision.find("v1.0.0").sha == registered
    shell("git branch v7.0.0", cwd=trained)
    assert Revision.find("v7.0.0").sha != registered  # an honest name of a branch


def test_an_empty_registry_says_how_to_begin() -> None:
    out = io.StringIO()
    registry.show(registry.models(), Console(file=out, width=200))
    assert "This clone knows no registered model: `git fetch --tags`" in out.getvalue()


@pytest.mark.parametrize("options", ["--depth=1", "--no-tags", "--no-tags --single-branch"])
def test_a_clone_without_tags_does_not_know_the_anchor_and_says_so(
    trained: Path, judge: Judge, train: Train, shell: Shell, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    first = registry.accept(review=judge)
    train("two")
    shell(f"git clone -q {options} file://{trained.parent}/remote.git reader")
    monkeypatch.chdir(trained.parent / "reader")
    assert registry.models() == []
    with pytest.raises(UserError, match=r"`origin` has 1 registered versions that this clone lacks.*git fetch --tags"):
        registry.anchor()
    shell("git fetch -q --tags", cwd=Path.cwd())
    assert registry.anchor() == first


def test_a_shallow_clone_does_not_know_which_policy_was_in_force(
    trained: Path, judge: Judge, train: Train, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy is that of the last commit with the champion's model; it was edited in a commit that is not here."""
    registry.accept(review=judge)
    shell("echo 'policy: 2' > params.yaml && git add params.yaml && git commit -q -m policy", cwd=trained)
    in_force = shell("git rev-parse HEAD", cwd=trained).stdout.strip()
    train("two")
    train("three")
    shell(f"git clone -q --depth=1 file://{trained.parent}/remote.git reader")
    shell("git fetch -q --tags", cwd=trained.parent / "reader")
    monkeypatch.chdir(trained.parent / "reader")
    with pytest.raises(UserError, match=r"lacks the commits since crash-model@v1\.0\.0.*git fetch --unshallow"):
        registry.accept(review=judge)
    shell("git fetch -q --unshallow", cwd=Path.cwd())
    registry.accept(review=judge)
    assert judge.asked[-1] == (in_force, "HEAD")


def test_the_versions_of_another_project_of_the_repository_are_not_listed(
    trained: Path, judge: Judge, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.accept(review=judge)
    shell("mkdir other && cp dvc.lock dvc.yaml other && git add other && git commit -q -m other", cwd=trained)
    monkeypatch.chdir(trained / "other")
    revision._file.cache_clear()  # its paths are relative to a process's only project
    assert registry.models() == []
