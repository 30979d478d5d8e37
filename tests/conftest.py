"""What every test gets: none of the user's settings, and on request a real S3 server."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest
from botocore.loaders import JSONFileLoader
from hypothesis import settings

from crashcast.versioning import local_s3

# Variables of the Makefile: `make test ARGS=-x` must not give ARGS to the makes that tests call
MAKE_VARIABLES = {"ARGS", "PYTHON", "REV", "S3_PORT", "TARGETS", "UPGRADE"}

# Tests run side by side, and one that is to know of threads sets them itself. Before NumPy and Polars are imported.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")

# Imports and tests leave little garbage in the large heap of a worker: look for it a hundred times less often.
gc.set_threshold(70_000, 20, 20)

# Files that take minutes come first, so that no worker is left alone with one. The first makes the small fleet, and the
# next two give it time to, before the others need that fleet.
LONGEST = (
    "test_review.py",
    "test_doctor.py",
    "test_serve_in_real_time.py",  # it waits for minutes
    "test_kills.py",
    "test_retrain.py",
    "test_dashboards.py",
    "test_whole_pipeline.py",
    "test_accept.py",
)
MAX_WORKERS = 4

settings.register_profile("patient", settings(), deadline=None)  # a busy machine is no failure
settings.load_profile("patient")


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for `-n auto`: one more than CPUs, since tests of servers and faults wait a lot."""
    return min((os.cpu_count() or 1) + 1, MAX_WORKERS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, then other tests of the system."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST), item.path.parent.name != "system"

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Shut out what git, DVC, S3, AWS and a calling make have set, and put this environment's programs first."""
    # a shell ignores Ctrl-C in what it starts in the background, and programs started by tests would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("AWS_", "CRASHCAST_", "DVC_", "GIT_", "MAKE", "MFLAGS")) or name in MAKE_VARIABLES:
                patch.delenv(name)  # git sets its own for its hooks, make hands on what it was called with
        for name in ("XDG_DATA_HOME", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
            patch.setenv(name, str(home / name.lower()))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "A Tester")
            patch.setenv(f"GIT_{role}_EMAIL", "tester@example.com")
        patch.setenv("DVC_NO_ANALYTICS", "true")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="session", autouse=True)
def _describe_aws_once() -> Iterator[None]:
    """Parse botocore's description of AWS, a megabyte of JSON, once in a process and not for each client of S3."""
    read = cache(JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: read(path))
        yield


@pytest.fixture
def port() -> int:
    """Return a free port for a local S3 server of this test's own; it takes five, and five more 10,000 above."""
    return _free_port()


def _free_port() -> int:
    draw = Random()  # tests that run side by side must not agree
    while True:
        port = draw.randrange(11_000, 22_000)
        if all(map(_is_free, (*range(port, port + 5), *range(port + 10_000, port + 10_005)))):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run a real S3 server; the environment given holds its address and keys."""
    with local_s3.serving(tmp_path_factory.mktemp("s3"), _free_port()) as environment:
        yield environment


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command line in `tmp_path`, or `cwd`, and return what it printed; its failure fails the test by default."""

    def run(command: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, shell=True, text=True, capture_output=True, **({"cwd": tmp_path} | options))
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done

    return run
