"""params.yaml, typed: frozen sections, unknown keys refused, durations with their units.

A stage reads a section with `Clean.read()`; dvc.yaml declares the same section as its parameter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from crashcast import strict_yaml
from crashcast.errors import UserError

PATH = Path("params.yaml")
DAY = timedelta(days=1)
CENTURY = 36_525 * DAY
UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": DAY}


def parse_duration(value: Any) -> timedelta:
    """Turn `90s`, `30m`, `6h` or `7d` into a timedelta."""
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d{1,9})\s*([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("write a duration as a whole number and a unit: 90s, 30m, 6h or 7d")
    duration = int(match[1]) * UNITS[match[2]]
    if duration > CENTURY:
        raise ValueError("must be at most a century")  # subtracted from a date it must leave a date
    return duration


def format_duration(duration: timedelta) -> str:
    """Write a duration in its largest whole unit: the inverse of `parse_duration`."""
    for unit in ("d", "h", "m", "s"):
        if duration % UNITS[unit] == timedelta(0) and duration >= UNITS[unit]:
            return f"{duration // UNITS[unit]}{unit}"
    return "0s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
PositiveDuration = Annotated[Duration, Field(gt=timedelta(0))]
Share = Annotated[float, Field(gt=0, lt=1)]


# Sections that no stage reads are defined where they are used: a change there must not make every output stale.
ELSEWHERE = {
    "acceptance": "crashcast.review.acceptance",
    "collect": "crashcast.sources.prometheus.collect",
    "tickets": "crashcast.sources.tickets.settings",
}


class Part(BaseModel):
    """Any piece of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Section(Part):
    """A top-level section of params.yaml, named like its class in lower case."""

    sections: ClassVar[dict[str, type[Section]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Section.sections[cls.__name__.lower()] = cls

    @classmethod
    def read(cls, path: Path = PATH) -> Self:
        """Read this section.

        Raises
        ------
        UserError
            Where the file is missing or no YAML, or a key is unknown, missing or out of range.
        """
        name = cls.__name__.lower()
        content = _load(path)
        known = list(dict.fromkeys([*Section.sections, *ELSEWHERE]))
        for key in content:
            if key not in known:
                raise UserError(f"{path}: unknown section '{key}'{_suggest(str(key), known)}")
        if name not in content:
            raise UserError(f"{path}: section '{name}' is missing")
        try:
            return cls.model_validate(content[name])
        except ValidationError as error:
            raise UserError("\n".join(_explain(path, content, cls, error))) from None


def check(path: Path = PATH) -> None:
    """Refuse a file in which any section that stages read is wrong: a mistake must not wait for its stage.

    Raises
    ------
    UserError
        Naming every mistake of every section.
    """
    problems = []
    for name in _load(path):
        if name in ELSEWHERE:
            continue
        try:
            Section.sections.get(name, Section).read(path)  # the base class refuses a name that is nobody's
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def _load(path: Path) -> dict[str, Any]:
    try:
        content = strict_yaml.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the root of the project") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold named sections, not a {type(content).__name__}")
    return content


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(known)}"


def _explain(path: Path, content: dict[str, Any], model: type[Section], error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        *parents, key = problem["loc"] or ("",)
        where = ".".join(_keys(content, [model.__name__.lower(), *problem["loc"]], problem["type"] == "missing"))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{path}: {where}: unknown key{_suggest(str(key), _fields(model, parents))}")
        else:
            got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
            lines.append(f"{path}: {where}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return lines


def _keys(content: Any, loc: list[Any], is_missing: bool) -> Iterator[str]:
    for key in loc:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            if not is_missing:  # pydantic also names which alternative of a type it tried
                continue
        yield str(key)


def _fields(model: Any, parents: list[Any]) -> list[str]:
    for name in parents:
        field = getattr(model, "model_fields", {}).get(name)
        if field is None:  # the key of a mapping: its values are described by the same model
            continue
        nested = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)]
        model = next((a for a in nested if issubclass(a, BaseModel)), model)
    return list(getattr(model, "model_fields", {}))


class Data(Section):
    """Who wrote data/raw: the simulator never replaces imported data."""

    source: Literal["demo", "import"]


