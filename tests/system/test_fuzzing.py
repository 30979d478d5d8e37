"""Whatever bytes come from outside, they are read or refused: no traceback, no hang, no gigabytes, no changed file.

What reads them, and with which good files the mutants begin, is in tests/support/fuzzed_readers.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fuzzed_readers
import pytest

MOST_MIB = 2048
PARSED_SHARE = 0.3  # of mutants that must reach the code behind the first parse
FEW, MANY, SEED = 15, 10_000, 1
SUPPORT = Path(fuzzed_readers.__file__)


def fuzz(name: str, count: int) -> dict[str, dict[str, Any]]:
    """Run the readers on so many mutants each."""
    command = [sys.executable, str(SUPPORT), name, str(count), str(SEED)]
    path = os.pathsep.join([str(SUPPORT.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr[-5000:]  # a hang, or a process that was killed
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def check(name: str, found: dict[str, Any], count: int) -> None:
    assert found["failures"] == {}, name
    assert found["mutants"] == count
    assert found["parsed"] >= PARSED_SHARE * count, name
    assert found["peak_mib"] < MOST_MIB, name


@pytest.mark.ci
def test_a_few_mutants_of_each_kind_are_read_or_refused() -> None:
    found = fuzz("all", FEW)
    assert found.keys() == fuzzed_readers.TARGETS.keys()
    for name in found:
        check(name, found[name], FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzzed_readers.TARGETS)
def test_ten_thousand_mutants_are_read_or_refused(name: str) -> None:
    check(name, fuzz(name, MANY)[name], MANY)
