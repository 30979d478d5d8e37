"""`crashcast collect` from a real Prometheus server, filled with back-dated samples by promtool, and from a real S3."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from ipaddress import IPv4Address
from itertools import cycle, pairwise
from pathlib import Path
from random import Random
from threading import Thread

import fsspec
import numpy as np
import polars as pl
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes as hashes_of
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_server import Disturbing, Prometheus, Series, disturbed, needs_prometheus, servers

from crashcast import cli, tables
from crashcast.sources.prometheus import client
from crashcast.versioning import local_s3

ROOT = Path(__file__).parents[2]
RAW = Path("data/raw")
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Prometheus]]:
    """Make servers that end with the tests."""
    with servers(tmp_path_factory.mktemp) as make:
        yield make


def fleet(days: int, hosts: Sequence[str] = "abc", scrape_s: int = 300) -> Series:
    """Return a gauge, a counter that starts again once, and a histogram of every host.

    The first is scraped on the hour, the second in between and silent for two hours, the third a millisecond after the
    hour until it dies on the last day; and so on.
    """
    draw, series = np.random.default_rng(1), Series()
    for host, phase_s in zip(hosts, cycle((0, 150, 0.001)), strict=False):
        moments = START.timestamp() - 3600 + phase_s + np.arange(0, days * 86400 + 3600, scrape_s)
        since_s = moments - START.timestamp()
        if phase_s == 150:
            moments = moments[(since_s <= 5 * 3600 + 1000) | (since_s > 7 * 3600 + 1300)]
        elif phase_s == 0.001:
            moments = moments[since_s < (days - 1) * 86400 + 10 * 3600 + 400]
        count = len(moments)
        labels = f'instance="{host}:9100",job="{"db" if phase_s == 0.001 else "web"}"'
        requests = 1000 + np.cumsum(draw.integers(0, 300, count))
        requests[count // 3 :] -= requests[count // 3] - 700
        in_bucket = 1000 + np.cumsum(draw.integers(0, 90, (count, 3)), axis=0)  # in (0, 0.1], (0.1, 0.5], above
        of_bound = zip(BOUNDS, np.cumsum(in_bucket, axis=1).T, strict=True)
        values = {f"load{{{labels}}}": draw.integers(0, 800, count) / 8, f"requests_total{{{labels}}}": requests}
        values |= {f'latency_seconds_bucket{{{labels},le="{bound}"}}': total for bound, total in of_bound}
        for name, column in values.items():
            series[name] = list(zip(moments.tolist(), column.astype(float).tolist(), strict=True))
    return series


BOUNDS = ("0.1", "0.5", "+Inf")
KINDS = {"requests": "counter", "latency_seconds": "histogram"}
QUERIES = {
    "load": {"last": "load"},
    "load_mean": {"mean": "load"},
    "load_min": {"min": "load{job=~'.+'}"},
    "load_max": {"max": "load"},
    "load_sum": {"sum": "load"},
    "requests": "rate(requests_total[$interval])",
    "latency_p90": "histogram_quantile(0.9, sum by (instance, job, le) (rate(latency_seconds_bucket[$interval])))",
}
AGGREGATES = {
    "load": lambda values: values[-1],
    "load_mean": np.mean,
    "load_min": min,
    "load_max": max,
    "load_sum": math.fsum,
}


def rate(samples: list[tuple[float, float]], start_s: float, end_s: float) -> float | None:
    """Return what Prometheus's rate() gives, from its source (promql/functions.go, extrapolatedRate)."""
    if len(samples) < 2:
        return None
    moments, values = zip(*samples, strict=True)
    rise = values[-1] - values[0] + sum(a for a, b in pairwise(values) if b < a)
    sampled_s = moments[-1] - moments[0]
    between_s = sampled_s / (len(samples) - 1)
    to_start_s, to_end_s = moments[0] - start_s, end_s - moments[-1]
    if rise > 0:
        to_start_s = min(to_start_s, sampled_s * values[0] / rise)
    edges_s = sum(edge if edge < 1.1 * between_s else between_s / 2 for edge in (to_start_s, to_end_s))
    return rise * (sampled_s + edges_s) / sampled_s / (end_s - start_s)


