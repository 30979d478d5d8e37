"""What a commit says of itself, and every way in which it may not fit together, each refused with its own message."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import yaml

from crashcast import files
from crashcast.doctor import clone
from crashcast.errors import UserError
from crashcast.params.label import Label
from crashcast.review.commit_changes import code_between, metrics_between
from crashcast.versioning.dvc_files import hash_of
from crashcast.versioning.lock_checks import check, check_work_tree
from crashcast.versioning.revision import RAW, Revision, default_base, flatten

METRICS = "metrics/evaluate.json"
PIPELINE = {
    "stages": {
        "clean": {
            "cmd": "python src/run.py clean\n  data/clean",
            "deps": [*RAW, "src/clean.py"],
            "params": ["telemetry"],
            "outs": ["data/clean"],
        },
        "evaluate": {
            "cmd": "python src/run.py evaluate",
            "deps": ["data/clean", "src/evaluate.py"],
            "params": ["label"],
            "metrics": [{METRICS: {"cache": False}}],
        },
    }
}
FIGURES = {"pr_auc": 0.5, "baselines": {"random": {"pr_auc": 0.01}, "crashes_7d": {"pr_auc": 0.02}}}
NUMBERS = count()
MADE = {"data/clean": f"{'c' * 32}.dir"}


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(path: str, content: object) -> None:
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def lock() -> dict:
    """Return the dvc.lock that a run of the files as they are now would write."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    pointers = {path: yaml.safe_load(Path(f"{path}.dvc").read_text())["outs"][0]["md5"] for path in RAW}
    stages = {}
    for name, stage in PIPELINE["stages"].items():
        deps = {
            path: pointers.get(path) or MADE.get(path) or hash_of(Path(path).read_bytes()) for path in stage["deps"]
        }
        outs = {path: MADE[path] for path in stage.get("outs", ())}
        outs |= {path: hash_of(Path(path).read_bytes()) for item in stage.get("metrics", ()) for path in item}
        stages[name] = {
            "cmd": " ".join(stage["cmd"].split()),
            "deps": [{"path": path, "hash": "md5", "md5": digest} for path, digest in deps.items()],
            "params": {"params.yaml": {key: params[key] for key in stage["params"]}},
            "outs": [{"path": path, "hash": "md5", "md5": digest} for path, digest in outs.items()],
        }
    return {"schema": "2.0", "stages": stages}


def commit() -> Revision:
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "--message", f"Commit {next(NUMBERS)}")  # else two may be one
    return Revision.find("HEAD")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository whose only commit fits together."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch=main")
    write("dvc.yaml", PIPELINE)
    write("params.yaml", {"telemetry": {"interval": "1h"}, "label": {"lead": "1h", "horizon": "6h", "recovery": "2h"}})
    for number, path in enumerate(RAW):
        write(f"{path}.dvc", {"outs": [{"md5": str(number) * 32, "hash": "md5", "path": Path(path).name}]})
    write("src/clean.py", "clean\n")
    write("src/evaluate.py", "evaluate\n")
    write(METRICS, json.dumps(FIGURES))
    write("dvc.lock", lock())
    commit()
    return tmp_path


