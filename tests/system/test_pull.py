"""`crashcast pull`: what a commit says about data writes into folders of data alone, with a real DVC and remote."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from crashcast import files
from crashcast.errors import UserError
from crashcast.versioning import git
from crashcast.versioning.dvc_files import object_path
from crashcast.versioning.pull import pull

HARM = "print('this ran')"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, dvc: Callable[..., None]) -> Path:
    """Return a folder with a fresh clone of a project, which has the folder `models` and the file `rows`, and a remote.

    The remote is a folder too.
    """
    above = tmp_path_factory.mktemp("made")
    here = above / "origin"
    (here / "models/sub").mkdir(parents=True)
    (here / "models/sub/model").write_text("a model")
    (here / "rows").write_text("rows")
    begin = "git init -q -b main && dvc init -q && dvc remote add -q -d store ../store"
    subprocess.run(begin, shell=True, cwd=here, check=True)
    dvc(here, "add", "models", "rows")
    dvc(here, "push")
    subprocess.run("git add -A && git commit -q -m one && git clone -q . ../clone", shell=True, cwd=here, check=True)
    return above


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    subprocess.run(["cp", "-a", made, tmp_path / "made"], check=True)
    monkeypatch.chdir(tmp_path / "made/clone")
    return tmp_path / "made/clone"


def store(project: Path, content: str, suffix: str = "") -> str:
    """Push an object, as whoever has the key may, and return its hash."""
    made = project.parent / "object"
    made.write_text(content)
    digest = files.md5(made) + suffix
    stored = project.parent / "store" / object_path(digest)
    stored.parent.mkdir(parents=True, exist_ok=True)
    made.rename(stored)
    return digest


def propose(**changes: str | None) -> None:
    """Commit another models.dvc."""
    content = yaml.safe_load(Path("models.dvc").read_text())
    content["outs"][0] = {key: value for key, value in (content["outs"][0] | changes).items() if value is not None}
    Path("models.dvc").write_text(yaml.safe_dump(content))
    subprocess.run(["git", "commit", "-q", "-a", "-m", "attack"], check=True)


def propose_list(project: Path, name: str) -> None:
    entry = {"md5": store(project, HARM), "relpath": name}
    propose(md5=store(project, json.dumps([entry]), ".dir"))


def refused(match: str, *targets: str) -> None:
    """Check that nothing is written into the work tree or beside it."""

    def found() -> set[Path]:
        return {p for p in Path("..").resolve().rglob("*") if ".dvc" not in p.parts and ".git" not in p.parts}

    before = found()
    with pytest.raises(UserError, match=match):
        pull(targets)
    assert found() == before


def test_an_honest_clone_pulls_all_or_what_is_named(project: Path) -> None:
    assert pull(["rows"]) == 0
    assert Path("rows").read_text() == "rows"
    assert not Path("models").exists()
    assert pull() == 0
    assert Path("models/sub/model").read_text() == "a model"
    assert pull() == 0


@pytest.mark.parametrize(
    "name",
    [
        "../.venv/lib/zz.pth",
        "sub/../../../outside",
        "/tmp/outside",
        "..\\outside",
        ".Git/hooks/post-checkout",
        "sub/.VENV/zz.pth",
        ".dvc/config.local",
        ".g\u200cit/config",
        "./model",
        "sub//model",
    ],
)
def test_a_list_that_leads_out_is_refused_before_a_byte_is_written(project: Path, name: str) -> None:
    propose_list(project, name)
    refused("models is refused: the list of its files names")
    refused("models is refused: the list of its files names", "models")


def test_a_list_that_was_in_the_cache_before_is_checked_too(project: Path) -> None:
    propose_list(project, "../outside")
    subprocess.run(["dvc", "fetch", "-q"], check=True)
    refused("models is refused: the list of its files names '../outside'")


def test_two_entries_of_one_name_are_refused(project: Path) -> None:
    entries = [{"md5": digest, "relpath": "a"} for digest in (store(project, HARM), "0" * 32)]
    propose(md5=store(project, json.dumps(entries), ".dir"))
    refused("not as DVC writes it")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"path": ".venv"}, r"^\.venv, in models\.dvc, is refused: no data belongs there"),
        ({"path": ".git/hooks"}, "nothing was pulled: .* is ignored"),
        ({"path": "src/sklearn"}, "is refused: no data belongs there"),
        ({"path": "sub/../../beside"}, "is refused: no data belongs there|outside"),
        ({"files": [{"relpath": "../outside", "md5": "0" * 32}]}, "no MD5 as DVC 3 records it"),
        ({"hash": None}, "no MD5 as DVC 3 records it"),
        ({"md5": "aa/tmp/outside"}, "is no hash as DVC records it"),
    ],
)
def test_an_output_that_is_no_folder_of_data_is_refused(project: Path, change: dict[str, str], match: str) -> None:
    propose(**change)
    refused(match)


@pytest.mark.parametrize(("link", "where"), [("models", "../elsewhere"), ("models/sub", "../../elsewhere")])
def test_nothing_is_written_through_a_link_of_a_commit(project: Path, link: str, where: str) -> None:
    Path("../elsewhere").mkdir()
    Path(".gitignore").unlink()
    Path(link).parent.mkdir(exist_ok=True)
    Path(link).symlink_to(where)
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", "commit", "-q", "-m", "a link"], check=True)
    refused(f"models/sub/model is refused: git tracks {link}, so data would be written over it or through it")


def test_data_does_not_replace_a_file_of_git(project: Path) -> None:
    Path("Makefile").write_text("all:\n")
    subprocess.run(["git", "add", "Makefile"], check=True)
    propose(path="makefile", md5=store(project, HARM))
    refused("makefile is refused: git tracks makefile")


def test_what_comes_from_another_repository_is_not_fetched(project: Path) -> None:
    deps = {"deps": [{"path": "x", "repo": {"url": "../origin", "rev_lock": git.commit("HEAD")}}]}
    content = yaml.safe_load(Path("models.dvc").read_text()) | deps
    Path("models.dvc").write_text(yaml.safe_dump(content))
    refused("comes from elsewhere than DVC's remote")


def test_a_list_that_is_nowhere_is_named_and_the_rest_pulled(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    propose(md5=f"{'0' * 32}.dir")
    assert pull() == 1
    assert "were never pushed to it: run 'make push' where they were made: models." in capfd.readouterr().err
    assert Path("rows").exists()
    assert not Path("models").exists()
    assert pull(["models"]) == 1


@pytest.mark.parametrize(
    "path", [".dvc/cache/x", ".dvc/tmp/x", ".venv/lib/zz.pth", ".dvc/config.local", ".DVC/Config.local"]
)
def test_a_commit_with_files_in_this_machines_own_places_is_refused(project: Path, path: str) -> None:
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("")
    subprocess.run(["git", "add", "-f", path], check=True)
    refused(r"in git's index: what lies there is taken for this machine's own")


def test_a_config_that_names_a_program_is_refused(project: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    Path("aws").write_text(f"[profile x]\ncredential_process = /bin/sh -c 'touch {ran}'\n")
    Path(".dvc/config").write_text(
        "[core]\nremote = store\n['remote \"store\"']\nurl = s3://bucket/x\nprofile = x\nconfigpath = ../aws\n"
    )
    with pytest.raises(UserError, match=r"\.dvc/config sets remote\.store\.configpath, remote\.store\.profile"):
        pull()
    assert not ran.exists()
