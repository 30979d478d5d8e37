"""The whole of `make` where everything is against it at once, with the same dvc.lock as anywhere else.

Git's variables and settings are those of another repository's hook and of a user who changed them all; folders' names
have spaces, brackets and umlauts; the folder above is read-only; there is no home, new files are for their owner alone,
and the locale is C. Root becomes another user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import hostile_git
import pytest
import yaml

from crashcast import files

ROOT = Path(__file__).parents[2]
NOBODY = 65534
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
SCRIPT = """#!/bin/sh
exec "$(dirname "$0")/python" -c 'import sys; sys.argv[0] = "{name}"; from {module} import main; sys.exit(main())' "$@"
"""
MAINS = {"dvc": "dvc.cli", "crashcast": "crashcast.cli"}


class Place:
    """A clone, and what runs a command there."""

    def __init__(self, top: Path, port: int, python: str) -> None:
        self.top, self.port, self.clone = top, port, top / "rö [x] y/clöne [1] (a) & 'b'"
        self.python = python
        self.variables = {
            **hostile_git.lay_out(top),
            **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))},
            **{name: str(top / "own" / name) for name in ("XDG_DATA_HOME", "DVC_SITE_CACHE_DIR", "TMPDIR")},
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            with suppress(OSError):  # root's own Python
                subprocess.run([python, "-c", ""], **_as(NOBODY), check=True)
                self.user = _as(NOBODY)

    def begin(self, origin: Path) -> None:
        """Clone, and make the folder above read-only."""
        for name in ("XDG_DATA_HOME", "DVC_SITE_CACHE_DIR", "TMPDIR"):
            (self.top / "own" / name).mkdir(parents=True)
        self.clone.parent.mkdir()
        subprocess.run(["git", "clone", "-q", origin, self.clone], check=True)
        remote = f"['remote \"s3\"']\n    endpointurl = http://127.0.0.1:{self.port}\n"
        (self.clone / ".dvc/config.local").write_text(remote)
        if self.user:
            for folder in (self.clone, self.top / "own", self.top / "other", self.top / "hostile"):
                subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", folder], check=True)
        self.clone.parent.chmod(0o555)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.clone, env=self.variables, umask=0o077, text=True, capture_output=True, check=False,
            **self.user,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        assert done.returncode == 0, printed
        assert "Traceback" not in printed
        assert "hostile" not in printed
        return printed

    def make(self, target: str, *more: str) -> str:
        return self.run("make", f"S3_PORT={self.port}", f"PYTHON={self.python}", *more, target)

    def lock(self) -> dict[str, Any]:
        return yaml.safe_load((self.clone / "dvc.lock").read_text())["stages"]

    def changed(self) -> str:
        """Return what git, unharmed, says of the clone."""
        return subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", self.clone, "status", "--porcelain"],
            check=True, text=True, capture_output=True,
        ).stdout  # fmt: skip

    def touched(self) -> list[str]:
        """Return the files that git's variables would have led it to."""
        return [name for name in ("index", "objects") if (self.top / "hostile" / name).exists()]


def _as(user: int) -> dict[str, Any]:
    return {"user": user, "group": user, "extra_groups": []}


@pytest.fixture
def top() -> Iterator[Path]:
    """Return a folder that another user may read, as pytest's own are not."""
    folder = Path(mkdtemp(prefix="crashcast-hostile-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.glob("rö*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def borrow_environment(clone: Path) -> None:
    """Make an environment with the packages of this one and the clone's own code."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    (site,) = (clone / ".venv/lib").glob("python3.*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(["../../../../src", *packages]))
    for name, module in MAINS.items():
        (clone / ".venv/bin" / name).write_text(SCRIPT.format(name=name, module=module))
        (clone / ".venv/bin" / name).chmod(0o755)
    (clone / ".venv/bin/weed").symlink_to(Path(sysconfig.get_path("scripts"), "weed"))


@pytest.mark.ci
def test_the_first_stage_of_a_small_fleet_gives_the_same_hashes(
    top: Path, port: int, small_fleet: Callable[[Path], Path], tmp_path: Path
) -> None:
    origin = small_fleet(tmp_path / "origin")
    place = Place(top, port, sys.executable)
    place.begin(origin)
    borrow_environment(place.clone)
    place.make("data", "--old-file=env")
    place.variables["PATH"] = f"{place.clone}/.venv/bin:{SYSTEM_PATH}"
    place.run(".venv/bin/dvc", "repro", "validate")
    place.make("publish", "--old-file=env")
    expected = yaml.safe_load((origin / "dvc.lock").read_text())["stages"]
    assert place.lock() == expected
    assert "data/raw/telemetry" in place.run(".venv/bin/crashcast", "data", "log")
    assert place.changed() == ""
    assert place.touched() == []


@pytest.mark.slow
def test_make_gives_the_same_lock(top: Path, port: int) -> None:
    """With an environment of its own, installed there; root becomes another user."""
    python = next(
        path for name in ("python3.11", "python3.12", "python3") if (path := shutil.which(name, path=SYSTEM_PATH))
    )
    place = Place(top, port, python)
    if os.geteuid() == 0 and not place.user:
        pytest.skip(f"another user cannot run {python}")
    asked = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(asked, cwd=ROOT, check=True, text=True, capture_output=True).stdout
    origin = top / "origin"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, origin / name)
    command = "git init -q -b main && git add -A && git commit -q -m all"
    subprocess.run(command, shell=True, cwd=origin, check=True)
    place.begin(origin)

    printed = place.make("all")

    assert "files pushed" in printed
    expected = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    for stage, entry in place.lock().items():
        assert entry["outs"] == expected[stage]["outs"], stage
        code = {dep["path"]: dep["md5"] for dep in entry["deps"] if dep["path"].startswith(("src/", "requirements"))}
        assert code == {path: files.md5(ROOT / path) for path in code}
    assert place.changed().strip() in ("", "M dvc.lock")  # if code was edited and not yet run
    assert "Nothing wrong was found" in place.make("doctor", "ARGS=--only remote --only cache")
    assert place.touched() == []
