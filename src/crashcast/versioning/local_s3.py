"""An S3 server on this machine: DVC's remote until a team points it at a bucket of its own.

The first user of a store starts its server, later ones share it. It stops when the last one has ended, also if that was
killed.
Two locks see to that, which the kernel drops when their holder dies:

- `users.lock` is held shared by every user. A keeper process waits for the exclusive lock, so it gets it when nobody is
  left, and stops the server while newcomers wait.
- `server.lock` is held exclusively by the keeper. A port that answers while nobody holds it is a stranger's, and is
  sent nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from crashcast.errors import UserError
from crashcast.files import link

HOST = "127.0.0.1"
PORT = 18333  # .dvc/config names it
BUCKET = "crashcast"
READY = ".ready"  # an object that shows that objects can be read
SERVICES = ("s3", "master", "volume", "filer", "admin")  # on PORT, PORT + 1, ...
GRPC_OFFSET = 10_000  # each service also listens here
PORTS_TIMEOUT_S = 1.0  # a server that was just killed leaves its ports in a moment
READY_TIMEOUT_S = 60.0  # takes half a second on a quiet machine
STOP_TIMEOUT_S = 10.0
MEMORY_LIMIT = "1GiB"
JWT_KEYS = ("SIGNING_KEY", "SIGNING_READ_KEY", "FILER_SIGNING_KEY", "FILER_SIGNING_READ_KEY")
GRPC_PEERS = ("MASTER", "VOLUME", "FILER", "S3", "CLIENT", "ADMIN", "WORKER")
CERTIFICATE, CERTIFICATE_KEY = "grpc.crt", "grpc.key"  # in the store
CERTIFICATE_DAYS = 3650  # a server seldom runs so long; each start makes a new one
SOCKETS = Path("/tmp")  # SeaweedFS puts them there, whatever the environment says


def default_store() -> Path:
    """Return the folder of this user's server: outside any clone, so that clones share it."""
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))  # its standard: if it is not absolute, ignore it
    try:
        return (data_home if data_home.is_absolute() else Path.home() / ".local/share") / "crashcast/s3"
    except RuntimeError:
        raise UserError("this user has no home folder for the local S3 server's data: set XDG_DATA_HOME") from None


def endpoint(port: int = PORT) -> str:
    """Return the server's URL."""
    return f"http://{HOST}:{port}"


@contextmanager
def serving(store: Path, port: int = PORT) -> Iterator[dict[str, str]]:
    """Keep a server up over `store`: one that runs already, or a new one.

    Parameters
    ----------
    store : Path
        The server's folder: objects, keys and log. Made if it is missing.
    port : int
        Of the S3 service; the other services take the next ones.

    Yields
    ------
    dict of str to str
        The environment for programs that use the server: this process's own without its AWS variables, with the
        server's address and keys instead.

    Raises
    ------
    UserError
        If a port belongs to another program, the folder cannot be made, or the server does not start.
    """
    try:
        store.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        place = f"the local S3 server cannot keep its data in {store}: {error.strerror}"
        raise UserError(f"{place}; XDG_DATA_HOME names another") from None
    with _lock(store / "users.lock", fcntl.LOCK_SH):  # waits while the last server stops
        environment = _environment(store, port)
        _start_and_wait(store, port, environment)
        yield environment


