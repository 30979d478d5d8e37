"""DVC's default remote: which server it names, and whether that one can be reached.

DVC itself cannot tell: to DVC, a bucket that does not exist or a server that answers 404 to everything looks like data
that nobody has pushed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from crashcast.errors import UserError
from crashcast.versioning import commit_limits
from crashcast.versioning.dvc_files import RefusedListError, hash_of, is_of, members

TIMEOUT_S = 10
LOOPBACK = re.compile(r"https?://(127\.|localhost|\[::1\])")


def endpoint() -> str | None:
    """Return the server that DVC's default remote names; None if it names none, as on AWS."""
    _, remote = default()
    return remote.get("endpointurl", "").rstrip("/") or None


def is_local() -> bool:
    """Tell whether DVC's default remote is a server on this machine."""
    return bool(LOOPBACK.match(endpoint() or ""))


def url() -> str:
    """Return DVC's default remote as a person would name it."""
    _, remote = default()
    return f"{remote['url']} at {remote['endpointurl']}" if remote.get("endpointurl") else str(remote["url"])


def check() -> None:
    """List one object of DVC's default remote, with the user's own credentials.

    Raises
    ------
    UserError
        If the server does not answer, refuses the credentials or has no such bucket. Kinds of remote other than S3
        are not checked.
    """
    from botocore.exceptions import ClientError
    from dvc.fs import get_cloud_fs

    config, _ = default()
    cls, settings, path = get_cloud_fs(config, name=config["core"]["remote"])
    if cls.protocol != "s3":
        return
    settings = {"connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S} | settings
    filesystem = cls(**settings)
    filesystem.fs_args["config_kwargs"]["retries"] = {"total_max_attempts": 2}  # DVC would try for minutes
    bucket, _, prefix = path.partition("/")
    try:
        filesystem.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except failures() as error:
        reason = str(error) or type(error).__name__
        if is_local() and not isinstance(error, ClientError):  # nobody answered
            reason += "; the local server runs beside a command: `crashcast s3 -- COMMAND`, and make's targets do so"
        raise UserError(f"DVC's remote {url()} cannot be reached: {reason}") from None


def check_held(digest: str, what: str) -> None:
    """Refuse a file or folder that the remote lacks in part, or holds with other bytes.

    Every object is read: of a folder whose list was pushed, DVC takes all files to be there.

    Raises
    ------
    UserError
        If an object is missing or damaged, or as `check` does.
    """
    from dvc.repo import Repo

    check()
    with Repo() as repo:
        store = repo.cloud.get_remote_odb()

        def content(oid: str) -> bytes:
            found: bytes = store.fs.cat_file(store.oid_to_path(oid))
            if not is_of(oid, hash_of(found)):
                raise ValueError(f"{oid} has other content there")
            return found

        try:
            found = content(digest)
            for member in members(found, what).values() if digest.endswith(".dir") else ():
                content(member)
        except (OSError, ValueError, RefusedListError) as error:
            raise UserError(f"{what} is not whole on {url()} ({error}): `make push` where it was made") from None


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of S3 clients if the network or the server fails, or an answer is damaged."""
    from aiohttp import ClientError as ConnectionFailed
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    # the last two: a number or a name in an answer that came over damaged
    return OSError, BotoCoreError, ClientError, ConnectionFailed, ResponseParserError, ValueError, KeyError


def default() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return DVC's configuration, and its default remote in it.

    Raises
    ------
    UserError
        If there is none, or .dvc/config, which a commit can change, sets what it must not.
    """
    from dvc.config import Config, ConfigError

    if (committed := Path(commit_limits.CONFIG)).is_file():
        commit_limits.check_settings(committed.read_bytes())
    try:
        config = Config.from_cwd()
    except ConfigError as error:
        raise UserError(f"DVC's configuration: {error}") from None
    name = config["core"].get("remote")
    if name not in config["remote"]:
        raise UserError("DVC has no default remote here: see `dvc remote list`, and README on a bucket of your own")
    return config, config["remote"][name]
