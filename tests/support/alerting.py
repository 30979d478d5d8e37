"""The programs that alert: Prometheus, Alertmanager and a pager's webhook, each a real one on a free port."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

PATIENCE_S = 60


def needs(*programs: str) -> pytest.MarkDecorator:
    """Return the mark of tests that are skipped if one of these programs is not installed."""
    return pytest.mark.skipif(
        any(shutil.which(program) is None for program in programs),
        reason=f"one of {', '.join(programs)} is not installed (Debian has a package of each name)",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def pager() -> Iterator[SimpleNamespace]:
    """Receive Alertmanager's notifications, as a pager does: its `url`, and the `notifications` and their `alerts`."""
    notifications: list[dict[str, Any]] = []
    alerts: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notifications.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            alerts.extend(notifications[-1]["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(notifications=notifications, alerts=alerts, url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def start(stack: ExitStack, folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a program in a folder; it is killed at the end of the stack, unless it was before."""
    log = stack.enter_context((folder / f"{command[0]}.log").open("ab"))
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def start_alertmanager(stack: ExitStack, folder: Path, port: int, *cluster: int) -> subprocess.Popen[bytes]:
    """Start Alertmanager with `alertmanager.yml` of the folder; in a cluster on its own port and those of its peers."""
    own, *peers = (f"127.0.0.1:{one}" for one in cluster) if cluster else [""]
    options = ["--cluster.peer-timeout=1s", *(f"--cluster.peer={peer}" for peer in peers)] if cluster else []
    return start(
        stack, folder, "prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=alerts",
        f"--web.listen-address=127.0.0.1:{port}", f"--cluster.listen-address={own}", *options,
    )  # fmt: skip


def start_prometheus(stack: ExitStack, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start Prometheus with `prometheus.yml` of the folder."""
    return start(
        stack, folder, "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=series",
        f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip


def ask(port: int, query: str) -> list[float]:
    """Return the values that a Prometheus has now; none while it is away or starts."""
    try:
        answer = requests.get(f"http://127.0.0.1:{port}/api/v1/query", {"query": query}, timeout=10).json()
        return [float(one["value"][1]) for one in answer["data"]["result"]]
    except requests.RequestException:
        return []


def wait_for(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Return whether a condition came true in time."""
    deadline = time.monotonic() + patience_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()
