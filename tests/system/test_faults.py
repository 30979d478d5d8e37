"""Push, pull and doctor behind a network and a server that fail: a proxy before the real S3 server does it wrong.

Whatever goes wrong, no command may call wrong data right, and the same command without faults puts everything right.
The commands are those that the Makefile's targets run.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from botocore.session import Session

pytestmark = pytest.mark.ci

ROOT = Path(__file__).parents[2]
BUCKET, REPAIR = "faults", " --repair"
READ_TIMEOUT_S = 5
HANG_S = 6.0
FAULTS = ("reset", "timeout", "storm", "slow", "truncated", "wrong", "expired")
COMMANDS = ("push", "pull", "doctor")
SHARES = (0.1, 0.3, 0.6)  # of the requests go wrong
STORM = (
    (500, "InternalError", "We encountered an internal error. Please try again."),
    (503, "SlowDown", "Please reduce your request rate."),
)
EXPIRED = (403, "ExpiredToken", "The provided token has expired.")
Shell = Callable[..., subprocess.CompletedProcess[str]]
numbers = count()


class FaultyS3(ThreadingHTTPServer):
    """An HTTP proxy that passes requests on to an S3 server, and some of them wrongly.

    Which ones, and how, depends on the seed, and on what is asked for and how often it was before: so it is the same in
    every run of a command, however its requests overlap.
    """

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.upstream = server.removeprefix("http://")
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.behave()

    def behave(self) -> None:
        """Pass on everything as it is."""
        self.fault = ""

    def misbehave(self, fault: str, seed: int) -> None:
        """Let a share of the requests go wrong, and one of the first ones in any case."""
        self.seed, self.asked, self.injected = seed, Counter[str](), 0
        draw = Random(f"{fault} {seed}")
        self.share, self.first = SHARES[seed % len(SHARES)], draw.randrange(1, 7)
        if fault == "timeout":
            self.share /= 5  # each takes seconds
        self.fault = fault

    def draw(self, request: str) -> Random | None:
        """Return the dice for what goes wrong with a request; None where nothing does."""
        if not self.fault:
            return None
        self.asked[request] += 1
        dice = Random(f"{self.fault} {self.seed} {request} {self.asked[request]}")
        if dice.random() < self.share or self.asked.total() == self.first:
            self.injected += 1
            return dice
        return None


class Exchange(BaseHTTPRequestHandler):
    """A request and its answer."""

    protocol_version = "HTTP/1.1"
    server: FaultyS3

    def answer(self) -> None:
        """Pass the request on, and the answer back."""
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        dice = self.server.draw(f"{self.command} {self.path}")
        fault = self.server.fault if dice else ""
        if dice is None or not fault:
            return self._send(*self._ask(sent))
        if fault == "storm":
            return self._refuse(*dice.choice(STORM))
        if fault == "expired":
            return self._refuse(*EXPIRED)
        moment = dice.choice(("before", "after", "midway"))
        if fault in ("reset", "timeout") and moment == "before":  # the server never hears of it
            return self._break_off(fault)
        if fault in ("truncated", "wrong") and sent:
            return self._send(*self._ask(damaged(sent, fault, dice)))
        status, headers, content = self._ask(sent)
        if fault in ("reset", "timeout"):  # the server has done it, the client does not know
            if moment == "midway":
                self._send(status, headers, content, content[: len(content) // 2])
            return self._break_off(fault)
        if fault == "slow":
            return self._send(status, headers, content, is_slow=True)
        part = damaged(content, fault, dice)
        if fault == "truncated" and dice.random() < 0.5:  # the connection ends early
            self._send(status, headers, content, part)
            return self._break_off("reset")
        return self._send(status, headers, content if self.command == "HEAD" else part)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _ask(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(self.server.upstream, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        hop = ("connection", "expect", "content-length")
        for name, value in self.headers.items():
            if name.lower() not in hop:
                connection.putheader(name, value)  # Host too: it is signed
        if sent or "Content-Length" in self.headers:
            connection.putheader("Content-Length", str(len(sent)))
        connection.endheaders(sent)
        answer = connection.getresponse()
        content = answer.read()
        hop = ("connection", "transfer-encoding", "keep-alive")
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in hop}
        connection.close()
        return answer.status, headers, content

    def _send(
        self, status: int, headers: dict[str, str], content: bytes, part: bytes | None = None, is_slow: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        left = content if part is None else part
        while is_slow and left:
            self.wfile.write(left[: len(content) // 5 + 1])
            left = left[len(content) // 5 + 1 :]
            time.sleep(0.1)
        self.wfile.write(left)

    def _refuse(self, status: int, code: str, message: str) -> None:
        said = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
        self._send(status, {"Content-Type": "application/xml"}, b"" if self.command == "HEAD" else said.encode())

    def _break_off(self, fault: str) -> None:
        if fault == "timeout":
            time.sleep(HANG_S)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
        self.connection.close()
        self.close_connection = True


def damaged(content: bytes, fault: str, dice: Random) -> bytes:
    """Cut content short, or alter one byte: a letter for a letter, so that lists and XML can still be read."""
    if not content:
        return content
    at = dice.randrange(len(content))
    if fault == "truncated":
        return content[:at]
    kin = next((kin for kin in (b"0123456789abcdef", b"ghijklmnopqrstuvwxyz") if content[at] in kin), bytes(range(256)))
    return content[:at] + bytes([dice.choice([byte for byte in kin if byte != content[at]])]) + content[at + 1 :]


@pytest.fixture(scope="module")
def proxy(s3: dict[str, str]) -> Iterator[FaultyS3]:
    with FaultyS3(s3["AWS_ENDPOINT_URL"]) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.fixture(scope="module")
def client(s3: dict[str, str]) -> Any:
    """Return a client of the S3 server itself."""
    made = Session().create_client(
        "s3",
        region_name=s3["AWS_DEFAULT_REGION"],
        endpoint_url=s3["AWS_ENDPOINT_URL"],
        aws_access_key_id=s3["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3["AWS_SECRET_ACCESS_KEY"],
    )
    made.create_bucket(Bucket=BUCKET)
    return made


@pytest.fixture(scope="module")
def template(data_project: Path, proxy: FaultyS3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a folder of files in folders and a file, whose remote is behind the proxy."""
    here = tmp_path_factory.mktemp("template") / "project"
    shutil.copytree(data_project, here, symlinks=True, ignore=shutil.ignore_patterns("cache"))
    for month in range(1, 4):
        (here / f"data/raw/telemetry/month={month}").mkdir()
        (here / f"data/raw/telemetry/month={month}/part").write_text(f"month {month}\n" * 10_000)
    (here / "data/raw/incidents").write_text("an incident\n" * 100)
    config = f"endpointurl = {proxy.url}\nread_timeout = {READ_TIMEOUT_S}\nconnect_timeout = {READ_TIMEOUT_S}\n"
    (here / ".dvc/config.local").write_text(f"['remote \"s3\"']\n{config}")
    command = "dvc add -q data/raw/telemetry data/raw/incidents && git add -A && git commit -q -m one"
    subprocess.run(command, shell=True, cwd=here, check=True)
    return here


