"""Pull requests by the APIs of GitHub and GitLab, played by a server with their answers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_sites import PROJECT, TOKEN, CodeSite, serving

from crashcast.errors import UserError
from crashcast.watch import pull_request
from crashcast.watch.pull_request import Site, find_site

BRANCH, ARGUMENTS = "crashcast/retrain", ("crashcast/retrain", "main", "A title")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_API_URL", "GITHUB_REPOSITORY", "CI_API_V4_URL", "CI_PROJECT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETRAIN_TOKEN", TOKEN)
    monkeypatch.setattr(pull_request, "WAIT_S", 0.01)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = f"git init -q -b {BRANCH} one && git -C one commit -q --allow-empty -m one && git clone -q --bare one two"
    subprocess.run(command, shell=True, cwd=folder, check=True)
    return folder / "two"


@pytest.fixture(params=["github", "gitlab"])
def served(repository: Path, request: pytest.FixtureRequest) -> Iterator[CodeSite]:
    with serving(repository, request.param) as site:
        yield site


@pytest.fixture
def site(served: CodeSite) -> Site:
    return find_site(f"git@git.example:{PROJECT}.git", served.api)


def test_a_request_is_opened_once_and_then_updated_for_another_commit(served: CodeSite, site: Site) -> None:
    assert site.newest(BRANCH, "main") is None
    first = site.propose(*ARGUMENTS, "Why: <one>", "<one>")
    assert (first.number, first.is_open, first.head) == (1, True, served.sha(served.requests[0]))
    assert first.url.endswith("/1")

    assert site.propose(*ARGUMENTS, "Other words: <one>", "<one>").number == 1
    assert served.requests[0]["text"] == "Why: <one>"
    assert site.propose(*ARGUMENTS, "Why: <two>", "<two>").number == 1
    assert served.requests[0]["text"] == "Why: <two>"
    written = [call.split()[0] for call in served.calls if not call.startswith("GET")]
    assert written == ["POST", {"github": "PATCH", "gitlab": "PUT"}[served.kind]]


def test_a_closed_request_is_known_and_another_one_opened(served: CodeSite, site: Site) -> None:
    site.propose(*ARGUMENTS, "<one>", "<one>")
    served.close(1)
    known = site.newest(BRANCH, "main")
    assert known is not None
    assert not known.is_open
    assert site.propose(*ARGUMENTS, "<two>", "<two>").number == 2
    served.requests.append({**served.requests[0], "number": 3})
    assert site.newest(BRANCH, "main").number == 2  # an open one comes before a newer one that was closed


def test_two_that_open_one_at_once_share_it(served: CodeSite, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.propose(*ARGUMENTS, "<one>", "<one>")
    answers = iter([None])
    newest = Site.newest
    monkeypatch.setattr(Site, "newest", lambda self, *where: next(answers, newest(self, *where)))
    assert site.propose(*ARGUMENTS, "<two>", "<two>").number == 1
    assert [request["text"] for request in served.requests] == ["<two>"]


def test_a_site_that_fails_is_asked_again_and_then_named(served: CodeSite, site: Site) -> None:
    served.down = True
    with pytest.raises(UserError, match=r"GET http://.* failed: 503 Service Unavailable: <html>"):
        site.newest(BRANCH, "main")
    assert len(served.calls) == pull_request.ATTEMPTS


def test_a_token_that_is_refused_is_said_at_once(served: CodeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TOKEN", "another")
    with pytest.raises(UserError, match=r"failed: 401 Unauthorized: .*Bad credentials"):
        find_site(f"git@git.example:{PROJECT}.git", served.api).newest(BRANCH, "main")
    assert len(served.calls) == 1


def test_a_forks_branch_of_that_name_is_another_one(repository: Path) -> None:
    with serving(repository, "gitlab") as served:
        site = find_site(f"git@git.example:{PROJECT}.git", served.api)
        site.propose(*ARGUMENTS, "<one>", "<one>")
        served.requests[0]["project"] = 6
        assert site.newest(BRANCH, "main") is None


@pytest.mark.parametrize(
    ("remote", "requests"),
    [
        ("git@github.com:team/fleet.git", "https://api.github.com/repos/team/fleet/pulls"),
        ("https://token:x@github.com/team/fleet", "https://api.github.com/repos/team/fleet/pulls"),
        ("ssh://git@github.example:2222/team/fleet.git", "https://github.example/api/v3/repos/team/fleet/pulls"),
        ("git@gitlab.com:a/b/fleet.git", "https://gitlab.com/api/v4/projects/a%2Fb%2Ffleet/merge_requests"),
        ("https://gitlab.example/a/fleet/", "https://gitlab.example/api/v4/projects/a%2Ffleet/merge_requests"),
    ],
)
def test_the_remotes_url_names_the_site(remote: str, requests: str) -> None:
    assert find_site(remote).requests == requests


def test_ci_names_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_API_URL", "https://git.example/api/v3")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    assert find_site("/local/path").requests == "https://git.example/api/v3/repos/a/b/pulls"


@pytest.mark.parametrize("remote", ["/srv/git/fleet.git", "https://me:secret@git.example/team/fleet.git"])
def test_a_remote_that_does_not_say_it_is_refused_without_its_password(remote: str) -> None:
    with pytest.raises(UserError, match=r"does not say on which site") as refused:
        find_site(remote)
    assert "secret" not in str(refused.value)


def test_it_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRAIN_TOKEN")
    with pytest.raises(UserError, match=r"RETRAIN_TOKEN is not set"):
        find_site("git@github.com:team/fleet.git")