def quantile(share: float, rates: Mapping[str, float | None]) -> float | None:
    """Return what histogram_quantile() gives of buckets up to 0.1, 0.5 and infinity."""
    small, middle, total = (rates[bound] for bound in BOUNDS)
    if not total:
        return None
    rank = share * total
    if rank > middle:
        return 0.5
    below, start, end = (0.0, 0.0, 0.1) if rank <= small else (small, 0.1, 0.5)
    return start + (end - start) * (rank - below) / ((small if rank <= small else middle) - below)


def expected(series: Series, start: datetime, end: datetime) -> pl.DataFrame:
    """Compute every row from the samples in (t - 1h, t]."""
    own: dict[str, Series] = {}
    for name, samples in series.items():
        host = name.partition('"')[2].partition(":")[0]
        own.setdefault(host, {})[re.sub(r"{.*?(le=\"(.*)\")?}", r"\2", name)] = samples
    found = []
    for host, samples_of in own.items():
        for t in range(int(start.timestamp()), int(end.timestamp()), 3600):
            edges = {name: [bisect(s, (m, math.inf)) for m in (t - 3600, t)] for name, s in samples_of.items()}
            inside = {name: samples_of[name][first:last] for name, (first, last) in edges.items()}
            if inside["load"]:
                window = (t - 3600 + 0.001, t)  # Prometheus 2 includes both ends, so a millisecond is left out
                values = [value for _, value in inside["load"]]
                row = {"timestamp": datetime.fromtimestamp(t, UTC), "server_id": host}
                row |= {name: float(function(values)) for name, function in AGGREGATES.items()}
                rates = {bound: rate(inside[f"latency_seconds_bucket{bound}"], *window) for bound in BOUNDS}
                row |= {"requests": rate(inside["requests_total"], *window), "latency_p90": quantile(0.9, rates)}
                found.append(row)
    return pl.DataFrame(found).sort("timestamp", "server_id")


@pytest.fixture(scope="module")
def world(new_server: Callable[[], Prometheus]) -> tuple[Prometheus, Series]:
    """Return a running server with three days of three hosts, and what is in it."""
    server, series = new_server(), fleet(3)
    server.fill(series, KINDS)
    server.start()
    return server, series


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy it and make it the current folder; no login is set."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    for name in ("TOKEN", "USER", "PASSWORD", "CERT", "KEY", "CA"):
        monkeypatch.delenv(f"PROMETHEUS_{name}", raising=False)
    return folder