class Place:
    """A copy of the project with its own place on the remote, and what should lie where."""

    def __init__(self, project: Path, client: Any) -> None:
        self.project, self.client, self.prefix = project, client, f"p{next(numbers)}"
        config = project / ".dvc/config.local"
        config.write_text(f"{config.read_text()}url = s3://{BUCKET}/{self.prefix}\n")
        self.files = {path: path.read_bytes() for path in files(project / "data")}
        cached = files(project / ".dvc/cache/files/md5")
        self.objects = {path.parent.name + path.name: path.read_bytes() for path in cached}

    def key(self, md5: str) -> str:
        return f"{self.prefix}/files/md5/{md5[:2]}/{md5[2:]}"

    def put(self, md5: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=self.key(md5), Body=content)

    def put_all(self) -> None:
        for md5, content in self.objects.items():
            self.put(md5, content)

    def damage(self, dice: Random) -> str:
        """Cut short, alter or remove one object of the remote, and return which."""
        md5 = dice.choice(sorted(self.objects))
        how = dice.choice(("truncated", "wrong", "missing"))
        if how == "missing":
            self.client.delete_object(Bucket=BUCKET, Key=self.key(md5))
        else:
            self.put(md5, damaged(self.objects[md5], how, dice))
        return md5

    def lose_data(self) -> None:
        """Be a fresh clone."""
        shutil.rmtree(self.project / ".dvc/cache")
        shutil.rmtree(self.project / "data/raw/telemetry")
        (self.project / "data/raw/incidents").unlink()

    def wrong(self) -> list[str]:
        """Name what is not as it should be: keys of the remote, files of the cache and of the work tree."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.prefix}/files/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        stored = {key: self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}
        cache = self.project / ".dvc/cache/files/md5"
        cached = {path: hashlib.md5(path.read_bytes()).hexdigest() for path in files(cache)}
        return [
            *differences({self.key(md5): content for md5, content in self.objects.items()}, stored),
            *(str(path) for path, md5 in cached.items() if path.parent.name + path.stem != md5),
            *differences(self.files, {path: path.read_bytes() for path in files(self.project / "data")}),
        ]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def differences(expected: dict[Any, bytes], found: dict[Any, bytes]) -> list[str]:
    return [str(name) for name in expected.keys() | found if expected.get(name) != found.get(name)]


@pytest.fixture
def place(template: Path, tmp_path: Path, client: Any, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    subprocess.run(["cp", "-a", template, tmp_path / "project"], check=True)  # links stay links
    return Place(tmp_path / "project", client)


def what_make_runs(target: str) -> str:
    """Return what the Makefile runs beside an S3 server for a target."""
    command = ["make", "--dry-run", "--old-file=env", target]
    shown = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return shown.partition(" -- ")[2].partition(" || ")[0].strip()


QUICK = {(fault, command) for fault in ("reset", "truncated", "wrong") for command in COMMANDS} | {
    ("timeout", "pull"), ("storm", "push"), ("expired", "pull"),
}  # fmt: skip
SEEDS = 10


@pytest.mark.parametrize(
    ("fault", "command", "seed"),
    [
        pytest.param(fault, command, seed, marks=() if seed == 1 and (fault, command) in QUICK else pytest.mark.slow)
        for fault in FAULTS
        for command in COMMANDS
        for seed in range(SEEDS)
    ],
)
def test_no_fault_makes_wrong_data_pass_for_right(
    place: Place, proxy: FaultyS3, shell: Shell, fault: str, command: str, seed: int
) -> None:
    line = what_make_runs(command)
    if command != "push":
        place.put_all()
    if command == "pull":
        place.lose_data()
    if command == "doctor":
        dice = Random(f"{fault} {seed}")
        place.damage(dice)
        line += " --only bucket --only remote --only cache" + dice.choice(("", " --deep")) + dice.choice(("", REPAIR))

    proxy.misbehave(fault, seed)
    done = shell(line, cwd=place.project, check=False)
    proxy.behave()

    assert proxy.injected
    assert done.returncode or not place.wrong(), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    again = shell(line if command != "doctor" or REPAIR in line else line + REPAIR, cwd=place.project, check=False)
    assert (again.returncode, place.wrong()) == (0, []), again.stdout + again.stderr
