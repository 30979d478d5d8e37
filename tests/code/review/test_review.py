from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from scored_fleet import BUDGET, POLICY, altered, fleet

from crashcast.errors import UserError
from crashcast.params.acceptance import ERROR
from crashcast.review import comparison, ledger, review
from crashcast.versioning import sandbox
from crashcast.versioning.revision import Revision

POOR = POLICY.model_copy(update={"min_groups": 2, "min_servers": 2})


def on_the_champions_rows(rows, policy=POOR):
    return review._reversed(SimpleNamespace(reverse=rows), policy, BUDGET)


def test_on_the_champions_rows_the_same_figures_are_shown_and_nothing_is_decided():
    rows = fleet(servers=30, days=14, signals=(1.0, 3.0))
    measured = comparison.compare(rows, POOR, BUDGET).differences
    shown = on_the_champions_rows(rows)["differences"]
    assert [row["name"] for row in shown] == ["pr_auc", "event_recall", "lead_h", "brier"]
    for row in shown:
        figure = measured[row["name"]]
        assert (row["champion"], row["challenger"]) == (figure.champion, figure.challenger)
        assert (row["role"], row["margin"]) == ("shown", None)
        assert row["high"] - row["difference"] == pytest.approx(figure.reach(ERROR))  # no attempt is counted here
    assert shown[0]["difference"] > 0


def test_why_the_champions_rows_say_nothing_is_told():
    rows = fleet(servers=10, days=7, crashes=12)
    assert on_the_champions_rows("its rows are the same") == {"not_judged": "its rows are the same"}
    assert "0 of the 1680 rescored rows precede a crash" in on_the_champions_rows(altered(rows, label=0))["not_judged"]
    found = comparison.compare(rows, POLICY, BUDGET)
    few = f"{found.groups} groups of crashes on {found.servers_with_crashes} servers are too few"
    assert on_the_champions_rows(rows, POLICY) == {"not_judged": few}
    assert "differences" in on_the_champions_rows(rows)
    for name, has in (("min_groups", found.groups), ("min_servers", found.servers_with_crashes)):
        assert "differences" in on_the_champions_rows(rows, POOR.model_copy(update={name: has}))
        assert "not_judged" in on_the_champions_rows(rows, POOR.model_copy(update={name: has + 1}))


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Revision]:
    """Return what commits another content of a file, on top of a commit that has them all."""
    monkeypatch.chdir(tmp_path)
    for path in ("src/code.py", "params.yaml", "requirements.txt", "requirements-build.txt", "requirements-dev.txt"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("one")
    subprocess.run("git init -q -b main && git add . && git commit -q -m one", shell=True, check=True)

    def change(path: str) -> Revision:
        Path(path).write_text("two")
        subprocess.run("git checkout -q -b other && git commit -q -a -m two", shell=True, check=True)
        return Revision.find("other")

    return change


NO_SANDBOX = "bubblewrap is not installed"
TRUSTED = pytest.mark.parametrize(
    ("path", "missing", "why"),
    [
        ("src/code.py", NO_SANDBOX, NO_SANDBOX),
        ("requirements.txt", None, "it changes requirements.txt, and"),
        ("requirements-build.txt", None, "it changes requirements-build.txt, and"),
    ],
)


@TRUSTED
def test_code_that_could_do_harm_is_not_run_unless_its_authors_are_trusted(
    changing: Callable[[str], Revision], monkeypatch: pytest.MonkeyPatch, path: str, missing: str | None, why: str
):
    monkeypatch.setattr(sandbox, "missing", lambda: missing)
    head, base = changing(path), Revision.find("main")
    with pytest.raises(review.UntrustedCodeError, match=f"^The challenger's code was not run: {why}"):
        review._way_to_run(base, head, False)
    way = {"sandbox": "none" if missing else "bubblewrap", "trusts_authors": True}
    assert review._way_to_run(base, head, True) == way
    assert review._way_to_run(None, head, False) == way | {"trusts_authors": False}  # a first model judges itself


@pytest.mark.parametrize(
    ("path", "missing", "kind"),
    [
        ("src/code.py", None, "bubblewrap"),
        ("params.yaml", NO_SANDBOX, "none"),
        ("requirements-dev.txt", NO_SANDBOX, "none"),  # no review installs these
    ],
)
def test_other_changes_need_no_trust(
    changing: Callable[[str], Revision], monkeypatch: pytest.MonkeyPatch, path: str, missing: str | None, kind: str
):
    monkeypatch.setattr(sandbox, "missing", lambda: missing)
    head = changing(path)
    assert review._way_to_run(Revision.find("main"), head, False) == {"sandbox": kind, "trusts_authors": False}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "is_begun", "is_asked"), [("y\n", False, True), ("", False, True), ("", True, False)]
)
def test_a_person_is_asked_before_the_first_push_of_the_ledger(
    answer: str, is_begun: bool, is_asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review.git, "shared_remote", lambda: "origin")
    monkeypatch.setattr(ledger, "is_begun", lambda _: is_begun)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", Terminal())
    if is_asked and not answer:
        with pytest.raises(UserError, match="nothing was pushed and nothing was judged; --unreserved"):
            review._ask_before_the_first_push()
    else:
        review._ask_before_the_first_push()
    assert ("refs/crashcast/looks, which is pushed to git remote `origin`" in sys.stderr.getvalue()) == is_asked
