from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from crashcast.execution import code_hash

SCRIPT = "from crashcast.execution import code_hash; print(code_hash.digest('stages.clean'))"


def test_the_same_code_in_another_folder_has_the_same_digest(tmp_path):
    shutil.copytree(code_hash.SRC, tmp_path / "else" / "src", ignore=shutil.ignore_patterns("__pycache__"))
    there = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"PYTHONPATH": str(tmp_path / "else" / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert there.stdout.strip() == code_hash.digest("stages.clean"), there.stderr


def test_a_function_depends_on_its_files_and_libraries_and_on_what_runs_them():
    contents = code_hash.contents("stages.clean")
    assert {"stages/clean.py", "crashcast/tables.py", "polars", "numpy", "pyyaml", "cpython", "machine"} <= set(
        contents
    )
    assert not {"stages/label.py", "rich", "distributed", "crashcast", "pathlib"} & set(contents)


@pytest.mark.parametrize("stage", ["validate", "clean", "label", "featurize", "split", "train", "evaluate"])
def test_every_library_has_a_version(stage):
    assert code_hash.MISSING not in code_hash.contents(f"stages.{stage}").values()


def test_an_unknown_module_is_an_error():
    with pytest.raises(ModuleNotFoundError, match=r"no module named stages\.unknown"):
        code_hash.contents("stages.unknown")


def test_differences_are_named():
    here = {"crashcast/grid.py": "1", "crashcast/new.py": "2", "polars": "2.1.0", "numpy": "2.4.6"}
    there = {"crashcast/grid.py": "0", "polars": "2.0.0", "numpy": code_hash.MISSING}
    assert code_hash.differences(here, there) == [
        "crashcast/grid.py differs",
        "crashcast/new.py is in one place only",
        "numpy is missing instead of 2.4.6",
        "polars is 2.0.0 instead of 2.1.0",
    ]
