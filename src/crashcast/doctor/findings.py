"""What the doctor finds: what, where, how bad, and what to type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from crashcast.errors import UserError

Severity = Literal["error", "unknown", "warning", "repaired", "note"]
STYLES: dict[Severity, str] = {
    "error": "bold red", "unknown": "bold magenta", "warning": "yellow", "repaired": "green", "note": "dim",
}  # fmt: skip
SOUND, WRONG, UNKNOWN = 0, 1, 2  # exit statuses


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    severity : str
        `error`: data is lost, wrong or will be; `unknown`: it could not be looked at, so nothing is known to be right;
        `warning`: somebody should look; `repaired`; `note`.
    where : str
        A file, a folder, a package, the remote.
    what : str
        What is wrong with it.
    todo : str
        What to type, if anything.
    mend : callable, optional
        Repairs it from a good copy and says how; raises UserError if there is none.
    """

    severity: Severity
    where: str
    what: str
    todo: str = ""
    mend: Callable[[], str] | None = field(default=None, compare=False, repr=False)


def mended(finding: Finding) -> Finding:
    """Repair what was found, if it can be, and return what there is to say now."""
    if finding.mend is None:
        return finding
    try:
        return replace(finding, severity="repaired", what=f"{finding.what}; {finding.mend()}", todo="", mend=None)
    except UserError as error:
        return replace(finding, what=f"{finding.what}; not repaired: {error}", mend=None)


def exit_status(findings: Sequence[Finding]) -> int:
    """Return 1 if something is wrong, else 2 if something could not be checked, else 0."""
    severities = {finding.severity for finding in findings}
    return WRONG if "error" in severities else UNKNOWN if "unknown" in severities else SOUND


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings as plain values, for programs."""
    listed = [{key: getattr(found, key) for key in ("severity", "where", "what", "todo")} for found in findings]
    return {"status": exit_status(findings), "findings": listed}


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print findings for a person, the worst first, and a summary."""
    order = list(STYLES)
    for found in sorted(findings, key=lambda found: order.index(found.severity)):
        line = Text.assemble((f"{found.severity:<8} ", STYLES[found.severity]), f"{found.where}: {found.what}")
        console.print(line, soft_wrap=True)
        if found.todo:
            console.print(Text(f"         type: {found.todo}", "bold"), soft_wrap=True)
    console.print(Text(" ".join(_summary(findings))), soft_wrap=True)


def _summary(findings: Sequence[Finding]) -> Iterator[str]:
    counts = Counter(found.severity for found in findings)
    told = [f"{counts[severity]} {severity}" for severity in STYLES if counts[severity] and severity != "note"]
    yield f"{', '.join(told)}." if told else "Nothing wrong was found."
    if any(found.mend for found in findings):
        yield "`crashcast doctor --repair` mends what has a good copy."
