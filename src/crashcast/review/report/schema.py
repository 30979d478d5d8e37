"""The decision record: every key, with its type; read and written as canonical JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

from crashcast.canonical import json_text, write_text
from crashcast.errors import UserError

SCHEMA = 1
Verdict = Literal["ACCEPT", "REJECT", "INCONCLUSIVE"]
Form = Literal["improvement", "renewal", "first"]
Outcome = Literal["fail", "open", "pass", "shown"]


class Reason(TypedDict):
    """One check of the policy and how it ended."""

    check: str
    outcome: Outcome
    text: str


class Side(TypedDict):
    """What a commit's model was made of, by hash."""

    revision: str
    dvc_lock: str
    model: str
    data: dict[str, str]
    params: str
    algorithm: str
    features: int


class NamedChange(TypedDict):
    """A named value in both commits."""

    name: str
    base: Any
    challenger: Any


class Difference(TypedDict):
    """A figure of both models on the same rows; `difference` is challenger less champion.

    `margin` is positive and in the figure's unit: the gain that is needed of a primary figure, the loss that is
    tolerated of any other, and of the primary one in a renewal. A figure whose unit is "share" is written in percent.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    champion: float | None
    challenger: float | None
    difference: float | None
    low: float | None
    high: float | None
    confidence: float | None
    margin: float | None
    role: Literal["primary", "guardrail", "shown"]


class Slice(TypedDict):
    """A part of the rows or of the crashes; `bound` is one-sided, `metric` the figure's title if it differs."""

    name: str
    rows: int | None
    crashes: int
    champion: float | None
    challenger: float | None
    difference: float | None
    low: float | None
    high: float | None
    bound: float | None
    margin: float | None
    judged: bool
    vetoed: bool
    metric: NotRequired[str]
    unit: NotRequired[str]


class Look(TypedDict):
    """How often these test rows were looked at, and the error that is left for this time."""

    number: float
    error: float
    rows: str
    previous: list[str]


class Mitigated(TypedDict):
    """Rows whose crash an action may have prevented, and each model's alarms that opened there."""

    rows: int
    alarms: dict[str, int]


# "from" is no name for a class's attribute
Rows = TypedDict(
    "Rows",
    {
        "from": str,
        "to": str,
        "rows": int,
        "servers": int,
        "server_days": float,
        "crashes": int,
        "groups": int,
        "blocks": int,
        "kind": str,
        "excluded": dict[str, int],
        "mitigated": NotRequired[Mitigated],
    },
)


# of recipes: the models that were trained before the window, and their PR-AUC on it
Window = TypedDict(
    "Window",
    {
        "from": str,
        "to": str,
        "trained_to": str,
        "rows": int,
        "crashes": int,
        "champion": float | None,
        "challenger": float | None,
    },
)


class Detectable(TypedDict):
    """The smallest true gain that this much data shows with a probability of `power`."""

    difference: float
    power: float


class Reverse(TypedDict, total=False):
    """Both models on the champion's test rows, or why not."""

    differences: list[Difference]
    not_judged: str


class MetricChange(NamedChange):
    """A number in a metrics file."""

    file: str


class DataChange(TypedDict):
    """Raw data in both commits: hash, rows, servers and so on."""

    path: str
    base: dict[str, Any] | None
    challenger: dict[str, Any] | None


class Correction(TypedDict):
    """A record of the past that the challenger's data has otherwise, or several of a kind."""

    table: str
    what: str
    server_id: str | None
    at: str | None
    records: int
    record: str | None


class History(TypedDict):
    """Corrected records by table and what was done to them, and the first of them."""

    counts: dict[str, dict[str, int]]
    listed: list[Correction]


class Features(TypedDict):
    """Features by name."""

    added: list[str]
    removed: list[str]


class Changes(TypedDict):
    """What differs between the commits, and every figure of either."""

    parameters: list[NamedChange]
    code: list[str]
    data: list[DataChange]
    features: Features
    candidates: list[NamedChange]
    metrics: list[MetricChange]
    history: History


class Run(TypedDict):
    """How the challenger's code ran, and how its model came out when it was trained again."""

    sandbox: str
    trusts_authors: bool
    trained_again: NotRequired[Literal["same", "close"]]


class Record(TypedDict):
    """What was compared, found and decided."""

    schema: Literal[1]
    verdict: Verdict
    form: Form | None
    headline: str
    reasons: list[Reason]
    base: Side | None
    challenger: Side
    anchor: Side | None
    policy: dict[str, Any]
    policy_changes: list[NamedChange]
    look: Look | None
    rows: Rows
    windows: NotRequired[list[Window]]
    differences: list[Difference]
    detectable: Detectable | None
    definitions: dict[str, list[Difference]]
    reverse: Reverse
    slices: list[Slice]
    changes: Changes
    validation: dict[str, Any]
    run: NotRequired[Run]


_RECORD = TypeAdapter(Record)


def checked(value: Any, where: str) -> Record:
    """Return `value`, if it is a decision record.

    Parameters
    ----------
    value : object
        As JSON gives it.
    where : str
        What the message calls it.

    Raises
    ------
    UserError
        If its schema is not this version's, a key is missing, or a value is of another type.
    """
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{where} is no decision record of schema {SCHEMA}, but of {schema}: read it with the crashcast that wrote "
            "it, or run `crashcast review` again"
        )
    try:
        _RECORD.validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}, {key}: {first['msg']}. Run `crashcast review` again") from None
    return value


def read(path: Path) -> Record:
    """Read a decision record.

    Raises
    ------
    UserError
        If there is none, or none that this version can read.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `crashcast review` writes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is unreadable ({error}): run `crashcast review` again") from None
    return checked(found, str(path))


def write(path: Path, record: dict[str, Any] | Record) -> Record:
    """Write a decision record as canonical JSON.

    Returns
    -------
    Record
        As `read` gives it: numbers with 6 significant digits.

    Raises
    ------
    UserError
        If it is none (see `checked`).
    ValueError
        If a number is NaN or infinite.
    """
    text = json_text(record)
    found = checked(json.loads(text), "the decision record")
    write_text(path, text)
    return found
