"""The figures of the last run beside chance and the one-rule baselines, and the verdict in words.

The verdict compares the model with chance and simple rules. Whether a retrained model may replace another one is
decided by the review.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from crashcast import crash_groups
from crashcast.errors import UserError
from crashcast.incidents import read_covered_crashes
from crashcast.params.incidents import Incidents
from crashcast.params.telemetry import Telemetry
from crashcast.paths import CONFIRMED_PATH, COVERAGE_PATH, LABELS_PATH
from crashcast.text import all_of, counted
from crashcast.versioning import dvc_command
from crashcast.versioning.dvc_files import LOCK

STAGES = ("validate", "clean", "label", "split", "candidates", "train", "evaluate")
RANDOM = "random"  # the baseline without a rule: random alarms
NONE = "none"
PROMISED = (0.5, 1.5)  # times the alarm budget: what false alarms must lie between to keep to it
WHAT_MIGHT_HELP = "more months of data, a longer horizon (params.yaml: label.horizon), or other metrics might help"
# of months in which a good alarm is acted on, and so counts as neither true nor false
NOT_COMPARABLE = "figures of months in which people act on alarms cannot be compared with those of other months."


class Figures(dict[str, Any]):
    """A metrics file, or a part of one; a missing figure is an error of the user."""

    def __init__(self, items: Iterable[tuple[str, Any]], path: Path) -> None:
        super().__init__(items)
        self.path = path

    def __missing__(self, name: str) -> Any:
        """Name the missing figure."""
        raise UserError(f"{self.path} lacks {name}: `dvc repro` writes it again")


class Row(NamedTuple):
    """A line of the table."""

    figure: str
    test: str
    interval: str
    beside: str


@dataclass(frozen=True)
class Summary:
    """The figures, the verdict and its context, as shown to people.

    Attributes
    ----------
    about : list of str
        The data, the test part and the model, a sentence or two each.
    rows : list of Row
    confidence : float
        The level of the intervals.
    verdict : str
    holds : bool
        Whether the model is shown to be better than chance and every rule, with false alarms within the budget, by
        figures of one run.
    """

    about: list[str]
    rows: list[Row]
    confidence: float
    verdict: str
    holds: bool


def read(folder: Path) -> dict[str, Figures]:
    """Read the metrics of each stage.

    Raises
    ------
    UserError
        If a file is missing, or is not JSON with finite numbers.
    """
    return {stage: _read(folder / f"{stage}.json") for stage in STAGES}


def _read(path: Path) -> Figures:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text, object_pairs_hook=lambda items: Figures(items, path), parse_constant=refuse)
        if not isinstance(found, Figures):
            raise ValueError("expected named figures")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `dvc repro` writes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is unreadable ({error}): `dvc repro` writes it again") from None
    return found


def stale_stages() -> list[str]:
    """Return the stages whose inputs or outputs are not those of their last run; none if DVC does not know them."""
    changed = dvc_command.ask("status") if Path(LOCK).exists() else ()
    return sorted(name for name in changed if not name.endswith(".dvc"))


def summarise(metrics: dict[str, Figures], stale: Sequence[str] = ()) -> Summary:
    """Put every figure beside the one to compare it with, and conclude.

    Parameters
    ----------
    metrics : dict of str to Figures
        See `read`.
    stale : sequence of str
        Stages whose inputs changed since they ran: the figures are of several runs.
    """
    found = metrics["evaluate"]
    rules = {name: rule for name, rule in found["baselines"].items() if name != RANDOM}
    verdict, holds = conclude(found, rules)
    mixed = f"These figures may be of several runs: {all_of(stale)} must run again; `dvc repro` does it."
    about = [*([mixed] if stale else []), _data(metrics), _test(metrics), *_mitigated(found), _model(metrics)]
    return Summary(about, _rows(found, rules), found["confidence"], verdict, holds and not stale)


def conclude(found: Figures, rules: dict[str, Figures]) -> tuple[str, bool]:
    """Conclude from the intervals and the budget.

    Returns
    -------
    str
        The verdict.
    bool
        See `Summary.holds`.
    """
    beats_chance = found["lift_low"] > 1
    beaten = ["chance"] if beats_chance else []
    beaten += [name for name, rule in rules.items() if rule["pr_auc_gain_low"] > 0]
    unbeaten = [name for name in rules if name not in beaten]
    price = found["false_alarms_per_server_day"] / found["false_alarm_budget"]
    spent = f"{price:.4g}"  # 1.003 must not read as 1, over budget
    words = [
        "" if beats_chance else beside_chance(found),
        f"better than {all_of(beaten)}" if beaten else "",
        f"not shown to be better than {all_of(unbeaten)}" if unbeaten else "",
        "false alarms " + ("within budget" if price <= 1 else "over budget") + f" ({spent} times the budget)",
        "" if beats_chance else WHAT_MIGHT_HELP,
    ]
    return f"{'; '.join(filter(None, words))}.", beats_chance and not unbeaten and price <= 1


def beside_chance(found: Mapping[str, Any]) -> str:
    """Say in words how a model that is not shown to be better than chance compares with it."""
    lift, low, high = (found[name] for name in ("lift", "lift_low", "lift_high"))
    below = "below chance" if lift < 1 else "no better than chance, as far as is shown"
    return f"{below} (a lift of {_number(lift)}, {_number(low)} to {_number(high)}; chance 1)"


def _data(metrics: dict[str, Figures]) -> str:
    clean, label, warnings = metrics["clean"], metrics["label"], metrics["validate"]["warnings"]
    warned = counted(warnings, "warning") if warnings else "no warnings"
    return (
        f"Data: {clean['samples']:,} samples, validated with {warned}, became {clean['rows']:,} rows; gaps are filled. "
        f"{label['known']:,} rows have a known label; {label['base_rate']:.2%} of them precede a crash."
    )


def _test(metrics: dict[str, Figures]) -> str:
    found, part = metrics["evaluate"], metrics["split"]["test"]
    period = f", {part['from'][:10]} to {part['to'][:10]}"
    blind = found["crashes_without_observed_row"]
    return f"Test: {found['rows']:,} rows of {part['servers']:,} servers{period}; {found['crashes']:,} crashes" + (
        f", {blind:,} of them without an observed row before it." if blind else "."
    )


def _mitigated(found: Figures) -> list[str]:
    rows, alarms = found.get("rows_mitigated", 0), found.get("alarms_mitigated", 0)
    if not rows:
        return []
    which = f"{rows:,} other rows, {alarms:,} of {found['alarms']:,} alarms among them"
    return [f"Mitigated: somebody acted, and no crash came, after {which}; {NOT_COMPARABLE}"]


def _model(metrics: dict[str, Figures]) -> str:
    from crashcast.modeling.algorithms import DUMMY

    chosen, evidence, fitted = metrics["candidates"]["chosen"], metrics["candidates"]["candidates"], metrics["train"]
    best: dict[str, str] = {}  # candidate of each algorithm
    for name in sorted(evidence, key=lambda name: evidence[name]["pr_auc"], reverse=True):
        best.setdefault(_algorithm(name), name)
    reached = {name: _number(evidence[name]["pr_auc"]) for name in best.values()}
    rivals = [f"{reached[name]} ({name})" for name in reached if _algorithm(name) != _algorithm(chosen)]
    against = f" against {all_of(rivals)}" if rivals else ""
    threshold, folds = _number(fitted["threshold"]), counted(metrics["candidates"]["folds"], "period")
    if chosen == DUMMY and len(evidence) > 1:
        skill = metrics["candidates"]["skill"]
        return (
            f"Model: the dummy, which opens no alarm: none of the other {len(evidence) - 1} candidates is shown to be "
            f"better than chance on {folds}. The best, {skill['best']}, has a mean lift of {_number(skill['lift'])} "
            f"with a lower bound of {_number(skill['lift_low'])} ({skill['confidence']:.0%} confidence)."
        )
    return (
        f"Model: {chosen}, chosen from {len(evidence)} candidates by PR-AUC on {folds}; on validation it is "
        f"{_number(evidence[chosen]['pr_auc'])}{against}{_expected(metrics['candidates'])}. Its alarms open at a score "
        f"of {threshold}, with {_number(fitted['false_alarms_per_server_day'])} false alarms per server-day on "
        f"validation, {_promise(fitted, metrics['evaluate']['confidence'])}."
    )


def _expected(found: Figures) -> str:
    """Say which PR-AUC is to be expected on new data; nothing if only the dummy competed."""
    expected = found["expected"]
    if not expected:
        return ""
    return f"; {_number(expected['pr_auc'])} is to be expected on new data ({_interval(expected, 'pr_auc')})"


def _promise(fitted: Figures, confidence: float) -> str:
    """Say how surely the threshold keeps to the alarm budget, by the interval on validation."""
    low, high = (fitted[f"false_alarms_over_budget_{side}"] for side in ("low", "high"))
    interval = f"{_number(low)} to {_number(high)} times the budget ({confidence:.0%} interval)"
    return interval if PROMISED[0] <= low and high <= PROMISED[1] else f"{interval}: too few to promise that it holds"


def _algorithm(candidate: str) -> str:
    return candidate.partition(" ")[0]


def _rows(found: Figures, rules: dict[str, Figures]) -> list[Row]:
    gains = [
        Row(
            f"gain over {name}",
            f"{found['pr_auc'] - rule['pr_auc']:+.3g}",
            _interval(rule, "pr_auc_gain"),
            f"PR-AUC {_number(rule['pr_auc'])}, recall {_percent(rule['event_recall'])}",
        )
        for name, rule in rules.items()
    ]
    lead, budget = found["median_lead_h"], found["false_alarm_budget"]
    recall = f"event recall ({found['crashes_caught']:,} of {found['crashes']:,})"
    precision = f"alarm precision ({found['alarms_true']:,} of {found['alarms'] - found['alarms_unknown']:,})"
    by_lot = f"random alarms {_percent(found['baselines'][RANDOM]['event_recall'])}"
    missed = f"{found['crashes_missed']:,} crashes missed"
    mitigated = found.get("alarms_mitigated", 0)
    unknown = found["alarms_unknown"] - mitigated
    rest = f"{found['alarms_false']:,} false, {found['alarms_late']:,} late, {unknown:,} unknown"
    rest += f", {mitigated:,} mitigated" if mitigated else ""
    majority = f"majority class {found['accuracy_of_majority']:.2%}"
    return [
        Row("PR-AUC", _number(found["pr_auc"]), _interval(found, "pr_auc"), f"chance {_number(found['base_rate'])}"),
        Row("lift over chance", _number(found["lift"]), _interval(found, "lift"), "chance 1"),
        *gains,
        Row(recall, _percent(found["event_recall"]), _interval(found, "event_recall", _percent), by_lot),
        Row("median lead", NONE if lead is None else f"{lead:.1f} h", "", missed),
        Row(
            "false alarms per server-day",
            _number(found["false_alarms_per_server_day"]),
            "",
            f"budget {_number(budget)}",
        ),
        Row(precision, _percent(found["alarm_precision"]), "", rest),
        Row("pages a day, whole fleet", _number(found["pages_per_day"]), "", f"{found['alarms']:,} alarms in all"),
        Row("accuracy", f"{found['accuracy']:.2%}", "", majority),
        Row("mean score / base rate", _number(found["mean_score_over_base_rate"]), "", "calibrated 1"),
    ]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.0%}"


def _interval(found: Figures, name: str, write: Callable[[float], str] = _number) -> str:
    return f"{write(found[f'{name}_low'])} to {write(found[f'{name}_high'])}"


def too_few_crashes() -> crash_groups.Outlook | None:
    """Return the groups of crashes that a review would judge, if they are too few; None if they are not known."""
    from stages.label import outlook_of_labels  # here, for the figures alone are read without it

    try:
        crashes = read_covered_crashes(CONFIRMED_PATH, COVERAGE_PATH, Incidents.read())
        found = outlook_of_labels(LABELS_PATH, crashes, Telemetry.read().interval)
    except UserError:  # the data is not here: `metrics/` alone is in git
        return None
    return None if found is None or found.is_enough else found


def show(summary: Summary, console: Console) -> None:
    """Print a summary for people."""
    for sentence in summary.about:
        console.print(sentence, highlight=False, markup=False)
    console.print()
    table = Table(*_header(summary), box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for row in summary.rows:
        table.add_row(*row)
    console.print(table)
    console.print()
    colour = "green" if summary.holds else "yellow"
    console.print(f"Verdict: {summary.verdict}", style=f"bold {colour}", highlight=False, markup=False)


def as_markdown(summary: Summary) -> str:
    """Write a summary as Markdown, for READMEs and pull requests."""
    lines = [_header(summary), ("---",) * len(Row._fields), *summary.rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([*summary.about, table, f"**Verdict: {summary.verdict}**"])


def _header(summary: Summary) -> tuple[str, ...]:
    return ("figure", "test", f"{summary.confidence:.0%} interval", "compare with")
