"""Pull requests of GitHub and merge requests of GitLab, by their REST APIs: find the newest of a branch, open, update.

Three calls of each site are needed. A library for each would bring more packages than there are lines here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from crashcast.errors import UserError
from crashcast.sources.http import in_short, with_headers, words_of

TOKEN = "RETRAIN_TOKEN"  # the environment variable
TIMEOUT_S = 30
ATTEMPTS, WAIT_S = 3, 1.0  # doubled after each
PASSING = {429, 500, 502, 503, 504}
REMOTE = re.compile(r"(?:\w+://)?(?:[^@/]+@)?(?P<host>[^:/]+)(?::\d+(?=/))?[:/]/*(?P<path>.+?)(?:\.git)?/*")
GITLAB_API, GITHUB_ENTERPRISE_API = "/api/v4", "/api/v3"


@dataclass(frozen=True)
class Request:
    """A pull request, or a merge request.

    Attributes
    ----------
    number : int
    url : str
        Of its page.
    head : str
        The newest commit that the site knows of its branch.
    is_open : bool
    text : str
    """

    number: int
    url: str
    head: str
    is_open: bool
    text: str


@dataclass(frozen=True)
class Site:
    """A repository on GitHub or GitLab.

    Attributes
    ----------
    requests : str
        URL of its pull requests.
    headers : Mapping of str to str
        With the token.
    of_branch : callable
        From a branch and the one it is to be merged into to the parameters of a list, the newest first.
    new : callable
        The same, to the fields of a new request.
    text, change : str
        The field with a request's text, and the HTTP method that changes it.
    exists : int
        The status of a second request for one branch.
    parsed : callable
        From a request as the site gives it; None if the branch is another repository's.
    """

    requests: str
    headers: Mapping[str, str]
    of_branch: Callable[[str, str], dict[str, str]]
    new: Callable[[str, str], dict[str, str]]
    text: str
    change: str
    exists: int
    parsed: Callable[[dict[str, Any]], Request | None]

    def newest(self, branch: str, main: str) -> Request | None:
        """Return the open request of a branch, else the newest closed one; None if it never had any."""
        answered = self._call("GET", self.requests, self.of_branch(branch, main))
        found = [one for one in map(self.parsed, answered) if one]
        return next((one for one in found if one.is_open), found[0] if found else None)

    def propose(self, branch: str, main: str, title: str, text: str, marker: str) -> Request:
        """Open a request, or give the open one a new title and text unless its text has the marker already."""
        known = self.newest(branch, main)
        if known is None or not known.is_open:
            fields = {**self.new(branch, main), "title": title, self.text: text}
            made = self._call("POST", self.requests, fields, expected=(201, self.exists))
            opened = self.parsed(made) if "title" in made else self.newest(branch, main)  # somebody was faster
            if opened is None or not opened.is_open:
                raise UserError(f"{self.requests}: no request can be opened for {branch}: {in_short(made)}")
            known = opened
        if marker not in known.text:
            self._call(self.change, f"{self.requests}/{known.number}", {"title": title, self.text: text})
        return known

    def _call(self, method: str, url: str, content: dict[str, str], expected: tuple[int, ...] = (200,)) -> Any:
        given = {"params": content} if method == "GET" else {"json": content}
        auth = with_headers(self.headers, TOKEN)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(WAIT_S * 2 ** (attempt - 1))
            try:
                answer = requests.request(method, url, **given, auth=auth, timeout=TIMEOUT_S, allow_redirects=False)  # type: ignore[arg-type]
                if answer.status_code in expected:
                    return answer.json()
                why = words_of(answer)
                if answer.status_code not in PASSING:
                    break
            except requests.RequestException as error:  # its message may hold what was sent
                why = type(error).__name__
        raise UserError(f"{method} {url} failed: {why}")


def find_site(remote_url: str, api: str | None = None) -> Site:
    """Return the repository that a git remote's URL names.

    Parameters
    ----------
    remote_url : str
        Such as git@github.com:team/fleet.git.
    api : str, optional
        URL of the site's API; one that ends in /api/v4 is GitLab's. By default that which GitHub's or GitLab's CI
        names, or that of the remote's host.

    Raises
    ------
    UserError
        If there is no token, or nothing says which site it is.
    """
    parts = REMOTE.fullmatch(remote_url)
    host, path = (parts["host"], parts["path"]) if parts else ("", "")
    path = os.environ.get("GITHUB_REPOSITORY") or os.environ.get("CI_PROJECT_PATH") or path
    api = api or os.environ.get("GITHUB_API_URL") or os.environ.get("CI_API_V4_URL") or _api_of(host)
    if not api or "/" not in path:
        raise UserError(
            f"the git remote {_without_password(remote_url)} does not say on which site pull requests are opened: name "
            "its API, such as --api https://git.example.com/api/v4 (GitLab) or .../api/v3 (GitHub)"
        )
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UserError(f"{TOKEN} is not set: a token that may open pull requests (docs/retraining.md)")
    return (_gitlab if api.rstrip("/").endswith(GITLAB_API) else _github)(api.rstrip("/"), path, token)


def _api_of(host: str) -> str | None:
    if host == "github.com":
        return "https://api.github.com"
    for name, api in (("gitlab", GITLAB_API), ("github", GITHUB_ENTERPRISE_API)):
        if name in host:
            return f"https://{host}{api}"
    return None


def _without_password(url: str) -> str:
    return url.replace(f"{urlsplit(url).netloc.rpartition('@')[0]}@", "") if "://" in url else url


def _github(api: str, path: str, token: str) -> Site:
    def parsed(given: dict[str, Any]) -> Request:
        is_open = given["state"] == "open"
        return Request(given["number"], given["html_url"], given["head"]["sha"], is_open, given["body"] or "")

    return Site(
        requests=f"{api}/repos/{path}/pulls",
        headers={"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"},
        of_branch=lambda branch, main: {
            **{"head": f"{path.partition('/')[0]}:{branch}", "base": main},
            **{"state": "all", "sort": "created", "direction": "desc"},
        },
        new=lambda branch, main: {"head": branch, "base": main},
        text="body",
        change="PATCH",
        exists=422,
        parsed=parsed,
    )


def _gitlab(api: str, path: str, token: str) -> Site:
    def parsed(given: dict[str, Any]) -> Request | None:
        if given["source_project_id"] != given["target_project_id"]:
            return None
        is_open = given["state"] == "opened"
        return Request(given["iid"], given["web_url"], given["sha"], is_open, given["description"] or "")

    return Site(
        requests=f"{api}/projects/{quote(path, safe='')}/merge_requests",
        headers={"PRIVATE-TOKEN": token},
        of_branch=lambda branch, main: {
            **{"source_branch": branch, "target_branch": main},
            **{"order_by": "created_at", "sort": "desc"},
        },
        new=lambda branch, main: {"source_branch": branch, "target_branch": main},
        text="description",
        change="PUT",
        exists=409,
        parsed=parsed,
    )
