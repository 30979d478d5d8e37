"""The section `collect` of params.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from crashcast.params.base import Address, Duration, PositiveDuration, Section

Aggregate = Literal["mean", "min", "max", "sum", "last"]
Query = str | Annotated[dict[Aggregate, str], Field(min_length=1, max_length=1)]  # PromQL, or an aggregate of a metric
SECRETS = r"auth|cookie|token|secret|password|key"  # in the names of headers that hold one


def _headers(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not re.fullmatch(r"[!-~]([ -~]*[!-~])?", text):
            raise ValueError(f"'{name}: {text}' is no header: write a name and a value of ASCII letters")
        if re.search(SECRETS, name, re.IGNORECASE):
            raise ValueError(f"{name} may hold a secret, which belongs in the environment")
    return value


Headers = Annotated[dict[str, str], AfterValidator(_headers)]  # sent with each request; no secrets


class Collect(Section):
    """What `crashcast collect` asks a Prometheus-compatible server for (docs/collect.md)."""

    url: Address
    server_label: str
    server_pattern: str
    group_label: str | None = None
    headers: Headers = Field(default_factory=dict)
    late_window: Duration
    chunk: PositiveDuration
    parallel: Annotated[int, Field(ge=1, le=64)]
    queries: Annotated[dict[str, Query], Field(min_length=1)]

    @field_validator("server_pattern")
    @classmethod
    def _has_a_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if not groups:
            raise ValueError("needs a group in parentheses: the server's id")
        return value
