"""How findings end, are repaired and shown."""

from __future__ import annotations

import json
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from crashcast import canonical
from crashcast.doctor.findings import SOUND, UNKNOWN, WRONG, Finding, as_json, exit_status, mended, show
from crashcast.errors import UserError

SEVERITIES = st.sampled_from(["error", "unknown", "warning", "repaired", "note"])


@given(st.lists(SEVERITIES))
def test_the_exit_status_is_sound_only_where_nothing_is_wrong_or_unknown(severities: list) -> None:
    found = [Finding(severity, "here", "what") for severity in severities]

    expected = WRONG if "error" in severities else UNKNOWN if "unknown" in severities else SOUND
    assert exit_status(found) == as_json(found)["status"] == expected
    assert json.loads(canonical.json_text(as_json(found)))["findings"] == as_json(found)["findings"]


def test_a_repair_that_fails_leaves_the_finding_and_says_why() -> None:
    def fail() -> str:
        raise UserError("no copy")

    found = Finding("error", "data", "damaged", "crashcast doctor --repair", fail)

    assert mended(found) == Finding("error", "data", "damaged; not repaired: no copy", "crashcast doctor --repair")
    assert mended(Finding("error", "data", "damaged", "type", lambda: "mended")) == Finding(
        "repaired", "data", "damaged; mended"
    )


def test_the_worst_is_shown_first_with_what_to_type() -> None:
    console = Console(file=StringIO(), width=200)

    show(
        [Finding("note", "a", "told"), Finding("warning", "b", "look", "dvc repro"), Finding("error", "c", "bad")],
        console,
    )

    assert console.file.getvalue() == (  # type: ignore[attr-defined]
        "error    c: bad\nwarning  b: look\n         type: dvc repro\nnote     a: told\n1 error, 1 warning.\n"
    )