def configure(url: str, unit: str = "day", **changes: object) -> None:
    """Let params.yaml say where to collect what, in which partitions."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["collect"] |= {"url": url, "queries": QUERIES} | changes
    content["telemetry"]["partition"] = unit
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture
def crashcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return its exit status and all that it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crashcast", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capsys.readouterr()
        return int(exit_.value.code or 0), printed.out + printed.err

    return run


def hashes() -> dict[str, str]:
    """Return the hash of every file of raw data and its .dvc files."""
    members = [path for path in RAW.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in members}


def stored() -> pl.DataFrame:
    """Read all telemetry."""
    telemetry = RAW / "telemetry"
    return pl.concat([tables.read(partition.path(telemetry)) for partition in tables.partitions(telemetry)])


def collected(crashcast: Run, *arguments: object) -> str:
    """Collect and return what was said."""
    status, printed = crashcast("collect", *arguments)
    assert status == 0, printed
    return printed


def assert_same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    """Compare exactly, but for what takes arithmetic: that, to the last bit of 24."""
    assert found.select(*tables.KEYS).equals(wanted.select(*tables.KEYS).cast(tables.KEYS))
    for name in QUERIES:
        values, reference = found[name].to_numpy(), wanted[name].to_numpy().astype(np.float32)
        if name in ("load", "load_min", "load_max", "load_sum"):
            np.testing.assert_array_equal(values, reference, name)
        else:
            np.testing.assert_array_max_ulp(values, reference, 1)


SINCE, UNTIL = ("--since", "2026-01-01"), ("--until", "2026-01-04")


@pytest.fixture
def truth(world: tuple[Prometheus, Series], project: Path, crashcast: Run) -> dict[str, str]:
    """Return the hashes of an undisturbed collection, which is removed again."""
    configure(world[0].url)
    collected(crashcast, *SINCE, *UNTIL)
    found = hashes()
    shutil.rmtree("data")
    subprocess.run(["git", "checkout", "--quiet", "params.yaml"], check=True)
    return found


@needs_prometheus
def test_rows_are_what_the_samples_in_their_interval_give(
    world: tuple[Prometheus, Series], project: Path, crashcast: Run
) -> None:
    server, series = world
    configure(server.url)
    printed = collected(crashcast, *SINCE, *UNTIL)
    wanted = expected(series, START, START + timedelta(days=3))
    assert wanted.height == 3 * 72 - 12 - 1  # c died, b was silent for an interval: no row repeats an earlier sample
    assert_same(stored(), wanted)
    groups = tables.read(RAW / "coverage.parquet")
    assert dict(groups.select("server_id", "group").iter_rows()) == {"a": "web", "b": "web", "c": "db"}
    assert "there are no incidents yet" in printed
    assert "day=2026-01-02: 72 rows, 2026-01-02 00:00 to 2026-01-02 23:00" in printed
    assert not [path for path in Path("data/.collect").rglob("*") if path.suffix == ".parquet"]


@needs_prometheus
def test_only_closed_partitions_are_collected_unless_the_open_one_is_asked_for(
    world: tuple[Prometheus, Series], project: Path, crashcast: Run
) -> None:
    configure(world[0].url, "week")  # 2026-01-01 is in the week that begins on 2025-12-29
    status, printed = crashcast("collect", *SINCE, *UNTIL)
    assert (status, stored_names()) == (0, [])
    assert "Nothing to collect" in printed
    collected(crashcast, *SINCE, *UNTIL, "--open")
    assert stored_names() == ["week=2026-W01"]
    assert stored()["timestamp"].max() == START + timedelta(days=3)
    collected(crashcast, "--until", "2026-01-05")  # a collection of nothing new finds the same: c is dead by then
    assert stored_names() == ["week=2026-W01"]


def stored_names() -> list[str]:
    telemetry = RAW / "telemetry"
    return [partition.name for partition in tables.partitions(telemetry)] if telemetry.exists() else []


@needs_prometheus
def test_late_samples_are_collected_within_their_window(
    new_server: Callable[[], Prometheus], project: Path, crashcast: Run
) -> None:
    server, series = new_server(), fleet(4)
    late = {name: [s for s in samples if s[0] % 3600 == 600] for name, samples in series.items() if "a:9100" in name}
    early = {name: [s for s in samples if s not in set(late.get(name, []))] for name, samples in series.items()}
    server.fill(early, KINDS)
    server.start()
    configure(server.url, late_window="12h")
    collected(crashcast, *SINCE, "--until", "2026-01-03")
    before = stored()
    server.stop(signal.SIGTERM)
    server.fill(late, KINDS)
    server.start()

    printed = collected(crashcast, "--until", "2026-01-03")
    assert "day=2026-01-02: 39 rows, 2026-01-02 11:00 to 2026-01-02 23:00" in printed
    assert "day=2026-01-01" not in printed
    in_window = pl.col("timestamp") >= START + timedelta(days=1, hours=11)
    assert stored().filter(~in_window).equals(before.filter(~in_window))  # later than late
    assert_same(stored().filter(in_window), expected(series, START, START + timedelta(days=2)).filter(in_window))
    assert not stored().filter(in_window).equals(before.filter(in_window))

    once = hashes()
    collected(crashcast, "--until", "2026-01-03")
    assert hashes() == once
    printed = collected(crashcast, "--until", "2026-01-04")
    assert "day=2026-01-03: 72 rows" in printed
    assert {name: hash_ for name, hash_ in hashes().items() if name in once and "day=" in name}.items() <= once.items()
    collected(crashcast, "--until", "2026-01-04", *SINCE, "--again")
    assert_same(stored(), expected(series, START, START + timedelta(days=3)))


def fail_sometimes(handler: Disturbing, number: int) -> bool:
    """Fail two of three requests, in five ways."""
    match number % 8:
        case 1:
            handler.answer(503, b"Service Unavailable")
        case 2:
            handler.answer(429, b"slow down", Retry_After="1")
        case 3:
            handler.answer(200, b'{"status":"success","data":{"resultType":"matrix","resu', length=500)
            handler.close_connection = True
        case 4:
            handler.close_connection = True
        case 5:
            handler.answer(
                200, b'{"status":"success","warnings":["a store is away"],"data":{"resultType":"matrix","result":[]}}'
            )
        case _:
            return False
    return True


@needs_prometheus
def test_a_server_that_fails_now_and_then_gives_the_same_bytes(
    world: tuple[Prometheus, Series], truth: dict[str, str], crashcast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crashcast.sources.prometheus.client.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("crashcast.sources.prometheus.client.LONGEST_WAIT_S", 0.1)
    with disturbed(world[0].url, fail_sometimes) as (url, handler):
        configure(url)
        collected(crashcast, *SINCE, *UNTIL)
        assert handler.requests > 2 * 3 * len(QUERIES)
    assert hashes() == truth


@needs_prometheus
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_starts_again_in_the_middle_gives_the_same_bytes(
    world: tuple[Prometheus, Series], truth: dict[str, str], crashcast: Run, how: int
) -> None:
    server = world[0]

    def restart(handler: Disturbing, number: int) -> bool:
        if number == 9:
            server.stop(how)
            Thread(target=lambda: (time.sleep(0.5), server.start())).start()
        return False

    with disturbed(server.url, restart) as (url, handler):
        configure(url)
        collected(crashcast, *SINCE, *UNTIL)
        assert handler.requests > 3 * len(QUERIES) + 1
    assert hashes() == truth


def killed_and_done_again(kills: int, longest_s: float, arguments: Sequence[str]) -> int:
    """Kill a collection so many times, then let one finish; return how many were killed while they ran."""
    draw, killed = Random(1), 0
    for _ in range(kills):
        process = subprocess.Popen(["crashcast", "collect", *arguments], stdout=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.5, longest_s))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    done = subprocess.run(["crashcast", "collect", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return killed


@pytest.mark.ci  # kills
@needs_prometheus
def test_killed_at_random_moments_and_run_again_it_gives_the_same_bytes(
    world: tuple[Prometheus, Series], truth: dict[str, str]
) -> None:
    def slow(handler: Disturbing, number: int) -> bool:
        time.sleep(0.15)
        return False

    with disturbed(world[0].url, slow) as (url, _):
        configure(url)
        assert killed_and_done_again(4, 3.5, [*SINCE, *UNTIL]) >= 2
    assert hashes() == truth


@needs_prometheus
def test_a_run_after_a_killed_one_asks_only_for_what_is_missing_and_trusts_no_damaged_chunk(
    world: tuple[Prometheus, Series], truth: dict[str, str], crashcast: Run
) -> None:
    def die(handler: Disturbing, number: int) -> bool:
        if number > 11:
            handler.answer(400, b'{"status":"error","error":"no"}')
        return number > 11

    with disturbed(world[0].url, die) as (url, _):
        configure(url, parallel=1)
        status, printed = crashcast("collect", *SINCE, *UNTIL)
    assert status == 2
    assert "refuses" in printed
    assert not RAW.exists()
    chunks = sorted(Path("data/.collect/server").iterdir())
    assert len(chunks) == 10  # and one question after the server's kind
    chunks[0].write_bytes(chunks[0].read_bytes()[:-1])
    port = int(url.rpartition(":")[2])
    handler = type("Handler", (Disturbing,), {"upstream": world[0].url, "disturb": staticmethod(lambda *_: False)})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as proxy:
        Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        printed = collected(crashcast, *SINCE, *UNTIL)
        proxy.shutdown()
    assert f"9 of {3 * len(QUERIES)} chunks are there already" in printed
    assert handler.requests == 3 * len(QUERIES) - 9 + 1
    assert hashes() == truth


def certificate(folder: Path, name: str, issuer: str | None = None) -> None:
    """Write NAME.key and NAME.pem for 127.0.0.1, signed by ISSUER or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, signed_by = key, subject
    if issuer:
        signer = serialization.load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)
        signed_by = x509.load_pem_x509_certificate((folder / f"{issuer}.pem").read_bytes()).subject
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - HOUR)
        .not_valid_after(now + 24 * HOUR)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes_of.SHA256())
    )
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*pem))
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))


