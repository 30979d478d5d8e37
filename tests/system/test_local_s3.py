"""The local S3 server: a real one, started, shared, stopped and killed."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from crashcast.errors import UserError
from crashcast.versioning import local_s3

CRASHCAST = Path(sys.executable).with_name("crashcast")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def client(environment: Mapping[str, str], **changes: str) -> Any:
    settings = environment | changes
    return Session().create_client(
        "s3",
        region_name=settings["AWS_DEFAULT_REGION"],
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def processes(store: Path) -> list[Path]:
    """Return the /proc folders of the keeper and the server of a store: they work in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink() == store:
                found.append(folder)
        except OSError:
            continue  # ended meanwhile, or another user's
    return found


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the command itself will use."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return local_s3.default_store()


@pytest.fixture
def start(store: Path, port: int) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start `crashcast s3` with a shell script as its command, and wait until that prints a line."""
    started = []

    def start(script: str) -> subprocess.Popen[str]:
        command = [CRASHCAST, "s3", "--port", str(port), "--", "sh", "-c", script]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_an_object_comes_back_as_it_was_put(s3: dict[str, str]) -> None:
    content = os.urandom(9_000_000)  # more than one chunk

    client(s3).put_object(Bucket="crashcast", Key="a/b", Body=content)

    assert client(s3).get_object(Bucket="crashcast", Key="a/b")["Body"].read() == content


@pytest.mark.parametrize(
    ("name", "code"), [("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"), ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId")]
)
def test_wrong_keys_are_refused(s3: dict[str, str], name: str, code: str) -> None:
    with pytest.raises(ClientError, match=code):
        client(s3, **{name: "guessed"}).list_objects_v2(Bucket="crashcast")


def test_no_keys_are_refused(s3: dict[str, str]) -> None:
    anonymous = Session().create_client(
        "s3", region_name="us-east-1", endpoint_url=s3["AWS_ENDPOINT_URL"], config=Config(signature_version=UNSIGNED)
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        anonymous.list_objects_v2(Bucket="crashcast")


def test_the_file_server_behind_it_lets_nobody_in(s3: dict[str, str]) -> None:
    client(s3).put_object(Bucket="crashcast", Key="secret", Body=b"1")
    filer = int(s3["AWS_ENDPOINT_URL"].rpartition(":")[2]) + 3

    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{filer}/buckets/crashcast/secret")


@pytest.mark.parametrize("service", local_s3.SERVICES)
def test_the_services_behind_it_call_each_other_and_nobody_else(s3: dict[str, str], service: str) -> None:
    first = int(s3["AWS_ENDPOINT_URL"].rpartition(":")[2])
    port = first + local_s3.SERVICES.index(service) + local_s3.GRPC_OFFSET
    store = Path(s3["AWS_CONFIG_FILE"]).parent
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # with empty settings
    own, stranger = (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2))
    own.load_cert_chain(store / local_s3.CERTIFICATE, store / local_s3.CERTIFICATE_KEY)

    def answer(context: ssl.SSLContext) -> bytes:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with socket.create_connection((local_s3.HOST, port), timeout=30) as plain, context.wrap_socket(plain) as tls:
            tls.sendall(hello)
            return tls.recv(9)

    assert answer(own)[3] == 4  # the settings of the server
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        answer(stranger)
    with socket.create_connection((local_s3.HOST, port), timeout=30) as plain, suppress(ConnectionError):
        plain.sendall(hello)
        assert plain.recv(9)[:1] in (b"", b"\x15")  # it closes, or alerts as TLS does


@linux
def test_it_listens_on_one_loopback_address_alone(s3: dict[str, str]) -> None:
    port = int(s3["AWS_ENDPOINT_URL"].rpartition(":")[2])
    for number in (*range(port, port + 5), *range(port + 10_000, port + 10_005)):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", number)) == 0
        with socket.socket() as probe:  # whoever listens on all addresses answers here too
            assert probe.connect_ex(("127.0.0.2", number)) != 0


@linux
def test_the_users_aws_settings_reach_neither_the_server_nor_its_clients(
    store: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "CONFIG_FILE", "ENDPOINT_URL_S3"):
        monkeypatch.setenv(f"AWS_{name}", "the-users-own")
    monkeypatch.setenv("SHELL", "kept")

    with local_s3.serving(store, port) as environment:
        environments = [(folder / "environ").read_text() for folder in processes(store)]

    assert "the-users-own" not in environment.values()
    assert environment["SHELL"] == "kept"
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        assert Path(environment[name]).read_text() == ""
    assert len(environments) == 2
    assert not any("the-users-own" in text for text in environments)


def test_a_proxy_is_not_asked_for_it(store: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "internal.example")

    with local_s3.serving(store, port) as environment:
        assert environment["no_proxy"] == environment["NO_PROXY"] == "internal.example,127.0.0.1"


def test_keys_are_random_kept_and_readable_by_their_owner_alone(tmp_path: Path, port: int) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with local_s3.serving(first, port) as one:
        pass
    with local_s3.serving(first, port) as again:
        client(again).list_objects_v2(Bucket="crashcast")
    with ExitStack() as stack:
        assert within(10, lambda: not local_s3._is_running(first))
        other = stack.enter_context(local_s3.serving(second, port))

    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert all(one[name] == again[name] != other[name] for name in names)
    for name in ("keys.json", local_s3.CERTIFICATE_KEY, "server.log"):
        assert (first / name).stat().st_mode & 0o077 == 0
    assert first.stat().st_mode & 0o777 == 0o700


def test_objects_outlive_the_server(store: Path, port: int) -> None:
    with local_s3.serving(store, port) as environment:
        client(environment).put_object(Bucket="crashcast", Key="a", Body=b"kept")
    assert within(10, lambda: not local_s3._is_running(store))
    assert [*local_s3.SOCKETS.glob(f"seaweedfs-*-{port + local_s3.GRPC_OFFSET}.sock")] == []

    with local_s3.serving(store, port) as environment:
        assert client(environment).get_object(Bucket="crashcast", Key="a")["Body"].read() == b"kept"


@linux
def test_a_second_user_shares_the_server_and_keeps_it_when_the_first_ends(store: Path, port: int) -> None:
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(local_s3.serving(store, port))
        started = processes(store)
        environment = second.enter_context(local_s3.serving(store, port))
        first.close()

        time.sleep(1)
        assert processes(store) == started
        client(environment).put_object(Bucket="crashcast", Key="a", Body=b"1")

        second.close()
        assert within(10, lambda: not processes(store))


@linux
def test_two_commands_that_start_at_once_share_one_server(store: Path, port: int) -> None:
    command = [CRASHCAST, "s3", "--port", str(port), "--", sys.executable, "-c", "import time; time.sleep({})"]
    running = [subprocess.Popen([*command[:-1], command[-1].format(seconds)]) for seconds in (1, 2)]

    assert within(30, lambda: len(processes(store)) == 2)
    assert [process.wait(60) for process in running] == [0, 0]
    assert within(10, lambda: not processes(store))


@pytest.mark.parametrize("offset", [0, 2, 10_000])
def test_a_port_that_another_program_holds_is_named_and_that_program_sent_nothing(
    store: Path, port: int, offset: int
) -> None:
    with socket.create_server(("127.0.0.1", port + offset)) as stranger:
        with (
            pytest.raises(UserError, match=f"port {port + offset} of 127.0.0.1.* belongs to another program"),
            local_s3.serving(store, port),
        ):
            pass
        stranger.settimeout(0.2)
        with pytest.raises(TimeoutError):
            stranger.accept()


def test_a_server_that_cannot_start_shows_its_log(store: Path, port: int) -> None:
    store.mkdir(parents=True)
    (store / "filerldb2").write_text("not a database")

    with pytest.raises(UserError, match=r"did not start; its log, .*/server.log, ends with(.|\n)*filerldb2"):
        local_s3.serving(store, port).__enter__()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, port: int) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match=r"cannot keep its data in .*/file/s3: Not a directory; XDG_DATA_HOME names"):
        local_s3.serving(tmp_path / "file" / "s3", port).__enter__()


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match="no home folder for the local S3 server's data: set XDG_DATA_HOME"):
        local_s3.default_store()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert local_s3.default_store() == tmp_path / "crashcast/s3"


def test_a_relative_data_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative")

    assert local_s3.default_store() == tmp_path / ".local/share/crashcast/s3"


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -KILL $$", 137), ("true", 0)])
def test_the_commands_exit_status_is_passed_on(script: str, status: int) -> None:
    assert local_s3.run(["sh", "-c", script], os.environ) == status


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="cannot run no-such-command: No such file"):
        local_s3.run(["no-such-command"], os.environ)


@linux
@pytest.mark.parametrize("to_group", [True, False], ids=["Ctrl-C in a terminal", "SIGTERM from a supervisor"])
def test_a_signal_is_the_commands_to_handle(
    store: Path, start: Callable[..., subprocess.Popen[str]], to_group: bool
) -> None:
    process = start("trap 'exit 5' INT TERM; echo ready; while :; do sleep 0.1; done")
    if to_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()

    assert process.wait(10) == 5
    assert within(10, lambda: not processes(store))


@linux
def test_kill_9_of_the_command_leaves_no_server(store: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("echo ready; exec sleep 60")
    assert len(processes(store)) == 2

    process.kill()

    assert within(10, lambda: not processes(store))


@linux
def test_kill_9_of_the_keeper_leaves_no_server(store: Path, port: int) -> None:
    with local_s3.serving(store, port) as environment:
        client(environment).put_object(Bucket="crashcast", Key="a", Body=b"kept")
        keeper = next(
            folder
            for folder in processes(store)
            if b"crashcast.versioning.local_s3" in (folder / "cmdline").read_bytes()
        )
        os.kill(int(keeper.name), signal.SIGKILL)
        assert within(10, lambda: not processes(store))

        with local_s3.serving(store, port) as environment:  # and the next user starts it again
            assert client(environment).get_object(Bucket="crashcast", Key="a")["Body"].read() == b"kept"


@linux
def test_alone_it_serves_until_ctrl_c(store: Path, port: int) -> None:
    process = subprocess.Popen([CRASHCAST, "s3", "--port", str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"S3 at http://127.0.0.1:{port}, bucket crashcast, stored in {store}\n"

    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 0
    assert within(10, lambda: not processes(store))
