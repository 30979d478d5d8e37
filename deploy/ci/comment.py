"""Post a review under its pull request on GitHub, or merge request on GitLab; the next review replaces it.

    python3 deploy/ci/comment.py reports/review/comment.md

Needs only Python, so that the job that may write comments runs no other code. If the review left no file, it ended in
an error, and the comment says so: an old ACCEPT must not stay under new commits.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "<!-- crashcast review -->"  # identifies the review's comment, among those of the token's own account
ACTIONS_BOT = "github-actions[bot]"  # the account of the token that GitHub gives to a job
FORBIDDEN = 403
LONGEST = 60_000  # characters; GitHub takes 65,536
PER_PAGE = 100  # the maximum of both sites
TIMEOUT_S = 30


@dataclass(frozen=True)
class Site:
    """A site's comments: how to list, add and replace them, and by whom they are."""

    account: str  # URL of the token's own account
    author: tuple[str, str]  # keys of a comment's author, and of the name in it
    comments: str  # URL
    one: str  # URL, less the comment's id
    replace: str  # HTTP method
    headers: dict[str, str]
    log: str  # URL of this run


def main(markdown: Path) -> None:
    """Post the comment, or replace the earlier one."""
    site = _github() if "GITHUB_ACTIONS" in os.environ else _gitlab()
    text = {"body": _body(markdown, site.log)}
    ours = _own_name(site)
    earlier = next((one["id"] for one in _comments(site) if _is_review(one, site, ours)), None)
    if earlier is None:
        _call(site, "POST", site.comments, text)
    else:
        _call(site, site.replace, f"{site.one}/{earlier}", text)


def _github() -> Site:
    api, repository = os.environ["GITHUB_API_URL"], os.environ["GITHUB_REPOSITORY"]
    return Site(
        f"{api}/user",
        ("user", "login"),
        f"{api}/repos/{repository}/issues/{os.environ['PULL_REQUEST']}/comments",
        f"{api}/repos/{repository}/issues/comments",
        "PATCH",
        {"Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}", "Accept": "application/vnd.github+json"},
        f"{os.environ['GITHUB_SERVER_URL']}/{repository}/actions/runs/{os.environ['GITHUB_RUN_ID']}",
    )


def _gitlab() -> Site:
    if not os.environ.get("REVIEW_TOKEN"):
        sys.exit("REVIEW_TOKEN is not set: a project access token with the scope `api` (docs/review-in-ci.md)")
    project = f"{os.environ['CI_API_V4_URL']}/projects/{os.environ['CI_PROJECT_ID']}"
    notes = f"{project}/merge_requests/{os.environ['CI_MERGE_REQUEST_IID']}/notes"
    return Site(
        f"{os.environ['CI_API_V4_URL']}/user",
        ("author", "username"),
        notes,
        notes,
        "PUT",
        {"PRIVATE-TOKEN": os.environ["REVIEW_TOKEN"]},
        os.environ["CI_PIPELINE_URL"],
    )


def _body(markdown: Path, log: str) -> str:
    if markdown.exists():
        text = markdown.read_text(encoding="utf-8")
    else:
        text = "**ERROR**: this review came to no verdict. The log says why."
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n\n(The rest is on the page.)"
    page = os.environ.get("PAGE")
    links = f"[page]({page}) · [log]({log})" if page else f"[log and page]({log})"
    return f"{MARKER}\n{text.replace(MARKER, '').strip()}\n\n{os.environ['HEAD'][:10]} · {links}\n"


def _own_name(site: Site) -> str:
    found = _call(site, "GET", site.account, unless=FORBIDDEN)
    return ACTIONS_BOT if found is None else found[site.author[1]]  # that token may not ask whose it is


def _is_review(comment: dict[str, Any], site: Site, ours: str) -> bool:
    """Tell whether a comment is ours: anybody can write the marker."""
    whose, name = site.author
    return comment["body"].startswith(MARKER) and (comment.get(whose) or {}).get(name) == ours


def _comments(site: Site) -> Iterator[dict[str, Any]]:
    page, found = 0, PER_PAGE
    while found == PER_PAGE:
        page += 1
        comments = _call(site, "GET", f"{site.comments}?per_page={PER_PAGE}&page={page}")
        found = len(comments)
        yield from comments


def _call(site: Site, method: str, url: str, content: dict[str, str] | None = None, unless: int | None = None) -> Any:
    """Return the answer, None if its status is `unless`; end if it is another error."""
    data = json.dumps(content).encode() if content else None
    headers = site.headers | {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == unless:
            return None
        sys.exit(f"{method} {url}: {error.code} {error.read().decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{method} {url}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