class Demo(Section):
    """The simulated fleet."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    servers: Annotated[int, Field(ge=20, le=100_000)]
    start: date
    months: Annotated[int, Field(ge=1, le=240)]
    interval: PositiveDuration

    @field_validator("start")
    @classmethod
    def _first_of_month(cls, value: date) -> date:
        if value.day != 1:
            raise ValueError("must be the first day of a month")
        return value

    @field_validator("interval")
    @classmethod
    def _divides_a_day(cls, value: timedelta) -> timedelta:
        return _checked_interval(value)


def _checked_interval(value: timedelta) -> timedelta:
    if DAY % value:
        raise ValueError("must divide a day, so that rows fall on the same times every day")
    return value


class Metric(Part):
    """One telemetry column."""

    min: float
    max: float
    aggregate: Literal["mean", "min", "max", "sum", "last"] = "mean"
    can_stick: bool = False  # an unchanging value means a broken sensor

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min < self.max:
            raise ValueError("min must be below max")
        return self


class Telemetry(Section):
    """What data/raw/telemetry holds, and the cadence everything after it works at."""

    interval: PositiveDuration
    partition: Literal["month", "week", "day"]
    metrics: Annotated[dict[str, Metric], Field(min_length=1)]

    @field_validator("interval")
    @classmethod
    def _divides_a_day(cls, value: timedelta) -> timedelta:
        return _checked_interval(value)

    @field_validator("metrics")
    @classmethod
    def _are_no_keys(cls, value: dict[str, Metric]) -> dict[str, Metric]:
        if taken := sorted({"timestamp", "server_id", "label"} & set(value)):
            raise ValueError(f"{', '.join(taken)} cannot be the name of a metric: the tables use it")
        return value


class Validate(Section):
    """What raw data must satisfy; shares are of rows."""

    max_duplicate_share: Annotated[float, Field(ge=0, le=1)]
    max_out_of_range_share: Annotated[float, Field(ge=0, le=1)]
    max_missing_share: Annotated[float, Field(ge=0, le=1)]
    max_volume_change: Annotated[float, Field(gt=0)]  # 1 and above bear the loss of whole partitions
    max_overlapping_incident_share: Annotated[float, Field(ge=0, le=1)]
    max_outage: PositiveDuration


class Clean(Section):
    """How samples become rows."""

    fill_limit: Duration
    stuck_after: PositiveDuration


class Incidents(Section):
    """What incident records leave open."""

    reporting_delay: Duration
    unresolved_outage: PositiveDuration


Evidence = Literal["tickets", "restarts", "gaps", "storms", "annotations"]


class Label(Section):
    """What a crash label means, and who is believed about crashes (docs/labels.md)."""

    lead: Duration
    horizon: PositiveDuration
    recovery: Duration
    aggregate: Literal["dawid_skene", "majority", "tickets"] = "tickets"
    evidence: list[Evidence] = ["tickets"]
    same_event: Duration = timedelta(hours=3)
    uptime_metric: str | None = None  # hours since the last boot
    error_metric: str | None = None
    error_storm: float = 20

    @property
    def reach(self) -> timedelta:
        """How far ahead of a row the label looks, and how long an alarm lasts."""
        return self.lead + self.horizon

    def timing(self, interval: timedelta) -> dict[str, timedelta]:
        """Return what alarms of rows at this cadence are judged by."""
        return {"lead": self.lead, "horizon": self.horizon, "interval": interval}


class Features(Section):
    """Which features are computed; every window looks back from the row's own time."""

    columns: list[str] | Literal["all"]
    interactions: dict[str, tuple[str, str]]
    rolling_mean: list[PositiveDuration]
    rolling_std: list[PositiveDuration]
    rolling_max: list[PositiveDuration]
    differences: list[PositiveDuration]
    fleet_relative: bool
    missing_share: list[PositiveDuration]
    incident_counts: list[PositiveDuration]
    history_cap: PositiveDuration


class Split(Section):
    """How rows are divided; shares are of the labelled period (time), the servers, or the rows (random)."""

    method: Literal["time", "server", "random"]
    train: Share
    validation: Share
    test: Share
    seed: Annotated[int, Field(ge=0, lt=2**32)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError(f"train + validation + test must be 1, not {self.train + self.validation + self.test:g}")
        return self


class LogisticRegression(Part):
    """A grid of logistic regressions."""

    C: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


class HistGradientBoosting(Part):
    """A grid of histogram gradient boostings."""

    learning_rate: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    max_iter: Annotated[int, Field(ge=1)]
    max_leaf_nodes: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    min_samples_leaf: Annotated[int, Field(ge=1)]
    l2_regularization: Annotated[float, Field(ge=0)]


class Candidates(Part):
    """The algorithms that compete on validation; the dummy always does."""

    logistic_regression: LogisticRegression | None = None
    hist_gradient_boosting: HistGradientBoosting | None = None


class SelfTraining(Part):
    """How certain the model must be of a row that no incident records cover, to learn from its own answer."""

    certainty: Share


class Train(Section):
    """How the model is fitted and chosen."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    negatives_per_positive: Annotated[float, Field(gt=0)]
    max_rows: Annotated[int, Field(ge=1000)]
    weigh_by_confidence: bool = False
    self_training: SelfTraining | None = None
    candidates: Candidates


class Alarms(Section):
    """What the on-call engineers can bear."""

    false_alarms_per_server_day: Annotated[float, Field(gt=0)]


class Evaluate(Section):
    """How the uncertainty of the test figures is estimated."""

    replicates: Annotated[int, Field(ge=100)]
    confidence: Share
    block: PositiveDuration
    seed: Annotated[int, Field(ge=0, lt=2**32)]


def _scheduler(value: str) -> str:
    if not re.fullmatch(r"(tls|tcp)://[^/\s]+:\d+", value):
        raise ValueError("must be the address of a scheduler, such as tls://host:8786")
    return value


class Execution(Section):
    """Where partitions are computed. Changes no byte of any output, so no stage depends on it."""

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] | Annotated[str, AfterValidator(_scheduler)]
    shared: str | None = None
    memo_gb: Annotated[float, Field(ge=0)]

    @field_validator("shared")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"/.+|s3://[^/]+(/.+)?", value):
            raise ValueError("must be null, an absolute folder or s3://bucket/prefix")
        return value and value.rstrip("/")

    @property
    def scheduler(self) -> str | None:
        """The address of a cluster's scheduler; None where partitions are computed on this machine."""
        return self.workers if isinstance(self.workers, str) and self.workers != "auto" else None

    @model_validator(mode="after")
    def _can_exchange(self) -> Self:
        if self.scheduler and self.shared is None:
            raise ValueError(
                f"workers: {self.scheduler} needs `shared`: a folder that this machine and the workers mount, or "
                "s3://bucket/prefix (docs/cluster.md)"
            )
        return self