def wait_for_end(store: Path) -> None:
    """Wait for as long as the server over `store` runs.

    Raises
    ------
    UserError
        When it has ended, for nothing but a failure ends it while it is used.
    """
    while _is_running(store):
        time.sleep(1)
    raise UserError(f"the local S3 server ended{_log_tail(store)}")


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command and return its exit status; signals are the command's to handle.

    Returns
    -------
    int
        128 + n if signal n ended it, as shells do.

    Raises
    ------
    UserError
        If there is no such command.
    """
    process: subprocess.Popen[bytes] | None = None
    asked_to_stop = False

    def stop(*_: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True
        if process is not None:
            process.terminate()

    # a terminal sends Ctrl-C to the command as well, but who stops a job sends SIGTERM to this process alone
    handlers: dict[signal.Signals, Callable[..., None]] = {signal.SIGINT: lambda *_: None, signal.SIGTERM: stop}
    previous = {number: signal.getsignal(number) for number in handlers}
    try:
        for number, handler in handlers.items():
            if previous[number] is not signal.SIG_IGN:  # what nohup, say, makes the command ignore too
                signal.signal(number, handler)
        process = subprocess.Popen(command, env=environment)
        if asked_to_stop:  # before there was a command
            process.terminate()
        status = process.wait()
    except OSError as error:
        raise UserError(f"cannot run {command[0]}: {error.strerror}") from None
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)
    return status if status >= 0 else 128 - status


@contextmanager
def _lock(path: Path, operation: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, operation)
        yield descriptor
    finally:
        os.close(descriptor)  # frees the lock, unless a process that inherited the descriptor lives on


def _is_running(store: Path) -> bool:
    try:
        with _lock(store / "server.lock", fcntl.LOCK_SH | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


def _log_tail(store: Path) -> str:
    log = store / "server.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join([f"; its log, {log}, ends with", *text.splitlines()[-15:]])


def _keys(store: Path) -> dict[str, str]:
    path = store / "keys.json"
    if not path.exists():
        aside = path.with_name(f".keys.{os.getpid()}")
        aside.touch(mode=0o600)
        keys = {"access_key_id": f"local-{secrets.token_hex(8)}", "secret_access_key": secrets.token_hex(32)}
        aside.write_text(json.dumps(keys))
        with suppress(FileExistsError):  # another first user was faster
            link(aside, path)
        aside.unlink()
    keys = json.loads(path.read_text())
    return {"AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"]}


def _environment(store: Path, port: int) -> dict[str, str]:
    proxy_exceptions = ",".join(filter(None, [os.environ.get("no_proxy", os.environ.get("NO_PROXY")), HOST]))
    no_settings = store / "no-aws-settings"  # botocore insists on a file, in place of those in ~/.aws
    no_settings.touch()
    return {
        **_without_aws(os.environ),
        **_keys(store),
        "AWS_ENDPOINT_URL": endpoint(port),  # for clients that are told none: never to AWS with these keys
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(no_settings),
        "AWS_SHARED_CREDENTIALS_FILE": str(no_settings),
        "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": proxy_exceptions,
        "NO_PROXY": proxy_exceptions,
    }


def _without_aws(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("AWS_")}


def _start_and_wait(store: Path, port: int, environment: Mapping[str, str]) -> None:
    # below botocore's client, which would read the user's own AWS settings
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from botocore.exceptions import BotoCoreError
    from botocore.httpsession import URLLib3Session

    credentials = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    http = URLLib3Session(timeout=5)

    def ask(method: str, data: bytes = b"") -> int:
        request = AWSRequest(method, f"{endpoint(port)}/{BUCKET}/{READY}", data=data)
        S3SigV4Auth(credentials, "s3", environment["AWS_DEFAULT_REGION"]).add_auth(request)
        return int(http.send(request.prepare()).status_code)

    started, reason = False, ""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if not _is_running(store):
            if started:
                raise UserError(f"the local S3 server did not start{_log_tail(store)}")
            started = _start(store, port)
        try:
            status = ask("GET")  # after a restart the server answers before it has found its objects
            if status == 200:
                return
            if status == 404:
                status = ask("PUT", b"ready")
            reason = f"it answers with status {status}"
        except BotoCoreError as error:
            reason = str(error)
        time.sleep(0.05)
    raise UserError(f"the local S3 server is not ready after {READY_TIMEOUT_S:g} s ({reason}){_log_tail(store)}")


def _start(store: Path, port: int) -> bool:
    """Start a keeper, unless another user was faster."""
    try:
        with _lock(store / "server.lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            _check_ports(port)
            with open(store / "server.log", "wb", opener=_private) as log:
                subprocess.Popen(
                    [sys.executable, "-I", "-m", "crashcast.versioning.local_s3", store, str(port)],
                    cwd=store,
                    env=_without_aws(os.environ),
                    pass_fds=[lock],
                    start_new_session=True,  # Ctrl-C is not for it
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
    except BlockingIOError:
        return False
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # whatever the umask


def _check_ports(port: int) -> None:
    deadline = time.monotonic() + PORTS_TIMEOUT_S
    while taken := [number for number in _ports(port) if not _is_free(number)]:
        if time.monotonic() > deadline:
            raise UserError(
                f"port {taken[0]} of {HOST}, which the local S3 server needs, belongs to another program or another "
                "user's server: stop that one, name another port (make's S3_PORT, crashcast s3 --port, and the same in "
                "`dvc remote modify --local s3 endpointurl`), or point DVC's remote at a bucket of your own (README)"
            )
        time.sleep(0.05)


def _ports(port: int) -> list[int]:
    first = [port + index for index in range(len(SERVICES))]
    return first + [number + GRPC_OFFSET for number in first]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: closed connections linger
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _keep(store: Path, port: int) -> int:
    """Run the server until its last user is gone."""
    os.umask(0o077)
    server = subprocess.Popen(
        _server_command(port),
        cwd=store,
        env={
            **_keys(store),
            # the services behind S3 know no users: without such a key, no other account's request gets past their HTTP,
            **{f"WEED_JWT_{name}": secrets.token_hex(32) for name in JWT_KEYS},
            # and without the certificate, no other account's call gets past gRPC
            **_grpc_settings(store),
            "HOME": str(store),  # no settings of the user's other SeaweedFS
            "GOMEMLIMIT": MEMORY_LIMIT,
        },
        preexec_fn=_die_with_parent,
    )
    threading.Thread(target=_stop_after_last_user, args=(server, store), daemon=True).start()
    status = server.wait()
    for number, service in zip(_ports(port), SERVICES * 2, strict=True):
        for kind in (service, f"{service}-grpc"):
            (SOCKETS / f"seaweedfs-{kind}-{number}.sock").unlink(missing_ok=True)
    return status


def _grpc_settings(store: Path) -> dict[str, str]:
    """Make a certificate that all services show each other; return the settings that name it, and ask for it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "crashcast local S3")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = (store / name for name in (CERTIFICATE, CERTIFICATE_KEY))
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    settings = {f"WEED_GRPC_{peer}_CERT": str(certificate.absolute()) for peer in GRPC_PEERS}
    settings |= {f"WEED_GRPC_{peer}_KEY": str(private.absolute()) for peer in GRPC_PEERS}
    return {**settings, "WEED_GRPC_CA": str(certificate.absolute())}


def _server_command(port: int) -> list[str | Path]:
    return [
        Path(sysconfig.get_path("scripts")) / "weed",
        "-logtostderr=true",
        "mini",
        "-dir=.",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        *(f"-{service}.port={port + index}" for index, service in enumerate(SERVICES)),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        "-volume.preStopSeconds=0",
        f"-bucket={BUCKET}",
    ]


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; objects survive it


def _stop_after_last_user(server: subprocess.Popen[bytes], store: Path) -> None:
    with _lock(store / "users.lock", fcntl.LOCK_EX):
        server.terminate()
        time.sleep(STOP_TIMEOUT_S)  # this process ends with the server, and both locks with it
        server.kill()


if __name__ == "__main__":
    sys.exit(_keep(Path(sys.argv[1]), int(sys.argv[2])))
