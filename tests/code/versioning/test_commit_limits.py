"""What a commit must not bring: files in this machine's own places, and settings that name programs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.config import Config

from crashcast.errors import UserError
from crashcast.versioning import cache
from crashcast.versioning.commit_limits import CONFIG, check_places, check_same_settings, check_settings
from crashcast.versioning.lock_checks import check
from crashcast.versioning.revision import Revision
from crashcast.versioning.worktree import worktree

Shell = Callable[..., subprocess.CompletedProcess[str]]
HONEST = """
[core]
    remote = s3
    autostage = false
[cache]
    type = "hardlink,copy"
['remote "s3"']
    url = s3://bucket/dvc
    endpointurl = http://127.0.0.1:18333
    verify = true
"""


@pytest.fixture
def commit(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Revision]:
    """Return what commits a file, by force, and returns the commit."""
    shell("git init -q -b main")
    monkeypatch.chdir(tmp_path)

    def commit(path: str, content: str) -> Revision:
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
        shell(f"git add -f '{path}' && git commit -q -m one")
        return Revision.find("HEAD")

    return commit


@pytest.mark.parametrize(
    "path",
    [
        ".dvc/cache/crashcast-review/judged/0.json",
        ".dvc/cache/crashcast-memo/00/0.json",
        ".dvc/cache/files/md5/00/0",
        ".dvc/tmp/rwlock",
        ".dvc/config.local",
        ".venv/lib/zz.pth",
        ".venv",
        ".dvc",
        ".dvc/cache",
        ".Venv/bin/python",
        ".DVC/CONFIG.LOCAL",
        "data/.collect/chunks/0.parquet",
        "data/served/scores/day=2026-01-05/2026-01-05T120000Z.parquet",
        "data/.import.99999/before/telemetry/part-0.parquet",
    ],
)
def test_a_commit_has_nothing_where_this_machine_keeps_its_own(
    commit: Callable[[str, str], Revision], path: str
) -> None:
    made = commit(path, "x")
    with pytest.raises(UserError, match=rf"^{path} in commit {made.name}: .* no commit may have it"):
        check_places(made)
    with pytest.raises(UserError, match="in git's index"):
        check_places()


def test_the_review_checks_it_before_anything_else(commit: Callable[[str, str], Revision]) -> None:
    with pytest.raises(UserError, match="no commit may have it"):
        check(commit(".dvc/cache/crashcast-review/judged/0.json", "x"))  # it has no dvc.lock


def test_no_worktree_is_made_whose_settings_lead_elsewhere(
    commit: Callable[[str, str], Revision], tmp_path: Path, shell: Shell
) -> None:
    (tmp_path / ".dvc").symlink_to("elsewhere")
    made = commit("other", "x")
    shell("git add -f .dvc && git commit -q -m link")
    with worktree(made) as project:
        assert (project / "other").exists()
    with (
        pytest.raises(UserError, match=r"^\.dvc in commit"),
        worktree(Revision.find("HEAD")),
    ):
        pytest.fail("it was made")


def test_a_link_or_a_repository_in_such_a_place_is_refused(
    commit: Callable[[str, str], Revision], tmp_path: Path, shell: Shell
) -> None:
    (tmp_path / ".venv").symlink_to("elsewhere")
    (tmp_path / ".dvc").mkdir()
    shell("git init -q .dvc/cache && git -C .dvc/cache commit -q --allow-empty -m x && git add .dvc/cache .venv")
    with pytest.raises(UserError, match=r"^\.dvc/cache, \.venv in commit"):
        check_places(commit("other", "x"))


@pytest.mark.parametrize("path", [".dvc/config", ".dvc/.gitignore", "data/raw.dvc", "docs/.venv.md", ".dvcignore"])
def test_what_a_project_needs_is_no_such_place(commit: Callable[[str, str], Revision], path: str) -> None:
    check_places(commit(path, "x"))
    check_places()


def test_a_cache_that_came_with_a_commit_is_not_used_wherever_it_is(
    commit: Callable[[str, str], Revision], tmp_path: Path
) -> None:
    (tmp_path / ".dvc").mkdir()
    assert cache.shared_root() == tmp_path / ".dvc/cache"
    cache._configured.cache_clear()
    commit(".dvc/config", "[cache]\n    dir = ../kept\n")
    commit("kept/crashcast-memo/00/0.json", "{}")
    with pytest.raises(UserError, match=rf"^git tracks crashcast-memo/00/0.json in {tmp_path}/kept, DVC's cache"):
        cache.shared_root()


def test_what_the_review_keeps_lies_where_no_commit_can_write(
    commit: Callable[[str, str], Revision], tmp_path: Path
) -> None:
    commit("one", "x")
    assert cache.review_folder() == tmp_path / ".git/crashcast-review"
    forced = subprocess.run(
        ["git", "update-index", "--add", "--cacheinfo", f"100644,{'e' * 40},.git/crashcast-review/judged/0.json"],
        capture_output=True,
        text=True,
    )
    assert "Invalid path" in forced.stderr


def test_a_plain_configuration_is_allowed() -> None:
    check_settings(HONEST.encode())
    check_settings(Path(__file__).parents[3].joinpath(".dvc/config").read_bytes())
    check_settings(b"")


@pytest.mark.parametrize(
    ("section", "key", "name"),
    [
        ("'remote \"s3\"'", "profile", "remote.s3.profile"),
        ("'remote \"s3\"'", "configpath", "remote.s3.configpath"),
        ("'remote \"S3\"'", "CredentialPath", "remote.s3.credentialpath"),
        ("'remote \"s3\"'", "access_key_id", "remote.s3.access_key_id"),
        ("'remote \"s3\"'", "ssl_verify", "remote.s3.ssl_verify"),
        ("'remote \"other\"'", "bearer_token_command", "remote.other.bearer_token_command"),
        ("core", "site_cache_dir", "core.site_cache_dir"),
        ("hydra", "plugins_path", "hydra.plugins_path"),
        ("studio", "url", "studio.url"),
        ("state", "dir", "state.dir"),
    ],
)
def test_what_names_a_program_a_key_or_a_folder_is_refused(section: str, key: str, name: str) -> None:
    heading, setting = f"[{section}]\n", f"{key} = x\n"
    text = HONEST.replace(heading, heading + setting) if heading in HONEST else HONEST + heading + setting
    with pytest.raises(UserError, match=rf"^\.dvc/config sets {name}: .*--local"):
        check_settings(text.encode())


@pytest.mark.parametrize("text", ["a = 1", "[core]\n[[remote]]\na = 1", "[x", '[other "s3"]\nurl = x'])
def test_what_is_no_configuration_of_dvc_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^\.dvc/config (sets|cannot be read)"):
        check_settings(text.encode())


def test_a_challenger_that_changes_where_data_comes_from_is_refused_and_the_change_is_named(
    commit: Callable[[str, str], Revision],
) -> None:
    base = commit(".dvc/config", HONEST)
    check_same_settings(base, commit(".dvc/config", HONEST.replace("    ", "  ")))
    changed = HONEST.replace("s3://bucket/dvc", "s3://mine").replace("    verify = true\n", "    region = x\n")
    with pytest.raises(UserError) as told:
        check_same_settings(base, commit(".dvc/config", changed))
    assert str(told.value).splitlines()[1:4] == [
        "  remote.s3.region: not set -> x",
        "  remote.s3.url: s3://bucket/dvc -> s3://mine",
        "  remote.s3.verify: true -> not set",
    ]
    check_same_settings(commit("other", "x"), Revision.find("HEAD~1"))


def test_a_challenger_may_bring_another_page_of_plots(commit: Callable[[str, str], Revision]) -> None:
    base = commit(".dvc/config", HONEST)
    with_page = f"{HONEST}[plots]\n    html_template = plots/page.html\n"
    check_settings(with_page.encode())
    check_same_settings(base, commit(".dvc/config", with_page))
    with pytest.raises(UserError, match=r"sets plots\.out_dir"):
        check_settings(f"{with_page}    out_dir = x\n".encode())
    elsewhere = commit(".dvc/config", f"{with_page}    out_dir = ../..\n")
    with pytest.raises(UserError, match=r"plots\.out_dir: not set -> \.\./\.\.\n"):
        check_same_settings(base, elsewhere)


def test_a_section_that_is_written_twice_is_read_as_dvc_does(commit: Callable[[str, str], Revision]) -> None:
    base = commit(".dvc/config", HONEST)
    twice = (
        f"{HONEST}['REMOTE \"s3\"']\n    URL = s3://bucket/dvc\n"  # without the endpoint: from another owner's bucket
    )
    head = commit(".dvc/config", twice)
    assert Config.load_file(CONFIG)["remote"] == {"s3": {"url": "s3://bucket/dvc"}}
    with pytest.raises(UserError, match=r"remote\.s3\.endpointurl: http://127\.0\.0\.1:18333 -> not set\n"):
        check_same_settings(base, head)


def test_a_link_whose_target_reads_like_the_settings_is_none(
    commit: Callable[[str, str], Revision], shell: Shell
) -> None:
    base = commit(".dvc/config", HONEST)
    target = Path(".dvc", HONEST)  # each slash begins a folder
    target.parent.mkdir(parents=True)
    target.write_text(HONEST.replace("s3://bucket/", "s3://another/"))
    Path(CONFIG).unlink()
    Path(CONFIG).symlink_to(HONEST)
    shell("git add -A && git commit -q -m link")
    assert Config.load_file(CONFIG)["remote"]["s3"]["url"] == "s3://another/dvc"
    with pytest.raises(UserError, match=r"^\.dvc/config of commit \w+ is a symbolic link"):
        check_same_settings(base, Revision.find("HEAD"))
