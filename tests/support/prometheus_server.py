"""A real Prometheus, filled with back-dated samples by promtool, and a proxy in front of it that fails."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import Request, urlopen

import pytest
import requests

MISSING = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
needs_prometheus = pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed")
Series = dict[str, list[tuple[float, float]]]  # `metric{labels}`: (seconds, value)


@dataclass
class Prometheus:
    """A real server over a folder of blocks."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fill(self, series: Series, kinds: Mapping[str, str] = {}) -> None:
        """Write samples as blocks, as promtool does; a running server sees them when it starts again."""
        text = self.folder / "samples.om"
        with text.open("w") as file:
            for metric in sorted({name.partition("{")[0] for name in series}):
                family = metric.removesuffix("_total").removesuffix("_bucket")
                file.write(f"# TYPE {family} {kinds.get(family, 'gauge')}\n")
                for name, samples in series.items():
                    if name.partition("{")[0] == metric:
                        file.writelines(f"{name} {value!r} {moment:.3f}\n" for moment, value in samples)
            file.write("# EOF\n")
        command = ["promtool", "tsdb", "create-blocks-from", "--max-block-duration=744h", "openmetrics"]
        done = subprocess.run([*command, text, self.folder / "data"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        text.unlink()

    def start(self, *flags: str) -> None:
        (self.folder / "prometheus.yml").write_text("global: {}\n")
        command = [
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{self.port}",
            *flags,
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._is_ready():  # it listens before it has read its blocks
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).status_code != 503  # 401: it asks for a password
        except requests.RequestException:
            return False

    def stop(self, how: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None


@contextmanager
def servers(new_folder: Callable[[str], Path]) -> Iterator[Callable[[], Prometheus]]:
    """Give what makes servers, which end with the block."""
    made: list[Prometheus] = []

    def make() -> Prometheus:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            made.append(Prometheus(new_folder("prometheus"), probe.getsockname()[1]))
        return made[-1]

    try:
        yield make
    finally:
        for server in made:
            server.stop()


class Disturbing(BaseHTTPRequestHandler):
    """Pass requests on to a server, after `disturb` of their number, which answers for itself where it says so."""

    upstream: str
    disturb: Callable[[BaseHTTPRequestHandler, int], bool]
    requests = 0
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).requests += 1
        if type(self).disturb(self, type(self).requests):
            return
        try:
            request = Request(self.upstream + self.path, body, {"Content-Type": self.headers["Content-Type"]})
            with urlopen(request) as answer:
                status, content = answer.status, answer.read()
        except OSError:
            self.close_connection = True
            return
        self.answer(status, content)

    def answer(self, status: int, content: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None: ...


@contextmanager
def disturbed(upstream: str, disturb: Callable[[Disturbing, int], bool]) -> Iterator[tuple[str, type[Disturbing]]]:
    """Serve in front of a server; yields the address and the handler."""
    handler = type("Handler", (Disturbing,), {"upstream": upstream, "disturb": staticmethod(disturb)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}", handler
        proxy.shutdown()
