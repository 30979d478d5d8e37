"""What comes in: locked by hashes, its licences, vulnerabilities and list. What must not go out: credentials."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from string import ascii_letters, ascii_uppercase, digits, hexdigits

import pytest
from dvc.config_schema import REMOTE_SCHEMAS
from license_expression import ExpressionError, Licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = ("operate", "notebooks", "cluster")
LOCKS = (
    "requirements-build.txt",
    "requirements.txt",
    *(f"requirements-{extra}.txt" for extra in EXTRAS),
    "requirements-dev.txt",
)
AIRFLOW = "deploy/airflow/requirements.txt"  # of an environment of its own
Shell = Callable[..., subprocess.CompletedProcess[str]]

# As packages call them: licences under which anybody may use, change and pass on the code, and, in the last row, those
# under which changes of that code itself stay open.
ALLOWED = {
    *("MIT", "MIT License", "MIT-0", "0BSD", "ISC License (ISCL)", "Zlib", "CC0-1.0"),
    *("BSD", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "PSF-2.0", "Python Software Foundation License"),
    *("Apache-2.0", "Apache License 2.0", "Apache Software License", "Apache Software License; BSD License"),
    "Zope Public License",
    *("MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)", "EPL-2.0"),
}
EXCEPTIONS = {
    "cleanlab": "Apache License Version 2.0, January 2004",  # and all of its text
    "grandalf": "GNU General Public License v2 (GPLv2)",  # or the Eclipse Public License, says its LICENSE
    "pygit2": "GPLv2 with linking exception",  # the exception is for programs that link to it, as DVC does
    "skops": "UNKNOWN",  # its LICENSE file is MIT's
}


def locked(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Return each requirement of a lock file and its hashes; whatever else the file says is not understood."""
    found = []
    for line in (ROOT / lock).read_text().replace("\\\n", "").splitlines():
        requirement, *hashes = line.split("--hash=")
        found.append((Requirement(requirement), [text.strip() for text in hashes]))
    return found


@pytest.mark.parametrize("lock", [*LOCKS, AIRFLOW])
def test_every_line_of_a_lock_is_one_version_known_by_its_hashes(lock: str) -> None:
    for requirement, hashes in locked(lock):
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), requirement


