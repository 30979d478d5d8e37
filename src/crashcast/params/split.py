"""The section `split` of params.yaml."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from crashcast.params.base import Section, Share


class Split(Section):
    """How rows are divided; shares are of the labelled period (time), the servers, or the rows (random)."""

    method: Literal["time", "server", "random"]
    train: Share
    validation: Share
    test: Share
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    since: date | list[str] | None = None
    test_groups: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError(f"train + validation + test must be 1, not {self.train + self.validation + self.test:g}")
        return self

    @model_validator(mode="after")
    def _of_this_method(self) -> Self:
        for name, method in (("since", "time"), ("test_groups", "server")):
            if getattr(self, name) and self.method != method:
                raise ValueError(f"{name} needs method: {method}, not {self.method}")
        return self
