"""The review of two commits of a real project, with a real git remote and a real S3 server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest

from crashcast import registry, tables
from crashcast.cli import main as crashcast
from crashcast.errors import UserError
from crashcast.modeling import row_metrics
from crashcast.modeling.split_rule import HAS_LABEL
from crashcast.review import commit_changes, rescoring, stage_runs
from crashcast.review.data_changes import History
from crashcast.review.report import plot_data
from crashcast.review.review import EXIT_STATUS, _find_anchor
from crashcast.versioning import cache, committed_model, dvc_files, environment, lock_checks, sandbox
from crashcast.versioning.revision import COVERAGE, INCIDENTS, RAW, TELEMETRY, Revision, default_base

pytestmark = pytest.mark.usefixtures("_ask_dvc_here", "_few_moments")

ROOT = Path(__file__).parents[2]
Dvc = Callable[..., None]
EVALUATION = "metrics/evaluate.json"


def run(command: str, cwd: Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, shell=True, text=True, capture_output=True, cwd=cwd, env={**os.environ, **variables}, timeout=1800
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def edit(project: Path, changed: dict[str, str]) -> None:
    text = (project / "params.yaml").read_text()
    for old, new in changed.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (project / "params.yaml").write_text(text)


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path], dvc: Dvc, s3: dict[str, str]
) -> Path:
    """Return a repository of this project with a small fleet, run, committed as main and pushed."""
    folder = small_fleet(tmp_path_factory.mktemp("review") / "project")
    dvc(folder, "remote", "modify", "s3", "endpointurl", s3["AWS_ENDPOINT_URL"])
    dvc(folder, "remote", "modify", "s3", "url", f"s3://crashcast/{folder.parent.name}")
    run("git commit -q -a -m remote", folder)
    run("dvc push -q", folder, **s3)
    run("git clone -q --bare . ../remote.git && git remote add origin ../remote.git && git fetch -q", folder)
    return folder


@pytest.fixture
def here(project: Path, dvc: Dvc, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in the project, on main, and leave it so."""
    monkeypatch.chdir(project)
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    yield project
    if run("git status --porcelain --branch", project).stdout != "## main\n":
        run("git reset -q --hard && git checkout -q -f main", project)
        dvc(project, "checkout", "--force")
    assert run("git worktree list", project).stdout.count("\n") == 1


class Branch(Protocol):
    def __call__(self, name: str, params: dict[str, str], start: str = "main", data: str = "") -> Revision: ...


@pytest.fixture(scope="module")
def branch(project: Path, dvc: Dvc, repro: Callable[[Path], None]) -> Branch:
    """Return what gives a branch with other parameters, and raw data if a command makes it, run and committed; once."""

    def branch(name: str, params: dict[str, str], start: str = "main", data: str = "") -> Revision:
        if run(f"git rev-parse -q --verify {name}", project, check=False).returncode:
            run(f"git checkout -q -b {name} {start}", project)
            if start != "main":
                dvc(project, "checkout")
            edit(project, params)
            if data:
                run(f"{data} && git add data/raw", project)
            repro(project)
            run("git add -A && git commit -q -m more && git checkout -q main", project)
            dvc(project, "checkout")
        return Revision.find(name)

    return branch


@pytest.fixture(scope="module")
def month(project: Path, branch: Branch) -> str:
    """Return a branch with a month more of data, and nothing else."""
    with chdir(project):
        return branch("month", {"months: 3": "months: 4"}, data="crashcast demo").sha


def pr_auc(rescored: rescoring.ScoredRows, model: str) -> float:
    known = rescored.rows.filter(HAS_LABEL)
    return row_metrics.pr_auc(known["label"].to_numpy(), known[model].to_numpy())


def told(commit: Revision, figure: str) -> float:
    return commit.metrics[EVALUATION][figure]