@pytest.fixture
def remote(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a remote repository that holds what the project does."""
    folder = tmp_path_factory.mktemp("remote")
    git("clone", "--quiet", "--bare", ".", str(folder))
    return folder


def test_a_commit_that_fits_together_passes_and_says_what_it_holds(project: Path) -> None:
    head = Revision.find("main")
    check(head)
    assert head.raw == {path: str(number) * 32 for number, path in enumerate(RAW)}
    assert head.outs == {**MADE, METRICS: hash_of(Path(METRICS).read_bytes())}
    assert head.metrics[METRICS]["baselines.random.pr_auc"] == 0.01
    assert head.section(Label).reach.total_seconds() == 7 * 3600


def test_a_registered_version_names_its_commit(project: Path) -> None:
    git("tag", "--annotate", "crash-model@v1.0.0", "--message", "first")
    assert Revision.find("v1.0.0") == Revision.find("HEAD")
    with pytest.raises(UserError, match=r"no commit 'v1.0.1'"):
        Revision.find("v1.0.1")


def test_it_is_the_commit_that_counts_not_the_work_tree(project: Path) -> None:
    head = Revision.find("HEAD")
    write(METRICS, "{}")
    Path("dvc.lock").unlink()
    check(head)


def edit(path: str, change: Callable[[dict], None]) -> None:
    content = yaml.safe_load(Path(path).read_text())
    change(content)
    write(path, content)


STALE = {
    "code": (lambda: write("src/clean.py", "other\n"), "clean: src/clean.py changed since it ran"),
    "a parameter": (
        lambda: edit("params.yaml", lambda params: params["label"].update(lead="2h")),
        "evaluate: params.yaml: label changed since it ran",
    ),
    "raw data": (
        lambda: edit(f"{RAW[0]}.dvc", lambda pointer: pointer["outs"][0].update(md5="f" * 32)),
        f"clean: {RAW[0]} changed since it ran",
    ),
    "a command": (
        lambda: edit("dvc.yaml", lambda pipeline: pipeline["stages"]["clean"].update(cmd="true")),
        "clean: its command changed since it ran",
    ),
    "a dependency": (
        lambda: edit("dvc.yaml", lambda pipeline: pipeline["stages"]["clean"]["deps"].pop()),
        "clean: it reads other files than when it ran",
    ),
    "raw data that is read no more": (
        lambda: edit("dvc.yaml", lambda pipeline: pipeline["stages"]["clean"]["deps"].remove(RAW[-1])),
        f"clean: nothing says what {RAW[-1]} is: neither git, nor a .dvc file, nor a stage",
    ),
    "a parameter more": (
        lambda: edit("dvc.yaml", lambda pipeline: pipeline["stages"]["clean"]["params"].append("label")),
        "clean: it reads other parameters than when it ran",
    ),
    "an output": (
        lambda: edit("dvc.yaml", lambda pipeline: pipeline["stages"]["clean"]["outs"].append("data/more")),
        "clean: it writes other files than when it ran",
    ),
    "a stage": (
        lambda: edit("dvc.yaml", lambda pipeline: pipeline["stages"].update(more={"cmd": "true"})),
        "more: it was never run",
    ),
    "an input of a later stage": (
        lambda: edit("dvc.lock", lambda lock: lock["stages"]["evaluate"]["deps"][0].update(md5="e" * 32)),
        "evaluate: data/clean changed since it ran",
    ),
    "a file that is gone": (
        lambda: Path("src/clean.py").unlink(),
        "clean: nothing says what src/clean.py is: neither git, nor a .dvc file, nor a stage",
    ),
    "a metrics file that is gone": (lambda: Path(METRICS).unlink(), f"evaluate: {METRICS} is missing"),
}


@pytest.mark.parametrize("what", STALE)
def test_a_lock_that_does_not_match_its_commit_is_refused_naming_what(project: Path, what: str) -> None:
    change, told = STALE[what]
    change()
    with pytest.raises(UserError, match=r"^dvc.lock of commit [0-9a-f]{8} does not match the commit:\n") as refusal:
        check(commit())
    assert f"  {told}\n" in str(refusal.value)


def test_a_folder_of_code_is_a_dependency_as_a_whole(project: Path) -> None:
    for name in ("b.py", "a/c.py", ".hidden"):
        write(f"src/labelling/{name}", f"{name}\n")
    for file in ("dvc.yaml", "dvc.lock"):
        dep = "src/labelling"
        if file == "dvc.lock":
            dep = {"path": dep, "hash": "md5", "md5": files.md5(Path(dep))}
        edit(file, lambda content, dep=dep: content["stages"]["clean"]["deps"].append(dep))
    head = commit()
    check(head)
    check_work_tree(head)
    write("src/labelling/a/c.py", "other\n")
    with pytest.raises(UserError, match=re.escape("src/labelling/a/c.py: changed and not committed")):
        check_work_tree(head)
    with pytest.raises(UserError, match="clean: src/labelling changed since it ran"):
        check(commit())


def test_a_commit_whose_stages_read_less_raw_data_is_checked_all_the_same(project: Path) -> None:
    edit("dvc.yaml", lambda pipeline: pipeline["stages"]["clean"]["deps"].remove(RAW[-1]))
    edit("dvc.lock", lambda lock: lock["stages"]["clean"]["deps"].pop(len(RAW) - 1))
    Path(f"{RAW[-1]}.dvc").unlink()
    older = commit()
    check(older)
    assert RAW[-1] not in older.raw
    assert list(clone.commit(older)) == []
    write("src/clean.py", "other\n")
    (finding,) = clone.commit(commit())
    assert "clean: src/clean.py changed since it ran" in finding.what


def test_runs_of_stages_that_the_pipeline_has_not_are_passed_over(project: Path) -> None:
    content = lock()
    content["stages"]["forged"] = content["stages"]["clean"] | {"outs": [{"path": "data/clean", "md5": "f" * 32}]}
    write("dvc.lock", content)
    revision = commit()
    check(revision)
    assert revision.outs["data/clean"] == MADE["data/clean"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"stages": {"clean": {"foreach": [1], "do": {"cmd": "x"}}}}, "dvc.yaml of commit .* cannot be read"),
        ({"stages": None}, "dvc.yaml of commit .* cannot be read"),
        ("stages: {clean: {cmd: x}, clean: {cmd: y}}", "key 'clean' comes twice"),
    ],
)
def test_a_pipeline_that_cannot_be_read_is_refused(project: Path, content: object, told: str) -> None:
    write("dvc.yaml", content)
    with pytest.raises(UserError, match=told):
        check(commit())


def test_a_parameter_that_is_no_finite_number_is_refused(project: Path) -> None:
    write("params.yaml", "label: {margin: .nan}\ntelemetry: {}\n")
    with pytest.raises(UserError, match=r"params.yaml of commit .*: label.margin is nan: write a finite number"):
        check(commit())


def test_small_numbers_are_read_as_dvc_writes_them(project: Path) -> None:
    write("params.yaml", "label: {c: 0.00003}\ntelemetry: {}\n")
    content = lock()
    text = yaml.safe_dump(content).replace("3.0e-05", "3e-05")
    assert "3e-05" in text
    write("dvc.lock", text)
    check(commit())


def test_a_commit_without_a_lock_is_refused(project: Path) -> None:
    Path("dvc.lock").unlink()
    with pytest.raises(UserError, match=r"has no dvc.lock: run `dvc repro`"):
        check(commit())


def test_a_lock_in_conflict_is_refused(project: Path) -> None:
    text = Path("dvc.lock").read_text()
    write("dvc.lock", text.replace("stages:", "<<<<<<< HEAD\nstages:\n=======\nstages:\n>>>>>>> theirs", 1))
    with pytest.raises(UserError, match=r"dvc.lock of commit .* holds a merge conflict: take one side"):
        check(commit())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stages: [", r"is unreadable \(while parsing .*line 1"),
        ("schema: '2.0'", "is not as DVC writes it: remove it"),
        ("stages: {a: {cmd: a, d: 2001-99-99}}", "is unreadable"),
    ],
)
def test_a_lock_that_is_no_lock_is_refused(project: Path, text: str, told: str) -> None:
    write("dvc.lock", text)
    with pytest.raises(UserError, match=f"dvc.lock of commit .* {told}"):
        check(commit())


def test_a_metrics_file_edited_by_hand_is_refused(project: Path) -> None:
    write(METRICS, json.dumps(FIGURES | {"pr_auc": 0.9}))
    with pytest.raises(UserError, match=f"{METRICS} of commit .* is not what the pipeline wrote"):
        check(commit())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"pr_auc": NaN}', "pr_auc is nan"),
        ('{"baselines": {"random": {"pr_auc": -Infinity}}}', "baselines.random.pr_auc is -inf"),
        ('{"pr_auc": null}', "pr_auc is null"),
        ('{"pr_auc": 0.5', "is no JSON"),
        ("", "is no JSON"),
    ],
)
def test_a_figure_that_is_no_number_is_refused_whoever_wrote_it(project: Path, text: str, told: str) -> None:
    write(METRICS, text)
    write("dvc.lock", lock())
    with pytest.raises(UserError, match=f"{METRICS} of commit .*{told}"):
        check(commit())


def test_a_model_whose_alarms_caught_nothing_may_have_no_lead(project: Path) -> None:
    nothing = {"alarm_precision": None, "median_lead_h": None, "precision": None}
    write(METRICS, json.dumps(nothing | {"baselines": {"one rule": nothing}}))
    write("dvc.lock", lock())
    check(commit())


def test_a_slice_of_too_few_crashes_may_have_no_recall(project: Path) -> None:
    write(METRICS, json.dumps({"slices": {"group_db": {"crashes": 2, "event_recall": None}}}))
    write("dvc.lock", lock())
    check(commit())


def test_changes_that_nobody_committed_are_refused_where_the_pipeline_reads_or_writes(project: Path) -> None:
    write("README.md", "of the project")
    head = commit()
    write("README.md", "edited")
    write("new.py", "not tracked")
    check_work_tree(head)
    write("src/clean.py", "edited\n")
    write(f"{RAW[0]}.dvc", "edited")
    with pytest.raises(UserError, match=re.escape(f"{RAW[0]}.dvc, src/clean.py: changed and not committed")):
        check_work_tree(head)
    git("add", "--all")
    with pytest.raises(UserError, match=r"src/clean.py"):
        check_work_tree(head)
    check_work_tree(Revision("0" * 40))  # of another commit the work tree says nothing


def test_an_unknown_commit_is_named(project: Path) -> None:
    with pytest.raises(UserError, match="git knows no commit 'v9' here: `git fetch` brings it"):
        Revision.find("v9")


def test_a_section_that_is_wrong_is_named_with_its_commit(project: Path) -> None:
    edit("params.yaml", lambda params: params["label"].update(lead="soon"))
    with pytest.raises(UserError, match=r"params.yaml of commit .*: label.lead: .*write a duration"):
        commit().section(Label)


def test_the_base_is_where_head_left_the_remotes_main_branch(project: Path, remote: Path) -> None:
    with pytest.raises(UserError, match="git knows no main branch of a remote"):
        default_base()
    left = Revision.find("HEAD")
    git("remote", "add", "origin", str(remote))
    git("checkout", "--quiet", "-b", "change")
    mine = commit()
    git("checkout", "--quiet", "main")
    commit()
    git("push", "--quiet", "origin", "main")
    git("fetch", "--quiet", "origin")
    git("checkout", "--quiet", "change")
    assert default_base() == left != mine


def test_histories_without_a_common_commit_have_no_base(project: Path, remote: Path) -> None:
    git("remote", "add", "origin", str(remote))
    git("fetch", "--quiet", "origin")
    git("checkout", "--quiet", "--orphan", "other")
    commit()
    with pytest.raises(UserError, match="where HEAD left origin/main is not known here"):
        default_base()


def test_a_shallow_clone_names_no_base_if_a_later_one_may_be_missing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEAD left main at `later`, by way of a branch whose older commits this clone lacks."""
    first = commit()
    git("checkout", "--quiet", "-b", "side")
    later = commit()
    cut = commit()
    git("checkout", "--quiet", "-b", "topic", first.sha)
    commit()
    git("merge", "--quiet", "--no-edit", "side")
    git("checkout", "--quiet", "main")
    git("merge", "--quiet", "--no-ff", "--no-edit", later.sha)
    git("clone", "--quiet", f"file://{project}", str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    git("checkout", "--quiet", "topic")
    assert default_base() == later
    shallow = Path(".git/shallow")
    shallow.write_text(f"{cut.sha}\n")
    assert git("merge-base", "HEAD", "origin/main") == first.sha  # which is not where it left
    with pytest.raises(UserError, match=r"where HEAD left origin/main is not known here.* --unshallow"):
        default_base()
    shallow.unlink()
    git("checkout", "--quiet", "--detach", "origin/main")
    shallow.write_text(f"{git('rev-parse', 'HEAD')}\n")
    assert default_base().sha == git("rev-parse", "HEAD")  # nothing later can be missing


def revised(figures: dict) -> Revision:
    write(METRICS, json.dumps(figures))
    write("dvc.lock", lock())
    return commit()


def test_every_figure_of_two_commits_is_there_changed_or_not(project: Path) -> None:
    base = Revision.find("HEAD")
    head = revised(FIGURES | {"pr_auc": 0.6, "brier": 0.1})
    assert {"file": METRICS, "name": "pr_auc", "base": 0.5, "challenger": 0.6} in metrics_between(base, head)
    assert {row["name"]: (row["base"], row["challenger"]) for row in metrics_between(base, head)} == {
        "pr_auc": (0.5, 0.6),
        "baselines.random.pr_auc": (0.01, 0.01),
        "baselines.crashes_7d.pr_auc": (0.02, 0.02),
        "brier": (None, 0.1),
    }


def test_a_figure_that_the_head_lacks_is_refused_unless_it_comes_and_goes(project: Path) -> None:
    base = Revision.find("HEAD")
    without_feature = {"pr_auc": 0.6, "baselines": {"random": {"pr_auc": 0.01}}}
    assert len(metrics_between(base, revised(without_feature))) == 3
    with pytest.raises(UserError, match=f"{METRICS} of commit .* lacks pr_auc, which commit {base.name} has"):
        metrics_between(base, revised({"baselines": FIGURES["baselines"]}))


def test_a_metrics_file_that_the_head_lacks_is_refused(project: Path) -> None:
    base = Revision.find("HEAD")
    edit("dvc.yaml", lambda pipeline: pipeline["stages"]["evaluate"].pop("metrics"))
    with pytest.raises(UserError, match=f"{METRICS}: commit {base.name} has these figures"):
        metrics_between(base, commit())


def test_code_that_differs_is_listed(project: Path) -> None:
    base = Revision.find("HEAD")
    write("src/new.py", "new")
    write("src/clean.py", "other")
    write("README.md", "no code")
    assert code_between(base, commit()) == ["src/clean.py", "src/new.py"]


def test_nested_figures_are_named_by_their_path() -> None:
    assert dict(flatten({"a": {"b": 1, "c": {"d": None}}, "e": {}})) == {"a.b": 1, "a.c.d": None, "e": {}}
