"""Where DVC says that all is well and it is not: each such case known, and the test that shows who notices.

The tests here end in what the doctor says, and in its repair where a good copy exists. What another file shows is
listed in SHOWN_ELSEWHERE.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from itertools import count
from pathlib import Path

import pytest
import yaml

from crashcast.doctor import examine
from crashcast.doctor.findings import SOUND, WRONG, Finding, exit_status
from crashcast.files import md5
from crashcast.history.rebuild import rebuild
from crashcast.versioning import bucket as buckets
from crashcast.versioning.cache import cached

TESTS = Path(__file__).parents[1]
MODEL = Path("models/model")
numbers = count()

SHOWN_ELSEWHERE = {
    "a truncated or overwritten object on the remote: pull exits 0 with wrong data": [
        "system/test_doctor.py::test_dvc_alone_takes_a_truncated_object_for_the_data",
        "system/test_doctor.py::test_a_damaged_object_on_the_remote_is_found_and_replaced_from_the_cache",
    ],
    "a missing file of a pushed folder: status -c says in sync, push up to date": [
        "system/test_doctor.py::test_a_missing_file_of_a_pushed_folder_is_found_though_dvc_says_in_sync",
    ],
    "a forgotten push: data status exits 0": [
        "system/test_doctor.py::test_a_forgotten_push_is_found_and_made_good",
        "system/test_doctor.py::test_a_commit_without_its_data_is_not_pushed",
    ],
    "raw data edited in place through a hard link": [
        "system/test_doctor.py::test_raw_data_edited_in_place_through_its_link_is_found_and_linked_anew",
    ],
    "a file edited while its stage runs: dvc.lock records the new one beside the old result": [
        "system/test_whole_pipeline.py::test_what_is_edited_while_its_stage_runs_makes_it_fail",
    ],
    "a killed repro leaves its stage running": [
        "system/test_doctor.py::test_an_orphaned_stage_is_found_and_stopped",
        "system/test_whole_pipeline.py::test_what_a_killed_run_left_running_cannot_write_over_a_newer_one",
    ],
    "a killed dvc leaves its lock file empty, or held by nobody": [
        "system/test_doctor.py::test_an_empty_rwlock_is_found_and_removed",
        "system/test_doctor.py::test_locks_of_the_dead_the_living_and_of_others",
    ],
    "a deleted object of a versioned bucket": [
        "system/test_doctor.py::test_an_object_that_was_deleted_or_overwritten_comes_back_from_its_older_version",
    ],
    "repro takes edited raw data for the new truth": [
        "system/test_whole_pipeline.py::test_edited_raw_data_is_refused_until_somebody_accepts_it",
    ],
    "a folder's hash takes in bytecode": [
        "system/test_whole_pipeline.py::test_bytecode_and_a_second_run_change_nothing"
    ],
    "persist and cache: false switch the run-cache off": [
        "code/test_dvc_yaml.py::test_nothing_disables_the_run_cache",
    ],
    "a remote that is down or has no such bucket looks like data that nobody pushed": [
        "system/test_doctor.py::test_a_remote_that_is_down_or_has_no_such_bucket_is_no_pass",
    ],
    "metrics diff exits 0 on a regression": [
        "system/test_accept.py::test_a_worse_model_is_rejected_though_dvc_reports_success",
    ],
    "metrics diff compares figures of other test rows": ["system/test_review.py::test_an_eased_test_set_is_rejected"],
    "metrics diff exits 0 without a baseline": ["system/test_review.py::test_a_missing_baseline_is_refused"],
    "metrics diff exits 0 on NaN, null and broken JSON": [
        "system/test_review.py::test_a_metric_that_is_no_number_is_refused",
        "code/versioning/test_revision.py::test_a_figure_that_is_no_number_is_refused_whoever_wrote_it",
    ],
    "metrics diff exits 0 on a dvc.lock in conflict": [
        "code/versioning/test_revision.py::test_a_lock_in_conflict_is_refused",
        "system/test_doctor.py::test_a_lock_in_conflict_is_found_and_our_side_taken",
    ],
    "metrics diff compares figures that were edited by hand": [
        "system/test_review.py::test_figures_edited_by_hand_in_metrics_and_lock_do_not_stand_up_to_rescoring",
    ],
}


def sh(command: str, cwd: Path | str = ".", check: bool = True) -> str:
    done = subprocess.run(command, shell=True, cwd=cwd, text=True, capture_output=True)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def dvc(*arguments: str) -> None:
    """Run a dvc command in this process, which has imported DVC already; it must end with status 0."""
    from dvc.cli import main

    assert main([*arguments, "-q"]) == 0


def told(found: list[Finding], severity: str) -> list[str]:
    return [f"{finding.where}: {finding.what}" for finding in found if finding.severity == severity]


@pytest.fixture
def project(trained: Path) -> Path:
    """Return a project with one model, and a remote folder of its own that holds it."""
    config = Path(".dvc/config")
    links = '[cache]\ntype = "hardlink,copy"\n'  # as this project has them
    config.write_text(links + config.read_text().replace("s3://crashcast/", f"s3://crashcast/{next(numbers)}"))
    sh("git commit -q -a -m remote")
    dvc("push")
    return trained


def test_every_test_that_is_cited_exists() -> None:
    for where in (where for listed in SHOWN_ELSEWHERE.values() for where in listed):
        file, _, name = where.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, where


def test_a_damaged_cache_file_is_checked_out_without_a_word(project: Path) -> None:
    path = cached(md5(MODEL))
    shutil.rmtree("models")
    path.chmod(0o644)
    path.write_text("two")
    path.chmod(0o444)
    dvc("checkout")
    assert MODEL.read_text() == "two"
    assert "up to date" in sh("dvc status")

    found = examine(parts=["cache"])
    assert exit_status(found) == WRONG
    assert "damaged in the cache: 1 of 2 files (models/model)" in told(found, "error")[0]

    assert exit_status(examine(parts=("cache", "remote"), mend=True)) == SOUND
    assert MODEL.read_text() == path.read_text() == "one"


def test_without_verify_a_pull_believes_the_remote_and_the_doctor_says_so(project: Path) -> None:
    bucket, md5_of_model = buckets.connect(), md5(MODEL)
    bucket.call("put_object", Key=bucket.object_key(md5_of_model), Body=b"two")

    def pulled() -> tuple[int, str]:
        shutil.rmtree("models", ignore_errors=True)
        cached(md5_of_model).unlink(missing_ok=True)
        done = subprocess.run(["dvc", "pull"], capture_output=True, text=True)
        return done.returncode, MODEL.read_text() if MODEL.exists() else done.stderr

    status, told_by_dvc = pulled()
    assert status != 0
    assert "failed to pull data from the cloud" in told_by_dvc
    dvc("remote", "modify", "s3", "verify", "false")
    assert pulled() == (0, "two")
    assert "up to date" in sh("dvc status")

    assert "dvc remote modify s3 verify true" in [finding.todo for finding in examine(parts=["bucket"])]
    dvc("remote", "modify", "s3", "verify", "true")
    assert told(examine(parts=["bucket"]), "warning") == []


def test_what_dvc_gc_deleted_of_other_commits_is_found_and_comes_back_from_an_older_version(
    project: Path, train, tmp_path: Path
) -> None:
    bucket = buckets.connect()
    bucket.fs.call_s3("create_bucket", Bucket="kept")
    bucket.fs.call_s3("put_bucket_versioning", Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    config = Path(".dvc/config")
    config.write_text(config.read_text().replace("s3://crashcast/", "s3://kept/"))
    sh("git commit -q -a -m bucket")
    dvc("push")
    before = sh("git rev-parse HEAD").strip()
    train("two")
    dvc("gc", "--workspace", "--cloud", "--force")
    assert "up to date" in sh("dvc status")
    assert "in sync" in sh("dvc status -c")

    assert exit_status(examine(parts=("remote", "cache"))) == SOUND  # HEAD has its data
    lost = examine([before], parts=["remote"])
    assert exit_status(lost) == WRONG
    assert exit_status(examine(all_commits=True, parts=["remote"])) == WRONG

    assert exit_status(examine(all_commits=True, parts=["remote"], mend=True)) == SOUND
    sh(f"git clone -q {project} {tmp_path / 'clone'}")
    os.chdir(tmp_path / "clone")
    sh(f"git checkout -q {before}")
    dvc("pull")
    assert MODEL.read_text() == "one"


def test_tags_older_than_the_remote_are_passed_over_by_a_push_of_all_tags(project: Path, train) -> None:
    config = Path(".dvc/config")
    settings = config.read_text()
    config.write_text("")
    train("older", push=False)
    sh("git commit -q -a --allow-empty -m 'no remote yet' && git tag v1")
    config.write_text(settings.replace("s3://crashcast/", "s3://crashcast/later"))
    sh("git commit -q -a -m 'a remote'")
    train("newer", push=False)
    dvc("push", "--all-tags")

    assert exit_status(examine(["HEAD"], parts=["remote"])) == SOUND
    found = examine(["v1"], parts=["remote"])
    assert exit_status(found) == WRONG
    assert "not on the remote: 1 of 2 files (models/model) and the list of its files" in told(found, "error")[0]

    assert exit_status(examine(["v1"], parts=["remote"], mend=True)) == SOUND


def test_edited_raw_data_that_repro_took_for_the_truth_is_told(project: Path) -> None:
    raw = Path("recipe")
    sh("git rm -q --cached recipe")
    dvc("add", "recipe")
    dvc("repro")
    sh("git add -A && git commit -q -m 'recipe is data'")
    dvc("push")
    assert told(examine(), "warning") == told(examine(), "error") == []
    raw.unlink()
    raw.write_text("edited by accident")
    dvc("repro")
    assert "up to date" in sh("dvc status")  # recipe.dvc says now what the edit says

    warnings = told(examine(parts=["project"]), "warning")

    assert "dvc.lock recipe.dvc: not committed, so nobody else gets it" in warnings
    sh("git restore recipe.dvc dvc.lock")
    dvc("checkout", "--force")
    assert raw.read_text() == MODEL.read_text() == "one"
    assert told(examine(parts=["project"]), "warning") == []


def test_what_a_stage_did_not_read_stands_in_dvcs_lock_and_only_a_rebuild_tells(project: Path) -> None:
    """Without the guard that this project's stages have: DVC hashes what a stage read after it ended."""
    stage = yaml.safe_load(Path("dvc.yaml").read_text())
    stage["stages"]["train"]["cmd"] += " && echo -n edited meanwhile > recipe"
    Path("dvc.yaml").write_text(yaml.safe_dump(stage))
    Path("requirements.txt").touch()
    dvc("repro")
    sh("git add -A && git commit -q -m run")
    dvc("push")
    assert (Path("recipe").read_text(), MODEL.read_text()) == ("edited meanwhile", "one")
    assert "up to date" in sh("dvc status")
    assert exit_status(examine(parts=("project", "remote", "cache"))) == SOUND  # hashes cannot tell

    found = rebuild("HEAD")

    assert (found.verdict, [*found.differing]) == ("different", ["train"])
    assert [file.path for file in found.differing["train"][0].files] == [str(MODEL)]