def test_other_training_on_the_same_features_gives_both_models_own_figures(here: Path, branch: Branch) -> None:
    base, head = Revision.find("main"), branch("training", {"max_iter: 10": "max_iter: 30"})
    assert base.outs["models"] != head.outs["models"]
    for commit in (base, head):
        lock_checks.check(commit)
    found = rescoring.rescore(base, head)
    for model, commit in (("champion", base), ("challenger", head)):
        assert pr_auc(found.forward, model) == pytest.approx(told(commit, "pr_auc"), rel=1e-5)
        assert found.size_bytes[model] > 1000
        assert found.forward.latency_ms[model] > 0
    assert (found.kind, found.forward.excluded, list(found.by_definition)) == ("own", {}, [rescoring.THE_BASES])
    assert found.reverse == "its rows are the same"
    assert found.expected["crashes"] == found.found["crashes"] == told(head, "crashes")
    assert found.found["server_days"] == pytest.approx(told(head, "server_days"), rel=1e-5)
    assert not found.history.is_corrected
    assert set(found.forward.slices) >= {"seen_servers", "unseen_servers", "group_web"}
    assert len(found.forward.slices["seen_servers"]) == 60


@pytest.mark.ci
def test_a_models_own_code_gives_the_same_scores_in_a_process_of_its_own(
    here: Path, branch: Branch, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, head = Revision.find("main"), branch("training", {"max_iter: 10": "max_iter: 30"})
    together = rescoring.rescore(base, head).forward.rows
    monkeypatch.setattr(committed_model, "differing_code", lambda *_: ["model.py"])
    assert rescoring.rescore(base, head).forward.rows.equals(together)


@pytest.mark.ci
def test_with_more_data_and_other_features_the_champions_own_code_computes_its_features(
    here: Path, branch: Branch, month: str, capfd: pytest.CaptureFixture[str]
) -> None:
    base, same_code = Revision.find("main"), Revision(month)
    head = branch("features", {"rolling_std: [1d]": "rolling_std: [2d]"}, start="month")
    found = rescoring.rescore(base, head)
    # what the challenger's dvc.lock says of it is not taken
    computed = f"commit {base.name} computes validate, clean, featurize, label, split"
    assert computed in capfd.readouterr().err
    assert stage_runs.compute(base, head.raw, ["data/features"], {}) == {
        "data/features": same_code.outs["data/features"]
    }
    assert found.kind == "later"
    # the champion's scores are those it gives with everything as it was: on the branch with nothing but the data
    expected = rescoring.rescore(base, same_code).forward.rows
    assert found.forward.rows.select("timestamp", "champion").equals(expected.select("timestamp", "champion"))
    capfd.readouterr()
    again = rescoring.rescore(base, head)
    assert "computes" not in capfd.readouterr().err
    assert again.forward.rows.equals(found.forward.rows)


def test_other_labels_are_judged_by_the_bases_and_by_their_own(here: Path, branch: Branch) -> None:
    base, head = Revision.find("main"), branch("labels", {"horizon: 6h ": "horizon: 12h "})
    found = rescoring.rescore(base, head)
    assert list(found.by_definition) == [rescoring.THE_BASES, "the challenger's labels"]
    theirs = found.by_definition["the challenger's labels"]
    assert [rescored.window.horizon.total_seconds() / 3600 for rescored in (found.forward, theirs)] == [6, 12]
    # nearly its own test rows: less those in the embargo around the champion's validation part
    assert pr_auc(theirs, "challenger") == pytest.approx(told(head, "pr_auc"), rel=0.05)
    assert found.forward.rows["label"].sum() < theirs.rows["label"].sum()
    assert list(found.forward.excluded) == ["within the embargo of the champion's validation part"]
    # hours in which a longer horizon cannot know: before planned reboots, and at the end of the records
    assert found.found["server_days"] < 0.995 * found.expected["server_days"]


def test_whom_to_believe_about_crashes_is_part_of_the_labels(here: Path, branch: Branch) -> None:
    base, head = Revision.find("main"), branch("believing", {"aggregate: dawid_skene": "aggregate: tickets"})
    found = rescoring.rescore(base, head)
    assert list(found.by_definition) == [rescoring.THE_BASES, "the challenger's labels"]
    believed, recorded = (tables.read(cache.locate(r.outs["data/incidents.parquet"], "")) for r in (base, head))
    assert believed["confidence"].drop_nulls().min() >= 0.5
    assert recorded["confidence"].null_count() == recorded.height
    # crashes of the test period, those without a ticket among them, are the base's to say
    crashes = found.expected["crashes"], found.found["crashes"]
    assert crashes == (told(base, "crashes"), told(head, "crashes"))
    whose = ["server_id", "started_at"]
    assert not believed.select(whose).equals(recorded.select(whose))


CORRECT = """
import polars as pl
from pathlib import Path
from crashcast import tables
from crashcast.versioning.revision import INCIDENTS, TELEMETRY

incidents, file = Path(INCIDENTS), Path(TELEMETRY, "month=2025-02/part-0.parquet")
tickets, rows = tables.read(incidents), tables.read(file)
in_february = (pl.col("kind") == "crash") & (pl.col("started_at").dt.month() == 2)
gone = tickets.filter(in_february)["incident_id"][0]
first = (pl.col("server_id") == rows["server_id"][0]) & (pl.col("timestamp").dt.day() == 5)
for path, frame in (
    (incidents, tickets.filter(pl.col("incident_id") != gone)),
    (file, rows.with_columns(cpu_pct=pl.when(first).then(pl.col("cpu_pct") / 2).otherwise(pl.col("cpu_pct")))),
):
    path.unlink()
    tables.write(path, frame)
"""


@pytest.mark.ci
def test_a_rewritten_history_is_listed_and_judged_both_ways(here: Path, branch: Branch, month: str) -> None:
    base, honest = Revision.find("main"), Revision(month)
    script = here.parent / "correct.py"
    script.write_text(CORRECT)
    head = branch("corrected", {}, start="month", data=f"python {script} && dvc add -q {INCIDENTS} {TELEMETRY}")
    history = History.of(base, head)
    assert history.counts == {"incidents": {"removed": 1}, "telemetry": {"changed": 24}}
    # with the base's history put back, the data is what it would have been
    assert {path: history.head[path] for path in RAW} == honest.raw
    found = rescoring.rescore(base, head)
    assert list(found.by_definition) == [rescoring.THE_BASES, "the corrected history"]
    assert found.rows_hash == rescoring.rescore(base, honest).rows_hash
    assert History.of(base, head) == history  # as it was kept


def test_a_first_model_is_judged_against_what_the_evaluation_calls_baselines(here: Path) -> None:
    head = Revision.find("main")
    found = rescoring.rescore(None, head).by_definition
    assert list(found) == ["dummy", "hours_since_crash", "crashes_7d"]
    for name in ("hours_since_crash", "crashes_7d"):
        expected = told(head, f"baselines.{name}.pr_auc")
        assert pr_auc(found[name], "champion") == pytest.approx(expected, rel=1e-5)
        assert pr_auc(found[name], "challenger") == pytest.approx(told(head, "pr_auc"), rel=1e-5)
    assert pr_auc(found["dummy"], "champion") == pytest.approx(told(head, "base_rate"), rel=1e-5)


def test_a_fresh_clone_fetches_what_the_review_needs_and_no_more(
    here: Path, branch: Branch, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = branch("training", {"max_iter: 10": "max_iter: 30"})
    run("git checkout -q training && dvc checkout -q && dvc push -q && git push -q origin training", here)
    run(f"git clone -q {here.parent / 'remote.git'} clone && cd clone && git checkout -q training", tmp_path)
    monkeypatch.chdir(tmp_path / "clone")
    base = default_base()
    assert base == Revision.find("origin/main")
    assert rescoring.rescore(base, head).forward.rows.filter(HAS_LABEL).height == told(head, "rows")
    stored = Path(".dvc/cache/files/md5")
    held = {f"{file.parent.name}{file.name}" for file in stored.rglob("*") if file.is_file()}
    features = cache.members(head.outs["data/features"], "features")
    # the model is trained again
    assert {path for path, digest in features.items() if digest in held} == features.keys()
    assert head.outs["data/clean"] not in held
    # of raw data what the features of the test rows look back to, a month more, and an earlier month that is drawn
    telemetry = cache.members(head.raw[TELEMETRY], "telemetry")
    assert {path.split("/")[0] for path, digest in telemetry.items() if digest in held} == {
        "month=2025-01",
        "month=2025-02",
        "month=2025-03",
    }


def test_what_was_not_pushed_is_refused(
    here: Path, branch: Branch, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_checks.check_pushed()
    head = branch("unpushed", {"l2_regularization: 1.0": "l2_regularization: 2.0"})
    run("git checkout -q unpushed && dvc checkout -q && git push -q origin unpushed", here)
    with pytest.raises(UserError, match=r"^not on DVC's remote: .*models/.*`make push` where it was made"):
        lock_checks.check_pushed()
    run(f"git clone -q {here.parent / 'remote.git'} clone && cd clone && git checkout -q unpushed", tmp_path)
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(UserError, match=r"is neither in DVC's cache nor on its remote, s3://.*: `make push` where"):
        rescoring.rescore(Revision.find("origin/main"), head)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    with pytest.raises(UserError, match=r"DVC's remote s3://.* cannot be reached"):
        rescoring.rescore(Revision.find("origin/main"), head)
    with pytest.raises(UserError, match=r"DVC's remote s3://.* cannot be reached: The request signature"):
        lock_checks.check_pushed()


def test_a_damaged_model_is_refused_before_it_is_loaded(
    here: Path, branch: Branch, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = branch("training", {"max_iter: 10": "max_iter: 30"})
    digest = cache.members(Revision.find("main").outs["models"], "the model")["model.skops"]  # the first to be used
    file = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
    whole = file.read_bytes()
    monkeypatch.setattr(rescoring.model, "load", lambda folder: pytest.fail("it was loaded"))
    file.unlink()  # the work tree's is the same file
    try:
        file.write_bytes(whole[:-1])
        with pytest.raises(UserError, match=r"the model of commit \w+ is damaged: .* remove it"):
            rescoring.rescore(Revision.find("main"), head)
    finally:
        file.write_bytes(whole)


class Review(Protocol):
    def __call__(
        self, head: str, base: str = "main", push: bool = True, apart: bool = False, *options: str
    ) -> tuple[int, str, dict | None]: ...


@pytest.fixture
def review(here: Path, dvc: Dvc, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Review:
    """Return what reviews a branch with the command: its exit status, what it printed, and the decision record."""

    def review(
        head: str, base: str = "main", push: bool = True, apart: bool = False, *options: str
    ) -> tuple[int, str, dict | None]:
        shutil.rmtree(here / "reports", ignore_errors=True)
        run(f"git checkout -q {head}", here)
        dvc(here, "checkout")
        if push:
            dvc(here, "push")
        if apart:
            done = run(f"crashcast review --base {base}", here, check=False)
            status, printed = done.returncode, done.stdout + done.stderr
        else:
            capfd.readouterr()
            monkeypatch.setattr(sys, "argv", ["crashcast", "review", "--base", base, *options])
            with pytest.raises(SystemExit) as ended:
                crashcast()
            status, printed = ended.value.code, "".join(capfd.readouterr())
        assert "Traceback" not in printed
        file = here / "reports" / "review" / "record.json"
        return status, printed, json.loads(file.read_text()) if file.exists() else None

    return review


def failed(record: dict) -> set[str]:
    return {reason["check"] for reason in record["reasons"] if reason["outcome"] == "fail"}


def test_the_command_judges_writes_it_down_and_counts_the_look(here: Path, branch: Branch, review: Review) -> None:
    branch("training", {"max_iter: 10": "max_iter: 30"})
    status, _, record = review("training", apart=True)
    assert record["verdict"] in ("REJECT", "INCONCLUSIVE")  # so few crashes never accept anything
    assert status == EXIT_STATUS[record["verdict"]]
    assert {reason["check"] for reason in record["reasons"] if reason["outcome"] == "open"} >= {"sample size"}
    page = (here / "reports" / "review" / "review.html").read_text()
    assert record["headline"].split(":")[0] in page
    assert (here / "reports" / "review" / "comment.md").read_text().startswith("<!-- crashcast review -->")
    assert review("training")[2] == record  # recalled, and no other look
    looks = json.loads(run("git show refs/crashcast/looks:looks.json", here.parent / "remote.git").stdout)
    assert record["look"]["number"] in range(1, 1 + len(looks[record["look"]["rows"]]))


def test_code_that_no_sandbox_holds_is_run_only_if_its_authors_are_trusted(
    here: Path, branch: Branch, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch("training", {"max_iter: 10": "max_iter: 30"})
    run(
        "git checkout -q -b coded training && echo '# more' >> src/crashcast/console.py && git commit -q -a -m more",
        here,
    )
    monkeypatch.setattr(sandbox, "missing", lambda: "bubblewrap is not installed")
    status, told, record = review("coded")
    assert (status, record) == (EXIT_STATUS["INCONCLUSIVE"], None)
    assert "INCONCLUSIVE: The challenger's code was not run: bubblewrap is not installed" in told
    comment = here / "reports/review/comment.md"
    assert "was not run: bubblewrap is not installed" in comment.read_text()
    _, told, record = review("coded", "main", True, False, "--trust-authors")
    assert record["run"] == {"sandbox": "none", "trusts_authors": True, "trained_again": "same"}
    said = "ran without a sandbox, by a reviewer who trusts its authors (--trust-authors)"
    for text in (told, comment.read_text(), (here / "reports/review/review.html").read_text()):
        assert said in " ".join(text.replace("\\", "").split())


def test_a_change_of_other_things_leaves_nothing_to_judge(here: Path, branch: Branch, review: Review) -> None:
    branch("words", {"# acceptable to on-call": "# acceptable to us"})
    status, told, record = review("words")
    assert (status, record) == (0, None)
    assert "the same model" in told


def test_the_same_model_does_not_pass_other_rules(here: Path, branch: Branch, review: Review) -> None:
    branch("rules", {"min_gain: 0.01 ": "min_gain: 0.0 "})
    status, told, record = review("rules")
    assert (status, record) == (EXIT_STATUS["INCONCLUSIVE"], None)
    assert "- acceptance.min_gain changes from 0.01 to 0.0" in told
    assert (here / "reports/review/comment.md").read_text().startswith("<!-- crashcast review -->\nBoth commits")


def test_a_first_model_is_judged_against_baselines(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["crashcast", "review", "--first"])
    with pytest.raises(SystemExit) as ended:
        crashcast()
    assert ended.value.code == 3
    record = json.loads((here / "reports" / "review" / "record.json").read_text())
    assert record["base"] is None
    assert len(record["definitions"]) == 2  # and the one shown


RENAME = """
import polars as pl
from pathlib import Path
from crashcast import tables
from crashcast.versioning.revision import COVERAGE, INCIDENTS, TELEMETRY

for path in (Path(COVERAGE), Path(INCIDENTS), *Path(TELEMETRY).rglob("*.parquet")):
    rows = tables.read(path)
    path.unlink()
    tables.write(path, rows.with_columns(server_id=pl.concat_str(pl.lit("our-"), "server_id")))
"""


def test_another_fleet_has_no_champion_and_no_anchor(
    here: Path, branch: Branch, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = here.parent / "rename.py"
    script.write_text(RENAME)
    main = Revision.find("main")
    ours = branch("ours", {}, data=f"python {script} && dvc add -q {COVERAGE} {INCIDENTS} {TELEMETRY}")
    status, said, _ = review("ours")
    assert (status, "no server in common" in said, "--first" in said) == (2, True, True)

    registered = SimpleNamespace(version="v1.0.0", revision=main.sha, model="another")
    monkeypatch.setattr(registry, "anchor", lambda *_: registered)
    assert _find_anchor(main) == (main, None)
    who = "v1.0.0, the last model accepted as an improvement,"
    assert _find_anchor(ours) == (None, f"{who} is another fleet's: not compared")
    poorer = Revision(main.sha)
    del poorer.params["telemetry"]["metrics"]["cpu_pct"]
    assert _find_anchor(poorer) == (None, f"{who} needs cpu_pct, which the base's telemetry has no more: not compared")


WITHDRAW = """
import polars as pl
from datetime import datetime, UTC
from pathlib import Path
from crashcast import tables
from crashcast.versioning.revision import COVERAGE

coverage, end = Path(COVERAGE), datetime(2025, 3, 18, tzinfo=UTC)
rows = tables.read(coverage)
coverage.unlink()
some = pl.col("server_id").is_in(rows["server_id"].unique().sort()[:15].implode())
ended = pl.when(some).then(pl.min_horizontal("covered_to", end)).otherwise("covered_to")
tables.write(coverage, rows.with_columns(covered_to=ended))
"""


@pytest.mark.ci
def test_an_eased_test_set_is_rejected(here: Path, branch: Branch, review: Review) -> None:
    """Of half the servers, incidents are said not to have been recorded in the test period."""
    script = here.parent / "withdraw.py"
    script.write_text(WITHDRAW)
    branch("eased", {}, data=f"python {script} && dvc add -q {COVERAGE}")
    status, _, record = review("eased")
    assert (status, record["verdict"]) == (1, "REJECT")
    assert "denominator" in failed(record)
    eased = commit_changes.of_the_rules(Revision.find("main"), Revision.find("eased"))
    assert {"data/labels has other content", f"{COVERAGE} has other content"} <= set(eased)  # nor with the same model


def test_train_rows_in_test_are_refused(here: Path, branch: Branch, review: Review) -> None:
    branch("random", {"method: time ": "method: random "})
    status, told, record = review("random")
    assert (status, record) == (2, None)
    assert "splits its rows at random" in told


def test_a_shortened_test_period_is_rejected(here: Path, branch: Branch, review: Review) -> None:
    shares = {"train: 0.70": "train: 0.80", "validation: 0.15": "validation: 0.13", "test: 0.15": "test: 0.07"}
    branch("shorter", shares)
    status, _, record = review("shorter")
    assert (status, record["verdict"]) == (1, "REJECT")
    assert "denominator" in failed(record)


def test_an_eased_label_definition_is_refused(here: Path, branch: Branch, review: Review) -> None:
    """It must pass under its own definition too, and crashes that one row can mean are not independent evidence."""
    branch("labels", {"horizon: 6h ": "horizon: 12h "})
    status, told, record = review("labels")
    assert (status, record) == (2, None)
    assert "acceptance.block (8h) must be at least lead + horizon (13h)" in told


def test_figures_edited_by_hand_are_refused(here: Path, review: Review) -> None:
    run("git checkout -q -b edited training", here)
    Path(EVALUATION).write_text(json.dumps(json.loads(Path(EVALUATION).read_text()) | {"pr_auc": 0.99}))
    run("git commit -q -a -m edited", here)
    status, told, record = review("edited")
    assert (status, record) == (2, None)
    assert f"{EVALUATION} of commit" in told
    assert "edited by hand" in told


def test_a_metric_that_is_no_number_is_refused(here: Path, review: Review) -> None:
    run("git checkout -q -b nan training", here)
    text = Path(EVALUATION).read_text()
    before = dvc_files.hash_of(text.encode())
    figure = json.loads(text)["pr_auc"]
    text = text.replace(f'"pr_auc": {figure}', '"pr_auc": NaN')
    Path(EVALUATION).write_text(text)
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(lock.replace(before, dvc_files.hash_of(text.encode())))
    run("git commit -q -a -m nan", here)
    status, told, record = review("nan")
    assert (status, record) == (2, None)
    assert "pr_auc is nan" in told


@pytest.mark.parametrize("base", ["unrecorded", "no-such-branch"])
def test_a_missing_baseline_is_refused(here: Path, branch: Branch, review: Review, base: str) -> None:
    branch("training", {"max_iter: 10": "max_iter: 30"})
    if base == "unrecorded":
        run("git checkout -q -b unrecorded && git rm -q dvc.lock && git commit -q -m unrecorded", here)
    status, told, record = review("training", base)
    assert (status, record) == (2, None)
    assert "has no dvc.lock" in told or "git knows no commit" in told


def test_a_model_that_was_not_pushed_is_refused(here: Path, branch: Branch, review: Review) -> None:
    branch("unpushed", {"l2_regularization: 1.0": "l2_regularization: 2.0"})
    status, told, record = review("unpushed", push=False)
    assert (status, record) == (2, None)
    assert "not on DVC's remote" in told


def test_a_lock_that_does_not_match_is_refused(here: Path, review: Review) -> None:
    run("git checkout -q -b unrun training", here)
    edit(here, {"l2_regularization: 1.0": "l2_regularization: 4.0"})
    run("git commit -q -a -m unrun", here)
    status, told, record = review("unrun")
    assert (status, record) == (2, None)
    assert "params.yaml: train changed since it ran" in told


def test_a_policy_that_is_loosened_in_the_same_change_does_not_apply(
    here: Path, branch: Branch, review: Review
) -> None:
    """So few crashes accept nothing; asked for nothing, they would."""
    loosened = {
        "max_iter: 10": "max_iter: 31",
        "min_gain: 0.01 ": "min_gain: 0.0 ",
        "min_groups: 40 ": "min_groups: 2 ",
        "false_alarms_per_server_day: 0.02": "false_alarms_per_server_day: 0.002",
    }
    branch("loosened", loosened)
    status, _, record = review("loosened")
    assert record["verdict"] in ("REJECT", "INCONCLUSIVE")
    assert status == EXIT_STATUS[record["verdict"]]
    assert record["policy"]["min_groups"] == 40
    assert any(reason["check"] == "sample size" and reason["outcome"] == "open" for reason in record["reasons"])
    shown = [reason["text"] for reason in record["reasons"] if reason["check"] == "policy"]
    assert any("min_groups changes from 40 to 2" in text for text in shown)
    assert ("alarm budget", "open") in {(reason["check"], reason["outcome"]) for reason in record["reasons"]}


def test_a_random_split_is_refused(here: Path, branch: Branch) -> None:
    head = branch("random", {"method: time ": "method: random "})
    with pytest.raises(UserError, match=f"commit {head.name} splits its rows at random"):
        rescoring.rescore(Revision.find("main"), head)


def test_a_shorter_test_part_is_told_apart_from_what_the_base_would_have_judged(here: Path, branch: Branch) -> None:
    shares = {"train: 0.70": "train: 0.80", "validation: 0.15": "validation: 0.13", "test: 0.15": "test: 0.07"}
    found = rescoring.rescore(Revision.find("main"), branch("shorter", shares))
    assert found.found["server_days"] / found.expected["server_days"] == pytest.approx(7 / 15, abs=0.02)
    assert found.found["crashes"] < found.expected["crashes"]
    assert found.kind == "own"


def test_figures_edited_by_hand_in_metrics_and_lock_do_not_stand_up_to_rescoring(here: Path) -> None:
    run("git checkout -q -b forged training", here)
    figures = json.loads(Path(EVALUATION).read_text())
    before = dvc_files.hash_of(Path(EVALUATION).read_bytes())
    Path(EVALUATION).write_text(json.dumps(figures | {"pr_auc": 0.99}))
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(lock.replace(before, dvc_files.hash_of(Path(EVALUATION).read_bytes())))
    run("git commit -q -a -m forged", here)
    head = Revision.find("forged")
    lock_checks.check(head)
    with pytest.raises(UserError, match=f"{EVALUATION} of commit {head.name} says pr_auc 0.99, and its model gives"):
        rescoring.rescore(Revision.find("main"), head)


def test_a_commit_whose_parameters_were_changed_after_the_run_is_refused(here: Path) -> None:
    run("git checkout -q -b stale", here)
    edit(here, {"horizon: 6h ": "horizon: 7h "})
    run("git commit -q -a -m stale", here)
    with pytest.raises(
        UserError, match=r"does not match the commit:\n  label: params.yaml: label changed since it ran"
    ):
        lock_checks.check(Revision.find("stale"))


def test_figures_are_those_of_dvc(here: Path, branch: Branch) -> None:
    base, head = Revision.find("main"), branch("training", {"max_iter: 10": "max_iter: 30"})
    diff = json.loads(run(f"dvc metrics diff --all --json {base.sha} {head.sha}", here).stdout)
    theirs = {
        (file, name): (values.get("old"), values.get("new"))
        for file, figures in diff.items()
        for name, values in figures.items()
    }
    ours = {
        (row["file"], row["name"]): (row["base"], row["challenger"])
        for row in commit_changes.metrics_between(base, head)
    }
    numbers = {key: pair for key, pair in ours.items() if any(isinstance(value, int | float) for value in pair)}
    assert {key: theirs.get(key) for key in numbers} == numbers


def test_changes_name_parameters_data_candidates_and_features(here: Path, branch: Branch, month: str) -> None:
    base = Revision.find("main")
    head = branch("features", {"rolling_std: [1d]": "rolling_std: [2d]"}, start="month")
    found = commit_changes.between(base, head)
    assert {row["name"] for row in found["parameters"]} == {"demo.months", "features.rolling_std"}
    assert {entry["path"] for entry in found["data"]} == {TELEMETRY, INCIDENTS, COVERAGE}
    telemetry = next(entry for entry in found["data"] if entry["path"] == TELEMETRY)
    assert (telemetry["base"]["partitions"], telemetry["challenger"]["partitions"]) == (3, 4)
    assert "cpu_pct_std_2d" in found["features"]["added"]
    assert "cpu_pct_std_1d" in found["features"]["removed"]
    assert [row["name"] for row in found["candidates"]][:2] == ["chosen", "dummy"]
    assert (found["code"], found["policy"]) == ([], [])


def test_pictures_show_who_caught_which_crash(here: Path, branch: Branch) -> None:
    base, head = Revision.find("main"), branch("training", {"max_iter: 10": "max_iter: 30"})
    rescored = rescoring.rescore(base, head).forward
    drawn = plot_data.draw(rescored)
    json.dumps(drawn, allow_nan=False)
    caught = {name: sum(row["lead_h"][name] is not None for row in drawn["crashes"]) for name in plot_data.MODELS}
    assert caught == {"champion": told(base, "crashes_caught"), "challenger": told(head, "crashes_caught")}
    for row in drawn["crashes"]:
        assert ("timeline" in row) == (row["caught_by"] in plot_data.MODELS)


def test_a_locked_environment_that_differs_is_built_once_or_named(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "value = 1\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    run("git checkout -q -b environment && git rm -q requirements-build.txt", here)
    (here / "requirements.txt").write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n")
    run("git commit -q -a -m environment", here)
    python = environment.interpreter(Revision.find("environment"), tmp_path)
    assert run(f"{python} -c 'import tiny; print(tiny.value)'", here).stdout == "1\n"
    assert "tiny==1.0 (here missing)" in capfd.readouterr().err
    assert environment.interpreter(Revision.find("environment"), tmp_path) == python
    assert "setting up" not in capfd.readouterr().err

    (here / "requirements.txt").write_text(f"tiny==1.1 \\\n    --hash=sha256:{digest}\n")
    run("git commit -q -a -m missing", here)
    with pytest.raises(UserError, match=r"the environment of commit .* cannot be set up:\n(.|\n)*tiny==1.1"):
        environment.interpreter(Revision.find("environment"), tmp_path)
