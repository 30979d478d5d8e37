"""A site with pull requests: what GitHub's and GitLab's REST APIs answer about one repository, with state.

Fields, statuses and messages are those of their documentation; fields that no client here reads are left out. The
commit of a branch is read from the git remote, as the sites do.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PROJECT, TOKEN = "team/fleet", "a-token"


@dataclass
class CodeSite:
    """The state of the site.

    Attributes
    ----------
    repository : Path
        The bare git repository.
    kind : str
        github or gitlab.
    api : str
        URL of the API.
    requests : list of dict
        `number`, `branch`, `base`, `title`, `text`, `state` (open, closed) and, once it is closed, `sha`.
    calls : list of str
        Methods and paths.
    down : bool
        Whether it answers 503.
    """

    repository: Path
    kind: str
    api: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    down: bool = False

    def close(self, number: int) -> None:
        """Close a request, as a person does."""
        request = self.requests[number - 1]
        request |= {"state": "closed", "sha": self.sha(request)}

    def sha(self, request: dict[str, Any]) -> str:
        """Return the newest commit that a request has."""
        asked = ["git", "-C", self.repository, "rev-parse", f"refs/heads/{request['branch']}"]
        return request.get("sha") or subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def github(self, method: str, path: str, query: dict[str, str], given: dict[str, Any]) -> tuple[int, object]:
        """Answer as GitHub does."""
        pulls = f"/repos/{PROJECT}/pulls"
        if method == "GET" and path == pulls:
            owner, _, branch = query["head"].partition(":")
            states = {"all": ("open", "closed")}.get(query.get("state", "open"), (query.get("state", "open"),))
            found = [one for one in self.of(branch, query["base"]) if owner == "team" and one["state"] in states]
            return 200, [self.pull(one) for one in found]
        if method == "POST" and path == pulls:
            if any(one["state"] == "open" for one in self.of(given["head"], given["base"])):
                message = f"A pull request already exists for team:{given['head']}."
                error = {"resource": "PullRequest", "code": "custom", "message": message}
                return 422, {"message": "Validation Failed", "errors": [error], "status": "422"}
            return 201, self.pull(self.add(given["head"], given["base"], given["title"], given["body"]))
        if method == "PATCH" and path.startswith(f"{pulls}/"):
            request = self.requests[int(path.rpartition("/")[2]) - 1]
            request |= {"title": given["title"], "text": given["body"]}
            return 200, self.pull(request)
        return 404, {"message": "Not Found", "status": "404"}

    def pull(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request in GitHub's form."""
        return {
            "number": request["number"],
            "html_url": f"https://github.example/{PROJECT}/pull/{request['number']}",
            "state": request["state"],
            "title": request["title"],
            "body": request["text"],
            "head": {"ref": request["branch"], "sha": self.sha(request)},
            "base": {"ref": request["base"]},
        }

    def gitlab(self, method: str, path: str, query: dict[str, str], given: dict[str, Any]) -> tuple[int, object]:
        """Answer as GitLab does."""
        merges = f"/api/v4/projects/{PROJECT.replace('/', '%2F')}/merge_requests"
        if method == "GET" and path == merges:
            return 200, [self.merge(one) for one in self.of(query["source_branch"], query["target_branch"])]
        if method == "POST" and path == merges:
            known = [one for one in self.of(given["source_branch"], given["target_branch"]) if one["state"] == "open"]
            if known:
                said = f"Another open merge request already exists for this source branch: !{known[0]['number']}"
                return 409, {"message": [said]}
            names = ("source_branch", "target_branch", "title", "description")
            return 201, self.merge(self.add(*(given[name] for name in names)))
        if method == "PUT" and path.startswith(f"{merges}/"):
            request = self.requests[int(path.rpartition("/")[2]) - 1]
            request |= {"title": given["title"], "text": given["description"]}
            return 200, self.merge(request)
        return 404, {"message": "404 Project Not Found"}

    def merge(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request in GitLab's form."""
        return {
            "iid": request["number"],
            "web_url": f"https://gitlab.example/{PROJECT}/-/merge_requests/{request['number']}",
            "state": {"open": "opened", "closed": "closed"}[request["state"]],
            "title": request["title"],
            "description": request["text"],
            "sha": self.sha(request),
            "source_branch": request["branch"],
            "target_branch": request["base"],
            "source_project_id": request.get("project", 5),
            "target_project_id": 5,
        }

    def of(self, branch: str, base: str) -> list[dict[str, Any]]:
        """Return the requests of a branch, the newest first."""
        return [one for one in reversed(self.requests) if (one["branch"], one["base"]) == (branch, base)]

    def add(self, branch: str, base: str, title: str, text: str) -> dict[str, Any]:
        """Open a request."""
        fields = {"branch": branch, "base": base, "title": title, "text": text, "state": "open"}
        self.requests.append({"number": len(self.requests) + 1, **fields})
        return self.requests[-1]


@contextmanager
def serving(repository: Path, kind: str = "github") -> Iterator[CodeSite]:
    """Serve the API of one of both sites for a bare repository."""
    site = CodeSite(repository, kind)
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            url = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            with one_at_a_time:
                site.calls.append(f"{self.command} {unquote(url.path)}")
                secret = {"github": ("Authorization", f"Bearer {TOKEN}"), "gitlab": ("PRIVATE-TOKEN", TOKEN)}[kind]
                if site.down:
                    status, told = 503, object()
                elif self.headers[secret[0]] != secret[1]:
                    status, told = 401, {"message": "Bad credentials"}
                else:
                    status, told = getattr(site, kind)(self.command, url.path, query, json.loads(content or b"{}"))
            body = b"<html>Service Unavailable</html>" if status == 503 else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.api = f"http://127.0.0.1:{server.server_port}" + ("/api/v4" if kind == "gitlab" else "")
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
