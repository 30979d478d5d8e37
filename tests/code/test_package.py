from __future__ import annotations

import subprocess
import sys

import pytest

from crashcast.execution.code_hash import SRC


@pytest.mark.parametrize("module", ["stages.train", "crashcast.modeling.model", "crashcast.cli"])
@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_do_not_spin_however_the_code_is_called(
    module: str, given: dict[str, str], expected: str
) -> None:
    code = f"import os, {module}; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=given | {"PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


def test_the_policy_is_set_before_a_library_with_threads_is_loaded() -> None:
    code = (
        "import os, sys; from crashcast import canonical\n"
        "assert not {'numpy', 'sklearn', 'polars'} & set(sys.modules); print(os.environ['OMP_WAIT_POLICY'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "PASSIVE"