# of the password "test", from Prometheus's own documentation (https://prometheus.io/docs/guides/basic-auth/)
WEB = """
basic_auth_users: {reader: "$2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay"}
tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: authority.pem, client_auth_type: %s}
"""
LOGIN = {"USER": "reader", "PASSWORD": "test", "CA": "authority.pem", "CERT": "client.pem", "KEY": "client.key"}


@pytest.fixture(scope="module")
def guarded(new_server: Callable[[], Prometheus]) -> Prometheus:
    """Return a server that asks for a password and a client's certificate, over TLS."""
    server = new_server()
    server.fill({name: samples for name, samples in fleet(1).items() if name.startswith("load{")})
    for name, issuer in (("authority", None), ("stranger", None), ("server", "authority"), ("client", "authority")):
        certificate(server.folder, name, issuer)
    (server.folder / "web.yml").write_text(WEB % "RequireAndVerifyClientCert")
    server.start(f"--web.config.file={server.folder / 'web.yml'}")
    return server


@needs_prometheus
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"CA": None}, "no trusted connection"),
        ({"CA": "stranger.pem"}, "PROMETHEUS_CA names the authority of its certificate"),
        ({"CERT": None, "KEY": None}, "no trusted connection"),
        ({"CERT": "stranger.pem", "KEY": "stranger.key"}, "PROMETHEUS_CERT and PROMETHEUS_KEY yours"),
        ({"CA": "nowhere.pem"}, "PROMETHEUS_CA: there is no file"),
        ({"CERT": None}, "PROMETHEUS_KEY is set, but not PROMETHEUS_CERT"),
        ({"USER": None}, "refuses us (401 Unauthorized): set PROMETHEUS_TOKEN, PROMETHEUS_USER"),
        ({"PASSWORD": "guessed"}, "refuses us (401 Unauthorized)"),
        ({"TOKEN": "secret", "USER": None}, "refuses us (401 Unauthorized)"),
        ({"TOKEN": "secret"}, "PROMETHEUS_TOKEN and PROMETHEUS_USER are both set"),
    ],
)
def test_a_guarded_server_is_let_in_to_with_every_key_and_with_none_less(
    guarded: Prometheus,
    project: Path,
    crashcast: Run,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str | None],
    message: str | None,
) -> None:
    for name, value in (LOGIN | changes).items():
        if value is not None:
            path = str(guarded.folder / value)
            monkeypatch.setenv(f"PROMETHEUS_{name}", path if value.endswith((".pem", ".key")) else value)
    # a server that refuses a certificate may hang up before its reason is read: then it is asked again
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.05)
    configure(guarded.url.replace("http", "https"), queries={"load": {"last": "load"}})
    begun = time.monotonic()
    status, printed = crashcast("collect", *SINCE, "--until", "2026-01-02")
    if message is None:
        assert status == 0, printed
        assert stored().height == 24 + 23 + 12
    else:
        assert status == 2
        assert message in printed
        assert "secret" not in printed
        assert not RAW.exists()
        # no use in asking again, unless a busy server hung up without a word
        assert time.monotonic() - begun < 20 or "gives no answer" in printed