@pytest.mark.parametrize("lock", [*LOCKS, AIRFLOW])
def test_no_lock_says_where_packages_come_from(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text()  # an index of somebody's own, with a password in its URL
    assert not re.search(r"^\s*-(?!-hash)", (ROOT / lock).read_text(), flags=re.MULTILINE)


def test_the_locks_hold_what_the_project_declares_and_agree_with_each_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups, own = project["dependency-groups"], project["project"]
    extras = [[*own["dependencies"], *own["optional-dependencies"][extra]] for extra in EXTRAS]
    declarations = (groups["build"], own["dependencies"], *extras, groups["dev"])
    agreed: dict[str, set[str]] = {}
    for lock, declared in zip(LOCKS, declarations, strict=True):
        versions: dict[str, set[str]] = {}  # more than one where they differ between Pythons
        for requirement, _ in locked(lock):
            versions.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
        assert {canonicalize_name(Requirement(text).name) for text in declared} <= versions.keys()
        for name, found in versions.items():
            assert agreed.setdefault(name, found) == found, f"{name} in {lock}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with what the targets read, in the environment that runs the tests."""
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_each_dependency_has_a_licence_of_an_allowed_kind(project: Path, shell: Shell) -> None:
    listed = json.loads(shell("make --silent --old-file=dev licences ARGS=--format=json").stdout)
    licences = {canonicalize_name(entry["Name"]): entry["License"] for entry in listed}
    here = [requirement for requirement, _ in locked("requirements.txt")]
    names = {canonicalize_name(entry.name) for entry in here if not entry.marker or entry.marker.evaluate()}

    assert names <= licences.keys()  # more where a tool needs what the project needs on another system
    titles = {name: " ".join("\n".join(text.splitlines()[:2]).split()) for name, text in licences.items()}
    found = {name: titles[name] for name, text in licences.items() if not is_allowed(text)}
    assert found == EXCEPTIONS


def is_allowed(licence: str) -> bool:
    def holds(expression: object) -> bool:
        if arguments := getattr(expression, "args", ()):
            return (any if isinstance(expression, licensing.OR) else all)(map(holds, arguments))
        return str(expression) in ALLOWED

    licensing = Licensing()
    try:
        return licence in ALLOWED or holds(licensing.parse(licence))
    except ExpressionError:  # a classifier that is none of those allowed
        return False


def test_alternatives_and_additions_to_a_licence_are_told_apart() -> None:
    assert is_allowed("GPL-3.0-only OR MIT")
    assert is_allowed("MPL-2.0 AND (GPL-3.0-only OR MIT)")
    assert not is_allowed("GPL-3.0-only AND (Apache-2.0 OR MIT)")
    assert not is_allowed("AGPL-3.0-or-later")
    assert not is_allowed("Other/Proprietary License")


def test_the_bill_of_materials_is_what_is_locked_and_always_the_same(project: Path, shell: Shell) -> None:
    shell("make --old-file=dev sbom")
    first = (project / "reports/sbom.json").read_bytes()
    shell("rm -r reports && make --old-file=dev sbom ARGS=--no-validate")

    assert (project / "reports/sbom.json").read_bytes() == first
    bill = json.loads(first)
    assert bill["metadata"]["component"]["name"] == "crashcast"
    found = {
        (part["name"], f"=={part['version']}"): {
            f"sha256:{file['content']}" for source in part["externalReferences"] for file in source["hashes"]
        }
        for part in bill["components"]
    }
    assert found == {
        (requirement.name, str(requirement.specifier)): set(hashes)
        for requirement, hashes in locked("requirements.txt")
    }


@contextmanager
def vulnerabilities(answers: dict[str, list[object]]) -> Iterator[str]:
    """Serve a database of vulnerabilities by package in the way of OSV's; give its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": answers.get(asked["package"]["name"], [])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def test_the_audit_reports_a_known_vulnerability_and_never_a_database_it_cannot_ask(
    project: Path, shell: Shell
) -> None:
    version = {str(entry.specifier)[2:] for entry, _ in locked("requirements.txt") if entry.name == "dvc"}.pop()
    flaw = {
        "id": "PYSEC-0000-1",
        "affected": [
            {
                "package": {"name": "dvc", "ecosystem": "PyPI"},
                "versions": [version],
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999.1"}]}],
            }
        ],
    }

    def audit(url: str) -> subprocess.CompletedProcess[str]:
        return shell(f"make --old-file=dev audit ARGS=--osv-url={url}", check=False)

    with vulnerabilities({}) as url:
        clean = audit(url)
    with vulnerabilities({"dvc": [flaw]}) as url:
        flawed = audit(url)
    unreachable = audit(url)

    assert clean.returncode == 0, clean.stderr
    assert flawed.returncode != 0
    assert re.search(rf"dvc +{re.escape(version)} +PYSEC-0000-1 +999\.1", flawed.stdout)
    assert unreachable.returncode != 0
    assert "No known vulnerabilities" not in unreachable.stdout + unreachable.stderr


def random_text(length: int, letters: str = ascii_letters + digits) -> str:
    return "".join(Random(length).choices(letters, k=length))


def pem(kind: str, lines: int) -> str:
    body = "\n".join(random_text(64 + index)[index:] for index in range(lines))
    return f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"


def dvc_remote(option: str, value: str) -> str:
    return f"[core]\n    remote = s3\n['remote \"s3\"']\n    url = s3://ours/dvc\n    {option} = {value}\n"


KEY_ID = "AKIA" + random_text(16, ascii_uppercase + "234567")
SECRET = random_text(40, ascii_letters + digits + "+/")
HEX = random_text(64, hexdigits[:16])
CREDENTIALS = {
    "aws_key_id.py": f'client(aws_access_key_id="{KEY_ID}")',
    "aws_secret.py": f'client(aws_secret_access_key="{SECRET}")',
    "aws_secret.env": f"AWS_SECRET_ACCESS_KEY={SECRET}",
    "aws_session.env": f"export AWS_SESSION_TOKEN={random_text(300)}",
    "credentials": f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}",
    "keys.json": json.dumps({"access_key_id": "local-0", "secret_access_key": HEX}),  # a local S3 server's own
    "id_rsa": pem("RSA PRIVATE KEY", 25),
    "id_ed25519": pem("OPENSSH PRIVATE KEY", 5),
    "service_account.json": json.dumps({"type": "service_account", "private_key": pem("PRIVATE KEY", 25)}),
    "github.py": f'token = "ghp_{random_text(36)}"',
    "github.txt": f"github_pat_{random_text(22)}_{random_text(59)}",
    "gitlab.yaml": f"token: glpat-{random_text(20)}",
    "slack.txt": f"xoxb-{random_text(12, digits)}-{random_text(13, digits)}-{random_text(24)}",
    "pypirc": f"password = pypi-AgEIcHlwaS5vcmc{random_text(150)}",
    "pip.conf": f"[global]\nindex-url = https://someone:{random_text(16)}@packages.example.com/simple",
    "jwt.txt": ".".join(
        urlsafe_b64encode(part).decode().rstrip("=")
        for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"1234567890"}', SECRET.encode())
    ),
}


SCANNER = (
    str(Path(sys.prefix) / "bin/kingfisher"),
    "scan",
    "--config=.kingfisher/config.yaml",
    "--no-update-check",
)


@pytest.fixture
def repository(tmp_path: Path, shell: Shell) -> Path:
    """Return a repository with the project's configuration, hooks and no code."""
    for name in (".gitignore", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".kingfisher"):
        shell(f"cp -r {ROOT / name} {name}")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shell("echo .venv > .git-exclude && git init -q && git config core.excludesFile .git-exclude")
    shell("pre-commit install && git add -A && SKIP=lint git commit -q -m one")
    return tmp_path


def found_in(folder: Path, *arguments: str) -> set[str]:
    """Return the files in which credentials are found: those named, or all of the history."""
    command = [*SCANNER, *arguments, "--no-dedup", "--format=json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    findings = json.JSONDecoder().raw_decode(done.stdout)[0]["findings"]  # an account of the scan follows
    assert done.returncode == (200 if findings else 0), done.stderr
    return {Path(finding["finding"]["path"]).as_posix() for finding in findings}


def test_kinds_of_credentials_are_each_found(repository: Path) -> None:
    for name, text in CREDENTIALS.items():
        (repository / name).write_text(f"{text}\n")

    assert found_in(repository, *CREDENTIALS, "--git-history=none") == CREDENTIALS.keys()


def test_no_credential_of_any_kind_of_remote_passes_in_dvcs_configuration(repository: Path) -> None:
    options = {str(option) for schema in REMOTE_SCHEMAS.values() for option in schema}
    secret = {option for option in options if re.search("secret|pass|token|key$|key_id|connection_string", option)}
    harmless = {"sse_kms_key_id", "bearer_token_command", "ask_password", "ask_passphrase"}
    secret = {option for option in secret - harmless if not option.startswith("exclude_")}
    for option in secret | harmless:
        (repository / option).write_text(dvc_remote(option, "hunter2"))

    assert {"secret_access_key", "connection_string", "password"} <= secret
    assert found_in(repository, *secret, *harmless, "--git-history=none") == secret


def test_git_refuses_to_commit_one_and_the_history_shows_one_that_was_forced(repository: Path, shell: Shell) -> None:
    config = repository / ".dvc/config"
    before = config.read_text()
    config.write_text(f"{before}    secret_access_key = {SECRET}\n")
    refused = shell("SKIP=lint git commit -a -m two", check=False)

    assert refused.returncode != 0
    assert "Credential in .dvc/config, which belongs in .dvc/config.local" in refused.stdout + refused.stderr
    assert SECRET not in refused.stdout + refused.stderr
    assert shell("git log --oneline | wc -l").stdout.strip() == "1"

    shell("git commit -q -a -m two --no-verify")
    config.write_text(f"{before}    region = eu-central-1\n")
    shell("SKIP=lint git commit -q -a -m three")
    assert found_in(repository, ".", "--branch=HEAD") == {".dvc/config"}


def test_what_dvc_writes_with_local_is_not_gits(repository: Path, shell: Shell) -> None:
    shell("dvc remote modify --local s3 secret_access_key hunter2")

    assert "hunter2" in (repository / ".dvc/config.local").read_text()
    assert shell("git status --porcelain").stdout == ""
    assert shell("git add .dvc/config.local", check=False).returncode != 0


def test_this_repository_never_held_one() -> None:
    assert found_in(ROOT, ".", "--branch=HEAD") == set()


def test_the_hook_and_the_target_scan_as_these_tests_do() -> None:
    command = shlex.join([".venv/bin/kingfisher", *SCANNER[1:]])
    assert f"entry: {command} --git-history=none\n" in (ROOT / ".pre-commit-config.yaml").read_text()
    assert f"{command.replace('.venv/bin/', '$(BIN)')} . --branch=HEAD\n" in (ROOT / "Makefile").read_text()
