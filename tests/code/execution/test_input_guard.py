"""What is edited while a stage runs; test_whole_pipeline.py does it to real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crashcast.errors import UserError
from crashcast.execution.input_guard import unedited

CODE = Path("code/part.py")


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a project whose stage depends on a folder of code."""
    monkeypatch.chdir(tmp_path)
    CODE.parent.mkdir()
    CODE.write_text("value = 1")
    Path("params.yaml").write_text("")
    Path("dvc.yaml").write_text("stages: {clean: {deps: [code]}}")


@pytest.mark.parametrize("edit", [lambda: CODE.write_text("value = 10"), CODE.unlink, Path("code/new.py").touch])
def test_code_in_a_folder_that_is_edited_makes_the_stage_fail(edit: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"code/\w+\.py changed while the stage was running"), unedited("clean"):
        edit()


def test_bytecode_that_the_stage_itself_writes_is_no_edit() -> None:
    with unedited("clean"):
        (CODE.parent / "__pycache__").mkdir()
        (CODE.parent / "__pycache__/part.cpython-311.pyc").touch()