def test_a_password_does_not_travel_unencrypted(project: Path, crashcast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_TOKEN", "secret")
    configure("http://prometheus.example.com:9090")
    status, printed = crashcast("collect", *SINCE)
    assert status == 2
    assert "http://prometheus.example.com:9090 would carry a password unencrypted" in printed


def samples_of(day: int) -> pl.DataFrame:
    """Return a day of two servers."""
    moments = [datetime(2026, 1, day) + hour * HOUR for hour in range(24)]
    frame = pl.DataFrame({"timestamp": moments}).join(pl.DataFrame({"server_id": ["a", "b"]}), how="cross")
    return frame.with_columns(cpu_pct=pl.int_range(pl.len()) * 1.25, role=pl.lit("web"))


def test_a_prefix_of_s3_gives_what_a_folder_of_the_same_files_does(
    s3: dict[str, str], project: Path, crashcast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    Path("in/old").mkdir(parents=True)
    samples_of(1).write_parquet("in/old/one.parquet")
    samples_of(2).write_csv("in/two.csv")
    Path("in/README.txt").write_text("no samples")
    Path("incidents.csv").write_text("host,start\na,2026-01-01 05:30:00\n")
    bucket = fsspec.filesystem("s3", use_listings_cache=False)
    prefix = f"{local_s3.BUCKET}/collected"
    bucket.put("in/", f"{prefix}/", recursive=True)

    collected(crashcast, f"s3://{prefix}", "--incidents", "incidents.csv")
    once = hashes()
    assert stored().height == 2 * 48
    collected(crashcast, "in", "--incidents", "incidents.csv", "--replace")
    assert hashes() == once
    samples_of(3).write_csv("in/three.csv")
    bucket.put_file("in/three.csv", f"{prefix}/three.csv")
    printed = collected(crashcast, f"s3://{prefix}/three.csv")
    assert "48 rows added" in printed
    assert not list(Path("data/.collect").rglob("*.csv"))

    status, printed = crashcast("collect", f"s3://{prefix}/nowhere")
    assert status == 2
    assert f"s3://{prefix}/nowhere holds no telemetry" in printed
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    status, printed = crashcast("collect", f"s3://{prefix}")
    assert status == 2
    assert "cannot be read with the AWS settings of this shell" in printed


def test_a_server_that_is_not_there_is_not_waited_for_forever(
    project: Path, crashcast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crashcast.sources.prometheus.client.FIRST_PATIENCE_S", 0.5)
    configure("http://127.0.0.1:1")
    status, printed = crashcast("collect", *SINCE)
    assert status == 2
    assert "http://127.0.0.1:1 gives no answer: " in printed
    assert "Connection refused" in printed


@needs_prometheus
@pytest.mark.slow
def test_a_month_of_500_servers_is_exact_and_survives_ten_kills(
    new_server: Callable[[], Prometheus], project: Path, crashcast: Run
) -> None:
    server, series = new_server(), fleet(31, [f"s{number:03}" for number in range(500)], scrape_s=900)
    server.fill(series, KINDS)
    server.start()
    configure(server.url, "month")
    month = (*SINCE, "--until", "2026-02-01")
    begun = time.monotonic()
    print(collected(crashcast, *month))
    took_s = time.monotonic() - begun
    assert_same(stored(), expected(series, START, START + timedelta(days=31)))
    once = hashes()

    shutil.rmtree("data")
    subprocess.run(["git", "checkout", "--quiet", "params.yaml"], check=True)
    configure(server.url, "month")
    begun = time.monotonic()
    killed = killed_and_done_again(10, max(3, took_s / 5), month)  # what was collected stays: ten must not be enough
    print(f"collected in {took_s:.0f} s; {killed} kills and the run after them took {time.monotonic() - begun:.0f} s")
    assert killed == 10
    assert hashes() == once


def test_what_cannot_fit_is_told_before_anything_is_asked(project: Path, crashcast: Run) -> None:
    configure("http://127.0.0.1:1")  # where nobody answers
    status, printed = crashcast("collect")
    assert status == 2
    assert "say from when on, such as --since 2026-01-01" in printed
    samples_of(1).write_csv("samples.csv")
    collected(crashcast, "samples.csv")
    status, printed = crashcast("collect")
    assert status == 2
    assert "params.yaml: collect.queries has none for cpu_pct, which telemetry.metrics names" in printed
    status, printed = crashcast("collect", "samples.csv", "--open")
    assert status == 2
    assert "files are taken whole" in printed
    status, printed = crashcast("collect", "http://127.0.0.1:1")
    assert status == 2
    assert "a server's address is collect.url" in printed
    shutil.rmtree(RAW / "telemetry")
    status, printed = crashcast("collect")
    assert status == 2
    assert "`dvc pull` the earlier import" in printed


@needs_prometheus
def test_a_metric_that_the_first_collection_did_not_find_is_not_asked_for_again(
    world: tuple[Prometheus, Series], project: Path, crashcast: Run
) -> None:
    queries = {"load": {"last": "load"}, "gpu": {"last": "gpu"}}
    configure(world[0].url, queries=queries)
    printed = collected(crashcast, *SINCE, "--until", "2026-01-02")
    assert "column 'gpu' left out: empty" in printed
    printed = collected(crashcast, "--until", "2026-01-03")
    assert "gpu was not asked for" in printed
    assert stored().columns == ["timestamp", "server_id", "load"]
    configure(world[0].url, queries={"gpu": {"last": "gpu"}})
    status, printed = crashcast("collect", *SINCE, "--until", "2026-01-02", "--replace")
    assert status == 2
    assert "has no samples for collect.queries in day=2026-01-01: are its metrics named so?" in printed
    assert stored().height == 24 + 23 + 24 + 24 + 24 + 24
