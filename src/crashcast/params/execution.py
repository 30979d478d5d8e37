"""The section `execution` of params.yaml."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from crashcast.errors import UserError
from crashcast.params.base import PATH, PositiveDuration, Section

# a clone's own: a tracked file would make every teammate's runs the cluster's
VARIABLES = {"workers": "CRASHCAST_WORKERS", "shared": "CRASHCAST_SHARED"}


def _scheduler(value: str) -> str:
    if re.fullmatch(r"tcp://(?!(127\.0\.0\.1|localhost):)[^/\s]+:\d+", value):
        raise ValueError("tcp:// asks nobody who they are, and a scheduler sends code: write tls:// (docs/cluster.md)")
    if not re.fullmatch(r"(tls|tcp)://[^/\s]+:\d+", value):
        raise ValueError("must be the address of a scheduler, such as tls://host:8786")
    return value


class Execution(Section):
    """Where partitions are computed. Changes no byte of any output, so no stage depends on it."""

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] | Annotated[str, AfterValidator(_scheduler)]
    shared: str | None = None
    memo_gb: Annotated[float, Field(ge=0)]
    patience: PositiveDuration = timedelta(minutes=1)

    @classmethod
    def read(cls, path: Path = PATH) -> Self:
        """Read this section; what the environment says comes before the file.

        Raises
        ------
        UserError
            See `Section.read`; or if a variable of the environment is out of range.
        """
        found = super().read(path)
        told = {name: os.environ[variable] for name, variable in VARIABLES.items() if os.environ.get(variable)}
        try:
            return cls.model_validate(found.model_dump() | told)
        except ValidationError as error:
            names = ", ".join(VARIABLES[name] for name in told)
            raise UserError(f"{names}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None

    @field_validator("shared")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"/.+|s3://[^/]+(/.+)?", value):
            raise ValueError("must be null, an absolute folder or s3://bucket/prefix")
        return value and value.rstrip("/")

    @property
    def scheduler(self) -> str | None:
        """The address of a cluster's scheduler; None if partitions are computed on this machine."""
        return self.workers if isinstance(self.workers, str) and self.workers != "auto" else None

    @model_validator(mode="after")
    def _can_exchange(self) -> Self:
        if self.scheduler and self.shared is None:
            raise ValueError(
                f"workers: {self.scheduler} needs `shared`: a folder that this machine and the workers mount, or "
                "s3://bucket/prefix (docs/cluster.md)"
            )
        return self
