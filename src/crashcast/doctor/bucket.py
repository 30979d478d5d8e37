"""Whether DVC's remote lets this user pull and push, and how its bucket is protected."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from crashcast.doctor.findings import Finding, Severity
from crashcast.errors import UserError
from crashcast.versioning import remote
from crashcast.versioning.bucket import Bucket

SCRATCH = "crashcast-doctor"
MAX_SKEW_S = 60.0  # S3 refuses requests that are 15 minutes off


def check(bucket: Bucket) -> Iterator[Finding]:
    """Try everything that pulling and pushing need, in a scratch folder, and ask how the bucket is protected."""
    where = remote.url()
    try:
        answer = bucket.call("list_objects_v2", Prefix=bucket.key(SCRATCH), MaxKeys=1)
    except UserError as error:
        yield Finding("unknown", where, f"its objects cannot be listed: {error}", "check the address and your keys")
        return
    yield from _skew(where, answer)
    yield from _operations(bucket, where)
    if not bucket.settings.get("verify"):
        what = "without verify, DVC takes a truncated object for the data"
        yield Finding("warning", ".dvc/config", what, "dvc remote modify s3 verify true")
    yield from _protection(bucket, where)


def _skew(where: str, answer: dict[str, Any]) -> Iterator[Finding]:
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date and abs(skew_s := time.time() - parsedate_to_datetime(date).timestamp()) > MAX_SKEW_S:
        ahead = "ahead of" if skew_s > 0 else "behind"
        yield Finding(
            "warning",
            "this machine's clock",
            f"{abs(skew_s):.0f} s {ahead} the server's: S3 refuses requests that are 15 minutes off",
            "timedatectl set-ntp true",
        )


def _operations(bucket: Bucket, where: str) -> Iterator[Finding]:
    key, content = bucket.key(SCRATCH, secrets.token_hex(8)), b"doctor"
    try:
        version = bucket.call("put_object", Key=key, Body=content).get("VersionId")
    except UserError as error:
        yield Finding("warning", where, f"put fails, so you cannot push: {error}", "to push, ask for the writer role")
        return
    steps: list[tuple[Severity, str, Callable[[], bool]]] = [
        ("error", "head", lambda: bool(bucket.call("head_object", Key=key)["ContentLength"] == len(content))),
        ("error", "get", lambda: bucket.content(key) == content),
        ("warning", "delete", lambda: bool(bucket.call("delete_object", Key=key))),  # who pushes need not delete
    ]
    for severity, step, works in steps:
        try:
            reason = "" if works() else "it answers with other bytes than it was sent"
        except UserError as error:
            reason = str(error)
        if reason:
            yield Finding(
                severity, where, f"{step} of what was just put there fails: {reason}", "see the bucket's policy"
            )
    if version and version != "null":  # a bucket that keeps versions need not keep this one
        with suppress(UserError):
            bucket.call("delete_object", Key=key, VersionId=version)


def _protection(bucket: Bucket, where: str) -> Iterator[Finding]:
    is_local = remote.is_local()

    def ask(method: str) -> dict[str, Any] | None:
        """Return the answer, {} if there is no such setting, None if the server does not say."""
        try:
            return bucket.call(method)
        except UserError as error:
            return {} if re.search(r"NotFound|NoSuch|not found", str(error)) else None

    versioning, encryption = ask("get_bucket_versioning"), ask("get_bucket_encryption")
    blocked = ask("get_public_access_block")
    switches = (blocked or {}).get("PublicAccessBlockConfiguration", {})
    settings = {
        "versioning": (versioning, (versioning or {}).get("Status") == "Enabled"),  # else what is deleted is gone
        "encryption": (encryption, bool(encryption)),
        "public access block": (blocked, len(switches) == 4 and all(switches.values())),
    }
    if unknown := [name for name, (answer, _) in settings.items() if answer is None]:
        yield Finding("note", where, f"the server does not say whether it has {', '.join(unknown)}")
    if off := [name for name, (answer, is_on) in settings.items() if answer is not None and not is_on]:
        what = f"the bucket has no {', no '.join(off)}"
        if is_local:
            yield Finding("note", where, what)
        else:
            yield Finding("warning", where, what, "deploy the bucket's template, or ask its owner")
