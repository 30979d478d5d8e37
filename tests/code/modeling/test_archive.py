"""A saved model is read without what it does not need."""

from __future__ import annotations

import subprocess
import sys


def test_a_model_is_read_without_importing_every_estimator_of_scikit_learn() -> None:
    program = "import sys, crashcast.modeling.model; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "skops.io" in modules
    assert not {"sklearn.gaussian_process", "sklearn.tests", "pytest"} & set(modules)
